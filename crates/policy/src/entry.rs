//! The registration entry: which workload, on which agents, may hold which identity. An `Entry` that exists is valid.

use std::{collections::BTreeSet, sync::Arc};

use mintage_identity::{AgentPattern, Audiences, EntryName, JwtRule, Selector, SpiffeId, TrustDomain, Ttl};
use serde::{Deserialize, Serialize};

use crate::check;

/// One registration entry. Its fields can only be made by [`RawEntry::validate`] or [`RawEntry::restore`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub(crate) name: EntryName,
    pub(crate) spiffe_id: SpiffeId,
    pub(crate) agents: BTreeSet<AgentPattern>,
    /// Shared with every Grant.
    pub(crate) selectors: Arc<BTreeSet<Selector>>,
    pub(crate) ttl: Ttl,
    pub(crate) dns_names: Vec<String>,
    pub(crate) common_name: Option<String>,
    pub(crate) hint: String,
    pub(crate) owner: String,
    pub(crate) environment: String,
    pub(crate) purpose: String,
    pub(crate) disabled: bool,
    pub(crate) jwt_forbidden: bool,
    pub(crate) jwt_audiences: Vec<String>,
    pub(crate) federates_with: BTreeSet<TrustDomain>,
}

/// An entry as it was written: nothing is checked yet. The form in which entries cross a wire, a file or the ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawEntry {
    /// The entry's name, unique in the trust domain.
    pub name: String,
    /// The identity it gives.
    pub spiffe_id: String,
    /// The agents it is for: exact IDs, or prefixes ending in `/*`.
    pub agents: Vec<String>,
    /// What must hold for the workload; all of them.
    pub selectors: Vec<String>,
    /// Lifetime of its certificates in seconds; 0 means the default of 10 minutes.
    pub ttl_seconds: i64,
    /// DNS names for the certificate, in this order.
    pub dns_names: Vec<String>,
    /// Common name for the certificate's subject; empty for none.
    pub common_name: String,
    /// Tells a workload with several identities which one is meant.
    pub hint: String,
    /// Who answers for the workload.
    pub owner: String,
    /// Where it runs, such as `prod`.
    pub environment: String,
    /// What it is for.
    pub purpose: String,
    /// True when nothing may be issued by this entry.
    pub disabled: bool,
    /// True when no JWT-SVID may be issued by this entry.
    pub jwt_forbidden: bool,
    /// The audiences its JWT-SVIDs may be for; empty for any.
    pub jwt_audiences: Vec<String>,
    /// Other trust domains whose bundles its workloads are given, where the CA has them.
    pub federates_with: Vec<String>,
}

/// Why an entry was refused: the field, the position in it for lists, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct EntryError {
    pub(crate) field: &'static str,
    pub(crate) position: Option<usize>,
    pub(crate) problem: String,
}

impl EntryError {
    pub(crate) fn new(field: &'static str, problem: impl ToString) -> Self {
        Self {
            field,
            position: None,
            problem: problem.to_string(),
        }
    }

    pub(crate) fn at(field: &'static str, position: usize, problem: impl ToString) -> Self {
        Self {
            field,
            position: Some(position),
            problem: problem.to_string(),
        }
    }

    /// The field's name, as it is written in a file.
    pub fn field(&self) -> &'static str {
        self.field
    }

    /// Which element of a list field is meant, counted from 0.
    pub fn position(&self) -> Option<usize> {
        self.position
    }

    /// What is wrong, without the field's name.
    pub fn problem(&self) -> &str {
        &self.problem
    }
}

/// The fields of an entry, in the order of the documentation; also the valid keys of `[[entry]]`.
pub const ENTRY_FIELDS: [&str; 15] = [
    "name",
    "spiffe_id",
    "agents",
    "selectors",
    "ttl",
    "dns_names",
    "common_name",
    "hint",
    "owner",
    "environment",
    "purpose",
    "disabled",
    "jwt_forbidden",
    "jwt_audiences",
    "federates_with",
];

impl RawEntry {
    /// Checks everything: names, the trust domain, the reserved namespace, selectors, limits.
    ///
    /// # Errors
    /// The first field that is wrong, in the order of [`ENTRY_FIELDS`].
    pub fn validate(&self, domain: &TrustDomain) -> Result<Entry, EntryError> {
        let entry = self.restore(domain)?;
        check::rules(&entry, domain)?;
        Ok(entry)
    }

