//! The revocation thread: takes signed news from the stream, publishes the view, writes the node's map, keeps the last
//! good set on disk, and acknowledges. It has a thread of its own so that a burst of certificates never delays it and
//! building a large filter never delays anything else.

use std::{sync::Arc, thread};

use mintage_proto::v1::{self, agent_message::Message, revoked::News as Wire};
use mintage_revocation::{Added, Beat, MapWriter, Replica, RevocationError};
use tokio::sync::{broadcast, mpsc};

use crate::{
    AgentEvent,
    bundle::Bundle,
    core::Input,
    link::Control,
    saved::SavedSet,
    shared::{Forward, Shared},
};

/// News for the thread.
pub(crate) enum News {
    /// From the stream, with the way back for the acknowledgement.
    Stream(Wire, mpsc::Sender<v1::AgentMessage>),
    /// A whole snapshot that was fetched on its own.
    Snapshot(Vec<u8>, mpsc::Sender<v1::AgentMessage>),
    /// Another trust bundle is in force: other keys may sign.
    BundleChanged,
    /// Write down what is not written yet, and end.
    Stop,
}

/// What the thread tells others.
pub(crate) struct Outlets {
    pub(crate) core: mpsc::Sender<Input>,
    pub(crate) link: mpsc::Sender<Control>,
    /// For registries of live connections.
    pub(crate) added: broadcast::Sender<Arc<Added>>,
}

/// The thread's state.
pub(crate) struct Revoked {
    shared: Arc<Shared>,
    replica: Replica,
    saved: SavedSet,
    map: Option<MapWriter>,
    outlets: Outlets,
    /// The sequence last acknowledged on the stream in use.
    acknowledged: Option<u64>,
    trusted_bundle: Option<Arc<Bundle>>,
}

impl Revoked {
    /// Restores the last good set; a damaged one is told and left behind.
    pub(crate) fn restore(shared: Arc<Shared>, replica: Replica, map: Option<MapWriter>, outlets: Outlets) -> Self {
        let mut revoked = Self {
            saved: SavedSet::new(shared.store.clone()),
            shared,
            replica,
            map,
            outlets,
            acknowledged: None,
            trusted_bundle: None,
        };
        revoked.trust_bundle();
        let now = revoked.shared.wall();
        if let Err(problem) = revoked.saved.restore(&mut revoked.replica, now) {
            revoked.shared.problem("revocation", "saved set", &problem);
        }
        revoked.publish_map();
        revoked.note_metrics();
        revoked
    }

    /// Runs until it is told to stop or nobody is left to tell it anything.
    pub(crate) fn spawn(mut self, mut news: mpsc::Receiver<News>) -> std::io::Result<thread::JoinHandle<()>> {
        thread::Builder::new().name("revocation".to_owned()).spawn(move || {
            while let Some(item) = news.blocking_recv() {
                match item {
                    News::Stop => break,
                    News::BundleChanged => {}
                    News::Stream(wire, upstream) => self.take(wire, &upstream),
                    News::Snapshot(bytes, upstream) => self.take(Wire::Snapshot(bytes.into()), &upstream),
                }
                self.trust_bundle();
                self.note_metrics();
            }
        })
    }

    /// Lets the keys sign that the bundle in force delegates to.
    fn trust_bundle(&mut self) {
        let Some(bundle) = self.shared.bundle.load_full() else {
            return;
        };
        if self
            .trusted_bundle
            .as_ref()
            .is_some_and(|trusted| Arc::ptr_eq(trusted, &bundle))
        {
            return;
        }
        let (good, refused) = bundle.delegations(self.shared.wall());
        for problem in refused {
            tracing::debug!(problem, "a revocation delegation of the bundle is not taken");
        }
        for delegation in good {
            if let Err(error) = self.replica.trust(delegation) {
                tracing::debug!(%error, "a revocation delegation of the bundle is not taken");
            }
        }
        self.trusted_bundle = Some(bundle);
    }

    fn take(&mut self, wire: Wire, upstream: &mpsc::Sender<v1::AgentMessage>) {
        // A new bundle may have arrived just before on the other queue.
        self.trust_bundle();
        let now = self.shared.wall();
        let result = match &wire {
            Wire::SnapshotRef(_) => return self.fetch_snapshot(),
            Wire::Heartbeat(bytes) => return self.beat(bytes, upstream),
            Wire::Snapshot(bytes) => self.replica.apply_snapshot(bytes, now),
            Wire::Delta(bytes) => self.replica.apply_delta(bytes, now),
        };
        match result {
            Ok(applied) => {
                self.shared.not_older(Forward::Revocation);
                let mapped = self.publish_map();
                let is_new = !applied.added.is_empty();
                if is_new {
                    self.announce(applied.sequence, applied.added);
                }
                if is_new || self.saved.wants_snapshot() {
                    self.save(&wire);
                }
                self.acknowledge(applied.sequence, mapped, upstream);
            }
            Err(error) => self.refused(&error),
        }
    }

