//! The connected agents: every open Sync stream, what it may be told, and what it has acknowledged.
//!
//! A push never waits for a reader: a stream whose queue is full is cut, and its agent catches up when it comes back.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mintage_identity::{AgentInstance, AgentName, SpiffeId};
use mintage_proto::v1::CaMessage;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::metrics::Metrics;

/// What goes into a stream's queue.
pub(crate) type Outgoing = Result<CaMessage, Status>;

/// Every open stream.
#[derive(Debug)]
pub(crate) struct Fleet {
    streams: Mutex<HashMap<u64, Member>>,
    next: AtomicU64,
    metrics: Arc<Metrics>,
    /// Rises with every acknowledgement, so that waiting for one is an event.
    acknowledged: watch::Sender<u64>,
}

#[derive(Debug)]
struct Member {
    id: SpiffeId,
    name: AgentName,
    instance: AgentInstance,
    version: String,
    queue: mpsc::Sender<Outgoing>,
    cut: CancellationToken,
    /// Revocation sequence the agent enforces.
    enforced: u64,
    /// Sequence that was published when it connected: of what came before, its acknowledgements say nothing about speed.
    since: u64,
}

/// A stream's place in the fleet; leaving is dropping it.
#[derive(Debug)]
pub(crate) struct Place {
    number: u64,
    fleet: Arc<Fleet>,
}

/// Who joins.
pub(crate) struct NewMember {
    pub(crate) id: SpiffeId,
    pub(crate) name: AgentName,
    pub(crate) instance: AgentInstance,
    pub(crate) version: String,
    pub(crate) queue: mpsc::Sender<Outgoing>,
    pub(crate) cut: CancellationToken,
    pub(crate) enforced: u64,
    /// Sequence published last.
    pub(crate) since: u64,
}

/// One connected agent as listings show it.
#[derive(Debug, Clone)]
pub(crate) struct Connected {
    pub(crate) version: String,
    pub(crate) enforced: u64,
}

/// How far the fleet has come with a revocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) agents: u64,
    pub(crate) current: u64,
}

