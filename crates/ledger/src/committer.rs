//! Group commit: one thread takes whatever waits, appends it as one group, and wakes each submission once.
//!
//! While one group is being flushed the next one gathers, so a lone caller waits for one flush. A group is kept open for
//! more only while callers have said that they queue for their turn ([`Commits::more_to_come`]): what waits then would
//! wait anyway, and a flush costs the same for one record and for hundreds. The committer decides nothing and signs
//! nothing; it is the only maker of [`Receipt`]s, and makes them only after the journal has answered.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use tokio::sync::oneshot;

use crate::{
    LedgerError,
    batch::Batch,
    journal::{AppendError, Journal},
    limits::{
        GROUP_BYTES_MAX, GROUP_RECORDS_ENOUGH, GROUP_RECORDS_MAX, GROUP_WAIT_MAX, QUEUE_BYTES_MAX, QUEUE_RECORDS_MAX,
    },
    receipt::Receipt,
    record::EncodedRecord,
};

/// How much may wait, and how much is taken at a time.
#[derive(Clone, Copy, Debug)]
pub struct CommitterLimits {
    /// Records of one group, at most 512.
    pub group_records: usize,
    /// Record bytes of one group, at most 1 MB.
    pub group_bytes: usize,
    /// Records that may wait; past it submissions are answered `Busy`.
    pub queue_records: usize,
    /// Record bytes that may wait.
    pub queue_bytes: usize,
    /// Longest time a group is kept open for what was announced.
    pub group_wait: Duration,
}

impl Default for CommitterLimits {
    fn default() -> Self {
        Self {
            group_records: GROUP_RECORDS_MAX,
            group_bytes: GROUP_BYTES_MAX,
            queue_records: QUEUE_RECORDS_MAX,
            queue_bytes: QUEUE_BYTES_MAX,
            group_wait: GROUP_WAIT_MAX,
        }
    }
}

/// Why a record was not committed. It is not in the log, except after `Poisoned`, and after `Closed`
/// where the committer's thread has panicked, when only a restart can tell.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// A restricting record came after the state the decision saw: decide again.
    #[error("the control state moved to {control_head}; decide again")]
    Moved {
        /// The control index now: apply state up to it before the next decision.
        control_head: u64,
    },
    /// There is no room on the disk; nothing was written.
    #[error("no space left for the ledger; free some and it goes on by itself")]
    NoSpace,
    /// A write or flush failed; the log is closed until the next start.
    #[error("the ledger is closed for writing after a failed write: {0}")]
    Poisoned(String),
    /// Too much waits already, or one submission is larger than a group.
    #[error("too much waits for the ledger; try again later")]
    Busy,
    /// The committer has been stopped.
    #[error("the ledger is shut down")]
    Closed,
}

/// Numbers of a committer, all from its start on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitStats {
    /// Groups appended: each took one flush.
    pub groups: u64,
    /// Records appended.
    pub records: u64,
    /// Records answered `Moved`.
    pub moved: u64,
    /// Records answered `Busy`.
    pub busy: u64,
    /// Records answered `NoSpace`.
    pub no_space: u64,
}

#[derive(Debug, Default)]
struct Counters {
    groups: AtomicU64,
    records: AtomicU64,
    moved: AtomicU64,
    busy: AtomicU64,
    no_space: AtomicU64,
}

type Outcome = Result<Receipt, CommitError>;

#[derive(Debug)]
struct Submission {
    /// What is to be written of it.
    batch: Batch,
    /// The control index that the decision of each record in the batch saw.
    seen: Vec<u64>,
    /// What becomes of each record that was submitted.
    places: Vec<Place>,
    reply: oneshot::Sender<Vec<Outcome>>,
}

/// The place of a record in its batch, or why it has none.
type Place = Result<usize, CommitError>;

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Submission>,
    records: usize,
    bytes: usize,
    closed: bool,
    /// Submissions that were announced.
    coming: usize,
    /// The committer keeps a group open for them.
    kept_open: bool,
}

