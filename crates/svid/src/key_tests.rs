//! Keys of every kind in every wrong form.

use rcgen::KeyPair as Rcgen;

use super::*;
use crate::samples::root;

fn spki_of(key: &Rcgen) -> Vec<u8> {
    rcgen::PublicKeyData::subject_public_key_info(key)
}

fn rsa_spki(bits: usize, exponent: &[u8]) -> Vec<u8> {
    let mut modulus = vec![0xff; bits / 8];
    modulus.insert(0, 0);
    let length = |n: usize| match n {
        0..=0x7f => vec![n as u8],
        0x80..=0xff => vec![0x81, n as u8],
        _ => vec![0x82, (n >> 8) as u8, n as u8],
    };
    let tlv = |tag: u8, value: Vec<u8>| [vec![tag], length(value.len()), value].concat();
    let numbers = [tlv(2, modulus), tlv(2, exponent.to_vec())].concat();
    let bits = tlv(3, [vec![0], tlv(0x30, numbers)].concat());
    tlv(0x30, [RSA_ALGORITHM.to_vec(), bits].concat())
}

#[test]
fn a_key_matches_its_certificate_and_no_other() {
    let root = root();
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
    ] {
        let key = Rcgen::generate_for(algorithm).unwrap();
        let leaf = root.leaf_for(&key, |_| {});
        assert_eq!(key_matches(&leaf, &key.serialize_der()), Ok(true));
        let other = Rcgen::generate_for(algorithm).unwrap();
        assert_eq!(key_matches(&leaf, &other.serialize_der()), Ok(false));
        let foreign = Rcgen::generate_for(&rcgen::PKCS_ED25519).unwrap();
        assert_eq!(key_matches(&leaf, &foreign.serialize_der()), Ok(false));
        assert!(key_matches(&leaf, b"junk").is_err());
        assert!(key_matches(&root.der, &key.serialize_der()).is_err());
        assert!(matches!(
            key_matches(&leaf, &[0; 9000]),
            Err(SvidError::TooLarge { .. })
        ));
    }
}

#[test]
fn an_ed25519_key_without_its_public_half_matches() {
    let key = Rcgen::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let whole = key.serialize_der();
    let seed_at = whole.windows(2).position(|pair| pair == [0x04, 0x20]).unwrap() + 2;
    let head = [
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
    ];
    let short = [&head, &whole[seed_at..seed_at + 32]].concat();
    assert_eq!(key_matches_spki(&spki_of(&key), &short), Ok(true));
}

#[test]
fn a_private_key_tells_the_fingerprint_of_its_public_key() {
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
    ] {
        let key = Rcgen::generate_for(algorithm).unwrap();
        let told = spki_sha256_of_pkcs8(&key.serialize_der()).unwrap();
        assert_eq!(told, spki_sha256(&spki_of(&key)));
    }
    assert!(spki_sha256_of_pkcs8(b"no key").is_err());
}

#[test]
fn a_private_key_in_the_older_forms_tells_it_too() {
    let key = Rcgen::generate().unwrap();
    let pkcs8 = key.serialize_der();
    // The older form lies inside: SEQUENCE, version, algorithm, OCTET STRING.
    let mut outer = der::Reader::new(der::Reader::new(&pkcs8).any().unwrap().value);
    outer.any().unwrap();
    outer.any().unwrap();
    let sec1 = outer.any().unwrap().value;
    assert_eq!(spki_sha256_of_sec1(sec1).unwrap(), spki_sha256(&spki_of(&key)));
    let other = Rcgen::generate().unwrap().serialize_der();
    let mut mixed = sec1.to_vec();
    let end = mixed.len();
    mixed[end - 64..].copy_from_slice(&other[other.len() - 64..]);
    for bad in [&mixed[..], &sec1[..end - 1], b"no key", &pkcs8] {
        assert!(spki_sha256_of_sec1(bad).is_err());
        assert!(spki_sha256_of_pkcs1(bad).is_err());
    }
}

