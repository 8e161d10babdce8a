//! A disk that loses power: what was not flushed is there in part, sector by sector, or not at all.

use std::{
    fs, io,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use proptest::prelude::*;

use super::kit::{Place, contents, few_cases, group, options};
use crate::{Disk, DiskFile, FileJournal, Fill, Journal, LocalDisk, OpenOptions};

const SECTOR: usize = 512;

/// Keeps writes back until they are flushed; at the cut, each sector of what is kept back is written or lost as the
/// next of `luck` says.
#[derive(Clone, Debug)]
struct PowerDisk {
    cut: Arc<AtomicBool>,
    luck: Arc<Mutex<Vec<bool>>>,
}

#[derive(Debug)]
struct PowerFile {
    disk: PowerDisk,
    file: Box<dyn DiskFile>,
    pending: Mutex<Vec<(u64, Vec<u8>)>>,
}

impl PowerFile {
    fn write_out(&self, lucky: impl Fn() -> bool) -> io::Result<()> {
        for (offset, bytes) in self.pending.lock().unwrap().drain(..) {
            let (mut at, end) = (offset as usize, offset as usize + bytes.len());
            while at < end {
                let to = ((at / SECTOR + 1) * SECTOR).min(end);
                if lucky() {
                    self.file
                        .write_at(&bytes[at - offset as usize..to - offset as usize], at as u64)?;
                }
                at = to;
            }
        }
        Ok(())
    }
}

impl DiskFile for PowerFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.pending.lock().unwrap().push((offset, bytes.to_vec()));
        Ok(())
    }

    fn reserve(&self, from: u64, to: u64, _: Fill) -> io::Result<()> {
        self.write_at(&vec![0; (to - from) as usize], from)
    }

    fn sync(&self) -> io::Result<()> {
        if self.disk.cut.load(Ordering::SeqCst) {
            let mut luck = self.disk.luck.lock().unwrap();
            luck.rotate_left(1);
            drop(luck);
            self.write_out(|| {
                let mut luck = self.disk.luck.lock().unwrap();
                luck.rotate_left(1);
                luck[0]
            })?;
            return Err(io::Error::other("the power is gone"));
        }
        self.write_out(|| true)?;
        self.file.sync()
    }
}

impl Disk for PowerDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(PowerFile {
            disk: self.clone(),
            file: LocalDisk.create(path)?,
            pending: Mutex::default(),
        }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(PowerFile {
            disk: self.clone(),
            file: LocalDisk.open(path)?,
            pending: Mutex::default(),
        }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        LocalDisk.remove(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        LocalDisk.remove_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        LocalDisk.rename(from, to)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        LocalDisk.sync_dir(path)
    }
}

fn with(disk: &PowerDisk) -> OpenOptions {
    OpenOptions {
        disk: Arc::new(disk.clone()),
        file_bytes: 24 * 1024,
        ..options()
    }
}

proptest! {
    #![proptest_config(few_cases())]

    #[test]
    fn no_acknowledged_group_is_lost_by_a_power_cut(
        rounds in proptest::collection::vec((0u64..9, 1u64..14), 1..6),
        luck in proptest::collection::vec(any::<bool>(), 8..40),
    ) {
        let place = Place::new();
        drop(place.create(options()));
        let mut acknowledged = contents(&place.open().unwrap());
        for (groups, size) in rounds {
            let disk = PowerDisk {
                cut: Arc::default(),
                luck: Arc::new(Mutex::new(luck.clone())),
            };
            let journal = FileJournal::open(&place.ledger(), with(&disk)).unwrap();
            let found = contents(&journal);
            prop_assert_eq!(&found[..acknowledged.len()], &acknowledged[..]);
            for _ in 0..groups {
                let next = journal.size();
                journal.append(&group(next, next + size), 0).unwrap();
            }
            acknowledged = contents(&journal);
            disk.cut.store(true, Ordering::SeqCst);
            let next = journal.size();
            prop_assert!(journal.append(&group(next, next + size), 0).is_err());
            prop_assert_eq!(journal.size(), next);
            drop(journal);
            // The start after it finds at most the group that was under way, and that whole.
            let journal = place.open().unwrap();
            let found = contents(&journal);
            prop_assert_eq!(&found[..acknowledged.len()], &acknowledged[..]);
            let more = (found.len() - acknowledged.len()) as u64;
            prop_assert!(more == 0 || more == size, "{more}");
            acknowledged = found;
        }
        let leftovers = fs::read_dir(place.shard().join("head")).unwrap().count();
        prop_assert_eq!(leftovers as u64, (1..).find(|n| !place.wal(n + 1).exists()).unwrap());
    }
}
