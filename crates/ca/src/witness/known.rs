//! The logs that a witness follows: those of its policy file, and those that follow from them, each by the statement of the one
//! before, which is stored and verified again whenever the logs are read.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

use mintage_ledger::{
    CosignerKey, LogVerdict, Policy, Succession, SuccessionClaim, Vkey, decide_log,
    limits::{FOLLOWED_LOGS_MAX, SUCCESSION_BYTES_MAX},
};
use mintage_sys::{dir::Dir, secret_file};
use tracing::warn;

use super::{
    seen::{Seen, file_of},
    store::problem,
};
use crate::{error::CaError, limits::WITNESS_WARNING_INTERVAL};

/// The file of a log's statement about the log after it.
pub(super) fn next_file(origin: &str) -> String {
    format!("{}.next", file_of(origin))
}

/// Every log that was ever read since the start: a log that is listed again later goes on from what is in memory, which a request
/// under way may just be changing.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    seen: BTreeMap<String, Arc<Mutex<Seen>>>,
    warned: Option<Instant>,
}

impl Shelf {
    fn of(&mut self, dir: &Dir, origin: &str, key: &CosignerKey) -> Result<Arc<Mutex<Seen>>, CaError> {
        if let Some(seen) = self.seen.get(origin) {
            return Ok(seen.clone());
        }
        let seen = Arc::new(Mutex::new(Seen::read(dir, origin, key)?));
        self.seen.insert(origin.to_owned(), seen.clone());
        Ok(seen)
    }

    /// Tells of a second log that a log's key has named as the one after it: that key may be stolen, or the ledger restored.
    pub(super) fn warn(&mut self, claim: &SuccessionClaim, known: &Vkey) {
        if self.warned.is_some_and(|at| at.elapsed() < WITNESS_WARNING_INTERVAL) {
            return;
        }
        self.warned = Some(Instant::now());
        warn!(
            from = %claim.from(), %known, refused = %claim.to(),
            "a log's key has named a second log as the one after it; after a restore list its key in the policy file"
        );
    }
}

/// A log that is followed.
#[derive(Clone, Debug)]
pub(super) struct Followed {
    keys: Vec<Vkey>,
    next: Option<Vkey>,
    /// How many statements lead here from a log of the policy file.
    steps: usize,
    seen: Arc<Mutex<Seen>>,
}

impl Followed {
    /// The keys that may sign for it.
    pub(super) fn keys(&self) -> &[Vkey] {
        &self.keys
    }

    /// The key of the log that follows it, once that is known.
    pub(super) fn next(&self) -> Option<&Vkey> {
        self.next.as_ref()
    }

    /// What was seen of it, locked; `None` when a request panicked while it held the lock.
    pub(super) fn locked(&self) -> Option<MutexGuard<'_, Seen>> {
        self.seen.lock().ok()
    }
}

/// The logs that are followed at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    logs: BTreeMap<String, Followed>,
    publics: BTreeSet<[u8; 32]>,
}

impl Known {
    /// The logs of a policy, and those that follow from them by the statements in `dir`.
    pub(super) fn read(policy: &Policy, dir: &Dir, key: &CosignerKey, shelf: &mut Shelf) -> Result<Self, CaError> {
        let mut known = Self::default();
        for log in policy.logs() {
            known.enter(&log.vkey, 0, dir, (key, shelf))?;
        }
        let mut unread: Vec<String> = known.logs.keys().cloned().collect();
        while let Some(origin) = unread.pop() {
            let Some(succession) = known.stored(&origin, dir)? else {
                continue;
            };
            let to = succession.to();
            known.may_add(&origin, to).map_err(|why| damaged(dir, &origin, &why))?;
            if known.add(&origin, to, dir, (key, shelf))? {
                unread.push(to.name().to_owned());
            }
        }
        Ok(known)
    }

    pub(super) fn len(&self) -> usize {
        self.logs.len()
    }

