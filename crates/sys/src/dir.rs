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

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat},
    process::{geteuid, umask},
};

use crate::SysError;

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

/// What a directory entry is, without following it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// File type.
    pub kind: Kind,
    /// Permission bits, the lower twelve.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes.
    pub len: u64,
    /// Number of hard links.
    pub links: u64,
    /// Device and inode number: the identity of the file while it exists.
    pub identity: (u64, u64),
    /// Last change of content or metadata by the file system's clock: seconds and nanoseconds.
    pub changed: (i64, i64),
}

/// File types that the rules tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A device, a socket, or what this program does not know.
    Other,
}

impl Kind {
    /// How a refusal names it.
    pub fn describe(self) -> &'static str {
        match self {
            Self::File => "a regular file",
            Self::Dir => "a directory",
            Self::Symlink => "a symbolic link",
            Self::Fifo => "a named pipe",
            Self::Other => "a device or a socket",
        }
    }
}

impl Meta {
    #[expect(clippy::unnecessary_cast, reason = "field widths differ between architectures")]
    fn from_stat(stat: &Stat) -> Self {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Dir,
            FileType::Symlink => Kind::Symlink,
            FileType::Fifo => Kind::Fifo,
            _ => Kind::Other,
        };
        Self {
            kind,
            mode: stat.st_mode as u32 & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            len: u64::try_from(stat.st_size).unwrap_or(0),
            links: stat.st_nlink as u64,
            identity: (stat.st_dev as u64, stat.st_ino as u64),
            changed: (stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        }
    }

    /// Of an open file.
    ///
    /// # Errors
    /// Whatever fstat(2) answers.
    pub fn of(file: impl AsFd) -> io::Result<Self> {
        Ok(Self::from_stat(&rustix::fs::fstat(file)?))
    }
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

/// Opens a data directory: a real directory that belongs to us and that not everybody may write.
///
/// # Errors
/// One line with the remedy when the path is a symlink or no directory, belongs to another user, or is world-writable.
pub fn open_owned(path: &Path) -> Result<Dir, SysError> {
    let dir = Dir::open(path).map_err(|error| {
        let symlink = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink());
        match error.kind() {
            _ if symlink => SysError::refused(path, "is a symbolic link; name the directory itself"),
            io::ErrorKind::NotADirectory => SysError::refused(path, "is no directory"),
            _ => SysError::io(path, "open the directory", error),
        }
    })?;
    let meta = dir.meta().map_err(|error| SysError::io(path, "stat", error))?;
    let us = geteuid().as_raw();
    if meta.uid != us {
        return Err(SysError::refused(
            path,
            format!("belongs to uid {}, not to us (uid {us}); chown {us} it", meta.uid),
        ));
    }
    if meta.mode & 0o002 != 0 {
        return Err(SysError::refused(
            path,
            format!("everybody may write it (mode {:04o}); chmod o-w it", meta.mode),
        ));
    }
    Ok(dir)
}

/// Makes a data directory with mode 0700 if its last part does not exist, durably, then opens it as [`open_owned`] does.
///
/// # Errors
/// As [`open_owned`]; the parent must exist.
pub fn create_owned(path: &Path) -> Result<Dir, SysError> {
    match rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(0o700)) {
        Ok(()) => {
            let parent = match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            File::open(parent)
                .and_then(|parent| parent.sync_all())
                .map_err(|error| SysError::io(parent, "make the new directory durable", error))?;
        }
        Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(SysError::io(path, "make the directory", error)),
    }
    open_owned(path)
}

/// Sets a umask of 0077, so that a file made without a mode is ours alone. Called once at a program's start.
pub fn private_umask() {
    umask(Mode::from_raw_mode(0o077));
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
