//! The whole way from Grant to Issued, and every door on it that must stay shut.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use mintage_identity::{AgentInstance, ReplicaName, RequestId, SpiffeId, Ttl, UnixTime};
use mintage_ledger::{Actor, CommitError, Committer, CommitterLimits, EncodedRecord, Kind, Receipt};
use mintage_policy::{NothingYet, Profile, grant_replica};
use mintage_svid::{LeafInfo, X509Svid, key_matches, verify_issued};
use proptest::prelude::*;

use crate::{
    AwaitingReceipt, CaDates, Issuer, MintError, RecordContext,
    kit::{Ca, MemoryJournal, NOW, ca, ca_with, domain, entry, grant, grant_for, openssl_ok, serial, workload_key},
    limits::{ISSUER_MARGIN, LAST_SECOND},
    prepare,
};

fn context(salt: u8) -> RecordContext {
    RecordContext {
        actor: Actor::Agent {
            id: SpiffeId::parse("spiffe://dev.test/mintage/agent/n1").unwrap(),
            instance: AgentInstance(4),
            serial: Some(serial(9)),
        },
        request_id: Some(RequestId::new([3; 16])),
        replica: ReplicaName::parse("r1").unwrap(),
        time: NOW,
        salt: [salt; 16],
    }
}

fn sealed(issuer: &Issuer, salt: u8) -> (AwaitingReceipt, EncodedRecord) {
    let prepared = prepare(grant(), workload_key().1, serial(salt), NOW, issuer).unwrap();
    prepared.sign(issuer).unwrap().seal(context(salt)).unwrap()
}

fn commit(journal: &Arc<MemoryJournal>, records: Vec<(EncodedRecord, u64)>) -> Vec<Result<Receipt, CommitError>> {
    let (committer, commits) = Committer::start(journal.clone(), CommitterLimits::default()).unwrap();
    let outcomes = commits.submit(records).wait();
    committer.stop();
    outcomes
}

#[test]
fn a_grant_becomes_a_certificate_that_says_exactly_that() {
    let Ca { issuing, root } = ca();
    let mut raw = entry();
    raw.dns_names = vec!["web.dev.test".into(), "a.dev.test".into()];
    raw.common_name = "web.dev.test".into();
    raw.ttl_seconds = 3600;
    let (pkcs8, key) = workload_key();
    let (spki, spki_sha256) = (key.spki_der().to_vec(), key.spki_sha256());
    let prepared = prepare(grant_for(&raw, None, NOW), key, serial(7), NOW, &issuing).unwrap();
    assert_eq!(*prepared.serial(), serial(7));
    let sealed = prepared.sign(&issuing).unwrap();
    assert_eq!(sealed.decided_at(), 18);
    let (waiting, record) = sealed.seal(context(1)).unwrap();
    assert_eq!((record.kind(), record.is_restricting()), (Kind::Issue, false));
    let receipt = commit(&MemoryJournal::new(), vec![(record, 18)]).remove(0).unwrap();
    let issued = waiting.release(receipt).unwrap();

    let svid = X509Svid::parse(issued.chain_der()).unwrap();
    assert_eq!(svid.chain_der().len(), 2);
    let leaf = svid.leaf();
    assert_eq!(leaf.id().as_str(), "spiffe://dev.test/demo/web");
    assert_eq!(leaf.dns_names(), ["web.dev.test", "a.dev.test"]);
    assert_eq!(leaf.common_name(), Some("web.dev.test"));
    assert_eq!(leaf.spki_der(), spki);
    assert_eq!(*leaf.serial(), serial(7));
    assert_eq!(leaf.not_before(), NOW.floor_to_second().minus(Duration::from_secs(30)));
    assert_eq!(leaf.not_after(), NOW.floor_to_second().plus(Duration::from_secs(3600)));
    assert_eq!(leaf.issuer_raw(), issuing.info().subject_raw());
    assert_eq!(leaf.authority_key_id(), issuing.info().subject_key_id());
    assert_eq!(key_matches(issued.leaf_der(), &pkcs8), Ok(true));
    verify_issued(issued.leaf_der(), issuing.info().spki_der()).unwrap();
    verify_issued(&svid.chain_der()[1], root.info().spki_der()).unwrap();

    assert_eq!(issued.spiffe_id(), leaf.id());
    assert_eq!((issued.serial(), issued.issuer()), (leaf.serial(), issuing.key_id()));
    assert_eq!(
        (issued.not_before(), issued.not_after()),
        (leaf.not_before(), leaf.not_after())
    );
    assert_eq!(
        (issued.spki_sha256(), issued.profile()),
        (spki_sha256, Profile::Workload)
    );
    assert_eq!(issued.receipt().leaf_index(), 0);
    assert_eq!(issued.chain_below_root(), &svid.chain_der()[1..]);
}

