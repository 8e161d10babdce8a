//! What a subscriber is told, and the refusal of what cannot work.

use std::sync::Arc;

use mintage_identity::TrustDomain;
use mintage_revocation::FreshnessPolicy;
use mintage_verifier::{IdentitySource, TlsSettings};

use crate::limits::{ADDRESS_BYTES_MAX, PUBLISHERS_MAX};

/// What a subscriber needs.
#[derive(Clone, Debug)]
pub struct Settings {
    pub(crate) domain: TrustDomain,
    pub(crate) roots: Vec<Vec<u8>>,
    pub(crate) publishers: Vec<String>,
    pub(crate) tls: TlsSettings,
    pub(crate) identity: Option<Arc<IdentitySource>>,
    pub(crate) freshness: FreshnessPolicy,
}

/// Why settings cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// Nobody to follow, or too many.
    #[error("publishers: {found}, must be 1 to {PUBLISHERS_MAX}; name the addresses at which agents reach the CA")]
    Publishers {
        /// How many were named.
        found: usize,
    },
    /// An address that cannot be one.
    #[error(
        "publisher {address:?}: must be HOST:PORT of at most {ADDRESS_BYTES_MAX} bytes, such as ca.example.org:8443"
    )]
    Address {
        /// The text.
        address: String,
    },
    /// The roots cannot be trusted as they are.
    #[error("roots: {problem}; give the trust domain's roots as DER, as `mintage bundle show -o pem` has them")]
    Roots {
        /// What is wrong.
        problem: String,
    },
    /// TLS cannot be configured.
    #[error("TLS: {0}")]
    Tls(String),
}

impl Settings {
    /// Follows `publishers` (HOST:PORT), whose certificates must chain to `roots` (DER) and be those of CA replicas of
    /// `domain`. `tls` gives the crypto provider and the clock; its application protocols do not count here.
    pub fn new<'a>(
        domain: TrustDomain,
        roots: Vec<Vec<u8>>,
        publishers: impl IntoIterator<Item = &'a str>,
        tls: TlsSettings,
    ) -> Self {
        Self {
            domain,
            roots,
            publishers: publishers.into_iter().map(str::to_owned).collect(),
            tls,
            identity: None,
            freshness: FreshnessPolicy::default(),
        }
    }

    /// Shows this identity to the publishers: mutual TLS. The same source may serve the verifier's own handshakes.
    #[must_use]
    pub fn with_identity(mut self, identity: Arc<IdentitySource>) -> Self {
        self.identity = Some(identity);
        self
    }

    /// What an old set means to the verifiers; by default it is accepted for 10 minutes.
    #[must_use]
    pub fn with_freshness(mut self, freshness: FreshnessPolicy) -> Self {
        self.freshness = freshness;
        self
    }

    pub(crate) fn check(&self) -> Result<(), SettingsError> {
        let found = self.publishers.len();
        if !(1..=PUBLISHERS_MAX).contains(&found) {
            return Err(SettingsError::Publishers { found });
        }
        let is_bad = |address: &&String| {
            let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
            address.len() > ADDRESS_BYTES_MAX || port.is_none_or(|(_, port)| port.parse::<u16>().is_err())
        };
        if let Some(address) = self.publishers.iter().find(is_bad) {
            return Err(SettingsError::Address {
                address: address.clone(),
            });
        }
        if self.roots.is_empty() {
            return Err(SettingsError::Roots {
                problem: "there is none, so that no publisher could be believed".to_owned(),
            });
        }
        Ok(())
    }
}
