//! A publisher and its trust for tests: one CA key, one revocation key, one set, and a clock that the test moves.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]
#![allow(unreachable_pub, reason = "a module of test binaries")]

use std::time::Duration;

use mintage_identity::{IssuerKeyId, RevocationReason, Serial, SpiffeId, SpkiHash, TrustDomain, UnixTime};
use mintage_revocation::{
    Delegation, DelegationStatement, Exception, IssuerCoverage, Query, Replica, Revocation, RevocationKey,
    RevokedSerial, RevokedSet, Rule, RuleTarget, SerialKind, Terms, Verdict, VerifiedDelegation, View, Why,
};
use ring::{
    digest,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
};

/// Where the tests' clock starts.
pub const START: UnixTime = UnixTime::from_seconds(1_900_000_000);
pub const NATIVE: IssuerKeyId = IssuerKeyId::new([0x11; 32]);
pub const FOREIGN: IssuerKeyId = IssuerKeyId::new([0x22; 32]);
pub const STRANGER: IssuerKeyId = IssuerKeyId::new([0x33; 32]);
const P256_SPKI_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

pub fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

pub fn domain() -> TrustDomain {
    TrustDomain::parse("dev.test").unwrap()
}

pub fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

/// A CA key that delegates.
pub struct CaKey {
    pair: EcdsaKeyPair,
    pub spki: Vec<u8>,
}

impl CaKey {
    pub fn generate() -> Self {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap();
        let spki = [&P256_SPKI_HEAD[..], pair.public_key().as_ref()].concat();
        Self { pair, spki }
    }

    pub fn id(&self) -> IssuerKeyId {
        let hash = digest::digest(&digest::SHA256, &self.spki);
        IssuerKeyId::from_slice(hash.as_ref()).unwrap()
    }

    pub fn sign(&self, statement: DelegationStatement) -> Delegation {
        let signature = self.pair.sign(&SystemRandom::new(), &statement.to_be_signed()).unwrap();
        statement.signed(signature.as_ref().to_vec())
    }

    pub fn delegate(&self, key: &RevocationKey, epoch: u64, not_after: UnixTime) -> VerifiedDelegation {
        let statement = DelegationStatement::new(&domain(), key.public_key(), epoch, not_after, self.id());
        let delegation = self.sign(statement);
        delegation.verify(&domain(), &self.spki, START).unwrap()
    }
}

/// A publisher that folds records and signs.
pub struct Publisher {
    pub ca: CaKey,
    pub key: RevocationKey,
    pub epoch: u64,
    pub set: RevokedSet,
    pub now: UnixTime,
    pub exceptions: Vec<Exception>,
}

impl Publisher {
    /// A publisher whose set covers one native and one foreign issuer.
    pub fn new() -> Self {
        let mut set = RevokedSet::new(&domain());
        for (sequence, id, serials) in [(1, NATIVE, SerialKind::Native), (2, FOREIGN, SerialKind::Foreign)] {
            let until = None;
            set.cover_issuer(sequence, &IssuerCoverage { id, serials, until })
                .unwrap();
        }
        let (key, _) = RevocationKey::generate().unwrap();
        let (ca, exceptions) = (CaKey::generate(), Vec::new());
        Self {
            ca,
            key,
            epoch: 1,
            set,
            now: START,
            exceptions,
        }
    }

    pub fn terms(&self) -> Terms {
        Terms {
            epoch: self.epoch,
            this_update: self.now,
            next_update: self.now.plus(seconds(3_600)),
        }
    }

    pub fn delegation(&self) -> VerifiedDelegation {
        self.ca
            .delegate(&self.key, self.epoch, START.plus(seconds(900 * 86_400)))
    }

    /// A follower that trusts the publisher's key and holds nothing.
    pub fn follower(&self) -> Replica {
        let mut replica = Replica::new(&domain());
        replica.trust(self.delegation()).unwrap();
        replica
    }

    /// A follower that holds the present set.
    pub fn current_follower(&self) -> Replica {
        let mut replica = self.follower();
        replica.apply_snapshot(&self.snapshot(), self.now).unwrap();
        replica
    }

