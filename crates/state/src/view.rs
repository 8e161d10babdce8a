//! One immutable picture of all that stands, after a known number of records. Cheap to clone: clones share their parts.

use std::collections::VecDeque;
use std::sync::Arc;

use imbl::OrdMap;
use mintage_identity::{AgentName, EntryName, IssuerKeyId, SpiffeId, SpkiHash, TrustDomain, UnixTime};
use mintage_ledger::wire::CaRole;
use mintage_policy::{AgentState, Entry, EntryView, Floor, KeyView};
use mintage_revocation::{Query, RevokedSet, RuleTarget};
use ring::digest;

use crate::entries::{EntryChange, EntryTable};
use crate::marks::{RuleMark, RuleMarks};
use crate::model::{AgentRecord, BundleRecord, CaKeyRecord, FederatedRecord, StandingEntry, TokenId, TokenRecord};
use crate::rules::Floors;
use crate::sum::ContentSum;

/// Why a record changed nothing. The ledger keeps such a record; whoever waits for it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Ignored {
    /// The entry is not at the revision the record replaces or deletes: another change came first.
    EntryMoved,
    /// A name in the record cannot be read.
    Unreadable,
    /// There is no such token, or there already is.
    Token,
    /// The token was used before: the first record in the log wins.
    TokenUsed,
    /// The agent, or this instance of it, is not the current one or may not act.
    Agent,
    /// The key is already further than the stage recorded.
    CaStage,
    /// A bundle of the same or a higher sequence stands.
    BundleOlder,
    /// The other trust domain's bundle is not at the revision the record replaces or removes: another change came first.
    FederatedMoved,
    /// The revoked set has no room left.
    RevocationLimit,
}

impl Ignored {
    /// A stable word for logs and replies.
    pub const fn code(self) -> &'static str {
        match self {
            Self::EntryMoved => "entry-moved",
            Self::Unreadable => "unreadable",
            Self::Token => "token-unknown",
            Self::TokenUsed => "token-used",
            Self::Agent => "agent-not-current",
            Self::CaStage => "ca-stage",
            Self::BundleOlder => "bundle-older",
            Self::FederatedMoved => "federated-moved",
            Self::RevocationLimit => "revocation-limit",
        }
    }
}

/// Everything that stands after the first [`View::applied`] records.
#[derive(Clone, Debug)]
pub struct View {
    pub(crate) domain: TrustDomain,
    pub(crate) applied: u64,
    pub(crate) control_head: u64,
    pub(crate) entries: EntryTable,
    pub(crate) agents: OrdMap<AgentName, AgentRecord>,
    pub(crate) tokens: OrdMap<TokenId, TokenRecord>,
    pub(crate) ca_keys: OrdMap<(i32, IssuerKeyId), CaKeyRecord>,
    pub(crate) bundle: Option<Arc<BundleRecord>>,
    pub(crate) federated: OrdMap<TrustDomain, Arc<FederatedRecord>>,
    pub(crate) floors: Floors,
    pub(crate) marks: RuleMarks,
    pub(crate) revoked: RevokedSet,
    pub(crate) sum: ContentSum,
    /// The last records that changed nothing; not part of what stands.
    pub(crate) ignored: Arc<VecDeque<(u64, Ignored)>>,
}

impl View {
    /// What stands before the first record.
    pub fn new(domain: &TrustDomain) -> Self {
        Self {
            domain: domain.clone(),
            applied: 0,
            control_head: 0,
            entries: EntryTable::default(),
            agents: OrdMap::new(),
            tokens: OrdMap::new(),
            ca_keys: OrdMap::new(),
            bundle: None,
            federated: OrdMap::new(),
            floors: Floors::default(),
            marks: RuleMarks::default(),
            revoked: RevokedSet::new(domain),
            sum: ContentSum::default(),
            ignored: Arc::default(),
        }
    }

    /// The trust domain.
    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// Number of records applied; also the index of the next one.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// 1 + the index of the last restricting record applied; 0 for none.
    pub fn control_head(&self) -> u64 {
        self.control_head
    }

    /// A hash over all that stands. Two views of the same records are equal in it, however they were built.
    pub fn digest(&self) -> [u8; 32] {
        self.digest_over(&self.sum)
    }

