//! The program that is run, and the signals that go on to it.

use std::{
    ffi::OsString,
    io::IsTerminal,
    process::{Command, ExitStatus},
    task::Poll,
};

use mintage_sys::peer::PidFd;
use tokio::signal::unix;

use super::rotation::{HUP, INT, QUIT, Signal, TERM, USR1, USR2};
use crate::{failure::Failure, output::notice};

/// The program, held so that no signal reaches who gets its number next.
pub(super) struct Child {
    process: tokio::process::Child,
    handle: PidFd,
}

impl Child {
    /// Starts it, with these variables beside our own.
    pub(super) fn start(command: &[OsString], variables: &[(&str, OsString)]) -> Result<Self, Failure> {
        let Some((name, arguments)) = command.split_first() else {
            return Err(Failure::local("there is no CMD"));
        };
        let mut command = Command::new(name);
        command.args(arguments);
        command.envs(variables.iter().map(|(key, value)| (key, value)));
        let told = |error: std::io::Error| Failure::local(format!("{}: {error}", name.display()));
        let process = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn()
            .map_err(told)?;
        // It has not been waited for, so the number is its own.
        let pid = process.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0);
        let handle = PidFd::open(pid).map_err(told)?;
        Ok(Self { process, handle })
    }

    /// When it has ended, and how.
    pub(super) async fn ended(&mut self) -> Result<ExitStatus, Failure> {
        let waited = self.process.wait().await;
        waited.map_err(|error| Failure::local(format!("CMD cannot be waited for: {error}")))
    }

    /// Sends a signal; one that has ended gets none.
    pub(super) fn signal(&self, number: i32) {
        match self.handle.send_signal(number) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                notice(&format!("CMD did not get signal {number}: {error}"));
            }
            _ => {}
        }
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self) {
        let _ = self.process.start_kill();
    }
}

/// The signals that go on to the program.
pub(super) struct Signals {
    heard: Vec<(Signal, unix::Signal)>,
    /// Our terminal sends two of them to the program as well: it would get them twice.
    by_terminal: bool,
}

impl Signals {
    /// Begins to listen; none of them ends this program any more.
    pub(super) fn listen() -> Result<Self, Failure> {
        let listen = |signal: Signal| {
            let heard = unix::signal(signal.kind());
            let heard = heard.map_err(|error| Failure::local(format!("signals cannot be heard: {error}")))?;
            Ok((signal, heard))
        };
        let all = [HUP, INT, QUIT, TERM, USR1, USR2].map(listen);
        Ok(Self {
            heard: all.into_iter().collect::<Result<_, Failure>>()?,
            by_terminal: std::io::stdin().is_terminal(),
        })
    }

    /// The next of them.
    pub(super) async fn next(&mut self) -> Signal {
        std::future::poll_fn(|cx| {
            let came = |(signal, heard): &mut (Signal, unix::Signal)| heard.poll_recv(cx).is_ready().then_some(*signal);
            self.heard.iter_mut().find_map(came).map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Whether the program has it from the terminal.
    pub(super) fn known(&self, signal: Signal) -> bool {
        self.by_terminal && [INT, QUIT].contains(&signal)
    }
}
