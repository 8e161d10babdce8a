//! A directory held open, and files reached only beneath it: no symlink is followed, no name leaves it (openat2(2)).

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, ResolveFlags};

mod meta;
mod owned;

pub use meta::{Kind, Meta};
pub use owned::{create_owned, open_owned, private_umask};

/// Longest file name (`NAME_MAX`).
const NAME_BYTES_MAX: usize = 255;

const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// A directory, by descriptor: what the path comes to mean later does not matter.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl Dir {
    /// Opens a directory. Its own name must not be a symlink; those above it may be, they are the operator's.
    ///
    /// # Errors
    /// `NotADirectory` (for a symlink too), or whatever open(2) answers.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
        Ok(Self {
            fd,
            path: path.to_owned(),
        })
    }

    /// Opens a directory whose path goes through no symlink at all: for folders that others may own in part.
    ///
    /// # Errors
    /// ELOOP when any part is a symlink; `Unsupported` before kernel 5.6; otherwise what openat2(2) answers.
    pub fn open_without_symlinks(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let fd = openat2(CWD, path, flags, Mode::empty(), resolve)?;
        Ok(Self {
            fd,
            path: path.to_owned(),
        })
    }

    /// The path it was opened by: for messages only.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A second handle on the same directory.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            fd: self.fd.try_clone()?,
            path: self.path.clone(),
        })
    }

    /// What the directory itself is.
    ///
    /// # Errors
    /// Whatever fstat(2) answers.
    pub fn meta(&self) -> io::Result<Meta> {
        Meta::of(&self.fd)
    }

    /// What `name` is, without following it; `None` when there is no such entry.
    ///
    /// # Errors
    /// `InvalidInput` for what is no plain name; otherwise what fstatat(2) answers.
    pub fn entry(&self, name: &str) -> io::Result<Option<Meta>> {
        check_name(name)?;
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Meta::from_stat(&stat))),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens an existing regular file beneath for reading. A FIFO or device is refused without waiting on it.
    ///
    /// # Errors
    /// ELOOP for a symlink on the way, `InvalidInput` for what is no regular file, else openat2(2)'s.
    pub fn open_file_beneath(&self, path: impl AsRef<Path>) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = openat2(&self.fd, path.as_ref(), flags, Mode::empty(), BENEATH)?;
        if Meta::of(&fd)?.kind != Kind::File {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(fd.into())
    }

    /// Opens a directory beneath.
    ///
    /// # Errors
    /// ELOOP for a symlink on the way, else what openat2(2) answers.
    pub fn open_dir_beneath(&self, path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            fd: openat2(&self.fd, path, flags, Mode::empty(), BENEATH)?,
            path: self.path.join(path),
        })
    }

    /// Creates a new file with exactly these permission bits, whatever the umask, open for reading and writing.
    ///
    /// # Errors
    /// `AlreadyExists` for any entry of that name, a dangling symlink too; otherwise what openat2(2) answers.
    pub fn create_file_beneath(&self, name: &str, mode: u32) -> io::Result<File> {
        check_name(name)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Born with owner bits only: nobody else can open it before its mode is final.
        let fd = openat2(
            &self.fd,
            Path::new(name),
            flags,
            Mode::from_raw_mode(mode & 0o700),
            BENEATH,
        )?;
        if let Err(error) = rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode)) {
            self.remove_file(name)?;
            return Err(error.into());
        }
        Ok(fd.into())
    }

    /// Creates a directory with exactly these permission bits and opens it.
    ///
    /// # Errors
    /// `AlreadyExists`; otherwise what mkdirat(2) and openat2(2) answer.
    pub fn create_dir_beneath(&self, name: &str, mode: u32) -> io::Result<Self> {
        check_name(name)?;
        rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(mode & 0o700))?;
        let made = self.open_dir_beneath(name)?;
        rustix::fs::fchmod(&made.fd, Mode::from_raw_mode(mode))?;
        Ok(made)
    }

    /// Makes a symlink `name` with this target; the target is not looked at.
    ///
    /// # Errors
    /// `AlreadyExists`; otherwise what symlinkat(2) answers.
    pub fn symlink(&self, target: &str, name: &str) -> io::Result<()> {
        check_name(name)?;
        rustix::fs::symlinkat(target, &self.fd, name)?;
        Ok(())
    }

    /// The target of the symlink `name`; `None` when there is no such entry or it is no symlink.
    ///
    /// # Errors
    /// Whatever readlinkat(2) answers.
    pub fn read_link(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        check_name(name)?;
        match rustix::fs::readlinkat(&self.fd, name, Vec::new()) {
            Ok(target) => Ok(Some(target.into_bytes())),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Renames within the directory, replacing what `to` was, in one step for every observer.
    ///
    /// # Errors
    /// Whatever renameat(2) answers.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_name(from)?;
        check_name(to)?;
        rustix::fs::renameat(&self.fd, from, &self.fd, to)?;
        Ok(())
    }

    /// Renames within the directory; fails when `to` exists.
    ///
    /// # Errors
    /// `AlreadyExists`; otherwise what renameat2(2) answers.
    pub fn rename_new(&self, from: &str, to: &str) -> io::Result<()> {
        check_name(from)?;
        check_name(to)?;
        match rustix::fs::renameat_with(&self.fd, from, &self.fd, to, RenameFlags::NOREPLACE) {
            // Some network file systems do not know the flag; a link fails on an existing name just so.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                rustix::fs::linkat(&self.fd, from, &self.fd, to, AtFlags::empty())?;
                rustix::fs::unlinkat(&self.fd, from, AtFlags::empty())?;
                Ok(())
            }
            other => Ok(other?),
        }
    }

    /// Removes a file or symlink.
    ///
    /// # Errors
    /// Whatever unlinkat(2) answers.
    pub fn remove_file(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())?;
        Ok(())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// Whatever unlinkat(2) answers.
    pub fn remove_dir(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR)?;
        Ok(())
    }

    /// Names of the entries in no order, without `.` and `..`; at most `limit`, more is `FileTooLarge`.
    ///
    /// # Errors
    /// Whatever getdents(2) answers.
    pub fn names(&self, limit: usize) -> io::Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            if names.len() == limit {
                return Err(io::Error::new(
                    io::ErrorKind::FileTooLarge,
                    format!("directory holds more than {limit} entries"),
                ));
            }
            names.push(name.to_vec());
        }
        Ok(names)
    }

    /// Makes the directory's entries durable.
    ///
    /// # Errors
    /// Whatever fsync(2) answers; it must not be tried again.
    pub fn fsync(&self) -> io::Result<()> {
        rustix::fs::fsync(&self.fd)?;
        Ok(())
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// One component: not empty, not `.` or `..`, no slash, no NUL.
fn check_name(name: &str) -> io::Result<()> {
    let plain = !matches!(name, "" | "." | "..") && !name.bytes().any(|b| matches!(b, b'/' | 0));
    if plain && name.len() <= NAME_BYTES_MAX {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("{name:?} is no plain file name"),
    ))
}

