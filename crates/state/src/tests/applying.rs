//! What each record does to the view, and what it must not do.

use std::time::Duration;

use mintage_identity::{
    AgentInstance, AgentName, EntryName, IssuerKeyId, RevocationReason, Serial, SpiffeId, SpkiHash, UnixTime,
};
use mintage_ledger::{Body, Record, wire};
use mintage_policy::{AgentStatus, EntryView, Floor, KeyView};
use mintage_revocation::{Revocation, Rule, RuleTarget, limits::RULES_MAX};

use super::samples::*;
use crate::error::StateError;
use crate::stored::Fold;
use crate::{Ignored, TokenId, View};

/// A view with `records` applied after a log.open.
fn view_of(records: impl IntoIterator<Item = Record>) -> View {
    let mut view = View::new(&domain());
    let open = record(0, Body::LogOpen(wire::LogOpen::default()));
    for (index, record) in std::iter::once(open).chain(records).enumerate() {
        view.apply(index as u64, &record).unwrap();
    }
    view
}

fn bodies(bodies: impl IntoIterator<Item = Body>) -> View {
    view_of(
        bodies
            .into_iter()
            .enumerate()
            .map(|(at, body)| record(at as i64 + 1, body)),
    )
}

fn entry_name(text: &str) -> EntryName {
    EntryName::parse(text).unwrap()
}

fn agent<'a>(view: &'a View, name: &str) -> &'a crate::AgentRecord {
    View::agent(view, &AgentName::parse(name).unwrap()).unwrap()
}

#[test]
fn an_entry_is_put_changed_and_deleted_at_its_revision_only() {
    let view = bodies([put("web", "n1", 300, 0), put("web", "n2", 600, 1)]);
    let standing = View::entry(&view, &entry_name("web")).unwrap();
    assert_eq!((standing.revision, standing.entry.ttl().seconds()), (2, 600));
    assert_eq!(standing.changed_at, UnixTime::from_seconds(NOW.seconds() + 2));
    assert!(view.entries_for_agent(&agent_id("n1")).is_empty());
    assert_eq!(view.entries_for_agent(&agent_id("n2")).len(), 1);

    let raced = bodies([
        put("web", "n1", 300, 0),
        put("web", "n2", 600, 0),
        put("web", "n3", 900, 7),
    ]);
    assert_eq!(
        View::entry(&raced, &entry_name("web")).unwrap().revision,
        1,
        "the first in the log wins"
    );
    assert_eq!(
        (raced.ignored(2), raced.ignored(3)),
        (Some(Ignored::EntryMoved), Some(Ignored::EntryMoved))
    );
    assert_eq!(raced.ignored(1), None);

    let gone = bodies([
        put("web", "n1", 300, 0),
        delete("web", 1),
        delete("web", 1),
        put("web", "n1", 60, 0),
    ]);
    assert_eq!(gone.ignored(3), Some(Ignored::EntryMoved));
    assert_eq!(View::entry(&gone, &entry_name("web")).unwrap().revision, 4);
    assert!(
        View::entry(
            &bodies([put("web", "n1", 300, 0), delete("web", 1)]),
            &entry_name("web")
        )
        .is_none()
    );
}

#[test]
fn an_entry_that_cannot_be_read_does_not_leave_the_old_one_standing() {
    let mut bad = put("web", "n1", 300, 1);
    if let Body::EntryPut(put) = &mut bad {
        put.spiffe_id = "spiffe://other.test/web".into();
    }
    let view = bodies([put("web", "n1", 300, 0), bad]);
    assert!(View::entry(&view, &entry_name("web")).is_none());
    assert_eq!(view.ignored(2), Some(Ignored::Unreadable));
}

#[test]
fn entry_rename_by_delete_and_put_moves_every_index() {
    let mut renamed = put("shop", "n1", 300, 0);
    if let Body::EntryPut(put) = &mut renamed {
        put.spiffe_id = "spiffe://dev.test/web".into();
    }
    let before = bodies([put("web", "n1", 300, 0)]);
    let mut after = before.clone();
    after.apply(2, &record(3, delete("web", 1))).unwrap();
    after.apply(3, &record(3, renamed)).unwrap();
    let web = SpiffeId::parse("spiffe://dev.test/web").unwrap();
    let names: Vec<_> = after
        .entries_for_identity(&web)
        .map(|s| s.entry.name().as_str())
        .collect();
    assert_eq!(names, ["shop"]);
    assert_eq!(after.entries_for_agent(&agent_id("n1")).len(), 1);
    let changes = after.entry_changes_since(&before);
    assert_eq!(changes.len(), 2);
    assert!(changes[0].before.is_none() && changes[1].after.is_none(), "{changes:?}");
    assert!(after.entry_changes_since(&after.clone()).is_empty());
}