impl Queue {
    /// True while it pays to keep a group open.
    fn gathers(&self) -> bool {
        self.coming > 0 && self.records < GROUP_RECORDS_ENOUGH && !self.closed
    }
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
    limits: CommitterLimits,
    counters: Counters,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // The queue holds plain values that are valid after any panic of a holder.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands records to the committer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Commits {
    shared: Arc<Shared>,
}

/// The committer's thread. Dropping it stops the thread after what waits is committed.
#[derive(Debug)]
pub struct Committer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Committer {
    /// Starts the thread that alone appends to `journal`.
    ///
    /// # Errors
    /// Fails when the system gives no thread.
    pub fn start(journal: Arc<dyn Journal>, limits: CommitterLimits) -> Result<(Self, Commits), LedgerError> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            filled: Condvar::new(),
            limits: CommitterLimits {
                group_records: limits.group_records.clamp(1, GROUP_RECORDS_MAX),
                group_bytes: limits.group_bytes.clamp(1, GROUP_BYTES_MAX),
                ..limits
            },
            counters: Counters::default(),
        });
        let commits = Commits {
            shared: Arc::clone(&shared),
        };
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("ledger-commit".into())
            .spawn(move || run(&for_thread, &*journal))
            .map_err(LedgerError::io("start a thread for", "the committer"))?;
        let committer = Self {
            shared,
            thread: Some(thread),
        };
        Ok((committer, commits))
    }

    /// Refuses new records, commits what waits and ends the thread.
    pub fn stop(mut self) {
        self.finish();
    }

    fn finish(&mut self) {
        self.shared.lock().closed = true;
        self.shared.filled.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the committer's thread panicked");
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.finish();
    }
}

/// The answer to one submission, to be awaited.
#[derive(Debug)]
pub struct CommitTicket {
    answer: Answer,
    count: usize,
}

#[derive(Debug)]
enum Answer {
    Waiting(oneshot::Receiver<Vec<Outcome>>),
    Refused(CommitError),
}

impl CommitTicket {
    /// One outcome for each record, in the order they were submitted.
    pub async fn outcomes(self) -> Vec<Result<Receipt, CommitError>> {
        match self.answer {
            Answer::Waiting(receiver) => receiver
                .await
                .unwrap_or_else(|_| refused(self.count, &CommitError::Closed)),
            Answer::Refused(error) => refused(self.count, &error),
        }
    }

    /// As [`CommitTicket::outcomes`], for callers that are not async. Must not be called inside an async runtime.
    pub fn wait(self) -> Vec<Result<Receipt, CommitError>> {
        match self.answer {
            Answer::Waiting(receiver) => receiver
                .blocking_recv()
                .unwrap_or_else(|_| refused(self.count, &CommitError::Closed)),
            Answer::Refused(error) => refused(self.count, &error),
        }
    }
}

fn refused(count: usize, error: &CommitError) -> Vec<Outcome> {
    (0..count).map(|_| Err(error.clone())).collect()
}

impl Commits {
    /// Submits records, each with the control index its decision saw, to be committed in this order and in one group.
    /// Restricting records of one submission do not make its other records stale: one submission is one decision.
    /// A submission of more records or bytes than a group, or past the queue's limit, is answered `Busy`.
    pub fn submit(&self, records: Vec<(EncodedRecord, u64)>) -> CommitTicket {
        let count = records.len();
        let batch = Batch::of(records.iter().map(|(record, _)| record));
        let seen = records.into_iter().map(|(_, seen)| seen).collect();
        let bytes = batch.record_bytes();
        let limits = &self.shared.limits;
        let refuse = |error| CommitTicket {
            answer: Answer::Refused(error),
            count,
        };
        let mut queue = self.shared.lock();
        if queue.closed {
            return refuse(CommitError::Closed);
        }
        let over_group = count > limits.group_records || bytes > limits.group_bytes;
        let over_queue = queue.records + count > limits.queue_records || queue.bytes + bytes > limits.queue_bytes;
        if over_group || over_queue {
            drop(queue);
            self.shared.counters.busy.fetch_add(count as u64, Ordering::Relaxed);
            return refuse(CommitError::Busy);
        }
        let (reply, receiver) = oneshot::channel();
        queue.records += count;
        queue.bytes += bytes;
        queue.waiting.push_back(Submission {
            batch,
            seen,
            places: (0..count).map(Ok).collect(),
            reply,
        });
        let wake = queue.waiting.len() == 1 || queue.kept_open && !queue.gathers();
        drop(queue);
        // A queue that was not empty has already woken the committer, or keeps it from sleeping.
        if wake {
            self.shared.filled.notify_one();
        }
        CommitTicket {
            answer: Answer::Waiting(receiver),
            count,
        }
    }

