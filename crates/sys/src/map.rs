//! A file of 64-bit words shared between one writer and many reading processes.
//!
//! The file is made whole at its final length and never shortened; growth makes a new file and a rename. Mapping a file
//! means trusting its owner not to shorten it (a read beyond the new end raises SIGBUS), so a reader maps only what
//! root, the reader itself or a named user owns and nobody else may write, or what is sealed against shrinking; any
//! other file is copied with read(2). Words are in the machine's byte order: use `u64::from_le` for a file format.

use std::{
    fs::File,
    io,
    num::NonZeroUsize,
    os::fd::AsFd,
    path::Path,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering, fence},
};

use rustix::{
    fs::{CWD, FallocateFlags, Mode, OFlags},
    mm::{MapFlags, ProtFlags, mmap, munmap},
    process::geteuid,
};

use crate::{
    SysError,
    dir::{Dir, Kind, Meta},
    memfd,
};

const WORD_BYTES: usize = size_of::<u64>();

/// Whose files may be mapped rather than copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TrustedOwner {
    /// Root's and our own.
    #[default]
    RootOrSelf,
    /// Root's, our own and this user's, such as the agent's.
    Uid(u32),
    /// Nobody's: always copy.
    Nobody,
}

/// One word of a [`ReadMap`]. It can only be loaded: its page is mapped read-only.
#[repr(transparent)]
pub struct ReadWord(AtomicU64);

impl ReadWord {
    /// Loads the word. Orders stronger than `Relaxed` are a relaxed load followed by a fence, because only relaxed
    /// loads are defined on read-only pages (`std::sync::atomic`, "Atomic accesses to read-only memory").
    #[inline]
    pub fn load(&self, order: Ordering) -> u64 {
        let value = self.0.load(Ordering::Relaxed);
        match order {
            Ordering::Relaxed => {}
            Ordering::SeqCst => fence(Ordering::SeqCst),
            _ => fence(Ordering::Acquire),
        }
        value
    }
}

/// A shared file's words as one reader sees them: mapped, or copied when its owner is not trusted.
pub struct ReadMap {
    words: Backing,
    identity: (u64, u64),
}

enum Backing {
    Mapped(Mapping),
    Copied(Box<[AtomicU64]>),
}

impl ReadMap {
    /// Opens the file at `path`, whose own name must not be a symlink.
    ///
    /// # Errors
    /// As [`ReadMap::from_file`]; otherwise what open(2) answers.
    pub fn open(path: &Path, trusted: TrustedOwner, bytes_max: u64) -> Result<Self, SysError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file: File = rustix::fs::openat(CWD, path, flags, Mode::empty())
            .map_err(|error| SysError::io(path, "open", error))?
            .into();
        Self::from_file(&file, path, trusted, bytes_max)
    }

    /// Maps or copies an open file; `path` is for messages.
    ///
    /// # Errors
    /// Refuses what is no regular file, is empty, has a length that is no multiple of 8, or is longer than `bytes_max`.
    pub fn from_file(file: &File, path: &Path, trusted: TrustedOwner, bytes_max: u64) -> Result<Self, SysError> {
        let meta = Meta::of(file).map_err(|error| SysError::io(path, "stat", error))?;
        if meta.kind != Kind::File {
            return Err(SysError::refused(
                path,
                format!("is {}, no map file", meta.kind.describe()),
            ));
        }
        let fits = meta.len <= bytes_max && meta.len.is_multiple_of(WORD_BYTES as u64);
        let len = usize::try_from(meta.len)
            .ok()
            .and_then(NonZeroUsize::new)
            .filter(|_| fits);
        let Some(len) = len else {
            let problem = format!(
                "has {} bytes; a map has a multiple of 8, at least 8 and at most {bytes_max}",
                meta.len
            );
            return Err(SysError::refused(path, problem));
        };
        let words = if may_be_mapped(file, &meta, trusted) {
            let mapping = Mapping::new(file, len, ProtFlags::READ).map_err(|error| SysError::io(path, "map", error))?;
            Backing::Mapped(mapping)
        } else {
            Backing::Copied(copy(file, len).map_err(|error| SysError::io(path, "read", error))?)
        };
        Ok(Self {
            words,
            identity: meta.identity,
        })
    }

    /// Every word of the file.
    #[inline]
    pub fn as_words(&self) -> &[ReadWord] {
        let words = match &self.words {
            Backing::Mapped(mapping) => mapping.words(),
            Backing::Copied(words) => words,
        };
        // SAFETY: `ReadWord` is a transparent wrapper of `AtomicU64`, so layout, length and lifetime are the same.
        unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len()) }
    }

    /// Number of words.
    #[inline]
    pub fn len(&self) -> usize {
        self.as_words().len()
    }

    /// Never true: an empty file is refused.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the writer's later stores are seen here. A copy shows the past and must be made anew to follow.
    pub fn is_mapped(&self) -> bool {
        matches!(self.words, Backing::Mapped(_))
    }

    /// Whether `path` still names the file that was opened; false after the writer put a new one in its place.
    pub fn is_current(&self, path: &Path) -> bool {
        rustix::fs::lstat(path).is_ok_and(|stat| {
            #[expect(clippy::unnecessary_cast, reason = "field widths differ between architectures")]
            let now = (stat.st_dev as u64, stat.st_ino as u64);
            now == self.identity
        })
    }
}

