//! One process at a time: an exclusive lock that the kernel drops when its holder ends, however it ends.

use std::{
    fs::File,
    io::Write,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::{
    SysError,
    dir::{Dir, Kind, Meta},
};

/// An exclusive lock, held for as long as the value lives (flock(2)).
#[derive(Debug)]
pub struct Lock {
    _held: Held,
    path: PathBuf,
}

/// A locked file. It is unlocked by word and not only by closing: a child process that is just being started holds a
/// copy of the descriptor for a moment, and would hold the lock with it.
#[derive(Debug)]
pub(crate) struct Held(File);

impl Held {
    pub(crate) fn exclusive(file: File, path: &Path) -> Result<Self, SysError> {
        Self::take(file, path, FlockOperation::NonBlockingLockExclusive)
    }

    fn take(file: File, path: &Path, how: FlockOperation) -> Result<Self, SysError> {
        match rustix::fs::flock(&file, how) {
            Ok(()) => Ok(Self(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(SysError::Busy(path.display().to_string())),
            Err(error) => Err(SysError::io(path, "lock", error)),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Nothing to be done about a failure: closing unlocks as well.
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

impl Lock {
    /// Takes the lock named `name` in `dir`, making its file (mode 0600) when it is missing. Never waits.
    ///
    /// # Errors
    /// `Busy` when another process, or another `Lock` of this one, holds it.
    pub fn exclusive(dir: &Dir, name: &str) -> Result<Self, SysError> {
        let path = dir.path().join(name);
        let io = |doing| {
            let path = path.clone();
            move |error: rustix::io::Errno| SysError::io(&path, doing, error)
        };
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file: File = rustix::fs::openat(dir.as_fd(), name, flags, Mode::from_raw_mode(0o600))
            .map_err(io("open the lock"))?
            .into();
        let meta = Meta::of(&file).map_err(|error| SysError::io(&path, "stat", error))?;
        if meta.kind != Kind::File {
            return Err(SysError::refused(
                &path,
                format!("is {}; remove it", meta.kind.describe()),
            ));
        }
        let held = Held::exclusive(file, &path)?;
        // Who holds it, for a person who looks; nothing reads it back, so a failure (full disk) does not matter.
        let _ = held.0.set_len(0);
        let _ = writeln!(&held.0, "{}", std::process::id());
        Ok(Self { _held: held, path })
    }

    /// Takes the lock named `name` in `dir` together with whoever else only reads, and makes and writes nothing: `None` when
    /// its file is not there. Keeps an exclusive holder out for as long as it lives.
    ///
    /// # Errors
    /// `Busy` when it is held exclusively.
    pub fn shared(dir: &Dir, name: &str) -> Result<Option<Self>, SysError> {
        let path = dir.path().join(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file: File = match rustix::fs::openat(dir.as_fd(), name, flags, Mode::empty()) {
            Ok(file) => file.into(),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(SysError::io(&path, "open the lock", error)),
        };
        let held = Held::take(file, &path, FlockOperation::NonBlockingLockShared)?;
        Ok(Some(Self { _held: held, path }))
    }

    /// The lock's file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_until_the_first_lets_go() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let first = Lock::exclusive(&dir, "lock").unwrap();
        assert!(matches!(Lock::exclusive(&dir, "lock"), Err(SysError::Busy(_))));
        drop(first);
        Lock::exclusive(&dir, "lock").unwrap();
    }

    #[test]
    fn a_copy_of_the_descriptor_does_not_hold_the_lock_on() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let first = Lock::exclusive(&dir, "lock").unwrap();
        let copy = first._held.0.try_clone().unwrap();
        drop(first);
        Lock::exclusive(&dir, "lock").unwrap();
        drop(copy);
    }

    #[test]
    fn readers_share_the_lock_and_keep_a_writer_out_and_make_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        assert!(Lock::shared(&dir, "lock").unwrap().is_none());
        assert!(dir.names(1).unwrap().is_empty());
        let writer = Lock::exclusive(&dir, "lock").unwrap();
        assert!(matches!(Lock::shared(&dir, "lock"), Err(SysError::Busy(_))));
        drop(writer);
        let readers = [Lock::shared(&dir, "lock").unwrap(), Lock::shared(&dir, "lock").unwrap()];
        assert!(readers.iter().all(Option::is_some));
        assert!(matches!(Lock::exclusive(&dir, "lock"), Err(SysError::Busy(_))));
    }

    #[test]
    fn a_symlink_or_a_pipe_in_the_place_of_the_lock_is_refused_at_once() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        dir.symlink("/etc/passwd", "link").unwrap();
        assert!(Lock::exclusive(&dir, "link").is_err());
        rustix::fs::mkfifoat(&dir, "pipe", Mode::from_raw_mode(0o600)).unwrap();
        assert!(Lock::exclusive(&dir, "pipe").is_err());
    }
}
