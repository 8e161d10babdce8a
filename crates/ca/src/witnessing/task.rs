//! What carries checkpoints to one witness: it proves that each goes on from the last one the witness has, and adds the
//! cosignature to the stored one. A witness that says it has seen more, or another tree, is an alarm and a record.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mintage_ledger::{AddCheckpoint, LedgerError, NoteSignature, Origin, SignedCheckpoint};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    client::{Answer, Client},
    closed::Closed,
    peer::WitnessPeer,
    set,
};
use crate::{
    desk::Desk,
    error::CaError,
    limits::{WITNESS_EVENT_INTERVAL, WITNESS_LOOK_INTERVAL, WITNESS_RETRY_MAX, WITNESS_RETRY_MIN, WITNESS_ROUNDS_MAX},
};

/// How often a start looks whether the tree has caught up with its checkpoint.
const TREE_LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// How a witness compared at the start.
pub(super) enum Started {
    /// It has cosigned the stored checkpoint.
    Cosigned,
    /// There is no telling yet, and why.
    Unknown(String),
}

/// What a witness says against the log: the words are those of `witness.event` and of the alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Against {
    /// It has seen more than the log holds: the log was rolled back.
    Behind,
    /// It has seen another tree.
    Conflict,
}

impl Against {
    const fn event(self) -> &'static str {
        match self {
            Self::Behind => "behind",
            Self::Conflict => "conflict",
        }
    }

    const fn alarm(self) -> &'static str {
        match self {
            Self::Behind => "witness-behind",
            Self::Conflict => "witness-conflict",
        }
    }
}

/// Carries checkpoints to one witness.
pub(super) struct Courier {
    pub(super) desk: Arc<Desk>,
    pub(super) peer: WitnessPeer,
    pub(super) client: Client,
    /// The log that the sizes are of.
    origin: Option<Origin>,
    /// The size that the witness is taken to hold; it says so itself when that is wrong.
    held: u64,
    /// The last size whose cosignature was added or came too late.
    done: Option<u64>,
    /// The last request came to nothing: no checkpoint waits for this witness until one does.
    failing: bool,
    told: BTreeMap<Against, Duration>,
    /// Whether the closed logs were looked through since the log that is written began, or the CA started.
    has_looked: bool,
    /// The closed logs that are still to be cosigned.
    pub(super) closed: Closed,
    /// When it refused to be told of a log.
    pub(super) told_last: Option<Duration>,
}

impl Courier {
    pub(super) fn new(desk: Arc<Desk>, peer: WitnessPeer) -> Self {
        Self {
            desk,
            client: Client::new(peer.clone()),
            peer,
            origin: None,
            held: 0,
            done: None,
            failing: false,
            told: BTreeMap::new(),
            has_looked: false,
            closed: Closed::default(),
            told_last: None,
        }
    }

    /// The witness's name.
    pub(super) fn name(&self) -> &str {
        self.peer.key.name()
    }

    pub(super) fn now(&self) -> Duration {
        self.desk.clock.clock().monotonic()
    }

