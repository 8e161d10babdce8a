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

use crate::{error::CaError, init::Deps, keys::find_passphrase};

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
    /// File with the passphrase of the key, where it was made with one; else the systemd credential `passphrase`.
    pub passphrase_file: Option<PathBuf>,
}

/// Makes a witness with a new Ed25519 key in a directory that is new or empty, and returns the key that verifies it. The key is
/// encrypted under the passphrase in `passphrase_file`, or in the systemd credential `passphrase`; without either it is in clear.
///
/// # Errors
/// Refuses a directory that holds anything, a name that is no key name, and a passphrase file as those of CA keys are refused.
pub fn init(dir: &Path, name: &str, passphrase_file: Option<&Path>, deps: &Deps) -> Result<CosignerKey, CaError> {
    let passphrase = find_passphrase(passphrase_file)?;
    store::init(dir, name, passphrase.as_ref(), deps.random)
}

/// Says what [`init`] would refuse, and makes nothing.
///
/// # Errors
/// As [`init`].
pub fn check_init(dir: &Path, name: &str, passphrase_file: Option<&Path>) -> Result<(), CaError> {
    find_passphrase(passphrase_file)?;
    store::check_init(dir, name)
}
