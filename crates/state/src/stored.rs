//! How each object of the view lies in the store: protobuf messages, so that a later version can add fields.

use std::sync::Arc;

use mintage_identity::{
    AgentInstance, AgentName, IssuerKeyId, RevocationReason, Serial, SpiffeId, SpkiHash, TrustDomain, UnixTime,
};
use mintage_ledger::wire;
use mintage_policy::AgentStatus;
use mintage_revocation::{IssuerCoverage, Revocation, RevokedSet, SerialKind, SetHash, limits::DROP_GRACE};
use prost::Message;

use crate::convert::{entry_from_put, entry_to_put, revocation_of};
use crate::model::{
    AgentCertificate, AgentRecord, BundleRecord, CaKeyRecord, FederatedContent, FederatedRecord, StandingEntry,
    TokenRecord,
};

#[derive(Clone, PartialEq, Message)]
struct StoredEntry {
    #[prost(message, optional, tag = "1")]
    put: Option<wire::EntryPut>,
    #[prost(uint64, tag = "2")]
    revision: u64,
    #[prost(int64, tag = "3")]
    changed_ms: i64,
}

#[derive(Clone, PartialEq, Message)]
struct StoredCertificate {
    #[prost(bytes = "vec", tag = "1")]
    serial: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    issuer: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    spki: Vec<u8>,
    #[prost(int64, tag = "4")]
    not_before_ms: i64,
    #[prost(int64, tag = "5")]
    not_after_ms: i64,
    #[prost(uint64, tag = "6")]
    index: u64,
}

