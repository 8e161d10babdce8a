//! The way to the CA: joins, joins again, keeps the one stream open, and starts over after any outage. It decides
//! nothing about identities; the core does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mintage_attest::join_token::JoinToken;
use mintage_verifier::{AllowedIds, client_config};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::{AgentError, core::Input, limits::REJOIN_WITHIN, shared::Shared};

mod backoff;
mod connect;
mod join;
mod lists;
mod session;

use backoff::{Backoff, shuffled};
pub(crate) use connect::{ALPN, ConnectError, connect};
use session::Ended;

/// Streams that the CA ended at once, one after the other, before the last key is tried in their stead: its clock may
/// say that our certificate has ended while ours does not.
const REJOIN_AFTER: u32 = 3;

/// What others want of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    /// Open a new stream: the agent's own certificate was renewed.
    Reconnect,
    /// Fetch the newest revocation snapshot.
    FetchSnapshot,
}

/// The task that holds the connection.
pub(crate) struct Link {
    shared: Arc<Shared>,
    token: Option<JoinToken>,
    /// Addresses that stand in for those of the token.
    override_addresses: Vec<String>,
    /// Addresses that were given at the last join.
    addresses: Vec<String>,
    inbox: mpsc::Sender<Input>,
    control: mpsc::Receiver<Control>,
    stop: CancellationToken,
    generation: AtomicU64,
    backoff: Backoff,
    /// Failed streams in a row, with the CA reached.
    refused_streams: u32,
    /// The CA said no to the agent's certificate.
    rejoin_next: bool,
}

/// How to reach an identity or the stream.
enum Route {
    Join,
    Rejoin,
    Sync,
}

/// Why a try did not succeed.
pub(crate) enum Failure {
    /// Nothing helps but an operator.
    Fatal(AgentError),
    /// The CA was reached and said no to who we are.
    Refused(String),
    /// Try again.
    Retry {
        /// The CA was reached.
        reached: bool,
        why: String,
    },
}

impl Failure {
    fn retry(why: impl Into<String>) -> Self {
        Self::Retry {
            reached: true,
            why: why.into(),
        }
    }

    /// What a gRPC status means for an agent that is not known yet or no longer.
    fn of_status(status: &tonic::Status) -> Self {
        let why = format!("{}: {}", status.code().description(), status.message());
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => Self::Refused(why),
            _ => Self::retry(why),
        }
    }
}

impl Link {
    pub(crate) fn new(
        shared: Arc<Shared>,
        token: Option<JoinToken>,
        (override_addresses, addresses): (Vec<String>, Vec<String>),
        (inbox, control): (mpsc::Sender<Input>, mpsc::Receiver<Control>),
        stop: CancellationToken,
    ) -> Self {
        Self {
            shared,
            token,
            override_addresses,
            addresses,
            inbox,
            control,
            stop,
            generation: AtomicU64::new(0),
            backoff: Backoff::default(),
            refused_streams: 0,
            rejoin_next: false,
        }
    }

    /// Runs until it is stopped, or until only an operator can help.
    pub(crate) async fn run(mut self) -> Result<(), AgentError> {
        while !self.stop.is_cancelled() {
            let done = match self.route()? {
                Route::Join => self.join().await.map(|()| Duration::ZERO),
                Route::Rejoin => self.rejoin().await.map(|()| Duration::ZERO),
                Route::Sync => self.sync().await,
            };
            match done {
                Ok(wait) if wait.is_zero() => self.backoff.reset(),
                Ok(wait) => self.pause(wait).await,
                Err(failure) => {
                    let wait = self.failed(failure)?;
                    self.pause(wait).await;
                }
            }
        }
        Ok(())
    }

    fn route(&self) -> Result<Route, AgentError> {
        let Some(own) = self.shared.own.load_full() else {
            return match self.token {
                Some(_) => Ok(Route::Join),
                None => Err(AgentError::NotJoined),
            };
        };
        let ended_for = self.shared.wall().since(own.leaf.not_after());
        match ended_for {
            Duration::ZERO if !self.rejoin_next => Ok(Route::Sync),
            ended if ended <= REJOIN_WITHIN => Ok(Route::Rejoin),
            _ if self.token.is_some() => Ok(Route::Join),
            ended => {
                let days = ended.as_secs() / 86_400;
                Err(AgentError::NeedsToken(format!(
                    "its certificate expired {days} days ago"
                )))
            }
        }
    }

