//! The shards of the ledger: closing one and beginning the next, each month or on demand, and giving up old ones.
//!
//! A new log key is made and stored, and recorded in the old shard, before it signs anything; the old key is destroyed after
//! the new shard is the one that is written, so that nobody can sign another end of the old one.

use std::{path::PathBuf, sync::Arc, time::Duration};

use mintage_identity::UnixTime;
use mintage_ledger::{
    Body, FileJournal, Journal, Log, LogKey, LogKeys, Origin, Releasable, Roll, SignedCheckpoint, WhyKept,
    wire::{AdminEvent, CaEvent, CaEventKind, CaRole, LogClose},
};
use ring::digest;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use zeroize::Zeroizing;

use crate::{
    control::{self, command},
    data_dir::DataDir,
    desk::Desk,
    error::CaError,
    keys,
    limits::{RETAIN_LOOK_INTERVAL, SHARD_LOOK_INTERVAL},
    status::Refusal,
};

/// When shards begin and end without an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShardPolicy {
    /// A shard begins with each month (UTC); otherwise on demand only.
    pub(crate) monthly: bool,
    /// Shards are given up when their last record is so old; otherwise on demand only.
    pub(crate) retain: Option<Duration>,
}

impl Default for ShardPolicy {
    fn default() -> Self {
        Self {
            monthly: true,
            retain: None,
        }
    }
}

/// What rolling and giving up need, beside the desk.
#[derive(Debug)]
pub(crate) struct Shards {
    files: Arc<FileJournal>,
    log_keys: Arc<LogKeys>,
    data_dir: PathBuf,
    passphrase_file: Option<PathBuf>,
    policy: ShardPolicy,
    /// One at a time.
    turn: tokio::sync::Mutex<()>,
}

impl Shards {
    pub(crate) fn new(
        files: Arc<FileJournal>,
        log_keys: Arc<LogKeys>,
        (data_dir, passphrase_file): (PathBuf, Option<PathBuf>),
        policy: ShardPolicy,
    ) -> Self {
        Self {
            files,
            log_keys,
            data_dir,
            passphrase_file,
            policy,
            turn: tokio::sync::Mutex::new(()),
        }
    }

    /// The journal that knows of shards.
    pub(crate) fn files(&self) -> &Arc<FileJournal> {
        &self.files
    }

    /// How many records of the ledger a checkpoint of one of its logs covers, those of the logs before it included.
    pub(crate) fn covered(&self, signed: &SignedCheckpoint) -> u64 {
        let head = signed.checkpoint();
        let logs = self.files.logs();
        let log = logs.iter().find(|log| *log.origin() == head.origin);
        log.map_or(head.size, |log| log.position_of(head.size))
    }

    /// The name of the log that begins at `now`: the month, and a number where the month has one already.
    pub(crate) fn next_origin(&self, now: UnixTime) -> Result<Origin, Refusal> {
        let logs = self.files.logs();
        let bug = |_| Refusal::bug("there is no name for the next log");
        let mut next = self.files.log().origin().of_month(now).map_err(bug)?;
        let mut number = 2;
        while logs.iter().any(|log| *log.origin() == next) {
            next = next.numbered(number).map_err(bug)?;
            number += 1;
        }
        Ok(next)
    }

    /// Makes and stores the key of a log that begins.
    fn make_key(&self, desk: &Desk, next: &Origin) -> Result<LogKey, CaError> {
        let seed = desk.random::<32>().map_err(|_| CaError::NoRandom)?;
        let (key, pkcs8) = LogKey::generate(&Zeroizing::new(seed))?;
        // Asked for anew: nothing keeps the passphrase between two shards.
        let protection = keys::find_protection(self.passphrase_file.as_deref(), &desk.domain)?;
        let dir = DataDir::open(&self.data_dir)?.keys()?;
        keys::replace_log_key(&dir, next, &pkcs8, &protection, &desk.domain, desk.random_source)?;
        Ok(key)
    }

    /// Destroys the keys of logs that are closed.
    fn drop_old_keys(&self) {
        let current = self.files.log();
        self.log_keys.keep_only(current.origin());
        let dropped = DataDir::open(&self.data_dir)
            .and_then(|data| data.keys())
            .and_then(|dir| keys::remove_other_log_keys(&dir, current.origin()));
        if let Err(problem) = dropped {
            error!(%problem, "the key of a closed log could not be removed; it is tried again at the next shard");
        }
    }
}