    /// Reads an entry that was validated once, such as one out of the ledger: names must still parse and the reserved
    /// namespace is still refused, but limits and rules that were tightened since do not make history unreadable.
    ///
    /// # Errors
    /// The first field that cannot be read at all.
    pub fn restore(&self, domain: &TrustDomain) -> Result<Entry, EntryError> {
        let spiffe_id = SpiffeId::parse_workload(&self.spiffe_id).map_err(|e| EntryError::new("spiffe_id", e))?;
        if !spiffe_id.is_member_of(domain) {
            let problem = format!("{spiffe_id} is of another trust domain; entries here are for spiffe://{domain}/");
            return Err(EntryError::new("spiffe_id", problem));
        }
        let seconds = if self.ttl_seconds == 0 {
            i64::from(Ttl::DEFAULT.seconds())
        } else {
            self.ttl_seconds
        };
        Ok(Entry {
            name: EntryName::parse(&self.name).map_err(|e| EntryError::new("name", e))?,
            spiffe_id,
            agents: each("agents", &self.agents, AgentPattern::parse)?,
            selectors: Arc::new(each("selectors", &self.selectors, Selector::parse)?),
            ttl: Ttl::from_seconds(seconds).map_err(|e| EntryError::new("ttl", e))?,
            dns_names: self.dns_names.clone(),
            common_name: Some(self.common_name.clone()).filter(|name| !name.is_empty()),
            hint: self.hint.clone(),
            owner: self.owner.clone(),
            environment: self.environment.clone(),
            purpose: self.purpose.clone(),
            disabled: self.disabled,
            jwt_forbidden: self.jwt_forbidden,
            jwt_audiences: self.jwt_audiences.clone(),
            federates_with: each("federates_with", &self.federates_with, TrustDomain::parse)?,
        })
    }
}

