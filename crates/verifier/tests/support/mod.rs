//! Certificates, clocks, filters and in-memory handshakes for the tests. Everything hostile is made here with rcgen,
//! which signs whatever it is told.

#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

pub(crate) mod publisher;
pub(crate) mod tls;

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use mintage_identity::{IssuerKeyId, Serial, SpiffeId, TrustDomain, UnixTime};
use mintage_revocation::{Decision, EntryKey, Freshness, FreshnessPolicy, Query, Verdict, Why};
use mintage_verifier::{RevocationCheck, RevocationView, Trust, TrustStore};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::{crypto::CryptoProvider, time_provider::TimeProvider};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// The instant every test starts at: 2026-01-01T00:00:00Z.
pub(crate) const NOW: u64 = 1_767_225_600;

pub(crate) fn now() -> UnixTime {
    UnixTime::from_seconds(NOW as i64)
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A clock that stands until it is moved.
#[derive(Debug)]
pub(crate) struct Clock {
    seconds: AtomicU64,
    is_broken: AtomicBool,
}

impl Clock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            seconds: AtomicU64::new(NOW),
            is_broken: AtomicBool::new(false),
        })
    }

    pub(crate) fn advance(&self, seconds: u64) {
        self.seconds.fetch_add(seconds, Ordering::SeqCst);
    }

    /// From now on it tells no time, or tells it again.
    pub(crate) fn set_broken(&self, is_broken: bool) {
        self.is_broken.store(is_broken, Ordering::SeqCst);
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<rustls_pki_types::UnixTime> {
        if self.is_broken.load(Ordering::SeqCst) {
            return None;
        }
        let seconds = self.seconds.load(Ordering::SeqCst);
        Some(rustls_pki_types::UnixTime::since_unix_epoch(Duration::from_secs(
            seconds,
        )))
    }
}

pub(crate) fn domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

pub(crate) fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

/// A certificate authority, and the chain from its own certificate up to, but without, its root.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) der: CertificateDer<'static>,
    below_root: Vec<CertificateDer<'static>>,
    pub(crate) serial: Serial,
}

/// What to write into a leaf; tests bend single fields.
pub(crate) struct LeafSpec {
    pub(crate) uris: Vec<String>,
    pub(crate) is_ca: IsCa,
    pub(crate) key_usages: Vec<KeyUsagePurpose>,
    pub(crate) purposes: Vec<ExtendedKeyUsagePurpose>,
    /// Seconds from [`NOW`].
    pub(crate) starts: i64,
    /// Seconds from [`NOW`].
    pub(crate) ends: i64,
}

/// A leaf with its chain and key.
pub(crate) struct Leaf {
    /// Leaf first, without the root.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: Vec<u8>,
    pub(crate) serial: Serial,
}

impl Leaf {
    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }
}

impl LeafSpec {
    /// A good SVID for ten minutes.
    pub(crate) fn good(uri: &str) -> Self {
        Self {
            uris: vec![uri.to_owned()],
            is_ca: IsCa::NoCa,
            key_usages: vec![KeyUsagePurpose::DigitalSignature],
            purposes: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            starts: -30,
            ends: 600,
        }
    }

    fn params(self) -> (CertificateParams, Serial) {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let uris = self.uris.iter();
        params.subject_alt_names = uris.map(|uri| SanType::URI(uri.as_str().try_into().unwrap())).collect();
        params.is_ca = self.is_ca;
        params.key_usages = self.key_usages;
        params.extended_key_usages = self.purposes;
        set_validity(&mut params, self.starts, self.ends);
        let serial = next_serial();
        params.serial_number = Some(SerialNumber::from_slice(serial.octets()));
        (params, serial)
    }

    /// A leaf that is its own issuer, under the name of a CA.
    pub(crate) fn self_signed(self, name: &str) -> Leaf {
        let (mut params, serial) = self.params();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        Leaf {
            chain: vec![params.self_signed(&key).unwrap().der().clone()],
            key: key.serialize_der(),
            serial,
        }
    }
}

fn set_validity(params: &mut CertificateParams, starts: i64, ends: i64) {
    let instant = |offset: i64| {
        let base = rcgen::date_time_ymd(2026, 1, 1);
        let distance = Duration::from_secs(offset.unsigned_abs());
        if offset < 0 { base - distance } else { base + distance }
    };
    (params.not_before, params.not_after) = (instant(starts), instant(ends));
}

/// A serial of the house's shape; every call gives another.
fn next_serial() -> Serial {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut octets = [0x5a; 16];
    octets[8..].copy_from_slice(&NEXT.fetch_add(1, Ordering::SeqCst).to_be_bytes());
    Serial::from_random(octets)
}

fn ca_params(name: &str, ends: i64) -> (CertificateParams, Serial) {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, -3600, ends);
    let serial = next_serial();
    params.serial_number = Some(SerialNumber::from_slice(serial.octets()));
    (params, serial)
}

const YEAR: i64 = 365 * 86_400;

