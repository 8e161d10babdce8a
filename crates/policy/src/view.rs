//! What a decision reads: a snapshot of the state, the server's policy, and the floor under a new certificate.

use std::time::Duration;

use mintage_identity::{AgentInstance, AgentName, EntryName, SpiffeId, Ttl, UnixTime};

use crate::entry::Entry;
use crate::grant::{Denial, DenialKind};

/// Furthest a notBefore floor may lie ahead: beyond it the certificate would be dead on arrival, so a clock is wrong.
const FLOOR_AHEAD_MAX: Duration = Duration::from_secs(60);

/// An agent as the state knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentState {
    /// The current life of the name.
    pub instance: AgentInstance,
    /// Whether that life may act.
    pub status: AgentStatus,
}

/// Whether an agent may act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AgentStatus {
    /// It may.
    Active,
    /// Never again in this life; a new join token makes a new life.
    Banned,
    /// Removed by an operator without suspicion; a new join token makes a new life.
    Evicted,
}

/// What revocation rules say about new certificates of an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Floor {
    /// No rule speaks of it.
    Open,
    /// The notBefore must be later than this.
    Above(UnixTime),
    /// A rule without a cut kills every certificate, new ones too.
    Blocked,
}

/// What a decision reads of the state. One implementor is one consistent snapshot.
pub trait EntryView {
    /// The entry with its revision: the ledger index of the record that wrote it.
    fn entry(&self, name: &EntryName) -> Option<(&Entry, u64)>;
    /// The current life of an agent's name.
    fn agent(&self, name: &AgentName) -> Option<AgentState>;
    /// What revocation rules say about new certificates of `id`.
    fn floor(&self, id: &SpiffeId) -> Floor;
    /// 1 + the ledger index of the last restricting record this snapshot has applied; 0 for none.
    fn control_index(&self) -> u64;
}

/// The state before the first record: what `init` decides the CA's own certificates on.
#[derive(Clone, Copy, Debug, Default)]
pub struct NothingYet;

impl EntryView for NothingYet {
    fn entry(&self, _: &EntryName) -> Option<(&Entry, u64)> {
        None
    }

    fn agent(&self, _: &AgentName) -> Option<AgentState> {
        None
    }

    fn floor(&self, _: &SpiffeId) -> Floor {
        Floor::Open
    }

    fn control_index(&self) -> u64 {
        0
    }
}

/// The server's own policy, over all entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IssuancePolicy {
    /// Longest lifetime of a workload's certificate; an entry that asks for more is cut to this.
    pub max_ttl: Ttl,
    /// Lifetime of an agent's certificate.
    pub agent_ttl: Ttl,
    /// Longest lifetime of a JWT-SVID: nothing calls one back before it ends.
    pub jwt_ttl: Ttl,
    /// Whether RSA keys of 2048 bits and more are accepted.
    pub allow_rsa: bool,
    /// Whether each renewal needs a new key.
    pub rotate_keys: bool,
}

impl Default for IssuancePolicy {
    fn default() -> Self {
        // 24 h and 1 h are inside the range of `Ttl`, so the fallback is never taken.
        let hours = |n: i64| Ttl::from_seconds(n * 3600).unwrap_or(Ttl::DEFAULT);
        Self {
            max_ttl: hours(24),
            agent_ttl: hours(1),
            jwt_ttl: Ttl::from_seconds(300).unwrap_or(Ttl::DEFAULT),
            allow_rsa: false,
            rotate_keys: true,
        }
    }
}

/// The instant a new certificate's notBefore must be later than.
pub(crate) fn not_before_floor(
    id: &SpiffeId,
    view: &impl EntryView,
    now: UnixTime,
) -> Result<Option<UnixTime>, Denial> {
    match view.floor(id) {
        Floor::Open => Ok(None),
        Floor::Above(cut) if cut <= now.plus(FLOOR_AHEAD_MAX) => Ok(Some(cut)),
        Floor::Above(_) => {
            let why = format!("{id} was revoked up to a time that lies ahead of this server's clock; check the clock");
            Err(Denial::new(DenialKind::FailedPrecondition, "cut-ahead", why))
        }
        Floor::Blocked => {
            let why = format!("a revocation rule without a cut blocks {id}");
            Err(Denial::new(DenialKind::PermissionDenied, "identity-blocked", why))
        }
    }
}
