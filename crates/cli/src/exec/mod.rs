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
    the number of the signal that ended it. SIGKILL of mintage itself leaves CMD and its folder behind."
)]
pub(crate) struct Exec {
    /// This identity, where the agent gives several [default: the first]
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<String>,
    /// What CMD gets when its files have changed: restart, signal=HUP (or USR1, USR2) or nothing
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
        child: start()?,
        told_to_end: false,
        ending_by: None,
        unwritten: None,
    };
    loop {
        match running
            .turn(&mut signals, &mut changes, &folder, exec.on_rotation)
            .await?
        {
            Turn::Goes => {}
            Turn::Ended(status) => return Ok(code(status)),
            Turn::Again => running.child = start()?,
        }
    }
}

/// The program and what is under way with it.
struct Running {
    child: Child,
    /// Whoever ends us ends the program: once told, it has the time it needs and is not started again.
    told_to_end: bool,
    /// Until when it may take to end where it is to be started anew.
    ending_by: Option<Instant>,
    /// What could not be written, and when that is tried again.
    unwritten: Option<(Identity, Instant)>,
}

/// What one event led to.
enum Turn {
    Goes,
    Ended(ExitStatus),
    /// It ended because it was told to, so that it reads its files anew.
    Again,
}

impl Running {
    async fn turn(
        &mut self,
        signals: &mut Signals,
        changes: &mut mpsc::Receiver<Identity>,
        folder: &PrivateFolder,
        on_rotation: OnRotation,
    ) -> Result<Turn, Failure> {
        let (late, again) = (self.ending_by, self.unwritten.as_ref().map(|(_, at)| *at));
        tokio::select! {
            status = self.child.ended() => {
                let status = status?;
                return Ok(match self.ending_by.take() {
                    Some(_) => Turn::Again,
                    None => Turn::Ended(status),
                });
            }
            signal = signals.next() => {
                if signal.ends() {
                    self.told_to_end = true;
                    self.ending_by = None;
                }
                if !signals.known(signal) {
                    self.child.signal(signal.number());
                }
            }
            // A newer one replaces what is still unwritten.
            Some(identity) = changes.recv() => self.changed(identity, folder, on_rotation),
            () = until(again), if again.is_some() => {
                if let Some((identity, _)) = self.unwritten.take() {
                    self.changed(identity, folder, on_rotation);
                }
            }
            () = until(late), if late.is_some() => {
                notice(&format!("CMD did not end within {} s and is killed", EXEC_STOP_WAIT.as_secs()));
                self.child.kill();
                // Its end is what comes next; the kernel does not wait for the program.
                self.ending_by = Some(Instant::now() + EXEC_STOP_WAIT);
            }
        }
        Ok(Turn::Goes)
    }

    /// Writes it and does what follows a rotation, now or when it can be written.
    fn changed(&mut self, identity: Identity, folder: &PrivateFolder, on_rotation: OnRotation) {
        self.unwritten = None;
        match folder.write(&identity) {
            Ok(()) => self.rotated(on_rotation),
            Err(failure) => {
                let again = EXEC_WRITE_AGAIN.as_secs();
                notice(&format!("the files stay as they were, again in {again} s: {failure}"));
                self.unwritten = Some((identity, Instant::now() + EXEC_WRITE_AGAIN));
            }
        }
    }

    fn rotated(&mut self, on_rotation: OnRotation) {
        match on_rotation {
            OnRotation::Nothing => {}
            // Who outlives a signal that usually ends, as shells do SIGINT, still has to read its files.
            OnRotation::Signal(signal) => self.child.signal(signal.number()),
            // One that is about to end reads the new files when it is started, or is not started again.
            OnRotation::Restart if self.told_to_end || self.ending_by.is_some() => {}
            OnRotation::Restart => {
                self.ending_by = Some(Instant::now() + EXEC_STOP_WAIT);
                self.child.signal(rotation::TERM.number());
            }
        }
    }
}

async fn until(when: Option<Instant>) {
    sleep_until(when.unwrap_or_else(Instant::now)).await;
}

/// As a shell gives it on: the code, or 128 and the signal.
fn code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| Some(128 + status.signal()?));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
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
