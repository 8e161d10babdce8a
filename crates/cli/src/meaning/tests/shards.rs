//! The snapshot with which a shard begins: it says what the records before it say, and stands for them when they are given up.

use std::{path::Path, sync::Arc, time::Duration};

use mintage_identity::UnixTime;
use mintage_ledger::{
    Body, Checkpoint, FileJournal, Frontier, Journal, LogKey, LogKeys, Record, RecordCheck, Roll, ShardBegin,
    wire::{self, BundleChange, CaEvent, CaEventKind, CaRole, revocation_rule::Target},
};
use mintage_state::State;
use ring::digest::{Context, SHA256, digest};
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::{
    super::{Meaning, Rules},
    kit::{Story, WEB, at, domain, replica, web_entry},
};
use crate::audit::verify::{Refused, VerifyArgs, verify};

/// An object of a snapshot: name and value.
type Object = (Vec<u8>, Vec<u8>);

fn log_key(seed: u8) -> LogKey {
    LogKey::generate(&Zeroizing::new([seed; 32])).unwrap().0
}

/// The state of all records of a story.
fn state_of(story: &Story) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (last, before) = story.records.split_last().unwrap();
    let journal = Arc::new(story.journal(&dir.path().join("ledger"), before));
    let following = Arc::clone(&journal) as Arc<dyn Journal>;
    let state = State::open(&dir.path().join("state"), &domain(), following).unwrap();
    journal.append(&[last.clone().encode().unwrap()], u64::MAX).unwrap();
    state.snapshot(story.records.len() as u64, last.time).unwrap()
}

/// A snapshot with other objects, and the digest of those.
fn changed(snapshot: &[u8], change: impl FnOnce(&mut Vec<Object>)) -> Vec<u8> {
    const HEAD: usize = 16;
    fn take<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
        let (len, tail) = rest.split_at(4);
        let (text, tail) = tail.split_at(u32::from_le_bytes(len.try_into().unwrap()) as usize);
        *rest = tail;
        text
    }
    let number = |octets: &[u8]| u64::from_le_bytes(octets.try_into().unwrap());
    let mut rest = &snapshot[HEAD + 16..snapshot.len() - 32];
    let name = take(&mut rest).to_vec();
    let (count, mut rest) = rest.split_at(8);
    let mut objects: Vec<Object> = (0..number(count))
        .map(|_| (take(&mut rest).to_vec(), take(&mut rest).to_vec()))
        .collect();
    change(&mut objects);
    objects.sort();

    let mut sum = [0_u64; 4];
    let mut out = snapshot[..HEAD + 16 + 4 + name.len()].to_vec();
    out.extend_from_slice(&(objects.len() as u64).to_le_bytes());
    for (name, value) in &objects {
        for octets in [name, value] {
            out.extend_from_slice(&(octets.len() as u32).to_le_bytes());
            out.extend_from_slice(octets);
        }
        let whole = [&(name.len() as u64).to_be_bytes()[..], name, value].concat();
        let hash = digest(&SHA256, &whole);
        for (lane, octets) in sum.iter_mut().zip(hash.as_ref().chunks_exact(8)) {
            *lane = lane.wrapping_add(u64::from_be_bytes(octets.try_into().unwrap()));
        }
    }
    let mut context = Context::new(&SHA256);
    context.update(b"mintage-state-v1\0");
    context.update(&(name.len() as u64).to_be_bytes());
    context.update(&name);
    for at in [HEAD, HEAD + 8] {
        context.update(&number(&snapshot[at..at + 8]).to_be_bytes());
    }
    sum.iter().for_each(|lane| context.update(&lane.to_be_bytes()));
    out.extend_from_slice(context.finish().as_ref());
    out
}

/// The value of an object of a snapshot.
fn value(snapshot: &[u8], wanted: &[u8]) -> Vec<u8> {
    let mut found = None;
    changed(snapshot, |objects| {
        let held = objects.iter().find(|(name, _)| name == wanted);
        found = held.map(|(_, value)| value.clone());
    });
    found.unwrap()
}

/// A snapshot with another value of an object, or one more.
fn with(snapshot: &[u8], name: &[u8], value: Vec<u8>) -> Vec<u8> {
    changed(snapshot, |objects| {
        objects.retain(|(held, _)| held != name);
        objects.push((name.to_vec(), value));
    })
}

/// The name of what the record at `index` did to the revoked set.
fn fold(index: u64) -> Vec<u8> {
    [&b"f"[..], &index.to_be_bytes()].concat()
}

/// A snapshot without one object.
fn without(snapshot: &[u8], gone: &[u8]) -> Vec<u8> {
    changed(snapshot, |objects| {
        let before = objects.len();
        objects.retain(|(name, _)| name != gone);
        assert_eq!(objects.len() + 1, before, "it held what is taken out");
    })
}

