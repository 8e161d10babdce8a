//! The hash of the signed snapshot as a record: what verifiers were given can be told afterwards, and a snapshot that only some
//! were given is in no log. One record for a new sequence, and at most one an interval.

use std::{sync::Arc, time::Duration};

use mintage_ledger::{Body, Kind, Query, wire::RevocationSnapshot};
use ring::digest;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::{
    control::{Origin, command},
    desk::Desk,
    limits::SNAPSHOT_AGE_MAX,
    status::Refusal,
};

/// Looks now and then, until told to stop.
pub(crate) async fn keep(desk: Arc<Desk>, every: Duration, stop: CancellationToken) {
    let mut look = interval_at(Instant::now() + every, every);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut recorded = None;
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = stop.cancelled() => return,
        }
        match record(&desk, recorded).await {
            Ok(place) => recorded = Some(place),
            Err(problem) => {
                error!(%problem, "the hash of the published snapshot is not recorded yet; it is tried again");
            }
        }
    }
}

/// Epoch and sequence.
type Place = (u64, u64);

/// Records what is published now, unless it is `recorded`, or in the ledger from an earlier start.
async fn record(desk: &Arc<Desk>, recorded: Option<Place>) -> Result<Place, Refusal> {
    let published = desk.publisher.latest();
    let place = (published.epoch(), published.sequence());
    let worker = desk.clone();
    let made = tokio::task::spawn_blocking(move || -> Result<Option<RevocationSnapshot>, Refusal> {
        let known = match recorded {
            None => last(&worker)?,
            known => known,
        };
        if known.is_some_and(|known| known >= place) {
            return Ok(None);
        }
        let unsigned =
            |error: mintage_revocation::RevocationError| Refusal::unavailable("revocation", error.to_string());
        let snapshot = published
            .snapshot(worker.clock.unguarded(), SNAPSHOT_AGE_MAX)
            .map_err(unsigned)?;
        Ok(Some(RevocationSnapshot {
            epoch: place.0,
            sequence: place.1,
            set_hash: published.set_hash().to_vec(),
            snapshot_sha256: digest::digest(&digest::SHA256, &snapshot.bytes).as_ref().to_vec(),
            key_id: published.key_id().as_bytes().to_vec(),
        }))
    });
    let made = made.await.map_err(|_| Refusal::bug("hashing a snapshot ended early"))?;
    if let Some(body) = made? {
        let bodies = vec![Body::RevocationSnapshot(body)];
        command(desk, &Origin::replica(desk), |_| Ok((bodies.clone(), ()))).await?;
    }
    Ok(place)
}

/// The place that was recorded last; none before the first.
fn last(desk: &Desk) -> Result<Option<Place>, Refusal> {
    let query = Query {
        kinds: vec![Kind::RevocationSnapshot],
        ..Query::default()
    };
    let mut from = None;
    let row = loop {
        let page = desk.index.search().query(&query, from, 1).map_err(Refusal::from)?;
        // A page may be empty and still have a next one.
        match (page.rows.into_iter().next(), page.next) {
            (Some(row), _) => break row,
            (None, None) => return Ok(None),
            (None, next) => from = next,
        }
    };
    let mut stored = desk.journal.read_from(row.index, 1).map_err(unreadable)?;
    let record = stored
        .pop()
        .map(|stored| stored.decode())
        .transpose()
        .map_err(unreadable)?;
    Ok(match record.map(|record| record.body) {
        Some(Body::RevocationSnapshot(body)) => Some((body.epoch, body.sequence)),
        _ => None,
    })
}

fn unreadable(error: mintage_ledger::LedgerError) -> Refusal {
    Refusal::unavailable("ledger-read", error.to_string())
}
