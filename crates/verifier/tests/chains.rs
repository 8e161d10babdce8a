//! Chains against a snapshot, without a handshake: which are taken, which are refused, and for which reason.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use mintage_identity::{IdPrefix, SpkiHash, UnixTime};
use mintage_revocation::FreshnessPolicy;
use mintage_verifier::{
    AllowedIds, RevocationCheck, Trust, TrustError, Usage, VerifiedPeer, VerifyError,
    limits::{CERT_BYTES_MAX, CHAIN_CERTS_MAX, ROOTS_PER_DOMAIN_MAX},
};
use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use rustls::CertificateError;
use rustls_pki_types::CertificateDer;
use support::{Ca, FakeView, Leaf, LeafSpec, domain, id, now, trust};

const WEB: &str = "spiffe://a.test/web";

fn checked() -> RevocationCheck {
    RevocationCheck::required(FakeView::fresh())
}

fn verify_at(trust: &Trust, chain: &[CertificateDer<'_>], at: UnixTime) -> Result<VerifiedPeer, VerifyError> {
    let algorithms = support::provider().signature_verification_algorithms;
    trust.verify(chain, Usage::Both, &AllowedIds::OwnTrustDomain, &algorithms, at)
}

fn verify(trust: &Trust, leaf: &Leaf) -> Result<VerifiedPeer, VerifyError> {
    verify_at(trust, &leaf.chain, now())
}

#[track_caller]
fn assert_code(outcome: Result<VerifiedPeer, VerifyError>, code: &str) -> VerifyError {
    let error = outcome.unwrap_err();
    assert_eq!(error.code(), code, "{error}");
    error
}

#[track_caller]
fn assert_path(outcome: Result<VerifiedPeer, VerifyError>, wanted: fn(&CertificateError) -> bool) {
    let error = outcome.unwrap_err();
    let VerifyError::Path(path) = &error else {
        panic!("{error}")
    };
    assert!(wanted(path), "{path:?}");
}

#[test]
fn a_good_chain_names_its_peer_and_every_issuer() {
    let root = Ca::root("root");
    let (cell, replica) = {
        let cell = root.intermediate("cell");
        let replica = cell.intermediate("replica");
        (cell, replica)
    };
    let leaf = replica.good_leaf(WEB);
    let peer = verify(&trust("a.test", &root, checked()), &leaf).unwrap();
    assert_eq!(peer.id(), &id(WEB));
    assert_eq!((peer.serial(), peer.issuer()), (&leaf.serial, &replica.key_id()));
    let links: Vec<_> = peer.path().iter().map(|link| (link.issuer, link.serial)).collect();
    let expected = [
        (replica.key_id(), leaf.serial),
        (cell.key_id(), replica.serial),
        (root.key_id(), cell.serial),
    ];
    assert_eq!(links, expected);
    assert_eq!(peer.path()[1].spki_sha256, SpkiHash::new(*replica.key_id().as_bytes()));
    assert_eq!(peer.root_key(), &root.key_id());
    assert_eq!(peer.valid_until(), UnixTime::from_seconds(support::NOW as i64 + 600));
}

#[test]
fn a_leaf_directly_below_the_root_is_good_with_and_without_the_root_sent() {
    let root = Ca::root("root");
    let mut leaf = root.good_leaf(WEB);
    let trust = trust("a.test", &root, checked());
    assert_eq!(verify(&trust, &leaf).unwrap().issuer(), &root.key_id());
    leaf.chain.push(root.der.clone());
    assert_eq!(verify(&trust, &leaf).unwrap().path().len(), 1);
}

#[test]
fn no_certificate_is_refused() {
    let trust = trust("a.test", &Ca::root("root"), checked());
    assert_code(verify_at(&trust, &[], now()), "no_certificate");
}

#[test]
fn two_uri_names_are_refused_whatever_the_second_is() {
    let root = Ca::root("root");
    let trust = trust("a.test", &root, checked());
    for second in ["spiffe://a.test/db", "https://a.test/", WEB] {
        let mut spec = LeafSpec::good(WEB);
        spec.uris.push(second.to_owned());
        assert_code(verify(&trust, &root.leaf(spec)), "bad_leaf");
    }
}

#[test]
fn a_leaf_without_names_is_refused() {
    let root = Ca::root("root");
    let mut spec = LeafSpec::good(WEB);
    spec.uris.clear();
    assert_code(verify(&trust("a.test", &root, checked()), &root.leaf(spec)), "bad_leaf");
}

#[test]
fn malformed_spiffe_ids_are_refused() {
    let root = Ca::root("root");
    let trust = trust("a.test", &root, checked());
    let long = format!("spiffe://a.test/{}", "x".repeat(2049 - "spiffe://a.test/".len()));
    assert_eq!(long.len(), 2049);
    for bad in [
        "spiffe://A.test/web",
        "SPIFFE://a.test/web",
        "spiffe://a.test",
        "spiffe://a.test/",
        "spiffe://a.test/web/",
        "spiffe://a.test//web",
        "spiffe://a.test/../web",
        "spiffe://a.test/%77eb",
        "spiffe://a.test:443/web",
        "spiffe://u@a.test/web",
        "spiffe://a.test/web?x",
        "spiffe://a.test/web#x",
        "https://a.test/web",
        long.as_str(),
    ] {
        assert_code(verify(&trust, &root.good_leaf(bad)), "bad_leaf");
    }
    // The longest id allowed passes.
    assert!(verify(&trust, &root.good_leaf(&long[..2048])).is_ok());
}

#[test]
fn a_ca_certificate_as_leaf_is_refused() {
    let root = Ca::root("root");
    let trust = trust("a.test", &root, checked());
    let mut spec = LeafSpec::good(WEB);
    spec.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    assert_code(verify(&trust, &root.leaf(spec)), "bad_leaf");
    let mut spec = LeafSpec::good(WEB);
    spec.key_usages.push(KeyUsagePurpose::KeyCertSign);
    assert_code(verify(&trust, &root.leaf(spec)), "bad_leaf");
    // The issuer itself cannot stand in for a workload.
    assert_code(verify_at(&trust, std::slice::from_ref(&root.der), now()), "bad_leaf");
}

#[test]
fn one_sided_extended_key_usage_is_refused() {
    let root = Ca::root("root");
    let trust = trust("a.test", &root, checked());
    for purpose in [
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::CodeSigning,
    ] {
        let mut spec = LeafSpec::good(WEB);
        spec.purposes = vec![purpose];
        assert_code(verify(&trust, &root.leaf(spec)), "bad_leaf");
    }
    let mut spec = LeafSpec::good(WEB);
    spec.purposes.clear();
    assert!(verify(&trust, &root.leaf(spec)).is_ok());
}

#[test]
fn a_foreign_root_is_refused_even_under_the_same_name() {
    let (root, impostor) = (Ca::root("root"), Ca::root("root"));
    let trust = trust("a.test", &root, checked());
    let other_name = Ca::root("other").good_leaf(WEB);
    assert_path(verify(&trust, &other_name), |error| {
        matches!(error, CertificateError::UnknownIssuer)
    });
    // Same name, other key: found by name, refused by signature.
    assert_path(verify(&trust, &impostor.good_leaf(WEB)), |error| {
        matches!(error, CertificateError::BadSignature)
    });
    // Sending the impostor's root along does not help.
    let mut leaf = impostor.good_leaf(WEB);
    leaf.chain.push(impostor.der.clone());
    assert!(verify(&trust, &leaf).is_err());
}

#[test]
fn a_self_signed_leaf_is_refused() {
    let trust = trust("a.test", &Ca::root("root"), checked());
    for name in ["me", "root"] {
        assert!(
            verify(&trust, &LeafSpec::good(WEB).self_signed(name)).is_err(),
            "{name}"
        );
    }
}

#[test]
fn an_intermediate_of_the_same_name_with_another_key_is_refused() {
    let root = Ca::root("root");
    let (real, fake) = (
        root.intermediate("issuing"),
        Ca::root("elsewhere").intermediate("issuing"),
    );
    let mut leaf = fake.good_leaf(WEB);
    leaf.chain[1] = real.der.clone();
    assert!(verify(&trust("a.test", &root, checked()), &leaf).is_err());
}

#[test]
fn a_flipped_bit_in_the_signature_is_refused() {
    let root = Ca::root("root");
    let leaf = root.good_leaf(WEB);
    let mut der = leaf.chain[0].to_vec();
    *der.last_mut().unwrap() ^= 1;
    let outcome = verify_at(&trust("a.test", &root, checked()), &[der.into()], now());
    assert_path(outcome, |error| matches!(error, CertificateError::BadSignature));
}

#[test]
fn expiry_and_start_are_judged_by_the_given_time() {
    let root = Ca::root("root");
    let trust = trust("a.test", &root, checked());
    let leaf = root.good_leaf(WEB);
    let at = |seconds: i64| UnixTime::from_seconds(support::NOW as i64 + seconds);
    let expired = |error: &CertificateError| matches!(error, CertificateError::ExpiredContext { .. });
    let early = |error: &CertificateError| matches!(error, CertificateError::NotValidYetContext { .. });
    assert!(verify_at(&trust, &leaf.chain, at(600)).is_ok());
    assert_path(verify_at(&trust, &leaf.chain, at(601)), expired);
    assert!(verify_at(&trust, &leaf.chain, at(-30)).is_ok());
    assert_path(verify_at(&trust, &leaf.chain, at(-31)), early);
    // Neither 1970 nor the far future is an opening.
    assert_path(verify_at(&trust, &leaf.chain, UnixTime::from_seconds(-1)), early);
    assert_path(verify_at(&trust, &leaf.chain, UnixTime::from_millis(i64::MAX)), expired);
}

#[test]
fn an_expired_intermediate_and_an_expired_root_are_refused() {
    let root = Ca::root_until("root", 300);
    let trust = trust("a.test", &root, checked());
    let leaf = root.good_leaf(WEB);
    let at = |seconds: i64| UnixTime::from_seconds(support::NOW as i64 + seconds);
    assert!(verify_at(&trust, &leaf.chain, at(300)).is_ok());
    assert_code(verify_at(&trust, &leaf.chain, at(301)), "root_out_of_date");

    let root = Ca::root("root");
    let leaf = root.intermediate("issuing").leaf(LeafSpec {
        ends: i64::from(u32::MAX),
        ..LeafSpec::good(WEB)
    });
    let trust = support::trust("a.test", &root, checked());
    assert!(verify(&trust, &leaf).is_ok());
    assert!(verify_at(&trust, &leaf.chain, at(365 * 86_400 / 2 + 1)).is_err());
}

#[test]
fn another_trust_domains_id_under_our_root_is_refused() {
    let (ours, theirs) = (Ca::root("ours"), Ca::root("theirs"));
    let leaf = ours.good_leaf("spiffe://b.test/web");
    // Without a bundle of that domain there is nothing to verify against.
    assert_code(
        verify(&trust("a.test", &ours, checked()), &leaf),
        "unknown_trust_domain",
    );
    // With one, only its own roots count: bundles are never pooled.
    let both = Trust::builder(domain("a.test"))
        .domain(domain("a.test"), [ours.der.to_vec()], checked())
        .unwrap()
        .domain(domain("b.test"), [theirs.der.to_vec()], checked())
        .unwrap()
        .build();
    assert_path(verify(&both, &leaf), |error| {
        matches!(error, CertificateError::UnknownIssuer)
    });
    // Their own certificate is proven, and still not among the allowed ids.
    let proven = theirs.good_leaf("spiffe://b.test/web");
    assert_code(verify(&both, &proven), "not_allowed");
    let algorithms = support::provider().signature_verification_algorithms;
    let allowed = AllowedIds::prefixes([IdPrefix::parse("spiffe://b.test/*").unwrap()]).unwrap();
    assert!(
        both.verify(&proven.chain, Usage::Both, &allowed, &algorithms, now())
            .is_ok()
    );
}

#[test]
fn an_intermediate_of_another_trust_domain_is_refused() {
    let root = Ca::root("root");
    let with_id = |text: &'static str| {
        root.intermediate_with("issuing", |params| {
            params.subject_alt_names = vec![SanType::URI(text.try_into().unwrap())];
        })
    };
    let trust = trust("a.test", &root, checked());
    assert!(verify(&trust, &with_id("spiffe://a.test").good_leaf(WEB)).is_ok());
    assert_code(
        verify(&trust, &with_id("spiffe://b.test").good_leaf(WEB)),
        "foreign_issuer",
    );
    assert_code(
        verify(&trust, &with_id("spiffe://a.test/issuing").good_leaf(WEB)),
        "bad_issuer",
    );
}

