//! Signals: SIGTERM and SIGINT stop in order within a deadline; SIGHUP reloads what can be reloaded and says what cannot.

use std::{path::Path, sync::Arc};

use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use crate::{config::Config, serve::Ca};

/// Exit code for the supervisor after the ledger failed: a temporary failure, start me again (`EX_TEMPFAIL`).
const EXIT_TEMPFAIL: u8 = 75;

type Failure = Box<dyn std::error::Error>;

impl Ca {
    /// Serves until a signal or a failed ledger ends it; returns the exit code. `file` is read again on SIGHUP.
    ///
    /// # Errors
    /// When signals cannot be received.
    pub async fn run_until_signal(self, file: Option<&Path>) -> Result<u8, Failure> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut last_read = file.and_then(|file| Config::load(file).ok());
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => match file {
                    Some(file) => self.reload(file, &mut last_read),
                    None => warn!("SIGHUP: there is no configuration file to read again"),
                },
                why = self.wait_poisoned() => {
                    error!(%why, "ending with {EXIT_TEMPFAIL}, so that the supervisor starts the CA anew");
                    self.stop().await;
                    return Ok(EXIT_TEMPFAIL);
                }
            }
        }
        info!("stopping");
        self.stop().await;
        Ok(0)
    }

    /// Takes over a new policy; everything else needs a restart and is named. Compared is what the file said before, not
    /// what runs: arguments may have overruled it.
    fn reload(&self, file: &Path, last_read: &mut Option<Config>) {
        match Config::load(file) {
            Err(problem) => error!(%problem, "reload refused; the running configuration stays"),
            Ok(new) => {
                let fixed = last_read
                    .as_ref()
                    .map(|last| last.differences_that_need_a_restart(&new))
                    .unwrap_or_default();
                if !fixed.is_empty() {
                    warn!(
                        keys = fixed.join(", "),
                        "changed but not taken over: these need a restart"
                    );
                }
                self.desk.current_policy.store(Arc::new(new.policy));
                *last_read = Some(new);
                info!("reloaded: ca.max_ttl, ca.agent_ttl, ca.rotate_keys");
            }
        }
    }
}
