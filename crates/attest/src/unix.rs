//! Who a local process is: what the kernel says about the peer of a Unix socket, and nothing the process says itself.
//!
//! The process is held by a pidfd (`SO_PEERPIDFD`, kernel 6.5; before it pidfd_open(2) with the start time compared), so
//! its number cannot be inherited while it is looked at. User and group ids are those of the moment of connecting.
//!
//! Path and SHA-256 of the executable are hints within one user id, never a boundary: a process may connect, hand the
//! socket to a child and then execute a trusted program, or run foreign code inside one (`LD_PRELOAD`). Therefore
//! [`WorkloadPeer::still_same`] looks again before anything is sent, and policy takes no entry with such hints alone.

mod cgroup;
mod executable;
mod process;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, io, os::fd::BorrowedFd};

use mintage_identity::Selector;
use mintage_sys::peer::{PeerCredentials, peer_credentials, peer_groups, peer_pidfd};

use crate::{AttestError, limits::GROUPS_MAX};
use cgroup::Cgroup;
pub use executable::{Executable, Executables};
use process::Process;

/// What becomes of a process whose executable cannot be looked at: unreadable, deleted, too large, or on FUSE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExecutablePolicy {
    /// It gets nothing.
    #[default]
    Refuse,
    /// It is attested without path and digest, so that only entries that ask for neither can match. For an agent that
    /// may not look into other users' processes.
    Omit,
}

/// What becomes of a process whose user ids are mapped otherwise than ours (user_namespaces(7)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum UserNamespacePolicy {
    /// It gets nothing.
    #[default]
    Refuse,
    /// It is attested by the ids that the kernel gives in our own namespace, as for rootless containers; an id that has
    /// no name here is refused all the same.
    Accept,
}

/// Whether an executable whose digest is not remembered is hashed, which may take a core for half a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hashing {
    /// It is.
    Now,
    /// It is not: [`AttestError::HashNeeded`] says so.
    Later,
}

/// Attests the peers of Unix sockets, and remembers the digests of executables.
#[derive(Debug, Default)]
pub struct UnixAttestor {
    executable: ExecutablePolicy,
    user_namespace: UserNamespacePolicy,
    executables: Executables,
}

impl UnixAttestor {
    /// An attestor with these rules.
    pub fn new(executable: ExecutablePolicy, user_namespace: UserNamespacePolicy) -> Self {
        Self {
            executable,
            user_namespace,
            executables: Executables::default(),
        }
    }

    /// Looks at the peer of a connected socket. It asks the file system of the executable, which may be a server that does not
    /// answer, and may hash up to 256 MB: call it where blocking is allowed.
    ///
    /// # Errors
    /// `PeerRefused` with the reason, `PeerUnreadable` when the system does not answer, `HashNeeded`. Whichever it is, the peer
    /// gets nothing.
    pub fn attest_peer(&self, socket: BorrowedFd<'_>, hashing: Hashing) -> Result<WorkloadPeer, AttestError> {
        let credentials = peer_credentials(socket).map_err(|e| AttestError::unreadable("read the peer's ids", e))?;
        let groups = peer_groups(socket).map_err(|e| AttestError::unreadable("read the peer's groups", e))?;
        self.attest(credentials, groups, peer_pidfd(socket), hashing)
    }

    /// Looks at the process that has this number now, as if it connected now, for explaining alone: who is meant by a
    /// number is never certain, so nothing is given for it. With `only_of`, no further at a process of another user.
    ///
    /// # Errors
    /// As [`UnixAttestor::attest_peer`]; `PeerRefused` also for another user's process, and when there is none.
    pub fn look_at(&self, pid: i32, only_of: Option<u32>, hashing: Hashing) -> Result<WorkloadPeer, AttestError> {
        let (credentials, groups) = process::ids_by_number(pid)?;
        if only_of.is_some_and(|uid| uid != credentials.uid) {
            return Err(AttestError::PeerRefused(format!(
                "process {pid} is another user's; ask as root"
            )));
        }
        let pidfd = Err(io::ErrorKind::Unsupported.into());
        self.attest(credentials, groups, pidfd, hashing)
    }

    fn attest(
        &self,
        credentials: PeerCredentials,
        groups: Vec<u32>,
        pidfd: io::Result<mintage_sys::peer::PidFd>,
        hashing: Hashing,
    ) -> Result<WorkloadPeer, AttestError> {
        if groups.len() > GROUPS_MAX {
            return Err(AttestError::PeerRefused(format!(
                "it is in {} groups, the limit is {GROUPS_MAX}",
                groups.len()
            )));
        }
        let process = Process::hold(&credentials, pidfd)?;
        process.check_ids(&credentials, &groups, self.user_namespace)?;
        let executable = match self.executables.look_at(&process, credentials.uid, hashing) {
            Ok(executable) => Some(executable),
            Err(AttestError::HashNeeded) => return Err(AttestError::HashNeeded),
            Err(_) if self.executable == ExecutablePolicy::Omit && process.is_same() => None,
            Err(error) => return Err(error),
        };
        let cgroup = Cgroup::of(&process)?;
        let mut selectors = selectors(&credentials, &groups, executable.as_ref())?;
        selectors.extend(cgroup.selector());
        let peer = WorkloadPeer {
            credentials,
            selectors,
            groups,
            process,
            executable,
            cgroup,
        };
        // Everything above was read of a process that is alive only if it is alive now.
        if !peer.still_same() {
            return Err(AttestError::PeerRefused(
                "it ended or changed while it was looked at".into(),
            ));
        }
        Ok(peer)
    }
}

