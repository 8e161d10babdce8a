//! Revoked sets of any size, published as a CA publishes them, and the questions that are asked about them.

use std::{hint::black_box, time::Duration};

use mintage_identity::{IssuerKeyId, RevocationReason, Serial, SpiffeId, SpkiHash, TrustDomain, UnixTime};
use mintage_revocation::{
    DelegationStatement, IssuerCoverage, Query, Replica, Revocation, RevocationKey, RevokedSerial, RevokedSet,
    SerialKind, Terms,
};
use ring::{
    digest,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
};

use crate::{
    load::Failure,
    peers::{median_ns, timed},
};

/// When everything happens.
pub const NOW: UnixTime = UnixTime::from_seconds(1_900_000_000);
/// When everything has ended, and the grace is over too.
pub const LATER: UnixTime = UnixTime::from_seconds(1_900_000_000 + 1_320);
/// Certificates begin half a minute before.
const NOT_BEFORE: UnixTime = UnixTime::from_seconds(1_900_000_000 - 30);
/// Every certificate ends in the same minute, so that one partition holds all: the largest there can be.
const NOT_AFTER: UnixTime = UnixTime::from_seconds(1_900_000_000 + 600);
/// The key that issues, of two that the set covers.
pub const ISSUER: IssuerKeyId = IssuerKeyId::new([0x11; 32]);
const FORMER_ISSUER: IssuerKeyId = IssuerKeyId::new([0x22; 32]);
/// Serials of one record.
const RECORD: usize = 50_000;
/// What stands before the point in the SubjectPublicKeyInfo of a P-256 key (RFC 5480).
const P256_SPKI_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Serial number `n` of a row that is the same in every process; as random as one of a CSPRNG for what is measured.
pub fn serial(n: u64) -> Serial {
    // SplitMix64 (Steele, Lea, Flood 2014).
    let mix = |n: u64| {
        let z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut octets = [0; 16];
    octets[..8].copy_from_slice(&mix(2 * n).to_be_bytes());
    octets[8..].copy_from_slice(&mix(2 * n + 1).to_be_bytes());
    Serial::from_random(octets)
}

/// Everything about the certificates that are asked for, but their serials.
pub struct Asked {
    id: SpiffeId,
}

impl Asked {
    /// Certificates of one identity.
    ///
    /// # Errors
    /// Never, since the name is a valid one.
    pub fn new() -> Result<Self, Failure> {
        let id = SpiffeId::parse("spiffe://prod.example.org/web")?;
        Ok(Self { id })
    }

    /// The question about the certificate with this serial.
    pub fn about<'a>(&'a self, serial: &'a Serial) -> Query<'a> {
        Query {
            issuer: ISSUER,
            serial,
            not_before: NOT_BEFORE,
            not_after: NOT_AFTER,
            spiffe_id: Some(&self.id),
            spki_sha256: SpkiHash::new([7; 32]),
        }
    }

    /// Median time of a question about one of `serials` in nanoseconds; see [`median_ns`]. The questions of a lot are written
    /// right before they are asked, as its serials are: both come from the first cache.
    pub fn median_ns(&self, serials: &[Serial], mut ask: impl FnMut(&[Query<'_>]) -> usize) -> f64 {
        median_ns(serials, |lot| {
            let questions: Vec<Query<'_>> = lot.iter().map(|serial| self.about(serial)).collect();
            let questions = black_box(&questions[..]);
            timed(|| ask(questions))
        })
    }
}

/// A publisher: a CA key that delegates, and the key it delegates to.
pub struct Publisher {
    ca: EcdsaKeyPair,
    key: RevocationKey,
    set: RevokedSet,
}

impl Publisher {
    /// A publisher whose set covers two issuers and is empty.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new() -> Result<Self, Failure> {
        let random = SystemRandom::new();
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random);
        let made = made.map_err(|_| "no key")?;
        let ca = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, made.as_ref(), &random);
        let mut set = RevokedSet::new(&domain()?);
        for (sequence, id) in [(1, ISSUER), (2, FORMER_ISSUER)] {
            let (serials, until) = (SerialKind::Native, None);
            set.cover_issuer(sequence, &IssuerCoverage { id, serials, until })?;
        }
        Ok(Self {
            ca: ca.map_err(|_| "no key")?,
            key: RevocationKey::generate()?.0,
            set,
        })
    }

    /// Revokes serials `from..to`.
    ///
    /// # Errors
    /// When the set refuses them.
    pub fn revoke(&mut self, from: u64, to: u64) -> Result<(), Failure> {
        let mut rows: Vec<(u64, u64)> = (from..to).map(|n| (0, n)).collect();
        if rows.len() > RECORD {
            // In the order of the set, so that ten million are folded in seconds.
            let view = self.follower()?.view();
            let place = |n| view.entry_key(&ISSUER, &serial(n)).map_or(0, |key| key.fingerprint);
            rows.iter_mut().for_each(|(row, n)| *row = place(*n));
            rows.sort_unstable();
        }
        for rows in rows.chunks(RECORD) {
            let serials = rows.iter().map(|(_, n)| RevokedSerial {
                issuer: ISSUER,
                serial: serial(*n),
                not_after: NOT_AFTER,
            });
            let revocation = Revocation {
                at: NOW,
                serials: serials.collect(),
                rules: Vec::new(),
                reason: RevocationReason::KeyCompromise,
            };
            self.set.apply_revocation(self.set.sequence() + 1, &revocation)?;
        }
        Ok(())
    }

    /// The signed snapshot.
    ///
    /// # Errors
    /// When it would be too large.
    pub fn snapshot(&self) -> Result<Vec<u8>, Failure> {
        Ok(self.key.sign_snapshot(&self.set, &[], &terms())?)
    }

    /// The heartbeat of [`LATER`].
    ///
    /// # Errors
    /// Never.
    pub fn late_heartbeat(&self) -> Result<Vec<u8>, Failure> {
        let late = Terms {
            this_update: LATER,
            ..terms()
        };
        Ok(self.key.sign_heartbeat(&self.set, &late)?)
    }

    /// Revokes serials `from..to` and signs the delta.
    ///
    /// # Errors
    /// When the set refuses them.
    pub fn delta(&mut self, from: u64, to: u64) -> Result<Vec<u8>, Failure> {
        let before = self.set.sequence();
        self.revoke(from, to)?;
        Ok(self
            .key
            .sign_delta(&self.set, before, self.set.sequence(), &[], &terms())?)
    }

    /// What a follower in another process must be told to trust this publisher: the CA's key, then the delegation.
    ///
    /// # Errors
    /// When the delegation cannot be signed.
    pub fn trust(&self) -> Result<(Vec<u8>, Vec<u8>), Failure> {
        let spki = [&P256_SPKI_HEAD[..], self.ca.public_key().as_ref()].concat();
        let hash = digest::digest(&digest::SHA256, &spki);
        let (issuer, end) = (
            IssuerKeyId::from_slice(hash.as_ref())?,
            NOW.plus(Duration::from_secs(86_400)),
        );
        let statement = DelegationStatement::new(&domain()?, self.key.public_key(), 1, end, issuer);
        let signature = self.ca.sign(&SystemRandom::new(), &statement.to_be_signed());
        let signature = signature.map_err(|_| "no signature")?;
        Ok((spki, statement.signed(signature.as_ref().to_vec()).encode()))
    }

    /// A follower that trusts this publisher and holds what it published.
    ///
    /// # Errors
    /// When it refuses the snapshot.
    pub fn follower(&self) -> Result<Replica, Failure> {
        let (spki, delegation) = self.trust()?;
        follower(&spki, &delegation, &self.snapshot()?)
    }
}

/// A follower that trusts a publisher by [`Publisher::trust`] and holds this snapshot.
///
/// # Errors
/// When it refuses either.
pub fn follower(spki: &[u8], delegation: &[u8], snapshot: &[u8]) -> Result<Replica, Failure> {
    let mut replica = Replica::new(&domain()?);
    let delegation = mintage_revocation::Delegation::decode(delegation)?;
    replica.trust(delegation.verify(&domain()?, spki, NOW)?)?;
    replica.apply_snapshot(snapshot, NOW)?;
    Ok(replica)
}

fn domain() -> Result<TrustDomain, Failure> {
    Ok(TrustDomain::parse("prod.example.org")?)
}

fn terms() -> Terms {
    Terms {
        epoch: 1,
        this_update: NOW,
        next_update: NOW.plus(Duration::from_secs(3_600)),
    }
}
