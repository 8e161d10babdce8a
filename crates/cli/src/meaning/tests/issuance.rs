//! Certificates that should never have been issued.

use std::time::Duration;

use mintage_identity::{Serial, Ttl};
use mintage_ledger::{
    Body,
    wire::{self, CaEventKind, Profile},
};
use mintage_mint::CaDates;

use super::{
    kit::{AGENT, Authority, Leaf, Story, WEB, agent, at, consume, replica, serial, web_entry},
    offends,
};
use crate::audit::verify::VerifyArgs;

/// The agent's present life in an honest story.
fn life(story: &Story) -> u64 {
    story.find("token.consume") as u64
}

fn web_leaf(story: &Story, fill: u8) -> Leaf {
    Leaf {
        dns_names: vec!["web.dev.test".into()],
        ..Leaf::new(WEB, fill, story.second())
    }
}

/// Appends one certificate of `web` after a change, and expects it to be named.
#[track_caller]
fn forged(change: impl FnOnce(&Story, &mut Leaf, &mut wire::Issue), words: &str) {
    let mut story = Story::honest();
    let mut leaf = web_leaf(&story, 9);
    let mut issue = story.issue_web(&leaf);
    let before = issue.certificate_der.clone();
    change(&story, &mut leaf, &mut issue);
    // Signed anew unless the change brought its own certificate.
    if issue.certificate_der == before {
        issue.certificate_der = story.authority.sign(&leaf);
    }
    let instance = life(&story);
    story.push(agent(instance), Body::Issue(issue));
    offends(&story, story.last(), words);
}

#[test]
fn a_serial_issued_twice() {
    let mut story = Story::honest();
    let first = story.find("issue") as u64 + 1;
    let instance = life(&story);
    story.web(4, instance);
    offends(&story, story.last(), &format!("was issued before, by record {first}"));
    forged(|_, leaf, _| leaf.serial = serial(2), "is that of a CA certificate");
    forged(
        |_, leaf, _| leaf.serial = Serial::parse("0102").unwrap(),
        "is not of the form this CA makes",
    );
}

#[test]
fn a_certificate_that_is_not_what_its_record_says() {
    forged(|_, _, issue| issue.certificate_der = vec![0x30, 0], "is no X.509-SVID");
    forged(
        |_, leaf, _| leaf.id = "spiffe://dev.test/db".into(),
        "its certificate is of spiffe://dev.test/db",
    );
    forged(
        |_, leaf, issue| {
            (leaf.id, issue.spiffe_id) = ("spiffe://other.test/web".into(), "spiffe://other.test/web".into())
        },
        "is not of trust domain dev.test",
    );
    forged(
        |_, leaf, issue| (leaf.id, issue.spiffe_id) = ("spiffe://dev.test/db".into(), "spiffe://dev.test/db".into()),
        "its identity is not what entry web says",
    );
    forged(
        |_, leaf, _| leaf.dns_names.push("db.dev.test".into()),
        "its list of DNS names",
    );
    forged(|_, leaf, _| leaf.common_name = Some("root".into()), "its common name");
    forged(|_, _, issue| drop(issue.selectors.pop()), "its list of selectors");
    forged(
        |_, _, issue| issue.profile = 0,
        "does not say what the certificate is for",
    );
}

#[test]
fn lifetimes_beyond_grant_entry_or_policy() {
    let longer = |seconds: u64| Duration::from_secs(seconds);
    forged(
        |_, leaf, _| leaf.not_after = leaf.not_after.plus(longer(1)),
        "lives for 601 s, 600 s were granted",
    );
    forged(
        |_, leaf, issue| {
            leaf.not_after = leaf.not_after.plus(longer(600));
            issue.ttl_seconds = 1200;
        },
        "is over the 10m of entry web",
    );
    forged(|_, _, issue| issue.ttl_seconds = 5, "lives for 600 s, 5 s were granted");
    forged(|_, _, issue| issue.ttl_seconds = 90_000, "is out of range");
    forged(
        |_, leaf, _| leaf.not_before = leaf.not_before.minus(longer(1)),
        "backdated by more than 30 s",
    );
    forged(
        |_, leaf, _| leaf.not_before = leaf.not_before.plus(longer(120)),
        "begins in the future",
    );
    let strict = VerifyArgs {
        max_ttl: Some(Ttl::from_seconds(300).unwrap()),
        ..VerifyArgs::default()
    };
    let refused = Story::honest().verify(&strict).unwrap_err();
    assert!(
        refused.failure.to_string().contains("is over the policy's 5m"),
        "{}",
        refused.failure
    );
}

