//! The connected agents: every open Sync stream, what it may be told, and what it has acknowledged.
//!
//! A push never waits for a reader: a stream whose queue is full is cut, and its agent catches up when it comes back. Who joins
//! gets the view that all others were told of, in the same step: every later change then comes after it.

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
use mintage_state::View;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::{metrics::Metrics, status::Refusal};

/// What goes into a stream's queue.
pub(crate) type Outgoing = Result<CaMessage, Status>;

/// Every open stream.
#[derive(Debug)]
pub(crate) struct Fleet {
    streams: Mutex<Streams>,
    next: AtomicU64,
    metrics: Arc<Metrics>,
    /// Rises with every acknowledgement, so that waiting for one is an event.
    acknowledged: watch::Sender<u64>,
}

#[derive(Debug)]
struct Streams {
    members: HashMap<u64, Member>,
    /// How many streams each agent has: one, but for a moment after it came back before its last one was known to be dead.
    names: HashMap<AgentName, u32>,
    /// What every one of them was told of.
    told: Arc<View>,
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
    /// False for a stream of an agent that has opened another since.
    is_newest: bool,
}

impl Streams {
    fn insert(&mut self, number: u64, member: Member) {
        let held = self.names.entry(member.name.clone()).or_default();
        *held += 1;
        if *held > 1 {
            let same = self.members.values_mut().filter(|other| other.name == member.name);
            same.for_each(|older| older.is_newest = false);
        }
        self.members.insert(number, member);
    }

    fn remove(&mut self, number: u64) {
        let Some(gone) = self.members.remove(&number) else {
            return;
        };
        let left = self.names.get(&gone.name).map_or(0, |held| held.saturating_sub(1));
        if left == 0 {
            self.names.remove(&gone.name);
            return;
        }
        let same = self.members.iter_mut().filter(|(_, other)| other.name == gone.name);
        if let Some((_, newest)) = same.max_by_key(|(number, _)| **number) {
            newest.is_newest = true;
        }
        self.names.insert(gone.name, left);
    }

    /// One stream of each agent.
    fn newest(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|member| member.is_newest)
    }
}

/// A stream's place in the fleet; leaving is dropping it.
#[derive(Debug)]
pub(crate) struct Place {
    number: u64,
    fleet: Arc<Fleet>,
}

