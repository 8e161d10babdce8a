//! The state: follows the ledger, publishes a view after each step, keeps the view on disk.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mintage_identity::{TrustDomain, UnixTime};
use mintage_ledger::{Follower, Journal};
use tokio::sync::watch;

use crate::error::StateError;
use crate::follower::{Shared, ViewSink};
use crate::limits::{FLUSH_OBJECTS, READ_RECORDS, SNAPSHOT_WAIT};
use crate::rebuild::{Rebuilt, rebuild};
use crate::snapshot;
use crate::store::{Found, Mark, Store};
use crate::view::View;
use crate::watermark::{self, Seen};
use crate::writer::Writer;

/// The view of a ledger, kept up to date by a thread of its own.
///
/// Whatever is asked for is read from [`State::view`], which never waits. Whoever appended a record and wants to answer
/// waits with [`State::wait_applied`] until the view includes it.
pub struct State {
    dir: PathBuf,
    shared: Arc<Shared>,
    /// None only while it is dropped.
    follower: Option<Follower>,
    /// Held for as long as the state is open.
    _lock: Lock,
}

impl State {
    /// Number of records of the ledger that the state in `dir` has ever seen; 0 when there is none. The ledger is opened
    /// with it, so that one that was rolled back is refused before anything is read.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn seen(dir: &Path) -> Result<u64, StateError> {
        Ok(Self::last_seen(dir)?.map_or(0, |(index, _)| index + 1))
    }

    /// The last record that the state in `dir` has ever seen: its index and its leaf hash. None when there is none.
    ///
    /// # Errors
    /// As [`State::seen`].
    pub fn last_seen(dir: &Path) -> Result<Option<(u64, [u8; 32])>, StateError> {
        Ok(match watermark::read(dir)? {
            Seen::Mark(mark) => mark.applied.checked_sub(1).map(|index| (index, mark.leaf)),
            Seen::Nothing | Seen::Damaged => None,
        })
    }

    /// Opens the state kept in `dir` (made when it is not there), checks it against the ledger, applies what it has not
    /// seen, and follows from there. Blocks while it reads; a rebuild reads the whole ledger.
    ///
    /// # Errors
    /// A state that has seen more of the ledger than there is, or another ledger; a folder that is not safely ours or is
    /// open elsewhere; a ledger that cannot be read.
    pub fn open(dir: &Path, domain: &TrustDomain, journal: Arc<dyn Journal>) -> Result<Self, StateError> {
        ensure_dir(dir)?;
        let lock = lock(dir)?;
        match watermark::read(dir)? {
            Seen::Mark(mark) => check_against(dir, mark, &*journal)?,
            Seen::Nothing => {}
            Seen::Damaged => {
                tracing::warn!(dir = %dir.display(), "the state's watermark is damaged and is written anew")
            }
        }
        let (mut store, found) = Store::open(dir, domain)?;
        let (view, mark) = match found {
            Found::Whole(view, mark) if mark.applied >= journal.first() => {
                check_against(dir, mark, &*journal)?;
                (*view, mark)
            }
            Found::Whole(_, mark) => {
                tracing::warn!(
                    applied = mark.applied,
                    first = journal.first(),
                    "the state is older than what the ledger keeps, and is built again"
                );
                store.clear()?;
                build(domain, &store, &*journal)?
            }
            Found::Nothing(why) => {
                tracing::warn!(dir = %dir.display(), why, "the state is built from the whole ledger");
                build(domain, &store, &*journal)?
            }
        };
        let (view, mark) = catch_up(dir, (view, mark), &mut store, &*journal)?;
        let shared = Arc::new(Shared {
            views: watch::Sender::new(Arc::new(view.clone())),
            stopped: watch::Sender::new(None),
            prune: Mutex::new(None),
            writer: Writer::start(dir.to_path_buf(), store, mark)?,
        });
        let sink = Box::new(ViewSink::new(view, Arc::clone(&shared)));
        // No pace: every reply to a command waits for this sink.
        let follower = Follower::start("state-follower", journal, vec![sink], Duration::ZERO)?;
        Ok(Self {
            dir: dir.to_path_buf(),
            shared,
            follower: Some(follower),
            _lock: lock,
        })
    }

    /// The newest view.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.shared.views.borrow())
    }

    /// Follows the views. A slow receiver misses none for good: it compares the view it knew with the newest one.
    pub fn subscribe(&self) -> watch::Receiver<Arc<View>> {
        self.shared.views.subscribe()
    }

    /// Waits until the record at `index` is applied, and gives a view that includes it. [`View::ignored`] tells whether
    /// the record changed anything.
    ///
    /// # Errors
    /// [`StateError::Stopped`] when the state follows the ledger no longer.
    pub async fn wait_applied(&self, index: u64) -> Result<Arc<View>, StateError> {
        let mut views = self.shared.views.subscribe();
        let mut stopped = self.shared.stopped.subscribe();
        tokio::select! {
            biased;
            view = views.wait_for(|view| view.applied() > index) => {
                view.map(|view| Arc::clone(&view)).map_err(|_| StateError::Stopped)
            }
            _ = stopped.wait_for(Option::is_some) => Err(StateError::Stopped),
        }
    }

    /// Everything that stands after the first `position` records, which must all be durable in the ledger and none after them:
    /// what [`View::from_snapshot`] reads. Blocks until the state has applied and written them, for a limited time.
    ///
    /// `at` is the time of the last of these records, so that every replica leaves out the same: revocations of what had ended
    /// by then, and long enough before.
    ///
    /// # Errors
    /// The state does not get there in time, is beyond it, or its store has failed.
    pub fn snapshot(&self, position: u64, at: UnixTime) -> Result<Vec<u8>, StateError> {
        let reach = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            let runtime = runtime.map_err(StateError::io("start a runtime for", "a snapshot"))?;
            Ok::<_, StateError>(runtime.block_on(async {
                let last = position.saturating_sub(1);
                tokio::time::timeout(SNAPSHOT_WAIT, self.wait_applied(last)).await
            }))
        };
        // On a thread of its own: the caller's may belong to a runtime, in which nothing may block.
        let reached = std::thread::scope(|scope| scope.spawn(reach).join());
        let reached = reached.map_err(|_| StateError::NoSnapshot("waiting for the state panicked".into()))??;
        let view = reached.map_err(|_| StateError::NoSnapshot("the state lags behind the ledger".into()))??;
        if view.applied() != position {
            return Err(StateError::NoSnapshot(format!(
                "{} records are applied, not {position}",
                view.applied()
            )));
        }
        let bytes = self.shared.writer.snapshot(at)?;
        // Read back before anything relies on it; its own digest was made from the view's.
        let read = View::from_snapshot(view.domain(), &bytes)?;
        let is_same = read.applied() == view.applied()
            && read.revoked().sequence() == view.revoked().sequence()
            && read.revoked().hash() == view.revoked().hash();
        match is_same {
            true => Ok(bytes),
            false => Err(StateError::NoSnapshot(
                "the store holds another state than the view".into(),
            )),
        }
    }

    /// Drops from the revoked set what is dead at `now`, within a minute. It is not part of the ledger: each replica does
    /// it when it likes, and no answer about a living certificate changes.
    pub fn prune(&self, now: UnixTime) {
        *self.shared.prune.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// Number of records whose effect is durable on disk.
    pub fn durable(&self) -> u64 {
        self.shared.writer.durable()
    }

    /// Why the state follows the ledger no longer, or cannot at the moment; then nothing must be decided on its view.
    pub fn trouble(&self) -> Option<String> {
        let stopped = self.shared.stopped.borrow().clone();
        stopped.or_else(|| self.follower.as_ref().and_then(Follower::trouble))
    }

    /// What writing the store failed with last. The view in memory and the ledger are not affected.
    pub fn store_problem(&self) -> Option<String> {
        self.shared.writer.problem()
    }

    /// The folder it is kept in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Applies what is durable, writes what waits and ends. The same happens when the state is dropped.
    pub fn close(self) {}
}