#[test]
fn sixty_four_uses_of_one_token_make_one_agent() {
    let uses = (0..64).map(|key| consume(7, "n1", key));
    let view = bodies(std::iter::once(token(7, "n1", 600)).chain(uses));
    let bound = view.token(&TokenId::new([7; 32])).unwrap().bound;
    assert_eq!(
        bound,
        Some((SpkiHash::new([0; 32]), AgentInstance(2))),
        "the first in the log wins"
    );
    assert_eq!(agent(&view, "n1").instance, AgentInstance(2));
    assert!((3..66).all(|index| view.ignored(index) == Some(Ignored::TokenUsed)));
    assert_eq!(view.agent_count(), 1);
}

#[test]
fn a_token_that_is_unknown_withdrawn_or_for_another_agent_makes_none() {
    let view = bodies([
        consume(7, "n1", 1),
        token(7, "n1", 600),
        consume(7, "n2", 1),
        wire_delete(7),
        consume(7, "n1", 1),
    ]);
    assert_eq!(view.ignored(1), Some(Ignored::Token));
    assert_eq!(view.ignored(3), Some(Ignored::Agent));
    assert_eq!(view.ignored(5), Some(Ignored::Token));
    assert_eq!(view.agent_count(), 0);
    assert!(view.tokens().next().is_none());
}

fn wire_delete(hash: u8) -> Body {
    Body::TokenDelete(wire::TokenDelete {
        token_hash: vec![hash; 32],
        agent: "n1".into(),
    })
}

#[test]
fn a_new_token_under_an_old_name_makes_a_new_instance_and_a_ban_strikes_one() {
    let start = [token(7, "n1", 600), consume(7, "n1", 1)];
    let banned = bodies(start.clone().into_iter().chain([ban("n1", 2), evict("n1", 2)]));
    assert_eq!(agent(&banned, "n1").status, AgentStatus::Banned);
    assert_eq!(
        banned.ignored(4),
        Some(Ignored::Agent),
        "an eviction does not soften a ban"
    );

    let again = bodies(start.into_iter().chain([
        ban("n1", 2),
        token(8, "n1", 600),
        consume(8, "n1", 2),
        ban("n1", 2),
        evict("n1", 2),
    ]));
    let n1 = agent(&again, "n1");
    assert_eq!(
        (n1.instance, n1.status, n1.spki),
        (AgentInstance(5), AgentStatus::Active, SpkiHash::new([2; 32]))
    );
    assert_eq!(
        (again.ignored(6), again.ignored(7)),
        (Some(Ignored::Agent), Some(Ignored::Agent))
    );
    assert_eq!(EntryView::agent(&again, &n1.name).unwrap().instance, AgentInstance(5));
}

#[test]
fn an_agent_comes_back_only_as_itself_and_only_while_it_may_act() {
    let start = [token(7, "n1", 600), consume(7, "n1", 1)];
    let with = |more: Vec<Body>| bodies(start.clone().into_iter().chain(more));
    let back = |of| Body::AgentAttest(attest("n1", 9, of));
    let view = with(vec![back(2)]);
    let n1 = agent(&view, "n1");
    assert_eq!(
        (n1.instance, n1.spki, n1.kind.as_str()),
        (AgentInstance(2), SpkiHash::new([9; 32]), "rejoin")
    );
    assert!(n1.attested_at > n1.joined_at);
    assert_eq!(with(vec![back(1)]).ignored(3), Some(Ignored::Agent));
    assert_eq!(with(vec![ban("n1", 2), back(2)]).ignored(4), Some(Ignored::Agent));
    assert_eq!(with(vec![evict("n1", 2), back(2)]).ignored(4), Some(Ignored::Agent));
    let mut foreign = attest("n1", 9, 0);
    foreign.spiffe_id = agent_id("n2").to_string();
    assert_eq!(
        with(vec![Body::AgentAttest(foreign)]).ignored(3),
        Some(Ignored::Unreadable)
    );
}