impl Fleet {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            streams: Mutex::default(),
            next: AtomicU64::new(1),
            metrics,
            acknowledged: watch::Sender::new(0),
        })
    }

    /// Adds a stream.
    pub(crate) fn join(self: &Arc<Self>, member: NewMember) -> Place {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let NewMember {
            id,
            name,
            instance,
            version,
            queue,
            cut,
            enforced,
            since,
        } = member;
        self.streams().insert(
            number,
            Member {
                id,
                name,
                instance,
                version,
                queue,
                cut,
                enforced,
                since,
            },
        );
        Place {
            number,
            fleet: self.clone(),
        }
    }

    /// Number of streams.
    pub(crate) fn len(&self) -> usize {
        self.streams().len()
    }

    /// Sends what `message_for` makes of each agent; agents it makes nothing for are passed over.
    pub(crate) fn push(&self, mut message_for: impl FnMut(&SpiffeId) -> Option<CaMessage>) -> u32 {
        let mut reached = 0;
        for member in self.streams().values() {
            if let Some(message) = message_for(&member.id) {
                reached += u32::from(self.offer(member, message));
            }
        }
        reached
    }

    /// Sends to every stream of one agent's name; returns how many were reached.
    pub(crate) fn push_to(&self, name: &AgentName, message: &CaMessage) -> u32 {
        let streams = self.streams();
        let members = streams.values().filter(|member| member.name == *name);
        members
            .map(|member| u32::from(self.offer(member, message.clone())))
            .sum()
    }

    fn offer(&self, member: &Member, message: CaMessage) -> bool {
        let taken = member.queue.try_send(Ok(message)).is_ok();
        if !taken && !member.queue.is_closed() {
            self.metrics.stream_cut();
            tracing::warn!(agent = %member.id, "the agent does not keep up; its stream is cut");
            member.cut.cancel();
        }
        taken
    }

    /// Ends every stream whose agent instance may no longer speak, after one last message.
    pub(crate) fn expel(&self, is_gone: impl Fn(&AgentName, AgentInstance) -> bool, last: &CaMessage) {
        for member in self
            .streams()
            .values()
            .filter(|member| is_gone(&member.name, member.instance))
        {
            let _ = member.queue.try_send(Ok(last.clone()));
            let _ = member
                .queue
                .try_send(Err(Status::unauthenticated("this agent may no longer speak")));
            member.cut.cancel();
        }
    }

    /// An agent enforces revocations up to `sequence`. Which of them were pushed to it and are acknowledged for the first
    /// time: those after the first number, up to the second.
    fn enforce(&self, number: u64, sequence: u64) -> (u64, u64) {
        let mut news = (sequence, sequence);
        if let Some(member) = self.streams().get_mut(&number) {
            news.0 = member.enforced.max(member.since).min(sequence);
            member.enforced = member.enforced.max(sequence);
        }
        self.acknowledged.send_modify(|count| *count += 1);
        news
    }

    /// The streams of an agent's current instance.
    pub(crate) fn connected(&self, name: &AgentName) -> Option<Connected> {
        let streams = self.streams();
        let newest = streams
            .iter()
            .filter(|(_, member)| member.name == *name)
            .max_by_key(|(number, _)| **number);
        newest.map(|(_, member)| Connected {
            version: member.version.clone(),
            enforced: member.enforced,
        })
    }

    /// How many agents enforce `sequence`.
    pub(crate) fn progress(&self, sequence: u64) -> Progress {
        let streams = self.streams();
        let current = streams.values().filter(|member| member.enforced >= sequence).count();
        Progress {
            agents: streams.len() as u64,
            current: current as u64,
        }
    }

    /// Names of agents that do not enforce `sequence` yet, in order, so many at most.
    pub(crate) fn missing(&self, sequence: u64, most: usize) -> Vec<String> {
        let streams = self.streams();
        let missing = streams.values().filter(|member| member.enforced < sequence);
        let names: BTreeSet<String> = missing.map(|member| member.name.to_string()).collect();
        names.into_iter().take(most).collect()
    }

    /// Waits until every connected agent enforces `sequence`, at most this long.
    pub(crate) async fn wait_enforced(&self, sequence: u64, at_most: Duration) {
        let mut acknowledged = self.acknowledged.subscribe();
        let all = async {
            loop {
                let progress = self.progress(sequence);
                if progress.current == progress.agents || acknowledged.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(at_most, all).await;
    }

    /// Ends every stream, as when the server drains.
    pub(crate) fn dismiss(&self) {
        for member in self.streams().values() {
            let _ = member
                .queue
                .try_send(Err(Status::unavailable("the CA is stopping; come back")));
            member.cut.cancel();
        }
    }

    fn streams(&self) -> MutexGuard<'_, HashMap<u64, Member>> {
        // Every statement leaves the map whole.
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The agent says that it enforces revocations up to `sequence`; returns the range of those that this is news of, the
    /// first number excluded.
    pub(crate) fn enforce(&self, sequence: u64) -> (u64, u64) {
        self.fleet.enforce(self.number, sequence)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.fleet.streams().remove(&self.number);
        // Whoever waits for this agent's acknowledgement need not any longer.
        self.fleet.acknowledged.send_modify(|count| *count += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(fleet: &Arc<Fleet>, name: &str, room: usize) -> (Place, mpsc::Receiver<Outgoing>, CancellationToken) {
        let (queue, receiver) = mpsc::channel(room);
        let cut = CancellationToken::new();
        let name = AgentName::parse(name).unwrap();
        let id = SpiffeId::parse(&format!("spiffe://td/mintage/agent/{name}")).unwrap();
        let (instance, version) = (AgentInstance(1), "0".to_owned());
        let place = fleet.join(NewMember {
            id,
            name,
            instance,
            version,
            queue,
            cut: cut.clone(),
            enforced: 0,
            since: 5,
        });
        (place, receiver, cut)
    }

    #[test]
    fn a_slow_reader_is_cut_and_the_others_are_served() {
        let fleet = Fleet::new(Arc::new(Metrics::new()));
        let (_slow, _unread, slow_cut) = joined(&fleet, "slow", 1);
        let (_quick, mut read, quick_cut) = joined(&fleet, "quick", 8);
        for _ in 0..3 {
            fleet.push(|_| Some(CaMessage::default()));
        }
        assert!(slow_cut.is_cancelled() && !quick_cut.is_cancelled());
        assert_eq!(std::iter::from_fn(|| read.try_recv().ok()).count(), 3);
    }

    #[test]
    fn only_what_was_pushed_to_an_agent_is_measured_and_once() {
        let fleet = Fleet::new(Arc::new(Metrics::new()));
        let (agent, _read, _) = joined(&fleet, "agent", 1);
        assert_eq!(agent.enforce(3), (3, 3), "it came back with something old");
        assert_eq!(agent.enforce(5), (5, 5), "it caught up with what it had missed");
        assert_eq!(agent.enforce(7), (5, 7), "two that were pushed");
        assert_eq!(agent.enforce(7), (7, 7), "said twice");
        assert_eq!(agent.enforce(6), (6, 6), "said late");
        assert_eq!(agent.enforce(8), (7, 8));
    }

    #[tokio::test]
    async fn waiting_ends_with_the_last_acknowledgement_or_departure() {
        let fleet = Fleet::new(Arc::new(Metrics::new()));
        let (one, _r1, _) = joined(&fleet, "one", 1);
        let (two, _r2, _) = joined(&fleet, "two", 1);
        let waiter = tokio::spawn({
            let fleet = fleet.clone();
            async move { fleet.wait_enforced(7, Duration::from_secs(60)).await }
        });
        one.enforce(7);
        assert_eq!(fleet.progress(7), Progress { agents: 2, current: 1 });
        assert_eq!(fleet.missing(7, 2).len(), 1);
        assert_eq!((fleet.missing(8, 2).len(), fleet.missing(8, 1).len()), (2, 1));
        drop(two);
        tokio::time::timeout(Duration::from_secs(5), waiter)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(fleet.len(), 1);
    }
}