impl Drop for State {
    fn drop(&mut self) {
        // First the source, then the writer, so that the last view is the one that is written.
        drop(self.follower.take());
        self.shared.writer.stop();
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let applied = self.view().applied();
        f.debug_struct("State")
            .field("dir", &self.dir)
            .field("applied", &applied)
            .finish_non_exhaustive()
    }
}

/// Holds what the state has seen of a ledger against the ledger that is there.
fn check_against(dir: &Path, mark: Mark, journal: &dyn Journal) -> Result<(), StateError> {
    let (applied, ledger) = (mark.applied, journal.size());
    if applied > ledger {
        return Err(StateError::Ahead {
            dir: dir.to_path_buf(),
            applied,
            ledger,
        });
    }
    let Some(index) = applied.checked_sub(1) else {
        return Ok(());
    };
    // Records that were given up can be compared no more; what stands for them is checked where it is read.
    if index < journal.first() {
        return Ok(());
    }
    match journal.read_from(index, 1)?.first() {
        Some(stored) if stored.index() == index && *stored.leaf_hash().as_bytes() == mark.leaf => Ok(()),
        _ => Err(StateError::OtherLedger {
            dir: dir.to_path_buf(),
            index,
        }),
    }
}

/// Makes the view of the whole ledger and writes it. The store's mark is that of the whole view from the first batch on: what a
/// crash leaves half written has another sum, and is built again.
fn build(domain: &TrustDomain, store: &Store, journal: &dyn Journal) -> Result<(View, Mark), StateError> {
    if let Some(bytes) = journal.snapshot()? {
        return restore(domain, store, &bytes);
    }
    let Rebuilt { view, writes, leaf } = rebuild(domain, journal)?;
    for batch in writes.chunks(FLUSH_OBJECTS) {
        store.write(batch.iter().map(|(key, value)| (key, value)), &view, leaf)?;
    }
    if writes.is_empty() && view.applied() > 0 {
        store.write(std::iter::empty(), &view, leaf)?;
    }
    let mark = Mark {
        applied: view.applied(),
        leaf,
    };
    Ok((view, mark))
}

