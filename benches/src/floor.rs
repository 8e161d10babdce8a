//! The floor of an issuance: one P-256 signature verified (the request's) and one made (the certificate's), on all
//! cores at once, with nothing around it.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey},
};

/// Octets that are signed: about those of a certificate's body.
const MESSAGE_BYTES: usize = 600;

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub struct Floor {
    /// Threads, one for each core.
    pub cores: usize,
    /// Certificates a second on all cores.
    pub certs_per_s: f64,
}

impl Floor {
    /// Microseconds of one core for one certificate.
    pub fn us_per_cert(&self) -> f64 {
        self.cores as f64 / self.certs_per_s * 1e6
    }
}

/// Measures for about this long.
///
/// # Panics
/// When ring makes no key.
pub fn measure(at_least: Duration) -> Floor {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| work(&stop, &done));
        }
        std::thread::sleep(at_least);
        stop.store(true, Ordering::Relaxed);
    });
    Floor {
        cores,
        certs_per_s: done.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64(),
    }
}

fn work(stop: &AtomicBool, done: &AtomicU64) {
    let random = SystemRandom::new();
    let make = || {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).expect("a key");
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random).expect("a key")
    };
    let (ca, subject) = (make(), make());
    let mut message = [7u8; MESSAGE_BYTES];
    let proof = subject.sign(&random, &message).expect("a signature");
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, subject.public_key().as_ref().to_vec());
    let request = message;
    let mut count = 0u64;
    while !stop.load(Ordering::Relaxed) {
        key.verify(&request, proof.as_ref()).expect("the signature verifies");
        message[..8].copy_from_slice(&count.to_le_bytes());
        std::hint::black_box(ca.sign(&random, &message).expect("a signature"));
        count += 1;
    }
    done.fetch_add(count, Ordering::Relaxed);
}
