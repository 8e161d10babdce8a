//! Where nothing is known nothing is good, whatever the rules of the configuration.

use std::io::Read;

use mintage_identity::{IssuerKeyId, Serial, TrustDomain};
use mintage_revocation::Replica;
use rustls::crypto::ring::default_provider;

use super::*;

#[path = "../../../revocation/tests/publisher/mod.rs"]
mod publisher;

use publisher::{Cert, FOREIGN, NATIVE, Publisher, STRANGER, seconds};

const NOW: UnixTime = UnixTime::from_seconds(1_900_000_000);

fn desk(freshness: FreshnessPolicy, without_certificate: WithoutCertificate) -> Desk {
    let view = Replica::new(&TrustDomain::parse("dev.test").unwrap()).handle();
    let rules = LookupRules {
        freshness,
        without_certificate,
    };
    Desk::new(rules, view)
}

#[test]
fn without_a_set_no_question_is_answered_well_under_any_rules() {
    let no_set = Answer::Unknown(Unknown::NoSet);
    for freshness in [
        FreshnessPolicy::Strict,
        FreshnessPolicy::default(),
        FreshnessPolicy::Open,
    ] {
        let desk = desk(freshness, WithoutCertificate::Principal);
        let asked = Particulars {
            name: Some((IssuerKeyId::new([1; 32]), Serial::from_random([7; 16]))),
            ..Particulars::default()
        };
        assert_eq!(desk.of_shown(&asked.shown(), NOW), no_set);
        assert_eq!(desk.of_principal("spiffe://dev.test/web", NOW), no_set);
        assert_eq!(desk.of_chain(&[vec![0x30, 0]], &default_provider(), NOW), no_set);
        assert!(no_set.is_for_now() && no_set.problem().contains("no revocation set"));
    }
}

#[test]
fn a_connection_without_a_certificate_is_refused_unless_told_otherwise() {
    let answer = desk(FreshnessPolicy::Open, WithoutCertificate::default()).of_principal("spiffe://dev.test/web", NOW);
    assert_eq!(answer.word(), "invalid");
    assert!(
        answer.problem().starts_with("source.certificate: is missing"),
        "{answer:?}"
    );
    let desk = desk(FreshnessPolicy::Open, WithoutCertificate::Principal);
    for nobody in ["", "web.example.org", "CN=web"] {
        assert_eq!(desk.of_principal(nobody, NOW).word(), "invalid", "{nobody}");
    }
}

#[test]
fn what_is_missing_is_named_by_its_field() {
    let missing = Missing {
        spiffe_id: true,
        spki_sha256: false,
        not_before: true,
    };
    let answer = Answer::Unknown(Unknown::Incomplete(missing));
    let problem = answer.problem();
    assert!(problem.starts_with("spiffe_id, not_before_ms: "), "{problem}");
    assert!(
        problem.contains("ask again with it, in the query over HTTP"),
        "{problem}"
    );
    assert_eq!(answer.missing(), ["spiffe_id", "not_before_ms"]);
    assert!(Answer::Good { tolerated: false }.missing().is_empty());
}

#[test]
fn what_is_good_by_an_old_set_is_counted_apart_and_told_as_good() {
    let label = |answer: Answer| (answer.label(), answer.word());
    assert_eq!(label(Answer::Good { tolerated: false }), ("good", "good"));
    assert_eq!(label(Answer::Good { tolerated: true }), ("tolerated", "good"));
    assert_eq!(label(Answer::Revoked(Why::Serial)), ("revoked", "revoked"));
    assert_eq!(label(Answer::Unknown(Unknown::Stale)), ("stale", "stale"));
}

#[test]
fn answers_by_an_old_set_are_logged_as_they_begin_and_as_they_end() {
    let mut log = tempfile::NamedTempFile::new().unwrap();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(log.reopen().unwrap());
    let _logging = tracing::subscriber::set_default(subscriber.finish());
    // What came since the last look.
    let mut lines = || {
        let mut text = String::new();
        log.read_to_string(&mut text).unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let desk = desk(FreshnessPolicy::Open, WithoutCertificate::default());
    let note = |tolerated| desk.note(&Answer::Good { tolerated });
    note(false);
    assert_eq!(lines(), [""; 0]);
    note(true);
    desk.note(&Answer::Revoked(Why::Serial));
    note(true);
    let told = lines();
    assert!(told.len() == 1 && told[0].contains("not fresh"), "{told:?}");
    note(false);
    note(false);
    let told = lines();
    assert!(
        told.len() == 1 && told[0].contains("by a fresh revocation set again"),
        "{told:?}"
    );
}

#[test]
fn an_old_set_is_told_by_the_configured_freshness_and_revoked_stands_at_any_age() {
    let mut publisher = Publisher::new();
    let (good, bad) = (Cert::new(1), Cert::new(2));
    publisher.revoke_serial(&bad);
    let mut stranger = Cert::new(3);
    stranger.issuer = STRANGER;
    assert!([NATIVE, FOREIGN].contains(&good.issuer));
    let follower = publisher.current_follower();
    let of = |freshness, cert: &Cert, age: u64| {
        let rules = LookupRules {
            freshness,
            ..LookupRules::default()
        };
        let asked = Particulars {
            name: Some((cert.issuer, cert.serial)),
            ..Particulars::default()
        };
        let desk = Desk::new(rules, follower.handle());
        desk.of_shown(&asked.shown(), publisher.now.plus(seconds(age)))
    };
    let (strict, bounded, open) = (
        FreshnessPolicy::Strict,
        FreshnessPolicy::default(),
        FreshnessPolicy::Open,
    );
    for (freshness, age, wanted) in [
        (strict, 59, Answer::Good { tolerated: false }),
        (strict, 60, Answer::Unknown(Unknown::Stale)),
        (bounded, 60, Answer::Good { tolerated: true }),
        (bounded, 600, Answer::Good { tolerated: true }),
        (bounded, 601, Answer::Unknown(Unknown::Stale)),
        (open, 3_000, Answer::Good { tolerated: true }),
    ] {
        assert_eq!(of(freshness, &good, age), wanted, "{freshness:?} after {age} s");
        assert_eq!(of(freshness, &bad, age), Answer::Revoked(Why::Serial), "{freshness:?}");
        assert_eq!(of(freshness, &stranger, age), Answer::Unknown(Unknown::NotCovered));
    }
}
