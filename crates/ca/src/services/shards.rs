//! What an operator asks of the ledger's shards: which there are, closing one, giving up old ones.

use std::{sync::Arc, time::Duration};

use mintage_identity::UnixTime;
use mintage_ledger::{Journal, Log, Releasable, WhyKept};
use mintage_proto::v1::{RetainRequest, RetainResponse, RollRequest, RollResponse, Shard};

use crate::{control::Origin, desk::Desk, limits::SHARD_NOTE_BYTES_MAX, shards, shards::Retention, status::Refusal};

const WRITTEN: &str = "written";
const CLOSED: &str = "closed";
const RELEASED: &str = "released";

/// Every shard, oldest first.
pub(crate) fn list(desk: &Desk) -> Vec<Shard> {
    let files = desk.shards.files();
    let (logs, first) = (files.logs(), files.first());
    let end = |at: usize| logs.get(at + 1).map(|next| next.first());
    let row = |(at, log): (usize, &Arc<Log>)| {
        let (end, state) = match end(at) {
            None => (desk.journal.size(), WRITTEN),
            Some(end) if end <= first => (end, RELEASED),
            Some(end) => (end, CLOSED),
        };
        shard(log, end.saturating_sub(log.first()), state)
    };
    logs.iter().enumerate().map(row).collect()
}

fn shard(log: &Log, records: u64, state: &str) -> Shard {
    Shard {
        origin: log.origin().to_string(),
        vkey: log.vkey().to_string(),
        first: log.first(),
        records,
        state: state.to_owned(),
    }
}

/// Closes the shard that is written and begins the next.
pub(crate) async fn roll(desk: &Arc<Desk>, by: &Origin, request: RollRequest) -> Result<RollResponse, Refusal> {
    if request.reason.len() > SHARD_NOTE_BYTES_MAX {
        return Err(Refusal::invalid(format!(
            "reason has {} bytes, the limit is {SHARD_NOTE_BYTES_MAX}",
            request.reason.len()
        )));
    }
    let old = desk.journal.log();
    if request.dry_run {
        let size = desk.journal.size();
        let next = desk.shards.next_origin(desk.clock.now()?)?;
        let begun = Shard {
            origin: next.to_string(),
            first: size,
            state: WRITTEN.to_owned(),
            ..Shard::default()
        };
        return Ok(RollResponse {
            closed: Some(shard(&old, size - old.first(), CLOSED)),
            begun: Some(begun),
        });
    }
    let reason = match request.reason.as_str() {
        "" => "on demand",
        reason => reason,
    };
    let log = shards::roll(desk, by, reason).await?;
    let records = desk.journal.size() - log.first();
    Ok(RollResponse {
        closed: Some(shard(&old, log.first() - old.first(), CLOSED)),
        begun: Some(shard(&log, records, WRITTEN)),
    })
}

/// Gives up the records of old shards.
pub(crate) async fn retain(desk: &Arc<Desk>, by: &Origin, request: &RetainRequest) -> Result<RetainResponse, Refusal> {
    let retention = Retention {
        age: Duration::from_secs(request.older_than_seconds),
        even_if_not_uploaded: request.even_if_not_uploaded,
    };
    let old = match request.dry_run {
        true => shards::releasable(desk, retention)?,
        false => shards::retain(desk, by, retention).await?,
    };
    let rows = |list: &[Releasable], state| {
        let row = |one: &Releasable| shard(&one.log, one.records, state);
        list.iter().map(row).collect()
    };
    let (why, time) = match old.kept.1 {
        WhyKept::Written => ("written", None),
        WhyKept::NotSealed => ("not-sealed", None),
        WhyKept::Young(last) => ("young", Some(last)),
        WhyKept::Live(until) => ("live", Some(until)),
    };
    Ok(RetainResponse {
        released: rows(&old.released, RELEASED),
        withheld: rows(&old.withheld, CLOSED),
        oldest_kept: old.kept.0.origin().to_string(),
        kept_because: why.to_owned(),
        kept_time_ms: time.map_or(0, UnixTime::millis),
    })
}
