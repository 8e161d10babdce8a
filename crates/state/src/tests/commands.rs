//! What each command drafts, and what it refuses.

use std::time::Duration;

use mintage_identity::{
    AgentInstance, AgentName, EntryName, IdPrefix, IssuerKeyId, RevocationReason, SpiffeId, SpkiHash, Ttl, UnixTime,
};
use mintage_ledger::{Body, LiveCertificate, wire};
use mintage_policy::{Entry, EntryView, Floor, RawEntry};
use mintage_revocation::{RevokedSerial, RuleTarget};

use super::samples::{NOW, agent_issue, domain, record, serial, token};
use crate::command::*;
use crate::{Ignored, TokenId, View};

fn entry(name: &str, id: &str, uid: u32, ttl_seconds: i64) -> Entry {
    let raw = RawEntry {
        name: name.into(),
        spiffe_id: format!("spiffe://dev.test/{id}"),
        agents: vec!["spiffe://dev.test/mintage/agent/*".into()],
        selectors: vec![format!("unix:uid:{uid}")],
        ttl_seconds,
        ..RawEntry::default()
    };
    raw.validate(&domain()).unwrap()
}

/// A view and its next record's time; commands are appended as the CA would.
struct Ca {
    view: View,
    seconds: i64,
}

impl Ca {
    fn new() -> Self {
        let mut ca = Self {
            view: View::new(&domain()),
            seconds: 0,
        };
        ca.append(Body::LogOpen(wire::LogOpen::default()));
        ca
    }

    fn append(&mut self, body: Body) -> Option<Ignored> {
        self.seconds += 1;
        let index = self.view.applied();
        // Through its bytes, so that what a command drafts is also what the ledger takes.
        record(self.seconds, body.clone()).encode().unwrap();
        self.view.apply(index, &record(self.seconds, body)).unwrap();
        self.view.ignored(index)
    }

    fn put(&mut self, entry: &Entry) -> u64 {
        match put_entry(&self.view, entry, Expected::Any, max_ttl()).unwrap() {
            PutOutcome::Unchanged(revision) => revision,
            PutOutcome::Write(body) => {
                assert_eq!(self.append(*body), None);
                self.view.applied() - 1
            }
        }
    }

    fn join(&mut self, agent: &str, hash: u8, key: u8) {
        self.append(token(hash, agent, 600));
        let used = token_use(hash, key);
        let body = consume_token(&self.view, &used).unwrap();
        assert_eq!(self.append(body), None);
    }
}

fn max_ttl() -> Ttl {
    Ttl::from_seconds(3_600).unwrap()
}

fn token_use(hash: u8, key: u8) -> TokenUse<'static> {
    let spki = SpkiHash::new([key; 32]);
    TokenUse {
        token: TokenId::new([hash; 32]),
        spki,
        kind: "join_token",
        evidence: [6; 32],
    }
}

fn name(text: &str) -> EntryName {
    EntryName::parse(text).unwrap()
}

fn agent(text: &str) -> AgentName {
    AgentName::parse(text).unwrap()
}

#[test]
fn a_put_is_recorded_once_and_unchanged_afterwards() {
    let mut ca = Ca::new();
    let web = entry("web", "web", 1, 300);
    let revision = ca.put(&web);
    assert_eq!(
        put_entry(&ca.view, &web, Expected::Any, max_ttl()),
        Ok(PutOutcome::Unchanged(revision))
    );
    assert_eq!(
        put_entry(&ca.view, &web, Expected::Revision(revision), max_ttl()),
        Ok(PutOutcome::Unchanged(revision))
    );
    assert!(ca.put(&entry("web", "web", 2, 300)) > revision);
    let standing = View::entry(&ca.view, &name("web")).unwrap();
    assert_eq!(
        *standing.entry,
        entry("web", "web", 2, 300),
        "what was put is what stands"
    );
}