    /// Tells the failure and says how long to wait.
    fn failed(&mut self, failure: Failure) -> Result<Duration, AgentError> {
        let why = match failure {
            Failure::Fatal(error) => return Err(error),
            Failure::Refused(why) => self.refused(why)?,
            Failure::Retry { why, .. } => why,
        };
        let stage = if self.shared.own.load().is_some() {
            "connect"
        } else {
            "join"
        };
        self.shared.problem(stage, "CA", &why);
        Ok(self.next_wait())
    }

    /// The CA said no: to the certificate, then the last key is tried; to that, then the token; then nothing is left but
    /// to keep serving what has not ended yet.
    fn refused(&mut self, why: String) -> Result<String, AgentError> {
        if !self.rejoin_next {
            self.rejoin_next = true;
            return Ok(why);
        }
        self.rejoin_next = false;
        // A full queue loses nothing: the CA says so again.
        let _ = self.inbox.try_send(Input::Refused);
        if self.token.is_some() {
            // The identity on disk is worth nothing to this CA: begin anew.
            self.shared.own.store(None);
            self.shared.tls_identity.clear();
            return Ok(format!("{why}; joining anew with the token"));
        }
        if !self.shared.serves_anything() {
            return Err(AgentError::NeedsToken(why));
        }
        Ok(format!(
            "{why}; what has not ended yet is still served, but a new join token is needed"
        ))
    }

    /// Never longer than a tenth of the shortest lifetime that waits for this connection.
    fn next_wait(&mut self) -> Duration {
        let at_most = self.shared.shortest_life() / 10;
        self.backoff.next(self.shared.deps.jitter(), at_most)
    }

    async fn pause(&mut self, wait: Duration) {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = self.stop.cancelled() => {}
        }
        // What was asked of a connection that is gone is moot.
        while self.control.try_recv().is_ok() {}
    }

    fn ca_addresses(&self) -> Vec<String> {
        let known = if self.override_addresses.is_empty() {
            &self.addresses
        } else {
            &self.override_addresses
        };
        shuffled(known, || self.shared.deps.jitter())
    }

    fn replicas(&self) -> Result<AllowedIds, Failure> {
        AllowedIds::replicas_of(&self.shared.domain).map_err(|error| Failure::retry(error.to_string()))
    }

    /// One stream, from the handshake to its end; the wait before the next one.
    async fn sync(&mut self) -> Result<Duration, Failure> {
        let shared = self.shared.clone();
        let identity = Some(shared.tls_identity.clone());
        let config = client_config(shared.ca_trust.clone(), identity, self.replicas()?, &shared.tls())
            .map_err(|error| Failure::retry(error.to_string()))?;
        let mut last = Failure::retry("no CA address is known");
        for address in self.ca_addresses() {
            if self.stop.is_cancelled() {
                return Ok(Duration::ZERO);
            }
            let connection = match connect::connect(&address, config.clone()).await {
                Ok(connection) => connection,
                Err(error) => {
                    last = Failure::Retry {
                        reached: error.reached,
                        why: error.to_string(),
                    };
                    continue;
                }
            };
            let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
            match self.session(generation, &address, connection).await {
                Ok(ended) => return Ok(self.ended(ended)),
                Err(failure) => last = failure,
            }
        }
        if let Failure::Retry { reached: true, .. } = last {
            self.refused_streams += 1;
            if self.refused_streams >= REJOIN_AFTER {
                self.refused_streams = 0;
                self.rejoin_next = true;
            }
        }
        Err(last)
    }

    /// A stream that was open has ended.
    fn ended(&mut self, ended: Ended) -> Duration {
        self.refused_streams = 0;
        match ended {
            Ended::Renewed | Ended::Stopped => Duration::ZERO,
            Ended::Lost { good } => {
                if good {
                    self.backoff.reset();
                }
                self.next_wait()
            }
        }
    }
}
