//! One process, held by a pidfd and by its /proc directory, both of which die with it.

use std::io;

use mintage_sys::{
    dir::Dir,
    peer::{PeerCredentials, PidFd},
};

use super::UserNamespacePolicy;
use crate::{AttestError, limits::PROC_BYTES_MAX};

/// Bytes that the files which are read have as a rule.
const PROC_BYTES_USUAL: usize = 4096;

/// A held process. Its /proc directory is that of this process alone: once it ends, reads there fail, whoever gets its
/// number next.
#[derive(Debug)]
pub(super) struct Process {
    pidfd: PidFd,
    proc_dir: Dir,
    start_ticks: u64,
    layout: Layout,
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
        let stat = Stat::of(&proc_dir)?;
        // Alive after the directory was opened: the directory is that of the pidfd's process.
        if !pidfd.is_alive() {
            return Err(gone());
        }
        Ok(Self {
            pidfd,
            proc_dir,
            start_ticks: stat.start_ticks,
            layout: stat.layout,
            method: "peer_pidfd",
        })
    }

    /// Before kernel 6.5. A number that was inherited before this look is noticed only by other user ids or a start time
    /// that moves under it; that remainder is why newer kernels have `SO_PEERPIDFD`.
    fn hold_by_number(credentials: &PeerCredentials) -> Result<Self, AttestError> {
        let before = Stat::of(&open_proc(credentials.pid)?)?.start_ticks;
        let pidfd = PidFd::open(credentials.pid).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => gone(),
            _ => AttestError::unreadable("hold the process", error),
        })?;
        let proc_dir = open_proc(credentials.pid)?;
        Self::hold_started_at(before, pidfd, proc_dir)
    }

    fn hold_started_at(start_before: u64, pidfd: PidFd, proc_dir: Dir) -> Result<Self, AttestError> {
        let stat = Stat::of(&proc_dir)?;
        if stat.start_ticks != start_before {
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
            start_ticks: stat.start_ticks,
            layout: stat.layout,
            method: "pidfd_open",
        })
    }

    /// Refuses a process that runs under other ids than it connected with, or whose ids mean something else than ours.
    pub(super) fn check_ids(
        &self,
        credentials: &PeerCredentials,
        groups: &[u32],
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
                    "it runs in a user namespace of its own, where it can be any user that it likes; run it outside of one, or have its \
                     identity delivered into a folder ([[delivery]])"
                        .into(),
                ));
            }
        }
        let now = Ids::of(&self.proc_dir)?;
        let refused = |why: String| Err(AttestError::PeerRefused(why));
        if now.uid != credentials.uid {
            let (then, now) = (credentials.uid, now.uid);
            return refused(format!("it connected as user {then} and runs as user {now} now"));
        }
        if now.gid != credentials.gid {
            let (then, now) = (credentials.gid, now.gid);
            return refused(format!("it connected as group {then} and runs as group {now} now"));
        }
        match now.groups == groups {
            true => Ok(()),
            false => refused("it is in other supplementary groups than when it connected".to_owned()),
        }
    }

    /// Whether it runs under these effective ids and in these groups now. All of them are selectors, so that none may go
    /// unseen; the kernel keeps the groups in order, whoever sets them.
    pub(super) fn has_ids(&self, credentials: &PeerCredentials, groups: &[u32]) -> bool {
        Ids::of(&self.proc_dir)
            .is_ok_and(|now| (now.uid, now.gid) == (credentials.uid, credentials.gid) && now.groups == groups)
    }

    /// Whether the process lives and is the one that was taken hold of.
    pub(super) fn is_same(&self) -> bool {
        Stat::of(&self.proc_dir).is_ok_and(|stat| stat.start_ticks == self.start_ticks) && self.pidfd.is_alive()
    }

    /// Whether it has executed nothing since it was taken hold of, as far as its memory tells: a hint, since a process can
    /// lay another program out alike.
    pub(super) fn seems_to_execute_the_same(&self) -> bool {
        Stat::of(&self.proc_dir).is_ok_and(|stat| stat.layout == self.layout)
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

pub(super) fn read_proc(proc_dir: &Dir, name: &'static str) -> Result<String, AttestError> {
    use io::Read;
    let read = || -> io::Result<String> {
        // With room from the start one read is enough, and one that finds the end.
        let mut bytes = Vec::with_capacity(PROC_BYTES_USUAL);
        proc_dir
            .open_file_beneath(name)?
            .take(PROC_BYTES_MAX)
            .read_to_end(&mut bytes)?;
        // A process's name may hold any bytes; everything that is read here lies outside it.
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().map_err(|error| proc_error("read /proc about it", error))
}

/// Where code begins and ends and the stack begins: another place after each execve(2), unless somebody sees to it.
type Layout = [u64; 3];

/// What is read of `/proc/<pid>/stat` of a process that has not ended.
struct Stat {
    start_ticks: u64,
    layout: Layout,
}

impl Stat {
    fn of(proc_dir: &Dir) -> Result<Self, AttestError> {
        let stat = read_proc(proc_dir, "stat")?;
        match parse_stat(&stat) {
            Some((state, start_ticks, layout)) if !matches!(state, "Z" | "X" | "x") => Ok(Self { start_ticks, layout }),
            Some(_) => Err(gone()),
            None => Err(AttestError::PeerRefused("/proc/<pid>/stat has an unknown form".into())),
        }
    }
}

/// State, start time and layout (fields 3, 22 and 26 to 28 of proc_pid_stat(5)). The second field is the process's name, which may hold
/// blanks and parentheses, so fields are counted from the last one.
fn parse_stat(stat: &str) -> Option<(&str, u64, Layout)> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace();
    let state = fields.next()?;
    let start = fields.nth(18)?.parse().ok()?;
    let mut layout = fields.skip(3).map(str::parse);
    let mut next = || layout.next()?.ok();
    Some((state, start, [next()?, next()?, next()?]))
}

/// What a process runs under now.
#[derive(Debug, PartialEq, Eq)]
struct Ids {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl Ids {
    fn of(proc_dir: &Dir) -> Result<Self, AttestError> {
        let status = read_proc(proc_dir, "status")?;
        Self::parse(&status).ok_or_else(|| AttestError::PeerRefused("/proc/<pid>/status has an unknown form".into()))
    }

    /// Effective user and group id, and the groups, of the lines `Uid:`, `Gid:` and `Groups:` (proc_pid_status(5)). The line
    /// `Name:` is escaped by the kernel and cannot forge them.
    fn parse(status: &str) -> Option<Self> {
        let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        let effective = |name: &str| line(name)?.split_ascii_whitespace().nth(1)?.parse().ok();
        let groups = line("Groups:")?.split_ascii_whitespace().map(str::parse);
        Some(Self {
            uid: effective("Uid:")?,
            gid: effective("Gid:")?,
            groups: groups.collect::<Result<_, _>>().ok()?,
        })
    }
}

/// Effective ids and supplementary groups of the process that has this number now, as if it connected now.
pub(super) fn ids_by_number(pid: i32) -> Result<(PeerCredentials, Vec<u32>), AttestError> {
    if pid <= 0 {
        return Err(AttestError::PeerRefused(format!(
            "{pid} is no number of a process; numbers begin at 1"
        )));
    }
    let Ids { uid, gid, groups } = Ids::of(&open_proc(pid)?)?;
    Ok((PeerCredentials { pid, uid, gid }, groups))
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

#[cfg(test)]
mod tests {
    use std::{os::fd::AsFd, os::unix::net::UnixStream};

    use mintage_sys::peer::{peer_credentials, peer_groups, peer_pidfd};

    use super::*;

    fn ourselves() -> (UnixStream, UnixStream, PeerCredentials) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let credentials = peer_credentials(ours.as_fd()).unwrap();
        (ours, theirs, credentials)
    }

    fn unsupported() -> io::Result<PidFd> {
        Err(io::ErrorKind::Unsupported.into())
    }

    #[test]
    fn before_kernel_6_5_a_process_is_held_by_number_and_start_time() {
        let (_a, _b, credentials) = ourselves();
        let held = Process::hold(&credentials, unsupported()).unwrap();
        assert_eq!(held.method(), "pidfd_open");
        assert!(held.is_same());
    }

    #[test]
    fn a_number_inherited_by_another_process_shows_in_the_start_time() {
        let (_a, _b, credentials) = ourselves();
        let pidfd = PidFd::open(credentials.pid).unwrap();
        let proc_dir = open_proc(credentials.pid).unwrap();
        let ticks = Stat::of(&proc_dir).unwrap().start_ticks;
        let error = Process::hold_started_at(ticks - 1, pidfd, proc_dir).unwrap_err();
        assert!(error.to_string().contains("another process took its number"));
        let mut held = Process::hold(&credentials, unsupported()).unwrap();
        held.start_ticks += 1;
        assert!(!held.is_same());
    }

    #[test]
    fn a_handle_on_another_process_than_the_one_that_connected_is_refused() {
        let (ours, _b, mut credentials) = ourselves();
        let Ok(pidfd) = peer_pidfd(ours.as_fd()) else { return };
        credentials.pid = 1;
        assert!(Process::hold(&credentials, Ok(pidfd)).is_err());
    }

    #[test]
    fn a_refused_handle_never_leads_to_a_fall_back_by_number() {
        let (_a, _b, credentials) = ourselves();
        for kind in [
            io::ErrorKind::NotFound,
            io::ErrorKind::PermissionDenied,
            io::ErrorKind::InvalidInput,
        ] {
            assert!(Process::hold(&credentials, Err(kind.into())).is_err());
        }
    }

    #[test]
    fn a_peer_of_another_pid_namespace_is_refused() {
        let (_a, _b, mut credentials) = ourselves();
        for pid in [0, -1] {
            credentials.pid = pid;
            let error = Process::hold(&credentials, unsupported()).unwrap_err();
            assert!(error.to_string().contains("not visible"));
        }
    }

    #[test]
    fn other_ids_than_at_connecting_are_refused_by_name() {
        let (ours, _b, credentials) = ourselves();
        let groups = peer_groups(ours.as_fd()).unwrap();
        let held = Process::hold(&credentials, unsupported()).unwrap();
        held.check_ids(&credentials, &groups, UserNamespacePolicy::Refuse)
            .unwrap();
        assert!(held.has_ids(&credentials, &groups));
        let user = PeerCredentials {
            uid: credentials.uid + 1,
            ..credentials
        };
        let group = PeerCredentials {
            gid: credentials.gid + 1,
            ..credentials
        };
        let more = [groups.clone(), vec![4321]].concat();
        for (other, groups, told) in [
            (user, &groups, "connected as user"),
            (group, &groups, "connected as group"),
            (credentials, &more, "other supplementary groups"),
        ] {
            let error = held.check_ids(&other, groups, UserNamespacePolicy::Refuse).unwrap_err();
            assert!(error.to_string().contains(told), "{error}");
            assert!(!held.has_ids(&other, groups), "{told}");
        }
    }

    #[test]
    fn stat_is_read_from_the_last_parenthesis() {
        let fields: Vec<String> = (4..=52).map(|n| n.to_string()).collect();
        let line = |name: &str, state: &str| format!("77 ({name}) {state} {}\n", fields.join(" "));
        for name in ["web", "a) R 1 1 1", ") Z 1 (", "", "((", "))"] {
            assert_eq!(parse_stat(&line(name, "S")), Some(("S", 22, [26, 27, 28])), "{name}");
        }
        for bad in [
            "",
            "77 (web",
            "77 (web) S 1 2 3",
            "77 (web) S x x x x x x x x x x x x x x x x x x x",
            "77 (web) S 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27",
        ] {
            assert_eq!(parse_stat(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_second_ids_of_status_are_the_effective_ones() {
        let status = "Name:\tweb\nUmask:\t0022\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n";
        let grouped = |status: &str, groups: &str| Ids::parse(&format!("{status}FDSize:\t64\nGroups:\t{groups}\n"));
        let ids = |groups| Some(Ids { uid: 2, gid: 6, groups });
        assert_eq!(grouped(status, "7 9 "), ids(vec![7, 9]));
        assert_eq!(grouped(status, ""), ids(vec![]));
        assert_eq!(grouped(status, "7 x"), None);
        assert_eq!(Ids::parse(status), None, "groups that cannot be read are not none");
        for bad in [
            "",
            "Uid:\t1",
            "Uid:\tx\ty",
            "Name:\tUid:\t0\t0",
            "Uid:\t1\t2\n",
            "Gid:\t1\t2\n",
        ] {
            assert_eq!(grouped(bad, "7"), None, "{bad:?}");
        }
    }
}
