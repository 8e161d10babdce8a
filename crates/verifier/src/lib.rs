//! Verifies X.509-SVIDs in rustls handshakes over one immutable snapshot of trust, with zero network.
//!
//! - [`Trust`] holds roots per trust domain, revocation knowledge and the freshness policy; [`TrustStore`] is the one
//!   pointer to the current snapshot and is swapped whole.
//! - [`client_config`] and [`server_config`] are complete: own verifiers, rotation without a new configuration through
//!   [`IdentitySource`], and resumption off. [`SvidServerVerifier`] and [`SvidClientVerifier`] are the bare verifiers.
//! - [`JoinVerifier`] is for the first call of a node, which knows only the hash of a root.
//! - [`Trust::verify`] and [`Trust::recheck`] do the same without a handshake: before a certificate is written, and for
//!   every request on a long connection.
//!
//! ```
//! use std::sync::Arc;
//!
//! use mintage_identity::TrustDomain;
//! use mintage_verifier::{
//!     AllowedIds, ClientAuth, IdentitySource, RevocationCheck, TlsSettings, Trust, TrustStore, server_config,
//! };
//! use rustls::time_provider::DefaultTimeProvider;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (roots, view) = (Vec::<Vec<u8>>::new(), mintage_revocation::Replica::new(&TrustDomain::parse("dev.test")?).handle());
//! let domain = TrustDomain::parse("dev.test")?;
//! let trust = Trust::builder(domain.clone())
//!     .domain(domain, roots, RevocationCheck::required(view))?
//!     .build();
//! let store = TrustStore::new(trust);
//! let identity = IdentitySource::empty();
//! let tls = TlsSettings::new(Arc::new(rustls::crypto::ring::default_provider()), Arc::new(DefaultTimeProvider));
//! let clients = ClientAuth::Mandatory(AllowedIds::OwnTrustDomain);
//! let config = server_config(store.clone(), identity.clone(), clients, &tls)?;
//! // Later: `identity.replace(..)` rotates, `store.swap(..)` follows the bundle; `config` stays.
//! # let _ = config;
//! # Ok(())
//! # }
//! ```
//!
//! What is absent on purpose: this crate opens no socket, starts no thread and reads no clock but rustls'
//! [`TimeProvider`](rustls::time_provider::TimeProvider); it installs no process-wide crypto provider. Host names are
//! never compared: the SPIFFE ID is the name.

mod allowed;
mod chain;
mod config;
mod counters;
mod error;
mod join;
mod path;
mod peer;
mod source;
mod status;
mod tolerated;
mod trust;

pub mod limits;

pub use allowed::AllowedIds;
pub use chain::{SvidClientVerifier, SvidServerVerifier, from_rustls};
pub use config::{ClientAuth, TlsSettings, TlsVersions, client_config, join_config, server_config};
pub use counters::Counters;
pub use error::{IdentityError, TrustError, VerifyError, reason_of};
pub use join::JoinVerifier;
pub use path::Usage;
pub use peer::{PathLink, VerifiedPeer};
pub use source::IdentitySource;
pub use status::{NewsKeys, RevocationCheck, RevocationView};
pub use trust::{Observer, Trust, TrustBuilder, TrustStore};
