//! One pass over the ledger: what is sealed and not in the store is put there, oldest first; then the newest checkpoints; and a
//! closed shard is named in the store's policy when every object of it is known to be right.
//!
//! Nothing is remembered on this machine: the policy in the store says which shards are whole there, and a list of a shard's
//! folder which objects are. Objects that an earlier process put count as progress by name and length, and are read back and
//! compared before their shard is named.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use mintage_ledger::{
    Archive, ArchiveFile, FileJournal, Journal, Log, Policy, SignedCheckpoint,
    limits::{NOTE_BYTES_MAX, POLICY_BYTES_MAX, SEGMENT_RECORDS},
};

use super::{
    progress::Uploaded,
    store::{Failed, Found, Store},
};
use crate::{desk::Desk, limits::UPLOADS_AT_ONCE};

/// The name of the store's list of whole shards, as of the ledger's own list of all.
const POLICY: &str = "policy";

/// What is known of one shard that the store does not name yet.
#[derive(Debug)]
struct Sent {
    /// Objects and their lengths, as they were listed once.
    listed: HashMap<String, u64>,
    /// Objects that this process put, or read back and compared.
    sure: HashSet<String>,
}

impl Sent {
    fn has(&self, file: &ArchiveFile) -> bool {
        self.sure.contains(&file.name) || self.listed.get(&file.name) == Some(&file.bytes)
    }
}

/// How a pass ended that no outage ended.
#[derive(Debug, Default)]
pub(super) struct Passed {
    /// Objects that are others than they must be.
    pub(super) conflicts: Vec<String>,
}

/// Carries the ledger to the store.
pub(super) struct Uploader {
    desk: Arc<Desk>,
    journal: Arc<FileJournal>,
    uploaded: Arc<Uploaded>,
    sent: BTreeMap<String, Sent>,
    /// Position up to which every sealed record is in the store, as far as this process knows.
    reached: u64,
    /// When something sealed was first seen that is not in the store.
    behind: Option<Duration>,
}

impl Uploader {
    pub(super) fn new(desk: Arc<Desk>, uploaded: Arc<Uploaded>) -> Self {
        Self {
            journal: desk.shards.files().clone(),
            desk,
            uploaded,
            sent: BTreeMap::new(),
            reached: 0,
            behind: None,
        }
    }

    /// What a pass depends on: the records that are sealed, and the number of logs.
    pub(super) fn extent(&self) -> (u64, usize) {
        (self.journal.segments().end(), self.journal.logs().len())
    }

    /// Makes the store as new as the ledger.
    ///
    /// # Errors
    /// What kept it from that; what was put stays, and the next pass goes on from there.
    pub(super) async fn pass(&mut self, store: &Store) -> Result<Passed, Failed> {
        let logs = self.journal.logs();
        let (mut named, _) = self.named(store, &logs).await?;
        self.name_reached(&logs, named);
        let mut passed = Passed::default();
        for (at, log) in logs.iter().enumerate().skip(named) {
            let whole = match self.log(store, log).await {
                Ok(whole) => whole,
                Err(Failed::Conflict(problem)) => {
                    passed.conflicts.push(problem);
                    false
                }
                Err(later) => return Err(later),
            };
            let Some(next) = logs.get(at + 1).filter(|_| whole && at == named) else {
                continue;
            };
            self.name(store, &logs, at).await?;
            named = at + 1;
            self.sent.remove(log.origin().as_str());
            tracing::info!(origin = %log.origin(), end = next.first(), "a closed shard is whole in the store");
            self.name_reached(&logs, named);
        }
        Ok(passed)
    }

    fn name_reached(&mut self, logs: &[Arc<Log>], named: usize) {
        let end = logs.get(named).map_or(0, |log| log.first());
        self.reached = self.reached.max(end);
        self.uploaded.reached(end);
    }

    /// The store's policy, and how many of the ledger's logs it names, oldest first.
    async fn named(&self, store: &Store, logs: &[Arc<Log>]) -> Result<(usize, Option<Found>), Failed> {
        let Some(found) = store.read(POLICY, POLICY_BYTES_MAX).await? else {
            return Ok((0, None));
        };
        let conflict = |problem: String| Failed::Conflict(format!("{POLICY}: {problem}"));
        let policy = Policy::parse(&found.bytes).map_err(|error| conflict(error.to_string()))?;
        let theirs = policy.logs();
        // The log that is written is never named.
        let same = theirs.len() < logs.len() && theirs.iter().zip(logs).all(|(one, log)| one.vkey == *log.vkey());
        match same {
            true => Ok((theirs.len(), Some(found))),
            false => Err(conflict(
                "it names other logs than this ledger has closed; give each ledger a prefix of its own, and one that was \
                 restored a new one"
                    .to_owned(),
            )),
        }
    }

