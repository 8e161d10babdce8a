//! Hostile signing requests, each with a real signature so that only the flaw under test can be what refuses it.

use std::time::Instant;

use proptest::prelude::*;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use ring::signature::EcdsaKeyPair as Ring;

use super::*;
use crate::{
    kit::{NOW, ca, grant, openssl, openssl_ok, serial},
    prepare,
};

const POLICY: KeyPolicy = KeyPolicy {
    allow_rsa: false,
    strict_csr: false,
};
const STRICT: KeyPolicy = KeyPolicy {
    allow_rsa: false,
    strict_csr: true,
};
const RSA: KeyPolicy = KeyPolicy {
    allow_rsa: true,
    strict_csr: false,
};
const ECDSA_SHA256: [u8; 12] = [0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const EXTENSION_REQUEST: [u8; 11] = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e];

fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let value = parts.concat();
    let mut out = vec![tag];
    match value.len() {
        n @ 0..=0x7f => out.push(n as u8),
        n @ 0x80..=0xff => out.extend([0x81, n as u8]),
        n => out.extend([0x82, (n >> 8) as u8, n as u8]),
    }
    [out, value].concat()
}

struct Requester {
    pair: Ring,
    spki: Vec<u8>,
}

impl Requester {
    fn new() -> Self {
        let random = SystemRandom::new();
        let document = Ring::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        let pair = Ring::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, document.as_ref(), &random).unwrap();
        let spki = p256_spki(pair.public_key().as_ref());
        Self { pair, spki }
    }

    /// A request with these octets as its info, signed.
    fn signed(&self, info: &[u8]) -> Vec<u8> {
        let signature = self.pair.sign(&SystemRandom::new(), info).unwrap();
        tlv(0x30, &[info, &ECDSA_SHA256, &tlv(3, &[&[0], signature.as_ref()])])
    }

    fn request(&self, version: u8, subject: &[u8], attributes: &[u8]) -> Vec<u8> {
        self.signed(&tlv(
            0x30,
            &[&[2, 1, version], subject, &self.spki, &tlv(0xa0, &[attributes])],
        ))
    }

    fn plain(&self) -> Vec<u8> {
        self.request(0, &[0x30, 0], &[])
    }
}

fn refused(csr: &[u8]) -> CsrError {
    prove_possession(csr, &POLICY).unwrap_err()
}

#[test]
fn a_plain_request_proves_its_key_octet_for_octet() {
    let requester = Requester::new();
    let key = prove_possession(&requester.plain(), &STRICT).unwrap();
    assert_eq!(key.spki_der(), requester.spki);
    assert_eq!(key.kind(), KeyKind::P256);
    assert_eq!(key.spki_sha256(), mintage_svid::spki_sha256(&requester.spki));
}

