//! Callers of an agent's socket, each a process of its own that is told apart by a supplementary group. A caller is told by
//! one octet what to do: to make a bare call and time it, or to connect and hand the connection over.

use std::{
    collections::HashMap,
    io::{IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::{
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        recvmsg, sendmsg,
    },
    process::Gid,
    time::{ClockId, clock_gettime},
};

use crate::{bare_call::BareCall, load::Failure};

/// The first of the groups; none of the system's own is so high.
pub(crate) const FIRST_GROUP: u32 = 1_000_000;
/// What a caller is told to do.
const CALL: u8 = b'b';
const CONNECT: u8 = b'c';
/// Octets of an answer: two numbers.
const ANSWER: usize = 16;
/// Longest wait for an answer.
const WAIT: Duration = Duration::from_secs(20);

/// What the processes are started with, by which a program finds that it is one of them.
#[derive(clap::Args, Debug)]
pub struct Role {
    /// The number of this caller.
    #[arg(long = "caller", hide = true, requires = "socket")]
    number: Option<u32>,
    /// The agent's socket.
    #[arg(long = "caller-socket", id = "socket", hide = true)]
    socket: Option<PathBuf>,
}

impl Role {
    /// Does what a caller is told on standard input, until that ends; `None` for a program that is no caller.
    ///
    /// # Errors
    /// Only root can take groups; what a call answers that does not lead to an SVID.
    pub fn play(&self) -> Option<Result<(), Failure>> {
        Some(serve(self.number?, self.socket.as_ref()?))
    }
}

fn serve(number: u32, socket: &Path) -> Result<(), Failure> {
    // No other thread has begun: the whole process is in the group.
    rustix::thread::set_thread_groups(&[Gid::from_raw(FIRST_GROUP + number)])?;
    let mut control = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let call = BareCall::default();
    let mut told = [0];
    while control.read(&mut told)? == 1 {
        match told[0] {
            CALL => {
                let (took, identities) = call.make(socket)?;
                control.write_all(&answer(took, identities))?;
            }
            _ => {
                let began = monotonic();
                let stream = UnixStream::connect(socket)?;
                hand_over(&control, &stream, &answer(began, 0))?;
            }
        }
    }
    Ok(())
}

/// The system's monotonic clock, which all processes share.
fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(
        now.tv_sec.unsigned_abs(),
        u32::try_from(now.tv_nsec).unwrap_or_default(),
    )
}

fn answer(time: Duration, count: usize) -> [u8; ANSWER] {
    let mut octets = [0; ANSWER];
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    octets[..8].copy_from_slice(&nanos.to_le_bytes());
    octets[8..].copy_from_slice(&(count as u64).to_le_bytes());
    octets
}

fn answered(octets: &[u8; ANSWER]) -> (Duration, u64) {
    let number = |at: usize| {
        octets[at..]
            .iter()
            .take(8)
            .rev()
            .fold(0, |n, octet| n << 8 | u64::from(*octet))
    };
    (Duration::from_nanos(number(0)), number(8))
}

/// Sends an answer and a descriptor with it (unix(7), `SCM_RIGHTS`).
fn hand_over(control: &UnixStream, stream: &UnixStream, octets: &[u8]) -> Result<(), Failure> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [stream.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(control, &[IoSlice::new(octets)], &mut ancillary, SendFlags::empty())?;
    Ok(())
}

/// The processes of one agent's callers; they end with this value.
#[derive(Debug)]
pub struct Callers {
    socket: PathBuf,
    started: Mutex<HashMap<u32, Arc<Mutex<Caller>>>>,
}

#[derive(Debug)]
struct Caller {
    process: Child,
    control: UnixStream,
}

impl Drop for Caller {
    fn drop(&mut self) {
        // It ends by itself when nobody tells it anything more; nobody waits for one that does not.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Callers {
    /// Callers of this socket, none of which has begun.
    pub fn of(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            started: Mutex::default(),
        }
    }

    /// From the connect of the caller of this number to its first SVID, with nothing but system calls on its side.
    ///
    /// # Errors
    /// What the caller could not do, and another number of identities than one.
    pub fn bare(&self, number: u32) -> Result<Duration, Failure> {
        let caller = self.caller(number)?;
        let mut caller = caller.lock().unwrap_or_else(PoisonError::into_inner);
        let mut octets = [0; ANSWER];
        caller.control.write_all(&[CALL])?;
        let read = caller.control.read_exact(&mut octets);
        read.map_err(|error| format!("caller {number}: {error}; see above"))?;
        match answered(&octets) {
            (took, 1) => Ok(took),
            (_, other) => Err(format!("caller {number} has {other} identities").into()),
        }
    }

    /// A connection of the caller of this number, and when it began to connect.
    ///
    /// # Errors
    /// What the caller could not do.
    pub fn connect(&self, number: u32) -> Result<(UnixStream, Instant), Failure> {
        let caller = self.caller(number)?;
        let mut caller = caller.lock().unwrap_or_else(PoisonError::into_inner);
        caller.control.write_all(&[CONNECT])?;
        let mut octets = [0; ANSWER];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let got = recvmsg(
            &caller.control,
            &mut [IoSliceMut::new(&mut octets)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        let handed: Option<OwnedFd> = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        match handed.filter(|_| got.bytes == ANSWER) {
            Some(stream) => {
                let since = monotonic().saturating_sub(answered(&octets).0);
                let began = Instant::now().checked_sub(since).ok_or("the clock went back")?;
                Ok((UnixStream::from(stream), began))
            }
            None => Err(format!("caller {number} could not connect; see above").into()),
        }
    }

    fn caller(&self, number: u32) -> Result<Arc<Mutex<Caller>>, Failure> {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(caller) = started.get(&number) {
            return Ok(caller.clone());
        }
        let (control, theirs) = UnixStream::pair()?;
        control.set_read_timeout(Some(WAIT))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--caller").arg(number.to_string());
        command.arg("--caller-socket").arg(&self.socket);
        let process = command
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()?;
        let caller = Arc::new(Mutex::new(Caller { process, control }));
        started.insert(number, caller.clone());
        Ok(caller)
    }
}
