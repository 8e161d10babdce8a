//! The one thread that writes the store. It takes whatever changed since the last time, off every request's path; what a
//! crash loses of it is replayed from the ledger.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use mintage_identity::UnixTime;

use crate::apply::Writes;
use crate::error::StateError;
use crate::key::Key;
use crate::limits::{FLUSH_EVERY, FLUSH_MARK_EVERY, FLUSH_OBJECTS, PENDING_OBJECTS_MAX, SNAPSHOT_WAIT};
use crate::snapshot;
use crate::store::{Mark, Store};
use crate::view::View;
use crate::watermark;

/// Who waits for a snapshot, and when what it leaves out has to have been dead.
struct Waiting {
    at: UnixTime,
    sender: SyncSender<Result<Vec<u8>, StateError>>,
}

/// What waits to be written.
#[derive(Default)]
struct Pending {
    writes: BTreeMap<Key, Option<Vec<u8>>>,
    /// The view the writes lead to, with the hash of its last record.
    target: Option<(Arc<View>, [u8; 32])>,
    stop: bool,
    /// Set when the store failed and too much waited for it.
    given_up: bool,
    problem: Option<String>,
    durable: u64,
    /// Who waits for everything that stands, once nothing waits to be written.
    wants_snapshot: Option<Waiting>,
}

/// The thread and what it shares.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    pending: Mutex<Pending>,
    wake: Condvar,
}

impl Shared {
    /// A panic while the lock was held leaves whole values behind, so that they may be used.
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    /// Starts the thread on a store that is durable up to `mark`.
    pub(crate) fn start(dir: PathBuf, store: Store, mark: Mark) -> Result<Self, StateError> {
        let pending = Pending {
            durable: mark.applied,
            ..Pending::default()
        };
        let shared = Arc::new(Shared {
            pending: Mutex::new(pending),
            wake: Condvar::new(),
        });
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("state-writer".into())
            .spawn(move || run(&theirs, &dir, store))
            .map_err(StateError::io("start a thread for", "the state's store"))?;
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Hands over what changed on the way to `view`, whose last record has the hash `leaf`. Never waits for the disk.
    pub(crate) fn hand_over(&self, writes: Writes, view: Arc<View>, leaf: [u8; 32]) {
        let mut pending = self.shared.pending();
        if pending.given_up {
            return;
        }
        pending.writes.extend(writes);
        pending.target = Some((view, leaf));
        if pending.writes.len() > PENDING_OBJECTS_MAX {
            tracing::error!("the state's store is given up until the next start; the ledger is not affected");
            *pending = Pending {
                given_up: true,
                stop: pending.stop,
                problem: Some("given up until the next start, after it had failed for too long".into()),
                durable: pending.durable,
                ..Pending::default()
            };
        } else if pending.writes.len() >= FLUSH_OBJECTS {
            self.shared.wake.notify_one();
        }
    }

    /// Writes what waits, and encodes everything that stands then. Waits for the disk, for a limited time.
    pub(crate) fn snapshot(&self, at: UnixTime) -> Result<Vec<u8>, StateError> {
        let (sender, receiver) = sync_channel(1);
        {
            let mut pending = self.shared.pending();
            if pending.given_up || pending.stop {
                return Err(StateError::NoSnapshot("the store is closed or given up".into()));
            }
            pending.wants_snapshot = Some(Waiting { at, sender });
        }
        self.shared.wake.notify_one();
        match receiver.recv_timeout(SNAPSHOT_WAIT) {
            Ok(snapshot) => snapshot,
            Err(RecvTimeoutError::Timeout) => Err(StateError::NoSnapshot(format!("it took over {SNAPSHOT_WAIT:?}"))),
            Err(RecvTimeoutError::Disconnected) => Err(StateError::NoSnapshot("the store was given up".into())),
        }
    }

    /// Number of records whose effect is durable in the store.
    pub(crate) fn durable(&self) -> u64 {
        self.shared.pending().durable
    }

    /// What the store failed with last, while it has not succeeded since.
    pub(crate) fn problem(&self) -> Option<String> {
        self.shared.pending().problem.clone()
    }

    /// Writes what waits and ends the thread.
    pub(crate) fn stop(&self) {
        self.shared.pending().stop = true;
        self.shared.wake.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the state's writer panicked; its store is checked at the next start");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Tells whoever asks that the store is written no more, when its thread panics.
struct TellsOfPanic<'a>(&'a Shared);

impl Drop for TellsOfPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let mut pending = self.0.pending();
            *pending = Pending {
                given_up: true,
                stop: pending.stop,
                problem: Some("given up until the next start, after its writer had panicked".into()),
                durable: pending.durable,
                ..Pending::default()
            };
        }
    }
}

