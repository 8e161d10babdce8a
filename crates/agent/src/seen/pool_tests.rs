//! The sample is even, bounded and paced; what was told is told again only after a while.

use std::sync::Arc;

use mintage_identity::{SpiffeId, TrustDomain};
use mintage_verifier::{RevocationCheck, Trust};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};

use super::*;

/// 2027-01-15, and a time since boot.
const WALL: UnixTime = UnixTime::from_seconds(1_800_000_000);
const NOW: Duration = Duration::from_secs(1000);

/// A certificate of a trust domain of its own; copies of it differ in their hash alone.
fn seen() -> SeenUse {
    let domain = TrustDomain::parse("dev.test").unwrap();
    let dates = |params: &mut CertificateParams| {
        params.not_before = time::OffsetDateTime::from_unix_timestamp(WALL.seconds() - 60).unwrap();
        params.not_after = time::OffsetDateTime::from_unix_timestamp(WALL.seconds() + 600).unwrap();
    };
    let key = KeyPair::generate().unwrap();
    let mut root = CertificateParams::default();
    dates(&mut root);
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let root_der = root.self_signed(&key).unwrap().der().to_vec();
    let id = SpiffeId::parse("spiffe://dev.test/web").unwrap();
    let mut leaf = CertificateParams::default();
    dates(&mut leaf);
    leaf.subject_alt_names = vec![SanType::URI(id.as_str().try_into().unwrap())];
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let leaf = leaf
        .signed_by(&KeyPair::generate().unwrap(), &Issuer::new(root, key))
        .unwrap();
    let trust = Trust::builder(domain.clone())
        .domain(domain, [root_der], RevocationCheck::None)
        .unwrap()
        .build();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    SeenUse::verify(&[leaf.der().to_vec()], &trust, &provider, WALL).unwrap()
}

fn numbered(of: &SeenUse, number: u64) -> SeenUse {
    let mut seen = of.clone();
    seen.fingerprint[..8].copy_from_slice(&number.to_be_bytes());
    seen
}

#[test]
fn each_is_told_once_in_a_while() {
    let (one, mut pool) = (seen(), Pool::default());
    assert_eq!((pool.wake_at(), pool.take(NOW, WALL).len()), (None, 0));
    assert_eq!(pool.offer(one.clone(), NOW, Jitter(0)), Offered::Taken);
    assert_eq!(pool.offer(one.clone(), NOW, Jitter(0)), Offered::Known);
    let batch = pool.take(NOW, WALL);
    assert_eq!(batch, std::slice::from_ref(&one), "the first goes at once");
    pool.told(&batch, NOW);
    assert_eq!(pool.offer(one.clone(), NOW, Jitter(0)), Offered::Known);
    let later = NOW + SEEN_AGAIN_AFTER;
    assert_eq!(pool.offer(one, later, Jitter(0)), Offered::Taken);
}

#[test]
fn batches_keep_their_distance_and_one_that_did_not_go_waits() {
    let (one, mut pool) = (seen(), Pool::default());
    pool.offer(numbered(&one, 1), NOW, Jitter(0));
    let batch = pool.take(NOW, WALL);
    pool.put_back(batch, NOW);
    pool.offer(numbered(&one, 2), NOW, Jitter(0));
    assert!(pool.take(NOW, WALL).is_empty());
    assert_eq!(pool.wake_at(), Some(NOW + SEEN_EVERY));
    assert_eq!(pool.take(NOW + SEEN_EVERY, WALL).len(), 2);
}

#[test]
fn what_expired_while_it_waited_is_left_out() {
    let (one, mut pool) = (seen(), Pool::default());
    pool.offer(one.clone(), NOW, Jitter(0));
    assert!(pool.take(NOW, one.peer.not_after()).is_empty());
    assert_eq!(pool.wake_at(), None);
}

#[test]
fn of_more_than_fit_each_has_its_chance() {
    let one = seen();
    let (mut late, rounds) = (0, 40);
    let mut draw = 12_345_u16;
    for _ in 0..rounds {
        let mut pool = Pool::default();
        for number in 0..4 * SEEN_BATCH_MAX as u64 {
            // Any even sequence does (Hull and Dobell: full period).
            draw = draw.wrapping_mul(25_173).wrapping_add(13_849);
            pool.offer(numbered(&one, number), NOW, Jitter(draw));
        }
        let batch = pool.take(NOW, WALL);
        assert_eq!(batch.len(), SEEN_BATCH_MAX);
        let half = 2 * SEEN_BATCH_MAX as u64;
        late += batch
            .iter()
            .filter(|seen| u64::from_be_bytes(seen.fingerprint[..8].try_into().unwrap()) >= half)
            .count();
    }
    let share = late * 100 / (rounds * SEEN_BATCH_MAX);
    assert!((40..=60).contains(&share), "{share} % are of the later half");
}

#[test]
fn what_is_remembered_is_bounded() {
    let (one, mut pool) = (seen(), Pool::default());
    for number in 0..SEEN_TOLD_MAX as u64 + 100 {
        pool.told(&[numbered(&one, number)], NOW);
    }
    assert_eq!((pool.told.len(), pool.order.len()), (SEEN_TOLD_MAX, SEEN_TOLD_MAX));
    pool.told(&[numbered(&one, 0)], NOW + SEEN_AGAIN_AFTER);
    assert_eq!((pool.told.len(), pool.order.len()), (1, 1));
}
