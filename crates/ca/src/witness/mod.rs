//! A witness of transparency logs (C2SP tlog-witness): it cosigns a log's checkpoint only when that is shown to go on from
//! the last one it cosigned. It follows the logs of its policy file, and each log that one of them names as the one after it.
//! Made once by [`init`], run by [`Witness`]; it shares nothing with a CA but this program.

mod answers;
#[cfg(test)]
pub(crate) mod kit;
mod known;
mod metrics;
mod seen;
mod server;
mod store;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use mintage_ledger::CosignerKey;

use crate::{error::CaError, init::Deps};

pub use self::server::Witness;

/// What a witness is run with.
#[derive(Clone, Debug)]
pub struct WitnessOptions {
    /// The directory that [`init`] made.
    pub dir: PathBuf,
    /// The logs whose checkpoints are cosigned, as a policy file (C2SP tlog-policy).
    pub policy: PathBuf,
    /// Where requests come in, by plain HTTP: what comes is signed, and so is what is answered.
    pub listen: SocketAddr,
    /// Where `/metrics` is served, on a loopback address.
    pub metrics: Option<SocketAddr>,
}

/// Makes a witness with a new Ed25519 key in a directory that is new or empty, and returns the key that verifies it.
///
/// # Errors
/// Refuses a directory that holds anything, and a name that is no key name.
pub fn init(dir: &Path, name: &str, deps: &Deps) -> Result<CosignerKey, CaError> {
    store::init(dir, name, deps.random)
}

/// Says what [`init`] would refuse, and makes nothing.
///
/// # Errors
/// As [`init`].
pub fn check_init(dir: &Path, name: &str) -> Result<(), CaError> {
    store::check_init(dir, name)
}