/// Looks at one peer with the default rules and without remembering digests.
///
/// # Errors
/// As [`UnixAttestor::attest_peer`].
pub fn attest_peer(socket: BorrowedFd<'_>) -> Result<WorkloadPeer, AttestError> {
    UnixAttestor::default().attest_peer(socket, Hashing::Now)
}

/// What the owner of a delivery folder proves: user and group id, and nothing about any process.
pub fn file_owner_selectors(uid: u32, gid: u32) -> BTreeSet<Selector> {
    [format!("unix:uid:{uid}"), format!("unix:gid:{gid}")]
        .iter()
        .filter_map(|text| Selector::parse(text).ok())
        .collect()
}

/// A local process as it was attested, held so that it can be looked at again.
#[derive(Debug)]
pub struct WorkloadPeer {
    credentials: PeerCredentials,
    groups: Vec<u32>,
    selectors: BTreeSet<Selector>,
    process: Process,
    executable: Option<Executable>,
    cgroup: Cgroup,
}

impl WorkloadPeer {
    /// Whether it is the same living process, with the same user, groups and executable, and in the same control group, as
    /// when it was attested. To be asked before each thing that is sent to it.
    pub fn still_same(&self) -> bool {
        let executable_same = match &self.executable {
            Some(executable) => executable.is_still_of(&self.process),
            None => true,
        };
        // The process last: whatever was read above was read of it.
        executable_same
            && self.cgroup.is_still_of(&self.process)
            && self.process.has_ids(&self.credentials, &self.groups)
            && self.process.is_same()
    }

    /// [`WorkloadPeer::still_same`] where that takes some microseconds and waits for nobody: /proc is the kernel's own, and so
    /// is the file system of the executable. `None` where it may be a server's, and when the process executes something
    /// else, whose file may lie anywhere: ask again where blocking is allowed.
    pub fn still_same_at_once(&self) -> Option<bool> {
        let local = self.executable.as_ref().is_none_or(Executable::is_local);
        (local && self.process.seems_to_execute_the_same()).then(|| self.still_same())
    }

    /// Everything proven, for matching against entries: `unix:uid`, `unix:gid`, `unix:supplementary_gid`, `unix:path`,
    /// `unix:sha256`, and `cgroup:path` where there is a unified hierarchy.
    pub fn selectors(&self) -> &BTreeSet<Selector> {
        &self.selectors
    }

    /// Its process number; for messages only.
    pub fn pid(&self) -> i32 {
        self.credentials.pid
    }

    /// Its effective user id when it connected.
    pub fn uid(&self) -> u32 {
        self.credentials.uid
    }

    /// Its effective group id when it connected.
    pub fn gid(&self) -> u32 {
        self.credentials.gid
    }

    /// Its supplementary groups when it connected.
    pub fn groups(&self) -> &[u32] {
        &self.groups
    }

    /// Its executable, unless it was left out.
    pub fn executable(&self) -> Option<&Executable> {
        self.executable.as_ref()
    }

    /// How the process is held: `peer_pidfd` (free of races) or `pidfd_open` (older kernels).
    pub fn method(&self) -> &'static str {
        self.process.method()
    }

    /// The handle on the process, for polling: readable when it has ended.
    pub fn pidfd(&self) -> &mintage_sys::peer::PidFd {
        self.process.pidfd()
    }
}

fn selectors(
    credentials: &PeerCredentials,
    groups: &[u32],
    executable: Option<&Executable>,
) -> Result<BTreeSet<Selector>, AttestError> {
    let mut texts = vec![
        format!("unix:uid:{}", credentials.uid),
        format!("unix:gid:{}", credentials.gid),
    ];
    texts.extend(groups.iter().map(|gid| format!("unix:supplementary_gid:{gid}")));
    texts.extend(executable.map(|executable| format!("unix:sha256:{}", executable.sha256_hex())));
    let mut selectors = texts
        .iter()
        .map(|text| Selector::parse(text).map_err(|error| AttestError::PeerRefused(error.to_string())))
        .collect::<Result<BTreeSet<_>, _>>()?;
    // A path that is no valid selector (too long, control characters) matches no entry: nothing is lost without it.
    let path = executable.and_then(Executable::path);
    selectors.extend(path.and_then(|path| Selector::parse(&format!("unix:path:{path}")).ok()));
    Ok(selectors)
}
