//! How a node or a process proves who it is. One file per method, with both halves: what the node does to prove, and
//! what the CA does to verify.
//!
//! A verified node is an [`Attested`], which nothing outside this crate can build. Functions take the present time and
//! randomness as arguments; only `unix` looks at the running system.

mod attested;
mod error;
mod key;

pub mod channel;
pub mod join_token;
pub mod limits;
pub mod rejoin;
pub mod unix;

pub use attested::Attested;
pub use channel::{AgentSession, AgentStanding};
pub use error::{AttestError, Detail};
pub use join_token::{JoinToken, JoinVerdict, Joined, TokenHash};
