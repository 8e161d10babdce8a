//! The lint is shown certificates that say a little more or a little less than was granted.

use mintage_identity::Ttl;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SanType,
};

use super::*;
use crate::{
    ProvenKey,
    kit::{NOW, ca, serial, workload_key},
    oracle,
};

const ID: &str = "spiffe://dev.test/demo/web";

struct Case {
    ca: crate::kit::Ca,
    key: ProvenKey,
    serial: Serial,
    dates: LeafDates,
    dns_names: Vec<String>,
    subject_key_id: Vec<u8>,
}

impl Case {
    fn new() -> Self {
        let (ca, key) = (ca(), workload_key().1);
        Self {
            dates: LeafDates::new(NOW, Ttl::DEFAULT, None, (&ca.issuing).into()).unwrap(),
            serial: serial(5),
            dns_names: vec!["web.dev.test".into()],
            subject_key_id: key.spki_sha256().as_bytes()[..20].to_vec(),
            ca,
            key,
        }
    }

    fn expected(&self) -> Expected<'_> {
        Expected {
            serial: &self.serial,
            issuer_raw: self.ca.issuing.info().subject_raw(),
            dates: self.dates,
            common_name: None,
            spki_der: self.key.spki_der(),
            spiffe_id: ID,
            dns_names: &self.dns_names,
            subject_key_id: &self.subject_key_id,
            authority_key_id: self.ca.issuing.subject_key_id(),
        }
    }

    fn params(&self) -> CertificateParams {
        oracle::params(&self.expected())
    }

    fn tbs(&self, params: &CertificateParams) -> Vec<u8> {
        oracle::tbs(params, &self.key, &self.ca.issuing)
    }

    /// The field that is named when the certificate is built with this change.
    fn built(&self, change: impl FnOnce(&mut CertificateParams)) -> &'static str {
        let mut params = self.params();
        change(&mut params);
        field(self.expected().check(&self.tbs(&params)))
    }

    /// The field that is named when this much else was expected.
    fn meant<'a>(&'a self, change: impl FnOnce(&mut Expected<'a>)) -> &'static str {
        let mut expected = self.expected();
        change(&mut expected);
        field(expected.check(&self.tbs(&self.params())))
    }
}

fn field(result: Result<(), MintError>) -> &'static str {
    match result {
        Err(MintError::Lint(field)) => field,
        other => panic!("{other:?}"),
    }
}

fn extension(oid: &[u64], critical: bool, content: &[u8]) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, content.to_vec());
    extension.set_criticality(critical);
    extension
}

#[test]
fn what_was_granted_passes() {
    let case = Case::new();
    case.expected().check(&case.tbs(&case.params())).unwrap();
}

#[test]
fn every_field_that_differs_is_named() {
    let (other, names) = (serial(6), ["x.dev.test".to_owned()]);
    let case = Case::new();
    assert_eq!(case.meant(|e| e.serial = &other), "serial");
    assert_eq!(case.meant(|e| e.issuer_raw = &[0x30, 0x00]), "issuer");
    let second = std::time::Duration::from_secs(1);
    assert_eq!(
        case.meant(|e| e.dates.not_before = e.dates.not_before.plus(second)),
        "notBefore"
    );
    assert_eq!(
        case.meant(|e| e.dates.not_after = e.dates.not_after.minus(second)),
        "notAfter"
    );
    assert_eq!(case.meant(|e| e.common_name = Some("web")), "subject");
    assert_eq!(case.meant(|e| e.spki_der = &[]), "public key");
    assert_eq!(
        case.meant(|e| e.spiffe_id = "spiffe://dev.test/demo/we"),
        "subject alternative name"
    );
    assert_eq!(case.meant(|e| e.dns_names = &[]), "subject alternative name");
    assert_eq!(case.meant(|e| e.dns_names = &names), "subject alternative name");
    assert_eq!(case.meant(|e| e.subject_key_id = &[1; 20]), "subject key identifier");
    assert_eq!(
        case.meant(|e| e.authority_key_id = &[1; 20]),
        "authority key identifier"
    );
}