#[test]
fn an_intermediate_that_may_not_sign_is_refused() {
    let root = Ca::root("root");
    let trust = trust("a.test", &root, checked());
    // webpki does not look at the key usage of issuers.
    let no_signing = root.intermediate_with("issuing", |params| {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    });
    assert_code(verify(&trust, &no_signing.good_leaf(WEB)), "bad_issuer");
    let no_ca = root.intermediate_with("issuing", |params| params.is_ca = IsCa::ExplicitNoCa);
    assert!(verify(&trust, &no_ca.good_leaf(WEB)).is_err());
    let no_room = root.intermediate_with("issuing", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    });
    assert!(verify(&trust, &no_room.good_leaf(WEB)).is_ok());
    assert!(verify(&trust, &no_room.intermediate("deeper").good_leaf(WEB)).is_err());
}

#[test]
fn a_chain_of_thirty_certificates_is_refused_before_anything_is_parsed() {
    let trust = trust("a.test", &Ca::root("root"), checked());
    let garbage: Vec<_> = (0..30).map(|n| CertificateDer::from(vec![n; 10])).collect();
    assert_code(verify_at(&trust, &garbage, now()), "chain_too_long");
    let fits = &garbage[..CHAIN_CERTS_MAX];
    assert_code(verify_at(&trust, fits, now()), "bad_leaf");
}