    fn beat(&mut self, bytes: &[u8], upstream: &mpsc::Sender<v1::AgentMessage>) {
        match self.replica.heartbeat(bytes, self.shared.wall()) {
            Ok(Beat::Current) => {
                self.shared.not_older(Forward::Revocation);
                let mapped = self.publish_map();
                let held = self.replica.position().map_or(0, |position| position.sequence);
                if self.acknowledged != Some(held) {
                    self.acknowledge(held, mapped, upstream);
                }
            }
            Ok(Beat::Behind { have, want }) => {
                tracing::info!(have, want, "revocation news was missed; fetching the snapshot");
                self.fetch_snapshot();
            }
            Ok(Beat::PublisherBehind) => tracing::debug!("this CA replica has not caught up with the last one yet"),
            Err(error) => self.refused(&error),
        }
    }

    fn refused(&mut self, error: &RevocationError) {
        match error {
            RevocationError::Rollback { .. } => self.shared.refuse_older(Forward::Revocation, &error.to_string()),
            _ => self.shared.problem("revocation", "news", &error.to_string()),
        }
        if matches!(error, RevocationError::BrokenChain { .. }) {
            self.fetch_snapshot();
        }
    }

    /// First the world, then the disk: a set that is refused everywhere but not saved is fetched again after a crash.
    fn announce(&mut self, sequence: u64, added: Added) {
        let concerns_all = added.concerns_all();
        tracing::info!(
            sequence,
            serials = added.keys.len(),
            rules = added.rules.len(),
            "revocations applied"
        );
        let _ = self.outlets.added.send(Arc::new(added));
        self.shared.tell(AgentEvent::RevocationApplied { sequence });
        // The core never waits for this thread, so this ends as soon as it gets to its queue.
        let _ = self
            .outlets
            .core
            .blocking_send(Input::Revocation { sequence, concerns_all });
    }

    /// Says that this node enforces `sequence`. Not while its map lacks it: whoever reads the map would let pass what the
    /// operator takes for refused. The next heartbeat tries both again.
    fn acknowledge(&mut self, sequence: u64, mapped: bool, upstream: &mpsc::Sender<v1::AgentMessage>) {
        if !mapped {
            self.acknowledged = None;
            return;
        }
        let ack = v1::Ack {
            revocation_sequence: sequence,
            ..v1::Ack::default()
        };
        let message = v1::AgentMessage {
            message: Some(Message::Ack(ack)),
        };
        // When the stream is full or gone the next heartbeat finds the sequence not acknowledged.
        if upstream.try_send(message).is_ok() {
            self.acknowledged = Some(sequence);
        } else {
            self.acknowledged = None;
        }
    }

    fn fetch_snapshot(&self) {
        // A full queue means that one is asked for already.
        let _ = self.outlets.link.try_send(Control::FetchSnapshot);
    }

    fn save(&mut self, wire: &Wire) {
        let saved = match wire {
            Wire::Snapshot(bytes) => self.saved.snapshot(bytes),
            Wire::Delta(bytes) => self.saved.delta(bytes),
            _ => Ok(()),
        };
        if let Err(problem) = saved {
            self.shared.problem("store", "revocation set", &problem);
        } else if matches!(wire, Wire::Delta(_)) && self.saved.wants_snapshot() {
            self.fetch_snapshot();
        }
    }

    /// Brings up the node's map; false when it is wanted and does not hold the set.
    fn publish_map(&mut self) -> bool {
        let Some(map) = &mut self.map else { return true };
        match map.publish(&self.replica.view(), self.shared.wall()) {
            Ok(holds) => holds,
            Err(error) => {
                let path = map.path().display().to_string();
                self.shared.problem("revocation", &path, &error.to_string());
                false
            }
        }
    }

    fn note_metrics(&self) {
        let view = self.replica.view();
        let sequence = i64::try_from(view.sequence()).unwrap_or(i64::MAX);
        self.shared.metrics.filter_sequence.set(sequence);
    }
}