/// Closes the shard that is written and begins the next.
pub(crate) async fn roll(desk: &Arc<Desk>, origin: &control::Origin, reason: &str) -> Result<Arc<Log>, Refusal> {
    let _turn = desk.shards.turn.lock().await;
    let room = desk.shards.files.check_room_for_log();
    room.map_err(|error| Refusal::unavailable("shard", format!("the shard was not closed: {error}")))?;
    let next = desk.shards.next_origin(desk.clock.now()?)?;
    let old = desk.journal.log();
    let (making, named) = (desk.clone(), next.clone());
    let made = tokio::task::spawn_blocking(move || making.shards.make_key(&making, &named)).await;
    let key = made
        .map_err(|_| Refusal::bug("making a log key ended early"))?
        .map_err(|error| Refusal::unavailable("log-key", format!("the next log's key was not stored: {error}")))?;
    let (new_public, old_public) = (key.public_key(), *old.vkey().public_key());
    record_keys(desk, origin, &[(new_public, CaEventKind::Prepare)], &next).await?;
    let close = LogClose {
        reason: reason.to_owned(),
    };
    let (rolling, by, named) = (desk.clone(), origin.clone(), next.clone());
    let rolled = tokio::task::spawn_blocking(move || roll_files(&rolling, &by, (named, key), close)).await;
    let log = rolled.map_err(|_| Refusal::bug("closing a shard ended early"))??;
    record_keys(
        desk,
        origin,
        &[(new_public, CaEventKind::Activate), (old_public, CaEventKind::Retire)],
        &next,
    )
    .await?;
    let dropping = desk.clone();
    let _ = tokio::task::spawn_blocking(move || dropping.shards.drop_old_keys()).await;
    info!(origin = %log.origin(), first = log.first(), vkey = %log.vkey(), "a new shard of the ledger begins");
    Ok(log)
}

/// The part that touches files. Nothing is appended while it runs; it ends within the state's wait for a snapshot.
fn roll_files(
    desk: &Desk,
    by: &control::Origin,
    (next, key): (Origin, LogKey),
    close: LogClose,
) -> Result<Arc<Log>, Refusal> {
    let closing = control::encode_one(desk, by, Body::LogClose(close))?;
    let rolled = desk.shards.files.roll(
        &desk.shards.log_keys,
        Roll {
            next: &next,
            key,
            closing,
            snapshot: &mut |position| {
                let at = time_before(&*desk.journal, position)?;
                let snapshot = desk.state.snapshot(position, at);
                snapshot.map_err(|error| mintage_ledger::LedgerError::Record(error.to_string()))
            },
            opening: &mut |open| {
                let record = control::encode_one(desk, by, Body::LogOpen(open));
                record.map_err(|error| mintage_ledger::LedgerError::Record(error.to_string()))
            },
        },
    );
    rolled.map_err(|error| Refusal::unavailable("shard", format!("the shard was not closed: {error}")))
}

/// The time of the record before a position.
pub(crate) fn time_before(journal: &dyn Journal, position: u64) -> Result<UnixTime, mintage_ledger::LedgerError> {
    let last = journal.read_from(position.saturating_sub(1), 1)?.pop();
    let none = || mintage_ledger::LedgerError::Record(format!("there is no record before position {position}"));
    Ok(last.ok_or_else(none)?.decode()?.time)
}

async fn record_keys(
    desk: &Arc<Desk>,
    origin: &control::Origin,
    events: &[([u8; 32], CaEventKind)],
    next: &Origin,
) -> Result<(), Refusal> {
    let body = |(public, event): &([u8; 32], CaEventKind)| {
        Body::CaEvent(CaEvent {
            event: (*event).into(),
            role: CaRole::Log.into(),
            key_id: digest::digest(&digest::SHA256, public).as_ref().to_vec(),
            public_key: public.to_vec(),
            note: format!("log {next} begins"),
            ..CaEvent::default()
        })
    };
    let bodies: Vec<Body> = events.iter().map(body).collect();
    command(desk, origin, |_| Ok((bodies.clone(), ()))).await.map(drop)
}

