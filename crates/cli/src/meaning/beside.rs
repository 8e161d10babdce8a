//! The meaning of records, judged beside the thread that reads and hashes them: some threads parse what can be told of a
//! record alone, and one judges all records in their order. On one core the whole takes as long as in one thread.

use std::{
    io,
    num::NonZeroUsize,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::{self, Builder},
};

use mintage_ledger::{Log, RecordCheck, ShardBegin, Stored, Vkey};

use super::{Meaning, read::Read};

/// Records that are handed over at once, about half a megabyte of them.
const BATCH_RECORDS: usize = 512;
/// Batches that wait before a thread that parses, and behind it.
const BATCHES_WAITING: usize = 2;
/// Threads that parse: one that judges keeps up with no more.
const PARSERS_MAX: usize = 4;

/// What goes from one thread to the next, in the order of the ledger.
enum Step<R> {
    /// A shard begins, with the snapshot of what stood before it.
    Begin(Log, Option<Vec<u8>>),
    Records(Vkey, Vec<R>),
}

/// A check that hands each record on and says nothing of it, but ends the reading soon after a record that offends.
pub(crate) struct Handing {
    lanes: Vec<SyncSender<Step<Stored>>>,
    /// The lane of the next step: each has every so manyth.
    next: usize,
    key: Option<Vkey>,
    batch: Vec<Stored>,
}

/// Gives `reading` a check that judges beside it. Returns what it returned, and the meaning of every record that it handed on, up to the
/// first that offends: of an offence and an error of the reading, the offence is of an earlier record.
///
/// # Errors
/// When a thread cannot be started.
pub(crate) fn judged<T>(meaning: Meaning, reading: impl FnOnce(&mut Handing) -> T) -> io::Result<(T, Meaning)> {
    let parsers = thread::available_parallelism()
        .map_or(1, NonZeroUsize::get)
        .min(PARSERS_MAX);
    thread::scope(|scope| {
        let (mut lanes, mut parsed) = (Vec::with_capacity(parsers), Vec::with_capacity(parsers));
        for _ in 0..parsers {
            let (lane, steps) = sync_channel(BATCHES_WAITING);
            let (sender, receiver) = sync_channel(BATCHES_WAITING);
            Builder::new()
                .name("audit-parse".into())
                .spawn_scoped(scope, move || parse(&steps, &sender))?;
            lanes.push(lane);
            parsed.push(receiver);
        }
        let judge = Builder::new()
            .name("audit-judge".into())
            .spawn_scoped(scope, move || judge(meaning, &parsed))?;
        let mut handing = Handing {
            lanes,
            next: 0,
            key: None,
            batch: Vec::with_capacity(BATCH_RECORDS),
        };
        let told = reading(&mut handing);
        // What fails here is told by the judge.
        let _ = handing.flush();
        drop(handing);
        let meaning = judge.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((told, meaning))
    })
}

fn parse(steps: &Receiver<Step<Stored>>, parsed: &SyncSender<Step<Read>>) {
    for step in steps {
        let step = match step {
            Step::Begin(log, snapshot) => Step::Begin(log, snapshot),
            Step::Records(key, records) => Step::Records(key, records.iter().map(Read::of).collect()),
        };
        if parsed.send(step).is_err() {
            return;
        }
    }
}

/// The first lane that has no more is the end: the next step would be there. To return early drops the receivers, which ends
/// the other threads.
fn judge(mut meaning: Meaning, parsed: &[Receiver<Step<Read>>]) -> Meaning {
    for lane in parsed.iter().cycle() {
        let Ok(step) = lane.recv() else { break };
        let judged = match step {
            Step::Begin(log, snapshot) => meaning.begin(&ShardBegin {
                log: &log,
                snapshot: snapshot.as_deref(),
            }),
            Step::Records(key, records) => records.into_iter().try_for_each(|read| meaning.take(&key, read)),
        };
        if judged.is_err() {
            break;
        }
    }
    meaning
}

impl Handing {
    fn flush(&mut self) -> Result<(), String> {
        let Some(key) = self.key.clone().filter(|_| !self.batch.is_empty()) else {
            return Ok(());
        };
        let records = std::mem::replace(&mut self.batch, Vec::with_capacity(BATCH_RECORDS));
        self.send(Step::Records(key, records))
    }

    fn send(&mut self, step: Step<Stored>) -> Result<(), String> {
        let lane = self.next;
        self.next = (lane + 1) % self.lanes.len();
        let sent = self.lanes[lane].send(step);
        sent.map_err(|_| "a record before this one offends".to_owned())
    }
}

impl RecordCheck for Handing {
    fn begin(&mut self, begin: &ShardBegin<'_>) -> Result<(), String> {
        self.flush()?;
        self.send(Step::Begin(begin.log.clone(), begin.snapshot.map(<[u8]>::to_vec)))
    }

    fn record(&mut self, key: &Vkey, stored: &Stored) -> Result<(), String> {
        if self.key.as_ref() != Some(key) {
            self.flush()?;
            self.key = Some(key.clone());
        }
        self.batch.push(stored.clone());
        match self.batch.len() {
            BATCH_RECORDS => self.flush(),
            _ => Ok(()),
        }
    }
}
