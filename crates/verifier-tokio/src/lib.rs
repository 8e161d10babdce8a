//! Live connections: a certificate that was good at the handshake may be revoked or expire while its connection stays
//! open for days. The [`Registry`] knows every live connection and ends it then.
//!
//! [`Acceptor`] and [`Connector`] do handshakes with a deadline and hand out [`Watched`] streams; whoever does its own
//! handshakes calls [`Registry::register`] and wraps the stream, or waits on the [`Guard`].

mod accept;
mod accepted;
mod follow;
mod guard;
mod index;
mod log;
mod registry;
mod table;
mod watched;

pub mod limits;

#[cfg(test)]
#[path = "../../verifier/tests/support/mod.rs"]
mod support;

pub use accept::{Acceptor, Connector, HandshakeError};
pub use accepted::{AcceptedChain, AcceptedPeers};
pub use follow::follow_map;
pub use guard::{CloseReason, Guard};
pub use log::LogRefusals;
pub use registry::{RegisterError, Registry, RegistryCounts, RegistrySettings, UnknownStatus};
pub use watched::Watched;