impl std::fmt::Debug for ReadMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadMap")
            .field("words", &self.len())
            .field("mapped", &self.is_mapped())
            .finish()
    }
}

fn may_be_mapped(file: &File, meta: &Meta, trusted: TrustedOwner) -> bool {
    let owner_trusted = match trusted {
        TrustedOwner::Nobody => return memfd::is_sealed_against_shrinking(file),
        TrustedOwner::RootOrSelf => meta.uid == 0 || meta.uid == geteuid().as_raw(),
        TrustedOwner::Uid(uid) => meta.uid == 0 || meta.uid == geteuid().as_raw() || meta.uid == uid,
    };
    owner_trusted && meta.mode & 0o022 == 0 || memfd::is_sealed_against_shrinking(file)
}

/// Reads `len` bytes from the file's start; a file that was shortened meanwhile is an error, never a short map.
fn copy(file: &File, len: NonZeroUsize) -> io::Result<Box<[AtomicU64]>> {
    use std::os::unix::fs::FileExt;
    /// Bytes per read: large enough to be cheap, small enough for the stack of any thread.
    const CHUNK: usize = 16 * 1024;
    let mut words = Vec::with_capacity(len.get() / WORD_BYTES);
    let mut chunk = [0u8; CHUNK];
    let mut at = 0;
    while at < len.get() {
        let take = CHUNK.min(len.get() - at);
        file.read_exact_at(&mut chunk[..take], at as u64)?;
        let (whole, _) = chunk[..take].as_chunks::<WORD_BYTES>();
        words.extend(whole.iter().map(|octets| AtomicU64::new(u64::from_ne_bytes(*octets))));
        at += take;
    }
    Ok(words.into_boxed_slice())
}

/// A file that this process writes and others map: made under a temporary name at its final length, then put in place.
pub struct WriteMap {
    mapping: Mapping,
    file: File,
}

impl WriteMap {
    /// Makes a new file `name` of `words` zero words with these permission bits (others: read only). The disk space is
    /// taken at once, so that a store can never meet a full disk.
    ///
    /// # Errors
    /// `AlreadyExists`: remove a left-over first; `StorageFull`; refuses zero words.
    pub fn create(dir: &Dir, name: &str, words: usize, mode: u32) -> Result<Self, SysError> {
        let path = dir.path().join(name);
        let refuse = || SysError::refused(&path, format!("{words} words make no map"));
        let len = words
            .checked_mul(WORD_BYTES)
            .and_then(NonZeroUsize::new)
            .ok_or_else(refuse)?;
        let file = dir
            .create_file_beneath(name, mode & !0o022)
            .map_err(|error| SysError::io(&path, "create", error))?;
        let made = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, len.get() as u64)
            .map_err(io::Error::from)
            .and_then(|()| Mapping::new(&file, len, ProtFlags::READ | ProtFlags::WRITE));
        match made {
            Ok(mapping) => Ok(Self { mapping, file }),
            Err(error) => {
                // Nobody knows the file yet; a failure to remove it only leaves a name that the caller removes.
                let _ = dir.remove_file(name);
                Err(SysError::io(&path, "reserve space for the map", error))
            }
        }
    }

    /// Every word. Only atomic stores reach the file, so no reader sees a torn word.
    #[inline]
    pub fn as_words(&self) -> &[AtomicU64] {
        self.mapping.words()
    }

    /// Puts the file in place: from `name`, under which it was made, to `published`, in one step for every reader.
    ///
    /// # Errors
    /// Whatever renameat(2) and fsync(2) answer.
    pub fn publish(&self, dir: &Dir, name: &str, published: &str) -> Result<(), SysError> {
        let path = dir.path().join(published);
        dir.rename(name, published)
            .and_then(|()| dir.fsync())
            .map_err(|error| SysError::io(&path, "put the map in place", error))
    }

    /// Makes what was stored so far durable.
    ///
    /// # Errors
    /// Whatever fdatasync(2) answers.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

impl std::fmt::Debug for WriteMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteMap")
            .field("words", &self.as_words().len())
            .finish()
    }
}

/// Pages of a file, unmapped on drop.
struct Mapping {
    start: NonNull<AtomicU64>,
    len: NonZeroUsize,
}

// SAFETY: the pages stay mapped until drop, whichever thread drops; they are reached only through atomics.
unsafe impl Send for Mapping {}
// SAFETY: shared access gives only `&[AtomicU64]`, which any number of threads may use.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes (a multiple of 8) of a file that is at least that long and is not shortened while mapped.
    fn new(file: impl AsFd, len: NonZeroUsize, protection: ProtFlags) -> io::Result<Self> {
        // SAFETY: the kernel chooses a free address range (the hint is null), so no memory of ours is replaced; it is
        // reached only as atomics through this value, which outlives every borrow.
        let start = unsafe { mmap(std::ptr::null_mut(), len.get(), protection, MapFlags::SHARED, file, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { start, len })
    }

    #[inline]
    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the range is mapped for `len` bytes for as long as `self` lives and starts at a page, so it is
        // aligned; any bits are a valid word; other processes change it only as whole words. The file is not shortened:
        // it is ours, sealed, or a trusted owner's who keeps that rule.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len.get() / WORD_BYTES) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the range that mmap returned; no borrow of it is left, since they all borrow `self`.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.len.get()) };
        debug_assert!(unmapped.is_ok(), "munmap of our own mapping");
    }
}