/// A ledger of two shards.
struct Shards {
    dir: TempDir,
    journal: FileJournal,
    /// Its first record of the second.
    begins: u64,
}

impl Shards {
    /// Closes the shard of a story and begins the next with `forge` of the true snapshot; behind it come the records of `after`.
    /// Everything is hashed and signed anew.
    fn new(mut story: Story, forge: impl FnOnce(&[u8]) -> Vec<u8>, after: impl FnOnce(&mut Story)) -> Self {
        let key = log_key(9);
        story.push(replica(), key_event(&key));
        let time = story.records.iter().map(|record| record.time).max().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let ledger = dir.path().join("ledger");
        let journal = story.journal(&ledger, &story.records);
        let reason = "a new month".into();
        story.push(replica(), Body::LogClose(wire::LogClose { reason }));
        story.records.last_mut().unwrap().time = time;
        let snapshot = forge(&state_of(&story));
        let closing = story.records.last().unwrap().clone().encode().unwrap();

        let begins = story.second() as u64;
        let next = story.origin.of_month(at(40 * 24 * 3600)).unwrap();
        let keys = LogKeys::new(&story.origin, log_key(3));
        let roll = Roll {
            next: &next,
            key,
            closing,
            snapshot: &mut |_| Ok(snapshot.clone()),
            opening: &mut |open| {
                story.push(replica(), Body::LogOpen(open));
                let last: &mut Record = story.records.last_mut().unwrap();
                last.time = time;
                last.clone().encode()
            },
        };
        journal.roll(&keys, roll).unwrap();
        after(&mut story);
        let mut tree = Frontier::new();
        for (at, record) in story.records.iter().enumerate().skip(begins as usize) {
            let record = record.clone().encode().unwrap();
            tree.push(record.leaf_hash());
            if at as u64 > begins {
                journal.append(&[record], u64::MAX).unwrap();
            }
        }
        let head = Checkpoint {
            origin: next,
            size: tree.size(),
            root: tree.root(),
        };
        journal.cas_checkpoint(1, &log_key(9).sign(head)).unwrap();
        Self { dir, journal, begins }
    }

    /// What a verification of the whole says.
    fn verify(self) -> Result<(), Box<Refused>> {
        let Self { dir, journal, .. } = self;
        drop(journal);
        verify(dir.path(), &VerifyArgs::default()).map(drop)
    }

    /// What is wrong with the second shard for one who has no more.
    fn later(&self) -> Option<(u64, String)> {
        let mut meaning = Meaning::new(Rules::default());
        let log = self.journal.log();
        let snapshot = self.journal.snapshot_of(&log).unwrap();
        let begin = ShardBegin {
            log: &log,
            snapshot: snapshot.as_deref(),
        };
        meaning.begin(&begin).unwrap();
        let rest = self.journal.read_from(self.begins, usize::MAX).unwrap();
        let _ = rest.iter().try_for_each(|stored| meaning.record(log.vkey(), stored));
        meaning.offence().map(|(index, problem)| (index, problem.to_owned()))
    }
}

fn key_event(key: &LogKey) -> Body {
    let public = key.public_key().to_vec();
    Body::CaEvent(CaEvent {
        event: CaEventKind::Prepare.into(),
        role: CaRole::Log.into(),
        key_id: digest(&SHA256, &public).as_ref().to_vec(),
        public_key: public,
        ..CaEvent::default()
    })
}

/// Expects the snapshot to be named, with these words.
#[track_caller]
fn offends(story: Story, forge: impl FnOnce(&[u8]) -> Vec<u8>, words: &str) {
    let shards = Shards::new(story, forge, |_| {});
    let begins = shards.begins;
    let refused = shards.verify().expect_err(words);
    let told = refused.failure.to_string();
    assert!(told.contains(words), "{told}");
    assert_eq!(refused.index, Some(begins), "{told}");
}

#[track_caller]
fn is_proven(story: Story, forge: impl FnOnce(&[u8]) -> Vec<u8>, after: impl FnOnce(&mut Story)) {
    let verified = Shards::new(story, forge, after).verify();
    verified.map_err(|refused| refused.failure.to_string()).unwrap();
}

fn put(story: &mut Story, disabled: bool, replaces_revision: u64) -> u64 {
    story.admin(Body::EntryPut(wire::EntryPut {
        disabled,
        replaces_revision,
        ..web_entry()
    }));
    story.last()
}