#[test]
fn empty_random_and_pem_requests_are_refused() {
    assert_eq!(refused(&[]), CsrError::Empty);
    assert!(matches!(refused(b"\x00\x01\x02 random bytes"), CsrError::Der(_)));
    assert_eq!(refused(b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n"), CsrError::Pem);
    assert!(matches!(refused(&[0x30, 0x00]), CsrError::Der(_)));
}

#[test]
fn truncated_and_trailing_bytes_are_refused() {
    let csr = Requester::new().plain();
    for end in 1..csr.len() {
        assert!(matches!(refused(&csr[..end]), CsrError::Der(_)), "{end}");
    }
    assert!(matches!(
        refused(&[&csr[..], &[0]].concat()),
        CsrError::Der(der::DerError::Trailing)
    ));
    assert!(matches!(
        refused(&[&csr[..], &csr].concat()),
        CsrError::Der(der::DerError::Trailing)
    ));
    let requester = Requester::new();
    let info = tlv(0x30, &[&[2, 1, 0, 0x30, 0], &requester.spki, &[0xa0, 0], &[5, 0]]);
    assert!(
        matches!(refused(&requester.signed(&info)), CsrError::Der(_)),
        "bytes after the attributes"
    );
}

#[test]
fn ber_indefinite_and_non_minimal_lengths_are_refused() {
    let requester = Requester::new();
    let csr = requester.plain();
    let content = &csr[3..];
    assert_eq!(csr[1], 0x81);
    for head in [
        &[0x30, 0x80][..],
        &[0x30, 0x82, 0x00, csr[2]],
        &[0x30, 0x83, 0x00, 0x00, csr[2]],
    ] {
        let mut ber = [head, content].concat();
        if head[1] == 0x80 {
            ber.extend([0, 0]);
        }
        assert_eq!(refused(&ber), CsrError::Der(der::DerError::Length));
    }
    // Deep inside, under a good signature: a subject whose length is written long.
    let long_subject = requester.request(0, &[0x30, 0x81, 0x00], &[]);
    assert_eq!(refused(&long_subject), CsrError::Der(der::DerError::Length));
    let indefinite_subject = requester.request(0, &[0x30, 0x80, 0x00, 0x00], &[]);
    assert_eq!(refused(&indefinite_subject), CsrError::Der(der::DerError::Length));
}

#[test]
fn any_flipped_bit_anywhere_breaks_the_proof() {
    let csr = Requester::new().plain();
    for at in 0..csr.len() {
        for bit in 0..8 {
            let mut flipped = csr.clone();
            flipped[at] ^= 1 << bit;
            assert!(prove_possession(&flipped, &POLICY).is_err(), "bit {bit} of octet {at}");
        }
    }
    let mut signature = csr.clone();
    *signature.last_mut().unwrap() ^= 1;
    assert_eq!(refused(&signature), CsrError::Possession);
    assert!(refused(&signature).to_string().contains("proof of possession failed"));
}

#[test]
fn a_signature_of_another_key_proves_nothing() {
    let (mine, theirs) = (Requester::new(), Requester::new());
    let info = tlv(0x30, &[&[2, 1, 0, 0x30, 0], &theirs.spki, &[0xa0, 0]]);
    assert_eq!(refused(&mine.signed(&info)), CsrError::Possession);
}

#[test]
fn version_one_and_repeated_attributes_are_refused() {
    let requester = Requester::new();
    assert_eq!(refused(&requester.request(1, &[0x30, 0], &[])), CsrError::Version);
    let attribute = |oid: &[u8]| tlv(0x30, &[oid, &tlv(0x31, &[&tlv(0x30, &[])])]);
    let once = attribute(&EXTENSION_REQUEST);
    assert!(prove_possession(&requester.request(0, &[0x30, 0], &once), &POLICY).is_ok());
    let twice = requester.request(0, &[0x30, 0], &[&once[..], &once].concat());
    assert_eq!(refused(&twice), CsrError::Attributes);
    let many: Vec<u8> = (0..=CSR_ATTRIBUTES_MAX as u8)
        .flat_map(|n| attribute(&[6, 2, 0x2a, n]))
        .collect();
    assert_eq!(refused(&requester.request(0, &[0x30, 0], &many)), CsrError::Attributes);
    let info = tlv(0x30, &[&[2, 1, 0, 0x30, 0], &requester.spki]);
    assert!(
        matches!(refused(&requester.signed(&info)), CsrError::Der(_)),
        "the attributes are not optional"
    );
}

fn rsa_request(bits: usize) -> Vec<u8> {
    let algorithm = [
        0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
    ];
    let signature_algorithm = [
        0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b, 0x05, 0x00,
    ];
    let numbers = tlv(0x30, &[&tlv(2, &[&[0], &vec![0xff; bits / 8]]), &[2, 3, 1, 0, 1]]);
    let spki = tlv(0x30, &[&algorithm, &tlv(3, &[&[0], &numbers])]);
    let info = tlv(0x30, &[&[2, 1, 0, 0x30, 0], &spki, &[0xa0, 0]]);
    tlv(
        0x30,
        &[&info, &signature_algorithm, &tlv(3, &[&[0], &vec![1; bits / 8]])],
    )
}

#[test]
fn rsa_of_1024_2048_and_16384_bits_is_refused_fast() {
    for (bits, policy) in [
        (1024, RSA),
        (2048, POLICY),
        (8192, RSA),
        (16_384, RSA),
        (16_384, POLICY),
    ] {
        let csr = rsa_request(bits);
        // The best of ten: the machine may be busy with something else for longer than the work takes.
        let fastest = (0..10).map(|_| {
            let start = Instant::now();
            let _ = prove_possession(&csr, &policy);
            start.elapsed()
        });
        let fastest = fastest.min().unwrap();
        assert!(fastest.as_millis() < 5, "{bits}: {fastest:?}");
        let error = prove_possession(&csr, &policy).unwrap_err();
        assert!(
            matches!(error, CsrError::Key(_) | CsrError::RsaOff),
            "{bits}: {error:?}"
        );
    }
    assert_eq!(prove_possession(&rsa_request(2048), &RSA), Err(CsrError::Possession));
}

#[test]
fn a_request_over_eight_kilobytes_is_refused_before_parsing() {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "o".repeat(48_000));
    let key = rcgen::KeyPair::generate().unwrap();
    let subject = params.serialize_request(&key).unwrap();
    assert!(matches!(refused(subject.der()), CsrError::TooLarge(size) if size > 48_000));
    let mut params = CertificateParams::default();
    params.subject_alt_names = (0..10_000)
        .map(|n| SanType::DnsName(format!("h{n}.example").try_into().unwrap()))
        .collect();
    let names = params.serialize_request(&key).unwrap();
    assert!(matches!(refused(names.der()), CsrError::TooLarge(_)));
    let requester = Requester::new();
    let unit = tlv(
        0x31,
        &[&tlv(0x30, &[&[0x06, 0x03, 0x55, 0x04, 0x0b], &[0x0c, 0x01, b'x']])],
    );
    let units = requester.request(0, &tlv(0x30, &[&unit.repeat(700)]), &[]);
    assert!(matches!(refused(&units), CsrError::TooLarge(_)));
}

#[test]
fn other_points_and_algorithms_are_refused() {
    let requester = Requester::new();
    let with_spki = |spki: &[u8]| requester.signed(&tlv(0x30, &[&[2, 1, 0, 0x30, 0], spki, &[0xa0, 0]]));
    let algorithm = &requester.spki[2..23];
    let compressed = tlv(0x30, &[algorithm, &tlv(3, &[&[0, 2], &requester.spki[27..59]])]);
    let infinity = tlv(0x30, &[algorithm, &tlv(3, &[&[0, 0]])]);
    let mut off_curve = requester.spki.clone();
    off_curve[89] ^= 0x55;
    assert!(matches!(refused(&with_spki(&compressed)), CsrError::Key(_)));
    assert!(matches!(refused(&with_spki(&infinity)), CsrError::Key(_)));
    assert_eq!(refused(&with_spki(&off_curve)), CsrError::Possession);
    let info = tlv(0x30, &[&[2, 1, 0, 0x30, 0], &requester.spki, &[0xa0, 0]]);
    let signature = requester.pair.sign(&SystemRandom::new(), &info).unwrap();
    let sha1 = [0x30, 0x09, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01];
    let relabelled = tlv(0x30, &[&info, &sha1, &tlv(3, &[&[0], signature.as_ref()])]);
    assert_eq!(refused(&relabelled), CsrError::Algorithm);
}

/// Everything a requester might wish for.
fn greedy_request(key: &rcgen::KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "admin");
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    params.subject_alt_names = vec![
        SanType::URI("spiffe://dev.test/other".try_into().unwrap()),
        SanType::URI("spiffe://dev.test/mintage/ca/r1".try_into().unwrap()),
        SanType::DnsName("*.evil.example".try_into().unwrap()),
        SanType::IpAddress([10, 0, 0, 1].into()),
        SanType::Rfc822Name("root@evil.example".try_into().unwrap()),
        SanType::OtherName((vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3], "admin".into())),
    ];
    let mut unknown = rcgen::CustomExtension::from_oid_content(&[1, 2, 3, 4, 5], vec![5, 0]);
    unknown.set_criticality(true);
    let constraints = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 30], vec![0x30, 0]);
    params.custom_extensions = vec![unknown, constraints];
    params.serialize_request(key).unwrap().der().to_vec()
}

