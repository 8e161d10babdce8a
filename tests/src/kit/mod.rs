//! What tests across crates stand on: the real programs, and outside software to hold them against.

pub mod agent;
pub mod auditor;
pub mod bins;
pub mod blank;
pub mod ca;
pub mod client;
pub mod clock;
pub mod csr;
pub mod dice;
pub mod envoy;
pub mod face;
pub mod folder;
pub mod follower;
pub mod forge;
pub mod http2;
pub mod ids;
pub mod inventory;
pub mod load;
pub mod peers;
pub mod power;
pub mod promises;
pub mod refusal;
pub mod stream;
pub mod verifiers;
pub mod wal;
pub mod witness;