fn run(shared: &Shared, dir: &std::path::Path, mut store: Store) {
    let _tells = TellsOfPanic(shared);
    let mut last = Instant::now();
    // The view that the store holds, once this thread has written one.
    let mut written: Option<Arc<View>> = None;
    loop {
        let Taken {
            writes,
            target,
            stop,
            wants_snapshot,
        } = next(shared, last);
        last = Instant::now();
        if let Some((view, leaf)) = target {
            match persist(dir, &mut store, &writes, &view, leaf) {
                Ok(()) => {
                    written = Some(view.clone());
                    let mut pending = shared.pending();
                    pending.durable = view.applied();
                    if !pending.given_up {
                        pending.problem = None;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the state's store could not be written; it is tried again");
                    give_back(shared, writes, (view, leaf), &error);
                }
            }
        }
        if let Some(waiting) = wants_snapshot {
            // Who waited too long does not want it any more.
            let problem = shared.pending().problem.clone();
            let _ = waiting
                .sender
                .send(encode(&store, written.as_deref(), problem, waiting.at));
        }
        if stop {
            return;
        }
    }
}

/// Everything that stands, out of a store that holds just this view.
fn encode(store: &Store, view: Option<&View>, problem: Option<String>, at: UnixTime) -> Result<Vec<u8>, StateError> {
    match (view, problem) {
        (Some(view), None) => Ok(snapshot::encode(view, store.objects()?, at)),
        (_, Some(problem)) => Err(StateError::NoSnapshot(problem)),
        (None, None) => Err(StateError::NoSnapshot("nothing was recorded since the start".into())),
    }
}

struct Taken {
    writes: BTreeMap<Key, Option<Vec<u8>>>,
    target: Option<(Arc<View>, [u8; 32])>,
    stop: bool,
    wants_snapshot: Option<Waiting>,
}

/// Waits until it is time to write, and takes what there is.
fn next(shared: &Shared, last: Instant) -> Taken {
    let mut pending = shared.pending();
    loop {
        let due = match (pending.writes.is_empty(), &pending.target) {
            (_, None) => None,
            (true, Some(_)) => Some(FLUSH_MARK_EVERY),
            (false, Some(_)) => Some(FLUSH_EVERY),
        };
        let rest = due.map(|due| due.saturating_sub(last.elapsed()));
        let full = pending.writes.len() >= FLUSH_OBJECTS && pending.problem.is_none();
        if pending.stop || full || pending.wants_snapshot.is_some() || rest.is_some_and(|rest| rest.is_zero()) {
            return Taken {
                writes: std::mem::take(&mut pending.writes),
                target: pending.target.take(),
                stop: pending.stop,
                wants_snapshot: pending.wants_snapshot.take(),
            };
        }
        let wait = rest.unwrap_or(FLUSH_EVERY);
        let waited = shared.wake.wait_timeout(pending, wait);
        pending = waited.unwrap_or_else(PoisonError::into_inner).0;
    }
}

fn persist(
    dir: &std::path::Path,
    store: &mut Store,
    writes: &BTreeMap<Key, Option<Vec<u8>>>,
    view: &View,
    leaf: [u8; 32],
) -> Result<(), StateError> {
    store.write(writes, view, leaf)?;
    store.flush()?;
    watermark::write(
        dir,
        Mark {
            applied: view.applied(),
            leaf,
        },
    )
}

/// Puts what could not be written back behind what came since.
fn give_back(
    shared: &Shared,
    writes: BTreeMap<Key, Option<Vec<u8>>>,
    target: (Arc<View>, [u8; 32]),
    error: &StateError,
) {
    let mut pending = shared.pending();
    // Given up while this round ran: nothing is kept any more, and that is the problem to tell.
    if pending.given_up {
        return;
    }
    pending.problem = Some(error.to_string());
    for (key, value) in writes {
        pending.writes.entry(key).or_insert(value);
    }
    pending.target.get_or_insert(target);
}

#[cfg(test)]
mod tests {
    use mintage_identity::TrustDomain;

    use super::*;
    use crate::store::Found;

    #[test]
    fn a_round_that_ends_after_the_store_was_given_up_changes_nothing() {
        let given_up = Pending {
            given_up: true,
            problem: Some("given up".into()),
            ..Pending::default()
        };
        let shared = Shared {
            pending: Mutex::new(given_up),
            wake: Condvar::new(),
        };
        let view = Arc::new(View::new(&TrustDomain::parse("dev.test").unwrap()));
        let writes = BTreeMap::from([(Key::Bundle, None)]);
        give_back(&shared, writes, (view, [0; 32]), &StateError::Stopped);
        let pending = shared.pending();
        assert!(pending.writes.is_empty() && pending.target.is_none());
        assert_eq!(pending.problem.as_deref(), Some("given up"));
    }

    #[test]
    fn a_writer_that_panics_is_told_and_nothing_piles_up_for_it() {
        let shared = Arc::new(Shared {
            pending: Mutex::default(),
            wake: Condvar::new(),
        });
        shared.pending().durable = 7;
        let theirs = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let _tells = TellsOfPanic(&theirs);
            panic!("a store that panics");
        });
        assert!(thread.join().is_err());
        let pending = shared.pending();
        assert!(pending.given_up && pending.durable == 7);
        assert!(pending.problem.as_ref().is_some_and(|why| why.contains("panicked")));
    }

    #[test]
    fn a_store_that_fails_for_long_is_given_up_and_memory_stays_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let domain = TrustDomain::parse("dev.test").unwrap();
        let (store, found) = Store::open(dir.path(), &domain).unwrap();
        assert!(matches!(found, Found::Nothing(_)));
        // A folder where the new watermark goes: every round fails after the store's own write.
        std::fs::create_dir(dir.path().join("watermark.new")).unwrap();
        let writer = Writer::start(dir.path().to_path_buf(), store, Mark::default()).unwrap();
        let view = Arc::new(View::new(&domain));
        let mut index = 0;
        while !writer.shared.pending().given_up {
            assert!(index < 4 * PENDING_OBJECTS_MAX as u64, "never given up");
            let writes = (index..index + 10_000)
                .map(|index| (Key::Fold(index), Some(vec![1])))
                .collect();
            index += 10_000;
            writer.hand_over(writes, Arc::clone(&view), [0; 32]);
            assert!(writer.shared.pending().writes.len() <= PENDING_OBJECTS_MAX);
        }
        writer.hand_over(vec![(Key::Bundle, None)], view, [0; 32]);
        assert!(writer.shared.pending().writes.is_empty());
        assert!(writer.problem().is_some_and(|why| why.contains("given up")));
        assert_eq!(writer.durable(), 0);
        writer.stop();
    }
}