/// Who joins.
#[derive(Clone)]
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
    /// Nobody yet; who joins is told of this view.
    pub(crate) fn new(metrics: Arc<Metrics>, view: Arc<View>) -> Arc<Self> {
        Arc::new(Self {
            streams: Mutex::new(Streams {
                members: HashMap::new(),
                names: HashMap::new(),
                told: view,
            }),
            next: AtomicU64::new(1),
            metrics,
            acknowledged: watch::Sender::new(0),
        })
    }

    /// Adds a stream that begins with what `begin` makes of the view that all others were told of; with `None` it does not join.
    ///
    /// # Errors
    /// `entries`: its queue does not take the beginning.
    pub(crate) fn join(
        self: &Arc<Self>,
        member: NewMember,
        begin: impl FnOnce(&View) -> Option<Vec<CaMessage>>,
    ) -> Result<Option<Place>, Refusal> {
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
        let mut streams = self.streams();
        let Some(beginning) = begin(&streams.told) else {
            return Ok(None);
        };
        for message in beginning {
            let full = |_| {
                let text = "this agent has more entries than a stream takes";
                Refusal::new(Code::ResourceExhausted, "entries", text)
            };
            queue.try_send(Ok(message)).map_err(full)?;
        }
        streams.insert(
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
                is_newest: true,
            },
        );
        Ok(Some(Place {
            number,
            fleet: self.clone(),
        }))
    }

    /// What every stream was told of.
    pub(crate) fn told(&self) -> Arc<View> {
        self.streams().told.clone()
    }

    /// Tells every stream what `news_for` makes of its agent of a newer view, in one step: who joins has been told either
    /// all of it or none.
    pub(crate) fn tell<M: IntoIterator<Item = CaMessage>>(
        &self,
        view: &Arc<View>,
        mut news_for: impl FnMut(&SpiffeId) -> M,
    ) {
        let mut streams = self.streams();
        for member in streams.members.values() {
            self.offer(member, news_for(&member.id));
        }
        let before = std::mem::replace(&mut streams.told, view.clone());
        // What an older view held alone may take a while to be given back.
        drop(streams);
        drop(before);
    }

    /// A newer view is no news to any stream.
    pub(crate) fn tell_nothing(&self, view: &Arc<View>) {
        let before = std::mem::replace(&mut self.streams().told, view.clone());
        drop(before);
    }

    /// Number of streams.
    pub(crate) fn len(&self) -> usize {
        self.streams().members.len()
    }

    /// Sends what `messages_for` makes of each agent; agents it makes nothing for are passed over.
    pub(crate) fn push<M: IntoIterator<Item = CaMessage>>(&self, mut messages_for: impl FnMut(&SpiffeId) -> M) -> u32 {
        let mut reached = 0;
        for member in self.streams().members.values() {
            reached += u32::from(self.offer(member, messages_for(&member.id)));
        }
        reached
    }

    /// Sends to every stream of one agent's name; returns how many were reached.
    pub(crate) fn push_to(&self, name: &AgentName, message: &CaMessage) -> u32 {
        let streams = self.streams();
        let members = streams.members.values().filter(|member| member.name == *name);
        members
            .map(|member| u32::from(self.offer(member, [message.clone()])))
            .sum()
    }

    /// True when there were messages and its queue took each of them.
    fn offer(&self, member: &Member, messages: impl IntoIterator<Item = CaMessage>) -> bool {
        let mut reached = false;
        for message in messages {
            reached = member.queue.try_send(Ok(message)).is_ok();
            if !reached {
                if !member.queue.is_closed() {
                    self.metrics.stream_cut();
                    tracing::warn!(agent = %member.id, "the agent does not keep up; its stream is cut");
                    member.cut.cancel();
                }
                break;
            }
        }
        reached
    }

    /// Ends every stream whose agent instance may no longer speak, after one last message.
    pub(crate) fn expel(&self, is_gone: impl Fn(&AgentName, AgentInstance) -> bool, last: &CaMessage) {
        for member in self
            .streams()
            .members
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
        if let Some(member) = self.streams().members.get_mut(&number) {
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
            .members
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
        let current = streams.newest().filter(|member| member.enforced >= sequence).count();
        Progress {
            agents: streams.names.len() as u64,
            current: current as u64,
        }
    }

    /// How many of these agents have no stream.
    pub(crate) fn not_connected<'a>(&self, agents: impl Iterator<Item = &'a AgentName>) -> u64 {
        let streams = self.streams();
        agents.filter(|name| !streams.names.contains_key(*name)).count() as u64
    }

    /// Names of agents that do not enforce `sequence` yet, in order, so many at most.
    pub(crate) fn missing(&self, sequence: u64, most: usize) -> Vec<String> {
        let streams = self.streams();
        let missing = streams.newest().filter(|member| member.enforced < sequence);
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
        for member in self.streams().members.values() {
            let _ = member
                .queue
                .try_send(Err(Status::unavailable("the CA is stopping; come back")));
            member.cut.cancel();
        }
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        // Every statement leaves it whole.
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
        self.fleet.streams().remove(self.number);
        // Whoever waits for this agent's acknowledgement need not any longer.
        self.fleet.acknowledged.send_modify(|count| *count += 1);
    }
}

#[cfg(test)]
mod tests {
    use mintage_identity::TrustDomain;

    use super::*;

    fn nobody() -> Arc<Fleet> {
        let view = View::new(&TrustDomain::parse("td").unwrap());
        Fleet::new(Arc::new(Metrics::new()), Arc::new(view))
    }

    fn member(name: &str, room: usize) -> (NewMember, mpsc::Receiver<Outgoing>) {
        let (queue, receiver) = mpsc::channel(room);
        let name = AgentName::parse(name).unwrap();
        let id = SpiffeId::parse(&format!("spiffe://td/mintage/agent/{name}")).unwrap();
        let (instance, version) = (AgentInstance(1), "0".to_owned());
        let member = NewMember {
            id,
            name,
            instance,
            version,
            queue,
            cut: CancellationToken::new(),
            enforced: 0,
            since: 5,
        };
        (member, receiver)
    }

