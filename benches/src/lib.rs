//! Benches: every figure is a ratio measured in one run, against a floor or a peer. Inputs are made outside the measured
//! part and each is used once.

/// As in `mintage-ca`, whose code these programs run.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub mod bare_call;
pub mod caller;
pub mod filter;
pub mod floor;
pub mod host;
pub mod load;
pub mod node;
pub mod peers;
pub mod records;
pub mod searched;
pub mod served;
pub mod workloads;