fn serials(certificates: &[crate::AgentCertificate]) -> Vec<Serial> {
    certificates.iter().map(|certificate| certificate.serial).collect()
}

#[test]
fn an_agent_that_loses_answers_keeps_the_certificate_it_shows() {
    let start = [
        record(1, token(7, "n1", 600)),
        record(2, consume(7, "n1", 1)),
        agent_issue(3, "n1", 2, 1),
    ];
    let by = |seconds, shown, n| agent_issue_by(Some(serial(shown)), seconds, "n1", 2, n);
    let after = |issues: Vec<Record>| serials(&agent(&view_of(start.iter().cloned().chain(issues)), "n1").earlier);
    // However often: the one it holds, and the one it may hold.
    let lost = vec![by(4, 1, 2), by(5, 1, 3), by(6, 1, 4)];
    assert_eq!(after(lost.clone()), [serial(1), serial(3)]);
    // Shown the last one, the rest is superseded; a stranger's serial keeps nothing.
    assert_eq!(after([lost.clone(), vec![by(7, 4, 5)]].concat()), [serial(4)]);
    assert_eq!(after([lost, vec![by(7, 9, 5)]].concat()), [serial(4)]);
}

#[test]
fn the_agents_last_two_certificates_are_known_and_older_ones_superseded() {
    let start = [record(1, token(7, "n1", 600)), record(2, consume(7, "n1", 1))];
    let issues = [
        agent_issue(3, "n1", 2, 1),
        agent_issue(4, "n1", 2, 2),
        agent_issue(5, "n1", 2, 3),
    ];
    let other = [
        agent_issue(6, "n1", 1, 4),
        agent_issue(6, "n9", 2, 5),
        workload_issue(7, 6),
    ];
    let view = view_of(start.iter().cloned().chain(issues).chain(other));
    let n1 = agent(&view, "n1");
    let of = |certificate: &Option<crate::AgentCertificate>| certificate.as_ref().map(|c| (c.serial, c.index));
    assert_eq!(of(&n1.current), Some((serial(3), 5)));
    assert_eq!(serials(&n1.earlier), [serial(2)]);
    assert_eq!(
        n1.current.as_ref().unwrap().not_after.seconds() - n1.current.as_ref().unwrap().not_before.seconds(),
        3_600
    );

    let anew = view_of(start.into_iter().chain([
        agent_issue(3, "n1", 2, 1),
        record(4, token(8, "n1", 600)),
        record(5, consume(8, "n1", 2)),
    ]));
    assert_eq!(
        agent(&anew, "n1").current,
        None,
        "a new instance starts without the certificates of the old one"
    );
}

#[test]
fn dead_tokens_are_swept_by_the_records_of_new_ones() {
    let mut records: Vec<_> = (0..20).map(|n| record(1, token(n, "n1", 60))).collect();
    let day = 24 * 3600;
    records.push(record(day + 60, token(100, "n1", 10 * day)));
    records.push(record(day + 62, token(101, "n1", 10 * day)));
    assert_eq!(view_of(records.clone()).token_count(), 20 + 2 - 8);
    // One of those that go may be made again by the very record that sweeps it.
    records.push(record(day + 63, token(8, "n1", 10 * day)));
    let view = view_of(records);
    assert!(view.token(&TokenId::new([8; 32])).unwrap().expires.seconds() > NOW.seconds() + day);
    assert_eq!(view.token_count(), 20 + 3 - 16);
}

