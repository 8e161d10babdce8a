//! The ledger as a stream: its records in order from an index on, and for who follows every one that is appended later.
//!
//! Nothing polls: the stream waits for the journal's own watch. A reader that does not keep up is let go after a while,
//! so that it holds neither memory nor one of the few places, and is told where to go on.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt, future::ready, stream};
use mintage_identity::UnixTime;
use mintage_ledger::{Journal, Kind, Stored};
use mintage_proto::v1::{LedgerRecord, RecordBatch, RecordsRequest};
use tokio::sync::{
    Semaphore,
    mpsc::{self, error::SendTimeoutError},
    oneshot, watch,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::{
    desk::Desk,
    limits::{
        RECORD_BATCH_BYTES_MAX, RECORD_BATCHES_QUEUE, RECORD_STREAMS_MAX, RECORDS_READ_AT_ONCE, RECORDS_SILENT_MAX,
        SLOW_READER_WAIT,
    },
    services::ledger::{kinds_of, unreadable},
    status::Refusal,
};

/// What `Records` returns.
pub(crate) type BatchStream = Pin<Box<dyn Stream<Item = Result<RecordBatch, Status>> + Send>>;

/// The places of readers, and the word that ends them all.
#[derive(Debug)]
pub(crate) struct RecordStreams {
    places: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Default for RecordStreams {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(RECORD_STREAMS_MAX)),
            stop: CancellationToken::new(),
        }
    }
}

impl RecordStreams {
    /// Ends every stream: the CA stops.
    pub(crate) fn dismiss(&self) {
        self.stop.cancel();
    }
}

/// Opens a stream.
///
/// # Errors
/// Refuses unknown kinds, an index beyond the log, and more readers than there are places.
pub(crate) fn open(desk: &Arc<Desk>, request: &RecordsRequest) -> Result<BatchStream, Refusal> {
    let wanted = Arc::new(Wanted::of(request)?);
    let changed = desk.journal.watch();
    let size = *changed.borrow();
    if request.from > size {
        let text = format!("record {} is beyond the log, which has {size}", request.from);
        return Err(Refusal::invalid(text));
    }
    let Ok(place) = desk.record_streams.places.clone().try_acquire_owned() else {
        desk.metrics.refused_call("record_streams");
        let text = format!("{RECORD_STREAMS_MAX} readers of the ledger's stream are at work, which is the limit");
        return Err(Refusal::new(Code::ResourceExhausted, "record-streams", text));
    };
    let (queue, batches) = mpsc::channel(RECORD_BATCHES_QUEUE);
    let (last_word, end) = oneshot::channel();
    let reading = Reading {
        desk: desk.clone(),
        wanted,
        next: request.from,
        told: request.from,
        end: (!request.follow).then_some(size),
        changed,
        queue,
    };
    tokio::spawn(async move {
        if let Err(refusal) = reading.run().await {
            // Beside the queue, which may be full.
            let _ = last_word.send(Status::from(refusal));
        }
        drop(place);
    });
    let end = stream::once(end).filter_map(|status| ready(status.ok().map(Err)));
    Ok(Box::pin(ReceiverStream::new(batches).map(Ok).chain(end)))
}

/// Which records a reader wants.
struct Wanted {
    kinds: Vec<Kind>,
    since: Option<UnixTime>,
    until: Option<UnixTime>,
}

impl Wanted {
    fn of(request: &RecordsRequest) -> Result<Self, Refusal> {
        let time = |millis: i64| (millis != 0).then(|| UnixTime::from_millis(millis));
        Ok(Self {
            kinds: kinds_of(&request.kinds)?,
            since: time(request.since_ms),
            until: time(request.until_ms),
        })
    }

    fn has(&self, stored: &Stored) -> Result<bool, Refusal> {
        let kind = || stored.kind().is_some_and(|kind| self.kinds.contains(&kind));
        if !self.kinds.is_empty() && !kind() {
            return Ok(false);
        }
        if self.since.is_none() && self.until.is_none() {
            return Ok(true);
        }
        let time = stored.decode().map_err(unreadable)?.time;
        Ok(self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time <= until))
    }
}