    /// Asks what the witness has seen, before anything is served.
    ///
    /// # Errors
    /// It has seen more of this log, or another tree of it.
    pub(super) async fn compare(&mut self) -> Result<Started, CaError> {
        let signed = self.desk.journal.checkpoint()?;
        self.origin = Some(signed.checkpoint().origin.clone());
        let size = signed.checkpoint().size;
        let forked = |at| CaError::WitnessForked {
            witness: self.peer.key.name().to_owned(),
            size: at,
        };
        // As if the witness held this very tree: then it cosigns, or says what else it holds.
        let same = AddCheckpoint::new(size, Vec::new(), signed.note().clone())?;
        let sent = self.now();
        let held = match self.client.ask(&same).await {
            Ok(Answer::Cosigned(line)) => {
                self.keep(&signed, line, sent).await?;
                return Ok(Started::Cosigned);
            }
            Ok(Answer::Inconsistent(_)) => return Err(forked(size)),
            Ok(Answer::Holds(held)) if held > size => {
                return Err(CaError::WitnessAhead {
                    witness: self.peer.key.name().to_owned(),
                    held,
                    size,
                });
            }
            Ok(Answer::Holds(held)) => held,
            Ok(Answer::Unknown(why) | Answer::Refused(why)) | Err(why) => return Ok(Started::Unknown(why)),
        };
        self.held = held;
        while self.desk.trees.growing().1.size() < size {
            tokio::time::sleep(TREE_LOOK_INTERVAL).await;
        }
        let request = match self.request(&signed).await {
            Ok(request) => request,
            Err(why) => return Ok(Started::Unknown(why)),
        };
        let sent = self.now();
        match self.client.ask(&request).await {
            Ok(Answer::Cosigned(line)) => {
                self.keep(&signed, line, sent).await?;
                Ok(Started::Cosigned)
            }
            Ok(Answer::Inconsistent(_)) => Err(forked(held)),
            Ok(Answer::Holds(other)) => Ok(Started::Unknown(format!("its size changes, from {held} to {other}"))),
            Ok(Answer::Unknown(why) | Answer::Refused(why)) | Err(why) => Ok(Started::Unknown(why)),
        }
    }

