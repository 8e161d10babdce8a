//! `mintage exec`: a program with the identity of its user in files of its own, which follow the agent until it ends.
//! Signals go on to it, and its exit code is this program's.

mod child;
mod folder;
mod news;
mod rotation;

use std::{ffi::OsString, process::ExitStatus};

use clap::Args;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use crate::{
    cli::Context,
    endpoint::{Endpoint, VARIABLE},
    failure::Failure,
    limits::{EXEC_STOP_WAIT, EXEC_WRITE_AGAIN},
    output::notice,
};
use child::{Child, Signals};
use folder::PrivateFolder;
use news::{Identity, News};
use rotation::OnRotation;

/// `exec`.
#[derive(Args, Debug)]
#[command(
    after_help = "The files come from what this program proves: user and groups are those of CMD, path and digest are \
    mintage's own. CMD may ask the socket itself and then proves its own. It gets SPIFFE_ENDPOINT_SOCKET, MINTAGE_DIRECTORY, \
    MINTAGE_SVID_FILE, MINTAGE_KEY_FILE, MINTAGE_BUNDLE_FILE and MINTAGE_SPIFFE_ID. The exit code is that of CMD, or 128 and \
    the number of the signal that ended it. When the agent no longer gives the identity, its files are removed, which counts as \
    a change: CMD goes on, gets the signal, or is ended and started once the identity is given again. SIGKILL of mintage \
    itself leaves CMD and its folder behind."
)]
pub(crate) struct Exec {
    /// This identity, where the agent gives several [default: the first]
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<String>,
    /// What CMD gets when its files have changed or were removed: restart, signal=HUP (or USR1, USR2) or nothing
    #[arg(long, value_name = "WHAT", default_value = "nothing")]
    on_rotation: OnRotation,
    /// The program and its arguments, after --
    #[arg(required = true, last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Runs the verb; the exit code of the program.
pub(crate) async fn run(context: &Context, exec: &Exec) -> Result<u8, Failure> {
    let endpoint = Endpoint::of(context)?;
    let address = endpoint.address()?;
    let (news, first) = News::open(endpoint, exec.spiffe_id.clone()).await?;
    // From here on a signal is for the program, and the folder is removed whatever comes.
    let mut signals = Signals::listen()?;
    let folder = PrivateFolder::new()?;
    folder.write(&first)?;
    let mut variables = folder.variables();
    variables.push((VARIABLE, address.into()));
    variables.push(("MINTAGE_SPIFFE_ID", first.spiffe_id.clone().into()));
    let (sender, mut changes) = mpsc::channel(1);
    tokio::spawn(news.follow(first.seen(), sender));
    drop(first);
    let start = || Child::start(&exec.command, &variables);
    let mut running = Running {
        child: Some(start()?),
        has_files: true,
        told_to_end: false,
        ending_by: None,
        undone: None,
    };
    loop {
        match running
            .turn(&mut signals, &mut changes, &folder, exec.on_rotation)
            .await?
        {
            Turn::Goes => {}
            Turn::Ended(code) => return Ok(code),
            Turn::Start => running.child = Some(start()?),
        }
    }
}

/// The program and what is under way with it.
struct Running {
    /// None while it waits for an identity to be started anew with.
    child: Option<Child>,
    /// None are there while the identity is withdrawn.
    has_files: bool,
    /// Whoever ends us ends the program: once told, it has the time it needs and is not started again.
    told_to_end: bool,
    /// Until when it may take to end where it is to be started anew.
    ending_by: Option<Instant>,
    /// What could not be done to the files, and when that is tried again.
    undone: Option<(Option<Identity>, Instant)>,
}

/// What one event led to.
enum Turn {
    Goes,
    Ended(u8),
    /// It ended because it was told to, so that it reads its files anew.
    Start,
}

impl Running {
    async fn turn(
        &mut self,
        signals: &mut Signals,
        changes: &mut mpsc::Receiver<Option<Identity>>,
        folder: &PrivateFolder,
        on_rotation: OnRotation,
    ) -> Result<Turn, Failure> {
        let (late, again) = (self.ending_by, self.undone.as_ref().map(|(_, at)| *at));
        tokio::select! {
            status = ended(&mut self.child) => {
                let status = status?;
                return Ok(match self.ending_by.take() {
                    Some(_) if self.has_files => Turn::Start,
                    Some(_) => {
                        notice("CMD has ended and is started once the identity is given again");
                        self.child = None;
                        Turn::Goes
                    }
                    None => Turn::Ended(code(status)),
                });
            }
            signal = signals.next() => {
                if signal.ends() {
                    self.told_to_end = true;
                    self.ending_by = None;
                }
                match &self.child {
                    Some(child) if !signals.known(signal) => child.signal(signal.number()),
                    None if signal.ends() => return Ok(Turn::Ended(by_signal(signal.number()))),
                    _ => {}
                }
            }
            // A newer one replaces what is still undone.
            Some(identity) = changes.recv() => return Ok(self.changed(identity, folder, on_rotation)),
            () = until(again), if again.is_some() => {
                if let Some((identity, _)) = self.undone.take() {
                    return Ok(self.changed(identity, folder, on_rotation));
                }
            }
            () = until(late), if late.is_some() => {
                notice(&format!("CMD did not end within {} s and is killed", EXEC_STOP_WAIT.as_secs()));
                if let Some(child) = &mut self.child {
                    child.kill();
                }
                // Its end is what comes next; the kernel does not wait for the program.
                self.ending_by = Some(Instant::now() + EXEC_STOP_WAIT);
            }
        }
        Ok(Turn::Goes)
    }

