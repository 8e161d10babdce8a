//! The file a process executes: opened through /proc, hashed by descriptor, its path believed only where it leads back
//! to the same file.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    path::Path,
    sync::{Mutex, PoisonError},
};

use mintage_sys::dir::{Kind, Meta};
use ring::digest;
use rustix::fs::{CWD, Mode, OFlags, fstatfs, openat, readlinkat};

use super::{
    Hashing,
    process::{Process, gone},
};
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

/// A digest, and the user for whose process it was made.
#[derive(Debug)]
struct Digest {
    sha256: [u8; 32],
    uid: u32,
}

/// Digests by file state.
#[derive(Debug, Default)]
pub struct Executables(Mutex<HashMap<FileState, Digest>>);

impl Executables {
    /// Opens and checks the executable of a process of user `uid`, and hashes it if it is not known and `hashing` allows it.
    /// Whoever's file system it is may keep us waiting, FUSE and a server's at the first question about it.
    pub(super) fn look_at(&self, process: &Process, uid: u32, hashing: Hashing) -> Result<Executable, AttestError> {
        // First by O_PATH, which reads nothing.
        let located = open_executable(process, OFlags::PATH).map_err(unreadable)?;
        let file_system = fstatfs(&located).map_err(|error| unreadable(error.into()))?;
        let magic = file_system.f_type as i128;
        if magic == FUSE_MAGIC {
            return refuse("its executable is on a FUSE file system, whose content its owner can change at will");
        }
        let meta = Meta::of(&located).map_err(unreadable)?;
        refuse_by_meta(&meta)?;
        let path = readlinkat(process.proc_dir(), "exe", Vec::new()).map_err(|error| unreadable(error.into()))?;
        let path = path.into_string().ok().filter(|path| leads_to(path, &meta));
        let state = FileState::of(&meta);
        let of = |sha256| Executable {
            state,
            path,
            sha256,
            local: LOCAL_MAGICS.contains(&magic),
        };
        if let Some(sha256) = self.known(&state) {
            return Ok(of(sha256));
        }
        if hashing == Hashing::Later {
            return Err(AttestError::HashNeeded);
        }
        let file = open_executable(process, OFlags::RDONLY | OFlags::NONBLOCK).map_err(unreadable)?;
        let sha256 = hash(&file, &state)?;
        self.remember(state, Digest { sha256, uid });
        Ok(of(sha256))
    }

    fn known(&self, state: &FileState) -> Option<[u8; 32]> {
        // A panic elsewhere leaves the map whole: each change is one call.
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(state).map(|digest| digest.sha256)
    }

    /// Where there is no room, those of the user who has most are forgotten: what is still running is hashed again when it is
    /// asked for, and nobody can have the others' forgotten.
    fn remember(&self, state: FileState, digest: Digest) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= EXECUTABLES_CACHED_MAX {
            let mut counts = HashMap::<u32, usize>::new();
            known
                .values()
                .for_each(|digest| *counts.entry(digest.uid).or_default() += 1);
            let most = counts.iter().max_by_key(|(_, count)| **count).map(|(uid, _)| *uid);
            known.retain(|_, digest| Some(digest.uid) != most);
        }
        known.insert(state, digest);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_with_many_executables_loses_its_own_digests_and_nobody_elses() {
        let executables = Executables::default();
        let state = |inode| FileState {
            identity: (1, inode),
            changed: (0, 0),
            len: 1,
        };
        let sha256 = [7; 32];
        executables.remember(state(0), Digest { sha256, uid: 1 });
        for inode in 1..=2 * EXECUTABLES_CACHED_MAX as u64 {
            executables.remember(state(inode), Digest { sha256, uid: 2 });
        }
        let last = state(2 * EXECUTABLES_CACHED_MAX as u64);
        assert!(executables.known(&state(0)).is_some() && executables.known(&last).is_some());
        assert!(executables.known(&state(1)).is_none());
        assert!(executables.0.lock().unwrap().len() <= EXECUTABLES_CACHED_MAX);
    }
}