#[test]
fn openssl_verifies_the_chain_strictly_for_both_purposes() {
    let dir = tempfile::tempdir().unwrap();
    let Ca { issuing, root } = ca_with(CaDates::root(now()), CaDates::intermediate(now()));
    let write = |name: &str, der: &[u8]| {
        std::fs::write(dir.path().join(name), mintage_svid::pem::encode_certificates([der])).unwrap();
    };
    write("root.pem", root.certificate_der());
    write("ca.pem", issuing.certificate_der());
    for (issuer, untrusted) in [(&issuing, "-untrusted ca.pem"), (&root, "")] {
        for common_name in ["", "web"] {
            let mut raw = entry();
            raw.common_name = common_name.into();
            raw.dns_names = vec!["web.dev.test".into()];
            let prepared = prepare(grant_for(&raw, None, now()), workload_key().1, serial(7), now(), issuer).unwrap();
            write("leaf.pem", prepared.sign(issuer).unwrap().leaf_der());
            for purpose in ["sslclient", "sslserver"] {
                openssl_ok(
                    dir.path(),
                    &format!("verify -x509_strict -purpose {purpose} -CAfile root.pem {untrusted} leaf.pem"),
                );
            }
        }
    }
}

/// OpenSSL looks at its own clock.
fn now() -> UnixTime {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    UnixTime::from_millis(since.as_millis() as i64)
}

#[test]
fn with_chain_root_the_root_signs_and_chains_are_one_certificate_long() {
    let Ca { root, .. } = ca();
    assert!(root.chain_below_root().is_empty());
    let (waiting, record) = sealed(&root, 1);
    let receipt = commit(&MemoryJournal::new(), vec![(record, 18)]).remove(0).unwrap();
    let issued = waiting.release(receipt).unwrap();
    assert_eq!(issued.chain_der().len(), 1);
    verify_issued(issued.leaf_der(), root.info().spki_der()).unwrap();
}

#[test]
fn the_receipt_of_another_record_opens_nothing() {
    let Ca { issuing, .. } = ca();
    let (first, first_record) = sealed(&issuing, 1);
    let (second, second_record) = sealed(&issuing, 2);
    let mut receipts = commit(&MemoryJournal::new(), vec![(first_record, 18), (second_record, 18)]).into_iter();
    let (of_first, of_second) = (receipts.next().unwrap().unwrap(), receipts.next().unwrap().unwrap());
    assert!(matches!(first.release(of_second), Err(MintError::OtherReceipt)));
    assert!(matches!(second.release(of_first), Err(MintError::OtherReceipt)));
}

#[test]
fn a_full_disk_gives_no_receipt_and_so_no_certificate() {
    let Ca { issuing, .. } = ca();
    let journal = MemoryJournal::new();
    journal.full.store(true, Ordering::SeqCst);
    let (_sealed_for_ever, record) = sealed(&issuing, 1);
    assert_eq!(commit(&journal, vec![(record, 18)]), [Err(CommitError::NoSpace)]);
    journal.full.store(false, Ordering::SeqCst);
    let (waiting, record) = sealed(&issuing, 2);
    let receipt = commit(&journal, vec![(record, 18)]).remove(0).unwrap();
    assert!(waiting.release(receipt).is_ok());
}

#[test]
fn an_issuer_signs_only_what_was_prepared_for_it() {
    let (one, other) = (ca(), ca());
    let prepared = prepare(grant(), workload_key().1, serial(1), NOW, &one.issuing).unwrap();
    assert!(matches!(
        prepared.sign(&other.issuing),
        Err(MintError::OtherIssuer { .. })
    ));
}

#[test]
fn another_trust_domains_identity_is_refused() {
    // The decision knows nothing of keys; the mint does not rely on it.
    let name = mintage_identity::ReplicaName::parse("r1").unwrap();
    let other = mintage_identity::TrustDomain::parse("other.test").unwrap();
    let grant = grant_replica(&other, &name, Ttl::DEFAULT, &NothingYet, NOW).unwrap();
    let refused = prepare(grant, workload_key().1, serial(1), NOW, &ca().issuing);
    assert!(matches!(refused, Err(MintError::OtherTrustDomain { .. })));
}

#[test]
fn the_cas_own_key_gets_no_certificate() {
    let root_key = crate::CaKey::generate().unwrap();
    let der = crate::make_root(&domain(), &root_key.0, serial(1), CaDates::root(NOW)).unwrap();
    let own = crate::ProvenKey::of_private_key(&root_key.1).unwrap();
    let issuer = Issuer::load(&domain(), root_key.0, vec![der]).unwrap();
    assert!(matches!(
        prepare(grant(), own, serial(2), NOW, &issuer),
        Err(MintError::OwnKey)
    ));
}

#[test]
fn a_replica_gets_its_own_certificate() {
    let Ca { issuing, .. } = ca();
    let name = ReplicaName::parse("r1").unwrap();
    let grant = grant_replica(&domain(), &name, Ttl::DEFAULT, &NothingYet, NOW).unwrap();
    let sealed = prepare(grant, workload_key().1, serial(1), NOW, &issuing)
        .unwrap()
        .sign(&issuing)
        .unwrap();
    let leaf = LeafInfo::parse(sealed.leaf_der()).unwrap();
    assert_eq!(leaf.id().as_str(), "spiffe://dev.test/mintage/ca/r1");
    assert!(
        sealed.seal(context(1)).is_ok(),
        "a record without entry and attestation"
    );
}