    /// Writes the files, or removes them, and does what follows a rotation, now or when that can be done.
    fn changed(&mut self, identity: Option<Identity>, folder: &PrivateFolder, on_rotation: OnRotation) -> Turn {
        self.undone = None;
        let done = match &identity {
            Some(identity) => folder.write(identity),
            None => folder.empty(),
        };
        match done {
            Ok(()) => {
                self.has_files = identity.is_some();
                self.rotated(on_rotation)
            }
            Err(failure) => {
                let again = EXEC_WRITE_AGAIN.as_secs();
                notice(&format!("the files stay as they were, again in {again} s: {failure}"));
                self.undone = Some((identity, Instant::now() + EXEC_WRITE_AGAIN));
                Turn::Goes
            }
        }
    }

    fn rotated(&mut self, on_rotation: OnRotation) -> Turn {
        let Some(child) = &self.child else {
            return if self.has_files { Turn::Start } else { Turn::Goes };
        };
        match on_rotation {
            OnRotation::Nothing => {}
            // Who outlives a signal that usually ends, as shells do SIGINT, still has to read its files.
            OnRotation::Signal(signal) => child.signal(signal.number()),
            // One that is about to end reads the new files when it is started, or is not started again.
            OnRotation::Restart if self.told_to_end || self.ending_by.is_some() => {}
            OnRotation::Restart => {
                self.ending_by = Some(Instant::now() + EXEC_STOP_WAIT);
                child.signal(rotation::TERM.number());
            }
        }
        Turn::Goes
    }
}

/// When the program has ended; never where there is none.
async fn ended(child: &mut Option<Child>) -> Result<ExitStatus, Failure> {
    match child {
        Some(child) => child.ended().await,
        None => std::future::pending().await,
    }
}

async fn until(when: Option<Instant>) {
    sleep_until(when.unwrap_or_else(Instant::now)).await;
}

/// As a shell gives it on: the code, or 128 and the signal.
fn code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(1),
        (None, Some(signal)) => by_signal(signal),
        (None, None) => 1,
    }
}

fn by_signal(number: i32) -> u8 {
    u8::try_from(128 + number).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        for (status, expected) in [(0, 0), (7 << 8, 7), (255 << 8, 255), (9, 137), (15, 143)] {
            assert_eq!(code(ExitStatus::from_raw(status)), expected);
        }
    }
}
