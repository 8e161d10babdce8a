//! The keys that sign checkpoints: each log has its own (C2SP tlog-policy: no two logs share one).

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use crate::{checkpoint::LogKey, origin::Origin};

/// The key of the log that is written, and while one follows another those of both.
#[derive(Default)]
pub struct LogKeys {
    keys: RwLock<HashMap<Origin, Arc<LogKey>>>,
}

impl LogKeys {
    /// The key of one log.
    pub fn new(origin: &Origin, key: LogKey) -> Arc<Self> {
        let keys = Self::default();
        keys.add(origin, key);
        Arc::new(keys)
    }

    /// Adds a log's key.
    pub fn add(&self, origin: &Origin, key: LogKey) {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        keys.insert(origin.clone(), Arc::new(key));
    }

    /// Forgets the keys of all logs but this one.
    pub fn keep_only(&self, origin: &Origin) {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        keys.retain(|known, _| known == origin);
    }

    /// A log's key.
    pub fn of(&self, origin: &Origin) -> Option<Arc<LogKey>> {
        self.keys
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(origin)
            .cloned()
    }
}

impl fmt::Debug for LogKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_set().entries(keys.keys()).finish()
    }
}