#[test]
fn chains_of_many_bytes_are_refused_before_anything_is_parsed() {
    let trust = trust("a.test", &Ca::root("root"), checked());
    let one = vec![CertificateDer::from(vec![0x30; CERT_BYTES_MAX + 1])];
    assert_code(verify_at(&trust, &one, now()), "chain_too_large");
    let many = vec![CertificateDer::from(vec![0x30; CERT_BYTES_MAX]); 4];
    assert_code(verify_at(&trust, &many, now()), "chain_too_large");
    let megabyte = vec![CertificateDer::from(vec![0x30; 1 << 20])];
    assert_code(verify_at(&trust, &megabyte, now()), "chain_too_large");
}

#[test]
fn certificates_beside_the_path_are_left_out() {
    let root = Ca::root("root");
    let issuing = root.intermediate("issuing");
    let mut leaf = issuing.good_leaf(WEB);
    leaf.chain.insert(1, Ca::root("stranger").der);
    leaf.chain.push(root.der.clone());
    let peer = verify(&trust("a.test", &root, checked()), &leaf).unwrap();
    assert_eq!(peer.path().len(), 2);
}

#[test]
fn issuers_of_one_shared_name_do_not_multiply_the_work() {
    // Seven certificates of the root's own name, each its own issuer by name: tried in every order they would use up
    // webpki's whole budget of signature checks, 100 of them.
    let root = Ca::root("root");
    let trust = trust("a.test", &root, checked());
    let good = root.good_leaf(WEB);
    let mut same = vec![Ca::root("root").good_leaf(WEB).chain[0].clone()];
    same.extend((1..CHAIN_CERTS_MAX).map(|_| Ca::root("root").der));
    // Two names that point at each other in turn, one of them the root's.
    let mut turns = vec![Ca::root("other").good_leaf(WEB).chain[0].clone()];
    for _ in 0..CHAIN_CERTS_MAX / 2 {
        turns.push(Ca::root("root").intermediate("other").der);
        turns.push(Ca::root("other").intermediate("root").der);
    }
    turns.truncate(CHAIN_CERTS_MAX);
    let fastest = |chain: &[CertificateDer<'_>], is_ok: bool| {
        let once = || {
            let start = std::time::Instant::now();
            assert_eq!(verify_at(&trust, chain, now()).is_ok(), is_ok);
            start.elapsed()
        };
        (0..20).map(|_| once()).min().unwrap()
    };
    let one = fastest(&good.chain, true);
    for hostile in [same, turns] {
        let many = fastest(&hostile, false);
        assert!(many < 20 * one, "a good chain takes {one:?}, a hostile one {many:?}");
    }
}