#[test]
fn a_put_or_delete_at_another_revision_than_expected_is_refused() {
    let mut ca = Ca::new();
    let web = entry("web", "web", 1, 300);
    let refused = |ca: &Ca, expected| put_entry(&ca.view, &web, expected, max_ttl()).unwrap_err();
    let moved = |expected, found| Refusal::EntryMoved {
        name: name("web"),
        expected,
        found,
    };
    assert_eq!(refused(&ca, Expected::Revision(5)), moved(5, 0));
    let revision = ca.put(&web);
    assert_eq!(refused(&ca, Expected::Absent), moved(0, revision));
    assert_eq!(
        refused(&ca, Expected::Revision(revision + 1)),
        moved(revision + 1, revision)
    );
    assert_eq!(
        delete_entry(&ca.view, &name("web"), Some(9)).unwrap_err(),
        moved(9, revision)
    );
    assert_eq!(
        delete_entry(&ca.view, &name("db"), None).unwrap_err(),
        Refusal::NoEntry(name("db"))
    );
    let body = delete_entry(&ca.view, &name("web"), Some(revision)).unwrap();
    assert_eq!(ca.append(body.clone()), None);
    assert_eq!(
        ca.append(body),
        Some(Ignored::EntryMoved),
        "a second one changes nothing"
    );
}

#[test]
fn duplicate_entries_and_lifetimes_over_the_servers_are_refused() {
    let mut ca = Ca::new();
    ca.put(&entry("web", "web", 1, 300));
    let refused = |ca: &Ca, entry: &Entry| put_entry(&ca.view, entry, Expected::Any, max_ttl()).unwrap_err();
    let twin = entry("web2", "web", 1, 600);
    assert_eq!(
        refused(&ca, &twin),
        Refusal::Duplicate {
            name: name("web2"),
            other: name("web")
        }
    );
    let long = Refusal::TtlTooLong {
        name: name("db"),
        asked: 3_601,
        limit: 3_600,
    };
    assert_eq!(refused(&ca, &entry("db", "db", 1, 3_601)), long);
    ca.put(&entry("web2", "web", 2, 600));
}

#[test]
fn a_rename_and_an_exchange_are_no_duplicates() {
    let mut ca = Ca::new();
    let (one, two) = (entry("one", "x", 1, 300), entry("two", "x", 2, 300));
    ca.put(&one);
    ca.put(&two);
    let (one_now, two_now) = (entry("one", "x", 2, 300), entry("two", "x", 1, 300));
    let refused = put_entry(&ca.view, &one_now, Expected::Any, max_ttl());
    assert_eq!(
        refused,
        Err(Refusal::Duplicate {
            name: name("one"),
            other: name("two")
        })
    );
    let exchange = [(one_now, Expected::Any), (two_now, Expected::Any)];
    let drafts = change_entries(&ca.view, &[], &exchange, max_ttl()).unwrap();
    assert_eq!(drafts.bodies.len(), 2);
    drafts
        .bodies
        .into_iter()
        .for_each(|body| assert_eq!(ca.append(body), None));

    let renamed = [(entry("uno", "x", 2, 300), Expected::Absent)];
    let drafts = change_entries(&ca.view, &[(name("one"), None)], &renamed, max_ttl()).unwrap();
    assert!(
        matches!(drafts.bodies[0], Body::EntryDelete(_)),
        "first what goes, then what comes"
    );
    drafts
        .bodies
        .into_iter()
        .for_each(|body| assert_eq!(ca.append(body), None));
    assert_eq!(
        ca.view.entries().map(|s| s.entry.name().as_str()).collect::<Vec<_>>(),
        ["two", "uno"]
    );

    let twice = [
        (entry("uno", "x", 2, 300), Expected::Any),
        (entry("uno", "x", 2, 301), Expected::Any),
    ];
    assert_eq!(
        change_entries(&ca.view, &[], &twice, max_ttl()),
        Err(Refusal::NamedTwice(name("uno")))
    );
    let both = change_entries(&ca.view, &[(name("uno"), None)], &twice[..1], max_ttl());
    assert_eq!(both, Err(Refusal::NamedTwice(name("uno"))));
}

