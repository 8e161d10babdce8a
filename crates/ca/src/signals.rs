//! Signals: SIGTERM and SIGINT stop in order within a deadline; SIGHUP reloads what can be reloaded and says what cannot.

use std::path::Path;

use tokio::signal::unix::{Signal, SignalKind, signal};
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
    pub async fn run_until_signal(mut self, file: Option<&Path>) -> Result<u8, Failure> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                got = hangup.recv() => self.hung_up(got, file, &mut hangup),
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

    fn hung_up(&mut self, got: Option<()>, file: Option<&Path>, _: &mut Signal) {
        match (got, file) {
            (Some(()), Some(file)) => self.reload(file),
            _ => warn!("SIGHUP: there is no configuration file to read again"),
        }
    }

    /// Takes over a new policy; everything else needs a restart and is named.
    fn reload(&mut self, file: &Path) {
        match Config::load(file) {
            Err(problem) => error!(%problem, "reload refused; the running configuration stays"),
            Ok(new) => {
                let fixed = self.config.differences_that_need_a_restart(&new);
                if !fixed.is_empty() {
                    warn!(
                        keys = fixed.join(", "),
                        "changed but not taken over: these need a restart"
                    );
                }
                self.desk.current_policy.store(std::sync::Arc::new(new.policy));
                self.config.policy = new.policy;
                info!("reloaded: ca.max_ttl, ca.agent_ttl, ca.rotate_keys");
            }
        }
    }
}