    /// Names one more of the logs in the store.
    async fn name(&self, store: &Store, logs: &[Arc<Log>], at: usize) -> Result<(), Failed> {
        // Looked at again, so that what is replaced is what was compared.
        let (named, found) = self.named(store, logs).await?;
        if named != at {
            return Err(Failed::Later(format!(
                "{POLICY} was changed by somebody else meanwhile"
            )));
        }
        let mut text = String::from("# Logs that are whole here, oldest first (C2SP tlog-policy).\n");
        for log in &logs[..=at] {
            text.push_str(&format!("log {}\n", log.vkey()));
        }
        text.push_str("quorum none\n");
        store.replace(POLICY, text.into_bytes(), found).await
    }

    /// Puts what is sealed of a log, and its newest checkpoint; true when all of a closed log is in the store and right.
    async fn log(&mut self, store: &Store, log: &Log) -> Result<bool, Failed> {
        let archive = self
            .journal
            .archive(log)
            .map_err(|error| Failed::Later(error.to_string()))?;
        let key = log.origin().as_str().to_owned();
        let folder = format!("{}/{}", log.origin().id(), log.origin().shard());
        let mut sent = match self.sent.remove(&key) {
            Some(sent) => sent,
            None => Sent {
                listed: store.list(&folder).await?,
                sure: HashSet::new(),
            },
        };
        let done = self.put(store, &archive, &mut sent).await;
        let done = match done {
            Ok(()) => self.finish(store, log, &archive, &mut sent).await,
            failed => failed.map(|()| false),
        };
        self.sent.insert(key, sent);
        done
    }

    /// Puts every file that the store lacks.
    async fn put(&mut self, store: &Store, archive: &Archive, sent: &mut Sent) -> Result<(), Failed> {
        let missing: Vec<&ArchiveFile> = archive.files.iter().filter(|file| !sent.has(file)).collect();
        let mut half = Vec::new();
        for _ in &missing {
            let drawn = self
                .desk
                .random::<8>()
                .map_err(|error| Failed::Later(error.to_string()))?;
            half.push(u64::from_le_bytes(drawn));
        }
        let puts = missing.into_iter().zip(half);
        let mut puts = stream::iter(puts)
            .map(|(file, unique)| async move { (file, store.put_new(file, unique).await) })
            .buffer_unordered(UPLOADS_AT_ONCE);
        let mut conflict = None;
        while let Some((file, outcome)) = puts.next().await {
            match outcome {
                Ok(()) => {
                    self.desk.metrics.uploaded("put");
                    sent.sure.insert(file.name.clone());
                }
                Err(Failed::Conflict(problem)) => conflict = Some(problem),
                Err(later) => return Err(later),
            }
        }
        conflict.map_or(Ok(()), |problem| Err(Failed::Conflict(problem)))
    }

    /// What follows when everything that is sealed is there: the checkpoint, and for a closed log the last look at it.
    async fn finish(&mut self, store: &Store, log: &Log, archive: &Archive, sent: &mut Sent) -> Result<bool, Failed> {
        if log.first() <= self.reached {
            // A gap before this log keeps it from counting.
            self.reached = self.reached.max(archive.end);
        }
        self.checkpoint(store, log).await?;
        if !archive.whole {
            return Ok(false);
        }
        let folder = format!("{}/{}", log.origin().id(), log.origin().shard());
        sent.listed = store.list(&folder).await?;
        for file in &archive.files {
            match sent.listed.get(&file.name) {
                Some(bytes) if *bytes == file.bytes => {}
                Some(_) => return Err(Failed::Conflict(format!("{}: it has another length", file.name))),
                None => {
                    sent.sure.remove(&file.name);
                    return Err(Failed::Later(format!("{} was put and is not there", file.name)));
                }
            }
        }
        let unsure: Vec<&ArchiveFile> = archive
            .files
            .iter()
            .filter(|file| !sent.sure.contains(&file.name))
            .collect();
        let mut looks = stream::iter(unsure)
            .map(|file| async move { (file, store.compare(file).await) })
            .buffer_unordered(UPLOADS_AT_ONCE);
        while let Some((file, outcome)) = looks.next().await {
            outcome?;
            self.desk.metrics.uploaded("compared");
            sent.sure.insert(file.name.clone());
        }
        Ok(true)
    }