#[test]
fn one_command_is_limited_by_what_it_changes_not_by_what_it_names() {
    let mut ca = Ca::new();
    let all = |ttl: fn(u32) -> i64| -> Vec<_> {
        let named = |n: u32| entry(&format!("e{n}"), &format!("y/{n}"), n, ttl(n));
        (0..600).map(|n| (named(n), Expected::Any)).collect()
    };
    let standing = all(|_| 300);
    for (entry, _) in &standing {
        ca.put(entry);
    }

    let one = all(|n| if n == 599 { 301 } else { 300 });
    let drafts = change_entries(&ca.view, &[], &one, max_ttl()).unwrap();
    assert_eq!((drafts.bodies.len(), drafts.unchanged.len()), (1, 599));

    let many = all(|_| 301);
    assert!(change_entries(&ca.view, &[], &many[..512], max_ttl()).is_ok());
    let refused = change_entries(&ca.view, &[], &many[..513], max_ttl()).unwrap_err();
    assert_eq!(refused.kind(), RefusalKind::Exhausted);
    let told = refused.to_string();
    assert!(
        told.contains("513") && told.contains("stay as they are do not count"),
        "{told}"
    );
    assert_eq!(plan_entries(&ca.view, &[], &many, max_ttl()).unwrap().bodies.len(), 600);

    let names: Vec<_> = standing.iter().map(|(entry, _)| entry.name().clone()).collect();
    assert_eq!(
        disable_entries(&ca.view, &names).unwrap_err().kind(),
        RefusalKind::Exhausted
    );
    for body in disable_entries(&ca.view, &names[..500]).unwrap() {
        ca.append(body);
    }
    assert_eq!(disable_entries(&ca.view, &names).unwrap().len(), 100);
}

#[test]
fn tokens_are_made_within_limits_used_once_and_found_by_their_beginning() {
    let mut ca = Ca::new();
    let make = |view: &View, hash: u8, seconds| {
        let id = TokenId::new([hash; 32]);
        create_token(view, id, &agent("n1"), Duration::from_secs(seconds), None, NOW)
    };
    for bad in [0, 9, 86_401, u64::MAX] {
        assert!(
            matches!(make(&ca.view, 1, bad), Err(Refusal::TokenLife { .. })),
            "{bad}"
        );
    }
    let body = make(&ca.view, 0xab, 600).unwrap();
    ca.append(body);
    assert_eq!(make(&ca.view, 0xab, 600), Err(Refusal::TokenExists));
    let later = create_token(
        &ca.view,
        TokenId::new([0xac; 32]),
        &agent("n2"),
        Duration::from_secs(60),
        Some(NOW.plus(Duration::from_secs(30))),
        NOW,
    );
    ca.append(later.unwrap());
    let standing = ca.view.token(&TokenId::new([0xac; 32])).unwrap();
    assert_eq!(
        (standing.not_before.seconds(), standing.expires.seconds()),
        (NOW.seconds() + 30, NOW.seconds() + 90)
    );

    assert_eq!(token_by_prefix(&ca.view, "ABababab"), Ok(TokenId::new([0xab; 32])));
    for bad in ["abababa", "", "zzzzzzzz", "abababac", "ébababab"] {
        assert_eq!(token_by_prefix(&ca.view, bad), Err(Refusal::NoToken), "{bad}");
    }
    let mut near = [0xab; 32];
    near[31] = 0;
    let close = create_token(
        &ca.view,
        TokenId::new(near),
        &agent("n3"),
        Duration::from_secs(60),
        None,
        NOW,
    );
    ca.append(close.unwrap());
    assert!(matches!(
        token_by_prefix(&ca.view, "abababab"),
        Err(Refusal::AmbiguousToken(_))
    ));

    let first = consume_token(&ca.view, &token_use(0xab, 1)).unwrap();
    let second = consume_token(&ca.view, &token_use(0xab, 2)).unwrap();
    assert_eq!(ca.append(first), None);
    assert_eq!(
        ca.append(second),
        Some(Ignored::TokenUsed),
        "drafted on the same view; the first in the log wins"
    );
    assert_eq!(consume_token(&ca.view, &token_use(0xab, 1)), Err(Refusal::TokenUsed));
    assert_eq!(consume_token(&ca.view, &token_use(0xee, 1)), Err(Refusal::NoToken));
    let gone = delete_token(&ca.view, &TokenId::new([0xab; 32])).unwrap();
    assert_eq!(ca.append(gone), None);
    assert_eq!(delete_token(&ca.view, &TokenId::new([0xab; 32])), Err(Refusal::NoToken));
}