#[test]
fn points_in_other_forms_are_refused() {
    let spki = spki_of(&Rcgen::generate().unwrap());
    assert_eq!(PublicKey::from_spki(&spki).unwrap().kind(), KeyKind::P256);
    let hybrid = {
        let mut s = spki.clone();
        s[26] = 0x06;
        s
    };
    assert!(PublicKey::from_spki(&hybrid).is_err());
    // Compressed: tag 02, 33 octets; at infinity: one zero octet.
    let algorithm = &spki[2..23];
    for point in [[&[2][..], &spki[27..59]].concat(), vec![0]] {
        let bits = [&[3, point.len() as u8 + 1, 0][..], &point].concat();
        let other = [&[0x30, (algorithm.len() + bits.len()) as u8][..], algorithm, &bits].concat();
        assert!(PublicKey::from_spki(&other).is_err(), "{} octets", point.len());
    }
    assert!(PublicKey::from_spki(&spki[..90]).is_err());
    assert!(PublicKey::from_spki(&[&spki[..], &[0]].concat()).is_err());
}

#[test]
fn a_point_off_the_curve_verifies_nothing() {
    let mut spki = spki_of(&Rcgen::generate().unwrap());
    spki[60] ^= 1;
    let key = PublicKey::from_spki(&spki).unwrap();
    let signature = [0x30, 0x06, 0x02, 0x01, 0x01, 0x02, 0x01, 0x01];
    assert!(key.verify(SignatureAlgorithm::EcdsaSha256, b"", &signature).is_err());
}

#[test]
fn ed25519_keys_of_small_order_are_refused() {
    for y in ["00", "01", "ec", "ed", "ee"] {
        let first = u8::from_str_radix(y, 16).unwrap();
        let rest = if first < 2 { 0x00 } else { 0xff };
        for top in [rest & 0x7f, rest | 0x80] {
            let mut key = [rest; 32];
            (key[0], key[31]) = (first, top);
            assert!(
                PublicKey::from_spki(&[ED25519_PREFIX, &key].concat()).is_err(),
                "{key:02x?}"
            );
        }
    }
    let key = Rcgen::generate_for(&rcgen::PKCS_ED25519).unwrap();
    assert!(PublicKey::from_spki(&spki_of(&key)).is_ok());
}

#[test]
fn rsa_keys_outside_2048_to_4096_bits_or_with_odd_exponents_are_refused_fast() {
    for good in [2048, 3072, 4096] {
        let spki = rsa_spki(good, &[1, 0, 1]);
        assert_eq!(PublicKey::from_spki(&spki).unwrap().kind(), KeyKind::Rsa { bits: good });
    }
    for bad in [512, 1024, 2040, 4104, 8192, 16_384] {
        let spki = rsa_spki(bad, &[1, 0, 1]);
        assert!(PublicKey::from_spki(&spki).is_err(), "{bad}");
        let fastest = (0..10).map(|_| {
            let start = std::time::Instant::now();
            let _ = PublicKey::from_spki(&spki);
            start.elapsed()
        });
        assert!(fastest.min().unwrap().as_millis() < 5, "{bad}");
    }
    for exponent in [&[1][..], &[3], &[1, 0, 0], &[0x7f, 0xff, 0xff, 0xff, 0xff], &[0x80]] {
        assert!(PublicKey::from_spki(&rsa_spki(2048, exponent)).is_err(), "{exponent:?}");
    }
}

#[test]
fn sha1_pss_and_unknown_algorithms_are_not_accepted() {
    let ecdsa_sha1 = [0x30, 0x09, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01];
    let ecdsa_sha512 = [0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04];
    let ecdsa_sha256_null = [
        0x30, 0x0c, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02, 0x05, 0x00,
    ];
    let rsa = |last| {
        [
            0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, last, 0x05, 0x00,
        ]
    };
    for bad in [
        &ecdsa_sha1[..],
        &ecdsa_sha512,
        &ecdsa_sha256_null,
        &rsa(4),
        &rsa(5),
        &rsa(10),
        &[],
    ] {
        assert_eq!(SignatureAlgorithm::from_der(bad), None, "{bad:02x?}");
    }
    assert_eq!(
        SignatureAlgorithm::from_der(&rsa(11)),
        Some(SignatureAlgorithm::RsaSha256)
    );
    assert_eq!(
        SignatureAlgorithm::from_der(&rsa(13)),
        Some(SignatureAlgorithm::RsaSha512)
    );
}
