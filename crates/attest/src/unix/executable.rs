//! The file a process executes: opened through /proc, hashed by descriptor, its path believed only where it leads back
//! to the same file.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, Read},
    path::Path,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mintage_sys::dir::{Kind, Meta};
use ring::digest;
use rustix::fs::{CWD, Mode, OFlags, fstatfs, openat, readlinkat};

use super::process::{Process, gone};
use crate::{
    AttestError,
    limits::{EXECUTABLE_BYTES_MAX, EXECUTABLES_CACHED_MAX},
};

/// `FUSE_SUPER_MAGIC` (statfs(2)): files there are whatever their owner's program says at each read, and may never
/// answer.
const FUSE_MAGIC: i128 = 0x6573_5546;
/// Magic numbers (statfs(2)) of file systems that the kernel answers for by itself, out of memory for a file that is being
/// executed: ext, XFS, Btrfs, tmpfs, SquashFS, EROFS and F2FS. Not overlayfs, which may lie over anything.
const LOCAL_MAGICS: [i128; 7] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0x0102_1994,
    0x7371_7368,
    0xe0f5_e1e2,
    0xf2f5_2010,
];
/// How long a peer waits while another executable of its own user is being hashed.
const HASH_WAIT_MAX: Duration = Duration::from_secs(5);

/// What identifies a file's content: any write moves the change time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct FileState {
    identity: (u64, u64),
    changed: (i64, i64),
    len: u64,
}

impl FileState {
    fn of(meta: &Meta) -> Self {
        Self {
            identity: meta.identity,
            changed: meta.changed,
            len: meta.len,
        }
    }
}

/// A process's executable as it was hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executable {
    state: FileState,
    path: Option<String>,
    sha256: [u8; 32],
    /// Its attributes are answered at once.
    local: bool,
}

impl Executable {
    /// Its path, when that path leads to this very file in the agent's view. A process in a mount namespace of its own
    /// can show any path, so it has none here.
    pub fn path(&self) -> Option<&str> {
        self.path.as_deref()
    }

    /// SHA-256 of its content.
    pub fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }

    /// Whether looking at it again waits for nobody outside this kernel.
    pub(super) fn is_local(&self) -> bool {
        self.local
    }

    pub(super) fn sha256_hex(&self) -> String {
        self.sha256.iter().map(|octet| format!("{octet:02x}")).collect()
    }

    /// Whether the process still executes this file, unchanged and undeleted.
    pub(super) fn is_still_of(&self, process: &Process) -> bool {
        open_executable(process, OFlags::PATH)
            .and_then(|file| Meta::of(&file))
            .is_ok_and(|meta| FileState::of(&meta) == self.state)
    }
}

/// Digests by file state, and which users' files are being hashed now.
#[derive(Debug, Default)]
pub struct Executables {
    known: Mutex<HashMap<FileState, [u8; 32]>>,
    hashing: Mutex<HashSet<u32>>,
    hashed: Condvar,
}

impl Executables {
    /// Opens, checks and hashes the executable of a process of user `uid`.
    pub(super) fn look_at(&self, process: &Process, uid: u32) -> Result<Executable, AttestError> {
        // First by O_PATH, which reads nothing: a file on FUSE could keep us waiting for ever.
        let located = open_executable(process, OFlags::PATH).map_err(unreadable)?;
        let meta = Meta::of(&located).map_err(unreadable)?;
        refuse_by_meta(&meta)?;
        let file_system = fstatfs(&located).map_err(|error| unreadable(error.into()))?;
        let magic = file_system.f_type as i128;
        if magic == FUSE_MAGIC {
            return refuse("its executable is on a FUSE file system, whose content its owner can change at will");
        }
        let path = readlinkat(process.proc_dir(), "exe", Vec::new()).map_err(|error| unreadable(error.into()))?;
        let path = path.into_string().ok().filter(|path| leads_to(path, &meta));
        let state = FileState::of(&meta);
        let of = |sha256| Executable {
            state,
            path,
            sha256,
            local: LOCAL_MAGICS.contains(&magic),
        };
        let known = lock(&self.known).get(&state).copied();
        if let Some(sha256) = known {
            return Ok(of(sha256));
        }
        let file = open_executable(process, OFlags::RDONLY | OFlags::NONBLOCK).map_err(unreadable)?;
        let sha256 = {
            let _turn = self.take_turn(uid)?;
            // Who waited may find that the one before hashed the same file.
            let known = lock(&self.known).get(&state).copied();
            known.map_or_else(|| hash(&file, &state), Ok)?
        };
        let mut known = lock(&self.known);
        if known.len() >= EXECUTABLES_CACHED_MAX {
            // Rarely reached; what is still running is hashed again when it is asked for.
            known.clear();
        }
        known.insert(state, sha256);
        Ok(of(sha256))
    }

