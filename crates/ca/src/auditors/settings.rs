//! The auditors' listener as the configuration has it: where it listens, and who may read.

use std::{collections::BTreeSet, net::SocketAddr};

use mintage_identity::{SpiffeId, TrustDomain};
use serde::Deserialize;
use toml::Spanned;

use crate::limits::AUDITORS_MAX;

/// The `[audit]` of the configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawAudit {
    pub(crate) listen: Spanned<String>,
    pub(crate) auditors: Spanned<Vec<Spanned<String>>>,
}

/// A listener for auditors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AuditSettings {
    pub(crate) listen: SocketAddr,
    pub(crate) auditors: Auditors,
}

/// The identities that may read the ledger: workloads by name, never a pattern, so that no entry made later adds to them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Auditors(BTreeSet<SpiffeId>);

impl Auditors {
    /// Adds one.
    ///
    /// # Errors
    /// What is wrong with it, in the words of the configuration.
    pub(crate) fn add(&mut self, text: &str) -> Result<(), String> {
        let refuse = |problem: String| Err(format!("audit.auditors: {problem}"));
        let id = match SpiffeId::parse_workload(text) {
            Ok(id) => id,
            Err(error) => return refuse(error.to_string()),
        };
        if self.0.len() >= AUDITORS_MAX {
            return refuse(format!("at most {AUDITORS_MAX} identities are named"));
        }
        match self.0.insert(id) {
            true => Ok(()),
            false => refuse(format!("{text:?} is listed twice")),
        }
    }

    /// True when nobody could read.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first that no certificate of this CA can name.
    pub(crate) fn outside(&self, domain: &TrustDomain) -> Option<&SpiffeId> {
        self.0.iter().find(|id| !id.is_member_of(domain))
    }

    /// True for an auditor.
    pub(crate) fn contains(&self, id: &SpiffeId) -> bool {
        self.0.contains(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auditors_are_workloads_by_name_each_once_and_not_too_many() {
        let mut auditors = Auditors::default();
        auditors.add("spiffe://dev.test/audit/one").unwrap();
        for (bad, word) in [
            ("spiffe://dev.test/audit/one", "twice"),
            ("spiffe://dev.test/audit/*", "audit.auditors"),
            ("spiffe://dev.test", "audit.auditors"),
            ("spiffe://dev.test/mintage/agent/n1", "mintage"),
            ("dev.test/audit", "spiffe://"),
            ("", "audit.auditors"),
        ] {
            let told = auditors.add(bad).unwrap_err();
            assert!(told.contains(word), "{bad:?} -> {told}");
        }
        let one = SpiffeId::parse("spiffe://dev.test/audit/one").unwrap();
        let below = SpiffeId::parse("spiffe://dev.test/audit/one/more").unwrap();
        assert!(auditors.contains(&one) && !auditors.contains(&below));
        let own = TrustDomain::parse("dev.test").unwrap();
        let other = TrustDomain::parse("other.test").unwrap();
        assert!(auditors.outside(&own).is_none());
        assert_eq!(auditors.outside(&other), Some(&one));
        for n in 1..AUDITORS_MAX {
            auditors.add(&format!("spiffe://dev.test/{n}")).unwrap();
        }
        let told = auditors.add("spiffe://dev.test/more").unwrap_err();
        assert!(told.contains(&format!("at most {AUDITORS_MAX}")), "{told}");
    }
}