#[test]
fn a_bundle_without_roots_makes_all_its_certificates_invalid() {
    let root = Ca::root("root");
    let empty = Trust::builder(domain("a.test"))
        .domain(domain("a.test"), [], checked())
        .unwrap()
        .build();
    assert_path(verify(&empty, &root.good_leaf(WEB)), |error| {
        matches!(error, CertificateError::UnknownIssuer)
    });
}

#[test]
fn roots_that_may_not_sign_and_domains_given_twice_are_refused() {
    let root = Ca::root("root");
    let leaf = root.good_leaf(WEB);
    let builder = || Trust::builder(domain("a.test"));
    let bad = builder().domain(domain("a.test"), [leaf.chain[0].to_vec()], checked());
    assert!(matches!(bad.unwrap_err(), TrustError::Root { index: 0, .. }));
    let bad = builder().domain(domain("a.test"), [vec![0x30, 0]], checked());
    assert!(matches!(bad.unwrap_err(), TrustError::Root { .. }));
    let twice = builder()
        .domain(domain("a.test"), [root.der.to_vec()], checked())
        .unwrap()
        .domain(domain("a.test"), [], checked());
    assert!(matches!(twice.unwrap_err(), TrustError::DuplicateDomain(_)));
    let many = std::iter::repeat_n(root.der.to_vec(), ROOTS_PER_DOMAIN_MAX + 1);
    let bad = builder().domain(domain("a.test"), many, checked());
    assert!(matches!(bad.unwrap_err(), TrustError::TooManyRoots { .. }));
}