impl Ca {
    pub(crate) fn root(name: &str) -> Self {
        Self::root_until(name, YEAR)
    }

    pub(crate) fn root_until(name: &str, ends: i64) -> Self {
        let (params, serial) = ca_params(name, ends);
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().clone();
        let issuer = Issuer::new(params, key);
        Self {
            issuer,
            der,
            below_root: Vec::new(),
            serial,
        }
    }

    pub(crate) fn intermediate(&self, name: &str) -> Self {
        self.intermediate_with(name, |_| {})
    }

    /// An intermediate whose certificate was bent before it was signed.
    pub(crate) fn intermediate_with(&self, name: &str, bend: impl FnOnce(&mut CertificateParams)) -> Self {
        let (mut params, serial) = ca_params(name, YEAR / 2);
        bend(&mut params);
        let key = KeyPair::generate().unwrap();
        let der = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let issuer = Issuer::new(params, key);
        let mut below_root = vec![der.clone()];
        below_root.extend(self.below_root.iter().cloned());
        Self {
            issuer,
            der,
            below_root,
            serial,
        }
    }

    /// SHA-256 of the public key, as the verifier must compute it.
    pub(crate) fn key_id(&self) -> IssuerKeyId {
        mintage_svid::CertInfo::parse(&self.der).unwrap().key_id()
    }

    /// Signs anything with the CA's key: ASN.1 ECDSA with SHA-256.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        rcgen::SigningKey::sign(self.issuer.key(), message).unwrap()
    }

    pub(crate) fn good_leaf(&self, uri: &str) -> Leaf {
        self.leaf(LeafSpec::good(uri))
    }

    pub(crate) fn leaf(&self, spec: LeafSpec) -> Leaf {
        let (params, serial) = spec.params();
        let key = KeyPair::generate().unwrap();
        let mut chain = vec![params.signed_by(&key, &self.issuer).unwrap().der().clone()];
        chain.extend(self.below_root.iter().cloned());
        Leaf {
            chain,
            key: key.serialize_der(),
            serial,
        }
    }
}

/// A filter whose content and age the test sets.
#[derive(Debug)]
pub(crate) struct FakeView {
    revoked: Mutex<HashSet<(IssuerKeyId, Serial)>>,
    age_seconds: AtomicU64,
    covers: bool,
}

impl FakeView {
    pub(crate) fn fresh() -> Arc<Self> {
        Arc::new(Self {
            revoked: Mutex::default(),
            age_seconds: AtomicU64::new(0),
            covers: true,
        })
    }

    pub(crate) fn covering_nothing() -> Arc<Self> {
        Arc::new(Self {
            revoked: Mutex::default(),
            age_seconds: AtomicU64::new(0),
            covers: false,
        })
    }

    pub(crate) fn aged(seconds: u64) -> Arc<Self> {
        let view = Self::fresh();
        view.set_age(seconds);
        view
    }

    pub(crate) fn set_age(&self, seconds: u64) {
        self.age_seconds.store(seconds, Ordering::SeqCst);
    }

    pub(crate) fn revoke(&self, issuer: IssuerKeyId, serial: Serial) {
        self.revoked.lock().unwrap().insert((issuer, serial));
    }
}

impl RevocationView for FakeView {
    fn decide(&self, query: &Query<'_>, _now: UnixTime, policy: FreshnessPolicy) -> Decision {
        if self.revoked.lock().unwrap().contains(&(query.issuer, *query.serial)) {
            return Decision::Refuse(Verdict::Revoked { why: Why::Serial });
        }
        if !self.covers {
            return Decision::Refuse(Verdict::NotCovered);
        }
        let age = Duration::from_secs(self.age_seconds.load(Ordering::SeqCst));
        match policy.judge(Some(age)) {
            Freshness::Fresh => Decision::Accept { tolerated: false },
            Freshness::Tolerated => Decision::Accept { tolerated: true },
            Freshness::Stale => Decision::Refuse(Verdict::Stale),
        }
    }

    fn entry_key(&self, issuer: &IssuerKeyId, serial: &Serial) -> Option<EntryKey> {
        let tail = serial.tail();
        let fingerprint = tail.iter().fold(0, |sum: u64, octet| sum << 5 ^ u64::from(*octet));
        self.covers.then_some(EntryKey {
            issuer: *issuer,
            fingerprint,
        })
    }

    fn age(&self, _: UnixTime) -> Option<Duration> {
        Some(Duration::from_secs(self.age_seconds.load(Ordering::SeqCst)))
    }
}

/// A snapshot of one trust domain under one root.
pub(crate) fn trust(name: &str, root: &Ca, revocation: RevocationCheck) -> Trust {
    Trust::builder(domain(name))
        .domain(domain(name), [root.der.to_vec()], revocation)
        .unwrap()
        .build()
}

/// A store over [`trust`] with a fresh and empty filter.
pub(crate) fn store(name: &str, root: &Ca) -> Arc<TrustStore> {
    TrustStore::new(trust(name, root, RevocationCheck::required(FakeView::fresh())))
}
