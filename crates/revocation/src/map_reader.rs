//! A reader of the node's map: any process, without a signature check of its own, because it trusts the file's owner.
//!
//! A look-up is one atomic load more than in the writer's process. The reader moves to a newer file by itself, and sees
//! by the map's heartbeat when the agent is dead.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use mintage_identity::{TrustDomain, UnixTime};
use mintage_sys::map::{ReadMap, TrustedOwner};

use crate::{
    Query, RevocationError, TrustDomainHash, Verdict, View,
    limits::{MAP_BYTES_MAX, MAP_COPY_EVERY, MAP_LOOK_AFTER, MAP_LOOK_EVERY},
    map_layout as layout,
    map_lineage::{Left, Lineage},
};

/// Whose map is believed, and whether it is mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MapOwner {
    /// A map of root or of this process's own user; any other is refused.
    #[default]
    RootOrSelf,
    /// One of these, or of this user, such as the agent's.
    Uid(u32),
    /// Anybody's, copied by read(2) every 5 s: a wrong owner can then lie, but not crash this process by shortening the
    /// file. For a path that only the agent can write to, in a directory this process cannot judge.
    AnyByCopy,
}

/// A reader of one map.
pub struct MapReader {
    path: PathBuf,
    domain: TrustDomainHash,
    owner: MapOwner,
    /// Stored to only by who holds `left`.
    opened: ArcSwap<Opened>,
    /// What was held before.
    left: Mutex<Left>,
    /// Time of the last look for a newer file, in milliseconds.
    looked: AtomicI64,
    /// The last look found nothing that could be taken.
    failed: AtomicBool,
}

struct Opened {
    view: Arc<View>,
    /// `None`: there was no file yet, or it was let go.
    map: Option<Arc<ReadMap>>,
    /// The sequence at the last look at the file's length.
    seen: AtomicU64,
}

