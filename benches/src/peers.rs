//! What others offer for the same question: is this serial revoked?

use std::{collections::HashSet, hint::black_box, path::Path, process::Command, time::Instant};

use fastbloom::BloomFilter;
use mintage_identity::{IssuerKeyId, Serial};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use serde::Serialize;
use webpki::{CertRevocationList, OwnedCertRevocationList};
use xorf::{BinaryFuse16, Filter};

use crate::{
    filter::ISSUER,
    load::{Failure, percentile},
};

/// Questions between two looks at the clock. They lie in the first cache, as one does that was just read off a certificate, and
/// take far less than a slice of the scheduler, so that a median knows no other program.
pub const LOT: usize = 200;

/// Median time of a question in nanoseconds, over lots of [`LOT`]. Each lot of serials is copied right before `lot_ns` is told
/// to ask for it, which says how long the asking took; see [`timed`].
pub fn median_ns(serials: &[Serial], mut lot_ns: impl FnMut(&[Serial]) -> f64) -> f64 {
    let mut lot = Vec::with_capacity(LOT);
    let mut took = Vec::with_capacity(serials.len() / LOT);
    for chunk in serials.chunks_exact(LOT) {
        lot.clear();
        lot.extend_from_slice(chunk);
        took.push(lot_ns(black_box(&lot)) / LOT as f64);
    }
    percentile(&mut took, 0.5)
}

/// Nanoseconds that `ask` took, which says how many of a lot are revoked.
#[inline(always)]
pub fn timed(ask: impl FnOnce() -> usize) -> f64 {
    let started = Instant::now();
    black_box(ask());
    started.elapsed().as_nanos() as f64
}

/// Nanoseconds of the bare memory access that no look-up can do without: four words of a random 32-octet block, of so many octets
/// as a filter of `revoked` serials has, and the loop around it.
pub fn floor_ns(revoked: u64, asked: &[Serial]) -> f64 {
    let blocks = (revoked * 13 / 256).max(1);
    // Half of the bits are set at random: the answer is no three times in four, and no branch hangs on it.
    let blocks: Vec<[u64; 4]> = (0..blocks)
        .map(|n| [n.wrapping_mul(0x9e37_79b9_7f4a_7c15); 4])
        .collect();
    median_ns(asked, |lot| {
        timed(|| {
            let set = |serial: &Serial| {
                let key = key(serial);
                let at = ((key >> 32) * blocks.len() as u64) >> 32;
                let words = blocks.get(at as usize).unwrap_or(&[0; 4]).iter().zip([0, 6, 12, 18]);
                words.fold(1, |held, (word, bit)| held & word.wrapping_shr((key >> bit) as u32)) & 1
            };
            lot.iter().map(set).sum::<u64>() as usize
        })
    })
}

/// Bits of a key in the filter of sbbf-rs: as usual, and a few more than ours have.
const SBBF_BITS: usize = 16;

/// Nanoseconds of a look-up of a certificate that is not revoked.
#[derive(Debug, Serialize)]
pub struct Peers {
    /// In a CRL, by rustls-webpki.
    pub webpki_crl: f64,
    /// None where there is no C compiler or no OpenSSL to build against.
    pub openssl_crl: Option<f64>,
    /// Of serials, with SipHash.
    pub hashset: f64,
    /// Keyed as the question is, by issuer and serial.
    pub hashset_by_issuer: f64,
    /// A Bloom filter.
    pub fastbloom: f64,
    /// A split-block Bloom filter as ours, by the safe shell of sbbf-rs.
    pub sbbf_rs: f64,
    /// A binary fuse filter.
    pub xorf: f64,
}

/// Asks each peer, which holds `revoked`, for `asked`. `folder` is for files of the OpenSSL program.
///
/// # Errors
/// When a peer cannot be filled.
pub fn peers(revoked: &[Serial], asked: &[Serial], folder: &Path) -> Result<Peers, Failure> {
    let crl = crl_of(revoked)?;
    let owned: CertRevocationList<'_> = OwnedCertRevocationList::from_der(&crl)?.into();
    let median_ns = |ask: &mut dyn FnMut(&[Serial]) -> usize| median_ns(asked, |lot| timed(|| ask(lot)));
    let webpki_crl = median_ns(&mut |lot| {
        let found = lot
            .iter()
            .filter(|serial| matches!(owned.find_serial(serial.octets()), Ok(Some(_))));
        found.count()
    });
    let set: HashSet<Serial> = revoked.iter().copied().collect();
    let hashset = median_ns(&mut |lot| lot.iter().filter(|serial| set.contains(*serial)).count());
    let keyed: HashSet<(IssuerKeyId, Serial)> = revoked.iter().map(|serial| (ISSUER, *serial)).collect();
    let issuer = black_box(ISSUER);
    let hashset_by_issuer =
        median_ns(&mut |lot| lot.iter().filter(|serial| keyed.contains(&(issuer, **serial))).count());
    let mut bloom = BloomFilter::with_false_pos(0.001).expected_items(revoked.len());
    bloom.extend(revoked);
    let fastbloom = median_ns(&mut |lot| lot.iter().filter(|serial| bloom.contains(*serial)).count());
    let keys: Vec<u64> = revoked.iter().map(key).collect();
    let mut blocks = sbbf_rs_safe::Filter::new(SBBF_BITS, keys.len());
    keys.iter().for_each(|key| _ = blocks.insert_hash(*key));
    let sbbf_rs = median_ns(&mut |lot| lot.iter().filter(|serial| blocks.contains_hash(key(serial))).count());
    let fuse = BinaryFuse16::try_from(&keys)?;
    let xorf = median_ns(&mut |lot| lot.iter().filter(|serial| fuse.contains(&key(serial))).count());
    Ok(Peers {
        webpki_crl,
        openssl_crl: openssl(&crl, asked, folder),
        hashset,
        hashset_by_issuer,
        fastbloom,
        sbbf_rs,
        xorf,
    })
}

/// The last eight octets: random ones need no hash.
fn key(serial: &Serial) -> u64 {
    let mut key = [0; 8];
    key.copy_from_slice(&serial.tail()[4..]);
    u64::from_be_bytes(key)
}

fn crl_of(revoked: &[Serial]) -> Result<Vec<u8>, Failure> {
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::CrlSign];
    let issuer = Issuer::new(ca, KeyPair::generate()?);
    let entry = |serial: &Serial| RevokedCertParams {
        serial_number: SerialNumber::from_slice(serial.octets()),
        revocation_time: date_time_ymd(2030, 1, 1),
        reason_code: None,
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2030, 1, 1),
        next_update: date_time_ymd(2031, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: revoked.iter().map(entry).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    Ok(params.signed_by(&issuer)?.der().to_vec())
}

/// Builds and runs the program beside this crate.
fn openssl(crl: &[u8], asked: &[Serial], folder: &Path) -> Option<f64> {
    let (list, serials, program) = (
        folder.join("crl.der"),
        folder.join("serials"),
        folder.join("openssl_crl"),
    );
    std::fs::write(&list, crl).ok()?;
    let octets: Vec<u8> = asked.iter().flat_map(|serial| serial.octets().to_vec()).collect();
    std::fs::write(&serials, octets).ok()?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/openssl_crl.c");
    let built = Command::new("cc")
        .args(["-O2", "-o"])
        .arg(&program)
        .arg(source)
        .arg("-lcrypto")
        .output()
        .ok()?;
    if !built.status.success() {
        return None;
    }
    let ran = Command::new(&program).args([list, serials]).output().ok()?;
    String::from_utf8(ran.stdout).ok()?.split(' ').next()?.parse().ok()
}
