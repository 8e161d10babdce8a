//! Final checkpoints of closed logs: each is signed as its log closes, when the witnesses have only seen the one before, so they
//! are asked for it besides going on with the next log. A log that was cut short never gets that cosignature.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use mintage_ledger::{AddCheckpoint, LedgerError, Log, NoteSignature, SignedCheckpoint};
use tracing::{debug, error, info, warn};

use super::{
    client::Answer,
    task::{Against, Courier},
};
use crate::{
    desk::Desk,
    limits::{WITNESS_CLOSED_PAUSE, WITNESS_CLOSED_WAIT, WITNESS_ROUNDS_MAX},
};

/// The closed logs whose final checkpoint one witness has not cosigned, oldest first.
#[derive(Debug, Default)]
pub(super) struct Closed {
    logs: VecDeque<Arc<Log>>,
    /// Not before this.
    next: Duration,
    /// Whether it was told that one waits.
    told: bool,
}

impl Closed {
    pub(super) fn is_due(&self, now: Duration) -> bool {
        !self.logs.is_empty() && now >= self.next
    }
}

/// What became of one.
enum End {
    Cosigned,
    /// It is asked no more before the next start or the next shard.
    Never(String),
}

impl Courier {
    /// Looks which closed logs lack this witness's line.
    pub(super) async fn look_for_closed(&mut self) {
        let (desk, key) = (self.desk.clone(), self.peer.key.clone());
        let found = tokio::task::spawn_blocking(move || {
            let mut logs = desk.shards.files().logs();
            logs.pop();
            let lacks = |log: &Arc<Log>| {
                let signed = desk.journal.checkpoint_of(log);
                signed.is_ok_and(|signed| !matches!(key.time_on(signed.note()), Ok(Some(_))))
            };
            logs.into_iter().filter(lacks).collect()
        });
        match found.await {
            Ok(logs) => {
                self.closed = Closed {
                    logs,
                    ..Closed::default()
                }
            }
            Err(problem) => error!(%problem, "the closed logs could not be looked through"),
        }
    }

    /// Asks for the final checkpoint of one closed log, and goes on when there is no answer in time.
    pub(super) async fn carry_closed(&mut self) {
        let Some(log) = self.closed.logs.front().cloned() else {
            return;
        };
        let asked = tokio::time::timeout(WITNESS_CLOSED_WAIT, self.close(&log)).await;
        let asked = asked.unwrap_or_else(|_| Err(format!("no end within {WITNESS_CLOSED_WAIT:?}")));
        let (witness, origin) = (self.name(), log.origin());
        match asked {
            Ok(End::Cosigned) => {
                info!(witness, %origin, "the witness has cosigned the final checkpoint of a closed log")
            }
            Ok(End::Never(why)) => warn!(
                witness, %origin, why,
                "the final checkpoint of a closed log is not cosigned by this witness; it is asked again at the next start"
            ),
            Err(why) => {
                match self.closed.told {
                    false => warn!(
                        witness, %origin, why,
                        "the final checkpoint of a closed log is not cosigned yet by this witness; it is asked again"
                    ),
                    true => debug!(witness, %origin, why, "the final checkpoint of a closed log waits"),
                }
                self.closed.told = true;
                // Another one may fare better meanwhile.
                self.closed.logs.rotate_left(1);
                self.closed.next = self.now() + WITNESS_CLOSED_PAUSE;
                return;
            }
        }
        self.closed.logs.pop_front();
    }

    async fn close(&mut self, log: &Arc<Log>) -> Result<End, String> {
        let signed = self
            .desk
            .journal
            .checkpoint_of(log)
            .map_err(|error| error.to_string())?;
        let size = signed.checkpoint().size;
        // As if the witness held this very tree: then it cosigns, or says what else it holds.
        let mut old = size;
        for _ in 0..WITNESS_ROUNDS_MAX {
            let request = match request(&self.desk, log, &signed, old).await {
                Ok(request) => request,
                Err(LedgerError::Released { .. }) => return Ok(End::Never("its records were given up".to_owned())),
                Err(error) => return Err(error.to_string()),
            };
            let sent = self.now();
            match self.client.ask(&request).await? {
                Answer::Cosigned(line) => return self.keep_closed(&signed, line, sent).await,
                Answer::Holds(held) if held > size => return Ok(self.against(Against::Behind, log, held)),
                Answer::Holds(held) if held == old => return Err("it refuses the size that it says it holds".into()),
                Answer::Holds(held) => old = held,
                Answer::Inconsistent(_) => return Ok(self.against(Against::Conflict, log, old)),
                Answer::Unknown(why) => {
                    if let Err(why) = self.name_log(log, why).await? {
                        return Ok(End::Never(why));
                    }
                }
                // A full disk at the witness passes.
                Answer::Refused(why) => return Err(why),
            }
        }
        Err("its size keeps changing".to_owned())
    }

    /// What a witness says against a closed log is an alarm, unless a restore closed it: then what it has seen is the end that
    /// was lost.
    fn against(&mut self, against: Against, log: &Log, size: u64) -> End {
        let logs = self.desk.shards.files().logs();
        let next = logs.iter().skip_while(|known| known.origin() != log.origin()).nth(1);
        if next.is_some_and(|next| next.origin().is_restored()) {
            return End::Never(format!(
                "it has seen other records of it, up to {size}: those after the backup that was restored"
            ));
        }
        self.tell_against(against, size);
        End::Never(format!("it has seen {size} records of it, and others than these"))
    }

    async fn keep_closed(
        &mut self,
        signed: &SignedCheckpoint,
        line: NoteSignature,
        sent: Duration,
    ) -> Result<End, String> {
        self.add(signed, line).await.map_err(|error| error.to_string())?;
        let stored = self.desk.journal.checkpoint().map_err(|error| error.to_string())?;
        let covered = |checkpoint| self.desk.shards.covered(checkpoint);
        self.desk.witnesses.cosigned(covered(signed), covered(&stored), sent);
        Ok(End::Cosigned)
    }
}

/// The request that leads from `old` leaves of a closed log to its end.
async fn request(
    desk: &Arc<Desk>,
    log: &Arc<Log>,
    signed: &SignedCheckpoint,
    old: u64,
) -> Result<AddCheckpoint, LedgerError> {
    let (note, head) = (signed.note().clone(), signed.checkpoint().clone());
    if old == head.size {
        return AddCheckpoint::new(old, Vec::new(), note);
    }
    let (trees, log) = (desk.trees.clone(), log.clone());
    // Tiles are read from files, or made again.
    let made = tokio::task::spawn_blocking(move || {
        let tree = trees.of_log(&log)?;
        let old_root = tree.root_at(old)?;
        let proof = tree.consistency((old, &old_root), (head.size, &head.root))?;
        AddCheckpoint::new(old, proof, note)
    });
    made.await.unwrap_or(Err(LedgerError::Closed))
}
