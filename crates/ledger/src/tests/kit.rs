//! A small ledger in a temporary folder, and disks that fail on demand.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mintage_identity::{TrustDomain, UnixTime};
use tempfile::TempDir;
use zeroize::Zeroizing;

use crate::{
    Body, Disk, DiskFile, EncodedRecord, FileJournal, Fill, Follower, Integrator, Journal, Kind, LedgerError,
    LocalDisk, LogKey, LogKeys, OpenOptions, Origin, Trees, samples, wire,
};

pub(super) const RESERVE: u64 = 4096;

pub(crate) fn key() -> LogKey {
    LogKey::generate(&Zeroizing::new([3; 32])).unwrap().0
}

pub(crate) fn origin() -> Origin {
    let domain = TrustDomain::parse("dev.test").unwrap();
    Origin::new(&domain, "a1b2", UnixTime::from_seconds(1_764_547_200)).unwrap()
}

pub(super) fn opening() -> EncodedRecord {
    let open = wire::LogOpen {
        origin: origin().to_string(),
        vkey: key().vkey(&origin()).to_string(),
        ..Default::default()
    };
    samples::head(0, Body::LogOpen(open)).encode().unwrap()
}

pub(super) fn options() -> OpenOptions {
    OpenOptions {
        reserve_bytes: RESERVE,
        ..OpenOptions::default()
    }
}

pub(super) fn issue(seed: u64) -> EncodedRecord {
    samples::issue(seed, "spiffe://dev.test/web", "web-1").encode().unwrap()
}

pub(super) fn record(kind: Kind, seed: u64) -> EncodedRecord {
    samples::record_of(kind, seed).encode().unwrap()
}

/// Issues `from..to`.
pub(super) fn group(from: u64, to: u64) -> Vec<EncodedRecord> {
    (from..to).map(issue).collect()
}

/// A ledger's folder that outlives the journal.
pub(super) struct Place {
    dir: TempDir,
}

impl Place {
    pub(super) fn new() -> Self {
        // In memory where there is such a folder: thousands of flushes are not what these tests are about.
        let memory = tempfile::tempdir_in("/dev/shm");
        Self {
            dir: memory.or_else(|_| tempfile::tempdir()).unwrap(),
        }
    }

    pub(super) fn ledger(&self) -> PathBuf {
        self.dir.path().join("ledger")
    }

    pub(super) fn shard(&self) -> PathBuf {
        self.ledger().join("a1b2/2025-12")
    }

    pub(super) fn wal(&self, number: u64) -> PathBuf {
        self.shard().join(format!("head/{number:08}.wal"))
    }

    pub(super) fn create(&self, options: OpenOptions) -> FileJournal {
        FileJournal::create(&self.ledger(), &origin(), &key(), opening(), options).unwrap()
    }

    pub(super) fn open(&self) -> Result<FileJournal, LedgerError> {
        FileJournal::open(&self.ledger(), options())
    }

    pub(super) fn open_applied(&self, applied: u64) -> Result<FileJournal, LedgerError> {
        FileJournal::open(&self.ledger(), OpenOptions { applied, ..options() })
    }

    /// A copy of the whole folder, to be damaged.
    pub(super) fn copy(&self) -> Self {
        let copy = Self::new();
        copy_dir(&self.ledger(), &copy.ledger());
        copy
    }
}