#[test]
fn a_ca_key_only_moves_forward_and_issuing_keys_are_covered() {
    use wire::{CaEventKind as Kind, CaRole as Role};
    let end = NOW.seconds() + 86_400;
    let mut full = ca_event(Kind::Prepare, Role::Intermediate, 0xca, end);
    if let Body::CaEvent(event) = &mut full {
        event.certificate_der = vec![1, 2, 3];
    }
    let view = bodies([
        full,
        ca_event(Kind::Activate, Role::Intermediate, 0xca, 0),
        ca_event(Kind::Taint, Role::Intermediate, 0xca, 0),
        ca_event(Kind::Activate, Role::Intermediate, 0xca, 0),
        ca_event(Kind::Activate, Role::Log, 0x10, 0),
    ]);
    let id = IssuerKeyId::new([0xca; 32]);
    let key = view.ca_key(Role::Intermediate, &id).unwrap();
    assert_eq!(
        (key.stage, key.changed, key.certificate_der.as_slice()),
        (Kind::Taint, 3, &[1, 2, 3][..])
    );
    assert_eq!(key.not_after, Some(UnixTime::from_seconds(end)));
    assert_eq!(view.ignored(4), Some(Ignored::CaStage));
    assert!(
        view.revoked().covered_issuers().eq([id]),
        "log keys sign no certificates"
    );
    assert!(view.key_of_ca(&SpkiHash::new([0x10; 32])) && !view.key_of_ca(&SpkiHash::new([0x11; 32])));
}

#[test]
fn a_bundle_never_goes_back() {
    let view = bodies([bundle(1), bundle(5), bundle(5), bundle(4)]);
    assert_eq!(
        view.bundle().map(|bundle| (bundle.sequence, bundle.index)),
        Some((5, 2))
    );
    assert_eq!(
        (view.ignored(3), view.ignored(4)),
        (Some(Ignored::BundleOlder), Some(Ignored::BundleOlder))
    );
}

#[test]
fn rules_raise_the_floor_and_an_entry_enabled_again_lifts_its_own_block() {
    let web = SpiffeId::parse("spiffe://dev.test/web").unwrap();
    let mut off = put("web", "n1", 300, 1);
    if let Body::EntryPut(put) = &mut off {
        put.disabled = true;
    }
    let start = vec![
        put("web", "n1", 300, 0),
        off,
        revoke(&[], vec![identity_rule(web.as_str(), None)]),
    ];
    let blocked = bodies(start.clone());
    assert_eq!(blocked.floor(&web), Floor::Blocked);

    let mut changed = start.clone();
    changed.push(put("web", "n1", 300, 2));
    let lifted = bodies(changed);
    let cut = UnixTime::from_seconds(NOW.seconds() + 4 - 28);
    assert_eq!(lifted.floor(&web), Floor::Above(cut));
    assert_eq!(
        lifted.revoked().rules().next().unwrap().cut,
        Some(cut),
        "verifiers hear of it as well"
    );

    // A block by an operator's own word outlives changes of an entry that was never off.
    let kept = bodies([
        put("web", "n1", 300, 0),
        revoke(&[], vec![identity_rule(web.as_str(), None)]),
        put("web", "n1", 600, 1),
    ]);
    assert_eq!(kept.floor(&web), Floor::Blocked);
}

#[test]
fn revoked_serials_and_keys_are_found() {
    let key = wire::RevocationRule {
        target: Some(wire::revocation_rule::Target::SpkiSha256(vec![5; 32])),
        cut_s: None,
    };
    let view = bodies([revoke(&[1, 2], vec![key]), revoke(&[2, 3], Vec::new())]);
    let revoked = |n| {
        view.revoked()
            .revoked(&IssuerKeyId::new([0xca; 32]), &serial(n))
            .map(|entry| entry.sequence)
    };
    assert_eq!([1, 2, 3, 4].map(revoked), [Some(1), Some(1), Some(2), None]);
    assert!(view.key_blocked(&SpkiHash::new([5; 32])) && !view.key_blocked(&SpkiHash::new([6; 32])));
    assert_eq!(view.revoked().sequence(), 2);
}

#[test]
fn a_revocation_that_cannot_be_read_stops_the_state() {
    let bad = revoke(&[], vec![identity_rule("spiffe://DEV.test/x", None)]);
    let mut view = View::new(&domain());
    assert!(matches!(
        view.apply(0, &record(0, bad)),
        Err(StateError::Record { index: 0, .. })
    ));
    assert_eq!(view.applied(), 0);
}

#[test]
fn records_come_in_order_or_not_at_all() {
    let mut view = View::new(&domain());
    assert!(matches!(
        view.apply(1, &record(0, put("web", "n1", 300, 0))),
        Err(StateError::OutOfOrder { .. })
    ));
    view.apply(0, &record(0, put("web", "n1", 300, 0))).unwrap();
    assert!(matches!(
        view.apply(0, &record(0, put("db", "n1", 300, 0))),
        Err(StateError::OutOfOrder { .. })
    ));
    assert_eq!((view.applied(), view.entry_count()), (1, 1));
}

