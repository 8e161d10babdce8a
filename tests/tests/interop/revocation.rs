//! The revocation formats before a reader that was written from their description alone, in another language: it takes what is
//! genuine, refuses what is not, and answers as ours does.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{fs, path::Path, sync::OnceLock};

#[path = "../../../crates/revocation/tests/publisher/mod.rs"]
mod publisher;

use mintage_identity::{IdPrefix, UnixTime};
use mintage_revocation::{Exception, Replica, RuleTarget, Verdict};
use mintage_tests::kit::verifiers::Interpreter;
use publisher::{Cert, FOREIGN, NATIVE, Publisher, START, STRANGER, domain, id, seconds, twin};
use serde_json::{Value, json};

/// Made once: both tests run in it.
fn python() -> Option<&'static Interpreter> {
    static MADE: OnceLock<Option<Interpreter>> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop");
        fs::create_dir_all(&scratch).unwrap();
        Interpreter::python(&scratch)
    });
    made.as_ref()
}

/// Asks the other reader; what became of each step, and its answers.
fn ask(
    python: &Interpreter,
    publisher: &Publisher,
    steps: &[Value],
    questions: &[Value],
) -> (Vec<Option<String>>, Vec<String>) {
    let told = json!({
        "domain": domain().to_string(),
        "ca": hex::encode(&publisher.ca.spki),
        "steps": steps,
        "questions": questions,
    });
    let answer: Value = serde_json::from_slice(&python.run("revocation.py", told.to_string().as_bytes())).unwrap();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let outcomes = answer["outcomes"].as_array().unwrap().iter().map(text).collect();
    (
        outcomes,
        answer["answers"].as_array().unwrap().iter().filter_map(text).collect(),
    )
}

fn step(what: &str, octets: &[u8], now: UnixTime) -> Value {
    json!({ "what": what, "octets": hex::encode(octets), "now": now.millis() })
}

fn question(cert: &Cert, now: UnixTime) -> Value {
    json!({
        "issuer": hex::encode(cert.issuer.as_bytes()),
        "serial": hex::encode(cert.serial.padded()),
        "not_before": cert.not_before.millis(),
        "not_after": cert.not_after.millis(),
        "id": cert.id.to_string(),
        "spki": hex::encode(cert.spki.as_bytes()),
        "now": now.millis(),
    })
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Good => "good",
        Verdict::Revoked { .. } => "revoked",
        Verdict::Stale => "stale",
        Verdict::NotCovered => "not covered",
    }
}

/// Certificates of every sort: three issuers, lives of minutes, hours and weeks, several names, and some that have ended.
fn certificates() -> Vec<Cert> {
    let sort = |(at, mut cert): (usize, Cert)| {
        cert.issuer = [NATIVE, NATIVE, FOREIGN, STRANGER][at % 4];
        let life = [600, 9_000, 900_000, 600, -5_000][at % 5];
        cert.not_after = UnixTime::from_seconds(START.seconds() + life);
        let name = ["web", "db/main", "db/copy/1", "batch"][at % 7 % 4];
        cert.id = id(&format!("spiffe://dev.test/{name}"));
        cert
    };
    (0..600).map(Cert::new).enumerate().map(sort).collect()
}

/// A history: what was sent, and the follower of ours that took it.
fn history(publisher: &mut Publisher, certs: &[Cert]) -> (Vec<Value>, Replica) {
    let chosen = |from: usize| {
        certs
            .iter()
            .skip(from)
            .step_by(5)
            .filter(|cert| cert.issuer != STRANGER)
            .map(Cert::revoked)
    };
    publisher.revoke(chosen(0).collect(), Vec::new());
    let struck = Cert::new(0);
    let exception = Exception {
        issuer: NATIVE,
        serial: twin(&struck.serial, 1),
    };
    publisher.exceptions = vec![exception];
    let mut ours = publisher.follower();
    let mut steps = vec![step("delegation", &delegation(publisher), publisher.now)];
    let snapshot = publisher.snapshot();
    ours.apply_snapshot(&snapshot, publisher.now).unwrap();
    steps.push(step("object", &snapshot, publisher.now));
    let rules = [
        (
            RuleTarget::Identity(id("spiffe://dev.test/web")),
            Some(START.minus(seconds(30))),
        ),
        (
            RuleTarget::Identity(id("spiffe://dev.test/batch")),
            Some(START.minus(seconds(31))),
        ),
        (
            RuleTarget::Prefix(IdPrefix::parse("spiffe://dev.test/db/copy/*").unwrap()),
            None,
        ),
        (RuleTarget::Key(certs[17].spki), None),
    ];
    for (at, (target, cut)) in rules.into_iter().enumerate() {
        publisher.now = publisher.now.plus(seconds(10));
        publisher.revoke_rule(target, cut);
        publisher.revoke(chosen(at + 1).take(20).collect(), Vec::new());
        let delta = publisher.delta(ours.position().unwrap().sequence);
        ours.apply_delta(&delta, publisher.now).unwrap();
        steps.push(step("object", &delta, publisher.now));
    }
    publisher.now = publisher.now.plus(seconds(30));
    let heartbeat = publisher.heartbeat();
    ours.heartbeat(&heartbeat, publisher.now).unwrap();
    steps.push(step("object", &heartbeat, publisher.now));
    (steps, ours)
}

