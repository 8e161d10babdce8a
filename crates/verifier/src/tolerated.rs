//! Of which trust domains certificates are accepted on a filter that is not fresh: each change is told in the log once,
//! however many handshakes rest on it.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use mintage_identity::TrustDomain;

/// What was told last.
#[derive(Debug, Default)]
pub(crate) struct Tolerated {
    /// False while the set is empty: a handshake on a fresh filter then takes no lock.
    any: AtomicBool,
    domains: Mutex<BTreeSet<TrustDomain>>,
}

impl Tolerated {
    /// Notes that a certificate of `domain` was accepted.
    pub(crate) fn note(&self, domain: &TrustDomain, tolerated: bool) {
        match (self.changes(domain, tolerated), tolerated) {
            (false, _) => {}
            (true, true) => tracing::info!(
                trust_domain = %domain,
                "accepting certificates on a revocation filter that is not fresh, as the freshness policy allows; restore \
                 what brings it news"
            ),
            (true, false) => tracing::info!(trust_domain = %domain, "the revocation filter is fresh again"),
        }
    }

    fn changes(&self, domain: &TrustDomain, tolerated: bool) -> bool {
        if !tolerated && !self.any.load(Ordering::Acquire) {
            return false;
        }
        let mut domains = self.domains.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = match tolerated {
            true => !domains.contains(domain) && domains.insert(domain.clone()),
            false => domains.remove(domain),
        };
        self.any.store(!domains.is_empty(), Ordering::Release);
        changed
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_told_once_and_domains_do_not_mix() {
        let (a, b) = (
            TrustDomain::parse("a.test").unwrap(),
            TrustDomain::parse("b.test").unwrap(),
        );
        let noted = Tolerated::default();
        assert!(!noted.changes(&a, false), "fresh from the start");
        assert!(noted.changes(&a, true) && !noted.changes(&a, true));
        assert!(!noted.changes(&b, false), "another domain's filter is fresh");
        assert!(noted.changes(&b, true));
        assert!(noted.changes(&a, false) && !noted.changes(&a, false));
        assert!(noted.changes(&b, false));
        assert!(noted.changes(&a, true));
    }
}
