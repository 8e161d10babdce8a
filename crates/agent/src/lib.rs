//! mintage-agent: joins a node to a Mintage CA, keeps its identities fresh on disk and over the SPIFFE Workload API, and
//! puts revocations in force on the node.
//!
//! - [`Agent::start`] runs an agent in this process; [`AgentHandle`] watches and stops it.
//! - One task, the core, owns all state and decides; it waits for nothing. The link talks with the CA, tasks of their own
//!   wait for disks, a thread of its own applies revocations.
//! - [`rotation`] says when an identity is renewed, as a pure state machine over two clocks.
//!
//! What is absent on purpose: an agent has no signing key but those of its own identities, reads no inventory, and
//! believes nothing that a folder it delivers to contains.

mod agent;
mod bundle;
mod bundle_map;
mod clock;
mod config;
mod core;
mod crls;
mod descriptors;
pub mod doctor;
mod error;
mod event;
mod federation;
mod held;
mod hook;
mod http;
mod jwt;
mod kept;
mod key;
mod layout;
mod link;
pub mod logs;
mod lookup;
mod metrics;
mod public_dir;
mod receipt;
mod revoked;
mod saved;
mod seen;
mod shared;
mod status;
mod store;
mod workload;
mod write;

pub mod limits;
pub mod roles;
pub mod rotation;

pub use agent::{Agent, AgentHandle};
pub use clock::Deps;
pub use config::{
    Accounts, Config, Delivery, Effect, EffectProtocol, Hook, HookAction, HookSignal, LookupRules, MODE_DEFAULT,
    SOCKET_DEFAULT, Sds, SignalTarget, SocketLimit, SocketLimits, TomlProblem, UnitJob, Validator, Window,
    WithoutCertificate,
};
pub use core::Reloaded;
pub use error::AgentError;
pub use event::AgentEvent;
pub use layout::{Layout, StorePassword};
pub use lookup::{Particulars, Route, RouteProblem, unescape_chain};
pub use status::{AgentStatus, HeldStatus};