    /// Says that records will be submitted soon, by somebody who queues for the turn to make them. Dropped when the turn
    /// has come: a group is not kept open for what is being made, only because the callers are queueing anyway.
    pub fn more_to_come(&self) -> MoreToCome {
        self.shared.lock().coming += 1;
        MoreToCome {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Records that wait now.
    pub fn waiting(&self) -> usize {
        self.shared.lock().records
    }

    /// What the committer has done.
    pub fn stats(&self) -> CommitStats {
        let counters = &self.shared.counters;
        CommitStats {
            groups: counters.groups.load(Ordering::Relaxed),
            records: counters.records.load(Ordering::Relaxed),
            moved: counters.moved.load(Ordering::Relaxed),
            busy: counters.busy.load(Ordering::Relaxed),
            no_space: counters.no_space.load(Ordering::Relaxed),
        }
    }
}

/// An announcement; see [`Commits::more_to_come`].
#[derive(Debug)]
pub struct MoreToCome {
    shared: Arc<Shared>,
}

impl Drop for MoreToCome {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.coming = queue.coming.saturating_sub(1);
        let wake = queue.kept_open && !queue.gathers();
        drop(queue);
        if wake {
            self.shared.filled.notify_one();
        }
    }
}

/// Closes the queue when the thread ends in any way, so that nobody waits for a thread that is gone.
struct CloseAtEnd<'a>(&'a Shared);

impl Drop for CloseAtEnd<'_> {
    fn drop(&mut self) {
        // Dropping the senders that wait answers `Closed`.
        *self.0.lock() = Queue {
            closed: true,
            ..Queue::default()
        };
    }
}

fn run(shared: &Shared, journal: &dyn Journal) {
    let _close = CloseAtEnd(shared);
    loop {
        let Some(taken) = take(shared, journal) else {
            return;
        };
        commit(shared, journal, taken);
    }
}

/// Waits for submissions and takes as many as make one group; `None` when stopped and empty.
fn take(shared: &Shared, journal: &dyn Journal) -> Option<Vec<Submission>> {
    let mut queue = shared.lock();
    if queue.waiting.is_empty() && !queue.closed {
        drop(queue);
        journal.idle();
        queue = shared.lock();
    }
    while queue.waiting.is_empty() {
        if queue.closed {
            return None;
        }
        queue = shared.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
    }
    let mut queue = keep_open(shared, queue);
    let (mut taken, mut records, mut bytes) = (Vec::with_capacity(queue.waiting.len()), 0, 0);
    while let Some(next) = queue.waiting.front() {
        let fits = records + next.batch.len() <= shared.limits.group_records
            && bytes + next.batch.record_bytes() <= shared.limits.group_bytes;
        // The first always fits: larger submissions were refused at the door.
        if !fits && !taken.is_empty() {
            break;
        }
        let Some(next) = queue.waiting.pop_front() else { break };
        records += next.batch.len();
        bytes += next.batch.record_bytes();
        taken.push(next);
    }
    queue.records -= records;
    queue.bytes -= bytes;
    Some(taken)
}

/// Waits for more, where more was announced, until there is enough or the time is over.
fn keep_open<'a>(shared: &'a Shared, mut queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
    queue.kept_open = true;
    let waited = shared
        .filled
        .wait_timeout_while(queue, shared.limits.group_wait, |queue| queue.gathers());
    let (mut queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
    queue.kept_open = false;
    queue
}