    pub fn snapshot(&self) -> Vec<u8> {
        self.key
            .sign_snapshot(&self.set, &self.exceptions, &self.terms())
            .unwrap()
    }

    pub fn delta(&self, from: u64) -> Vec<u8> {
        let to = self.set.sequence();
        self.key
            .sign_delta(&self.set, from, to, &self.exceptions, &self.terms())
            .unwrap()
    }

    pub fn heartbeat(&self) -> Vec<u8> {
        self.key.sign_heartbeat(&self.set, &self.terms()).unwrap()
    }

    /// Folds in a record ten indices on.
    pub fn revoke(&mut self, serials: Vec<RevokedSerial>, rules: Vec<Rule>) {
        let (at, reason) = (self.now, RevocationReason::KeyCompromise);
        let revocation = Revocation {
            at,
            serials,
            rules,
            reason,
        };
        self.set
            .apply_revocation(self.set.sequence() + 10, &revocation)
            .unwrap();
    }

    pub fn revoke_serial(&mut self, cert: &Cert) {
        self.revoke(vec![cert.revoked()], Vec::new());
    }

    pub fn revoke_rule(&mut self, target: RuleTarget, cut: Option<UnixTime>) {
        self.revoke(Vec::new(), vec![Rule { target, cut }]);
    }

    /// A delta from where the follower stands, applied.
    pub fn bring_up(&self, replica: &mut Replica) {
        let from = replica.position().unwrap().sequence;
        replica.apply_delta(&self.delta(from), self.now).unwrap();
    }
}

/// A certificate, as far as revocation looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cert {
    pub issuer: IssuerKeyId,
    pub serial: Serial,
    pub not_before: UnixTime,
    pub not_after: UnixTime,
    pub id: SpiffeId,
    pub spki: SpkiHash,
}

impl Cert {
    /// A certificate of 10 min issued at [`START`] with a serial made of `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            issuer: NATIVE,
            serial: serial(seed),
            not_before: START.minus(seconds(30)),
            not_after: START.plus(seconds(600)),
            id: id("spiffe://dev.test/web"),
            spki: SpkiHash::new([seed as u8; 32]),
        }
    }

    pub fn query(&self) -> Query<'_> {
        Query {
            issuer: self.issuer,
            serial: &self.serial,
            not_before: self.not_before,
            not_after: self.not_after,
            spiffe_id: Some(&self.id),
            spki_sha256: self.spki,
        }
    }

    pub fn check(&self, view: &View, now: UnixTime) -> Verdict {
        view.check(&self.query(), now)
    }

    pub fn revoked(&self) -> RevokedSerial {
        RevokedSerial {
            issuer: self.issuer,
            serial: self.serial,
            not_after: self.not_after,
        }
    }
}

/// A native serial, uniform in `seed`.
pub fn serial(seed: u64) -> Serial {
    let hash = digest::digest(&digest::SHA256, &seed.to_le_bytes());
    let mut octets = [0; 16];
    octets.copy_from_slice(&hash.as_ref()[..16]);
    Serial::from_random(octets)
}

/// Another native serial with the same fingerprint: `step` more in the high half of the index octets, as many times the
/// multiplier less in the low half.
pub fn twin(of: &Serial, step: u64) -> Serial {
    const MASK: u64 = (1 << 48) - 1;
    let tail = of.tail();
    let half = |at: usize| {
        tail[at..at + 6]
            .iter()
            .fold(0_u64, |value, &o| value << 8 | u64::from(o))
    };
    let high = half(0).wrapping_add(step) & MASK;
    let low = half(6).wrapping_sub(step.wrapping_mul(0x9e37_79b9_7f4b)) & MASK;
    let mut octets = [0; 16];
    octets.copy_from_slice(&of.padded()[4..]);
    octets[4..10].copy_from_slice(&high.to_be_bytes()[2..]);
    octets[10..].copy_from_slice(&low.to_be_bytes()[2..]);
    Serial::from_random(octets)
}

pub const BY_SERIAL: Verdict = Verdict::Revoked { why: Why::Serial };