    /// Follows the stored checkpoint until told to stop.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut pause = WITNESS_RETRY_MIN;
        loop {
            let rest = match self.turn(&stop).await {
                Some(Ok(())) => {
                    if std::mem::take(&mut self.failing) {
                        info!(witness = self.name(), "the witness cosigns again");
                    }
                    pause = WITNESS_RETRY_MIN;
                    WITNESS_LOOK_INTERVAL
                }
                Some(Err(why)) => {
                    match std::mem::replace(&mut self.failing, true) {
                        false => warn!(
                            witness = self.name(),
                            why, "the witness does not cosign; it is asked again"
                        ),
                        true => debug!(witness = self.name(), why, "the witness does not cosign"),
                    }
                    let rest = pause;
                    pause = (pause * 2).min(WITNESS_RETRY_MAX);
                    rest
                }
                None => return,
            };
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// One look at the stored checkpoint; `None` when told to stop.
    async fn turn(&mut self, stop: &CancellationToken) -> Option<Result<(), String>> {
        let signed = match self.desk.journal.checkpoint() {
            Ok(signed) => signed,
            Err(error) => return Some(Err(error.to_string())),
        };
        let origin = &signed.checkpoint().origin;
        if self.origin.as_ref() != Some(origin) {
            // A log that begins: the witness has seen nothing of it.
            (self.origin, self.held, self.done, self.told_last) = (Some(origin.clone()), 0, None, None);
            self.has_looked = false;
        }
        tokio::select! {
            carried = self.carry_all(signed) => Some(carried),
            () = stop.cancelled() => None,
        }
    }

    /// Gets the final checkpoint of a closed log cosigned, when there is one without, and then this one.
    async fn carry_all(&mut self, signed: SignedCheckpoint) -> Result<(), String> {
        if !std::mem::replace(&mut self.has_looked, true) {
            self.look_for_closed().await;
        }
        // A witness that does not answer is asked one thing only.
        if !self.failing && self.closed.is_due(self.now()) {
            self.carry_closed().await;
        }
        match self.done == Some(signed.checkpoint().size) {
            true => Ok(()),
            false => self.carry(signed).await,
        }
    }

    /// Gets the last checkpoint of a stop cosigned.
    pub(super) async fn carry_last(&mut self) -> Result<(), String> {
        let signed = self.desk.journal.checkpoint().map_err(|error| error.to_string())?;
        self.carry(signed).await
    }

    /// Gets this checkpoint cosigned.
    async fn carry(&mut self, signed: SignedCheckpoint) -> Result<(), String> {
        let _held = (!self.failing).then(|| self.desk.witnesses.hold().begin());
        let size = signed.checkpoint().size;
        for _ in 0..WITNESS_ROUNDS_MAX {
            let request = self.request(&signed).await?;
            let sent = self.now();
            match self.client.ask(&request).await? {
                Answer::Cosigned(line) => {
                    let kept = self.keep(&signed, line, sent).await;
                    return kept.map_err(|error| error.to_string());
                }
                Answer::Holds(held) if held == self.held => {
                    return Err("it refuses the size that it says it holds".into());
                }
                Answer::Holds(held) if held <= size => self.held = held,
                Answer::Holds(held) => {
                    let ours = self.desk.journal.checkpoint().map_err(|error| error.to_string())?;
                    let ours = ours.checkpoint().size;
                    if held > ours {
                        self.tell_against(Against::Behind, held);
                        return Err(format!("it has seen {held} records of this log, which holds {ours}"));
                    }
                    // Somebody else brought it a newer checkpoint of ours.
                    self.held = held;
                    return Ok(());
                }
                Answer::Inconsistent(why) => {
                    self.tell_against(Against::Conflict, self.held);
                    return Err(format!("it has seen another tree of size {}: {why}", self.held));
                }
                Answer::Unknown(why) => {
                    self.name_current(why).await?;
                    self.held = 0;
                }
                Answer::Refused(why) => return Err(why),
            }
        }
        Err("its size keeps changing".to_owned())
    }

    /// The request that leads from the size the witness holds to this checkpoint.
    async fn request(&self, signed: &SignedCheckpoint) -> Result<AddCheckpoint, String> {
        let (log, tree) = self.desk.trees.growing();
        let (note, head) = (signed.note().clone(), signed.checkpoint().clone());
        if *log.origin() != head.origin {
            return Err("the log is being closed; the one after it is asked about next".into());
        }
        // A witness that holds more says so, whatever it is asked.
        let old = self.held.min(head.size);
        // Tiles are read from files.
        let made = tokio::task::spawn_blocking(move || {
            let old_root = tree.root_at(old)?;
            let proof = tree.consistency((old, &old_root), (head.size, &head.root))?;
            AddCheckpoint::new(old, proof, note)
        });
        match made.await {
            Ok(made) => made.map_err(|error| error.to_string()),
            Err(_) => Err("the proof could not be made".to_owned()),
        }
    }

    /// Adds a verified cosignature to the stored checkpoint, unless a newer one is stored by now.
    async fn keep(
        &mut self,
        signed: &SignedCheckpoint,
        line: NoteSignature,
        sent: Duration,
    ) -> Result<(), LedgerError> {
        let size = signed.checkpoint().size;
        self.add(signed, line).await?;
        self.held = size;
        self.done = Some(size);
        let stored = self.desk.journal.checkpoint()?;
        let covered = |checkpoint| self.desk.shards.covered(checkpoint);
        self.desk.witnesses.cosigned(covered(signed), covered(&stored), sent);
        self.desk.metrics.cosigned(self.name(), size);
        Ok(())
    }

    /// Adds a verified line to a stored checkpoint, of whatever log, unless a newer one is stored by now.
    pub(super) async fn add(&self, signed: &SignedCheckpoint, line: NoteSignature) -> Result<(), LedgerError> {
        let (journal, text) = (self.desk.journal.clone(), signed.note().text().to_owned());
        let added = tokio::task::spawn_blocking(move || journal.add_cosignatures(&text, &[line])).await;
        match added.unwrap_or(Err(LedgerError::Closed)) {
            Ok(()) | Err(LedgerError::CheckpointMoved { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Alarms, and records it: at once, and then not again for a while.
    pub(super) fn tell_against(&mut self, against: Against, size: u64) {
        let now = self.now();
        let last = self.told.get(&against);
        if last.is_some_and(|at| now.saturating_sub(*at) < WITNESS_EVENT_INTERVAL) {
            return;
        }
        self.told.insert(against, now);
        self.desk.metrics.alarm(against.alarm());
        set::record(&self.desk, &self.peer.key.to_string(), against.event(), size);
        let witness = self.name();
        match against {
            Against::Behind => error!(
                witness,
                size, "the witness has seen more records of this log than it holds: the log was rolled back"
            ),
            Against::Conflict => error!(
                witness,
                size, "the witness has seen another tree of this log: it was forked or altered"
            ),
        }
    }
}