impl Submission {
    /// Takes out what is stale: records that saw less than `control_head`, or all where `restricted`.
    fn leave_out_stale(&mut self, control_head: u64, restricted: bool) {
        let stale = |seen: u64| restricted || seen < control_head;
        if !self.seen.iter().any(|seen| stale(*seen)) {
            return;
        }
        let mut left = Vec::new();
        for place in &mut self.places {
            let Ok(at) = *place else { continue };
            let seen = self.seen.get(at).copied().unwrap_or_default();
            *place = match stale(seen) {
                true => Err(CommitError::Moved { control_head }),
                false => Ok(left.len()),
            };
            if place.is_ok() {
                left.push((at, seen));
            }
        }
        self.batch = self.batch.only(left.iter().map(|(at, _)| *at));
        self.seen = left.into_iter().map(|(_, seen)| seen).collect();
    }
}

/// Sorts out what is stale against `control_head` and against restricting records earlier in the group itself. Those have
/// no index yet, so nothing outside their own submission can have seen them.
fn leave_out_stale(group: &mut [Submission], control_head: u64) {
    let mut restricted = false;
    for submission in group {
        submission.leave_out_stale(control_head, restricted);
        restricted |= submission.batch.is_restricting();
    }
}

fn commit(shared: &Shared, journal: &dyn Journal, mut group: Vec<Submission>) {
    let mut control_head = journal.control_head();
    let appended = loop {
        leave_out_stale(&mut group, control_head);
        let batches: Vec<Batch> = group.iter().map(|submission| submission.batch.clone()).collect();
        // The least that its records saw, the restricting ones of their own submission counted as seen.
        let Some(seen) = group.iter().flat_map(|submission| &submission.seen).min() else {
            break Ok(0);
        };
        match journal.append_batches(&batches, *seen) {
            // Another replica was faster. Only what it made stale is decided again; the index rises, so this ends.
            Err(AppendError::Moved { control_head: now }) if now > control_head => control_head = now,
            other => break other,
        }
    };
    // Restricting records of this very group moved the control index further.
    let control_now = journal.control_head();
    let refusal = match &appended {
        Ok(_) => None,
        Err(AppendError::NoSpace) => Some(CommitError::NoSpace),
        Err(AppendError::Poisoned(why)) => Some(CommitError::Poisoned(why.clone())),
        Err(AppendError::Moved { control_head }) => Some(CommitError::Moved {
            control_head: *control_head,
        }),
        Err(AppendError::TooLarge) => Some(CommitError::Busy),
    };
    count(shared, &group, refusal.as_ref());
    let mut first = appended.unwrap_or_default();
    // A group lies in one log, which may be closed by now.
    let log = journal.log_of(first).unwrap_or_else(|| journal.log());
    for Submission {
        batch, places, reply, ..
    } in group
    {
        let outcome = |place: Place| match (place, &refusal) {
            (Ok(at), None) => batch.receipt(&log, first, at).ok_or(CommitError::Closed),
            (Ok(_), Some(refusal)) => Err(refusal.clone()),
            (Err(_), _) => Err(CommitError::Moved {
                control_head: control_now,
            }),
        };
        // Who no longer waits does not want to know; the record stands.
        let _ = reply.send(places.into_iter().map(outcome).collect());
        first += batch.len() as u64;
    }
}

fn count(shared: &Shared, group: &[Submission], refusal: Option<&CommitError>) {
    let counters = &shared.counters;
    let places = group.iter().flat_map(|submission| &submission.places);
    let stale = places.filter(|place| place.is_err()).count() as u64;
    counters.moved.fetch_add(stale, Ordering::Relaxed);
    let records = group.iter().map(|submission| submission.batch.len()).sum::<usize>() as u64;
    match refusal {
        None if records > 0 => {
            counters.groups.fetch_add(1, Ordering::Relaxed);
            counters.records.fetch_add(records, Ordering::Relaxed);
        }
        Some(CommitError::NoSpace) => {
            counters.no_space.fetch_add(records, Ordering::Relaxed);
        }
        _ => {}
    }
}