/// Which shards are given up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retention {
    /// Age of their last record.
    pub(crate) age: Duration,
    /// Also those that the configured object store does not have whole.
    pub(crate) even_if_not_uploaded: bool,
}

/// Old shards, oldest first.
#[derive(Debug)]
pub(crate) struct Old {
    /// They may be given up.
    pub(crate) released: Vec<Releasable>,
    /// They may not yet, for the configured object store does not have them whole.
    pub(crate) withheld: Vec<Releasable>,
    /// The oldest of the others, and why it stays.
    pub(crate) kept: (Arc<Log>, WhyKept),
}

/// The shards that may be given up now: closed, sealed, old, and without a certificate that lives.
pub(crate) fn releasable(desk: &Desk, retention: Retention) -> Result<Old, Refusal> {
    let now = desk.clock.now()?;
    let (files, before) = (&desk.shards.files, now.minus(retention.age));
    let oldest = files.releasable(before, now);
    let is_safe = |shard: &Releasable| match &desk.uploaded {
        Some(uploaded) if !retention.even_if_not_uploaded => uploaded.covers(shard.log.position_of(shard.records)),
        _ => true,
    };
    let (released, withheld) = oldest.releasable.into_iter().partition(is_safe);
    Ok(Old {
        released,
        withheld,
        kept: (oldest.kept, oldest.why),
    })
}

/// Records that shards are given up, and then gives up their records.
pub(crate) async fn retain(desk: &Arc<Desk>, origin: &control::Origin, retention: Retention) -> Result<Old, Refusal> {
    let _turn = desk.shards.turn.lock().await;
    let old = releasable(desk, retention)?;
    for shard in &old.released {
        let event = AdminEvent {
            action: "retain".to_owned(),
            detail: format!("gave up the {} records of {}", shard.records, shard.log.origin()),
        };
        let bodies = vec![Body::AdminEvent(event)];
        command(desk, origin, |_| Ok((bodies.clone(), ()))).await?;
        let (releasing, released) = (desk.clone(), shard.clone());
        let done = tokio::task::spawn_blocking(move || releasing.shards.files.release(&released)).await;
        done.map_err(|_| Refusal::bug("giving up a shard ended early"))?
            .map_err(|error| Refusal::unavailable("shard", format!("the shard was not given up: {error}")))?;
        info!(origin = %shard.log.origin(), records = shard.records, "the records of a shard were given up");
    }
    Ok(old)
}

/// Gives up what is old enough and, where an object store is configured, whole in it.
async fn retain_by_age(desk: &Arc<Desk>, by: &control::Origin, age: Duration) -> Result<(), Refusal> {
    let retention = Retention {
        age,
        even_if_not_uploaded: false,
    };
    for kept in retain(desk, by, retention).await?.withheld {
        warn!(origin = %kept.log.origin(), "a shard is old enough to be given up, and kept until the object store has it whole");
    }
    Ok(())
}

/// Begins a shard with each month and gives up old ones, as far as the configuration asks for it.
pub(crate) async fn keep(desk: Arc<Desk>, stop: CancellationToken) {
    let policy = desk.shards.policy;
    let by = control::Origin::replica(&desk);
    let mut months = tokio::time::interval(SHARD_LOOK_INTERVAL);
    let mut ages = tokio::time::interval(RETAIN_LOOK_INTERVAL);
    loop {
        let done = tokio::select! {
            () = stop.cancelled() => return,
            _ = months.tick() => match policy.monthly && is_over(&desk) {
                true => roll(&desk, &by, "a new month").await.map(drop),
                false => Ok(()),
            },
            _ = ages.tick() => match policy.retain {
                Some(age) => retain_by_age(&desk, &by, age).await,
                None => Ok(()),
            },
        };
        if let Err(problem) = done {
            desk.metrics.alarm("shard");
            error!(%problem, "the ledger's shards are not as configured; it is tried again");
        }
    }
}

/// True when the shard that is written is of an earlier month. A clock that went back ends nothing.
fn is_over(desk: &Desk) -> bool {
    let log = desk.journal.log();
    desk.clock.now().is_ok_and(|now| {
        log.origin()
            .of_month(now)
            .is_ok_and(|month| month.shard()[..7] > log.origin().shard()[..7])
    })
}
