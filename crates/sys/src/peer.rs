//! Who is at the other end of a Unix socket, by the kernel's word, and a handle on that process that its number's next
//! owner can never inherit.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

/// Most supplementary groups of a process (`NGROUPS_MAX`, limits.h of the kernel).
const GROUPS_MAX: usize = 65_536;
/// Longest `/proc/self/fdinfo/<n>` read: the kernel writes some 200 bytes.
const FDINFO_BYTES_MAX: u64 = 4096;

/// What `SO_PEERCRED` recorded when the peer connected (unix(7)). It does not follow later changes of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Process number in our pid namespace; 0 when the peer is not visible there.
    pub pid: i32,
    /// Effective user id in our user namespace; the kernel's overflow id when it has no name there.
    pub uid: u32,
    /// Effective group id in our user namespace.
    pub gid: u32,
}

/// Credentials of the process that connected, or made the pair.
///
/// # Errors
/// Whatever getsockopt(2) answers; `NotConnected` when the socket has no peer.
pub fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<PeerCredentials> {
    let mut credentials = MaybeUninit::<libc::ucred>::uninit();
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the descriptor is open for the whole call (it is borrowed), the buffer is `len` bytes long and writable,
    // and the kernel writes at most `len` bytes.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            credentials.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    if len as usize != size_of::<libc::ucred>() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "short SO_PEERCRED answer"));
    }
    // SAFETY: the kernel said that it wrote every byte, and `ucred` is three integers: any bytes are a value.
    let credentials = unsafe { credentials.assume_init() };
    // A socket that never had a peer answers (0, -1, -1).
    if credentials.uid == u32::MAX {
        return Err(io::ErrorKind::NotConnected.into());
    }
    Ok(PeerCredentials {
        pid: credentials.pid,
        uid: credentials.uid,
        gid: credentials.gid,
    })
}

/// Supplementary groups of the peer when it connected (`SO_PEERGROUPS`, kernel 4.13), in our user namespace.
///
/// # Errors
/// Whatever getsockopt(2) answers.
pub fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut len = (groups.len() * size_of::<libc::gid_t>()) as libc::socklen_t;
        // SAFETY: the descriptor is open for the whole call, the buffer is `len` bytes of initialised integers, and the
        // kernel writes at most `len` bytes.
        let rc = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        let count = len as usize / size_of::<libc::gid_t>();
        if rc == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // ERANGE comes with the needed length, which grows only once per call and has the kernel's own limit.
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() || count > GROUPS_MAX {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

/// A handle on the process that connected (`SO_PEERPIDFD`, kernel 6.5), free of any race with reuse of its number.
///
/// # Errors
/// `Unsupported` when the kernel lacks the option; `NotFound` when the peer has ended (kernels before 6.16 answer
/// EINVAL or ESRCH then, so EINVAL must never lead to a fall-back by number); `NotConnected` without a peer.
pub fn peer_pidfd(socket: BorrowedFd<'_>) -> io::Result<PidFd> {
    let mut raw: libc::c_int = -1;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open for the whole call, the buffer is one initialised integer of `len` bytes, and the
    // kernel writes at most `len` bytes.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            (&raw mut raw).cast(),
            &raw mut len,
        )
    };
    if rc != 0 {
        let error = io::Error::last_os_error();
        return Err(match error.raw_os_error() {
            Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP) => io::ErrorKind::Unsupported.into(),
            Some(libc::EINVAL | libc::ESRCH) => io::ErrorKind::NotFound.into(),
            Some(libc::ENODATA) => io::ErrorKind::NotConnected.into(),
            _ => error,
        });
    }
    if raw < 0 || len as usize != size_of::<libc::c_int>() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "short SO_PEERPIDFD answer"));
    }
    // SAFETY: the kernel has just made this descriptor (with close-on-exec) for us alone; nothing else owns it.
    Ok(PidFd(unsafe { OwnedFd::from_raw_fd(raw) }))
}

