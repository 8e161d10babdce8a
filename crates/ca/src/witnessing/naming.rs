//! Making a log known to a witness that follows the ones before it: it is told what each log's key says about the log after it,
//! from the last one that the witness knows.

use mintage_ledger::{Log, limits::FOLLOWED_LOGS_MAX};
use tracing::info;

use super::{client::Told, task::Courier};
use crate::limits::WITNESS_TELL_INTERVAL;

/// What to do about a witness that cannot be told.
const REMEDY: &str = "give it the CA's `ledger/policy` file";

fn refused(why: &str) -> String {
    format!("{why}; {REMEDY}")
}

impl Courier {
    /// Makes the log that is written known. A witness that refuses is not told the same again for a while.
    ///
    /// # Errors
    /// Why it does not follow the log, or does not answer.
    pub(super) async fn name_current(&mut self, unknown: String) -> Result<(), String> {
        let now = self.now();
        if self
            .told_last
            .is_some_and(|at| now.saturating_sub(at) < WITNESS_TELL_INTERVAL)
        {
            return Err(refused(&unknown));
        }
        let log = self.desk.journal.log();
        let named = self.name_log(&log, unknown).await?;
        self.told_last = named.is_err().then_some(now);
        named
    }

    /// Makes a log known, after the witness answered `unknown` about it; the inner error is its refusal, with what to do.
    ///
    /// # Errors
    /// Why there is no answer.
    pub(super) async fn name_log(&mut self, log: &Log, unknown: String) -> Result<Result<(), String>, String> {
        let statements = self.statements(log).await?;
        let mut known = None;
        // The newest first: mostly it is the one that is wanted.
        for (at, statement) in statements.iter().enumerate().rev() {
            match self.client.tell(statement.clone()).await? {
                Told::Follows => {
                    known = Some(at);
                    break;
                }
                Told::Unknown(_) => {}
                Told::Refused(why) => return Ok(Err(refused(&why))),
            }
        }
        let Some(known) = known else {
            return Ok(Err(refused(&unknown)));
        };
        for statement in &statements[known + 1..] {
            match self.client.tell(statement.clone()).await? {
                Told::Follows => {}
                Told::Unknown(why) | Told::Refused(why) => return Ok(Err(refused(&why))),
            }
        }
        info!(witness = self.name(), origin = %log.origin(), "the witness follows the log, by the word of the one before");
        Ok(Ok(()))
    }

    /// What leads to a log, oldest first.
    async fn statements(&self, log: &Log) -> Result<Vec<String>, String> {
        let (desk, origin) = (self.desk.clone(), log.origin().clone());
        let read = tokio::task::spawn_blocking(move || {
            let files = desk.shards.files();
            let at = files.logs().iter().position(|log| *log.origin() == origin);
            let mut statements = files.successions()?;
            // The first log has none, so there are as many as the log's number.
            statements.truncate(at.unwrap_or_default());
            Ok(statements.split_off(statements.len().saturating_sub(FOLLOWED_LOGS_MAX)))
        });
        match read.await {
            Ok(read) => read.map_err(|error: mintage_ledger::LedgerError| error.to_string()),
            Err(_) => Err("the statements of the logs could not be read".to_owned()),
        }
    }
}
