//! Why the CA could not be made or started: whose fault it is and what to do.

use std::{io, net::SocketAddr, path::PathBuf};

use mintage_identity::TrustDomain;
use mintage_ledger::LedgerError;
use mintage_mint::{
    MintError,
    limits::{PASSPHRASE_BYTES_MAX, PASSPHRASE_BYTES_MIN},
};
use mintage_state::StateError;
use mintage_sys::SysError;

/// Any failure of `init`, `serve`, `restore` or `validate`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// A file or directory is not as it must be.
    #[error(transparent)]
    Sys(SysError),
    /// Keys of this trust domain must be encrypted.
    #[error(
        "trust domain {0} is not below .test, so its keys must be encrypted: give --passphrase-file FILE (mode 0600) or the \
         systemd credential \"passphrase\""
    )]
    NoPassphrase(TrustDomain),
    /// The passphrase cannot protect a key.
    #[error(
        "{origin}: the passphrase has {bytes} bytes; give one of {PASSPHRASE_BYTES_MIN} to {PASSPHRASE_BYTES_MAX} bytes"
    )]
    Passphrase {
        /// Where it was read from.
        origin: String,
        /// Its length.
        bytes: usize,
    },
    /// The system gave no randomness.
    #[error("the system gives no randomness; nothing was made")]
    NoRandom,
    /// A key file cannot be used.
    #[error("key file {0}: {1}")]
    KeyFile(String, String),
    /// A certificate or key could not be made.
    #[error("mint: {0}")]
    Mint(#[from] MintError),
    /// The ledger refused.
    #[error("ledger: {0}")]
    Ledger(#[from] LedgerError),
    /// The state refused.
    #[error("state: {0}")]
    State(#[from] StateError),
    /// The data directory holds something else than was asked for.
    #[error("data directory {}: {problem}", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// An address could not be bound.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The admin socket could not be made.
    #[error("cannot make the admin socket {}: {source}", path.display())]
    Socket {
        /// The socket's path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The revocation key or its delegation cannot be used.
    #[error("revocation: {0}")]
    Revocation(#[from] mintage_revocation::RevocationError),
    /// TLS could not be configured.
    #[error("tls: {0}")]
    Tls(String),
    /// A witness has seen more of the log than there is of it here.
    #[error(
        "ledger: rolled back: witness {witness} has seen {held} records of this log, the last checkpoint here has {size}; \
         put the newer data directory back; where it is lost, make one of this by `mintage-ca restore` (and take the \
         [[witness]] out of the configuration, which is recorded)"
    )]
    WitnessAhead {
        /// The witness's name.
        witness: String,
        /// The size it holds.
        held: u64,
        /// The size of the stored checkpoint.
        size: u64,
    },
    /// A witness has seen another tree than the log is here.
    #[error(
        "ledger: forked: witness {witness} has seen another tree of this log at size {size}; find out which of the two is \
         true before any CA serves it (who is sure of this one takes the [[witness]] out of the configuration, which is \
         recorded)"
    )]
    WitnessForked {
        /// The witness's name.
        witness: String,
        /// The size at which the trees differ.
        size: u64,
    },
    /// The records of a restore cannot be made.
    #[error("restore: {0}")]
    Restore(String),
    /// The upload of sealed segments cannot begin.
    #[error("upload: {0}")]
    Upload(String),
    /// The ledger was poisoned while serving; the supervisor shall start the CA anew.
    #[error("the ledger failed and nothing more can be recorded: {0}")]
    Poisoned(String),
}
