//! Drives everything that follows the log: a thread that reads what was appended and hands it to sinks in order.
//!
//! Followers see the journal only, never the path a record took to it, so a record of another replica is nothing new.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use tokio::{
    runtime::{Builder, Runtime},
    sync::{Notify, watch},
    time::timeout,
};

use crate::{
    LedgerError,
    journal::{Journal, Stored},
    limits::GROUP_RECORDS_MAX,
};

/// First wait after an error that may pass, such as a full disk; doubled up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Longest wait without a look at the journal: a change is noticed by the watch, this guards against a lost one.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Something that is derived from the log.
pub trait Sink: Send {
    /// What it is, for messages.
    fn name(&self) -> &'static str;

    /// Index of the first record it has not applied.
    fn next(&self) -> u64;

    /// Applies records in order; the first has index `first`, which is [`Sink::next`]. After an error it is asked again
    /// from its new `next`.
    ///
    /// # Errors
    /// `NoSpace` and `Io` are tried again after a while; any other error ends the follower.
    fn apply(&mut self, first: u64, records: &[Stored]) -> Result<(), LedgerError>;

    /// Called when all records are applied. Returns when it wants to be called again if nothing comes before.
    ///
    /// # Errors
    /// As [`Sink::apply`].
    fn caught_up(&mut self) -> Result<Option<Duration>, LedgerError> {
        Ok(None)
    }

    /// Called once at a clean stop, after all records were applied.
    ///
    /// # Errors
    /// As [`Sink::apply`]; the error is logged.
    fn finish(&mut self) -> Result<(), LedgerError> {
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Status {
    applied: AtomicU64,
    stopping: AtomicBool,
    stop: Notify,
    trouble: Mutex<Option<String>>,
}

impl Status {
    fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

/// A thread with its sinks. Dropping it stops the thread after what is durable now is applied.
#[derive(Debug)]
pub struct Follower {
    status: Arc<Status>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// Starts a thread called `name` that drives `sinks`. After each round it rests for `pace`: zero for sinks that
    /// somebody waits for, a few milliseconds for those that are cheaper in larger rounds.
    ///
    /// # Errors
    /// Fails when the system gives no thread.
    pub fn start(
        name: &'static str,
        journal: Arc<dyn Journal>,
        sinks: Vec<Box<dyn Sink>>,
        pace: Duration,
    ) -> Result<Self, LedgerError> {
        let no_thread = |error| LedgerError::io("start a thread for", name)(error);
        let runtime = Builder::new_current_thread().enable_time().build().map_err(no_thread)?;
        let status = Arc::new(Status::default());
        let mut run = Run {
            changed: journal.watch(),
            journal,
            sinks,
            pace,
            status: Arc::clone(&status),
            runtime,
        };
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || run.run())
            .map_err(no_thread)?;
        Ok(Self {
            status,
            thread: Some(thread),
        })
    }

    /// Records that every sink has applied.
    pub fn applied(&self) -> u64 {
        self.status.applied.load(Ordering::Acquire)
    }

    /// What keeps the sinks from following, when something does. A follower in trouble is a reason to be not ready.
    pub fn trouble(&self) -> Option<String> {
        self.status
            .trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Applies what is durable now, finishes the sinks and ends the thread.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.status.stopping.store(true, Ordering::Release);
        self.status.stop.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a follower's thread panicked");
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.end();
    }
}

struct Run {
    journal: Arc<dyn Journal>,
    sinks: Vec<Box<dyn Sink>>,
    pace: Duration,
    changed: watch::Receiver<u64>,
    status: Arc<Status>,
    runtime: Runtime,
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.sinks.iter().map(|sink| sink.name()))
            .finish()
    }
}

/// Reports a follower whose thread ends by a panic of a sink.
struct EndsInTrouble<'a>(&'a Status);

impl Drop for EndsInTrouble<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.set_trouble(Some("the follower's thread panicked".into()));
        }
    }
}

impl Run {
    fn run(&mut self) {
        let status = Arc::clone(&self.status);
        let _ends = EndsInTrouble(&status);
        let mut retry = RETRY_MIN;
        loop {
            // Seen before reading, so that what comes during the round ends the next wait at once.
            self.changed.borrow_and_update();
            let stopping = status.stopping.load(Ordering::Acquire);
            let wait = match self.round() {
                Ok(wait) => {
                    status.set_trouble(None);
                    retry = RETRY_MIN;
                    if stopping {
                        self.finish();
                        return;
                    }
                    wait
                }
                Err((sink, error)) => {
                    status.set_trouble(Some(format!("{sink}: {error}")));
                    let passes = matches!(error, LedgerError::NoSpace | LedgerError::Io { .. });
                    if stopping || !passes {
                        tracing::error!(%error, sink, "a follower of the ledger has stopped");
                        return;
                    }
                    tracing::warn!(%error, sink, "a follower of the ledger will try again");
                    retry = (retry * 2).min(RETRY_MAX);
                    self.rest(retry);
                    continue;
                }
            };
            self.wait(wait.unwrap_or(IDLE_MAX).min(IDLE_MAX));
            if !self.pace.is_zero() {
                self.rest(self.pace);
            }
        }
    }

    /// Applies all there is; returns when a sink wants to be called again.
    fn round(&mut self) -> Result<Option<Duration>, (&'static str, LedgerError)> {
        loop {
            let next = self.sinks.iter().map(|sink| sink.next()).min().unwrap_or(u64::MAX);
            let records = self
                .journal
                .read_from(next, GROUP_RECORDS_MAX)
                .map_err(|error| ("journal", error))?;
            if records.is_empty() {
                break;
            }
            for sink in &mut self.sinks {
                // A sink that begins further on takes its part only.
                let skip = usize::try_from(sink.next().saturating_sub(next)).unwrap_or(usize::MAX);
                if let Some(part) = records.get(skip..).filter(|part| !part.is_empty()) {
                    sink.apply(next + skip as u64, part)
                        .map_err(|error| (sink.name(), error))?;
                }
            }
            let applied = self.sinks.iter().map(|sink| sink.next()).min().unwrap_or_default();
            self.status.applied.store(applied, Ordering::Release);
        }
        let mut soonest: Option<Duration> = None;
        for sink in &mut self.sinks {
            let wish = sink.caught_up().map_err(|error| (sink.name(), error))?;
            soonest = match (soonest, wish) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
        }
        Ok(soonest)
    }

    fn finish(&mut self) {
        for sink in &mut self.sinks {
            if let Err(error) = sink.finish() {
                tracing::error!(%error, sink = sink.name(), "a follower of the ledger could not finish");
            }
        }
    }

    /// Waits for a change, the stop or the time.
    fn wait(&mut self, longest: Duration) {
        let (changed, status) = (&mut self.changed, &self.status);
        self.runtime.block_on(async {
            let _ = timeout(longest, async {
                tokio::select! {
                    // The journal is gone only together with this follower's own handle.
                    _ = changed.changed() => {}
                    () = status.stop.notified() => {}
                }
            })
            .await;
        });
    }

    /// Waits for the stop or the time.
    fn rest(&mut self, time: Duration) {
        let status = &self.status;
        if !status.stopping.load(Ordering::Acquire) {
            self.runtime.block_on(async {
                let _ = timeout(time, status.stop.notified()).await;
            });
        }
    }
}
