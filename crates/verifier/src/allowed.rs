//! Which peers may connect: a closed enum, so that a policy can be printed, compared and reasoned about. A closure
//! is not offered: it would hide a decision in code that no audit can read.

use std::collections::BTreeSet;

use mintage_identity::{IdPrefix, NameError, ReplicaName, SpiffeId, TrustDomain};

use crate::limits::ALLOWED_IDS_MAX;

/// The SPIFFE IDs a verifier lets pass once chain and signatures are proven.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum AllowedIds {
    /// Every id of the snapshot's own trust domain, its agents and CA replicas among them; ids of federated domains are
    /// refused.
    #[default]
    OwnTrustDomain,
    /// Exactly these ids, of whatever trust domain.
    Exact(BTreeSet<SpiffeId>),
    /// Every id below one of these prefixes, on whole path segments.
    Prefixes(Vec<IdPrefix>),
}

impl AllowedIds {
    /// Exactly these ids.
    ///
    /// # Errors
    /// Refuses more than [`ALLOWED_IDS_MAX`] ids. An empty list is taken, and lets nobody pass.
    pub fn exact(ids: impl IntoIterator<Item = SpiffeId>) -> Result<Self, NameError> {
        let ids: BTreeSet<_> = ids.into_iter().take(ALLOWED_IDS_MAX + 1).collect();
        check_count(ids.len())?;
        Ok(Self::Exact(ids))
    }

    /// Every id below one of these prefixes.
    ///
    /// # Errors
    /// Refuses more than [`ALLOWED_IDS_MAX`] prefixes. An empty list is taken, and lets nobody pass.
    pub fn prefixes(prefixes: impl IntoIterator<Item = IdPrefix>) -> Result<Self, NameError> {
        let prefixes: Vec<_> = prefixes.into_iter().take(ALLOWED_IDS_MAX + 1).collect();
        check_count(prefixes.len())?;
        Ok(Self::Prefixes(prefixes))
    }

    /// The CA replicas of `domain`: `/mintage/ca/*`. What an agent or a tool allows when it calls the CA.
    ///
    /// # Errors
    /// Refuses a trust domain so long that no replica's id fits into a SPIFFE ID; there is none such today.
    pub fn replicas_of(domain: &TrustDomain) -> Result<Self, NameError> {
        Self::kind_of(domain, "ca")
    }

    /// The agents of `domain`: `/mintage/agent/*`. What the CA allows on its port for agents.
    ///
    /// # Errors
    /// As [`AllowedIds::replicas_of`].
    pub fn agents_of(domain: &TrustDomain) -> Result<Self, NameError> {
        Self::kind_of(domain, "agent")
    }

    fn kind_of(domain: &TrustDomain, kind: &str) -> Result<Self, NameError> {
        let prefix = IdPrefix::parse(&format!(
            "{}/{}/{kind}/*",
            domain.id(),
            mintage_identity::RESERVED_SEGMENT
        ))?;
        Ok(Self::Prefixes(vec![prefix]))
    }

    /// Exactly one CA replica of `domain`.
    pub fn replica(domain: &TrustDomain, name: &ReplicaName) -> Self {
        Self::Exact(BTreeSet::from([SpiffeId::replica(domain, name)]))
    }

    /// True when `id` may pass, seen from trust domain `own`.
    pub fn permits(&self, own: &TrustDomain, id: &SpiffeId) -> bool {
        match self {
            Self::OwnTrustDomain => id.is_member_of(own),
            Self::Exact(ids) => ids.contains(id),
            Self::Prefixes(prefixes) => prefixes.iter().any(|prefix| prefix.matches(id)),
        }
    }
}

fn check_count(count: usize) -> Result<(), NameError> {
    if count > ALLOWED_IDS_MAX {
        let problem = format!("has more than {ALLOWED_IDS_MAX} members; use a prefix such as spiffe://td/team/*");
        return Err(NameError::new("allowed ids", "", problem));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> SpiffeId {
        SpiffeId::parse(text).unwrap()
    }

    #[test]
    fn own_trust_domain_is_the_default_and_leaves_out_federated_ones() {
        let own = TrustDomain::parse("a.test").unwrap();
        let allowed = AllowedIds::default();
        assert!(allowed.permits(&own, &id("spiffe://a.test/x")));
        assert!(!allowed.permits(&own, &id("spiffe://b.test/x")));
        assert!(!allowed.permits(&own, &id("spiffe://a.test.evil/x")));
    }

    #[test]
    fn prefixes_hold_on_whole_segments() {
        let own = TrustDomain::parse("a.test").unwrap();
        let allowed = AllowedIds::replicas_of(&own).unwrap();
        assert!(allowed.permits(&own, &id("spiffe://a.test/mintage/ca/r1")));
        for other in [
            "/mintage/ca",
            "/mintage/cat/r1",
            "/mintage/agent/r1",
            "/x/mintage/ca/r1",
        ] {
            assert!(
                !allowed.permits(&own, &id(&format!("spiffe://a.test{other}"))),
                "{other}"
            );
        }
        assert!(!allowed.permits(&own, &id("spiffe://b.test/mintage/ca/r1")));
    }

    #[test]
    fn an_empty_list_lets_nobody_pass() {
        let own = TrustDomain::parse("a.test").unwrap();
        assert!(!AllowedIds::exact([]).unwrap().permits(&own, &id("spiffe://a.test/x")));
        assert!(
            !AllowedIds::prefixes([])
                .unwrap()
                .permits(&own, &id("spiffe://a.test/x"))
        );
    }

    #[test]
    fn lists_are_bounded() {
        let many = (0..=ALLOWED_IDS_MAX).map(|n| id(&format!("spiffe://a.test/{n}")));
        assert!(AllowedIds::exact(many.clone()).is_err());
        assert!(AllowedIds::exact(many.take(ALLOWED_IDS_MAX)).is_ok());
    }
}
