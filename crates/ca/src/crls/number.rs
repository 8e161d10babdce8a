//! The number of the issuing key's last list, kept across restarts: whoever has a list refuses one with a lower number, so it
//! rises even when the clock was set back while nothing ran.

use std::path::PathBuf;

use tracing::warn;

use crate::{data_dir::DataDir, error::CaError};

/// The number that was used last, and where it is kept.
#[derive(Debug)]
pub(crate) struct LastNumber {
    data_dir: PathBuf,
    at_start: u64,
}

impl LastNumber {
    /// Reads it; 0 in a directory whose CA has signed no list yet.
    pub(crate) fn read(data: &DataDir, data_dir: PathBuf) -> Result<Self, CaError> {
        Ok(Self {
            data_dir,
            at_start: data.crl_number()?,
        })
    }

    /// The least number of the first list after the start.
    pub(super) fn first(&self) -> u64 {
        self.at_start.saturating_add(1)
    }

    /// Keeps the number of a list that is about to be published. One that cannot be kept holds back no list: what is
    /// revoked has to be known now, and the clock is rarely set back.
    pub(super) fn keep(&self, number: u64) {
        let kept = DataDir::open(&self.data_dir).and_then(|data| data.keep_crl_number(number));
        if let Err(problem) = kept {
            warn!(%problem, number, "the number of the list of revoked certificates could not be kept");
        }
    }
}
