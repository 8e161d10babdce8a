//! The floor of an issuance: one P-256 signature verified (the request's) and one made (the certificate's), on all
//! cores at once, with nothing around it.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, UnparsedPublicKey},
};
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

use crate::load::{Failure, Requests, percentile};

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

/// What is verified of a signing request. Each is used once, as in the CA: a signature that is verified again and again
/// takes the same branches, which the processor learns, and makes the floor some percent lower than it is.
#[derive(Debug)]
pub struct Proof {
    signed: Vec<u8>,
    key: UnparsedPublicKey<Vec<u8>>,
    signature: Vec<u8>,
}

/// Takes requests apart.
///
/// # Errors
/// When one of them is none.
pub fn proofs(requests: &Requests) -> Result<Vec<Proof>, Failure> {
    let proof = |csr: &Vec<u8>| {
        let (_, request) = X509CertificationRequest::from_der(csr).map_err(|error| error.to_string())?;
        let info = &request.certification_request_info;
        let key = info.subject_pki.subject_public_key.data.to_vec();
        Ok(Proof {
            signed: info.raw.to_vec(),
            key: UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key),
            signature: request.signature_value.data.to_vec(),
        })
    };
    requests.iter().map(proof).collect()
}

/// Measures for this long, or until the proofs are used up.
///
/// # Panics
/// When ring makes no key, or a proof is none.
pub fn measure(longest: Duration, proofs: &[Proof]) -> Floor {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (over, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let started = Instant::now();
    let end = started + longest;
    std::thread::scope(|scope| {
        for proofs in proofs.chunks(proofs.len().div_ceil(cores).max(1)) {
            scope.spawn(|| work(end, &over, &done, proofs));
        }
    });
    Floor {
        cores,
        certs_per_s: done.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64(),
    }
}

/// Works until the time is over, or the first thread has used up its proofs.
fn work(end: Instant, over: &AtomicBool, done: &AtomicU64, proofs: &[Proof]) {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).expect("a key");
    let ca = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random).expect("a key");
    let mut message = [7u8; MESSAGE_BYTES];
    let mut count = 0u64;
    for proof in proofs {
        if over.load(Ordering::Relaxed) || Instant::now() >= end {
            break;
        }
        let verified = proof.key.verify(&proof.signed, &proof.signature);
        verified.expect("the signature verifies");
        message[..8].copy_from_slice(&count.to_le_bytes());
        std::hint::black_box(ca.sign(&random, &message).expect("a signature"));
        count += 1;
    }
    over.store(true, Ordering::Relaxed);
    done.fetch_add(count, Ordering::Relaxed);
}

/// What one flush of a small write costs on the disk of the ledger.
///
/// # Errors
/// When the disk does not take it.
pub fn fsync_p50_ms(folder: &std::path::Path) -> Result<f64, Failure> {
    use std::io::Write;
    let mut file = std::fs::File::create(folder.join("flush"))?;
    file.write_all(&vec![0; 1 << 20])?;
    file.sync_all()?;
    let mut times = Vec::new();
    for _ in 0..100 {
        std::io::Seek::rewind(&mut file)?;
        let started = Instant::now();
        file.write_all(&[1; 1024])?;
        file.sync_data()?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(percentile(&mut times, 0.5))
}