/// Takes up what the ledger keeps in place of older records; what follows is applied by catching up.
fn restore(domain: &TrustDomain, store: &Store, bytes: &[u8]) -> Result<(View, Mark), StateError> {
    let (view, objects) = snapshot::decode(domain, bytes)?;
    // The hash of the last record before it is known to nobody here; it is not compared either.
    let mark = Mark {
        applied: view.applied(),
        leaf: [0; 32],
    };
    for batch in objects.chunks(FLUSH_OBJECTS) {
        store.put(batch, &view, mark.leaf)?;
    }
    Ok((view, mark))
}

/// Applies what the view has not seen, writing the store as it goes, and makes the result durable.
fn catch_up(
    dir: &Path,
    (mut view, mut mark): (View, Mark),
    store: &mut Store,
    journal: &dyn Journal,
) -> Result<(View, Mark), StateError> {
    let before = mark.applied;
    while view.applied() < journal.size() {
        let records = journal.read_from(view.applied(), READ_RECORDS)?;
        let Some(last) = records.last() else { break };
        let mut writes = BTreeMap::new();
        for stored in &records {
            writes.extend(view.follow(stored)?);
        }
        mark = Mark {
            applied: view.applied(),
            leaf: *last.leaf_hash().as_bytes(),
        };
        store.write(&writes, &view, mark.leaf)?;
    }
    if mark.applied > before {
        tracing::info!(
            from = before,
            to = mark.applied,
            "the state has caught up with the ledger"
        );
    }
    if mark.applied > 0 {
        store.flush()?;
        watermark::write(dir, mark)?;
    }
    Ok((view, mark))
}

fn ensure_dir(dir: &Path) -> Result<(), StateError> {
    let found = match fs::symlink_metadata(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return fs::DirBuilder::new()
                .mode(0o700)
                .create(dir)
                .map_err(StateError::io("make", dir));
        }
        found => found.map_err(StateError::io("read", dir))?,
    };
    let us = rustix::process::geteuid().as_raw();
    let problem = if !found.is_dir() {
        "is no directory; name the state's own folder".to_owned()
    } else if found.uid() != us {
        format!(
            "belongs to uid {}, this program runs as {us}; chown it or run as its owner",
            found.uid()
        )
    } else if found.mode() & 0o022 != 0 {
        "can be written by others; chmod it to 0700".to_owned()
    } else {
        return Ok(());
    };
    Err(StateError::Unsafe {
        path: dir.to_path_buf(),
        problem,
    })
}

/// Takes the lock of a state's folder.
fn lock(dir: &Path) -> Result<Lock, StateError> {
    let path = dir.join("lock");
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(&path)
        .map_err(StateError::io("open", &path))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| StateError::Locked(dir.to_path_buf()))?;
    Ok(Lock(file))
}

/// The locked file.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // By word and not only by closing: a child process that is just being started holds a copy of the descriptor for a
        // moment, and would hold the lock with it. A failure changes nothing: closing unlocks as well.
        let _ = rustix::fs::flock(&self.0, rustix::fs::FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_given_back_is_free_though_a_copy_of_its_descriptor_is_open() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock(folder.path()).unwrap();
        // As a child process has it between its fork and its exec.
        let _copy = held.0.try_clone().unwrap();
        assert!(matches!(lock(folder.path()), Err(StateError::Locked(_))));
        drop(held);
        drop(lock(folder.path()).unwrap());
    }
}
