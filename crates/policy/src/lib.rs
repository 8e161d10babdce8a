//! Registration entries and the decision: Attested + want -> Grant or Denial{why}.
//!
//! An [`Entry`] that exists is valid. [`decide`] is pure: what the CA has proven, what is wanted, a snapshot of the
//! state and `now` go in; a [`Grant`] that only this crate can make, or a [`Denial`] that names the one thing that
//! failed, comes out. Beside it stand the offline verbs on the same types: reading files, [`plan`], [`explain`] and the
//! import of SPIRE's entries.

mod check;
mod decide;
mod entry;
mod explain;
mod files;
mod grant;
mod jwt;
mod key;
mod plan;
mod problem;
mod replica;
#[cfg(test)]
mod samples;
mod selectors;
mod spire;
mod view;

pub mod limits;

pub use decide::{Want, decide};
pub use entry::{ENTRY_FIELDS, Entry, EntryError, RawEntry};
pub use explain::{Explanation, explain};
pub use files::{LocatedEntry, load_dir, parse_entries};
pub use grant::{Denial, DenialKind, Grant, GrantedAgent, GrantedEntry, Profile};
pub use jwt::{JwtGrant, decide_jwt};
pub use key::{KeyView, check_holders, check_key_for};
pub use plan::{Change, FieldDiff, Plan, plan};
pub use problem::{TomlProblem, nearest};
pub use replica::grant_replica;
pub use spire::{ImportNote, SpireImport, SpireImported, import_spire_json};
pub use view::{AgentState, AgentStatus, EntryView, Floor, IssuancePolicy, NothingYet};