/// Rules of every kind, an entry that was off, a new bundle, and an issuing key that was revoked.
fn eventful() -> Story {
    let mut story = Story::honest();
    let first = story.find("entry.put") as u64;
    let off = put(&mut story, true, first);
    story.revoke_rule(Target::Identity(WEB.into()), None);
    put(&mut story, false, off);
    story.revoke_rule(Target::Identity(WEB.into()), Some(at(5)));
    story.revoke_rule(Target::Prefix("spiffe://dev.test/a/*".into()), Some(at(5)));
    story.revoke_rule(Target::Prefix("spiffe://dev.test/b/*".into()), None);
    story.revoke_rule(Target::SpkiSha256(vec![7; 32]), None);
    let issuer = story.authority.key_id.as_bytes().to_vec();
    story.revoke_rule(Target::IssuerKeyId(issuer), None);
    let event = story.authority.event(CaEventKind::Revoke);
    story.push(replica(), event);
    let roots_der = vec![story.authority.root.certificate_der().to_vec()];
    for sequence in [3, 2] {
        story.push(
            replica(),
            Body::BundleChange(BundleChange {
                sequence,
                roots_der: roots_der.clone(),
                jwt_keys: Vec::new(),
            }),
        );
    }
    story
}

#[test]
fn a_shard_that_begins_with_what_the_records_say_is_proven() {
    is_proven(eventful(), <[u8]>::to_vec, |story| {
        story.revoke_rule(Target::SpkiSha256(vec![8; 32]), None);
    });
    assert_eq!(Shards::new(eventful(), <[u8]>::to_vec, |_| {}).later(), None);
}

#[test]
fn a_snapshot_without_a_revoked_serial_is_named() {
    let revoke = Story::honest().find("revoke") as u64;
    let words = format!("lacks what record {revoke} revokes");
    offends(Story::honest(), |true_one| without(true_one, &fold(revoke)), &words);
}

#[test]
fn a_snapshot_that_revokes_another_serial_or_more_is_named() {
    let revoke = Story::honest().find("revoke");
    let words = format!("another revocation by record {revoke}");
    let changes: [fn(&mut wire::Revoke); 3] = [
        |body| body.serials[0].serial[1] ^= 1,
        |body| body.serials[0].not_after_s -= 1,
        |body| body.reason = 1,
    ];
    for change in changes {
        let mut story = Story::honest();
        let true_body = story.records[revoke].body.clone();
        let Body::Revoke(body) = &mut story.records[revoke].body else {
            panic!("no revoke at {revoke}")
        };
        change(body);
        let forged = value(&state_of(&story), &fold(revoke as u64));
        story.records[revoke].body = true_body;
        offends(story, |true_one| with(true_one, &fold(revoke as u64), forged), &words);
    }
    let earlier = revoke as u64 - 1;
    let more = |true_one: &[u8]| with(true_one, &fold(earlier), value(true_one, &fold(revoke as u64)));
    offends(
        Story::honest(),
        more,
        &format!("another revocation by record {earlier}"),
    );
}

#[test]
fn a_snapshot_without_a_rule_or_a_blocked_key_is_named() {
    for target in [
        Target::Identity(WEB.into()),
        Target::Prefix("spiffe://dev.test/a/*".into()),
        Target::SpkiSha256(vec![7; 32]),
    ] {
        let mut story = Story::honest();
        story.revoke_rule(target, None);
        let rule = story.last();
        let words = format!("lacks what record {rule} revokes");
        offends(story, |true_one| without(true_one, &fold(rule)), &words);
    }
}

#[test]
fn a_snapshot_that_lifts_a_rule_which_no_record_lifts_is_named_and_so_is_the_contrary() {
    let mut story = Story::honest();
    let first = story.find("entry.put") as u64;
    let off = put(&mut story, true, first);
    story.revoke_rule(Target::Identity(WEB.into()), None);
    let on = put(&mut story, false, off);
    let not_lifted = |true_one: &[u8]| without(true_one, &fold(on));
    let words = format!("another rule than the records: identity {WEB}");
    offends(story, not_lifted, &words);

    let mut story = Story::honest();
    let first = story.find("entry.put") as u64;
    let off = put(&mut story, true, first);
    story.revoke_rule(Target::Identity(WEB.into()), None);
    let on = put(&mut story, false, off);
    put(&mut story, true, on);
    story.revoke_rule(Target::Identity(WEB.into()), None);
    let later = story.last() + 1;
    let lifted_again = |true_one: &[u8]| with(true_one, &fold(later), value(true_one, &fold(on)));
    offends(story, lifted_again, &words);
}

#[test]
fn a_snapshot_that_lets_an_agent_speak_by_another_certificate_is_named() {
    let renewed = || {
        let mut story = Story::honest();
        let instance = story.find("token.consume") as u64;
        story.agent_certificate(9, instance);
        story
    };
    is_proven(renewed(), <[u8]>::to_vec, |_| {});
    let agent = b"an1";
    let superseded = value(&state_of(&Story::honest()), agent);
    let words = "lets agent n1 speak by other certificates";
    offends(renewed(), |true_one| with(true_one, agent, superseded), words);
}

#[test]
fn a_snapshot_with_another_bundle_is_named() {
    offends(eventful(), |true_one| without(true_one, b"b"), "another trust bundle");
}