#[derive(Clone, PartialEq, Message)]
struct StoredAgent {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    id: String,
    #[prost(uint64, tag = "3")]
    instance: u64,
    /// 1 active, 2 banned, 3 evicted: a lost field must not read as active.
    #[prost(uint32, tag = "4")]
    status: u32,
    #[prost(string, tag = "5")]
    reason: String,
    #[prost(string, tag = "6")]
    kind: String,
    #[prost(bytes = "vec", tag = "7")]
    spki: Vec<u8>,
    #[prost(int64, tag = "8")]
    joined_ms: i64,
    #[prost(int64, tag = "9")]
    attested_ms: i64,
    #[prost(message, optional, tag = "10")]
    current: Option<StoredCertificate>,
    #[prost(message, repeated, tag = "11")]
    earlier: Vec<StoredCertificate>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredToken {
    #[prost(string, tag = "1")]
    agent: String,
    #[prost(int64, tag = "2")]
    expires_ms: i64,
    #[prost(int64, tag = "3")]
    not_before_ms: i64,
    #[prost(int64, tag = "4")]
    created_ms: i64,
    /// The key that used it, or empty.
    #[prost(bytes = "vec", tag = "5")]
    bound_spki: Vec<u8>,
    #[prost(uint64, tag = "6")]
    bound_instance: u64,
}

#[derive(Clone, PartialEq, Message)]
struct StoredCaKey {
    #[prost(message, optional, tag = "1")]
    event: Option<wire::CaEvent>,
    #[prost(uint64, tag = "2")]
    changed: u64,
}

#[derive(Clone, PartialEq, Message)]
struct StoredBundle {
    #[prost(message, optional, tag = "1")]
    change: Option<wire::BundleChange>,
    #[prost(uint64, tag = "2")]
    index: u64,
    #[prost(int64, tag = "3")]
    changed_ms: i64,
}

#[derive(Clone, PartialEq, Message)]
struct StoredFederated {
    #[prost(message, optional, tag = "1")]
    set: Option<wire::BundleFederatedSet>,
    #[prost(uint64, tag = "2")]
    revision: u64,
    #[prost(int64, tag = "3")]
    changed_ms: i64,
}

#[derive(Clone, PartialEq, Message)]
struct StoredFold {
    #[prost(int64, tag = "1")]
    time_ms: i64,
    #[prost(oneof = "FoldKind", tags = "2, 3, 4")]
    kind: Option<FoldKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum FoldKind {
    #[prost(message, tag = "2")]
    Revoke(wire::Revoke),
    #[prost(message, tag = "3")]
    Cover(StoredCover),
    #[prost(message, tag = "4")]
    Lift(StoredLift),
}

#[derive(Clone, PartialEq, Message)]
struct StoredCover {
    #[prost(bytes = "vec", tag = "1")]
    issuer: Vec<u8>,
    #[prost(int64, optional, tag = "2")]
    until_ms: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredLift {
    #[prost(string, tag = "1")]
    identity: String,
    #[prost(int64, tag = "2")]
    cut_ms: i64,
}

/// What one record folds into the revoked set.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fold {
    /// A revoke record, as it was written and as it is read.
    Revoke(wire::Revoke, Revocation),
    /// An issuing key is covered.
    Cover(IssuerCoverage),
    /// An identity that was blocked may be issued again.
    Lift(SpiffeId, UnixTime),
}

const WHAT: &str = "unreadable";

/// Why a value could not be read. The store is rebuilt then, so one word is enough.
pub(crate) type Unreadable = &'static str;

fn read<M: Message + Default>(bytes: &[u8]) -> Result<M, Unreadable> {
    M::decode(bytes).map_err(|_| WHAT)
}

pub(crate) fn entry_bytes(standing: &StandingEntry) -> Vec<u8> {
    StoredEntry {
        put: Some(entry_to_put(&standing.entry, 0)),
        revision: standing.revision,
        changed_ms: standing.changed_at.millis(),
    }
    .encode_to_vec()
}

pub(crate) fn entry(bytes: &[u8], domain: &TrustDomain) -> Result<StandingEntry, Unreadable> {
    let stored: StoredEntry = read(bytes)?;
    let entry = entry_from_put(&stored.put.ok_or(WHAT)?, domain).map_err(|_| WHAT)?;
    Ok(StandingEntry {
        entry: Arc::new(entry),
        revision: stored.revision,
        changed_at: UnixTime::from_millis(stored.changed_ms),
    })
}

fn certificate_message(certificate: &AgentCertificate) -> StoredCertificate {
    StoredCertificate {
        serial: certificate.serial.octets().to_vec(),
        issuer: certificate.issuer.as_bytes().to_vec(),
        spki: certificate.spki.as_bytes().to_vec(),
        not_before_ms: certificate.not_before.millis(),
        not_after_ms: certificate.not_after.millis(),
        index: certificate.index,
    }
}

fn certificate(stored: &StoredCertificate) -> Result<AgentCertificate, Unreadable> {
    Ok(AgentCertificate {
        serial: Serial::from_be_octets(&stored.serial).map_err(|_| WHAT)?,
        issuer: IssuerKeyId::from_slice(&stored.issuer).map_err(|_| WHAT)?,
        spki: SpkiHash::from_slice(&stored.spki).map_err(|_| WHAT)?,
        not_before: UnixTime::from_millis(stored.not_before_ms),
        not_after: UnixTime::from_millis(stored.not_after_ms),
        index: stored.index,
    })
}

pub(crate) fn agent_bytes(agent: &AgentRecord) -> Vec<u8> {
    StoredAgent {
        name: agent.name.to_string(),
        id: agent.id.to_string(),
        instance: agent.instance.0,
        status: match agent.status {
            AgentStatus::Active => 1,
            AgentStatus::Banned => 2,
            AgentStatus::Evicted => 3,
        },
        reason: agent.reason.clone(),
        kind: agent.kind.clone(),
        spki: agent.spki.as_bytes().to_vec(),
        joined_ms: agent.joined_at.millis(),
        attested_ms: agent.attested_at.millis(),
        current: agent.current.as_ref().map(certificate_message),
        earlier: agent.earlier.iter().map(certificate_message).collect(),
    }
    .encode_to_vec()
}

pub(crate) fn agent(bytes: &[u8]) -> Result<AgentRecord, Unreadable> {
    let stored: StoredAgent = read(bytes)?;
    Ok(AgentRecord {
        name: AgentName::parse(&stored.name).map_err(|_| WHAT)?,
        id: SpiffeId::parse(&stored.id).map_err(|_| WHAT)?,
        instance: AgentInstance(stored.instance),
        status: match stored.status {
            1 => AgentStatus::Active,
            2 => AgentStatus::Banned,
            3 => AgentStatus::Evicted,
            _ => return Err(WHAT),
        },
        reason: stored.reason,
        kind: stored.kind,
        spki: SpkiHash::from_slice(&stored.spki).map_err(|_| WHAT)?,
        joined_at: UnixTime::from_millis(stored.joined_ms),
        attested_at: UnixTime::from_millis(stored.attested_ms),
        current: stored.current.as_ref().map(certificate).transpose()?,
        earlier: stored.earlier.iter().map(certificate).collect::<Result<_, _>>()?,
    })
}

pub(crate) fn token_bytes(token: &TokenRecord) -> Vec<u8> {
    let (spki, instance) = token
        .bound
        .map_or((Vec::new(), 0), |(spki, it)| (spki.as_bytes().to_vec(), it.0));
    StoredToken {
        agent: token.agent.to_string(),
        expires_ms: token.expires.millis(),
        not_before_ms: token.not_before.millis(),
        created_ms: token.created_at.millis(),
        bound_spki: spki,
        bound_instance: instance,
    }
    .encode_to_vec()
}

pub(crate) fn token(bytes: &[u8]) -> Result<TokenRecord, Unreadable> {
    let stored: StoredToken = read(bytes)?;
    let bound = match stored.bound_spki.as_slice() {
        [] => None,
        octets => Some((
            SpkiHash::from_slice(octets).map_err(|_| WHAT)?,
            AgentInstance(stored.bound_instance),
        )),
    };
    Ok(TokenRecord {
        agent: AgentName::parse(&stored.agent).map_err(|_| WHAT)?,
        expires: UnixTime::from_millis(stored.expires_ms),
        not_before: UnixTime::from_millis(stored.not_before_ms),
        created_at: UnixTime::from_millis(stored.created_ms),
        bound,
    })
}

pub(crate) fn ca_key_bytes(key: &CaKeyRecord) -> Vec<u8> {
    let event = wire::CaEvent {
        event: key.stage as i32,
        role: key.role as i32,
        key_id: key.key_id.as_bytes().to_vec(),
        certificate_der: key.certificate_der.clone(),
        public_key: key.public_key.clone(),
        not_after_s: key.not_after.map_or(0, UnixTime::seconds),
        statement: key.statement.clone(),
        note: String::new(),
    };
    StoredCaKey {
        event: Some(event),
        changed: key.changed,
    }
    .encode_to_vec()
}

pub(crate) fn ca_key(bytes: &[u8]) -> Result<CaKeyRecord, Unreadable> {
    let stored: StoredCaKey = read(bytes)?;
    let event = stored.event.ok_or(WHAT)?;
    Ok(CaKeyRecord {
        role: wire::CaRole::try_from(event.role).map_err(|_| WHAT)?,
        key_id: IssuerKeyId::from_slice(&event.key_id).map_err(|_| WHAT)?,
        stage: wire::CaEventKind::try_from(event.event).map_err(|_| WHAT)?,
        certificate_der: event.certificate_der,
        public_key: event.public_key,
        statement: event.statement,
        not_after: Some(event.not_after_s)
            .filter(|seconds| *seconds != 0)
            .map(UnixTime::from_seconds),
        changed: stored.changed,
    })
}

pub(crate) fn bundle_bytes(bundle: &BundleRecord) -> Vec<u8> {
    let jwt_keys = bundle.jwt_keys.iter();
    let change = wire::BundleChange {
        sequence: bundle.sequence,
        roots_der: bundle.roots_der.clone(),
        jwt_keys: jwt_keys
            .map(|(kid, spki)| wire::BundleJwtKey {
                kid: kid.clone(),
                spki_der: spki.clone(),
            })
            .collect(),
    };
    StoredBundle {
        change: Some(change),
        index: bundle.index,
        changed_ms: bundle.changed_at.millis(),
    }
    .encode_to_vec()
}

pub(crate) fn bundle(bytes: &[u8]) -> Result<BundleRecord, Unreadable> {
    let stored: StoredBundle = read(bytes)?;
    let change = stored.change.ok_or(WHAT)?;
    Ok(BundleRecord {
        sequence: change.sequence,
        roots_der: change.roots_der,
        jwt_keys: change.jwt_keys.into_iter().map(|key| (key.kid, key.spki_der)).collect(),
        index: stored.index,
        changed_at: UnixTime::from_millis(stored.changed_ms),
    })
}

/// The body that records what is taken of another trust domain, in the place of `replaces_revision` (0: none stood).
pub(crate) fn federated_to_set(
    domain: &TrustDomain,
    content: &FederatedContent,
    replaces_revision: u64,
) -> wire::BundleFederatedSet {
    let jwt_keys = content.jwt_keys.iter().map(|(kid, spki)| wire::BundleJwtKey {
        kid: kid.clone(),
        spki_der: spki.clone(),
    });
    wire::BundleFederatedSet {
        trust_domain: domain.to_string(),
        sequence: content.sequence,
        refresh_hint_seconds: content.refresh_hint_seconds,
        roots_der: content.roots_der.clone(),
        jwt_keys: jwt_keys.collect(),
        revocation_unchecked: content.revocation_unchecked,
        replaces_revision,
    }
}

/// What a recorded body says.
pub(crate) fn federated_of(
    set: &wire::BundleFederatedSet,
    revision: u64,
    changed_at: UnixTime,
) -> Result<FederatedRecord, Unreadable> {
    let jwt_keys = set.jwt_keys.iter().map(|key| (key.kid.clone(), key.spki_der.clone()));
    Ok(FederatedRecord {
        domain: TrustDomain::parse(&set.trust_domain).map_err(|_| WHAT)?,
        content: FederatedContent {
            sequence: set.sequence,
            refresh_hint_seconds: set.refresh_hint_seconds,
            roots_der: set.roots_der.clone(),
            jwt_keys: jwt_keys.collect(),
            revocation_unchecked: set.revocation_unchecked,
        },
        revision,
        changed_at,
    })
}

pub(crate) fn federated_bytes(record: &FederatedRecord) -> Vec<u8> {
    StoredFederated {
        set: Some(federated_to_set(&record.domain, &record.content, 0)),
        revision: record.revision,
        changed_ms: record.changed_at.millis(),
    }
    .encode_to_vec()
}

pub(crate) fn federated(bytes: &[u8]) -> Result<FederatedRecord, Unreadable> {
    let stored: StoredFederated = read(bytes)?;
    let at = UnixTime::from_millis(stored.changed_ms);
    federated_of(&stored.set.ok_or(WHAT)?, stored.revision, at)
}

pub(crate) fn fold_bytes(time: UnixTime, fold: &Fold) -> Vec<u8> {
    let kind = match fold {
        Fold::Revoke(body, _) => FoldKind::Revoke(body.clone()),
        Fold::Cover(coverage) => FoldKind::Cover(StoredCover {
            issuer: coverage.id.as_bytes().to_vec(),
            until_ms: coverage.until.map(UnixTime::millis),
        }),
        Fold::Lift(id, cut) => FoldKind::Lift(StoredLift {
            identity: id.to_string(),
            cut_ms: cut.millis(),
        }),
    };
    StoredFold {
        time_ms: time.millis(),
        kind: Some(kind),
    }
    .encode_to_vec()
}

pub(crate) fn fold(bytes: &[u8]) -> Result<Fold, Unreadable> {
    let stored: StoredFold = read(bytes)?;
    Ok(match stored.kind.ok_or(WHAT)? {
        FoldKind::Revoke(body) => {
            let revocation = revocation_of(&body, UnixTime::from_millis(stored.time_ms)).map_err(|_| WHAT)?;
            Fold::Revoke(body, revocation)
        }
        FoldKind::Cover(cover) => Fold::Cover(IssuerCoverage {
            id: IssuerKeyId::from_slice(&cover.issuer).map_err(|_| WHAT)?,
            serials: SerialKind::Native,
            until: cover.until_ms.map(UnixTime::from_millis),
        }),
        FoldKind::Lift(lift) => Fold::Lift(
            SpiffeId::parse(&lift.identity).map_err(|_| WHAT)?,
            UnixTime::from_millis(lift.cut_ms),
        ),
    })
}

/// Where folds led that are no longer held: the sequence and the hash of the revoked set.
#[derive(Clone, PartialEq, Message)]
struct StoredBase {
    #[prost(uint64, tag = "1")]
    sequence: u64,
    #[prost(bytes = "vec", tag = "2")]
    hash: Vec<u8>,
}

pub(crate) fn base_bytes(set: &RevokedSet) -> Vec<u8> {
    StoredBase {
        sequence: set.sequence(),
        hash: set.hash().as_bytes().to_vec(),
    }
    .encode_to_vec()
}

pub(crate) fn base(bytes: &[u8]) -> Result<(u64, SetHash), Unreadable> {
    let stored: StoredBase = read(bytes)?;
    let hash = stored.hash.try_into().map_err(|_| WHAT)?;
    Ok((stored.sequence, SetHash::new(hash)))
}

/// True when nothing that a stored fold says can matter at `at`: all it revokes has ended, and a grace period after it.
pub(crate) fn fold_is_dead(bytes: &[u8], at: UnixTime) -> bool {
    let horizon = at.minus(DROP_GRACE);
    match fold(bytes) {
        Ok(Fold::Revoke(_, revocation)) => {
            let serials = revocation.serials.iter().all(|serial| serial.not_after < horizon);
            serials && revocation.rules.iter().all(|rule| rule.is_spent(horizon))
        }
        _ => false,
    }
}

/// The reason of a recorded code; codes that are not used here read as unspecified, never as "not revoked".
pub(crate) fn reason_of(code: u32) -> RevocationReason {
    u8::try_from(code)
        .ok()
        .and_then(RevocationReason::from_code)
        .unwrap_or_default()
}
