//! The Grant: everything a certificate may say, decided before a key is looked at. Only this crate can make one.

use std::{collections::BTreeSet, sync::Arc};

use mintage_identity::{AgentInstance, EntryName, Selector, SpiffeId, Ttl, UnixTime};

/// What kind of holder a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Profile {
    /// A workload, by a registration entry.
    Workload,
    /// A node agent, for itself.
    Agent,
    /// A replica of the CA, for its own server.
    Replica,
}

impl Profile {
    /// The word used in records and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Workload => "workload",
            Self::Agent => "agent",
            Self::Replica => "replica",
        }
    }
}

/// The entry by which a Grant was given, as it stood at the decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantedEntry {
    pub(crate) name: EntryName,
    pub(crate) revision: u64,
    pub(crate) selectors: Arc<BTreeSet<Selector>>,
}

impl GrantedEntry {
    /// The entry's name.
    pub fn name(&self) -> &EntryName {
        &self.name
    }

    /// The ledger index of the record that wrote this revision.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The selectors the agent enforces.
    pub fn selectors(&self) -> &BTreeSet<Selector> {
        &self.selectors
    }
}

/// The agent that asked, as the CA proved it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantedAgent {
    pub(crate) id: SpiffeId,
    pub(crate) instance: AgentInstance,
    pub(crate) attestation: &'static str,
    pub(crate) evidence: [u8; 32],
    pub(crate) proven_at: UnixTime,
}

impl GrantedAgent {
    /// The agent's SPIFFE ID.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Which life of the agent's name.
    pub fn instance(&self) -> AgentInstance {
        self.instance
    }

    /// How it was attested, such as `svid`.
    pub fn attestation_kind(&self) -> &'static str {
        self.attestation
    }

    /// SHA-256 over what was attested with.
    pub fn evidence(&self) -> &[u8; 32] {
        &self.evidence
    }

    /// When it was proven.
    pub fn proven_at(&self) -> UnixTime {
        self.proven_at
    }
}

/// A decision in favour: the whole content of a certificate but its key, serial and dates.
///
/// It is moved by value into the mint and is neither built elsewhere nor used twice:
///
/// ```compile_fail,E0599
/// fn twice(grant: mintage_policy::Grant) -> (mintage_policy::Grant, mintage_policy::Grant) {
///     (grant.clone(), grant)
/// }
/// ```
///
/// ```
/// fn once(grant: mintage_policy::Grant) -> mintage_policy::Grant {
///     grant
/// }
/// ```
///
/// ```compile_fail,E0451
/// fn widen(grant: mintage_policy::Grant, ttl: mintage_identity::Ttl) -> mintage_policy::Grant {
///     mintage_policy::Grant { ttl, ..grant }
/// }
/// ```
#[derive(Debug)]
pub struct Grant {
    pub(crate) spiffe_id: SpiffeId,
    pub(crate) ttl: Ttl,
    pub(crate) dns_names: Vec<String>,
    pub(crate) common_name: Option<String>,
    pub(crate) entry: Option<GrantedEntry>,
    pub(crate) agent: Option<GrantedAgent>,
    pub(crate) decided_at: u64,
    pub(crate) not_before_floor: Option<UnixTime>,
    pub(crate) profile: Profile,
    pub(crate) rule: &'static str,
}

impl Grant {
    /// The identity.
    pub fn spiffe_id(&self) -> &SpiffeId {
        &self.spiffe_id
    }

    /// The lifetime, the backdating not counted.
    pub fn ttl(&self) -> Ttl {
        self.ttl
    }

    /// The lifetime in seconds, the backdating not counted.
    pub fn ttl_seconds(&self) -> u32 {
        self.ttl.seconds()
    }

    /// DNS names for the certificate, in this order.
    pub fn dns_names(&self) -> &[String] {
        &self.dns_names
    }

    /// Common name for the subject.
    pub fn common_name(&self) -> Option<&str> {
        self.common_name.as_deref()
    }

    /// The entry it was given by; none for agents and replicas.
    pub fn entry(&self) -> Option<&GrantedEntry> {
        self.entry.as_ref()
    }

    /// The agent that asked; none for the CA's own replicas.
    pub fn agent(&self) -> Option<&GrantedAgent> {
        self.agent.as_ref()
    }

    /// How the agent was attested; `replica` for the CA's own replicas.
    pub fn attestation_kind(&self) -> &'static str {
        self.agent.as_ref().map_or("replica", |agent| agent.attestation)
    }

    /// SHA-256 over what was attested with; zeros for the CA's own replicas.
    pub fn evidence(&self) -> [u8; 32] {
        self.agent.as_ref().map_or([0; 32], |agent| agent.evidence)
    }

    /// The control index of the state this was decided on: the ledger refuses the record when a restricting record
    /// came after it.
    pub fn decided_at(&self) -> u64 {
        self.decided_at
    }

    /// The certificate's notBefore must be later than this: older ones were revoked by a rule.
    pub fn not_before_floor(&self) -> Option<UnixTime> {
        self.not_before_floor
    }

    /// What kind of holder it is for.
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// The rule that allowed it.
    pub fn rule(&self) -> &'static str {
        self.rule
    }

    /// The same grant for a shorter lifetime. A longer one than granted is cut to what was granted.
    ///
    /// # Errors
    /// Refuses zero, negative and shorter lifetimes than an X.509-SVID may have here (60 s).
    pub fn shortened(mut self, seconds: i64) -> Result<Self, Denial> {
        let granted = i64::from(self.ttl.seconds());
        self.ttl = Ttl::from_seconds(seconds.min(granted))
            .map_err(|e| Denial::new(DenialKind::InvalidArgument, "lifetime", e.to_string()))?;
        Ok(self)
    }
}

/// Whose fault a refusal is, for the edge that answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DenialKind {
    /// The request itself cannot be right.
    InvalidArgument,
    /// What was asked for does not exist.
    NotFound,
    /// It exists and is not for this caller.
    PermissionDenied,
    /// It would be allowed in another state of the system.
    FailedPrecondition,
    /// The caller is not, or no longer, whom it was attested as.
    Unauthenticated,
}

/// A decision against, with the one thing that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Denial {
    kind: DenialKind,
    code: &'static str,
    why: String,
}

impl Denial {
    pub(crate) fn new(kind: DenialKind, code: &'static str, why: String) -> Self {
        Self { kind, code, why }
    }

    /// Whose fault it is.
    pub fn kind(&self) -> DenialKind {
        self.kind
    }

    /// A stable word for records, metrics and alerts.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// The one thing that failed, and what to do.
    pub fn why(&self) -> &str {
        &self.why
    }
}
