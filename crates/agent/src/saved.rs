//! The last good revocation set on disk: one signed snapshot and the signed deltas after it, as the CA sent them. They are
//! verified again when they are read, so the disk need not be believed.

use std::sync::Arc;

use mintage_identity::UnixTime;
use mintage_revocation::{Replica, limits::SAVED_DELTAS_MAX};
use mintage_sys::secret_file;

use crate::{limits::SNAPSHOT_BYTES_MAX, store::Store};

const SNAPSHOT: &str = "snapshot";
/// Names of the deltas in their order: `delta-00001` and on.
const DELTA: &str = "delta-";
/// Files in the directory: the snapshot, its deltas, and what a crash left.
const NAMES_MAX: usize = 4 * SAVED_DELTAS_MAX;

/// The saved set.
pub(crate) struct SavedSet {
    store: Arc<Store>,
    deltas: usize,
    /// False after a delta could not be saved: later ones would not continue what is there.
    whole: bool,
}

impl SavedSet {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            deltas: 0,
            whole: false,
        }
    }

    /// Puts what was saved into `replica`, as far as it verifies.
    pub(crate) fn restore(&mut self, replica: &mut Replica, now: UnixTime) -> Result<(), String> {
        let Some(snapshot) = self.read(SNAPSHOT)? else {
            return Ok(());
        };
        replica
            .restore_snapshot(&snapshot, now)
            .map_err(|error| error.to_string())?;
        for name in self.delta_names()? {
            let Some(delta) = self.read(&name)? else { break };
            replica
                .restore_delta(&delta, now)
                .map_err(|error| format!("{name}: {error}"))?;
            self.deltas += 1;
        }
        self.whole = true;
        Ok(())
    }

    /// Saves a snapshot in the place of everything before it.
    pub(crate) fn snapshot(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.whole = false;
        let dir = self.store.revocation_dir();
        // Deltas of the former snapshot go first: after a crash in between the old snapshot alone is still a good set.
        for name in self.delta_names()? {
            dir.remove_file(&name).map_err(|error| error.to_string())?;
        }
        secret_file::replace(dir, SNAPSHOT, bytes).map_err(|error| error.to_string())?;
        self.deltas = 0;
        self.whole = true;
        Ok(())
    }

    /// True when nothing can be added to what is saved: a snapshot must take its place, or a restart without the CA would
    /// forget what was revoked since.
    pub(crate) fn wants_snapshot(&self) -> bool {
        !self.whole || self.deltas >= SAVED_DELTAS_MAX
    }

    /// Saves a delta that continues what is saved, unless a snapshot is wanted.
    pub(crate) fn delta(&mut self, bytes: &[u8]) -> Result<(), String> {
        if self.wants_snapshot() {
            return Ok(());
        }
        self.whole = false;
        let name = format!("{DELTA}{:05}", self.deltas + 1);
        secret_file::replace(self.store.revocation_dir(), &name, bytes).map_err(|error| error.to_string())?;
        self.deltas += 1;
        self.whole = true;
        Ok(())
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, String> {
        use std::io::Read;
        let dir = self.store.revocation_dir();
        let file = match dir.open_file_beneath(name) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{name}: {error}")),
        };
        let mut bytes = Vec::new();
        file.take(SNAPSHOT_BYTES_MAX as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| format!("{name}: {error}"))?;
        if bytes.len() > SNAPSHOT_BYTES_MAX {
            return Err(format!("{name}: is over {SNAPSHOT_BYTES_MAX} bytes long"));
        }
        Ok(Some(bytes))
    }

    fn delta_names(&self) -> Result<Vec<String>, String> {
        let names = self
            .store
            .revocation_dir()
            .names(NAMES_MAX)
            .map_err(|error| error.to_string())?;
        let mut names: Vec<String> = names
            .into_iter()
            .filter_map(|name| String::from_utf8(name).ok())
            .filter(|name| name.starts_with(DELTA))
            .collect();
        names.sort();
        Ok(names)
    }
}
