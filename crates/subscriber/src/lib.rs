//! For verifiers without an agent: follows the revoked set and the trust bundle of one trust domain straight from its CA,
//! and keeps the one [`TrustStore`](mintage_verifier::TrustStore) current by which handshakes are judged.
//!
//! A [`Subscriber`] opens `Revocation/Watch` at one of its publishers, verifies all that comes, and resumes by sequence: at
//! the same publisher or at another one, without a snapshot as long as the publisher remembers that far. A publisher that
//! does not answer, falls silent or stays behind is left for the next; the last good set stays, and grows old.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use mintage_identity::TrustDomain;
//! use mintage_subscriber::{Settings, Subscriber};
//! use mintage_verifier::TlsSettings;
//! use rustls::time_provider::DefaultTimeProvider;
//! use tokio_util::sync::CancellationToken;
//!
//! # async fn follow(roots: Vec<Vec<u8>>) -> Result<(), Box<dyn std::error::Error>> {
//! let tls = TlsSettings::new(Arc::new(rustls::crypto::ring::default_provider()), Arc::new(DefaultTimeProvider));
//! let settings = Settings::new(TrustDomain::parse("example.org")?, roots, ["ca.example.org:8443"], tls);
//! let subscriber = Subscriber::new(settings)?;
//! // For `mintage_verifier::server_config`; it refuses everybody until the first set has come.
//! let trust = subscriber.trust().clone();
//! // With `mintage_verifier_tokio::Registry`: `News::Revoked(added) => registry.apply(added)`, else `trust_changed()`.
//! let stop = CancellationToken::new();
//! tokio::spawn(subscriber.run(|_news| {}, stop.clone()));
//! # drop(trust);
//! # Ok(())
//! # }
//! ```
//!
//! Nothing here is on the way of a handshake: verifiers read memory, whatever the network does.

mod bundle;
mod connect;
mod fetch;
mod retry;
mod run;
mod settings;
mod step;

pub mod limits;

pub use bundle::{KnownRevoked, issuing, verified_delegations};
pub use fetch::{FetchError, fetch_snapshot};
pub use run::{News, Status, Subscriber};
pub use settings::{Settings, SettingsError};
