//! Every leaf rule is broken once, and every SPIFFE ID that must not pass is put into a certificate.

use proptest::prelude::*;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};

use super::*;
use crate::samples::{ALT_NAME, CONSTRAINTS, KEY_USAGE, extension, patch, root, uri};

fn refused(change: impl FnOnce(&mut CertificateParams)) -> LeafRule {
    match LeafInfo::parse(&root().leaf(change)) {
        Err(SvidError::Leaf(rule)) => rule,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_good_leaf_tells_its_facts() {
    let root = root();
    let key = rcgen::KeyPair::generate().unwrap();
    let der = root.leaf_for(&key, |params| {
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(9999, 12, 31);
        params
            .subject_alt_names
            .push(SanType::DnsName("web.example.org".try_into().unwrap()));
        params.distinguished_name.push(DnType::CommonName, "web");
    });
    let leaf = LeafInfo::parse(&der).unwrap();
    assert_eq!(leaf.id().as_str(), "spiffe://example.org/web");
    assert_eq!(leaf.dns_names(), ["web.example.org"]);
    assert_eq!(leaf.common_name(), Some("web"));
    assert_eq!(leaf.serial(), &Serial::from_be_octets(&[0x41; 16]).unwrap());
    assert_eq!(leaf.not_before(), UnixTime::from_seconds(1_767_225_600));
    assert_eq!(leaf.not_after(), UnixTime::from_seconds(253_402_214_400));
    assert_eq!(leaf.spki_der(), rcgen::PublicKeyData::subject_public_key_info(&key));
    assert_eq!(
        leaf.issuer_raw(),
        crate::CertInfo::parse(&root.der).unwrap().subject_raw()
    );
    assert!(leaf.authority_key_id().is_some());
    crate::verify_issued(&der, crate::CertInfo::parse(&root.der).unwrap().spki_der()).unwrap();
}

#[test]
fn exactly_one_uri_name_is_needed_even_when_the_second_is_not_spiffe() {
    assert_eq!(refused(|p| p.subject_alt_names.clear()), LeafRule::NoUriSan);
    assert_eq!(
        refused(|p| p.subject_alt_names = vec![SanType::DnsName("a.example".try_into().unwrap())]),
        LeafRule::NoUriSan
    );
    for second in [
        "spiffe://example.org/db",
        "https://example.org/",
        "spiffe://example.org/web",
    ] {
        assert_eq!(
            refused(|p| p.subject_alt_names.push(uri(second))),
            LeafRule::ManyUriSans(2)
        );
    }
}

#[test]
fn a_uri_that_is_no_spiffe_id_is_refused() {
    let long = format!("spiffe://example.org/{}", "a".repeat(2028));
    for bad in [
        "spiffe://Example.org/a",
        "SPIFFE://example.org/a",
        "spiffe://example.org/a/",
        "spiffe://example.org//a",
        "spiffe://example.org/./a",
        "spiffe://example.org/../a",
        "spiffe://example.org/%2e%2e",
        "spiffe://example.org/%61",
        "spiffe://example.org/%00",
        "spiffe://example.org/a\0",
        "spiffe://example.org/a\n",
        "spiffe://example.org/a b",
        "spiffe://example.org/\t",
        "spiffe://user@example.org/a",
        "spiffe://example.org:443/a",
        "spiffe://example.org/a?b",
        "spiffe://example.org/a#b",
        "spiffe://[::1]/a",
        "https://example.org/a",
        "",
        &long,
    ] {
        assert!(
            matches!(refused(|p| p.subject_alt_names = vec![uri(bad)]), LeafRule::BadId(_)),
            "{bad:?}"
        );
    }
    let fits = format!("spiffe://example.org/{}", "a".repeat(2027));
    assert!(LeafInfo::parse(&root().leaf(|p| p.subject_alt_names = vec![uri(&fits)])).is_ok());
}

/// A SAN extension of one URI with these octets, written by hand.
fn raw_uri(octets: &[u8]) -> Vec<u8> {
    let inner = octets.len() as u8;
    [&[0x30, inner + 2, 0x86, inner], octets].concat()
}

#[test]
fn unicode_and_bytes_that_are_no_text_are_refused() {
    for bad in [
        "spiffe://example.org/é",
        "spiffe://exаmple.org/a",
        "spiffe://example.org/\u{202e}a",
    ] {
        let rule = refused(|p| {
            p.subject_alt_names.clear();
            p.custom_extensions = vec![extension(&ALT_NAME, true, &raw_uri(bad.as_bytes()))];
        });
        assert!(matches!(rule, LeafRule::BadId(_)), "{bad}");
    }
    let rule = refused(|p| {
        p.subject_alt_names.clear();
        p.custom_extensions = vec![extension(&ALT_NAME, true, &raw_uri(b"spiffe://example.org/\xff"))];
    });
    assert_eq!(rule, LeafRule::UnreadableSan);
}

#[test]
fn a_leaf_names_a_workload_and_not_a_trust_domain() {
    assert_eq!(
        refused(|p| p.subject_alt_names = vec![uri("spiffe://example.org")]),
        LeafRule::RootPath
    );
}

#[test]
fn an_empty_subject_needs_a_critical_name_extension() {
    let names = raw_uri(b"spiffe://example.org/web");
    let not_critical = |params: &mut CertificateParams| {
        params.subject_alt_names.clear();
        params.custom_extensions = vec![extension(&ALT_NAME, false, &names)];
    };
    assert_eq!(refused(not_critical), LeafRule::SanNotCritical);
    let named = root().leaf(|params| {
        not_critical(params);
        params.distinguished_name.push(DnType::CommonName, "web");
    });
    assert!(LeafInfo::parse(&named).is_ok());
}

#[test]
fn key_usage_must_be_critical_and_only_for_leaves() {
    use KeyUsagePurpose::*;
    assert_eq!(refused(|p| p.key_usages.clear()), LeafRule::KeyUsageMissing);
    assert_eq!(
        refused(|p| p.key_usages = vec![KeyEncipherment]),
        LeafRule::NoDigitalSignature
    );
    assert_eq!(
        refused(|p| p.key_usages = vec![DigitalSignature, KeyCertSign]),
        LeafRule::KeyCertSign
    );
    assert_eq!(
        refused(|p| p.key_usages = vec![DigitalSignature, CrlSign]),
        LeafRule::CrlSign
    );
    let rule = refused(|p| {
        p.key_usages.clear();
        p.custom_extensions = vec![extension(&KEY_USAGE, false, &[0x03, 0x02, 0x07, 0x80])];
    });
    assert_eq!(rule, LeafRule::KeyUsageNotCritical);
    let more = root().leaf(|p| p.key_usages = vec![DigitalSignature, KeyEncipherment, KeyAgreement]);
    assert!(LeafInfo::parse(&more).is_ok(), "other usages may be set");
}

#[test]
fn a_ca_certificate_is_no_leaf() {
    assert_eq!(
        refused(|p| p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained)),
        LeafRule::IsCa
    );
    assert!(
        LeafInfo::parse(&root().leaf(|p| p.is_ca = IsCa::NoCa)).is_ok(),
        "absent means cA=false"
    );
    let path_length = root().leaf(|p| {
        p.is_ca = IsCa::NoCa;
        p.custom_extensions = vec![extension(&CONSTRAINTS, true, &[0x30, 0x03, 0x02, 0x01, 0x00])];
    });
    assert!(LeafInfo::parse(&path_length).is_err());
}

#[test]
fn extended_key_usage_if_set_has_both_purposes() {
    use ExtendedKeyUsagePurpose::*;
    for half in [vec![ServerAuth], vec![ClientAuth], vec![Any], vec![CodeSigning]] {
        assert_eq!(refused(|p| p.extended_key_usages = half), LeafRule::ExtendedKeyUsage);
    }
    assert!(LeafInfo::parse(&root().leaf(|p| p.extended_key_usages.clear())).is_ok());
}

#[test]
fn unknown_critical_and_repeated_extensions_are_refused() {
    let unknown = root().leaf(|p| p.custom_extensions = vec![extension(&[1, 2, 3, 4], true, &[0x05, 0x00])]);
    assert!(matches!(LeafInfo::parse(&unknown), Err(SvidError::Malformed { .. })));
    let harmless = root().leaf(|p| p.custom_extensions = vec![extension(&[1, 2, 3, 4], false, &[0x05, 0x00])]);
    assert!(LeafInfo::parse(&harmless).is_ok());
    let twice = root().leaf(|p| p.custom_extensions = vec![extension(&KEY_USAGE, true, &[0x03, 0x02, 0x07, 0x80])]);
    assert!(matches!(LeafInfo::parse(&twice), Err(SvidError::Malformed { .. })));
    let lax = root().leaf(|p| {
        p.key_usages.clear();
        p.custom_extensions = vec![extension(&KEY_USAGE, true, &[0x03, 0x02, 0x07, 0x80, 0x00])];
    });
    assert!(LeafInfo::parse(&lax).is_err(), "bytes after the value of an extension");
}

#[test]
fn encoding_games_are_refused() {
    let good = root().leaf(|_| {});
    assert!(LeafInfo::parse(&good).is_ok());
    let mut trailing = good.clone();
    trailing.push(0);
    assert!(matches!(LeafInfo::parse(&trailing), Err(SvidError::Der { .. })));
    let mut padded_length = vec![0x30, 0x83, 0x00];
    padded_length.extend_from_slice(&good[2..]);
    assert!(matches!(LeafInfo::parse(&padded_length), Err(SvidError::Der { .. })));
    let mut indefinite = vec![0x30, 0x80];
    indefinite.extend_from_slice(&good[4..]);
    indefinite.extend_from_slice(&[0, 0]);
    assert!(matches!(LeafInfo::parse(&indefinite), Err(SvidError::Der { .. })));
    for end in 0..good.len() {
        assert!(LeafInfo::parse(&good[..end]).is_err(), "{end}");
    }
    let pem = crate::pem::encode_certificates([&good]);
    assert!(LeafInfo::parse(pem.as_bytes()).is_err());
    let version = patch(&good, &[0xa0, 0x03, 0x02, 0x01, 0x02], &[0xa0, 0x03, 0x02, 0x01, 0x01]);
    assert!(matches!(LeafInfo::parse(&version), Err(SvidError::Malformed { .. })));
    let negative = patch(&good, &[0x02, 0x10, 0x41, 0x41], &[0x02, 0x10, 0x81, 0x41]);
    assert!(matches!(LeafInfo::parse(&negative), Err(SvidError::Malformed { .. })));
}

#[test]
fn a_large_certificate_is_refused_on_its_size() {
    let big = root().leaf(|p| p.custom_extensions = vec![extension(&[1, 2, 3, 4], false, &[0x04; 20_000])]);
    assert!(matches!(LeafInfo::parse(&big), Err(SvidError::TooLarge { .. })));
    let names = root().leaf(|p| {
        let more = (0..crate::limits::SAN_COUNT_MAX).map(|n| SanType::DnsName(format!("h{n}").try_into().unwrap()));
        p.subject_alt_names.extend(more);
    });
    assert!(matches!(LeafInfo::parse(&names), Err(SvidError::TooLarge { .. })));
}

#[test]
fn dates_out_of_order_are_refused() {
    let reversed = root().leaf(|p| {
        p.not_before = rcgen::date_time_ymd(2026, 1, 2);
        p.not_after = rcgen::date_time_ymd(2026, 1, 1);
    });
    assert!(matches!(LeafInfo::parse(&reversed), Err(SvidError::Malformed { .. })));
}

proptest! {
    #[test]
    fn a_changed_certificate_is_answered_without_panic(at in any::<prop::sample::Index>(), to in any::<u8>(), cut in any::<prop::sample::Index>()) {
        static GOOD: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| root().leaf(|_| {}));
        let mut der = GOOD.clone();
        let place = at.index(der.len());
        der[place] = to;
        let _ = LeafInfo::parse(&der);
        let _ = crate::CertInfo::parse(&der);
        let _ = LeafInfo::parse(&der[..cut.index(der.len())]);
    }
}
