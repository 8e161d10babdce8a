//! The view of the control records: what stands now, derived from the ledger alone and thrown away at will.
//!
//! [`View`] is one immutable picture; applying a record to it is deterministic. [`State`] follows a ledger, publishes a
//! view after each step and keeps it in sled, so that a start need not read the whole ledger. [`command`] checks what an
//! operator or an agent wants against a view and drafts the record body, or refuses with a reason.

mod ahead;
mod apply;
mod convert;
mod entries;
mod error;
mod follower;
mod key;
mod load;
mod marks;
mod model;
mod rebuild;
mod rules;
mod snapshot;
mod state;
mod store;
mod stored;
mod sum;
mod view;
mod watermark;
mod writer;

pub mod command;
pub mod limits;

#[cfg(test)]
mod tests;

pub use convert::{entry_from_put, entry_to_put, revocation_of, rule_to_wire, serial_to_wire};
pub use entries::EntryChange;
pub use error::StateError;
pub use marks::RuleMark;
pub use model::{
    AgentCertificate, AgentRecord, BundleRecord, CaKeyRecord, FederatedContent, FederatedRecord, StandingEntry,
    TokenId, TokenRecord,
};
pub use state::State;
pub use view::{Ignored, View};