impl MapReader {
    /// Opens the map of `domain` at `path`. A file that is not there yet is no error: the reader answers `Stale` until
    /// the agent has made it.
    ///
    /// # Errors
    /// Refuses a map of another owner or trust domain, of a version not known, and one with a length that does not fit.
    pub fn open(path: &Path, domain: &TrustDomain, owner: MapOwner) -> Result<Self, RevocationError> {
        let domain = TrustDomainHash::of(domain);
        let opened = match open(path, domain, owner) {
            Err(RevocationError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Opened::none(),
            opened => opened?,
        };
        Ok(Self {
            path: path.to_owned(),
            domain,
            owner,
            opened: ArcSwap::from_pointee(opened),
            left: Mutex::default(),
            looked: AtomicI64::new(i64::MIN),
            failed: AtomicBool::new(false),
        })
    }

    /// The answer for one certificate at `now`; see [`View::check`].
    pub fn check(&self, query: &Query<'_>, now: UnixTime) -> Verdict {
        let opened = self.opened.load();
        if opened.is_live(now) {
            return opened.view.check(query, now);
        }
        drop(opened);
        self.follow(now);
        self.opened.load().view.check(query, now)
    }

    /// The view as it is at `now`; it stays in step with the map until the writer makes a new file.
    pub fn view(&self, now: UnixTime) -> Arc<View> {
        self.follow(now);
        Arc::clone(&self.opened.load().view)
    }

    /// The view that was last moved to.
    pub(crate) fn held(&self) -> Arc<View> {
        Arc::clone(&self.opened.load().view)
    }

    /// Time of the last heartbeat; `None` when there is no filter yet.
    pub fn last_update(&self, now: UnixTime) -> Option<UnixTime> {
        self.view(now).last_heartbeat()
    }

    /// Looks whether somebody shortened the mapped file, which its owner must never do: then it is let go before anybody here
    /// reads beyond its end, and answers are `Stale` until a whole one stands there. One call of fstat(2), for whoever looks
    /// at the map in steady intervals anyway; the reader itself looks only where it looks for a newer file, which no question
    /// to a live map does. Between two looks such a read still raises SIGBUS: who cannot rely on the owner copies the map
    /// ([`MapOwner::AnyByCopy`]).
    pub fn let_go_if_cut(&self) -> bool {
        let opened = self.opened.load();
        let is_cut = opened.map.as_ref().is_some_and(|map| map.is_cut());
        if is_cut {
            let mut left = self.left();
            // Another thread may have let it go, or moved on, meanwhile.
            if Arc::ptr_eq(&opened, &self.opened.load()) {
                // The header may be gone; what was read of it before is not.
                let sequence = opened.seen.load(Ordering::Relaxed).max(opened.view.sequence());
                left.add(Lineage::of(&opened.view, (opened.view.epoch(), sequence)));
                self.opened.store(Arc::new(Opened::none()));
            }
            self.failed.store(true, Ordering::Relaxed);
        } else {
            opened.seen.store(opened.position().1, Ordering::Relaxed);
        }
        is_cut
    }

    /// Ledger index of the last revocation in the map; 0 when there is none.
    pub fn sequence(&self) -> u64 {
        self.opened.load().position().1
    }

    /// Counts every publication in the file; a higher number means that something was added.
    pub fn generation(&self) -> u64 {
        self.opened.load().number(layout::GENERATION)
    }

    /// Moves to a newer file when this one is done with, or old enough that there may be one. What cannot be read
    /// leaves the last good map in place, which grows old.
    fn follow(&self, now: UnixTime) {
        let opened = self.opened.load();
        if opened.is_live(now) {
            return;
        }
        // The mark of a newer file is followed at once: the file stands, and revocations are in it alone. Otherwise
        // looking is a guess, and so is looking again after a failure.
        let superseded = opened.number(layout::STATE) == layout::SUPERSEDED;
        let certain = superseded && !self.failed.load(Ordering::Relaxed);
        if !certain && !self.may_look(now) {
            return;
        }
        drop(opened);
        self.let_go_if_cut();
        let opened = self.opened.load();
        let current = opened
            .map
            .as_ref()
            .is_some_and(|map| map.is_mapped() && map.is_current(&self.path));
        if current {
            return;
        }
        drop(opened);
        let newer = open(&self.path, self.domain, self.owner).ok();
        let taken = newer.is_some_and(|newer| self.take(newer));
        self.failed.store(!taken, Ordering::Relaxed);
    }

    /// Takes `newer` in the place of what is held, unless that would take something back.
    fn take(&self, newer: Opened) -> bool {
        let mut left = self.left();
        let held = self.opened.load();
        let taken = left.moves(held.lineage(), &newer.lineage());
        if taken {
            self.opened.store(Arc::new(newer));
        }
        taken
    }

    fn left(&self) -> MutexGuard<'_, Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True for one caller in [`MAP_LOOK_EVERY`].
    fn may_look(&self, now: UnixTime) -> bool {
        let looked = self.looked.load(Ordering::Relaxed);
        let apart = now.millis().abs_diff(looked);
        apart >= MAP_LOOK_EVERY.as_millis() as u64
            && self
                .looked
                .compare_exchange(looked, now.millis(), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

impl Opened {
    fn none() -> Self {
        Self {
            view: Arc::new(View::none()),
            map: None,
            seen: AtomicU64::new(0),
        }
    }

    fn number(&self, at: usize) -> u64 {
        self.map.as_ref().map_or(0, |map| layout::number(map, at))
    }

    fn position(&self) -> (u64, u64) {
        (self.number(layout::EPOCH), self.number(layout::SEQUENCE))
    }

    fn lineage(&self) -> Lineage {
        Lineage::of(&self.view, self.position())
    }

    /// True while there is no reason to look for another file.
    #[inline]
    fn is_live(&self, now: UnixTime) -> bool {
        let Some(map) = &self.map else { return false };
        let patience: Duration = if map.is_mapped() {
            MAP_LOOK_AFTER
        } else {
            MAP_COPY_EVERY
        };
        layout::number(map, layout::STATE) == layout::LIVE && self.view.age(now).is_some_and(|age| age < patience)
    }
}

fn open(path: &Path, domain: TrustDomainHash, owner: MapOwner) -> Result<Opened, RevocationError> {
    let trusted = match owner {
        MapOwner::RootOrSelf => TrustedOwner::RootOrSelf,
        MapOwner::Uid(uid) => TrustedOwner::Uid(uid),
        MapOwner::AnyByCopy => TrustedOwner::Nobody,
    };
    let map = ReadMap::open(path, trusted, MAP_BYTES_MAX).map_err(|error| RevocationError::Io {
        what: format!("{}: cannot open the map", path.display()),
        source: io::Error::new(error.io_kind(), error),
    })?;
    if owner != MapOwner::AnyByCopy && !map.is_mapped() {
        return Err(RevocationError::NotTrusted {
            path: path.display().to_string(),
        });
    }
    let map = Arc::new(map);
    let view = Arc::new(layout::read(&map, domain)?);
    let seen = AtomicU64::new(view.sequence());
    let map = Some(map);
    Ok(Opened { view, map, seen })
}

impl std::fmt::Debug for MapReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MapReader")
            .field("path", &self.path)
            .field("sequence", &self.sequence())
            .finish_non_exhaustive()
    }
}
