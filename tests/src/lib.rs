//! Tests across crates, with the real binaries and real outside software.

pub mod kit;
pub mod layers;
pub mod tidy;