    fn joined(fleet: &Arc<Fleet>, name: &str, room: usize) -> (Place, mpsc::Receiver<Outgoing>, CancellationToken) {
        let (member, receiver) = member(name, room);
        let cut = member.cut.clone();
        let place = fleet.join(member, |_| Some(Vec::new())).unwrap().unwrap();
        (place, receiver, cut)
    }

    #[test]
    fn a_slow_reader_is_cut_and_the_others_are_served() {
        let fleet = nobody();
        let (_slow, _unread, slow_cut) = joined(&fleet, "slow", 1);
        let (_quick, mut read, quick_cut) = joined(&fleet, "quick", 8);
        for _ in 0..3 {
            fleet.push(|_| Some(CaMessage::default()));
        }
        assert!(slow_cut.is_cancelled() && !quick_cut.is_cancelled());
        assert_eq!(std::iter::from_fn(|| read.try_recv().ok()).count(), 3);
    }

    /// Entries of a view that stands at this index.
    fn entries(index: u64) -> CaMessage {
        let entries = mintage_proto::v1::Entries {
            index,
            ..Default::default()
        };
        CaMessage {
            message: Some(mintage_proto::v1::ca_message::Message::Entries(entries)),
        }
    }

    #[test]
    fn who_joins_begins_where_all_others_are_and_is_told_what_comes_after() {
        let fleet = nobody();
        let before = fleet.told();
        let after = Arc::new(View::clone(&before));
        let (new, mut read) = member("new", 2);
        assert!(fleet.join(new.clone(), |_| None).unwrap().is_none());
        assert_eq!(fleet.len(), 0, "it did not begin");
        let place = fleet.join(new.clone(), |told| {
            assert!(
                std::ptr::eq(told, &*before),
                "not a newer one, whose changes would come once more or never"
            );
            Some(vec![entries(1)])
        });
        let place = place.unwrap().unwrap();
        fleet.tell(&after, |_| [entries(2)]);
        assert_eq!(read.try_recv().unwrap().unwrap(), entries(1));
        assert_eq!(read.try_recv().unwrap().unwrap(), entries(2));
        assert!(Arc::ptr_eq(&fleet.told(), &after));
        drop(place);
        let refused = fleet
            .join(new, |_| Some(vec![entries(1), entries(2), entries(3)]))
            .unwrap_err();
        assert_eq!((refused.code, fleet.len()), ("entries", 0));
    }

    #[test]
    fn only_what_was_pushed_to_an_agent_is_measured_and_once() {
        let fleet = nobody();
        let (agent, _read, _) = joined(&fleet, "agent", 1);
        assert_eq!(agent.enforce(3), (3, 3), "it came back with something old");
        assert_eq!(agent.enforce(5), (5, 5), "it caught up with what it had missed");
        assert_eq!(agent.enforce(7), (5, 7), "two that were pushed");
        assert_eq!(agent.enforce(7), (7, 7), "said twice");
        assert_eq!(agent.enforce(6), (6, 6), "said late");
        assert_eq!(agent.enforce(8), (7, 8));
    }

    #[test]
    fn an_agent_counts_once_by_its_newest_stream() {
        let fleet = nobody();
        let (older, _r1, _) = joined(&fleet, "one", 1);
        older.enforce(7);
        let (newer, _r2, _) = joined(&fleet, "one", 1);
        let (_two, _r3, _) = joined(&fleet, "two", 1);
        let names = ["one", "two", "three"].map(|name| AgentName::parse(name).unwrap());
        assert_eq!(fleet.progress(7), Progress { agents: 2, current: 0 });
        assert_eq!(fleet.missing(7, 9), ["one", "two"]);
        newer.enforce(7);
        assert_eq!(fleet.progress(7), Progress { agents: 2, current: 1 });
        assert_eq!(fleet.not_connected(names.iter()), 1);
        drop(newer);
        assert_eq!(
            fleet.progress(7),
            Progress { agents: 2, current: 1 },
            "the older one is left"
        );
        drop(older);
        assert_eq!(fleet.progress(7), Progress { agents: 1, current: 0 });
        assert_eq!(fleet.not_connected(names.iter()), 2);
    }

    #[tokio::test]
    async fn waiting_ends_with_the_last_acknowledgement_or_departure() {
        let fleet = nobody();
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