#[test]
fn an_issuer_that_is_not_active() {
    forged(
        |_, _, issue| issue.issuer_key_id = vec![7; 32],
        "no record made the issuing key",
    );
    let other = Authority::new();
    forged(
        |_, leaf, issue| issue.certificate_der = other.sign(leaf),
        "names another issuer",
    );
    for (kind, words) in [
        (CaEventKind::Retire, "is retired"),
        (CaEventKind::Taint, "is tainted"),
        (CaEventKind::Revoke, "is revoked"),
    ] {
        let mut story = Story::honest();
        let event = story.authority.event(kind);
        story.push(replica(), event);
        let instance = life(&story);
        story.web(9, instance);
        offends(&story, story.last(), words);
    }
}

#[test]
fn a_prepared_issuer_signs_nothing() {
    let mut story = Story::bare(Authority::new());
    let activation = story
        .records
        .iter()
        .rposition(|record| record.kind().name() == "ca.event")
        .unwrap();
    story.records.remove(activation);
    story
        .records
        .iter_mut()
        .enumerate()
        .for_each(|(at, record)| record.control_seen = at as u64);
    let leaf = Leaf::new("spiffe://dev.test/mintage/ca/ca-1", 9, story.second());
    let issue = story.issue_bare(&leaf, Profile::Replica);
    story.push(replica(), Body::Issue(issue));
    offends(&story, story.last(), "is prepared, not yet active");
}

#[test]
fn a_leaf_that_outlives_its_issuer() {
    let mut story = Story::bare(Authority::until(CaDates::lasting(at(0), Duration::from_secs(600))));
    let id = "spiffe://dev.test/mintage/ca/ca-1";
    let issue = story.issue_bare(&Leaf::new(id, 9, story.second()), Profile::Replica);
    story.push(replica(), Body::Issue(issue));
    offends(&story, story.last(), "outlives its issuer");
}

#[test]
fn a_signature_by_another_key_is_found_when_asked() {
    let mut story = Story::honest();
    let instance = life(&story);
    story.web(9, instance);
    let last = story.last();
    story.change_issue(last, |issue| {
        let end = issue.certificate_der.len() - 3;
        issue.certificate_der[end] ^= 1;
    });
    assert!(
        story.verify(&VerifyArgs::default()).is_ok(),
        "not looked at unless asked"
    );
    offends(&story, last, "is not signed by its issuer");
}

#[test]
fn an_entry_that_is_gone_moved_on_disabled_or_for_others() {
    let entry = |story: &Story| story.find("entry.put") as u64;
    let issued_after = |body: Body| {
        let mut story = Story::honest();
        story.admin(body);
        let instance = life(&story);
        story.web(9, instance);
        story
    };
    let revision = entry(&Story::honest());
    let deleted = issued_after(Body::EntryDelete(wire::EntryDelete {
        name: "web".into(),
        revision,
    }));
    offends(
        &deleted,
        deleted.last(),
        &format!("entry web was deleted by record {}", deleted.last() - 1),
    );
    let moved = issued_after(Body::EntryPut(wire::EntryPut {
        replaces_revision: revision,
        ..web_entry()
    }));
    offends(
        &moved,
        moved.last(),
        &format!(
            "by revision {revision} of entry web, where revision {}",
            moved.last() - 1
        ),
    );
    forged(|_, _, issue| issue.entry = "db".into(), "no record wrote an entry db");

    let changed = |change: &dyn Fn(&mut wire::EntryPut)| {
        let mut put = wire::EntryPut {
            replaces_revision: revision,
            ..web_entry()
        };
        change(&mut put);
        let mut story = issued_after(Body::EntryPut(put));
        let last = story.last();
        story.change_issue(last, |issue| issue.entry_revision = last - 1);
        story
    };
    let disabled = changed(&|put| put.disabled = true);
    offends(&disabled, disabled.last(), "entry web was disabled");
    let others = changed(&|put| put.agents = vec!["spiffe://dev.test/mintage/agent/n2".into()]);
    offends(
        &others,
        others.last(),
        "entry web is not for spiffe://dev.test/mintage/agent/n1",
    );
}

