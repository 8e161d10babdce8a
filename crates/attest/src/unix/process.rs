//! One process, held by a pidfd and by its /proc directory, both of which die with it.

use std::io;

use mintage_sys::{
    dir::Dir,
    peer::{PeerCredentials, PidFd},
};

use super::UserNamespacePolicy;
use crate::{AttestError, limits::PROC_BYTES_MAX};

/// A held process. Its /proc directory is that of this process alone: once it ends, reads there fail, whoever gets its
/// number next.
#[derive(Debug)]
pub(super) struct Process {
    pidfd: PidFd,
    proc_dir: Dir,
    start_ticks: u64,
    method: &'static str,
}

impl Process {
    /// Takes hold of the peer with the kernel's own handle or, where it has none to give, by number.
    pub(super) fn hold(credentials: &PeerCredentials, pidfd: io::Result<PidFd>) -> Result<Self, AttestError> {
        if credentials.pid <= 0 {
            return Err(AttestError::PeerRefused(
                "its process is not visible in the agent's pid namespace".into(),
            ));
        }
        match pidfd {
            Ok(pidfd) => Self::hold_by_pidfd(credentials, pidfd),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Self::hold_by_number(credentials),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(gone()),
            Err(error) => Err(AttestError::unreadable("hold the process", error)),
        }
    }

    fn hold_by_pidfd(credentials: &PeerCredentials, pidfd: PidFd) -> Result<Self, AttestError> {
        let pid = pidfd.pid().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => gone(),
            _ => AttestError::unreadable("read the number of the process", error),
        })?;
        if pid != credentials.pid {
            return Err(AttestError::PeerRefused(format!(
                "its number is {pid}, but process {} connected",
                credentials.pid
            )));
        }
        let proc_dir = open_proc(pid)?;
        let start_ticks = start_ticks(&proc_dir)?;
        // Alive after the directory was opened: the directory is that of the pidfd's process.
        if !pidfd.is_alive() {
            return Err(gone());
        }
        Ok(Self {
            pidfd,
            proc_dir,
            start_ticks,
            method: "peer_pidfd",
        })
    }

    /// Before kernel 6.5. A number that was inherited before this look is noticed only by other user ids or a start time
    /// that moves under it; that remainder is why newer kernels have `SO_PEERPIDFD`.
    fn hold_by_number(credentials: &PeerCredentials) -> Result<Self, AttestError> {
        let before = start_ticks(&open_proc(credentials.pid)?)?;
        let pidfd = PidFd::open(credentials.pid).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => gone(),
            _ => AttestError::unreadable("hold the process", error),
        })?;
        let proc_dir = open_proc(credentials.pid)?;
        Self::hold_started_at(before, pidfd, proc_dir)
    }

    fn hold_started_at(start_before: u64, pidfd: PidFd, proc_dir: Dir) -> Result<Self, AttestError> {
        let start_ticks = start_ticks(&proc_dir)?;
        if start_ticks != start_before {
            return Err(AttestError::PeerRefused(
                "another process took its number while it was looked at".into(),
            ));
        }
        if !pidfd.is_alive() {
            return Err(gone());
        }
        Ok(Self {
            pidfd,
            proc_dir,
            start_ticks,
            method: "pidfd_open",
        })
    }

    /// Refuses a process that runs under other ids than it connected with, or whose ids mean something else than ours.
    pub(super) fn check_user_ids(
        &self,
        credentials: &PeerCredentials,
        policy: UserNamespacePolicy,
    ) -> Result<(), AttestError> {
        let ours = own_uid_map()?;
        let whole = ours.split_ascii_whitespace().eq(["0", "0", "4294967295"]);
        if !whole && credentials.uid == overflow_uid() {
            return Err(AttestError::PeerRefused(format!(
                "its user has no name in the agent's user namespace (it shows as {})",
                credentials.uid
            )));
        }
        if policy == UserNamespacePolicy::Refuse {
            let theirs = read_proc(&self.proc_dir, "uid_map")?;
            if theirs != ours {
                return Err(AttestError::PeerRefused(
                    "it runs in a user namespace of its own; the agent's settings do not accept that".into(),
                ));
            }
        }
        match effective_uid(&self.proc_dir)? {
            uid if uid == credentials.uid => Ok(()),
            uid => Err(AttestError::PeerRefused(format!(
                "it connected as user {} and runs as user {uid} now",
                credentials.uid
            ))),
        }
    }

    /// Whether it runs under this effective user id now.
    pub(super) fn has_user_id(&self, uid: u32) -> bool {
        effective_uid(&self.proc_dir).is_ok_and(|now| now == uid)
    }

    /// Whether the process lives and is the one that was taken hold of.
    pub(super) fn is_same(&self) -> bool {
        start_ticks(&self.proc_dir).is_ok_and(|ticks| ticks == self.start_ticks) && self.pidfd.is_alive()
    }

    pub(super) fn proc_dir(&self) -> &Dir {
        &self.proc_dir
    }

    pub(super) fn pidfd(&self) -> &PidFd {
        &self.pidfd
    }

    pub(super) fn method(&self) -> &'static str {
        self.method
    }
}