#[test]
fn more_than_was_granted_is_refused() {
    let case = Case::new();
    let name = |text: &str| SanType::URI(text.try_into().unwrap());
    let ca = IsCa::Ca(BasicConstraints::Unconstrained);
    assert_eq!(case.built(|p| p.is_ca = ca), "basic constraints");
    assert_eq!(
        case.built(|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)),
        "key usage"
    );
    assert_eq!(
        case.built(|p| p.key_usages.push(KeyUsagePurpose::KeyEncipherment)),
        "key usage"
    );
    let code = ExtendedKeyUsagePurpose::CodeSigning;
    assert_eq!(case.built(|p| p.extended_key_usages.push(code)), "extended key usage");
    let own = ExtendedKeyUsagePurpose::Other(vec![1, 2, 3, 4]);
    assert_eq!(case.built(|p| p.extended_key_usages.push(own)), "extended key usage");
    let any = ExtendedKeyUsagePurpose::Any;
    assert_eq!(case.built(|p| p.extended_key_usages.push(any)), "extended key usage");
    assert_eq!(
        case.built(|p| p.subject_alt_names.push(name("spiffe://dev.test/x"))),
        "subject alternative name"
    );
    let mail = SanType::Rfc822Name("a@b".try_into().unwrap());
    assert_eq!(
        case.built(|p| p.subject_alt_names.push(mail)),
        "subject alternative name"
    );
    let address = SanType::IpAddress([10, 0, 0, 1].into());
    assert_eq!(
        case.built(|p| p.subject_alt_names[1] = address),
        "subject alternative name"
    );
    assert_eq!(
        case.built(|p| p.subject_alt_names.swap(0, 1)),
        "subject alternative name"
    );
    let unknown = extension(&[1, 2, 3], false, &[5, 0]);
    assert_eq!(case.built(|p| p.custom_extensions = vec![unknown]), "extension list");
    let again = [&[4, 20], case.subject_key_id.as_slice()].concat();
    let again = extension(&[2, 5, 29, 14], false, &again);
    assert_eq!(case.built(|p| p.custom_extensions = vec![again]), "extension list");
    assert_eq!(
        case.built(|p| p.distinguished_name.push(DnType::OrganizationName, "o")),
        "subject"
    );
}

#[test]
fn less_than_was_granted_is_refused() {
    let case = Case::new();
    assert_eq!(
        case.built(|p| p.use_authority_key_identifier_extension = false),
        "extension list"
    );
    assert_eq!(case.built(|p| p.is_ca = IsCa::NoCa), "extension list");
    assert_eq!(case.built(|p| p.key_usages.clear()), "extension list");
    assert_eq!(case.built(|p| p.extended_key_usages.clear()), "extension list");
    assert_eq!(
        case.built(|p| {
            p.extended_key_usages.pop();
        }),
        "extended key usage"
    );
    assert_eq!(case.built(|p| p.subject_alt_names.clear()), "extension list");
    let loose = extension(&[2, 5, 29, 15], false, &[3, 2, 7, 0x80]);
    let not_critical = |p: &mut CertificateParams| {
        p.key_usages.clear();
        p.custom_extensions = vec![loose];
    };
    assert_eq!(case.built(not_critical), "key usage");
    let lax = extension(&[2, 5, 29, 15], true, &[3, 2, 7, 0x80, 0]);
    let trailing = |p: &mut CertificateParams| {
        p.key_usages.clear();
        p.custom_extensions = vec![lax];
    };
    assert_eq!(case.built(trailing), "key usage");
}

#[test]
fn a_common_name_is_the_whole_subject() {
    let case = Case::new();
    let check = |name: &str, change: &dyn Fn(&mut CertificateParams)| {
        let mut params = case.params();
        params.distinguished_name.push(DnType::CommonName, "web");
        change(&mut params);
        let mut expected = case.expected();
        expected.common_name = Some(name);
        expected.check(&case.tbs(&params))
    };
    check("web", &|_| {}).unwrap();
    assert_eq!(field(check("we", &|_| {})), "subject");
    assert_eq!(
        field(check("web", &|p| p.distinguished_name.push(DnType::CountryName, "DE"))),
        "subject"
    );
}

#[test]
fn any_flipped_bit_is_noticed() {
    let case = Case::new();
    let good = case.tbs(&case.params());
    let mut unnoticed = Vec::new();
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut changed = good.clone();
            changed[at] ^= 1 << bit;
            if case.expected().check(&changed).is_ok() {
                unnoticed.push((at, bit, good[at]));
            }
        }
    }
    assert!(unnoticed.is_empty(), "{unnoticed:02x?} of {good:02x?}");
}