/// An open handle on one process (pidfd_open(2)); it never comes to mean another process.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Opens the process that has this number now. The caller must prove that it is the one it means.
    ///
    /// # Errors
    /// `NotFound` when there is none; `Unsupported` before kernel 5.3.
    pub fn open(pid: i32) -> io::Result<Self> {
        // 0 and negative numbers name groups of processes elsewhere; here they name nothing.
        let pid = Some(pid).filter(|pid| *pid > 0).and_then(Pid::from_raw);
        let pid = pid.ok_or(io::ErrorKind::NotFound)?;
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => Ok(Self(fd)),
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => Err(io::ErrorKind::NotFound.into()),
            Err(rustix::io::Errno::NOSYS) => Err(io::ErrorKind::Unsupported.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the process has not ended. A zombie has ended. False, too, when the kernel does not answer.
    pub fn is_alive(&self) -> bool {
        let mut polled = [PollFd::new(&self.0, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        loop {
            match poll(&mut polled, Some(&at_once)) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(0) => return true,
                // Readable means ended; an error says nothing good either: fail closed.
                _ => return false,
            }
        }
    }

    /// The process's number in our pid namespace, read from `/proc/self/fdinfo`.
    ///
    /// # Errors
    /// `NotFound` once the process was reaped or when it is not visible here; otherwise what reading /proc answers.
    pub fn pid(&self) -> io::Result<i32> {
        use io::Read;
        let file = std::fs::File::open(format!("/proc/self/fdinfo/{}", self.0.as_raw_fd()))?;
        let mut text = String::new();
        file.take(FDINFO_BYTES_MAX).read_to_string(&mut text)?;
        let pid = text
            .lines()
            .find_map(|line| line.strip_prefix("Pid:"))
            .and_then(|value| value.trim().parse::<i32>().ok());
        match pid {
            Some(pid) if pid > 0 => Ok(pid),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Sends a signal to exactly this process.
    ///
    /// # Errors
    /// `NotFound` when it has ended; `PermissionDenied`; `InvalidInput` for a number that is no signal.
    pub fn send_signal(&self, signal: i32) -> io::Result<()> {
        let signal = Signal::from_named_raw(signal).ok_or(io::ErrorKind::InvalidInput)?;
        match pidfd_send_signal(&self.0, signal) {
            Err(rustix::io::Errno::SRCH) => Err(io::ErrorKind::NotFound.into()),
            other => Ok(other?),
        }
    }
}

impl AsFd for PidFd {
    /// For polling: readable when the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::unix::net::{UnixListener, UnixStream},
        process::{Child, Command, Stdio},
    };

    use super::*;

    const CHILD_SOCKET: &str = "MINTAGE_SYS_TEST_CONNECT_TO";

    /// Run again as a child process by the tests below; does nothing in its own right.
    #[test]
    fn child_that_connects_and_waits() {
        if let Some(path) = std::env::var_os(CHILD_SOCKET) {
            let mut stream = UnixStream::connect(path).unwrap();
            let _ = stream.read(&mut [0]);
        }
    }

    /// Starts the child, through another program when `through` names one, and waits for it to connect.
    fn connected_child(through: &[&str]) -> (UnixStream, Child) {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let exe = std::env::current_exe().unwrap();
        let arguments = ["--exact", "peer::tests::child_that_connects_and_waits"];
        let mut command = match through {
            [] => Command::new(&exe),
            [program, options @ ..] => {
                let mut command = Command::new(program);
                command.args(options).arg(&exe);
                command
            }
        };
        command.args(arguments).env(CHILD_SOCKET, &path).stdout(Stdio::null());
        let child = command.spawn().unwrap();
        (listener.accept().unwrap().0, child)
    }

    #[test]
    fn a_pair_in_one_process_shows_our_own_ids() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let credentials = peer_credentials(ours.as_fd()).unwrap();
        assert_eq!(credentials.pid, std::process::id() as i32);
        assert_eq!(credentials.uid, rustix::process::geteuid().as_raw());
        assert_eq!(credentials.gid, rustix::process::getegid().as_raw());
        let mut groups = peer_groups(ours.as_fd()).unwrap();
        let own = rustix::process::getgroups().unwrap();
        let mut own: Vec<u32> = own.iter().map(|gid| gid.as_raw()).collect();
        groups.sort_unstable();
        own.sort_unstable();
        assert_eq!(groups, own);
    }

    #[test]
    fn more_groups_than_a_first_look_expects_are_all_read() {
        let able = crate::privilege::is_root() && Command::new("setpriv").arg("--version").output().is_ok();
        if !able {
            return;
        }
        let list: Vec<String> = (1000..1300).map(|gid: u32| gid.to_string()).collect();
        let (stream, mut child) = connected_child(&["setpriv", &format!("--groups={}", list.join(","))]);
        let groups = peer_groups(stream.as_fd()).unwrap();
        drop(stream);
        child.wait().unwrap();
        assert_eq!(groups, (1000..1300).collect::<Vec<u32>>());
    }

    #[test]
    fn a_socket_without_a_peer_and_a_file_have_no_credentials() {
        let temp = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(temp.path().join("socket")).unwrap();
        let lonely =
            rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None).unwrap();
        assert_eq!(
            peer_credentials(lonely.as_fd()).unwrap_err().kind(),
            io::ErrorKind::NotConnected
        );
        assert!(peer_pidfd(lonely.as_fd()).is_err());
        assert!(peer_credentials(tempfile::tempfile().unwrap().as_fd()).is_err());
        drop(listener);
    }

    #[test]
    fn a_handle_outlives_its_process_and_says_so() {
        let (mut stream, mut child) = connected_child(&[]);
        let handle = match peer_pidfd(stream.as_fd()) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => PidFd::open(child.id() as i32).unwrap(),
            other => other.unwrap(),
        };
        assert_eq!(handle.pid().unwrap(), child.id() as i32);
        assert!(handle.is_alive());
        assert!(handle.send_signal(0).is_err());
        stream.write_all(b"x").unwrap();
        // Ended but not reaped: its number is not free yet, and it is dead all the same.
        let mut polled = [PollFd::new(&handle, PollFlags::IN)];
        poll(&mut polled, None).unwrap();
        assert!(!handle.is_alive());
        child.wait().unwrap();
        assert_eq!(handle.pid().unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(handle.send_signal(15).unwrap_err().kind(), io::ErrorKind::NotFound);
        // The socket still shows the old number; the handle asked for now is dead or refused, never somebody else's.
        assert_eq!(peer_credentials(stream.as_fd()).unwrap().pid, child.id() as i32);
        assert!(peer_pidfd(stream.as_fd()).map_or(true, |late| !late.is_alive()));
        assert!(PidFd::open(child.id() as i32).is_err());
    }

    #[test]
    fn a_signal_reaches_the_process_of_the_handle() {
        let (_stream, mut child) = connected_child(&[]);
        let handle = PidFd::open(child.id() as i32).unwrap();
        handle.send_signal(9).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
        for pid in [0, -1, i32::MIN] {
            assert_eq!(PidFd::open(pid).unwrap_err().kind(), io::ErrorKind::NotFound);
        }
    }
}
