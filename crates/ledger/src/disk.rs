//! What the ledger asks of a disk, behind a seam so that tests can make each write fail, lost or done.

use std::{
    fmt, fs,
    io::{self, IoSlice},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::Path,
};

use rustix::{
    fs::{FallocateFlags, fallocate},
    io::{Errno, pwritev},
};

use crate::LedgerError;

/// Zeros are written in pieces of this size: larger ones gain nothing.
static ZEROS: [u8; 256 * 1024] = [0; 256 * 1024];

/// Parts of one call at most (IOV_MAX of Linux).
const PARTS_MAX: usize = 1024;

/// How room is made that reads as zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Zeros are written. A flush of a little that is put over them writes that alone, where a file system that must first
    /// mark blocks as written makes every flush dearer.
    Zeros,
    /// Blocks are taken and nothing is written, where the file system can do that: what is put there is written once, not twice.
    Blocks,
}

/// A file that is written in place.
pub trait DiskFile: Send + fmt::Debug {
    /// Writes all bytes at an offset.
    ///
    /// # Errors
    /// Whatever the system says; what was written then is unknown.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Writes all parts, one behind the other, from an offset on.
    ///
    /// # Errors
    /// Whatever the system says; what was written then is unknown.
    fn write_parts_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let whole: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.write_at(&whole, offset)
    }

    /// Makes room from offset `from` to offset `to` that reads as zeros. Not durable before [`DiskFile::sync`].
    ///
    /// # Errors
    /// Whatever the system says; a part of the room may then exist.
    fn reserve(&self, from: u64, to: u64, fill: Fill) -> io::Result<()>;

    /// Makes all writes durable (fdatasync).
    ///
    /// # Errors
    /// Whatever the system says. It must not be called again after an error: the system has forgotten what failed.
    fn sync(&self) -> io::Result<()>;
}

/// A disk.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Creates a file that must not exist, with mode 0600.
    ///
    /// # Errors
    /// Whatever the system says.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file to be written in place, and creates it with mode 0600 where there is none.
    ///
    /// # Errors
    /// Whatever the system says.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Removes a file.
    ///
    /// # Errors
    /// Whatever the system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty folder.
    ///
    /// # Errors
    /// Whatever the system says.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// Renames, replacing what is at `to`.
    ///
    /// # Errors
    /// Whatever the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// Whatever the system says.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
}

/// The disk of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalDisk;

#[derive(Debug)]
struct LocalFile(fs::File);

impl DiskFile for LocalFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn write_parts_at(&self, mut parts: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        while !parts.is_empty() {
            match pwritev(&self.0, &parts[..parts.len().min(PARTS_MAX)], offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    offset += written as u64;
                    IoSlice::advance_slices(&mut parts, written);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn reserve(&self, from: u64, to: u64, fill: Fill) -> io::Result<()> {
        // Blocks first, so that a full disk says so before anything is written.
        let allocate = || fallocate(&self.0, FallocateFlags::empty(), from, to.saturating_sub(from));
        let allocated = loop {
            match allocate() {
                Err(Errno::INTR) => {}
                outcome => break outcome,
            }
        };
        match allocated {
            Ok(()) if fill == Fill::Blocks => return Ok(()),
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
        let mut at = from;
        while at < to {
            let len = usize::try_from(to - at).unwrap_or(ZEROS.len()).min(ZEROS.len());
            self.0.write_all_at(&ZEROS[..len], at)?;
            at += len as u64;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

impl Disk for LocalDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        Ok(Box::new(LocalFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        Ok(Box::new(LocalFile(file)))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }
}

/// True for errors that say there is no room, and that nothing else is wrong.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// Removes a file if it is there.
pub(crate) fn remove_if_there(path: &Path) -> Result<(), LedgerError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(LedgerError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Removes a file if it is there, and its name for good: no crash brings it back after a later one is gone.
pub(crate) fn remove_for_good(disk: &dyn Disk, path: &Path) -> Result<(), LedgerError> {
    match disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(LedgerError::io("remove", path)(error)),
        _ => {}
    }
    let dir = path.parent().unwrap_or(Path::new("/"));
    match disk.sync_dir(dir) {
        // Gone with its files.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome.map_err(LedgerError::io("flush", dir)),
    }
}

/// Makes a folder with mode 0700, its parents too.
pub(crate) fn make_dir(path: &Path) -> Result<(), LedgerError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(LedgerError::io("make", path))
}

/// Replaces a small file as a whole: after a crash at any point it is the old or the new one.
pub(crate) fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), LedgerError> {
    let full = |error: io::Error, what| {
        if is_full(&error) {
            LedgerError::NoSpace
        } else {
            LedgerError::io(what, path)(error)
        }
    };
    let new = path.with_added_extension("new");
    remove_if_there(&new)?;
    let file = disk.create(&new).map_err(|error| full(error, "create"))?;
    file.write_at(bytes, 0).map_err(|error| full(error, "write"))?;
    file.sync().map_err(|error| full(error, "flush"))?;
    disk.rename(&new, path).map_err(|error| full(error, "rename"))?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    disk.sync_dir(dir).map_err(|error| full(error, "flush"))
}

/// Reads a whole file of at most `max` bytes.
pub(crate) fn read_whole(path: &Path, max: u64, detail: &'static str) -> Result<Vec<u8>, LedgerError> {
    let metadata = fs::symlink_metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => LedgerError::Missing {
            path: path.to_owned(),
            detail,
        },
        _ => LedgerError::io("read", path)(error),
    })?;
    if !metadata.is_file() {
        return Err(LedgerError::Unsafe {
            path: path.to_owned(),
            problem: "is no plain file; the ledger follows no links".into(),
        });
    }
    if metadata.len() > max {
        return Err(LedgerError::Corrupt {
            path: path.to_owned(),
            offset: max,
            index: 0,
            problem: format!("the file has {} bytes, it never has more than {max}", metadata.len()),
        });
    }
    fs::read(path).map_err(LedgerError::io("read", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_written_in_order_however_many_there_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("parts");
        let file = LocalDisk.create(&path).unwrap();
        let parts: Vec<Vec<u8>> = (1..2 * PARTS_MAX + 3).map(|at| vec![at as u8; at % 7 + 1]).collect();
        file.write_at(b"before", 0).unwrap();
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        file.write_parts_at(&mut slices, 6).unwrap();
        let expected = [b"before".to_vec(), parts.concat()].concat();
        assert_eq!(fs::read(&path).unwrap(), expected);
        file.write_parts_at(&mut [], 3).unwrap();
        assert_eq!(fs::read(&path).unwrap(), expected);
    }
}