/// Parses each element of a list field; a repeated element is refused, because it shows that another one was meant.
fn each<T: Ord, E: ToString>(
    field: &'static str,
    texts: &[String],
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<BTreeSet<T>, EntryError> {
    let mut set = BTreeSet::new();
    for (position, text) in texts.iter().enumerate() {
        let value = parse(text).map_err(|e| EntryError::at(field, position, e.to_string()))?;
        if !set.insert(value) {
            return Err(EntryError::at(
                field,
                position,
                format!("{text:?} is written twice; remove one"),
            ));
        }
    }
    Ok(set)
}

impl Entry {
    /// The entry as it would be written; validating it again gives the same entry.
    pub fn to_raw(&self) -> RawEntry {
        RawEntry {
            name: self.name.to_string(),
            spiffe_id: self.spiffe_id.to_string(),
            agents: self.agents.iter().map(ToString::to_string).collect(),
            selectors: self.selectors.iter().map(ToString::to_string).collect(),
            ttl_seconds: i64::from(self.ttl.seconds()),
            dns_names: self.dns_names.clone(),
            common_name: self.common_name.clone().unwrap_or_default(),
            hint: self.hint.clone(),
            owner: self.owner.clone(),
            environment: self.environment.clone(),
            purpose: self.purpose.clone(),
            disabled: self.disabled,
            jwt_forbidden: self.jwt_forbidden,
            jwt_audiences: self.jwt_audiences.clone(),
            federates_with: self.federates_with.iter().map(ToString::to_string).collect(),
        }
    }

    /// The name, unique in the trust domain.
    pub fn name(&self) -> &EntryName {
        &self.name
    }

    /// The identity this entry gives.
    pub fn spiffe_id(&self) -> &SpiffeId {
        &self.spiffe_id
    }

    /// The agents this entry is for.
    pub fn agents(&self) -> &BTreeSet<AgentPattern> {
        &self.agents
    }

    /// What must hold for the workload; all of them.
    pub fn selectors(&self) -> &BTreeSet<Selector> {
        &self.selectors
    }

    /// Lifetime of its certificates.
    pub fn ttl(&self) -> Ttl {
        self.ttl
    }

    /// DNS names for the certificate, in the order they were written.
    pub fn dns_names(&self) -> &[String] {
        &self.dns_names
    }

    /// Common name for the certificate's subject.
    pub fn common_name(&self) -> Option<&str> {
        self.common_name.as_deref()
    }

    /// Tells a workload with several identities which one is meant; may be empty.
    pub fn hint(&self) -> &str {
        &self.hint
    }

    /// Who answers for the workload; may be empty.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Where it runs; may be empty.
    pub fn environment(&self) -> &str {
        &self.environment
    }

    /// What it is for; may be empty.
    pub fn purpose(&self) -> &str {
        &self.purpose
    }

    /// True when nothing may be issued by this entry.
    pub fn is_disabled(&self) -> bool {
        self.disabled
    }

    /// True when no JWT-SVID may be issued by this entry.
    pub fn jwt_forbidden(&self) -> bool {
        self.jwt_forbidden
    }

    /// The audiences its JWT-SVIDs may be for, in the order they were written; empty for any.
    pub fn jwt_audiences(&self) -> &[String] {
        &self.jwt_audiences
    }

    /// Other trust domains whose bundles its workloads are given, where the CA has them.
    pub fn federates_with(&self) -> &BTreeSet<TrustDomain> {
        &self.federates_with
    }

    /// Why this entry gives no JWT-SVID for these audiences; `None` when it does.
    pub fn why_no_jwt(&self, audiences: &Audiences) -> Option<String> {
        JwtRule::of(self.jwt_forbidden, &self.jwt_audiences).why_not(audiences)
    }

    /// True when the agent `id` is one this entry is for.
    pub fn is_for_agent(&self, id: &SpiffeId) -> bool {
        self.agents.iter().any(|pattern| pattern.matches(id))
    }

    /// True when every selector of this entry is among `shown`.
    pub fn selectors_hold(&self, shown: &BTreeSet<Selector>) -> bool {
        self.selectors.is_subset(shown)
    }

    /// True when both entries would give the same identity to the same workload on a common agent under different
    /// names: which lifetime and names it got would then be chance.
    pub fn duplicates(&self, other: &Self) -> bool {
        self.name != other.name
            && self.spiffe_id == other.spiffe_id
            && self.selectors == other.selectors
            && self.agents.iter().any(|a| other.agents.iter().any(|b| overlap(a, b)))
    }
}

/// True when some agent could match both patterns.
fn overlap(a: &AgentPattern, b: &AgentPattern) -> bool {
    match (a, b) {
        (AgentPattern::Exact(id), pattern) | (pattern, AgentPattern::Exact(id)) => pattern.matches(id),
        (AgentPattern::Prefix(a), AgentPattern::Prefix(b)) => a == b || a.matches(b.stem()) || b.matches(a.stem()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{agent_id, entry, raw};

    fn with(name: &str, agents: &[&str]) -> Entry {
        let agents = agents.iter().map(|agent| format!("spiffe://dev.test{agent}")).collect();
        entry(&RawEntry {
            name: name.into(),
            spiffe_id: "spiffe://dev.test/x".into(),
            agents,
            ..raw("x")
        })
    }

    #[test]
    fn all_selectors_must_hold_and_some_agent_must_match() {
        let web = entry(&raw("web"));
        let shown = |texts: &[&str]| texts.iter().map(|text| Selector::parse(text).unwrap()).collect();
        assert!(web.selectors_hold(&shown(&["unix:uid:1000", "unix:path:/usr/bin/web", "unix:gid:5"])));
        assert!(!web.selectors_hold(&shown(&["unix:uid:1000"])));
        assert!(!web.selectors_hold(&shown(&["unix:uid:10000", "unix:path:/usr/bin/web"])));
        assert!(web.is_for_agent(&agent_id("n1")) && !web.is_for_agent(&agent_id("n10")));
        assert!(with("a", &["/mintage/agent/*"]).is_for_agent(&agent_id("n10")));
    }

    #[test]
    fn duplicate_entries_are_those_that_could_answer_one_workload_twice() {
        let one = with("one", &["/mintage/agent/n1"]);
        for (agents, clashes) in [
            (&["/mintage/agent/n1"][..], true),
            (&["/mintage/agent/n2"], false),
            (&["/mintage/agent/n2", "/mintage/agent/n1"], true),
            (&["/mintage/agent/*"], true),
            (&["/*"], true),
        ] {
            let other = with("other", agents);
            assert_eq!(one.duplicates(&other), clashes, "{agents:?}");
            assert_eq!(other.duplicates(&one), clashes, "{agents:?}");
        }
        assert!(with("a", &["/*"]).duplicates(&with("b", &["/mintage/agent/*"])));
        assert!(!one.duplicates(&one), "an entry does not stand in its own way");
        let longer = entry(&RawEntry {
            ttl_seconds: 900,
            name: "longer".into(),
            ..one.to_raw()
        });
        assert!(one.duplicates(&longer), "another lifetime is no excuse");
    }
}
