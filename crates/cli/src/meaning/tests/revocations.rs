//! Revocations of what does not exist, and certificates that were dead when they were made.

use std::time::Duration;

use mintage_ledger::{
    Body,
    wire::{self, CaEventKind, RevocationRule, RevokedSerial, revocation_rule::Target},
};

use super::{
    kit::{Story, WEB, at, replica, serial},
    last_offends, offends,
};
use crate::audit::verify::VerifyArgs;

fn revoke(serials: Vec<RevokedSerial>, rules: Vec<RevocationRule>) -> Body {
    Body::Revoke(wire::Revoke {
        serials,
        rules,
        part: 1,
        parts: 1,
        ..wire::Revoke::default()
    })
}

fn rule(target: Target) -> Body {
    revoke(
        Vec::new(),
        vec![RevocationRule {
            target: Some(target),
            cut_s: Some(at(0).seconds()),
        }],
    )
}

#[test]
fn serials_that_were_never_issued() {
    let refused = |change: &dyn Fn(&mut RevokedSerial), words: &str| {
        let story = Story::honest();
        let mut struck = story.struck(story.find("issue") as u64);
        change(&mut struck);
        last_offends(story, revoke(vec![struck], Vec::new()), words);
    };
    refused(
        &|struck| struck.serial = serial(0x33).octets().to_vec(),
        "which was never issued",
    );
    refused(
        &|struck| struck.issuer_key_id = vec![7; 32],
        "an issuer that did not issue it",
    );
    refused(
        &|struck| struck.not_after_s += 1,
        "an end that is not the certificate's",
    );
    refused(&|struck| struck.serial = vec![0], "must be positive");
}

#[test]
fn a_ca_certificate_can_be_revoked() {
    let mut story = Story::honest();
    let struck = RevokedSerial {
        issuer_key_id: story.authority.root.key_id().as_bytes().to_vec(),
        serial: serial(2).octets().to_vec(),
        not_after_s: story.authority.not_after.seconds(),
    };
    story.admin(revoke(vec![struck], Vec::new()));
    assert!(story.verify(&VerifyArgs::default()).is_ok());
}

fn snapshot(epoch: u64, sequence: u64) -> Body {
    Body::RevocationSnapshot(wire::RevocationSnapshot {
        epoch,
        sequence,
        set_hash: vec![1; 32],
        snapshot_sha256: vec![2; 32],
        key_id: vec![3; 32],
    })
}

#[test]
fn snapshots_that_nobody_but_the_ca_publishes_and_that_never_go_back() {
    let mut story = Story::honest();
    for (epoch, sequence) in [(1, 2), (1, 2), (1, 4), (2, 3)] {
        story.push(replica(), snapshot(epoch, sequence));
    }
    assert!(story.verify(&VerifyArgs::default()).is_ok());
    story.push(replica(), snapshot(1, 4));
    offends(&story, story.last(), "it goes back to epoch 1 sequence 4");
    let mut ahead = Story::honest();
    let next = ahead.last() + 1;
    ahead.push(replica(), snapshot(1, next));
    offends(&ahead, next, "which lies after it");
    last_offends(Story::honest(), snapshot(1, 2), "by the CA itself");
}

#[test]
fn rules_about_nothing_of_ours() {
    for (target, words) in [
        (
            Target::Identity("spiffe://other.test/web".into()),
            "is not of trust domain dev.test",
        ),
        (Target::Identity("web".into()), "SPIFFE ID"),
        (
            Target::Prefix("spiffe://other.test/a/*".into()),
            "is not of trust domain dev.test",
        ),
        (Target::Prefix("spiffe://dev.test/a".into()), "does not end in /*"),
        (Target::IssuerKeyId(vec![7; 32]), "which no record made"),
    ] {
        last_offends(Story::honest(), rule(target), words);
    }
    last_offends(Story::honest(), revoke(Vec::new(), Vec::new()), "it revokes nothing");
    let odd = wire::Revoke {
        rules: vec![RevocationRule {
            target: Some(Target::SpkiSha256(vec![1; 32])),
            cut_s: None,
        }],
        reason: 6,
        ..wire::Revoke::default()
    };
    last_offends(Story::honest(), Body::Revoke(odd), "6 is no reason of RFC 5280");
}

#[test]
fn a_certificate_that_a_standing_rule_kills_at_once() {
    let instance = |story: &Story| story.find("token.consume") as u64;
    let issued_after = |target: Target, cut: Option<Duration>| {
        let mut story = Story::honest();
        let until = cut.map(|back| at(story.second() + 1).minus(back));
        story.revoke_rule(target, until);
        let life = instance(&story);
        story.web(9, life);
        story
    };
    for target in [
        Target::Identity(WEB.into()),
        Target::Prefix("spiffe://dev.test/*".into()),
    ] {
        let dead = issued_after(target.clone(), Some(Duration::from_secs(30)));
        offends(&dead, dead.last(), &format!("record {} revokes it", dead.last() - 1));
        let lives = issued_after(target, Some(Duration::from_secs(31)));
        assert!(
            lives.verify(&VerifyArgs::default()).is_ok(),
            "its notBefore is above the cut"
        );
    }
    let issuer = Story::honest().authority.key_id;
    let mut story = Story::honest();
    story.revoke_rule(Target::IssuerKeyId(story.authority.key_id.as_bytes().to_vec()), None);
    let life = instance(&story);
    story.web(9, life);
    offends(&story, story.last(), "was dead when it was issued");
    assert_ne!(issuer, story.authority.key_id, "each story has keys of its own");
}

#[test]
fn a_blocked_public_key_does_not_come_back() {
    let mut story = Story::honest();
    let life = story.find("token.consume") as u64;
    story.web(9, life);
    let key = story.spki(story.last());
    let again = story.records.last().unwrap().clone();
    story.records.pop();
    story.revoke_rule(Target::SpkiSha256(key.as_bytes().to_vec()), None);
    let mut again = again;
    again.control_seen = story.records.len() as u64;
    story.records.push(again);
    offends(&story, story.last(), "was dead when it was issued");
}

#[test]
fn events_of_revoked_issuers_do_not_go_back() {
    let mut story = Story::honest();
    for kind in [CaEventKind::Revoke, CaEventKind::Activate] {
        let event = story.authority.event(kind);
        story.push(replica(), event);
    }
    let life = story.find("token.consume") as u64;
    story.web(9, life);
    offends(&story, story.last(), "is revoked");
}