#[test]
fn an_agent_that_is_unknown_banned_evicted_or_superseded() {
    let mut story = Story::honest();
    let instance = life(&story);
    story.web(9, instance + 1);
    offends(&story, story.last(), "its present one is");
    let ended = |body: &dyn Fn(u64) -> Body| {
        let mut story = Story::honest();
        let instance = life(&story);
        story.admin(body(instance));
        story.web(9, instance);
        story
    };
    let banned = ended(&|instance| {
        Body::AgentBan(wire::AgentBan {
            name: "n1".into(),
            instance,
            reason: String::new(),
        })
    });
    offends(
        &banned,
        banned.last(),
        &format!("agent n1 was banned by record {}", banned.last() - 1),
    );
    let evicted = ended(&|instance| {
        Body::AgentEvict(wire::AgentEvict {
            name: "n1".into(),
            instance,
            reason: String::new(),
        })
    });
    offends(&evicted, evicted.last(), "agent n1 was evicted by record");
    // A ban of a former life strikes nobody.
    let former = ended(&|_| {
        Body::AgentBan(wire::AgentBan {
            name: "n1".into(),
            instance: 1,
            reason: String::new(),
        })
    });
    assert!(former.verify(&VerifyArgs::default()).is_ok());

    let mut nobody = Story::honest();
    let issue = nobody.issue_web(&web_leaf(&nobody, 9));
    nobody.push(replica(), Body::Issue(issue));
    offends(&nobody, nobody.last(), "to nobody who was attested");
    let mut unproven = Story::honest();
    unproven.web(9, instance);
    unproven.records.last_mut().unwrap().attestation = None;
    offends(&unproven, unproven.last(), "nothing was proven of agent n1");
}

#[test]
fn a_second_use_of_a_token_makes_no_agent() {
    let mut story = Story::honest();
    let hash = mintage_ledger::Actor::Token { hash: [5; 32] };
    story.push(hash, Body::TokenConsume(consume("n1", AGENT)));
    let second = story.last();
    story.web(9, second);
    offends(&story, story.last(), "its present one is");
}

#[test]
fn certificates_of_agents_and_replicas_are_for_themselves_alone() {
    let mut story = Story::honest();
    let instance = life(&story);
    let other = Leaf::new("spiffe://dev.test/mintage/agent/n2", 9, story.second());
    let issue = story.issue_bare(&other, Profile::Agent);
    story.push(agent(instance), Body::Issue(issue));
    offends(
        &story,
        story.last(),
        "obtained an agent's certificate for spiffe://dev.test/mintage/agent/n2",
    );
    let mut story = Story::honest();
    let issue = story.issue_bare(
        &Leaf::new("spiffe://dev.test/mintage/ca/ca-2", 9, story.second()),
        Profile::Replica,
    );
    story.push(replica(), Body::Issue(issue));
    offends(&story, story.last(), "is no replica that made a certificate for itself");
    let mut story = Story::honest();
    let issue = story.issue_bare(
        &Leaf::new("spiffe://dev.test/mintage/ca/ca-1", 9, story.second()),
        Profile::Replica,
    );
    story.push(agent(instance), Body::Issue(issue));
    offends(&story, story.last(), "is no replica");
}

#[test]
fn a_decision_that_a_restricting_record_overtook() {
    let mut story = Story::honest();
    let instance = life(&story);
    story.web(9, instance);
    let restricting = story
        .records
        .iter()
        .rposition(|record| record.is_restricting())
        .unwrap() as u64;
    story.records.last_mut().unwrap().control_seen = restricting;
    offends(
        &story,
        story.last(),
        &format!("before record {restricting}, which restricts"),
    );
    story.records.last_mut().unwrap().control_seen = restricting + 1;
    assert!(story.verify(&VerifyArgs::default()).is_ok());
}