#[test]
fn agents_are_banned_evicted_and_attested_again_as_the_instance_that_is_meant() {
    let mut ca = Ca::new();
    ca.join("n1", 1, 1);
    let instance = View::agent(&ca.view, &agent("n1")).unwrap().instance;
    let other = AgentInstance(instance.0 + 1);
    let moved = Refusal::AgentMoved {
        name: agent("n1"),
        expected: other,
        found: instance,
    };
    assert_eq!(ban_agent(&ca.view, &agent("n1"), Some(other), ""), Err(moved.clone()));
    assert_eq!(evict_agent(&ca.view, &agent("n1"), Some(other), ""), Err(moved.clone()));
    let again = |view: &View, instance| {
        attest_again(
            view,
            &agent("n1"),
            instance,
            &SpkiHash::new([9; 32]),
            "rejoin",
            &[0; 32],
        )
    };
    assert_eq!(again(&ca.view, other), Err(moved));
    assert_eq!(
        ban_agent(&ca.view, &agent("n9"), None, ""),
        Err(Refusal::NoAgent(agent("n9")))
    );
    for bad in ["a\nb", "\u{1b}[31m", &"a".repeat(257)] {
        assert!(
            matches!(ban_agent(&ca.view, &agent("n1"), None, bad), Err(Refusal::Note { .. })),
            "{bad:?}"
        );
    }
    let back = again(&ca.view, instance).unwrap();
    assert_eq!(ca.append(back), None);
    let evicted = evict_agent(&ca.view, &agent("n1"), Some(instance), "moved")
        .unwrap()
        .unwrap();
    assert_eq!(ca.append(evicted), None);
    assert_eq!(again(&ca.view, instance), Err(Refusal::AgentEnded(agent("n1"))));
    assert_eq!(evict_agent(&ca.view, &agent("n1"), None, ""), Ok(None));
    let banned = ban_agent(&ca.view, &agent("n1"), None, "lost").unwrap().unwrap();
    assert_eq!(ca.append(banned), None);
    assert_eq!(ban_agent(&ca.view, &agent("n1"), None, ""), Ok(None));
    assert_eq!(evict_agent(&ca.view, &agent("n1"), None, ""), Ok(None));
}

fn live(n: u8, id: &str, not_before: i64) -> LiveCertificate {
    LiveCertificate {
        index: u64::from(n),
        issuer: mintage_identity::IssuerKeyId::new([0xca; 32]),
        serial: serial(n),
        not_before: UnixTime::from_seconds(not_before),
        not_after: UnixTime::from_seconds(NOW.seconds() + 600),
        spiffe_id: id.into(),
        agent: None,
        instance: AgentInstance(0),
        entry: None,
    }
}

#[test]
fn a_cut_kills_what_lives_and_lets_a_replacement_begin_in_the_past() {
    let at = |seconds: i64| UnixTime::from_seconds(NOW.seconds() + seconds);
    assert_eq!(cut_at(NOW, []), at(-28));
    assert_eq!(cut_at(NOW, [at(-500), at(-30)]), at(-28));
    assert_eq!(
        cut_at(NOW, [at(-500), at(2)]),
        at(2),
        "one that was lifted over an earlier cut"
    );
}

#[test]
fn the_search_of_the_ledger_reads_what_a_scope_is_recorded_as() {
    use mintage_ledger::RevocationScope as Found;

    let web = "spiffe://dev.test/web";
    let below = "spiffe://dev.test/a/*";
    for (scope, found) in [
        (Scope::Identity(SpiffeId::parse(web).unwrap()), Found::Identity(web)),
        (Scope::Prefix(IdPrefix::parse(below).unwrap()), Found::Identity(below)),
        (Scope::Agent(agent("n1")), Found::Agent("n1")),
        (Scope::Entry(name("web")), Found::Entry("web")),
        (Scope::Serial(serial(1)), Found::Other),
        (Scope::Selector("unix:uid:1".parse().unwrap()), Found::Other),
        (Scope::Key(SpkiHash::new([5; 32])), Found::Other),
        (Scope::Issuer(IssuerKeyId::new([5; 32])), Found::Other),
    ] {
        assert_eq!(Found::parse(&scope.to_string()), found);
    }
}

