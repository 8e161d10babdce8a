//! Benches: every figure is a ratio measured in one run, against a floor or a peer. Inputs are made outside the measured
//! part and each is used once.

pub mod floor;
pub mod host;
pub mod load;
