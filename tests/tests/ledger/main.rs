//! The ledger: every certificate in it, whatever dies, and provable to strangers.
//!
//! One program for all of them: linking one for each costs more than running them.

mod audit_damage;
mod auditors;
mod crash;
mod orphans;
mod poisoned;
mod power;
mod reading;
mod restore;
mod restore_refusals;
mod searching;
mod seen;
mod shards;
mod snapshot_records;
mod verbs;
mod witness;
mod witness_again;