#[test]
fn each_scope_comes_to_serials_or_rules() {
    let mut ca = Ca::new();
    ca.join("n1", 1, 1);
    let instance = View::agent(&ca.view, &agent("n1")).unwrap().instance;
    let index = ca.view.applied();
    ca.view.apply(index, &agent_issue(9, "n1", instance.0, 40)).unwrap();
    let web = SpiffeId::parse("spiffe://dev.test/web").unwrap();
    let lives = [
        live(1, web.as_str(), NOW.seconds() - 30),
        live(2, web.as_str(), NOW.seconds() + 1),
    ];
    let resolve = |scope: Scope, lives: &[LiveCertificate]| resolve(&ca.view, &scope, lives, "lost", NOW);

    let by_id = resolve(Scope::Identity(web.clone()), &lives).unwrap();
    assert_eq!(by_id.rules[0].cut, Some(UnixTime::from_seconds(NOW.seconds() + 1)));
    assert!(by_id.serials.is_empty() && by_id.ban.is_none());
    let prefix = IdPrefix::parse("spiffe://dev.test/a/*").unwrap();
    assert_eq!(
        resolve(Scope::Prefix(prefix.clone()), &[]).unwrap().rules[0].target,
        RuleTarget::Prefix(prefix)
    );
    assert_eq!(
        resolve(Scope::Key(SpkiHash::new([5; 32])), &[]).unwrap().rules[0].cut,
        None
    );
    assert_eq!(resolve(Scope::Serial(serial(1)), &lives[..1]).unwrap().serials.len(), 1);
    assert_eq!(resolve(Scope::Entry(name("web")), &lives).unwrap().serials.len(), 2);

    let by_agent = resolve(Scope::Agent(agent("n1")), &lives).unwrap();
    assert_eq!(by_agent.serials.len(), 3, "what it obtained, and its own");
    assert!(matches!(&by_agent.ban, Some(Body::AgentBan(ban)) if ban.instance == instance.0));

    let nothing = Refusal::NothingLive("serial 0a".into());
    assert_eq!(resolve(Scope::Serial("0a".parse().unwrap()), &[]), Err(nothing));
    assert_eq!(
        resolve(Scope::Agent(agent("n9")), &[]),
        Err(Refusal::NoAgent(agent("n9")))
    );
    let foreign = SpiffeId::parse("spiffe://other.test/web").unwrap();
    assert_eq!(
        resolve(Scope::Identity(foreign.clone()), &[]),
        Err(Refusal::ForeignIdentity(foreign.to_string()))
    );
}

#[test]
fn a_revocation_leaves_out_what_is_revoked_and_comes_in_parts_when_it_is_large() {
    let mut ca = Ca::new();
    let scope = Scope::Entry(name("web"));
    let revoked = |n: u32| RevokedSerial {
        issuer: mintage_identity::IssuerKeyId::new([0xca; 32]),
        serial: mintage_identity::Serial::from_be_octets(&(n + 1).to_be_bytes()).unwrap(),
        not_after: UnixTime::from_millis(NOW.millis() + 600_001),
    };
    let request = |serials: &[RevokedSerial], rules: &[mintage_revocation::Rule], view: &View| {
        let reason = RevocationReason::KeyCompromise;
        revoke(
            view,
            &RevokeRequest {
                serials,
                rules,
                reason,
                note: "found in a repository",
                scope: &scope,
            },
        )
    };
    let serials: Vec<_> = (0..1_100).map(revoked).collect();
    let id = SpiffeId::parse("spiffe://dev.test/x").unwrap();
    let cut = Some(UnixTime::from_millis(NOW.millis() + 1));
    let rules = [mintage_revocation::Rule {
        target: RuleTarget::Identity(id.clone()),
        cut,
    }];
    let bodies = request(&serials, &rules, &ca.view).unwrap();
    let parts: Vec<_> = bodies
        .iter()
        .map(|body| match body {
            Body::Revoke(part) => (part.serials.len(), part.rules.len(), part.part, part.parts),
            _ => panic!("{body:?}"),
        })
        .collect();
    assert_eq!(parts, [(512, 1, 1, 3), (512, 0, 2, 3), (76, 0, 3, 3)]);
    bodies.into_iter().for_each(|body| assert_eq!(ca.append(body), None));
    assert_eq!(ca.view.revoked().serial_count(), 1_100);
    assert_eq!(
        ca.view.floor(&id),
        Floor::Above(UnixTime::from_seconds(NOW.seconds() + 1)),
        "cuts are rounded up"
    );

    assert_eq!(
        request(&serials, &rules, &ca.view),
        Ok(Vec::new()),
        "all of it stands already"
    );
    let more = [revoked(5), revoked(5), revoked(2_000)];
    let again = request(&more, &[], &ca.view).unwrap();
    assert!(matches!(&again[..], [Body::Revoke(part)] if part.serials.len() == 1 && part.parts == 1));
    let too_many = vec![revoked(1); 100_001];
    assert_eq!(
        request(&too_many, &[], &ca.view).unwrap_err().kind(),
        RefusalKind::Exhausted
    );
}