    /// One hash at a time for each user, so that no user can keep more than one core busy.
    fn take_turn(&self, uid: u32) -> Result<Turn<'_>, AttestError> {
        let (mut hashing, waited) = self
            .hashed
            .wait_timeout_while(lock(&self.hashing), HASH_WAIT_MAX, |hashing| hashing.contains(&uid))
            .unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return refuse("other executables of its user are being hashed; try again");
        }
        hashing.insert(uid);
        Ok(Turn { of: self, uid })
    }
}

struct Turn<'a> {
    of: &'a Executables,
    uid: u32,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        lock(&self.of.hashing).remove(&self.uid);
        self.of.hashed.notify_all();
    }
}

/// A panic elsewhere leaves these maps whole: each change is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refuse<T>(problem: &str) -> Result<T, AttestError> {
    Err(AttestError::PeerRefused(problem.into()))
}

fn unreadable(error: io::Error) -> AttestError {
    match error.kind() {
        io::ErrorKind::NotFound => gone(),
        _ => AttestError::unreadable("read its executable", error),
    }
}

/// Follows the kernel's own link, which leads to the file itself, whatever became of its path.
fn open_executable(process: &Process, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
    Ok(openat(process.proc_dir(), "exe", flags, Mode::empty())?.into())
}

fn refuse_by_meta(meta: &Meta) -> Result<(), AttestError> {
    if meta.kind != Kind::File {
        return refuse("its executable is no regular file");
    }
    if meta.links == 0 {
        return refuse("its executable was deleted or replaced; restart the process");
    }
    if meta.len > EXECUTABLE_BYTES_MAX {
        return Err(AttestError::PeerRefused(format!(
            "its executable has {} bytes, the limit is {EXECUTABLE_BYTES_MAX}",
            meta.len
        )));
    }
    Ok(())
}

/// Whether the path, as the agent sees it, is this very file. The kernel adds " (deleted)" to a path that is gone, and
/// a file may be named so in earnest: then this look decides, too.
fn leads_to(path: &str, meta: &Meta) -> bool {
    Path::new(path).is_absolute()
        && openat(
            CWD,
            path,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(io::Error::from)
        .and_then(Meta::of)
        .is_ok_and(|seen| seen.identity == meta.identity)
}

fn hash(mut file: &File, state: &FileState) -> Result<[u8; 32], AttestError> {
    let still = |file: &File| Meta::of(file).is_ok_and(|meta| FileState::of(&meta) == *state);
    if !still(file) {
        return refuse("it changed its executable while it was looked at");
    }
    let mut context = digest::Context::new(&digest::SHA256);
    let mut chunk = vec![0; 64 * 1024];
    let mut left = state.len;
    loop {
        let count = match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(unreadable(error)),
        };
        context.update(&chunk[..count]);
        // No more than was promised, whatever a growing file gives.
        left = match left.checked_sub(count as u64) {
            Some(left) => left,
            None => return refuse("its executable grew while it was hashed"),
        };
    }
    if left > 0 || !still(file) {
        return refuse("its executable changed while it was hashed");
    }
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(context.finish().as_ref());
    Ok(sha256)
}