#[test]
fn a_revoked_leaf_is_refused_and_its_neighbour_is_not() {
    let root = Ca::root("root");
    let issuing = root.intermediate("issuing");
    let (bad, good) = (issuing.good_leaf(WEB), issuing.good_leaf(WEB));
    let view = FakeView::fresh();
    view.revoke(issuing.key_id(), bad.serial);
    // The same serial of another issuer says nothing about ours.
    view.revoke(root.key_id(), good.serial);
    let trust = trust("a.test", &root, RevocationCheck::required(view));
    assert_code(verify(&trust, &bad), "revoked");
    assert!(verify(&trust, &good).is_ok());
}

#[test]
fn a_revoked_intermediate_takes_everything_below_with_it() {
    let root = Ca::root("root");
    let cell = root.intermediate("cell");
    let (one, other) = (cell.intermediate("one"), cell.intermediate("other"));
    let view = FakeView::fresh();
    view.revoke(cell.key_id(), one.serial);
    let trust = trust("a.test", &root, RevocationCheck::required(view.clone()));
    assert_code(verify(&trust, &one.good_leaf(WEB)), "revoked");
    assert!(verify(&trust, &other.good_leaf(WEB)).is_ok());
    view.revoke(root.key_id(), cell.serial);
    assert_code(verify(&trust, &other.good_leaf(WEB)), "revoked");
}

#[test]
fn a_leaf_of_unknown_status_does_not_hide_that_its_issuing_certificate_is_revoked() {
    let root = Ca::root("root");
    let (cell, issuing) = (root.intermediate("cell"), root.intermediate("issuing"));
    for (view, unknown) in [
        (FakeView::aged(1_000_000), "revocation_stale"),
        (FakeView::covering_nothing(), "not_covered"),
    ] {
        view.revoke(root.key_id(), issuing.serial);
        let known = trust("a.test", &root, RevocationCheck::None);
        let trust = trust("a.test", &root, RevocationCheck::required(view));
        assert_code(verify(&trust, &cell.good_leaf(WEB)), unknown);
        assert_code(verify(&trust, &issuing.good_leaf(WEB)), "revoked");
        let peer = verify(&known, &issuing.good_leaf(WEB)).unwrap();
        assert_eq!(trust.recheck(&peer, now()).unwrap_err().code(), "revoked");
    }
}