#[test]
fn an_expiring_or_expired_ca_issues_nothing() {
    let lasting = |seconds| ca_with(CaDates::root(NOW), CaDates::lasting(NOW, Duration::from_secs(seconds)));
    for seconds in [1, 30, 60, 119] {
        let refused = prepare(grant(), workload_key().1, serial(1), NOW, &lasting(seconds).issuing);
        assert!(matches!(refused, Err(MintError::IssuerExpiring { .. })), "{seconds}");
    }
    let later = NOW.plus(Duration::from_secs(3600));
    let grant_later = grant_for(&entry(), None, later);
    let refused = prepare(grant_later, workload_key().1, serial(1), later, &lasting(600).issuing);
    assert!(matches!(refused, Err(MintError::IssuerExpiring { .. })));
    let ca = lasting(200);
    let sealed = prepare(grant(), workload_key().1, serial(1), NOW, &ca.issuing)
        .unwrap()
        .sign(&ca.issuing)
        .unwrap();
    let leaf = LeafInfo::parse(sealed.leaf_der()).unwrap();
    assert_eq!(
        leaf.not_after(),
        ca.issuing.not_after().minus(ISSUER_MARGIN),
        "clamped, not outliving its issuer"
    );
}

#[test]
fn a_clock_that_stands_wrong_issues_nothing() {
    let ca = ca();
    for now in [
        i64::MIN,
        -1,
        0,
        1_000,
        NOW.seconds() - 3600,
        LAST_SECOND + 1,
        i64::MAX / 1000,
    ] {
        let now = UnixTime::from_seconds(now);
        let refused = prepare(grant(), workload_key().1, serial(1), now, &ca.issuing);
        assert!(
            matches!(refused, Err(MintError::Clock { .. } | MintError::IssuerExpiring { .. })),
            "{now:?}"
        );
    }
}

#[test]
fn dates_from_2050_on_and_in_the_year_9999_are_written_and_read() {
    for now in [2_524_607_990, 2_524_608_100, 2_147_483_648, LAST_SECOND - 86_400] {
        let now = UnixTime::from_seconds(now);
        let end = UnixTime::from_seconds(LAST_SECOND);
        let dates = CaDates {
            not_before: now.minus(Duration::from_secs(60)),
            not_after: end,
        };
        let ca = ca_with(dates, dates);
        let key = workload_key().1;
        let prepared = prepare(grant_for(&entry(), None, now), key, serial(1), now, &ca.issuing).unwrap();
        let sealed = prepared.sign(&ca.issuing).unwrap();
        let leaf = LeafInfo::parse(sealed.leaf_der()).unwrap();
        assert_eq!(leaf.not_after(), now.plus(Duration::from_secs(600)));
        assert_eq!(leaf.not_before(), now.minus(Duration::from_secs(30)));
    }
}

#[test]
fn after_a_revocation_cut_the_replacement_lies_above_it() {
    let ca = ca();
    let prepared = prepare(
        grant_for(&entry(), Some(NOW), NOW),
        workload_key().1,
        serial(1),
        NOW,
        &ca.issuing,
    )
    .unwrap();
    let sealed = prepared.sign(&ca.issuing).unwrap();
    let leaf = LeafInfo::parse(sealed.leaf_der()).unwrap();
    assert!(leaf.not_before() > NOW && leaf.not_before() <= NOW.plus(Duration::from_secs(1)));
}

#[test]
fn nothing_prints_what_is_sealed_or_secret() {
    let Ca { issuing, .. } = ca();
    let (key, pkcs8) = crate::CaKey::generate().unwrap();
    let octets = |from: &[u8]| from.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let printed = format!("{key:?} {issuing:?}");
    assert!(printed.contains("...") && printed.len() < 500, "{printed}");
    assert!(!printed.contains(&octets(&pkcs8[36..44])));
    let prepared = prepare(grant(), workload_key().1, serial(1), NOW, &issuing).unwrap();
    let mut printed = format!("{prepared:?}");
    let sealed = prepared.sign(&issuing).unwrap();
    let signature = octets(&sealed.leaf_der()[sealed.leaf_der().len() - 8..]);
    printed += &format!("{sealed:?}");
    printed += &format!("{:?}", sealed.seal(context(1)).unwrap().0);
    assert!(!printed.contains(&signature) && printed.len() < 4000, "{printed}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn every_serial_is_positive_and_at_most_sixteen_octets(random in any::<[u8; 16]>()) {
        static CA: std::sync::LazyLock<Ca> = std::sync::LazyLock::new(ca);
        let serial = mintage_identity::Serial::from_random(random);
        let prepared = prepare(grant(), workload_key().1, serial, NOW, &CA.issuing).unwrap();
        let sealed = prepared.sign(&CA.issuing).unwrap();
        let leaf = LeafInfo::parse(sealed.leaf_der()).unwrap();
        prop_assert_eq!(leaf.serial(), &serial);
        prop_assert_eq!(serial.octets().len(), 16);
    }
}
