//! What stands: entries, agents with their instances, join tokens, the CA's keys, the bundle. Values only.

use std::fmt;
use std::sync::Arc;

use mintage_identity::{AgentInstance, AgentName, IssuerKeyId, Serial, SpiffeId, SpkiHash, TrustDomain, UnixTime};
use mintage_ledger::wire::{CaEventKind, CaRole};
use mintage_policy::{AgentStatus, Entry};

/// The name of a join token in state and ledger: the SHA-256 of its secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId([u8; 32]);

impl TokenId {
    /// Wraps the hash.
    pub const fn new(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    /// The hash.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenId({self})")
    }
}

/// An entry with its revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandingEntry {
    /// The entry.
    pub entry: Arc<Entry>,
    /// The ledger index of the record that wrote it.
    pub revision: u64,
    /// When that record was made.
    pub changed_at: UnixTime,
}

/// A certificate made for an agent itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentCertificate {
    /// Its serial.
    pub serial: Serial,
    /// The key that signed it.
    pub issuer: IssuerKeyId,
    /// Hash of its public key.
    pub spki: SpkiHash,
    /// Start of its validity.
    pub not_before: UnixTime,
    /// End of its validity.
    pub not_after: UnixTime,
    /// The ledger index of its record.
    pub index: u64,
}

/// An agent's name and its current life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentRecord {
    /// The name.
    pub name: AgentName,
    /// Its SPIFFE ID.
    pub id: SpiffeId,
    /// The current life: the ledger index of the record that made it.
    pub instance: AgentInstance,
    /// Whether it may act.
    pub status: AgentStatus,
    /// Why it was banned or evicted; empty while active.
    pub reason: String,
    /// How it was attested last, such as `join_token`.
    pub kind: String,
    /// Hash of the public key it was attested with last.
    pub spki: SpkiHash,
    /// When this life began.
    pub joined_at: UnixTime,
    /// When it was attested last.
    pub attested_at: UnixTime,
    /// The last certificate made for this life.
    pub current: Option<AgentCertificate>,
    /// Those that count beside it, oldest first: the one the agent showed when it asked for the last one, and the one made
    /// just before the last. An agent that lost the answer still speaks by the former, however often it loses one; an
    /// agent that asks over an old stream may hold the latter already. Any other is superseded.
    pub earlier: Vec<AgentCertificate>,
}

/// A join token that was made and not withdrawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRecord {
    /// The agent it makes.
    pub agent: AgentName,
    /// When it ends.
    pub expires: UnixTime,
    /// When it begins.
    pub not_before: UnixTime,
    /// When it was made.
    pub created_at: UnixTime,
    /// The key that used it and the instance that made; the same key may come again.
    pub bound: Option<(SpkiHash, AgentInstance)>,
}

/// A key of the CA and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaKeyRecord {
    /// What it is for.
    pub role: CaRole,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub key_id: IssuerKeyId,
    /// The last thing that happened to it. A stage is never taken back.
    pub stage: CaEventKind,
    /// Its certificate; empty for keys that have none.
    pub certificate_der: Vec<u8>,
    /// Its public key, for keys without a certificate.
    pub public_key: Vec<u8>,
    /// The signed statement that goes with it, such as the delegation of a revocation key.
    pub statement: Vec<u8>,
    /// When it ends; `None` when it does not.
    pub not_after: Option<UnixTime>,
    /// The ledger index of the last record about it.
    pub changed: u64,
}

/// The trust bundle as the ledger has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleRecord {
    /// Its sequence, which only grows.
    pub sequence: u64,
    /// The roots (DER).
    pub roots_der: Vec<Vec<u8>>,
    /// The keys of JWT-SVIDs: key id and SubjectPublicKeyInfo (DER).
    pub jwt_keys: Vec<(String, Vec<u8>)>,
    /// The ledger index of its record.
    pub index: u64,
    /// When that record was made.
    pub changed_at: UnixTime,
}

/// The bundle of another trust domain as the ledger has it. What its certificates and keys are was checked before it was
/// recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FederatedRecord {
    /// The other trust domain.
    pub domain: TrustDomain,
    /// What was taken.
    pub content: FederatedContent,
    /// The ledger index of its record.
    pub revision: u64,
    /// When that record was made.
    pub changed_at: UnixTime,
}

/// What an operator vouches for of another trust domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FederatedContent {
    /// The sequence of the other side's document; 0 when it did not say.
    pub sequence: u64,
    /// How often it asks to look for a newer one, in seconds; 0 when it did not say.
    pub refresh_hint_seconds: u32,
    /// The roots (DER).
    pub roots_der: Vec<Vec<u8>>,
    /// The keys of JWT-SVIDs: key id and SubjectPublicKeyInfo (DER).
    pub jwt_keys: Vec<(String, Vec<u8>)>,
    /// True when its certificates are accepted although nothing tells which of them were revoked.
    pub revocation_unchecked: bool,
}

impl FederatedContent {
    /// Octets of certificates, keys and key ids together.
    pub fn octets(&self) -> usize {
        let roots: usize = self.roots_der.iter().map(Vec::len).sum();
        let keys: usize = self.jwt_keys.iter().map(|(kid, spki)| kid.len() + spki.len()).sum();
        roots + keys
    }
}
