//! Keys, entries, tokens and agents that nobody could have made as the record says; and damage below the meaning.

use std::fs;

use mintage_ledger::{
    Body, Vkey,
    wire::{self, CaEvent, CaEventKind, CaRole, revocation_rule::Target},
};

use super::{
    kit::{AGENT, Authority, Story, WEB, agent, consume, replica, web_entry},
    last_offends, offends,
};
use crate::{
    audit::verify::{VerifyArgs, verify},
    failure::Failure,
};

#[test]
fn keys_that_no_standing_root_certifies() {
    let stranger = Authority::new();
    let event = |role: CaRole, der: &[u8], key_id: &[u8]| {
        Body::CaEvent(CaEvent {
            event: CaEventKind::Activate.into(),
            role: role.into(),
            key_id: key_id.to_vec(),
            certificate_der: der.to_vec(),
            ..CaEvent::default()
        })
    };
    let id = stranger.key_id.as_bytes();
    last_offends(
        Story::honest(),
        event(CaRole::Intermediate, &stranger.der, id),
        "signed by no root that stands",
    );
    last_offends(
        Story::honest(),
        event(CaRole::Root, &stranger.der, id),
        "is not its own",
    );
    last_offends(
        Story::honest(),
        event(CaRole::Intermediate, &stranger.der, &[7; 32]),
        "not that of its certificate",
    );
    last_offends(
        Story::honest(),
        event(CaRole::Intermediate, b"no certificate", id),
        "the certificate of the key",
    );
    let other_key = CaEvent {
        event: CaEventKind::Activate.into(),
        role: CaRole::Log.into(),
        key_id: vec![7; 32],
        public_key: vec![1; 32],
        ..CaEvent::default()
    };
    last_offends(Story::honest(), Body::CaEvent(other_key), "not the hash of the key");
    let roots_der = vec![stranger.root.certificate_der().to_vec()];
    let bundle = wire::BundleChange {
        sequence: 2,
        roots_der,
        jwt_keys: Vec::new(),
    };
    last_offends(Story::honest(), Body::BundleChange(bundle), "which no record made");
}

#[test]
fn a_federated_bundle_vouches_for_another_trust_domain_by_what_may_sign() {
    let root = Story::honest().authority.root.certificate_der().to_vec();
    let set = |domain: &str, root: &[u8]| {
        Body::BundleFederatedSet(wire::BundleFederatedSet {
            trust_domain: domain.into(),
            roots_der: vec![root.to_vec()],
            ..wire::BundleFederatedSet::default()
        })
    };
    last_offends(Story::honest(), set("dev.test", &root), "the own trust domain");
    last_offends(
        Story::honest(),
        set("other.test", b"no certificate"),
        "the bundle of other.test",
    );
    last_offends(Story::honest(), set("Other.test", &root), "upper-case");
    let mut story = Story::honest();
    story.admin(set("other.test", &root));
    story.admin(Body::BundleFederatedRemove(wire::BundleFederatedRemove {
        trust_domain: "other.test".into(),
        revision: story.last(),
    }));
    assert!(story.verify(&VerifyArgs::default()).is_ok());
}

#[test]
fn agents_and_token_holders_may_not_change_rights_revoke_or_speak_of_keys() {
    let instance = Story::honest().find("token.consume") as u64;
    let bodies = [
        Body::EntryPut(wire::EntryPut {
            name: "db".into(),
            ..web_entry()
        }),
        Body::BundleFederatedSet(wire::BundleFederatedSet {
            trust_domain: "other.test".into(),
            roots_der: vec![vec![1]],
            ..wire::BundleFederatedSet::default()
        }),
        Body::BundleFederatedRemove(wire::BundleFederatedRemove {
            trust_domain: "other.test".into(),
            revision: 1,
        }),
        Body::TokenCreate(wire::TokenCreate {
            token_hash: vec![6; 32],
            agent: "n2".into(),
            ..wire::TokenCreate::default()
        }),
        Body::AgentBan(wire::AgentBan {
            name: "n1".into(),
            instance,
            reason: String::new(),
        }),
        Body::Revoke(wire::Revoke {
            rules: vec![wire::RevocationRule {
                target: Some(Target::Identity(WEB.into())),
                cut_s: None,
            }],
            part: 1,
            parts: 1,
            ..wire::Revoke::default()
        }),
        Body::CaEvent(CaEvent {
            event: CaEventKind::Taint.into(),
            role: CaRole::Jwt.into(),
            key_id: vec![4; 32],
            ..CaEvent::default()
        }),
        Body::BundleChange(wire::BundleChange {
            sequence: 2,
            roots_der: vec![vec![1]],
            jwt_keys: Vec::new(),
        }),
    ];
    for body in bodies {
        let mut story = Story::honest();
        story.push(agent(instance), body.clone());
        offends(&story, story.last(), "who may not");
        let mut story = Story::honest();
        story.push(mintage_ledger::Actor::Token { hash: [5; 32] }, body);
        offends(&story, story.last(), "by nobody who may");
    }
}