#[test]
fn the_control_head_is_that_of_the_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let journal = new_ledger(dir.path(), "control");
    let records = [
        record(1, put("web", "n1", 300, 0)),
        workload_issue(2, 1),
        record(3, put("web", "n1", 301, 1)),
        record(4, token(7, "n1", 60)),
        record(5, delete("db", 9)),
        record(6, bundle(1)),
        workload_issue(7, 2),
    ];
    let mut view = View::new(&domain());
    for record in std::iter::once(None).chain(records.map(Some)) {
        record.into_iter().for_each(|record| _ = append(&*journal, [record]));
        use mintage_ledger::Journal;
        for stored in journal.read_from(view.applied(), 10).unwrap() {
            view.apply_stored(&stored).unwrap();
        }
        assert_eq!(
            (view.applied(), view.control_head()),
            (journal.size(), journal.control_head())
        );
    }
    assert_eq!(view.control_head(), 7);
}

#[test]
fn rules_that_were_dead_when_one_was_recorded_take_no_room_from_it() {
    const EACH: usize = 4_000;
    let revocation = |at: UnixTime, names: std::ops::Range<usize>| {
        let rules = names.map(|n| Rule {
            target: RuleTarget::Identity(SpiffeId::parse(&format!("spiffe://dev.test/w{n}")).unwrap()),
            cut: Some(at),
        });
        let read = Revocation {
            at,
            serials: Vec::new(),
            rules: rules.collect(),
            reason: RevocationReason::Unspecified,
        };
        Fold::Revoke(wire::Revoke::default(), read)
    };
    // As they come out of the store at a start, with nobody who had looked at the clock in between.
    let mut view = View::new(&domain());
    let full = RULES_MAX / EACH;
    for part in 0..full {
        let names = part * EACH..(part + 1) * EACH;
        view.refold(part as u64 + 1, &revocation(NOW, names)).unwrap();
    }
    let last = RULES_MAX..RULES_MAX + 1;
    let alive = view.refold(full as u64 + 1, &revocation(NOW, last.clone()));
    assert!(matches!(alive, Err(Ignored::RevocationLimit)), "{alive:?}");
    let later = NOW.plus(Duration::from_secs(3 * 86_400));
    view.refold(full as u64 + 1, &revocation(later, last)).unwrap();
    assert_eq!(view.revoked().rules().count(), 1);
}

#[test]
fn floors_that_lie_below_every_new_certificate_are_forgotten_and_keys_stay_blocked() {
    let identity = |name: &str| SpiffeId::parse(&format!("spiffe://dev.test/{name}")).unwrap();
    let prefix = mintage_identity::IdPrefix::parse("spiffe://dev.test/below/*").unwrap();
    let rules = [
        (RuleTarget::Identity(identity("web")), Some(NOW)),
        (RuleTarget::Identity(identity("off")), None),
        (RuleTarget::Prefix(prefix), Some(NOW)),
        (RuleTarget::Key(SpkiHash::new([5; 32])), None),
    ];
    let revocation = Revocation {
        at: NOW,
        serials: Vec::new(),
        rules: rules.map(|(target, cut)| Rule { target, cut }).to_vec(),
        reason: RevocationReason::KeyCompromise,
    };
    let mut view = View::new(&domain());
    view.refold(1, &Fold::Revoke(wire::Revoke::default(), revocation))
        .unwrap();
    let floors = |view: &View| ["web", "off", "below/a"].map(|name| view.floor(&identity(name)));
    let held = [Floor::Above(NOW), Floor::Blocked, Floor::Above(NOW)];
    let day = Duration::from_secs(86_400);
    view.prune(NOW.plus(day));
    assert_eq!(floors(&view), held);
    view.prune(NOW.plus(day * 2));
    assert_eq!(floors(&view), [Floor::Open, Floor::Blocked, Floor::Open]);
    assert_eq!(view.revoked().rule_count(), 1, "nothing lives on that key");
    assert!(view.key_blocked(&SpkiHash::new([5; 32])));
}
