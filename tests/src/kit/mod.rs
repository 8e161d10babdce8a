//! What tests across crates stand on: the real programs, and outside software to hold them against.

pub mod agent;
pub mod bins;
pub mod ca;
pub mod client;
pub mod peers;
pub mod stream;