    pub(super) fn get(&self, origin: &str) -> Option<&Followed> {
        self.logs.get(origin)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Followed)> {
        self.logs.iter()
    }

    /// The stored statement of a log about the one after it, verified.
    fn stored(&self, origin: &str, dir: &Dir) -> Result<Option<Succession>, CaError> {
        let file = next_file(origin);
        let entry = dir
            .entry(&file)
            .map_err(|error| damaged(dir, origin, &error.to_string()))?;
        if entry.is_none() {
            return Ok(None);
        }
        let octets = secret_file::read_beneath(dir, &file, SUCCESSION_BYTES_MAX).map_err(CaError::Sys)?;
        let claim = SuccessionClaim::parse(&octets).map_err(|error| damaged(dir, origin, &error.to_string()))?;
        let keys = self.logs.get(origin).map_or(&[][..], Followed::keys);
        match decide_log(keys, None, &claim) {
            LogVerdict::Follow(succession) if claim.from().as_str() == origin => Ok(Some(succession)),
            LogVerdict::NotSigned(why) | LogVerdict::Foreign(why) => Err(damaged(dir, origin, &why)),
            _ => Err(damaged(dir, origin, "it is of another log")),
        }
    }

    /// Why the log with the key `to` is not followed after `from`, when it is not: each log has its own name and key.
    pub(super) fn may_add(&self, from: &str, to: &Vkey) -> Result<(), String> {
        if self.steps_after(from) > FOLLOWED_LOGS_MAX {
            return Err(format!(
                "{FOLLOWED_LOGS_MAX} logs are followed from one that the policy lists; list a later one's key there"
            ));
        }
        match self.logs.get(to.name()) {
            Some(log) if log.keys.contains(to) => Ok(()),
            Some(_) => Err(format!("{} is known under another key", to.name())),
            None if self.publics.contains(to.public_key()) => {
                Err(format!("the key of {} is that of another log", to.name()))
            }
            None => Ok(()),
        }
    }

    fn steps_after(&self, from: &str) -> usize {
        self.logs.get(from).map_or(0, |log| log.steps) + 1
    }

    /// These logs, and the one with the key `to` after `from`.
    pub(super) fn with(
        &self,
        from: &str,
        to: &Vkey,
        dir: &Dir,
        reading: (&CosignerKey, &mut Shelf),
    ) -> Result<Self, CaError> {
        let mut more = self.clone();
        more.add(from, to, dir, reading).map(|_| more)
    }

    /// Adds the log with the key `to` after `from`; true when it is new.
    fn add(&mut self, from: &str, to: &Vkey, dir: &Dir, reading: (&CosignerKey, &mut Shelf)) -> Result<bool, CaError> {
        let (is_new, steps) = (!self.logs.contains_key(to.name()), self.steps_after(from));
        if is_new {
            self.enter(to, steps, dir, reading)?;
        }
        if let Some(log) = self.logs.get_mut(from) {
            log.next = Some(to.clone());
        }
        Ok(is_new)
    }

    fn enter(
        &mut self,
        vkey: &Vkey,
        steps: usize,
        dir: &Dir,
        (key, shelf): (&CosignerKey, &mut Shelf),
    ) -> Result<(), CaError> {
        self.publics.insert(*vkey.public_key());
        if let Some(log) = self.logs.get_mut(vkey.name()) {
            log.keys.push(vkey.clone());
            return Ok(());
        }
        let log = Followed {
            keys: vec![vkey.clone()],
            next: None,
            steps,
            seen: shelf.of(dir, vkey.name(), key)?,
        };
        self.logs.insert(vkey.name().to_owned(), log);
        Ok(())
    }
}

fn damaged(dir: &Dir, origin: &str, why: &str) -> CaError {
    let told = format!(
        "the statement of {origin:?} about the log after it is damaged: {why}; put the file back, or remove it and list the \
         keys of the later logs in the policy file"
    );
    problem(&dir.path().join(next_file(origin)), told)
}
