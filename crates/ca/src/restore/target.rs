//! The directory that a restore fills: claimed by a mark, so that nothing serves it half made.

use std::{fs, path::Path};

use mintage_sys::lock::Lock;

use crate::{data_dir::DataDir, error::CaError};

const IN_THE_WAY: &str =
    "is not empty; a restore never touches what is there: name a directory that is empty or does not exist";

/// A directory that is this restore's alone.
pub(super) struct Target {
    data: DataDir,
    _lock: Lock,
}

impl Target {
    /// Looks whether [`Target::claim`] would succeed, and makes nothing.
    pub(super) fn check(path: &Path) -> Result<(), CaError> {
        match fs::symlink_metadata(path) {
            Ok(_) => check_free(&DataDir::open(path)?),
            Err(_) => DataDir::check_makeable(path),
        }
    }

    /// Takes a directory that is empty or not there, or one that an earlier restore did not finish; that begins anew.
    pub(super) fn claim(path: &Path) -> Result<Self, CaError> {
        // Before the lock, whose file would otherwise be left in somebody's directory.
        Self::check(path)?;
        let data = DataDir::make(path)?;
        let lock = data.lock()?;
        check_free(&data)?;
        match data.is_unfinished() {
            true => data.clear_restore()?,
            false => data.begin_restore()?,
        }
        Ok(Self { data, _lock: lock })
    }

    pub(super) fn data(&self) -> &DataDir {
        &self.data
    }

    /// Leaves the directory as empty as it was. What cannot be taken away stays under the mark.
    pub(super) fn give_back(&self) {
        // The error that led here is the one to tell.
        let _ = self.data.clear_restore().and_then(|()| self.data.end_restore());
    }
}

fn check_free(data: &DataDir) -> Result<(), CaError> {
    match data.is_unfinished() || data.is_unused() {
        true => Ok(()),
        false => Err(data.problem(IN_THE_WAY)),
    }
}