pub(super) fn gone() -> AttestError {
    AttestError::PeerRefused("its process has ended".into())
}

fn open_proc(pid: i32) -> Result<Dir, AttestError> {
    Dir::open(format!("/proc/{pid}")).map_err(|error| proc_error("open its /proc directory", error))
}

/// ENOENT and ESRCH are how /proc says that a process has ended.
fn proc_error(doing: &'static str, error: io::Error) -> AttestError {
    let ended = [rustix::io::Errno::NOENT, rustix::io::Errno::SRCH].map(|errno| Some(errno.raw_os_error()));
    if ended.contains(&error.raw_os_error()) {
        return gone();
    }
    AttestError::unreadable(doing, error)
}

fn read_proc(proc_dir: &Dir, name: &'static str) -> Result<String, AttestError> {
    use io::Read;
    let read = || -> io::Result<String> {
        let mut bytes = Vec::new();
        proc_dir
            .open_file_beneath(name)?
            .take(PROC_BYTES_MAX)
            .read_to_end(&mut bytes)?;
        // A process's name may hold any bytes; everything that is read here lies outside it.
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().map_err(|error| proc_error("read /proc about it", error))
}

fn start_ticks(proc_dir: &Dir) -> Result<u64, AttestError> {
    let stat = read_proc(proc_dir, "stat")?;
    match parse_stat(&stat) {
        Some((state, ticks)) if !matches!(state, "Z" | "X" | "x") => Ok(ticks),
        Some(_) => Err(gone()),
        None => Err(AttestError::PeerRefused("/proc/<pid>/stat has an unknown form".into())),
    }
}

/// State and start time (fields 3 and 22 of proc_pid_stat(5)). The second field is the process's name, which may hold
/// blanks and parentheses, so fields are counted from the last one.
fn parse_stat(stat: &str) -> Option<(&str, u64)> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace();
    let state = fields.next()?;
    let start = fields.nth(18)?.parse().ok()?;
    Some((state, start))
}

fn effective_uid(proc_dir: &Dir) -> Result<u32, AttestError> {
    let status = read_proc(proc_dir, "status")?;
    parse_effective_uid(&status)
        .ok_or_else(|| AttestError::PeerRefused("/proc/<pid>/status has an unknown form".into()))
}

/// Second number of the line `Uid:` (proc_pid_status(5)). The line `Name:` is escaped by the kernel and cannot forge it.
fn parse_effective_uid(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn own_uid_map() -> Result<String, AttestError> {
    std::fs::read_to_string("/proc/self/uid_map")
        .map_err(|error| AttestError::unreadable("read the agent's own user namespace", error))
}

/// The id that stands for every id without a name in a namespace (proc_sys_kernel(5)).
fn overflow_uid() -> u32 {
    /// The kernel's default.
    const NOBODY: u32 = 65_534;
    std::fs::read_to_string("/proc/sys/kernel/overflowuid")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(NOBODY)
}