#[test]
fn a_stale_filter_is_judged_by_the_policy() {
    let root = Ca::root("root");
    let leaf = root.good_leaf(WEB);
    let judge = |age: u64, freshness: FreshnessPolicy| {
        let view = Some(FakeView::aged(age) as Arc<dyn mintage_verifier::RevocationView>);
        verify(
            &trust("a.test", &root, RevocationCheck::Required { view, freshness }),
            &leaf,
        )
    };
    assert!(judge(59, FreshnessPolicy::Strict).is_ok());
    assert_code(judge(60, FreshnessPolicy::Strict), "revocation_stale");
    assert!(judge(600, FreshnessPolicy::default()).is_ok());
    assert_code(judge(601, FreshnessPolicy::default()), "revocation_stale");
    assert!(judge(1_000_000, FreshnessPolicy::Open).is_ok());
}

#[test]
fn a_stale_filter_still_refuses_what_it_knows_to_be_revoked() {
    let root = Ca::root("root");
    let leaf = root.good_leaf(WEB);
    let view = FakeView::aged(1_000_000);
    view.revoke(root.key_id(), leaf.serial);
    let check = RevocationCheck::Required {
        view: Some(view),
        freshness: FreshnessPolicy::Open,
    };
    assert_code(verify(&trust("a.test", &root, check), &leaf), "revoked");
}

#[test]
fn no_filter_refuses_under_every_policy() {
    let root = Ca::root("root");
    let leaf = root.good_leaf(WEB);
    assert_code(
        verify(&trust("a.test", &root, RevocationCheck::not_yet_known()), &leaf),
        "no_revocation_filter",
    );
    for freshness in [
        FreshnessPolicy::Strict,
        FreshnessPolicy::default(),
        FreshnessPolicy::Open,
    ] {
        let check = RevocationCheck::Required { view: None, freshness };
        assert_code(verify(&trust("a.test", &root, check), &leaf), "no_revocation_filter");
    }
}

#[test]
fn what_the_filter_does_not_cover_is_refused_unless_the_domain_has_no_revocation() {
    let root = Ca::root("root");
    let leaf = root.good_leaf(WEB);
    let blind = RevocationCheck::required(FakeView::covering_nothing());
    assert_code(verify(&trust("a.test", &root, blind), &leaf), "not_covered");
    assert!(verify(&trust("a.test", &root, RevocationCheck::None), &leaf).is_ok());
}

#[test]
fn allowed_ids_are_judged_after_the_proof() {
    let root = Ca::root("root");
    let trust = trust("a.test", &root, checked());
    let algorithms = support::provider().signature_verification_algorithms;
    let allowed = AllowedIds::exact([id("spiffe://a.test/db")]).unwrap();
    let with = |leaf: &Leaf| trust.verify(&leaf.chain, Usage::Both, &allowed, &algorithms, now());
    assert!(with(&root.good_leaf("spiffe://a.test/db")).is_ok());
    assert_code(with(&root.good_leaf(WEB)), "not_allowed");
    // An unproven certificate learns nothing about who is allowed.
    assert_code(with(&Ca::root("root").good_leaf(WEB)), "bad_path");
}

#[test]
fn a_recheck_sees_expiry_revocation_and_a_removed_root() {
    let root = Ca::root("root");
    let issuing = root.intermediate("issuing");
    let leaf = issuing.good_leaf(WEB);
    let view = FakeView::fresh();
    let trust = trust("a.test", &root, RevocationCheck::required(view.clone()));
    let peer = verify(&trust, &leaf).unwrap();
    assert!(trust.recheck(&peer, now()).is_ok());
    let late = UnixTime::from_seconds(support::NOW as i64 + 601);
    assert_eq!(trust.recheck(&peer, late).unwrap_err().code(), "expired");
    let elsewhere = support::trust("a.test", &Ca::root("root"), checked());
    assert_eq!(elsewhere.recheck(&peer, now()).unwrap_err().code(), "root_removed");
    let nowhere = support::trust("b.test", &root, checked());
    assert_eq!(
        nowhere.recheck(&peer, now()).unwrap_err().code(),
        "unknown_trust_domain"
    );
    view.revoke(root.key_id(), issuing.serial);
    assert_eq!(trust.recheck(&peer, now()).unwrap_err().code(), "revoked");
}