#[test]
fn wishes_are_never_granted_and_strict_policy_refuses_them() {
    let key = rcgen::KeyPair::generate().unwrap();
    let greedy = greedy_request(&key);
    let mut bare = CertificateParams::default();
    bare.distinguished_name = rcgen::DistinguishedName::new();
    let plain = bare.serialize_request(&key).unwrap().der().to_vec();

    assert_eq!(prove_possession(&greedy, &STRICT), Err(CsrError::NotBare));
    let greedy = prove_possession(&greedy, &POLICY).unwrap();
    let plain = prove_possession(&plain, &STRICT).unwrap();
    assert_eq!(greedy, plain);
    let ca = ca();
    let tbs = |key| {
        prepare(grant(), key, serial(5), NOW, &ca.issuing)
            .unwrap()
            .tbs_der()
            .to_vec()
    };
    assert_eq!(tbs(greedy), tbs(plain), "the certificate is the same octet for octet");
}

#[test]
fn openssl_requests_of_every_kind_get_their_due() {
    let dir = tempfile::tempdir().unwrap();
    let ca = ca();
    let issue = |key: ProvenKey| {
        let spki = key.spki_der().to_vec();
        let sealed = prepare(grant(), key, serial(5), NOW, &ca.issuing)
            .unwrap()
            .sign(&ca.issuing)
            .unwrap();
        (spki, sealed)
    };
    let cases = [
        ("ecparam -name prime256v1 -genkey -noout", "sha256", Some(KeyKind::P256)),
        ("ecparam -name prime256v1 -genkey -noout", "sha384", Some(KeyKind::P256)),
        ("ecparam -name secp384r1 -genkey -noout", "sha256", Some(KeyKind::P384)),
        ("ecparam -name secp384r1 -genkey -noout", "sha384", Some(KeyKind::P384)),
        ("genpkey -algorithm ed25519", "sha256", Some(KeyKind::Ed25519)),
        ("genrsa 2048", "sha256", Some(KeyKind::Rsa { bits: 2048 })),
        ("genrsa 2048", "sha512", Some(KeyKind::Rsa { bits: 2048 })),
        ("genrsa 1024", "sha256", None),
        ("genrsa 2048", "sha1", None),
        ("ecparam -name prime256v1 -genkey -noout", "sha1", None),
        ("ecparam -name prime256v1 -genkey -noout", "sha512", None),
        ("ecparam -name secp256k1 -genkey -noout", "sha256", None),
        ("ecparam -name secp521r1 -genkey -noout", "sha512", None),
        (
            "ecparam -name prime256v1 -genkey -noout -param_enc explicit",
            "sha256",
            None,
        ),
        ("genpkey -algorithm ed448", "sha256", None),
        ("dsaparam -genkey -noout 2048", "sha256", None),
    ];
    for (number, (make, hash, expected)) in cases.into_iter().enumerate() {
        let (key, csr) = (format!("{number}.key"), format!("{number}.csr"));
        let Some(made) = openssl(dir.path(), &format!("{make} -out {key}")) else {
            return;
        };
        // `genrsa` wants its size last.
        if !made.status.success() || !dir.path().join(&key).exists() {
            let (verb, size) = make.rsplit_once(' ').unwrap();
            openssl_ok(dir.path(), &format!("{verb} -out {key} {size}"));
        }
        openssl_ok(
            dir.path(),
            &format!("req -new -key {key} -subj /CN=x -{hash} -outform DER -out {csr}"),
        );
        let der = std::fs::read(dir.path().join(&csr)).unwrap();
        let proven = prove_possession(&der, &RSA);
        assert_eq!(
            proven.as_ref().ok().map(ProvenKey::kind),
            expected,
            "{make} {hash}: {proven:?}"
        );
        let Ok(proven) = proven else { continue };
        let (spki, sealed) = issue(proven);
        std::fs::write(dir.path().join("leaf.der"), sealed.leaf_der()).unwrap();
        let shown = openssl_ok(dir.path(), "x509 -inform DER -in leaf.der -noout -pubkey").unwrap();
        let wanted = openssl_ok(dir.path(), &format!("pkey -in {key} -pubout")).unwrap();
        assert_eq!(
            shown, wanted,
            "{make} {hash}: the certificate holds the requester's key"
        );
        assert_eq!(
            mintage_svid::LeafInfo::parse(sealed.leaf_der()).unwrap().spki_der(),
            spki
        );
    }
}

proptest! {
    #[test]
    fn any_bytes_are_answered_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(prove_possession(&bytes, &RSA).is_err());
    }

    #[test]
    fn a_changed_request_never_proves(at in any::<prop::sample::Index>(), with in proptest::collection::vec(any::<u8>(), 1..20)) {
        static GOOD: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| Requester::new().plain());
        let mut csr = GOOD.clone();
        let place = at.index(csr.len());
        let end = (place + with.len()).min(csr.len());
        csr.splice(place..end, with);
        prop_assert!(csr == *GOOD || prove_possession(&csr, &POLICY).is_err());
    }
}
