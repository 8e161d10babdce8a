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
    io::Errno,
    mm::{MapFlags, ProtFlags, mmap, munmap},
    process::geteuid,
};

use crate::{
    SysError,
    dir::{Dir, Kind, Meta},
    memfd,
};

mod words;

pub use words::{Groups, Words};

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
    /// With the file, to see whether it is still as long.
    Mapped(Mapping, File),
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
            let kept = file.try_clone().map_err(|error| SysError::io(path, "keep", error))?;
            Backing::Mapped(mapping, kept)
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
            Backing::Mapped(mapping, _) => mapping.words(),
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
        matches!(self.words, Backing::Mapped(..))
    }

    /// True when the mapped file is shorter now: to read beyond its end would raise SIGBUS. One call of fstat(2); never true
    /// of a copy.
    pub fn is_cut(&self) -> bool {
        match &self.words {
            Backing::Mapped(mapping, file) => rustix::fs::fstat(file)
                .is_ok_and(|stat| u64::try_from(stat.st_size).unwrap_or(0) < mapping.len.get() as u64),
            Backing::Copied(_) => false,
        }
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

    /// Maps the file `name` that an earlier process of this user left in place, to store to it again; `None` when there is
    /// none, and when it is no whole map of ours: another owner's, writable by others, or longer than `bytes_max`.
    ///
    /// # Errors
    /// Whatever open(2) and mmap(2) answer.
    pub fn reopen(dir: &Dir, name: &str, bytes_max: u64) -> Result<Option<Self>, SysError> {
        let path = dir.path().join(name);
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file: File = match rustix::fs::openat(dir.as_fd(), name, flags, Mode::empty()) {
            Ok(file) => file.into(),
            Err(Errno::NOENT | Errno::LOOP | Errno::ISDIR | Errno::ACCESS) => return Ok(None),
            Err(error) => return Err(SysError::io(&path, "open", error)),
        };
        let meta = Meta::of(&file).map_err(|error| SysError::io(&path, "stat", error))?;
        let is_ours = meta.kind == Kind::File && meta.uid == geteuid().as_raw() && meta.mode & 0o022 == 0;
        let is_map = meta.len <= bytes_max && meta.len.is_multiple_of(WORD_BYTES as u64);
        let len = usize::try_from(meta.len).ok().and_then(NonZeroUsize::new);
        let Some(len) = len.filter(|_| is_ours && is_map) else {
            return Ok(None);
        };
        let mapping = Mapping::new(&file, len, ProtFlags::READ | ProtFlags::WRITE);
        let mapping = mapping.map_err(|error| SysError::io(&path, "map", error))?;
        Ok(Some(Self { mapping, file }))
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

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

    use super::*;

    fn place() -> (tempfile::TempDir, Dir, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let path = temp.path().join("map");
        (temp, dir, path)
    }

    fn open(path: &Path, trusted: TrustedOwner) -> Result<ReadMap, SysError> {
        ReadMap::open(path, trusted, 1 << 20)
    }

    #[test]
    fn a_mapped_reader_sees_later_stores_and_a_copy_does_not() {
        let (_temp, dir, path) = place();
        let writer = WriteMap::create(&dir, "new", 512, 0o644).unwrap();
        writer.as_words()[7].store(1, Ordering::Release);
        writer.publish(&dir, "new", "map").unwrap();
        let mapped = open(&path, TrustedOwner::RootOrSelf).unwrap();
        let copied = open(&path, TrustedOwner::Nobody).unwrap();
        assert!(mapped.is_mapped() && !copied.is_mapped());
        assert_eq!((mapped.len(), copied.len()), (512, 512));
        assert_eq!(copied.as_words()[7].load(Ordering::Relaxed), 1);
        writer.as_words()[7].store(2, Ordering::Release);
        assert_eq!(mapped.as_words()[7].load(Ordering::Acquire), 2);
        assert_eq!(copied.as_words()[7].load(Ordering::SeqCst), 1);
        writer.sync().unwrap();
        assert_eq!(fs::read(&path).unwrap()[56..64], 2u64.to_ne_bytes());
    }

    #[test]
    fn a_reader_never_sees_a_torn_word_or_later_words_without_earlier_ones() {
        let (_temp, dir, path) = place();
        let writer = WriteMap::create(&dir, "map", 2, 0o644).unwrap();
        let reader = open(&path, TrustedOwner::RootOrSelf).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 1..=200_000_u64 {
                    let both = n << 32 | n;
                    writer.as_words()[0].store(both, Ordering::Relaxed);
                    writer.as_words()[1].store(both, Ordering::Release);
                }
            });
            let mut seen = 0;
            while seen < 200_000 {
                let second = reader.as_words()[1].load(Ordering::Acquire);
                let first = reader.as_words()[0].load(Ordering::Relaxed);
                assert_eq!(second >> 32, second & 0xffff_ffff);
                assert!(first >= second, "{first} {second}");
                seen = second & 0xffff_ffff;
            }
        });
    }

    #[test]
    fn a_file_that_was_cut_is_noticed_by_who_mapped_it() {
        let (_temp, dir, path) = place();
        WriteMap::create(&dir, "map", 1024, 0o644).unwrap();
        let (mapped, copied) = (open(&path, TrustedOwner::RootOrSelf), open(&path, TrustedOwner::Nobody));
        let (mapped, copied) = (mapped.unwrap(), copied.unwrap());
        assert!(!mapped.is_cut());
        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(8_184)
            .unwrap();
        assert!(mapped.is_cut() && !copied.is_cut());
    }

    #[test]
    fn growth_is_a_new_file_that_old_readers_notice() {
        let (_temp, dir, path) = place();
        let old = WriteMap::create(&dir, "map", 8, 0o644).unwrap();
        let reader = open(&path, TrustedOwner::RootOrSelf).unwrap();
        assert!(reader.is_current(&path));
        let grown = WriteMap::create(&dir, "map.new", 16, 0o644).unwrap();
        grown.publish(&dir, "map.new", "map").unwrap();
        assert!(!reader.is_current(&path));
        old.as_words()[0].store(5, Ordering::Release);
        assert_eq!(reader.as_words()[0].load(Ordering::Relaxed), 5);
        assert_eq!(open(&path, TrustedOwner::RootOrSelf).unwrap().len(), 16);
        fs::remove_file(&path).unwrap();
        assert!(!reader.is_current(&path));
    }

    #[test]
    fn what_others_may_shorten_is_copied_not_mapped() {
        let (_temp, dir, path) = place();
        WriteMap::create(&dir, "map", 8, 0o666).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o644);
        assert!(open(&path, TrustedOwner::RootOrSelf).unwrap().is_mapped());
        fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
        assert!(!open(&path, TrustedOwner::RootOrSelf).unwrap().is_mapped());
        fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        if crate::privilege::is_root() {
            std::os::unix::fs::chown(&path, Some(4321), None).unwrap();
            assert!(!open(&path, TrustedOwner::RootOrSelf).unwrap().is_mapped());
            assert!(open(&path, TrustedOwner::Uid(4321)).unwrap().is_mapped());
        }
    }

    #[test]
    fn sealed_memory_is_mapped_whoever_sent_it() {
        let file = memfd::sealed("map", &7u64.to_ne_bytes()).unwrap();
        let map = ReadMap::from_file(&file, Path::new("received"), TrustedOwner::Nobody, 64).unwrap();
        assert!(map.is_mapped());
        assert_eq!(map.as_words()[0].load(Ordering::Acquire), 7);
    }

    #[test]
    fn files_of_a_wrong_size_or_kind_are_refused() {
        let (temp, dir, path) = place();
        for len in [0, 1, 7, 9, (1 << 20) + 8, 4 << 30] {
            fs::File::create(&path).unwrap().set_len(len).unwrap();
            assert!(open(&path, TrustedOwner::RootOrSelf).is_err(), "{len}");
            assert!(open(&path, TrustedOwner::Nobody).is_err(), "{len}");
        }
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(open(&path, TrustedOwner::RootOrSelf).is_err());
        assert!(open(temp.path(), TrustedOwner::RootOrSelf).is_err());
        rustix::fs::mkfifoat(&dir, "pipe", Mode::from_raw_mode(0o600)).unwrap();
        assert!(open(&temp.path().join("pipe"), TrustedOwner::RootOrSelf).is_err());
        assert!(WriteMap::create(&dir, "none", 0, 0o644).is_err());
        assert!(WriteMap::create(&dir, "huge", usize::MAX, 0o644).is_err());
    }

    #[test]
    fn a_copy_longer_than_one_read_is_whole() {
        let (_temp, dir, path) = place();
        let writer = WriteMap::create(&dir, "map", 5000, 0o644).unwrap();
        for (n, word) in writer.as_words().iter().enumerate() {
            word.store(n as u64, Ordering::Relaxed);
        }
        let copied = open(&path, TrustedOwner::Nobody).unwrap();
        let whole = copied.as_words().iter().enumerate();
        assert_eq!(copied.len(), 5000);
        assert!(
            whole
                .into_iter()
                .all(|(n, word)| word.load(Ordering::Relaxed) == n as u64)
        );
    }

    #[test]
    fn a_full_disk_is_noticed_when_a_map_is_made_not_when_it_is_written() {
        let (temp, _dir, _path) = place();
        let Some(_mounted) = crate::privilege::Tmpfs::mount(temp.path(), "64k") else {
            return;
        };
        let dir = Dir::open(temp.path()).unwrap();
        let error = WriteMap::create(&dir, "map", 16 * 1024, 0o644).unwrap_err();
        assert!(error.is_out_of_space(), "{error}");
        assert!(dir.names(8).unwrap().is_empty());
        WriteMap::create(&dir, "map", 1024, 0o644).unwrap();
    }
}
