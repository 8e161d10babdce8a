//! An agent in this process, and the program, against a CA that the tests make lie, lose and fail.
//!
//! One program for all of them: linking one for each costs more than running them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod delivery;
mod health;
mod hooks;
mod jwt;
mod kept;
mod life;
mod lists;
#[path = "../../../../tests/src/kit/missing.rs"]
mod missing;
mod program;
mod receipts;
mod revocation;
mod seen;
mod support;
mod unread;
mod whole;
mod workload;
