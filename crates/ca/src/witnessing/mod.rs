//! Witnesses of the CA's log (C2SP tlog-witness): each configured one is shown every checkpoint, by a task outside the
//! issuing path, and its verified cosignature is added to the stored one.
//!
//! Plain HTTP is enough. What is sent is signed by the log and shows nothing but its origin and its size, which grows with
//! every record; what returns is kept only when it verifies under the witness's key. An answer that refuses is signed by
//! nobody: who can alter the path can delay cosignatures, raise alarms and keep a CA from starting, and no more.

mod client;
mod closed;
mod naming;
mod peer;
mod set;
mod standing;
mod task;

use std::{sync::Arc, time::Duration};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    desk::Desk,
    error::CaError,
    limits::{WITNESS_LOOK_INTERVAL, WITNESS_START_WAIT, WITNESS_STOP_WAIT},
};

pub(crate) use self::{
    peer::{RawWitness, SubmissionPrefix, WitnessPeer, parse_key},
    standing::Standing,
};
use self::{
    standing::Change,
    task::{Courier, Started},
};

/// Compares the log with its witnesses before anything is served, records a changed set, and starts what follows.
///
/// # Errors
/// A witness has seen more of this log, or another tree of it.
pub(crate) async fn begin(desk: &Arc<Desk>, stop: &CancellationToken, tasks: &mut JoinSet<()>) -> Result<(), CaError> {
    let mut asked = JoinSet::new();
    for peer in desk.witnesses.peers() {
        let mut courier = Courier::new(desk.clone(), peer.clone());
        asked.spawn(async move {
            let compared = tokio::time::timeout(WITNESS_START_WAIT, courier.compare()).await;
            let compared = compared.unwrap_or_else(|_| Ok(Started::Unknown("it did not answer in time".to_owned())));
            compared.map(|started| (courier, started))
        });
    }
    let mut couriers = Vec::new();
    while let Some(outcome) = asked.join_next().await {
        let (courier, started) = outcome.map_err(|error| CaError::Poisoned(error.to_string()))??;
        let witness = courier.name();
        match started {
            Started::Cosigned => info!(witness, "the witness has cosigned the log as it is"),
            Started::Unknown(why) => warn!(
                witness,
                why, "the log was not compared with this witness, which is asked again while the CA serves"
            ),
        }
        couriers.push(courier);
    }
    set::record_changes(desk).await?;
    for courier in couriers {
        tasks.spawn(courier.run(stop.clone()));
    }
    if !desk.witnesses.peers().is_empty() {
        tasks.spawn(watch(desk.clone(), stop.clone()));
    }
    Ok(())
}

/// Shows the witnesses the last checkpoint of a clean stop, which no task was left to carry. Nobody waits for them longer
/// than a stop may take: who does not answer is asked at the next start.
pub(crate) async fn end(desk: &Arc<Desk>) {
    let mut asked = JoinSet::new();
    for peer in desk.witnesses.peers() {
        let mut courier = Courier::new(desk.clone(), peer.clone());
        asked.spawn(async move {
            let carried = tokio::time::timeout(WITNESS_STOP_WAIT, courier.carry_last()).await;
            let carried = carried.unwrap_or_else(|_| Err("it did not answer in time".to_owned()));
            (courier.name().to_owned(), carried)
        });
    }
    while let Some(outcome) = asked.join_next().await {
        match outcome {
            Ok((witness, Ok(()))) => info!(witness, "the witness has cosigned the last checkpoint"),
            Ok((witness, Err(why))) => warn!(
                witness,
                why, "the last checkpoint is not cosigned by this witness, which is asked at the next start"
            ),
            Err(error) => warn!(%error, "asking a witness ended with a panic"),
        }
    }
}

/// Keeps gauges and alarm in step with the clock until told to stop.
async fn watch(desk: Arc<Desk>, stop: CancellationToken) {
    let mut look = tokio::time::interval(WITNESS_LOOK_INTERVAL);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = stop.cancelled() => return,
        }
        let now = desk.clock.clock().monotonic();
        if let Ok(signed) = desk.journal.checkpoint() {
            desk.witnesses.signed(desk.shards.covered(&signed), now);
        }
        let (age, change) = desk.witnesses.look(now);
        desk.metrics.unwitnessed(age, desk.witnesses.is_alarmed());
        match change {
            Some(Change::Raised) => warn!(
                seconds = age.as_secs(),
                todo =
                    "look at the witnesses and at the way to them: a fork or a rollback of the log would not be seen",
                "no witness has cosigned what the log holds for too long"
            ),
            Some(Change::Cleared) => info!("the log is witnessed again"),
            None => {}
        }
    }
}

/// Brings the gauges up to date for whoever reads them now.
pub(crate) fn measure(desk: &Desk) {
    let age: Duration = desk.witnesses.age(desk.clock.clock().monotonic());
    desk.metrics.unwitnessed(age, desk.witnesses.is_alarmed());
}