/// openat2(2) answers EAGAIN when a rename elsewhere raced with the walk; a few tries are enough, then it is reported.
const OPENAT2_TRIES_MAX: usize = 16;

fn openat2(dir: impl AsFd, path: &Path, flags: OFlags, mode: Mode, resolve: ResolveFlags) -> io::Result<OwnedFd> {
    let path: &OsStr = path.as_os_str();
    let mut tries = 0;
    loop {
        tries += 1;
        match rustix::fs::openat2(&dir, path.as_bytes(), flags, mode, resolve) {
            Err(rustix::io::Errno::AGAIN) if tries < OPENAT2_TRIES_MAX => {}
            Err(rustix::io::Errno::NOSYS) => {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "openat2 is missing: kernel 5.6 or later is needed, and no filter on that system call",
                ));
            }
            other => return Ok(other?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        os::unix::fs::{PermissionsExt, symlink},
    };

    use super::*;

    fn folder() -> (tempfile::TempDir, Dir) {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        (temp, dir)
    }

    fn errno(error: &io::Error) -> Option<rustix::io::Errno> {
        error.raw_os_error().map(rustix::io::Errno::from_raw_os_error)
    }

    #[test]
    fn nothing_beneath_is_reached_through_a_symlink_or_two_dots() {
        let (temp, dir) = folder();
        let inner = dir.create_dir_beneath("inner", 0o755).unwrap();
        inner
            .create_file_beneath("file", 0o644)
            .unwrap()
            .write_all(b"x")
            .unwrap();
        assert!(dir.open_file_beneath("inner/file").is_ok());
        symlink("inner", temp.path().join("link")).unwrap();
        symlink("/etc/passwd", temp.path().join("away")).unwrap();
        for path in ["link/file", "away"] {
            let error = dir.open_file_beneath(path).unwrap_err();
            assert_eq!(errno(&error), Some(rustix::io::Errno::LOOP), "{path}");
        }
        assert!(inner.open_file_beneath("../away").is_err());
        assert!(dir.open_file_beneath("/etc/passwd").is_err());
        assert!(dir.open_dir_beneath("link").is_err());
        assert!(Dir::open(temp.path().join("link")).is_err());
        assert!(Dir::open_without_symlinks(temp.path().join("link")).is_err());
    }

    #[test]
    fn a_new_file_has_its_mode_whatever_the_umask_and_never_takes_an_existing_name() {
        let (temp, dir) = folder();
        dir.create_file_beneath("a", 0o666).unwrap();
        let mode = std::fs::metadata(temp.path().join("a")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o666);
        symlink("nowhere", temp.path().join("dangling")).unwrap();
        for name in ["a", "dangling"] {
            let error = dir.create_file_beneath(name, 0o600).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{name}");
        }
        assert!(!temp.path().join("nowhere").exists());
    }

    #[test]
    fn only_plain_names_are_taken_for_changes() {
        let (_temp, dir) = folder();
        let long = "a".repeat(256);
        for name in ["", ".", "..", "a/b", "/a", "a\0b", &long] {
            assert!(dir.create_file_beneath(name, 0o600).is_err(), "{name:?}");
            assert!(dir.create_dir_beneath(name, 0o700).is_err(), "{name:?}");
            assert!(dir.remove_file(name).is_err(), "{name:?}");
            assert!(dir.symlink("x", name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_pipe_is_not_waited_for() {
        let (_temp, dir) = folder();
        rustix::fs::mkfifoat(&dir, "pipe", Mode::from_raw_mode(0o600)).unwrap();
        assert!(dir.open_file_beneath("pipe").is_err());
        assert_eq!(dir.entry("pipe").unwrap().unwrap().kind, Kind::Fifo);
        assert!(dir.entry("none").unwrap().is_none());
    }

    #[test]
    fn renaming_as_new_never_replaces() {
        let (_temp, dir) = folder();
        dir.create_file_beneath("a", 0o600).unwrap();
        dir.create_file_beneath("b", 0o600).unwrap();
        let error = dir.rename_new("a", "b").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        dir.rename_new("a", "c").unwrap();
        dir.rename("c", "b").unwrap();
        assert_eq!(dir.names(1).unwrap(), [b"b"]);
    }

    #[test]
    fn a_directory_of_more_entries_than_expected_is_not_read_to_its_end() {
        let (_temp, dir) = folder();
        for n in 0..5 {
            dir.create_file_beneath(&n.to_string(), 0o600).unwrap();
        }
        assert_eq!(dir.names(5).unwrap().len(), 5);
        assert_eq!(dir.names(4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