    /// Replaces the log's checkpoint in the store by the one here, if that goes on from it.
    async fn checkpoint(&self, store: &Store, log: &Log) -> Result<(), Failed> {
        let name = FileJournal::archived_checkpoint(log);
        let here = |error: mintage_ledger::LedgerError| Failed::Later(error.to_string());
        let ours = self.journal.checkpoint_of(log).map_err(here)?;
        let found = store.read(&name, NOTE_BYTES_MAX).await?;
        if let Some(found) = &found {
            let conflict = |problem: String| Failed::Conflict(format!("{name}: {problem}"));
            let theirs = SignedCheckpoint::verify(&found.bytes, log.vkey())
                .map_err(|error| conflict(format!("it is none of this log: {error}")))?;
            match self.goes_on(log, &theirs, &ours).map_err(conflict)? {
                true => {}
                false => return Ok(()),
            }
        }
        store.replace(&name, ours.to_string().into_bytes(), found).await
    }

    /// True when our checkpoint is to replace theirs.
    fn goes_on(&self, log: &Log, theirs: &SignedCheckpoint, ours: &SignedCheckpoint) -> Result<bool, String> {
        let (old, new) = (theirs.checkpoint(), ours.checkpoint());
        if old.size > new.size {
            return Err(format!(
                "the store has one of {} records, this ledger one of {}: this data directory is older than what was \
                 uploaded, or another CA writes there",
                old.size, new.size
            ));
        }
        let forked = || format!("the store has another tree of {} records than this ledger", old.size);
        if old.size == new.size {
            return match old.root == new.root {
                // Witnesses may have added lines.
                true => Ok(ours.note().signatures().len() > theirs.note().signatures().len()),
                false => Err(forked()),
            };
        }
        // Of a log whose records were given up nothing can be proven any more.
        if log.first() < self.journal.first() {
            return Ok(true);
        }
        let tree = self.desk.trees.of_log(log).map_err(|error| error.to_string())?;
        let root = tree.root_at(old.size).map_err(|error| error.to_string())?;
        match root == old.root {
            true => Ok(true),
            false => Err(forked()),
        }
    }

    /// Tells how far behind the store is.
    pub(super) fn measure(&mut self) {
        let firsts: Vec<u64> = self.journal.logs().iter().map(|log| log.first()).collect();
        let pending = segments_between(&firsts, self.reached, self.journal.segments().end());
        let now = self.desk.clock.clock().monotonic();
        self.behind = match pending {
            0 => None,
            _ => self.behind.or(Some(now)),
        };
        let age = self.behind.map_or(Duration::ZERO, |since| now.saturating_sub(since));
        self.desk.metrics.upload_behind(pending, age);
    }
}

/// Segments of logs that begin at these positions with a record from `from` to `to`.
fn segments_between(firsts: &[u64], from: u64, to: u64) -> u64 {
    let width = SEGMENT_RECORDS as u64;
    let ends = firsts.iter().skip(1).copied().chain([u64::MAX]);
    let logs = firsts.iter().copied().zip(ends);
    logs.map(|(first, end)| (first, from.max(first), to.min(end)))
        .filter(|(_, from, to)| from < to)
        .map(|(first, from, to)| (to - first).div_ceil(width) - (from - first) / width)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_counted_in_each_log_from_its_own_first_record() {
        let width = SEGMENT_RECORDS as u64;
        for (firsts, from, to, segments) in [
            (vec![0], 0, 0, 0),
            (vec![0], 0, width, 1),
            (vec![0], width, 3 * width, 2),
            (vec![0, 10], 0, 10, 1),
            (vec![0, 10], 0, 10 + width, 2),
            (vec![0, 10, 30], 10, 30, 1),
            (vec![0, 10, 30], 0, 30, 2),
            (vec![0, width + 5], 0, width + 5, 2),
            (vec![0, width + 5], width, width + 5, 1),
            (vec![0], 5, 3, 0),
        ] {
            assert_eq!(segments_between(&firsts, from, to), segments, "{firsts:?} {from} {to}");
        }
    }
}