#[test]
fn entries_that_could_never_be_valid() {
    for (change, words) in [
        (
            wire::EntryPut {
                spiffe_id: "spiffe://other.test/web".into(),
                ..web_entry()
            },
            "another trust domain",
        ),
        (
            wire::EntryPut {
                spiffe_id: "spiffe://dev.test/mintage/agent/n9".into(),
                ..web_entry()
            },
            "kept for",
        ),
        (
            wire::EntryPut {
                selectors: Vec::new(),
                ..web_entry()
            },
            "no selector",
        ),
        (
            wire::EntryPut {
                name: "../x".into(),
                ..web_entry()
            },
            "name",
        ),
    ] {
        last_offends(Story::honest(), Body::EntryPut(change), words);
    }
}

#[test]
fn tokens_make_only_the_agent_they_were_made_for() {
    let hash = || mintage_ledger::Actor::Token { hash: [5; 32] };
    let mut story = Story::honest();
    story.push(
        hash(),
        Body::TokenConsume(consume("n2", "spiffe://dev.test/mintage/agent/n2")),
    );
    offends(&story, story.last(), "by a token made for n1");
    let mut story = Story::honest();
    story.push(
        hash(),
        Body::TokenConsume(consume("n1", "spiffe://dev.test/mintage/agent/n2")),
    );
    offends(&story, story.last(), "which is not its identity");
    let mut story = Story::honest();
    let unknown = wire::TokenConsume {
        token_hash: vec![9; 32],
        ..consume("n1", AGENT)
    };
    story.push(hash(), Body::TokenConsume(unknown));
    offends(&story, story.last(), "by a token that does not stand");
}

#[test]
fn a_log_that_opens_twice() {
    let mut story = Story::honest();
    let opening = story.records[0].body.clone();
    story.push(replica(), opening);
    offends(&story, story.last(), "inside of a log");
}

#[test]
fn damage_below_the_meaning_is_named_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = dir.path().join("ledger");
    Story::honest().write(&ledger);
    assert!(verify(dir.path(), &VerifyArgs::default()).is_ok());
    let wal = ledger.join("a1b2/2026-11/head/00000001.wal");
    let whole = fs::read(&wal).unwrap();
    let middle = whole.iter().rposition(|octet| *octet != 0).unwrap() / 2;
    let mut damaged = whole.clone();
    damaged[middle] ^= 0x10;
    fs::write(&wal, &damaged).unwrap();
    let refused = verify(dir.path(), &VerifyArgs::default()).unwrap_err();
    assert!(
        matches!(refused.failure, Failure::No(_)) && refused.index.is_some(),
        "{}",
        refused.failure
    );
    // A log that is cut behind its signed end is older than it says.
    let mut cut = whole;
    cut[middle..].fill(0);
    fs::write(&wal, &cut).unwrap();
    let refused = verify(dir.path(), &VerifyArgs::default()).unwrap_err();
    assert_eq!(refused.failure.code(), 3, "{}", refused.failure);
}

#[test]
fn a_ledger_under_another_key_is_not_proven() {
    let dir = tempfile::tempdir().unwrap();
    Story::honest().write(&dir.path().join("ledger"));
    let file = dir.path().join("keys");
    let other = Vkey::new("dev.test/mintage/a1b2/2026-11", [9; 32]).unwrap();
    fs::write(&file, format!("{other}\n")).unwrap();
    let refused = verify(dir.path(), &VerifyArgs::strict(file.clone())).unwrap_err();
    assert_eq!(refused.failure.code(), 3, "{}", refused.failure);
    fs::copy(dir.path().join("ledger/policy"), &file).unwrap();
    assert!(verify(dir.path(), &VerifyArgs::strict(file)).is_ok());
    let missing = verify(dir.path(), &VerifyArgs::strict(dir.path().join("none"))).unwrap_err();
    assert_eq!(missing.failure.code(), 1, "{}", missing.failure);
}