fn copy_dir(from: &Path, to: &Path) {
    crate::disk::make_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_dir(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// Every one of a campaign's cases when the whole campaign is asked for, else every `one_in`th, from a seeded start.
pub(super) fn campaign(cases: std::ops::Range<usize>, one_in: usize) -> impl Iterator<Item = usize> {
    let seed = std::env::var("MINTAGE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(0usize);
    let (skip, step) = match std::env::var_os("MINTAGE_FULL") {
        Some(_) => (0, 1),
        None => (seed % one_in, one_in),
    };
    cases.skip(skip).step_by(step)
}

/// The cases of a property whose every case opens a ledger.
pub(crate) fn few_cases() -> proptest::prelude::ProptestConfig {
    let usual = proptest::prelude::ProptestConfig::default();
    proptest::prelude::ProptestConfig {
        cases: usual.cases / 4 + 1,
        ..usual
    }
}

/// The trees of a journal.
pub(crate) fn trees(journal: &Arc<FileJournal>) -> Arc<Trees> {
    Trees::new(journal.ledger(), journal.clone(), journal.disk().clone())
}

/// The key of the kit's first shard.
pub(super) fn keys() -> Arc<LogKeys> {
    LogKeys::new(&origin(), key())
}

/// Lets an integrator follow all there is, signing as it ends.
pub(super) fn integrate(journal: &Arc<FileJournal>, trees: &Arc<Trees>, keys: Option<Arc<LogKeys>>) {
    let shared: Arc<dyn Journal> = journal.clone();
    let integrator = Integrator::new(shared.clone(), trees.clone(), keys, Duration::ZERO).unwrap();
    let follower = Follower::start("tree", shared, vec![Box::new(integrator)], Duration::ZERO).unwrap();
    follower.stop();
}

/// All records' bytes from 0 on.
pub(super) fn contents(journal: &dyn Journal) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = Vec::new();
    loop {
        let some = journal.read_from(all.len() as u64, 37).unwrap();
        if some.is_empty() {
            return all;
        }
        for stored in some {
            assert_eq!(stored.index(), all.len() as u64);
            all.push(stored.bytes().to_vec());
        }
    }
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing is done, and an error reported.
    Lost,
    /// It is done, and an error reported.
    DoneButReported,
    /// Nothing is done for want of space, this once.
    Full,
    /// A part is done, then there is no space, this once.
    HalfFull,
}

/// A disk on which call number `at`, from 1, fails; `0`: none.
#[derive(Debug, Default)]
pub(super) struct FaultDisk {
    pub(super) calls: AtomicU64,
    plan: Mutex<Option<(u64, Fault)>>,
    /// How room was made, each time.
    pub(super) fills: Mutex<Vec<Fill>>,
    /// So many of the next requests for room are answered that there is none.
    pub(super) no_room: AtomicU64,
    /// So many of the next removals of files are refused.
    pub(super) no_removal: AtomicU64,
}

impl FaultDisk {
    pub(super) fn fail_at(&self, call: u64, fault: Fault) {
        *self.plan.lock().unwrap() = Some((call, fault));
    }

    /// The next call fails.
    pub(super) fn fail_next(&self, fault: Fault) {
        self.fail_at(self.calls.load(Ordering::SeqCst) + 1, fault);
    }

    fn call<T>(&self, half: impl FnOnce(), whole: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let fault = self
            .plan
            .lock()
            .unwrap()
            .filter(|(at, _)| *at == call)
            .map(|(_, fault)| fault);
        match fault {
            None => whole(),
            Some(Fault::Lost) => Err(io::Error::other("injected: lost")),
            Some(Fault::DoneButReported) => {
                whole()?;
                Err(io::Error::other("injected: done"))
            }
            Some(Fault::Full) => Err(io::ErrorKind::StorageFull.into()),
            Some(Fault::HalfFull) => {
                half();
                Err(io::ErrorKind::StorageFull.into())
            }
        }
    }
}

/// The disk as a handle that journals share with the test.
#[derive(Clone, Debug)]
pub(super) struct Faulty(pub(super) Arc<FaultDisk>);

impl Faulty {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    pub(super) fn options(&self) -> OpenOptions {
        OpenOptions {
            disk: Arc::new(self.clone()),
            ..options()
        }
    }
}

#[derive(Debug)]
struct FaultFile {
    disk: Arc<FaultDisk>,
    file: Box<dyn DiskFile>,
}

impl DiskFile for FaultFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let half = || drop(self.file.write_at(&bytes[..bytes.len() / 2], offset));
        self.disk.call(half, || self.file.write_at(bytes, offset))
    }

    fn reserve(&self, from: u64, to: u64, fill: Fill) -> io::Result<()> {
        let answered = |left: u64| left.checked_sub(1);
        if self
            .disk
            .no_room
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, answered)
            .is_ok()
        {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.disk.fills.lock().unwrap().push(fill);
        let half = || drop(self.file.reserve(from, from + (to - from) / 3, fill));
        self.disk.call(half, || self.file.reserve(from, to, fill))
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.call(|| {}, || self.file.sync())
    }
}

impl Disk for Faulty {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = self.0.call(|| {}, || LocalDisk.create(path))?;
        Ok(Box::new(FaultFile {
            disk: Arc::clone(&self.0),
            file,
        }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = self.0.call(|| {}, || LocalDisk.open(path))?;
        Ok(Box::new(FaultFile {
            disk: Arc::clone(&self.0),
            file,
        }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let refused = |left: u64| left.checked_sub(1);
        if self
            .0
            .no_removal
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, refused)
            .is_ok()
        {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.0.call(|| {}, || LocalDisk.remove(path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.0.call(|| {}, || LocalDisk.remove_dir(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.call(|| {}, || LocalDisk.rename(from, to))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.call(|| {}, || LocalDisk.sync_dir(path))
    }
}
