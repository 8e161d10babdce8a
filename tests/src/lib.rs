//! Tests across crates, with the real binaries and real outside software.
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "everything here runs in a test, and a panic is how a test says no"
)]

pub mod fuzz;
pub mod kit;
pub mod layers;
pub mod tidy;
