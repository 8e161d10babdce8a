//! Signatures over the wrong connection, by the wrong key, too late.

use std::time::Duration;

use mintage_identity::AgentInstance;
use ring::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
        Ed25519KeyPair, KeyPair,
    },
};

use super::*;
use crate::channel::AgentCertificate;

const NOW: UnixTime = UnixTime::from_seconds(1_800_000_000);
const EXPORTER: [u8; 32] = [5; 32];
const NEW_KEY: SpkiHash = SpkiHash::new([6; 32]);

/// PKCS#8 and SubjectPublicKeyInfo of a fresh key.
fn ecdsa(algorithm: &'static EcdsaSigningAlgorithm, head: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap();
    (pkcs8.as_ref().to_vec(), [head, pair.public_key().as_ref()].concat())
}

fn keys() -> [(Vec<u8>, Vec<u8>); 3] {
    let ed25519 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(ed25519.as_ref()).unwrap();
    let head = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";
    [
        ecdsa(
            &ECDSA_P256_SHA256_ASN1_SIGNING,
            b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00",
        ),
        ecdsa(
            &ECDSA_P384_SHA384_ASN1_SIGNING,
            b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00",
        ),
        (
            ed25519.as_ref().to_vec(),
            [&head[..], pair.public_key().as_ref()].concat(),
        ),
    ]
}

fn spki_hash(spki_der: &[u8]) -> SpkiHash {
    SpkiHash::from_slice(digest::digest(&digest::SHA256, spki_der).as_ref()).unwrap()
}

fn last(spki_der: &[u8]) -> LastCertificate {
    LastCertificate {
        id: SpiffeId::parse("spiffe://dev.test/mintage/agent/node-1").unwrap(),
        serial: Serial::from_random([3; 16]),
        not_after: NOW.minus(Duration::from_secs(3600)),
        spki_der: spki_der.to_vec(),
    }
}

fn standing(spki_der: &[u8]) -> AgentStanding {
    AgentStanding {
        id: last(spki_der).id,
        instance: AgentInstance(17),
        banned: false,
        evicted: false,
        current: AgentCertificate {
            serial: last(spki_der).serial,
            spki: spki_hash(spki_der),
        },
        earlier: Vec::new(),
    }
}

fn code(result: Result<Attested, AttestError>) -> &'static str {
    let error = result.unwrap_err();
    assert_eq!(
        error.to_string(),
        "re-joining is not accepted; ask an operator for a join token"
    );
    error.code()
}

#[test]
fn the_last_key_of_each_kind_lets_the_agent_in_again_within_seven_days() {
    for (pkcs8, spki) in keys() {
        let signature = prove(&pkcs8, &EXPORTER, &NEW_KEY, &SystemRandom::new()).unwrap();
        assert!(signature.len() <= SIGNATURE_BYTES_MAX);
        let check = |now| {
            verify(
                &last(&spki),
                &signature,
                &EXPORTER,
                &NEW_KEY,
                Some(&standing(&spki)),
                now,
            )
        };
        let attested = check(NOW).unwrap();
        assert_eq!((attested.kind(), attested.instance()), ("rejoin", AgentInstance(17)));
        let expired = last(&spki).not_after;
        assert!(check(expired.plus(REJOIN_WINDOW)).is_ok());
        assert_eq!(
            code(check(expired.plus(REJOIN_WINDOW + Duration::from_millis(1)))),
            "rejoin_too_old"
        );
        // Before expiry it is as good a proof as after.
        assert!(check(expired.minus(Duration::from_secs(60))).is_ok());
    }
}

#[test]
fn a_signature_over_another_connection_another_new_key_or_by_another_key_is_refused_and_alarms() {
    let [(pkcs8, spki), (_, p384), (_, ed25519)] = keys();
    let random = SystemRandom::new();
    let sign = |pkcs8: &[u8], exporter, new_key| prove(pkcs8, exporter, new_key, &random).unwrap();
    let good = sign(&pkcs8, &EXPORTER, &NEW_KEY);
    let ask = |signature: &[u8]| {
        verify(
            &last(&spki),
            signature,
            &EXPORTER,
            &NEW_KEY,
            Some(&standing(&spki)),
            NOW,
        )
    };
    assert!(ask(&good).is_ok());
    let (stranger, _) = &keys()[0];
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for bad in [
        sign(&pkcs8, &[4; 32], &NEW_KEY),
        sign(&pkcs8, &EXPORTER, &SpkiHash::new([7; 32])),
        sign(stranger, &EXPORTER, &NEW_KEY),
        flipped,
        Vec::new(),
        vec![0; 64],
        vec![0; 1 << 20],
    ] {
        let error = ask(&bad).unwrap_err();
        assert!(error.is_alarming());
        assert_eq!(code(Err(error)), "rejoin_signature");
    }
    // Another key under the right serial: the records know better.
    for other in [p384, ed25519] {
        let forged = verify(&last(&other), &good, &EXPORTER, &NEW_KEY, Some(&standing(&spki)), NOW);
        assert_eq!(code(forged), "rejoin_other_key");
    }
}

#[test]
fn banned_evicted_unknown_and_superseded_agents_do_not_come_back() {
    let [(pkcs8, spki), ..] = keys();
    let signature = prove(&pkcs8, &EXPORTER, &NEW_KEY, &SystemRandom::new()).unwrap();
    let ask = |last: &LastCertificate, standing: Option<&AgentStanding>| {
        code(verify(last, &signature, &EXPORTER, &NEW_KEY, standing, NOW))
    };
    let good = standing(&spki);
    let last = last(&spki);
    let banned = AgentStanding {
        banned: true,
        ..good.clone()
    };
    let evicted = AgentStanding {
        evicted: true,
        ..good.clone()
    };
    let renewed = AgentStanding {
        current: AgentCertificate {
            serial: Serial::from_random([4; 16]),
            ..good.current.clone()
        },
        ..good.clone()
    };
    let of_another = AgentStanding {
        id: SpiffeId::parse("spiffe://dev.test/mintage/agent/node-2").unwrap(),
        ..good.clone()
    };
    let workload = LastCertificate {
        id: SpiffeId::parse("spiffe://dev.test/web").unwrap(),
        ..last.clone()
    };
    assert_eq!(ask(&last, Some(&banned)), "rejoin_banned");
    assert_eq!(ask(&last, Some(&evicted)), "rejoin_banned");
    assert_eq!(ask(&last, Some(&renewed)), "rejoin_superseded");
    assert_eq!(ask(&last, Some(&of_another)), "rejoin_unknown");
    assert_eq!(ask(&last, None), "rejoin_unknown");
    assert_eq!(ask(&workload, Some(&good)), "rejoin_no_agent");
}

#[test]
fn keys_and_infos_of_other_kinds_are_refused_without_a_panic() {
    let random = SystemRandom::new();
    for bad in [&b""[..], b"\x30\x00", &[0xff; 200]] {
        assert!(prove(bad, &EXPORTER, &NEW_KEY, &random).is_err());
        let result = verify(&last(bad), b"x", &EXPORTER, &NEW_KEY, Some(&standing(bad)), NOW);
        assert!(result.is_err());
    }
    let [(_, spki), ..] = keys();
    for cut in 0..spki.len() {
        let short = &spki[..cut];
        assert!(verify(&last(short), b"x", &EXPORTER, &NEW_KEY, Some(&standing(short)), NOW).is_err());
    }
}