/// The reading half of one stream.
struct Reading {
    desk: Arc<Desk>,
    wanted: Arc<Wanted>,
    /// The next record to look at.
    next: u64,
    /// Where the reader would go on by the last batch that it was sent.
    told: u64,
    /// Where to end; `None` for who follows.
    end: Option<u64>,
    changed: watch::Receiver<u64>,
    queue: mpsc::Sender<RecordBatch>,
}

impl Reading {
    /// Reads and sends until the end, or until the reader leaves, sleeps or is dismissed.
    async fn run(mut self) -> Result<(), Refusal> {
        let stop = self.desk.record_streams.stop.clone();
        loop {
            // Seen before reading, so that what comes meanwhile ends the next wait at once.
            let size = *self.changed.borrow_and_update();
            let sent = tokio::select! {
                sent = self.send_up_to(self.end.unwrap_or(size)) => sent?,
                () = stop.cancelled() => return Err(self.stopping()),
            };
            if !sent || self.end.is_some() {
                return Ok(());
            }
            tokio::select! {
                changed = self.changed.changed() => changed.map_err(|_| self.stopping())?,
                () = self.queue.closed() => return Ok(()),
                () = stop.cancelled() => return Err(self.stopping()),
            }
        }
    }

    fn stopping(&self) -> Refusal {
        Refusal::unavailable(
            "stopping",
            format!("the CA stops; go on from record {} later", self.next),
        )
    }

    /// Sends every wanted record before `end`; false when the reader has left.
    async fn send_up_to(&mut self, end: u64) -> Result<bool, Refusal> {
        while self.next < end && !self.queue.is_closed() {
            let (journal, wanted, from) = (self.desk.journal.clone(), self.wanted.clone(), self.next);
            let count = (end - from).min(RECORDS_READ_AT_ONCE);
            // Old records are read from files.
            let read = tokio::task::spawn_blocking(move || read(&*journal, &wanted, from, count)).await;
            let (mut batches, next) = read.map_err(|_| Refusal::bug("reading the ledger ended early"))??;
            if batches.is_empty() && next - self.told >= RECORDS_SILENT_MAX {
                // Nothing is wanted here: that, too, is told now and then.
                batches.push(RecordBatch {
                    next,
                    ..RecordBatch::default()
                });
            }
            for batch in batches {
                let after = batch.next;
                match self.queue.send_timeout(batch, SLOW_READER_WAIT).await {
                    Ok(()) => (self.next, self.told) = (after, after),
                    Err(SendTimeoutError::Closed(_)) => return Ok(false),
                    Err(SendTimeoutError::Timeout(_)) => return Err(self.too_slow()),
                }
            }
            self.next = next;
        }
        Ok(!self.queue.is_closed())
    }

    fn too_slow(&self) -> Refusal {
        self.desk.metrics.stream_cut();
        let text = format!(
            "this reader took nothing for {SLOW_READER_WAIT:?}; go on from record {}",
            self.next
        );
        Refusal::new(Code::Aborted, "slow-reader", text)
    }
}

/// The wanted ones among `count` records, in batches, and the index after the last one looked at.
fn read(journal: &dyn Journal, wanted: &Wanted, from: u64, count: u64) -> Result<(Vec<RecordBatch>, u64), Refusal> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let records = journal.read_from(from, count).map_err(unreadable)?;
    let Some(last) = records.last() else {
        return Err(unreadable(format!("record {from} is not there")));
    };
    let after_all = last.index() + 1;
    let (mut batches, mut batch, mut bytes) = (Vec::new(), RecordBatch::default(), 0);
    for stored in &records {
        if !wanted.has(stored)? {
            continue;
        }
        if bytes + stored.bytes().len() > RECORD_BATCH_BYTES_MAX && bytes > 0 {
            batches.push(std::mem::take(&mut batch));
            bytes = 0;
        }
        bytes += stored.bytes().len();
        batch.next = stored.index() + 1;
        batch.records.push(LedgerRecord {
            index: stored.index(),
            record: stored.bytes().to_vec(),
            leaf_hash: stored.leaf_hash().as_bytes().to_vec(),
        });
    }
    if !batch.records.is_empty() {
        batch.next = after_all;
        batches.push(batch);
    }
    Ok((batches, after_all))
}