/// The delegation as it travels.
fn delegation(publisher: &Publisher) -> Vec<u8> {
    let end = START.plus(seconds(86_400));
    let statement = mintage_revocation::DelegationStatement::new(
        &domain(),
        publisher.key.public_key(),
        publisher.epoch,
        end,
        publisher.ca.id(),
    );
    publisher.ca.sign(statement).encode()
}

#[test]
fn a_reader_in_another_language_answers_as_ours_does() {
    let Some(python) = python() else { return };
    let (mut publisher, certs) = (Publisher::new(), certificates());
    let (steps, ours) = history(&mut publisher, &certs);
    let twin = Cert {
        serial: twin(&Cert::new(0).serial, 1),
        ..certs[0].clone()
    };
    let moments = [
        publisher.now,
        publisher.now.plus(seconds(59)),
        publisher.now.plus(seconds(61)),
    ];
    let asked: Vec<(&Cert, UnixTime)> = certs
        .iter()
        .chain([&twin])
        .flat_map(|cert| moments.map(|now| (cert, now)))
        .collect();
    let questions: Vec<Value> = asked.iter().map(|(cert, now)| question(cert, *now)).collect();
    let (outcomes, theirs) = ask(python, &publisher, &steps, &questions);
    assert_eq!(outcomes, vec![None; steps.len()]);
    let view = ours.view();
    let mut seen = std::collections::BTreeSet::new();
    for ((cert, now), theirs) in asked.iter().zip(&theirs) {
        let verdict = word(view.check(&cert.query(), *now));
        assert_eq!(theirs, verdict, "{cert:?} at {now:?}");
        seen.insert(verdict);
    }
    assert_eq!(theirs.len(), asked.len());
    assert_eq!(seen.len(), 4, "every answer was given: {seen:?}");
}

#[test]
fn a_reader_in_another_language_refuses_what_ours_refuses() {
    let Some(python) = python() else { return };
    let (mut publisher, certs) = (Publisher::new(), certificates());
    let (steps, _) = history(&mut publisher, &certs);
    let genuine: Vec<Vec<u8>> = steps
        .iter()
        .map(|step| hex::decode(step["octets"].as_str().unwrap()).unwrap())
        .collect();
    let now = publisher.now;
    let mut altered = Vec::new();
    for octets in &genuine[1..] {
        // A bit in every field of the header, in the signature, and strewn over the body; and every sort of cut.
        let strewn = (0..320).step_by(7).chain((320..octets.len()).step_by(97));
        altered.extend(strewn.map(|at| {
            let mut octets = octets.clone();
            octets[at] ^= 1 << (at % 8);
            octets
        }));
        altered.extend([0, 100, 319, octets.len() - 1].map(|len| octets[..len.min(octets.len())].to_vec()));
        altered.push([&octets[..], &[0]].concat());
    }
    // Genuine, but out of place: a delta before its time, one again that was followed by others, another publisher's.
    altered.push(genuine[3].clone());
    altered.push(Publisher::new().snapshot());
    let mut all = steps[..2].to_vec();
    all.extend(altered.iter().map(|octets| step("object", octets, now)));
    let asked: Vec<Value> = certs.iter().map(|cert| question(cert, now)).collect();
    let (outcomes, after) = ask(python, &publisher, &all, &asked);
    let (_, before) = ask(python, &publisher, &steps[..2], &asked);
    assert!(outcomes[..2].iter().all(Option::is_none));
    for (at, outcome) in outcomes[2..].iter().enumerate() {
        assert!(outcome.is_some(), "altered object {at} was taken");
    }
    assert_eq!(after, before, "what is refused changes nothing");
}

#[test]
fn a_reader_in_another_language_mends_what_it_took_while_the_clock_was_ahead() {
    let Some(python) = python() else { return };
    let (mut publisher, certs) = (Publisher::new(), certificates());
    let chosen = certs.iter().step_by(4).map(Cert::revoked);
    publisher.revoke(chosen.collect(), Vec::new());
    let mut ours = publisher.follower();
    let mut steps = vec![step("delegation", &delegation(&publisher), START)];
    let mut refused = vec![false];
    let (ahead, back) = (START.plus(seconds(3_600)), START.plus(seconds(10)));
    for (now, is_snapshot) in [
        (START, true),
        (ahead, false),
        (back, false),
        (back, true),
        (back, false),
    ] {
        publisher.now = now;
        let (octets, outcome) = if is_snapshot {
            let octets = publisher.snapshot();
            let outcome = ours.apply_snapshot(&octets, now).map(drop);
            (octets, outcome)
        } else {
            let octets = publisher.heartbeat();
            let outcome = ours.heartbeat(&octets, now).map(drop);
            (octets, outcome)
        };
        steps.push(step("object", &octets, now));
        refused.push(outcome.is_err());
    }
    assert_eq!(refused, [false, false, false, true, false, false]);
    let questions: Vec<Value> = certs.iter().map(|cert| question(cert, back)).collect();
    let (outcomes, theirs) = ask(python, &publisher, &steps, &questions);
    assert_eq!(outcomes.iter().map(Option::is_some).collect::<Vec<_>>(), refused);
    for (cert, theirs) in certs.iter().zip(&theirs) {
        assert_eq!(theirs, word(ours.view().check(&cert.query(), back)), "{cert:?}");
    }
    assert!(theirs.iter().any(|answer| answer == "revoked") && theirs.iter().any(|answer| answer == "good"));
}
