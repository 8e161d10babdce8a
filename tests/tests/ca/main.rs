//! The CA: what it accepts, what it refuses, and how it is operated.
//!
//! One program for all of them: linking one for each costs more than running them.

mod chains;
mod entry_rules;
mod evict;
mod federation;
mod garbled;
mod hostile_csr;
mod join_refusals;
mod jwt_keys;
mod key_policy;
mod lifetimes;
mod metrics;
mod operator;
mod program;
mod public;
mod racing;
mod reasons;
mod refusals;
mod reload;
mod serials;
mod spiffe_ids;
mod storage;
mod transport;
mod verbs;
mod wire;
