//! Where records come from: the CA's stream, or a folder that is verified while it is read.

use mintage_ledger::{Hash, LedgerError, Record, RecordCheck, Stored, Vkey, leaf_hash};
use mintage_proto::v1::{LedgerRecord, RecordBatch, RecordsRequest};
use tokio::{sync::mpsc, task::JoinHandle};
use tonic::{Code, Streaming};

use super::{facts::Placed, offline::verdict};
use crate::{
    client::Ca,
    failure::Failure,
    limits::{OFFLINE_BATCH_RECORDS, OFFLINE_BATCHES_QUEUE},
};

/// The CA's stream of records, taken up again where it was when the CA let this reader go for being slow.
pub(super) struct Live {
    ca: Ca,
    request: RecordsRequest,
    stream: Streaming<RecordBatch>,
    /// A batch came since the stream was opened.
    moved: bool,
}

impl Live {
    /// Opens the stream.
    ///
    /// # Errors
    /// Whatever the CA answers.
    pub(super) async fn open(ca: Ca, request: RecordsRequest) -> Result<Self, Failure> {
        let stream = ca.ledger().records(request.clone()).await?.into_inner();
        Ok(Self {
            ca,
            request,
            stream,
            moved: false,
        })
    }

    /// How many records of the ledger were looked at, wanted or not.
    pub(super) fn looked_at(&self) -> u64 {
        self.request.from
    }

    /// The next records, which may be none of those that are wanted; `None` at the end of who does not follow.
    ///
    /// # Errors
    /// When the CA stops or fails, or sends what is no record.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Placed>>, Failure> {
        loop {
            match self.stream.message().await {
                Ok(Some(batch)) => {
                    self.request.from = batch.next;
                    self.moved = true;
                    return batch.records.iter().map(placed).collect::<Result<_, _>>().map(Some);
                }
                Ok(None) => return Ok(None),
                // Whoever reads our output paused: nothing is lost by going on from here.
                Err(status) if status.code() == Code::Aborted && self.moved => {
                    self.stream = self.ca.ledger().records(self.request.clone()).await?.into_inner();
                    self.moved = false;
                }
                Err(status) => return Err(status.into()),
            }
        }
    }
}

/// A record whose bytes are those of its leaf.
fn placed(found: &LedgerRecord) -> Result<Placed, Failure> {
    let hash = leaf_hash(&found.record);
    if hash.as_bytes() != found.leaf_hash.as_slice() {
        return Err(Failure::No(format!(
            "the bytes of record {} are not those of its leaf hash; the answer was altered",
            found.index
        )));
    }
    let record = Record::decode(&found.record)
        .map_err(|error| Failure::Remote(format!("record {} cannot be read: {error}", found.index)))?;
    Ok(Placed {
        index: found.index,
        leaf_hash: hash,
        record,
    })
}

/// A record of a ledger folder, of which only the hash may be wanted.
#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) origin: String,
    pub(super) stored: Stored,
}

impl Leaf {
    pub(super) fn index(&self) -> u64 {
        self.stored.index()
    }

    pub(super) fn hash(&self) -> Hash {
        self.stored.leaf_hash()
    }

    /// The record, decoded.
    ///
    /// # Errors
    /// When this program does not know its form.
    pub(super) fn placed(&self) -> Result<Placed, Failure> {
        let record = self
            .stored
            .decode()
            .map_err(|error| Failure::No(format!("record {} cannot be read: {error}", self.index())))?;
        Ok(Placed {
            index: self.index(),
            leaf_hash: self.hash(),
            record,
        })
    }
}

/// A ledger folder that is verified on a thread of its own, which waits when its records are not taken. `R` is what the
/// verification tells of each shard.
pub(super) struct Offline<R> {
    leaves: mpsc::Receiver<Vec<Leaf>>,
    verified: JoinHandle<Result<Vec<R>, LedgerError>>,
}

struct Feed {
    queue: mpsc::Sender<Vec<Leaf>>,
    batch: Vec<Leaf>,
}

impl Feed {
    fn flush(&mut self) -> Result<(), String> {
        let batch = std::mem::take(&mut self.batch);
        self.queue
            .blocking_send(batch)
            .map_err(|_| "nobody reads on".to_owned())
    }
}

impl RecordCheck for Feed {
    fn record(&mut self, key: &Vkey, stored: &Stored) -> Result<(), String> {
        self.batch.push(Leaf {
            origin: key.name().to_owned(),
            stored: stored.clone(),
        });
        match self.batch.len() {
            OFFLINE_BATCH_RECORDS => self.flush(),
            _ => Ok(()),
        }
    }
}

impl<R: Send + 'static> Offline<R> {
    /// Begins a verification, which shows every record to the check it is given.
    pub(super) fn start(
        verify: impl FnOnce(&mut dyn RecordCheck) -> Result<Vec<R>, LedgerError> + Send + 'static,
    ) -> Self {
        let (queue, leaves) = mpsc::channel(OFFLINE_BATCHES_QUEUE);
        let verified = tokio::task::spawn_blocking(move || {
            let mut feed = Feed {
                queue,
                batch: Vec::new(),
            };
            let reports = verify(&mut feed)?;
            // Who has stopped reading needs no rest.
            let _ = feed.flush();
            Ok(reports)
        });
        Self { leaves, verified }
    }

    /// The next leaves; `None` at the end, when [`Offline::end`] says whether everything holds.
    pub(super) async fn next(&mut self) -> Option<Vec<Leaf>> {
        self.leaves.recv().await
    }

    /// Whether the ledger is proven.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub(super) async fn end(self) -> Result<Vec<R>, Failure> {
        drop(self.leaves);
        let ended = self.verified.await;
        let ended = ended.map_err(|error| Failure::local(format!("the verification ended early: {error}")))?;
        ended.map_err(|error| verdict(&error))
    }
}
