//! Questions about certificates that are known in part: whatever is left out, an answer that is given is the answer that the
//! whole certificate gets, and what is asked for brings it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod publisher;

use mintage_identity::{IdPrefix, SpkiHash, UnixTime};
use mintage_revocation::{Missing, RuleTarget, Shown, Verdict, View, Why};
use publisher::{Cert, FOREIGN, NATIVE, Publisher, START, STRANGER, id, seconds};

/// A certificate without the fields whose bit is 0.
fn shown(cert: &Cert, given: u8) -> Shown<'_> {
    let is_given = |bit: u8| given & (1 << bit) != 0;
    Shown {
        name: Some((cert.issuer, &cert.serial)),
        spiffe_id: is_given(0).then_some(&cert.id),
        spki_sha256: is_given(1).then_some(cert.spki),
        not_before: is_given(2).then_some(cert.not_before),
        not_after: is_given(3).then_some(cert.not_after),
    }
}

/// Asks in all sixteen ways; how many were answered.
fn agree(view: &View, cert: &Cert, now: UnixTime) -> usize {
    let whole = cert.check(view, now);
    let mut answered = 0;
    for given in 0..16 {
        match view.check_shown(&shown(cert, given), now) {
            Ok(verdict) => {
                assert_eq!(verdict, whole, "{cert:?} with fields {given:04b}");
                answered += 1;
            }
            Err(missing) => {
                assert!(!missing.is_nothing());
                let wanted = [missing.spiffe_id, missing.spki_sha256, missing.not_before];
                let more = (0..3).filter(|&bit| wanted[bit]).fold(given, |all, bit| all | 1 << bit);
                assert_ne!(more, given, "what is asked for was not given");
                // A rule that is now seen may have a cut.
                let again = view.check_shown(&shown(cert, more | 0b100), now);
                assert_eq!(again, Ok(whole), "{cert:?} with fields {more:04b}");
            }
        }
    }
    answered
}

#[test]
fn without_rules_issuer_and_serial_are_enough() {
    let mut publisher = Publisher::new();
    let certs: Vec<Cert> = (0..200).map(Cert::new).collect();
    certs.iter().step_by(3).for_each(|cert| publisher.revoke_serial(cert));
    let view = publisher.current_follower().view();
    for cert in &certs {
        assert_eq!(agree(&view, cert, publisher.now), 16);
    }
    let mut stranger = Cert::new(7);
    stranger.issuer = STRANGER;
    assert_eq!(
        view.check_shown(&shown(&stranger, 0), publisher.now),
        Ok(Verdict::NotCovered)
    );
}

#[test]
fn under_rules_every_answer_is_the_one_of_the_whole_certificate() {
    let mut publisher = Publisher::new();
    let mut certs: Vec<Cert> = (0..120).map(Cert::new).collect();
    for (at, cert) in certs.iter_mut().enumerate() {
        cert.issuer = [NATIVE, FOREIGN][at % 2];
        cert.id = id(["spiffe://dev.test/web", "spiffe://dev.test/db/a", "spiffe://dev.test/x"][at % 3]);
        cert.not_before = cert.not_before.plus(seconds(at as u64 % 5 * 10));
    }
    let cut = certs[2].not_before.plus(seconds(15));
    publisher.revoke_rule(RuleTarget::Identity(id("spiffe://dev.test/web")), Some(cut));
    publisher.revoke_rule(
        RuleTarget::Prefix(IdPrefix::parse("spiffe://dev.test/db/*").unwrap()),
        None,
    );
    publisher.revoke_rule(RuleTarget::Key(certs[5].spki), None);
    publisher.revoke_serial(&certs[8]);
    let view = publisher.current_follower().view();
    let moments = [publisher.now, publisher.now.plus(seconds(61))];
    let answered: usize = certs
        .iter()
        .flat_map(|cert| moments.map(|now| agree(&view, cert, now)))
        .sum();
    let asked = certs.len() * moments.len() * 16;
    assert!(answered > asked / 8 && answered < asked, "{answered} of {asked}");
    assert_eq!(
        view.check_shown(&shown(&certs[2], 0), publisher.now),
        Err(Missing {
            spiffe_id: true,
            spki_sha256: true,
            not_before: false
        })
    );
}

#[test]
fn a_certificate_that_began_after_every_cut_needs_no_name_and_no_key() {
    let mut publisher = Publisher::new();
    let cut = publisher.now;
    let (old, mut new) = (Cert::new(1), Cert::new(2));
    new.not_before = cut.plus(seconds(1));
    publisher.revoke_rule(RuleTarget::Identity(id("spiffe://dev.test/db")), Some(cut));
    let began = |cert: &'_ Cert, view: &View| {
        let missing = view.check_shown(&shown(cert, 0b100), START);
        agree(view, cert, START);
        missing
    };
    let view = publisher.current_follower().view();
    let no_name = Missing {
        spiffe_id: true,
        ..Missing::default()
    };
    assert_eq!(began(&old, &view), Err(no_name));
    assert_eq!(began(&new, &view), Ok(Verdict::Good));
    // Rules without a cut reach everything.
    publisher.revoke_rule(RuleTarget::Key(SpkiHash::new([3; 32])), None);
    let view = publisher.current_follower().view();
    let no_key = Missing {
        spki_sha256: true,
        ..Missing::default()
    };
    assert_eq!(began(&new, &view), Err(no_key));
}

#[test]
fn a_name_alone_is_struck_by_rules_alone() {
    let mut publisher = Publisher::new();
    let (web, db) = (id("spiffe://dev.test/web"), id("spiffe://dev.test/db"));
    let named = |name| Shown {
        name: None,
        spiffe_id: Some(name),
        spki_sha256: None,
        not_before: None,
        not_after: None,
    };
    let view = publisher.current_follower().view();
    assert_eq!(view.check_shown(&named(&web), publisher.now), Ok(Verdict::Good));
    publisher.revoke_rule(RuleTarget::Identity(web.clone()), None);
    publisher.revoke_rule(RuleTarget::Identity(db.clone()), Some(publisher.now));
    let view = publisher.current_follower().view();
    let by_name = Verdict::Revoked { why: Why::Identity };
    assert_eq!(view.check_shown(&named(&web), publisher.now), Ok(by_name));
    let missing = view.check_shown(&named(&db), publisher.now).unwrap_err();
    assert!(missing.not_before, "an older certificate or a newer one");
    assert_eq!(
        View::none().check_shown(&named(&web), publisher.now),
        Ok(Verdict::Stale)
    );
}