#[test]
fn the_largest_parts_fit_a_record() {
    let mut ca = Ca::new();
    let id = |n: usize| SpiffeId::parse(&format!("spiffe://dev.test/{n:02}{}", "a".repeat(2_000))).unwrap();
    let rules: Vec<_> = (0..8)
        .map(|n| mintage_revocation::Rule {
            target: RuleTarget::Identity(id(n)),
            cut: None,
        })
        .collect();
    let serials: Vec<_> = (0..512_u32)
        .map(|n| RevokedSerial {
            issuer: mintage_identity::IssuerKeyId::new([n as u8; 32]),
            serial: mintage_identity::Serial::from_be_octets(&[&[0x7f; 16], &n.to_be_bytes()[..]].concat()).unwrap(),
            not_after: UnixTime::from_millis(i64::MAX / 2),
        })
        .collect();
    let note = "n".repeat(256);
    let scope = Scope::Identity(id(1));
    let request = RevokeRequest {
        serials: &serials,
        rules: &rules,
        reason: RevocationReason::default(),
        note: &note,
        scope: &scope,
    };
    let bodies = revoke(&ca.view, &request).unwrap();
    assert_eq!(bodies.len(), 1);
    bodies.into_iter().for_each(|body| assert_eq!(ca.append(body), None));
}

#[test]
fn a_full_set_of_rules_says_what_needs_none_and_counts_nothing_twice() {
    let mut view = View::new(&domain());
    let rule = |number: usize, cut: Option<UnixTime>| mintage_revocation::Rule {
        target: RuleTarget::Identity(SpiffeId::parse(&format!("spiffe://dev.test/w{number}")).unwrap()),
        cut,
    };
    const PART: usize = 4_000;
    let full = mintage_revocation::limits::RULES_MAX;
    for part in 0..full / PART {
        let revocation = mintage_revocation::Revocation {
            at: NOW,
            serials: Vec::new(),
            rules: (part * PART..(part + 1) * PART).map(|n| rule(n, Some(NOW))).collect(),
            reason: RevocationReason::Unspecified,
        };
        let fold = crate::stored::Fold::Revoke(wire::Revoke::default(), revocation);
        view.refold(part as u64 + 1, &fold).unwrap();
    }
    let scope = Scope::Identity(SpiffeId::parse("spiffe://dev.test/w0").unwrap());
    let draft = |rules: &[mintage_revocation::Rule]| {
        let request = RevokeRequest {
            serials: &[],
            rules,
            reason: RevocationReason::Unspecified,
            note: "",
            scope: &scope,
        };
        revoke(&view, &request)
    };
    let stronger = draft(&[rule(0, None)]).unwrap();
    assert_eq!(stronger.len(), 1, "it takes the place of one that is held");
    let refused = draft(&[rule(full, None)]).unwrap_err();
    assert_eq!(refused.kind(), RefusalKind::Exhausted);
    let text = refused.to_string();
    assert!(text.contains("revoke by serial, entry, agent or selector"), "{text}");
}
