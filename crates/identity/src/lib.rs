//! Names of the field and nothing else: trust domains, SPIFFE IDs, selectors, serials, lifetimes and typed ids.
//!
//! This crate performs no I/O, reads no clock and knows no X.509. Every name is parsed once, byte for byte canonical,
//! and is valid for as long as the value lives; nothing is normalised silently (SPIFFE-ID standard, sections 2 and 3).

mod audience;
mod error;
mod id;
mod names;
mod pattern;
mod reason;
mod selector;
mod serial;
mod time;
mod trust_domain;
mod typed;
mod why_not;

pub mod limits;

pub use audience::{Audiences, JwtRule, check_audience};
pub use error::NameError;
pub use id::{RESERVED_SEGMENT, Reserved, SpiffeId};
pub use names::{AgentName, EntryName, ReplicaName};
pub use pattern::{AgentPattern, IdPrefix};
pub use reason::RevocationReason;
pub use selector::Selector;
pub use serial::Serial;
pub use time::{Ttl, UnixTime, parse_duration};
pub use trust_domain::TrustDomain;
pub use typed::{AgentInstance, CertHash, IssuerKeyId, RequestId, SpkiHash};
pub use why_not::WhyNot;
