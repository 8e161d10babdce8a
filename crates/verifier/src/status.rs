//! What a snapshot knows about revocation in one trust domain, and what happens where it knows nothing.

use std::{fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use mintage_identity::{IssuerKeyId, Serial, SpiffeId, TrustDomain, UnixTime};
use mintage_revocation::{Decision, EntryKey, FreshnessPolicy, MapReader, Query, Verdict, View};

use crate::{PathLink, VerifyError};

/// Revocation knowledge that answers from memory: no lock held long, no system call, no network. The signed filter's
/// own view is one; a CA may answer from its records.
pub trait RevocationView: fmt::Debug + Send + Sync {
    /// Decides on one certificate at `now` under `policy`.
    fn decide(&self, query: &Query<'_>, now: UnixTime, policy: FreshnessPolicy) -> Decision;

    /// The key under which news names this certificate; `None` while the knowledge does not speak of its issuer.
    fn entry_key(&self, issuer: &IssuerKeyId, serial: &Serial) -> Option<EntryKey>;

    /// Time since the knowledge was last confirmed, which the policy judges by; `None` while there is none.
    fn age(&self, now: UnixTime) -> Option<Duration>;
}

impl RevocationView for View {
    fn decide(&self, query: &Query<'_>, now: UnixTime, policy: FreshnessPolicy) -> Decision {
        Self::decide(self, query, now, policy)
    }

    fn entry_key(&self, issuer: &IssuerKeyId, serial: &Serial) -> Option<EntryKey> {
        Self::entry_key(self, issuer, serial)
    }

    fn age(&self, now: UnixTime) -> Option<Duration> {
        Self::age(self, now)
    }
}

/// The place where a [`mintage_revocation::Replica`] publishes: deltas then need no new snapshot of trust.
impl RevocationView for ArcSwap<View> {
    fn decide(&self, query: &Query<'_>, now: UnixTime, policy: FreshnessPolicy) -> Decision {
        self.load().decide(query, now, policy)
    }

    fn entry_key(&self, issuer: &IssuerKeyId, serial: &Serial) -> Option<EntryKey> {
        self.load().entry_key(issuer, serial)
    }

    fn age(&self, now: UnixTime) -> Option<Duration> {
        self.load().age(now)
    }
}

/// The node's shared map, for any process beside the agent.
impl RevocationView for MapReader {
    fn decide(&self, query: &Query<'_>, now: UnixTime, policy: FreshnessPolicy) -> Decision {
        self.view(now).decide(query, now, policy)
    }

    /// A map tells that something was added, not what: whoever follows it asks it for the keys of its live connections.
    fn entry_key(&self, issuer: &IssuerKeyId, serial: &Serial) -> Option<EntryKey> {
        self.key_of(issuer, serial)
    }

    fn age(&self, now: UnixTime) -> Option<Duration> {
        self.view(now).age(now)
    }
}

/// How a trust domain's certificates are checked for revocation. There is no default: whoever adds a bundle says it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum RevocationCheck {
    /// Every certificate of the path below the root is asked for.
    Required {
        /// The knowledge; `None` while it has not arrived yet. No filter never means that nothing is revoked: until
        /// then everyone is refused, whatever the policy.
        view: Option<Arc<dyn RevocationView>>,
        /// How old it may be.
        freshness: FreshnessPolicy,
    },
    /// `revocation = none`: this trust domain publishes no revocations. Only expiry ends its certificates.
    None,
}

impl RevocationCheck {
    /// Required, with this knowledge, under the default freshness policy.
    pub fn required(view: Arc<dyn RevocationView>) -> Self {
        Self::Required {
            view: Some(view),
            freshness: FreshnessPolicy::default(),
        }
    }

    /// Required, but nothing is known yet: everyone is refused until a snapshot with a filter is in place.
    pub fn not_yet_known() -> Self {
        Self::Required {
            view: None,
            freshness: FreshnessPolicy::default(),
        }
    }

    /// Under which keys news would name the certificates of `path`.
    pub(crate) fn news_keys(&self, path: &[PathLink]) -> NewsKeys {
        let Self::Required { view, .. } = self else {
            return NewsKeys::default();
        };
        let key_of = |link: &PathLink| view.as_ref()?.entry_key(&link.issuer, &link.serial);
        let keys: Vec<_> = path.iter().filter_map(key_of).collect();
        NewsKeys {
            some_unknown: keys.len() < path.len(),
            keys,
        }
    }

    /// How long the status of certificates can still be told if no news comes: zero when it cannot now, `None` when
    /// it always can.
    pub(crate) fn known_for(&self, now: UnixTime) -> Option<Duration> {
        match self {
            Self::Required { view, freshness } => freshness.stale_in(view.as_ref().and_then(|view| view.age(now))),
            Self::None => None,
        }
    }

    /// Asks for one certificate of a path of `domain`; `id` for leaves only. True when the answer came from a filter
    /// that is not fresh, but within the policy.
    pub(crate) fn ask(
        &self,
        domain: &TrustDomain,
        link: &PathLink,
        id: Option<&SpiffeId>,
        now: UnixTime,
    ) -> Result<bool, VerifyError> {
        let Self::Required { view, freshness } = self else {
            return Ok(false);
        };
        let Some(view) = view else {
            return Err(VerifyError::NoRevocationFilter(domain.clone()));
        };
        let query = Query {
            issuer: link.issuer,
            serial: &link.serial,
            not_before: link.not_before,
            not_after: link.not_after,
            spiffe_id: id,
            spki_sha256: link.spki_sha256,
        };
        let (issuer, serial) = (link.issuer, link.serial);
        match view.decide(&query, now, *freshness) {
            Decision::Accept { tolerated } => Ok(tolerated),
            Decision::Refuse(Verdict::Revoked { why }) => Err(VerifyError::Revoked { issuer, serial, why }),
            Decision::Refuse(Verdict::NotCovered) => Err(VerifyError::NotCovered { issuer, serial }),
            Decision::Refuse(Verdict::Stale | Verdict::Good) => Err(VerifyError::RevocationStale(domain.clone())),
        }
    }
}

/// Under which keys news would name a peer's certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewsKeys {
    /// The keys known.
    pub keys: Vec<EntryKey>,
    /// True when a certificate of the path has no key yet: any news may concern it.
    pub some_unknown: bool,
}