    /// The digest with another sum over the objects.
    pub(crate) fn digest_over(&self, sum: &ContentSum) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"mintage-state-v1\0");
        context.update(&(self.domain.as_str().len() as u64).to_be_bytes());
        context.update(self.domain.as_str().as_bytes());
        context.update(&self.applied.to_be_bytes());
        context.update(&self.control_head.to_be_bytes());
        context.update(&sum.to_bytes());
        let mut octets = [0; 32];
        octets.copy_from_slice(context.finish().as_ref());
        octets
    }

    /// The entry of this name.
    pub fn entry(&self, name: &EntryName) -> Option<&StandingEntry> {
        self.entries.get(name)
    }

    /// All entries, ordered by name.
    pub fn entries(&self) -> impl Iterator<Item = &StandingEntry> {
        self.entries.iter()
    }

    /// Number of entries.
    pub fn entry_count(&self) -> usize {
        self.entries.len()
    }

    /// The entries for an agent, ordered by name.
    pub fn entries_for_agent(&self, id: &SpiffeId) -> Vec<&StandingEntry> {
        self.entries.for_agent(id)
    }

    /// The entries that give an identity, ordered by name.
    pub fn entries_for_identity(&self, id: &SpiffeId) -> impl Iterator<Item = &StandingEntry> {
        self.entries.for_identity(id)
    }

    /// The entries that differ from those of an older view, ordered by name. The cost is that of the difference.
    pub fn entry_changes_since(&self, older: &Self) -> Vec<EntryChange> {
        self.entries.changes_since(&older.entries)
    }

    /// The agent of this name.
    pub fn agent(&self, name: &AgentName) -> Option<&AgentRecord> {
        self.agents.get(name)
    }

    /// All agents, ordered by name.
    pub fn agents(&self) -> impl Iterator<Item = &AgentRecord> {
        self.agents.values()
    }

    /// Number of agents.
    pub fn agent_count(&self) -> usize {
        self.agents.len()
    }

    /// The agents that differ from those of an older view: before and after.
    pub fn agent_changes_since(&self, older: &Self) -> Vec<(Option<AgentRecord>, Option<AgentRecord>)> {
        use imbl::ordmap::DiffItem;
        let change = |item| match item {
            DiffItem::Add(_, new) => (None, Some(AgentRecord::clone(new))),
            DiffItem::Update {
                old: (_, old),
                new: (_, new),
            } => (Some(old.clone()), Some(new.clone())),
            DiffItem::Remove(_, old) => (Some(old.clone()), None),
        };
        older.agents.diff(&self.agents).map(change).collect()
    }

    /// The token with this id.
    pub fn token(&self, id: &TokenId) -> Option<&TokenRecord> {
        self.tokens.get(id)
    }

    /// All tokens that were not withdrawn, used and ended ones included.
    pub fn tokens(&self) -> impl Iterator<Item = (&TokenId, &TokenRecord)> {
        self.tokens.iter()
    }

    /// Number of tokens.
    pub fn token_count(&self) -> usize {
        self.tokens.len()
    }

    /// All keys of the CA, ordered by role.
    pub fn ca_keys(&self) -> impl Iterator<Item = &CaKeyRecord> {
        self.ca_keys.values()
    }

    /// One key of the CA.
    pub fn ca_key(&self, role: CaRole, id: &IssuerKeyId) -> Option<&CaKeyRecord> {
        self.ca_keys.get(&(role as i32, *id))
    }

    /// The trust bundle; none before `init` recorded it.
    pub fn bundle(&self) -> Option<&BundleRecord> {
        self.bundle.as_deref()
    }

    /// The bundles of other trust domains, ordered by name.
    pub fn federated(&self) -> impl Iterator<Item = &FederatedRecord> {
        self.federated.values().map(|record| &**record)
    }

    /// The bundle of one other trust domain.
    pub fn federated_with(&self, domain: &TrustDomain) -> Option<&FederatedRecord> {
        self.federated.get(domain).map(|record| &**record)
    }

    /// Whether other bundles of other trust domains stand than in an older view.
    pub fn federated_changed_since(&self, older: &Self) -> bool {
        let revisions = |view: &Self| view.federated().map(|record| record.revision).collect::<Vec<_>>();
        revisions(self) != revisions(older)
    }

    /// The revoked set after the records applied.
    pub fn revoked(&self) -> &RevokedSet {
        &self.revoked
    }

    /// The record by whose rule this certificate was struck first; none where no rule strikes it.
    pub fn struck_by_rule(&self, query: &Query<'_>) -> Option<RuleMark> {
        self.marks.first(query)
    }

    /// The record that made a rule as it stands.
    pub fn mark_of(&self, target: &RuleTarget) -> Option<RuleMark> {
        self.marks.newest(target)
    }

    /// What revocation rules say about new certificates of an issuing key.
    pub fn issuer_floor(&self, issuer: &IssuerKeyId) -> Floor {
        self.floors.of_issuer(issuer)
    }

    /// Public keys that revocation rules name.
    pub fn blocked_keys(&self) -> impl Iterator<Item = &SpkiHash> {
        self.floors.blocked_keys()
    }

    /// Why the record at `index` changed nothing, when it did not and is among the last few thousand such records.
    pub fn ignored(&self, index: u64) -> Option<Ignored> {
        let at = self.ignored.binary_search_by_key(&index, |(index, _)| *index).ok()?;
        self.ignored.get(at).map(|(_, why)| *why)
    }

    /// Drops from the revoked set what is dead at `now`. Nothing that lives changes, nor does the digest.
    pub(crate) fn prune(&mut self, now: UnixTime) {
        self.revoked.prune(now);
        self.marks.prune(&self.revoked);
        self.floors.prune(&self.revoked);
    }
}

impl EntryView for View {
    fn entry(&self, name: &EntryName) -> Option<(&Entry, u64)> {
        self.entries
            .get(name)
            .map(|standing| (&*standing.entry, standing.revision))
    }

    fn agent(&self, name: &AgentName) -> Option<AgentState> {
        self.agents.get(name).map(|agent| AgentState {
            instance: agent.instance,
            status: agent.status,
        })
    }

    fn floor(&self, id: &SpiffeId) -> Floor {
        self.floors.of_identity(id)
    }

    fn control_index(&self) -> u64 {
        self.control_head
    }
}

impl KeyView for View {
    fn key_blocked(&self, key: &SpkiHash) -> bool {
        self.floors.key_blocked(key)
    }

    fn key_of_ca(&self, key: &SpkiHash) -> bool {
        let id = IssuerKeyId::new(*key.as_bytes());
        // Seven roles: as many look-ups.
        let roles = (CaRole::Unspecified as i32)..=(CaRole::Replica as i32);
        roles.into_iter().any(|role| self.ca_keys.contains_key(&(role, id)))
    }
}
