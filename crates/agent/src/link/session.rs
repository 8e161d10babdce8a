//! One stream, from its first message to its end. Revocation news goes straight to its own thread; everything else to
//! the core, which reads no further while it is busy.

use std::time::Instant;

use mintage_proto::v1::{self, agent_message, ca_message::Message};
use mintage_subscriber::{fetch_snapshot, limits::SNAPSHOT_WAIT};
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use super::{
    Control, Failure, Link,
    connect::{Connection, chain_of},
    join::{VERSION, client},
    lists,
};
use crate::{
    AgentEvent,
    core::Input,
    limits::{CALL_WAIT, STREAM_GOOD_AFTER, STREAM_QUEUE_MAX},
    revoked::News,
};

/// How an open stream came to its end.
pub(super) enum Ended {
    /// The agent's own certificate was renewed; the next stream is opened with it.
    Renewed,
    /// The agent stops.
    Stopped,
    /// It broke, or the CA ended it; `good` when it had lived for a while.
    Lost { good: bool },
}

impl Link {
    /// Runs one stream. An error means that it never opened.
    pub(super) async fn session(
        &mut self,
        generation: u64,
        address: &str,
        connection: Connection,
    ) -> Result<Ended, Failure> {
        let (upstream, queue) = mpsc::channel(STREAM_QUEUE_MAX);
        let _ = upstream.try_send(self.hello());
        let mut client = client(connection.channel.clone());
        let opened = timeout(CALL_WAIT, client.sync(ReceiverStream::new(queue)));
        let mut stream = match opened.await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Err(Failure::of_status(&status)),
            Err(_) => {
                return Err(Failure::retry(format!(
                    "{address}: the stream did not open within {CALL_WAIT:?}"
                )));
            }
        };
        // The first message proves that the CA took our certificate; TLS 1.3 itself would only tell later.
        let first = match timeout(CALL_WAIT, stream.message()).await {
            Ok(Ok(Some(message))) => message,
            Ok(Ok(None)) => return Err(Failure::retry(format!("{address}: the CA ended the stream at once"))),
            Ok(Err(status)) => return Err(Failure::of_status(&status)),
            Err(_) => return Err(Failure::retry(format!("{address}: no message within {CALL_WAIT:?}"))),
        };
        let opened = Instant::now();
        self.shared.metrics.stream_opened();
        self.shared.tell(AgentEvent::Connected {
            address: address.to_owned(),
        });
        tracing::info!(address, "connected to the CA");
        let up = Input::Up {
            generation,
            upstream: upstream.clone(),
            calls: client,
        };
        let _ = self.inbox.send(up).await;
        self.deliver(generation, first, &upstream).await;
        let lists = lists::follow(self.shared.clone(), self.inbox.clone(), connection.channel.clone());
        let lists = tokio::spawn(lists);
        let (ended, why) = self.pump(generation, &mut stream, &upstream, &connection.channel).await;
        lists.abort();
        tracing::info!(address, why, "the stream to the CA ended");
        self.shared.tell(AgentEvent::Disconnected { why: why.clone() });
        let _ = self.inbox.send(Input::Down { generation, why }).await;
        Ok(match ended {
            Ended::Lost { .. } => Ended::Lost {
                good: opened.elapsed() >= STREAM_GOOD_AFTER,
            },
            other => other,
        })
    }

    fn hello(&self) -> v1::AgentMessage {
        let view = self.shared.view.load();
        let hello = v1::Hello {
            agent_version: VERSION.to_owned(),
            revocation_epoch: view.epoch(),
            revocation_sequence: view.sequence(),
            bundle_sequence: self.shared.bundle.load().as_ref().map_or(0, |bundle| bundle.sequence()),
        };
        v1::AgentMessage {
            message: Some(agent_message::Message::Hello(hello)),
        }
    }

    async fn pump(
        &mut self,
        generation: u64,
        stream: &mut Streaming<v1::CaMessage>,
        upstream: &mpsc::Sender<v1::AgentMessage>,
        channel: &Channel,
    ) -> (Ended, String) {
        let mut fetching: Option<JoinHandle<()>> = None;
        let stop = self.stop.clone();
        loop {
            let message = tokio::select! {
                message = stream.message() => message,
                control = self.control.recv() => {
                    match control {
                        Some(Control::Reconnect) => return (Ended::Renewed, "own certificate renewed".to_owned()),
                        Some(Control::FetchSnapshot) if fetching.as_ref().is_none_or(JoinHandle::is_finished) => {
                            fetching = Some(self.fetch_snapshot(channel.clone(), upstream.clone()));
                        }
                        Some(Control::FetchSnapshot) => {}
                        None => return (Ended::Stopped, "stopping".to_owned()),
                    }
                    continue;
                }
                () = stop.cancelled() => return (Ended::Stopped, "stopping".to_owned()),
            };
            match message {
                Ok(Some(message)) => self.deliver(generation, message, upstream).await,
                Ok(None) => return (Ended::Lost { good: false }, "the CA closed the stream".to_owned()),
                Err(status) => {
                    let why = format!("{}: {}", status.code().description(), chain_of(&status));
                    return (Ended::Lost { good: false }, why);
                }
            }
        }
    }

    async fn deliver(&self, generation: u64, message: v1::CaMessage, upstream: &mpsc::Sender<v1::AgentMessage>) {
        match message.message {
            Some(Message::Revoked(v1::Revoked { news: Some(news) })) => {
                let _ = self
                    .shared
                    .revocation()
                    .send(News::Stream(news, upstream.clone()))
                    .await;
            }
            // A newer CA may say what this agent does not know yet.
            None | Some(Message::Revoked(_)) => tracing::debug!("an unknown message of the CA was passed over"),
            Some(message) => {
                let _ = self.inbox.send(Input::FromCa { generation, message }).await;
            }
        }
    }

    fn fetch_snapshot(&self, channel: Channel, upstream: mpsc::Sender<v1::AgentMessage>) -> JoinHandle<()> {
        let shared = self.shared.clone();
        tokio::spawn(async move {
            let fetched = timeout(SNAPSHOT_WAIT, fetch_snapshot(channel)).await;
            match fetched {
                Ok(Ok(bytes)) => {
                    let _ = shared.revocation().send(News::Snapshot(bytes, upstream)).await;
                }
                Ok(Err(why)) => shared.problem("revocation", "snapshot", &why.to_string()),
                Err(_) => shared.problem("revocation", "snapshot", "did not arrive in time"),
            }
        })
    }
}
