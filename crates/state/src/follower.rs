//! The thread that follows the journal: it reads what is new, applies it, and publishes the view.
//!
//! It knows the journal alone and never the commands that were appended, so that records of another replica are nothing
//! special.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use mintage_identity::UnixTime;
use mintage_ledger::{Journal, Stored};
use tokio::sync::{Notify, watch};

use crate::apply::Writes;
use crate::error::StateError;
use crate::limits::{READ_PAUSE, READ_RECORDS, READ_TRIES};
use crate::view::View;
use crate::writer::Writer;

/// The thread and how to reach it.
pub(crate) struct Follower {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    wake: Notify,
    asked: Mutex<Asked>,
    /// Why the thread has ended.
    stopped: watch::Sender<Option<String>>,
}

#[derive(Default)]
struct Asked {
    prune: Option<UnixTime>,
    stop: bool,
}

struct Loop {
    journal: Arc<dyn Journal>,
    view: View,
    views: Arc<watch::Sender<Arc<View>>>,
    writer: Arc<Writer>,
    shared: Arc<Shared>,
}

/// Starts following `journal` from where `view` is.
pub(crate) fn start(
    journal: Arc<dyn Journal>,
    view: View,
    views: Arc<watch::Sender<Arc<View>>>,
    writer: Arc<Writer>,
) -> Result<Follower, StateError> {
    let failed = || StateError::io("start a thread for", "the state's follower");
    let shared = Arc::new(Shared {
        wake: Notify::new(),
        asked: Mutex::default(),
        stopped: watch::Sender::new(None),
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .map_err(failed())?;
    let mut follow = Loop {
        journal,
        view,
        views,
        writer,
        shared: Arc::clone(&shared),
    };
    let thread = thread::Builder::new()
        .name("state-follower".into())
        .spawn(move || {
            // Told even when the thread panics, so that nobody waits for ever and nobody decides on an old view.
            let _told = Told(Arc::clone(&follow.shared));
            if let Err(error) = runtime.block_on(follow.run()) {
                tracing::error!(%error, "the state follows the ledger no longer");
                follow.shared.stopped.send_replace(Some(error.to_string()));
            }
        })
        .map_err(failed())?;
    Ok(Follower {
        shared,
        thread: Some(thread),
    })
}

struct Told(Arc<Shared>);

impl Drop for Told {
    fn drop(&mut self) {
        self.0.stopped.send_if_modified(|why| {
            let silent = why.is_none();
            if silent {
                *why = Some(StateError::Stopped.to_string());
            }
            silent
        });
    }
}

impl Follower {
    /// Why the thread has ended, as it becomes known.
    pub(crate) fn stopped(&self) -> watch::Receiver<Option<String>> {
        self.shared.stopped.subscribe()
    }

    pub(crate) fn prune(&self, now: UnixTime) {
        self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner).prune = Some(now);
        self.shared.wake.notify_one();
    }

    pub(crate) fn stop(&mut self) {
        self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner).stop = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the state's follower panicked");
        }
    }
}

impl Loop {
    async fn run(&mut self) -> Result<(), StateError> {
        let mut sizes = self.journal.watch();
        loop {
            let asked = std::mem::take(&mut *self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner));
            if asked.stop {
                return Ok(());
            }
            if let Some(now) = asked.prune {
                self.view.prune(now);
                self.views.send_replace(Arc::new(self.view.clone()));
            }
            self.catch_up()?;
            tokio::select! {
                changed = sizes.changed() => changed.map_err(|_| StateError::Stopped)?,
                () = self.shared.wake.notified() => {}
            }
        }
    }

    fn catch_up(&mut self) -> Result<(), StateError> {
        while self.view.applied() < self.journal.size() {
            let records = self.read()?;
            let Some(last) = records.last() else { return Ok(()) };
            let leaf = *last.leaf_hash().as_bytes();
            let mut writes = Writes::new();
            for stored in &records {
                writes.extend(self.view.follow(stored)?);
            }
            let view = Arc::new(self.view.clone());
            self.views.send_replace(Arc::clone(&view));
            self.writer.hand_over(writes, view, leaf);
        }
        Ok(())
    }

    /// A read that fails for want of descriptors or memory may succeed a moment later; damage stays.
    fn read(&self) -> Result<Vec<Stored>, StateError> {
        let mut tries = 1;
        loop {
            match self.journal.read_from(self.view.applied(), READ_RECORDS) {
                Ok(records) => return Ok(records),
                Err(error) if tries == READ_TRIES => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(%error, tries, "the ledger could not be read; it is tried again");
                    tries += 1;
                    thread::sleep(READ_PAUSE);
                }
            }
        }
    }
}
