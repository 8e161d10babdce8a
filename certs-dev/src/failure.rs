//! What can go wrong, and what to do about it.

use std::{io, path::PathBuf};

use mintage_identity::{NameError, SpiffeId, TrustDomain};
use mintage_mint::MintError;
use mintage_svid::SvidError;

/// Why nothing was generated.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(
        "trust domain {0} is refused: development certificates are for dev.test only; run mintage-ca init for yours"
    )]
    OtherDomain(TrustDomain),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("--leaf {0} is refused: write a path such as /demo/web, its file name at most 128 bytes long")]
    Leaf(String),
    #[error("--leaf: {0} and another leaf would share one file name")]
    SameFile(String),
    #[error("{count} leaves are asked for, the limit is {limit}")]
    TooMany { count: usize, limit: usize },
    #[error("--not-before {text}: write a date such as 2026-01-01T00:00:00Z, from 1970 to 2039")]
    Date { text: String },
    #[error("{0} exists; give --force to replace it, or --out DIR for another place")]
    Exists(PathBuf),
    #[error("{0} has files that this generator did not write ({1}); remove them or give --out DIR")]
    Foreign(PathBuf, String),
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("generated certificate for {0} does not hold: it has another id or key")]
    DoesNotHold(SpiffeId),
    #[error("generated certificate does not hold: {0}")]
    Svid(#[from] SvidError),
    #[error("generated certificate does not hold: {0}")]
    Mint(#[from] MintError),
}