#[test]
fn a_snapshot_that_lacks_a_key_or_has_another_stage_of_it_is_named() {
    let id = Story::honest().authority.key_id;
    let jwt = CaEvent {
        event: CaEventKind::Activate.into(),
        role: CaRole::Jwt.into(),
        key_id: digest(&SHA256, &[1; 32]).as_ref().to_vec(),
        public_key: vec![1; 32],
        ..CaEvent::default()
    };
    let name = |role: CaRole, id: &[u8]| [&b"c"[..], &(role as i32).to_be_bytes(), id].concat();
    let story = || {
        let mut story = Story::honest();
        story.push(replica(), Body::CaEvent(jwt.clone()));
        story
    };
    let gone = name(CaRole::Jwt, &jwt.key_id);
    offends(story(), |true_one| without(true_one, &gone), "lacks the key");
    let story = story();
    assert_ne!(id, story.authority.key_id, "each story has keys of its own");
    let gone = name(CaRole::Intermediate, story.authority.key_id.as_bytes());
    offends(story, |true_one| without(true_one, &gone), "lacks the key");

    let (mut retired, mut active) = (Story::honest(), Story::honest());
    for story in [&mut retired, &mut active] {
        story.push(replica(), Body::CaEvent(jwt.clone()));
    }
    let gone = name(CaRole::Jwt, &jwt.key_id);
    let other = value(&state_of(&active), &gone);
    retired.push(
        replica(),
        Body::CaEvent(CaEvent {
            event: CaEventKind::Retire.into(),
            ..jwt.clone()
        }),
    );
    offends(retired, |true_one| with(true_one, &gone, other), "another key");
}

#[test]
fn a_snapshot_that_forgets_revocations_of_an_issuing_key_early_is_named() {
    let story = Story::honest();
    let first_event = |record: &Record| match &record.body {
        Body::CaEvent(event) => event.role() == CaRole::Intermediate,
        _ => false,
    };
    let covers = story.records.iter().position(first_event).unwrap() as u64;
    let forge = |true_one: &[u8]| without(true_one, &fold(covers));
    offends(story, forge, "does not cover the issuing key");
}

/// A story of which the last record is made so long after the end of the certificate that it revokes.
fn aged(seconds: u64) -> (Story, u64) {
    let mut story = Story::honest();
    let revoke = story.find("revoke") as u64;
    let Body::Revoke(body) = &story.records[revoke as usize].body else {
        panic!("no revoke at {revoke}")
    };
    let end = UnixTime::from_seconds(body.serials[0].not_after_s);
    let reason = "much later".into();
    story.push(replica(), Body::LogClose(wire::LogClose { reason }));
    story.records.last_mut().unwrap().time = end.plus(Duration::from_secs(seconds));
    (story, revoke)
}

#[test]
fn a_snapshot_may_lack_what_ended_ten_minutes_before_and_nothing_younger() {
    let (story, revoke) = aged(601);
    let left_out = |true_one: &[u8]| {
        changed(true_one, |objects| {
            assert!(
                !objects.iter().any(|(name, _)| *name == fold(revoke)),
                "the state leaves it out"
            );
        })
    };
    is_proven(story, left_out, |_| {});
    let (story, revoke) = aged(600);
    let words = format!("lacks what record {revoke} revokes");
    offends(story, |true_one| without(true_one, &fold(revoke)), &words);
}

#[test]
fn serials_of_records_that_were_given_up_are_not_issued_again() {
    let revoke = Story::honest().find("revoke");
    let issues = Story::honest().find("issue");
    for (fill, words) in [
        (1, "that of a CA certificate".to_owned()),
        (2, "that of a CA certificate".to_owned()),
        (3, format!("issued before, by record {issues}")),
        (4, format!("issued before: record {revoke} revokes it")),
    ] {
        let shards = Shards::new(Story::honest(), <[u8]>::to_vec, |story| {
            let life = story.find("token.consume") as u64;
            story.web(fill, life);
        });
        let (index, told) = shards.later().expect(&words);
        assert!(told.contains(&words), "{told}");
        assert_eq!(index, shards.begins + 1);
    }
    let shards = Shards::new(Story::honest(), <[u8]>::to_vec, |story| {
        let life = story.find("token.consume") as u64;
        story.web(7, life);
    });
    assert_eq!(shards.later(), None);
}

#[test]
fn the_forged_ledgers_are_whole_but_for_what_they_mean() {
    let revoke = Story::honest().find("revoke") as u64;
    let shards = Shards::new(Story::honest(), |true_one| without(true_one, &fold(revoke)), |_| {});
    let ledger: &Path = &shards.dir.path().join("ledger");
    drop(shards.journal);
    assert!(mintage_ledger::verify(ledger, None, &mut ()).is_ok());
}
