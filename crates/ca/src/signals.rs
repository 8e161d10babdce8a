//! Signals: SIGTERM and SIGINT stop in order within a deadline; SIGHUP reloads what can be reloaded and says what cannot.

use std::{io, path::Path, sync::Arc};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use crate::{config::Config, crls, data_dir::DataDir, serve::Ca};

/// Exit code for the supervisor after the ledger failed: a temporary failure, start me again (`EX_TEMPFAIL`).
const EXIT_TEMPFAIL: u8 = 75;

type Failure = Box<dyn std::error::Error>;

/// SIGHUP, received from now on.
#[derive(Debug)]
pub struct Hangups(Signal);

impl Hangups {
    /// To be called before the CA starts: the signal's default ends a process, and a supervisor may send it at any time.
    ///
    /// # Errors
    /// When signals cannot be received.
    pub fn receive() -> io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }
}

impl Ca {
    /// Serves until a signal or a failed ledger ends it; returns the exit code. `file`, as it was read for the start, is
    /// read again on SIGHUP.
    ///
    /// # Errors
    /// When signals cannot be received.
    pub async fn run_until_signal(self, hangups: Hangups, file: Option<(&Path, Config)>) -> Result<u8, Failure> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let Hangups(mut hangup) = hangups;
        // One look for the whole life: it remembers what it has told, and since when the ledger has failed.
        let failed = {
            let mut poisoned = std::pin::pin!(self.wait_poisoned());
            loop {
                tokio::select! {
                    _ = terminate.recv() => break None,
                    _ = interrupt.recv() => break None,
                    _ = hangup.recv() => {
                        self.reload_root_list();
                        match &file {
                            Some((file, at_start)) => self.reload(file, at_start),
                            None => warn!("SIGHUP: there is no configuration file to read again"),
                        }
                    }
                    why = &mut poisoned => break Some(why),
                }
            }
        };
        let code = match failed {
            Some(why) => {
                error!(%why, "ending with {EXIT_TEMPFAIL}, so that the supervisor starts the CA anew");
                EXIT_TEMPFAIL
            }
            None => {
                info!("stopping");
                0
            }
        };
        self.stop().await;
        Ok(code)
    }

    /// Takes over a list of the root that was renewed. A small file, read now and then.
    fn reload_root_list(&self) {
        let taken = DataDir::open(self.data_dir()).and_then(|data| crls::take_root(&self.desk, &data));
        if let Err(problem) = taken {
            error!(%problem, "the root's list of revoked certificates is not taken over; the former one stays");
        }
    }

    /// Takes over a new policy; everything else needs a restart and is named, each time until there was one. Compared is
    /// what the file said at the start, not what runs: arguments may have overruled it.
    fn reload(&self, file: &Path, at_start: &Config) {
        match Config::load(file) {
            Err(problem) => error!(%problem, "reload refused; the running configuration stays"),
            Ok(new) => {
                let fixed = at_start.differences_that_need_a_restart(&new);
                if !fixed.is_empty() {
                    warn!(
                        keys = fixed.join(", "),
                        "changed but not taken over: these need a restart"
                    );
                }
                self.desk.current_policy.store(Arc::new(new.policy));
                info!("reloaded: ca.max_ttl, ca.agent_ttl, ca.jwt_ttl, ca.rotate_keys");
            }
        }
    }
}
