//! Our octets of a leaf are rcgen's, whatever is granted, and every reader takes them.

use mintage_identity::{Serial, UnixTime};
use mintage_svid::LeafInfo;
use proptest::prelude::*;

use super::*;
use crate::{
    KeyPolicy, ProvenKey,
    dates::LeafDates,
    kit::{ca, workload_key},
    limits::LAST_SECOND,
    oracle, prove_possession,
    tbs::sign,
};

/// A key of each kind that a request may bring.
fn keys() -> Vec<ProvenKey> {
    let mut keys = vec![workload_key().1];
    for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let pair = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let request = rcgen::CertificateParams::default().serialize_request(&pair).unwrap();
        keys.push(prove_possession(request.der(), &KeyPolicy::default()).unwrap());
    }
    keys
}

proptest! {
    #[test]
    fn the_octets_are_those_of_rcgen(
        id in "[a-z]{1,200}", names in proptest::collection::vec("[a-z]{1,20}[.]dev[.]test", 0..40),
        common_name in proptest::option::of("[ -~äß]{1,64}"), serial in any::<[u8; 16]>(),
        begin in 0..LAST_SECOND, end in 0..LAST_SECOND, root in any::<bool>(),
    ) {
        let (ca, spiffe_id, serial) = (ca(), format!("spiffe://dev.test/{id}"), Serial::from_random(serial));
        let issuer = if root { &ca.root } else { &ca.issuing };
        for key in keys() {
            let key_hash = key.spki_sha256();
            let leaf = Expected {
                serial: &serial,
                issuer_raw: issuer.info().subject_raw(),
                dates: LeafDates { not_before: UnixTime::from_seconds(begin), not_after: UnixTime::from_seconds(end) },
                common_name: common_name.as_deref(),
                spki_der: key.spki_der(),
                spiffe_id: &spiffe_id,
                dns_names: &names,
                subject_key_id: &key_hash.as_bytes()[..20],
                authority_key_id: issuer.subject_key_id(),
            };
            let octets = encode(&leaf).unwrap();
            prop_assert_eq!(&octets, &oracle::tbs(&oracle::params(&leaf), &key, issuer));
            leaf.check(&octets).unwrap();
            if begin < end {
                let parsed = LeafInfo::parse(&sign(&octets, issuer.key()).unwrap()).unwrap();
                prop_assert_eq!(parsed.id().as_str(), spiffe_id.as_str());
                prop_assert_eq!(parsed.dns_names(), names.as_slice());
            }
        }
    }
}

#[test]
fn a_date_that_x509_cannot_write_is_refused() {
    let (ca, key, serial) = (ca(), workload_key().1, Serial::from_random([7; 16]));
    let leaf = |not_after| Expected {
        serial: &serial,
        issuer_raw: ca.issuing.info().subject_raw(),
        dates: LeafDates {
            not_before: UnixTime::from_seconds(0),
            not_after: UnixTime::from_seconds(not_after),
        },
        common_name: None,
        spki_der: key.spki_der(),
        spiffe_id: "spiffe://dev.test/web",
        dns_names: &[],
        subject_key_id: &[1; 20],
        authority_key_id: ca.issuing.subject_key_id(),
    };
    assert!(encode(&leaf(LAST_SECOND)).is_ok());
    for beyond in [-1, LAST_SECOND + 1, i64::MAX / 1000] {
        assert!(matches!(encode(&leaf(beyond)), Err(MintError::Clock { .. })));
    }
}
