//! The one task that decides: which identities are due, what is asked of the CA, what is put in place, and what socket
//! callers see. It owns all state and never waits for a disk, a network or another task; those send it inputs.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
    sync::Arc,
    time::Duration,
};

use mintage_identity::{EntryName, RequestId, Selector, SpiffeId};
use mintage_proto::v1::{self, agent_message, ca_message::Message, node_client::NodeClient};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::{
    AgentError, AgentEvent,
    bundle::{Bundle, NotAfter},
    config::Delivery,
    federation::Remembered,
    held::Held,
    limits::{HOOKS_AT_ONCE_MAX, TICK_MAX, WRITERS_MAX},
    link::Control,
    receipt::Proof,
    rotation::{Action, Event, Now},
    shared::{Forward, Shared},
    status::{AgentStatus, Serving},
    workload::{Want, WhoAmI, WorkloadView},
};

mod asks;
mod entries;
mod federation;
mod hooks;
mod interest;
mod jwts;
mod measure;
mod place;
mod receipts;
mod releases;
mod serving;
mod slot;
mod told;
mod watches;

use entries::Entries;
pub(crate) use jwts::{JwtCall, NoJwt};
use receipts::{Missed, Proving};
use releases::Releases;
use slot::{Purpose, Slot, SlotKey, Trouble};
use watches::Watches;

/// What the core is told or asked.
pub(crate) enum Input {
    /// The agent has a (new) identity of its own.
    Joined { spiffe_id: SpiffeId },
    /// A stream is open.
    Up {
        generation: u64,
        upstream: mpsc::Sender<v1::AgentMessage>,
        /// For calls beside it, over the same connection.
        calls: NodeClient<Channel>,
    },
    /// It ended.
    Down { generation: u64, why: String },
    /// A message of the CA.
    FromCa { generation: u64, message: Message },
    /// The revoked set grew.
    Revocation { sequence: u64, concerns_all: bool },
    /// Other lists of revoked certificates are in force.
    Crls,
    /// Placing a pair ended.
    Placed {
        key: SlotKey,
        held: Arc<Held>,
        result: Result<(), (&'static str, String)>,
    },
    /// The hooks of a change ended.
    Acted {
        key: SlotKey,
        held: Arc<Held>,
        result: Result<(), (&'static str, String)>,
    },
    /// A try for the proof of a receipt ended.
    Proved {
        key: SlotKey,
        held: Arc<Held>,
        result: Result<Proof, Missed>,
    },
    /// Certificates that were seen in use wait to be told.
    Saw,
    /// A socket caller wants to see, and go on seeing, what it may have.
    Watch {
        proven: Arc<BTreeSet<Selector>>,
        want: Want,
        reply: oneshot::Sender<Result<watch::Receiver<WorkloadView>, String>>,
    },
    /// A socket caller asks which entries it matches.
    WhoAmI {
        proven: Arc<BTreeSet<Selector>>,
        reply: oneshot::Sender<WhoAmI>,
    },
    /// A socket caller wants a JWT-SVID.
    Jwt(JwtCall),
    /// Somebody asks how the agent is.
    Status { reply: oneshot::Sender<AgentStatus> },
    /// The health service asks what can be done.
    Serving { reply: oneshot::Sender<Serving> },
    /// Other deliveries are configured.
    Reload {
        deliveries: Vec<Delivery>,
        reply: oneshot::Sender<Reloaded>,
    },
}

/// What a reload changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Folders that are new.
    pub added: usize,
    /// Folders whose owner, group, mode, layout or entry changed.
    pub changed: usize,
    /// Folders that are no longer written; the CA is told, and revokes what lies there.
    pub removed: usize,
}

/// The stream in use.
struct Upstream {
    generation: u64,
    sender: mpsc::Sender<v1::AgentMessage>,
}

/// The core's state.
pub(crate) struct Core {
    shared: Arc<Shared>,
    own_id: Option<SpiffeId>,
    slots: BTreeMap<SlotKey, Slot>,
    by_request: HashMap<RequestId, SlotKey>,
    entries: Entries,
    /// What deliveries federated with when the CA was last heard.
    remembered: Remembered,
    saving: Arc<federation::Saving>,
    upstream: Option<Upstream>,
    /// Why the last stream ended.
    down_because: String,
    /// Slots whose rotation said Ask in this turn.
    due: Vec<SlotKey>,
    watches: Watches,
    jwts: jwts::Jwts,
    writers: Arc<Semaphore>,
    acting: Arc<Semaphore>,
    proving: Proving,
    releases: Releases,
    inbox: mpsc::Sender<Input>,
    link: mpsc::Sender<Control>,
}

impl Core {
    pub(crate) fn new(shared: Arc<Shared>, inbox: mpsc::Sender<Input>, link: mpsc::Sender<Control>) -> Self {
        Self {
            own_id: shared.own_id(),
            shared,
            slots: BTreeMap::from([(SlotKey::Own, Slot::new(Purpose::Own))]),
            by_request: HashMap::new(),
            entries: Entries::default(),
            remembered: Remembered::default(),
            saving: Arc::default(),
            upstream: None,
            down_because: "not connected yet".to_owned(),
            due: Vec::new(),
            watches: Watches::default(),
            jwts: jwts::Jwts::default(),
            writers: Arc::new(Semaphore::new(WRITERS_MAX)),
            acting: Arc::new(Semaphore::new(HOOKS_AT_ONCE_MAX)),
            proving: Proving::default(),
            releases: Releases::default(),
            inbox,
            link,
        }
    }

    /// Takes up what was in place before a restart: it is served, and put into its folder again, without the CA.
    pub(crate) fn restore(&mut self, deliveries: Vec<Delivery>, remembered: Remembered) {
        self.remembered = remembered;
        self.releases
            .add(self.shared.store.forget_other_deliveries(&deliveries));
        if self.own_id.is_some() {
            self.own_identity_is_in_place();
        }
        for delivery in deliveries {
            self.add_delivery(delivery);
        }
        self.turn();
    }

    /// Runs until it is stopped or the CA retires the agent.
    pub(crate) async fn run(
        mut self,
        mut inputs: mpsc::Receiver<Input>,
        stop: CancellationToken,
    ) -> Result<(), AgentError> {
        loop {
            let wait = self.until_next_turn();
            let input = tokio::select! {
                input = inputs.recv() => input,
                () = tokio::time::sleep(wait) => None,
                () = stop.cancelled() => break,
            };
            // Whatever else has arrived is taken in the same turn, so that a burst of certificates is one pass.
            let mut next = input;
            while let Some(input) = next {
                if let Err(error) = self.take(input) {
                    self.forget_everything().await;
                    self.finish(inputs).await;
                    return Err(error);
                }
                next = inputs.try_recv().ok();
            }
            self.turn();
        }
        self.finish(inputs).await;
        Ok(())
    }

    fn take(&mut self, input: Input) -> Result<(), AgentError> {
        match input {
            Input::Joined { spiffe_id } => {
                self.own_id = Some(spiffe_id);
                self.own_identity_is_in_place();
                self.rewrite_all();
            }
            Input::Up {
                generation,
                upstream,
                calls,
            } => {
                self.proving.up(calls);
                self.up(generation, upstream);
            }
            Input::Down { generation, why } => self.down(generation, why),
            Input::FromCa { generation, message } => {
                if self.upstream.as_ref().is_some_and(|up| up.generation == generation) {
                    return self.heard(message);
                }
            }
            Input::Revocation { sequence, concerns_all } => {
                tracing::debug!(sequence, concerns_all, "looking at the own certificates again");
                self.replace_struck();
            }
            Input::Crls => {
                self.watches.touch();
                self.rewrite_lists();
            }
            Input::Placed { key, held, result } => self.placed(&key, held, result),
            Input::Acted { key, held, result } => self.acted(&key, &held, result),
            Input::Proved { key, held, result } => self.proved(&key, &held, result),
            // Every turn looks whether some are due.
            Input::Saw => {}
            Input::Watch { proven, want, reply } => {
                let _ = reply.send(self.watch(proven, want));
            }
            Input::WhoAmI { proven, reply } => {
                let _ = reply.send(self.who_am_i(&proven));
            }
            Input::Jwt(call) => self.jwt_called(call),
            Input::Status { reply } => {
                let _ = reply.send(self.status());
            }
            Input::Serving { reply } => {
                let _ = reply.send(self.serving());
            }
            Input::Reload { deliveries, reply } => {
                let _ = reply.send(self.reload(deliveries));
            }
        }
        Ok(())
    }

    fn heard(&mut self, message: Message) -> Result<(), AgentError> {
        match message {
            Message::Minted(minted) => self.minted(minted),
            Message::Entries(entries) => self.entries_changed(&entries),
            Message::Trust(trust) => self.trust_changed(trust.bundle.as_ref()),
            Message::Federated(federated) => self.federated_changed(&federated),
            Message::Renew(renew) => self.renew(&renew),
            Message::Retire(retire) => return self.retire(&retire),
            // The session gives these to their own thread.
            Message::Revoked(_) => {}
        }
        Ok(())
    }

    fn up(&mut self, generation: u64, sender: mpsc::Sender<v1::AgentMessage>) {
        self.upstream = Some(Upstream { generation, sender });
        self.shared.metrics.connected.set(1);
        self.entries.interrupted();
        self.releases.up();
        self.feed_all(Event::Online);
    }

    fn down(&mut self, generation: u64, why: String) {
        if self.upstream.as_ref().is_some_and(|up| up.generation == generation) {
            self.upstream = None;
            self.proving.down();
            self.jwts.interrupted();
            self.down_because = why;
            self.shared.metrics.connected.set(0);
            self.feed_all(Event::Offline);
            self.watches.touch();
        }
    }

    /// Sends to the CA when there is a stream with room; what is lost is asked for again.
    fn send(&self, message: agent_message::Message) -> bool {
        let message = v1::AgentMessage { message: Some(message) };
        self.upstream
            .as_ref()
            .is_some_and(|up| up.sender.try_send(message).is_ok())
    }

    fn entries_changed(&mut self, message: &v1::Entries) {
        let change = self.entries.apply(message);
        for problem in &change.unusable {
            self.shared.problem("entry", "CA", problem);
        }
        if !change.complete {
            return;
        }
        let index = self.entries.index();
        tracing::info!(entries = self.entries.len(), index, "entries applied");
        self.reconcile();
        self.follow_federation();
        let outdated: Vec<SlotKey> = self.keys_of(|slot| slot.entry().is_some_and(|e| change.outdated.contains(e)));
        for key in outdated {
            self.feed(&key, Event::RenewNow);
        }
        self.watches.touch_entries();
        self.send(agent_message::Message::Ack(v1::Ack {
            entries_index: index,
            ..v1::Ack::default()
        }));
        self.shared.tell(AgentEvent::EntriesApplied {
            count: self.entries.len(),
            index,
        });
    }

    /// Lets each slot be renewed or not, as the entries say.
    fn reconcile(&mut self) {
        if !self.entries.known() {
            return;
        }
        for key in self.keys_of(|slot| slot.entry().is_some()) {
            let Some(slot) = self.slots.get_mut(&key) else { continue };
            let verdict = self.entries.verdict(slot.entry(), slot.delivery());
            match verdict {
                Ok(ttl) => {
                    if slot.trouble.as_ref().is_some_and(|trouble| trouble.stage == "entry") {
                        slot.trouble = None;
                    }
                    self.feed(&key, Event::Want { ttl });
                    if self.upstream.is_some() {
                        self.feed(&key, Event::Online);
                    }
                    self.renew_other_identity(&key);
                }
                Err(why) => {
                    // A caller on the socket is told by its stream; a folder's owner can only be told here.
                    if matches!(key, SlotKey::Delivery(_)) {
                        self.trouble(&key, "entry", why);
                    }
                    self.feed(&key, Event::Unwant);
                }
            }
        }
        self.drop_idle_workloads();
    }

    /// A certificate from before a restart may be for what the entry said then.
    fn renew_other_identity(&mut self, key: &SlotKey) {
        let Some(slot) = self.slots.get(key) else { return };
        let entry = slot.entry().and_then(|name| self.entries.get(name));
        let other = match (&slot.held, entry) {
            (Some(held), Some(entry)) => *held.id() != entry.spiffe_id,
            _ => false,
        };
        if other && !slot.rotation.asking() {
            self.feed(key, Event::RenewNow);
        }
    }

    fn trust_changed(&mut self, wire: Option<&v1::TrustBundle>) {
        let Some(wire) = wire else { return };
        let held = self.shared.bundle.load_full();
        let after = Bundle::from_wire(wire)
            .map_err(NotAfter::Wrong)
            .and_then(|bundle| bundle.after(held.as_deref(), &self.shared.domain));
        match &after {
            Err(older @ NotAfter::Older { .. }) => {
                return self.shared.refuse_older(Forward::Bundle, &older.to_string());
            }
            _ => self.shared.not_older(Forward::Bundle),
        }
        let result = after.map_err(|problem| problem.to_string());
        match result.and_then(|bundle| bundle.map(|bundle| self.shared.install_bundle(bundle)).transpose()) {
            Ok(None) => self.acknowledge_bundle(wire.sequence),
            Ok(Some(bundle)) => {
                tracing::info!(
                    sequence = bundle.sequence(),
                    roots = bundle.roots().len(),
                    "trust bundle applied"
                );
                let same_roots = held.is_some_and(|held| held.roots() == bundle.roots());
                self.save_bundle(bundle);
                self.watches.touch();
                if !same_roots {
                    self.rewrite_all();
                    self.replace_struck();
                }
                self.acknowledge_bundle(wire.sequence);
                self.shared.tell(AgentEvent::TrustApplied {
                    sequence: wire.sequence,
                });
            }
            Err(problem) => self.shared.problem("trust", "CA", &problem),
        }
    }

    fn renew(&mut self, renew: &v1::Renew) {
        tracing::info!(entries = ?renew.entries, agent = renew.agent, why = renew.why, "the CA asks for new certificates");
        let named = |name: &EntryName| renew.entries.is_empty() || renew.entries.iter().any(|e| e == name.as_str());
        // A replacement for a certificate that was just revoked is on its way already.
        let replacing = |slot: &Slot| {
            let struck = slot
                .held
                .as_ref()
                .is_some_and(|held| slot.struck == Some(*held.serial()));
            struck && slot.rotation.asking()
        };
        for key in self.keys_of(|slot| slot.entry().map_or(renew.agent, named) && !replacing(slot)) {
            self.feed(&key, Event::RenewNow);
        }
    }

    /// Asks at once for another certificate where the one in hand is refused by every verifier from now on.
    fn replace_struck(&mut self) {
        for key in self.keys_of(|slot| slot.held.is_some()) {
            self.replace_if_struck(&key);
        }
    }

    fn replace_if_struck(&mut self, key: &SlotKey) {
        let (trust, now) = (self.shared.ca_trust.load_full(), self.shared.wall());
        let Some(slot) = self.slots.get_mut(key) else { return };
        let Some(held) = &slot.held else { return };
        let serial = *held.serial();
        if slot.struck == Some(serial) || held.not_after() < now {
            return;
        }
        let Err(error) = trust.recheck(held.peer(), now) else {
            return;
        };
        tracing::warn!(subject = slot.subject(), %serial, %error, "a certificate in hand is refused from now on");
        slot.struck = Some(serial);
        // What is asked for already is looked at when it comes.
        if !slot.rotation.asking() {
            self.feed(key, Event::RenewNow);
        }
    }

    /// Passes an event to one slot's rotation and notes what it wants.
    fn feed(&mut self, key: &SlotKey, event: Event) {
        let now = self.shared.deps.now();
        let Some(slot) = self.slots.get_mut(key) else { return };
        let (rotation, actions) = slot.rotation.step(event, now, self.shared.deps.jitter());
        slot.rotation = rotation;
        for action in actions {
            match action {
                Action::Ask => self.due.push(key.clone()),
                Action::Lapsed => {
                    tracing::warn!(subject = slot.subject(), "the certificate in hand has ended");
                    self.watches.touch_slot(key);
                }
            }
        }
    }

    fn feed_all(&mut self, event: Event) {
        for key in self.keys_of(|_| true) {
            self.feed(&key, event);
        }
    }

    fn keys_of(&self, mut which: impl FnMut(&Slot) -> bool) -> Vec<SlotKey> {
        self.slots
            .iter()
            .filter(|(_, slot)| which(slot))
            .map(|(key, _)| key.clone())
            .collect()
    }

    fn trouble(&mut self, key: &SlotKey, stage: &'static str, message: String) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        let trouble = Trouble { stage, message };
        // The same again is counted, but told once: a full disk would otherwise fill the log's disk too.
        if slot.trouble.as_ref() == Some(&trouble) {
            self.shared.metrics.failure(stage);
        } else {
            self.shared.problem(stage, &slot.subject(), &trouble.message);
            slot.trouble = Some(trouble);
        }
        self.watches.touch_slot(key);
    }

    /// What every input, and the mere passing of time, leads to.
    fn turn(&mut self) {
        let now = self.shared.deps.now();
        for key in self.keys_of(|slot| slot.rotation.is_due(now)) {
            self.feed(&key, Event::Tick);
        }
        self.place_again();
        self.act();
        self.ask_for_due();
        self.ask_for_proofs();
        self.tell_seen();
        self.tell_released();
        self.drop_idle_workloads();
        self.publish_watches();
        self.serve_jwts();
        self.note_metrics();
    }

    fn until_next_turn(&self) -> Duration {
        let now = self.shared.deps.now();
        let slots = self.slots.values().filter_map(|slot| slot.rotation.wake_at(now));
        let beside = [
            self.watches.wake_at(),
            self.jwts.wake_at(),
            self.chase_wake_at(),
            self.seen_wake_at(),
            self.hooks_wake_at(),
        ];
        let next = slots.chain(beside.into_iter().flatten()).min();
        let wait = next.map_or(TICK_MAX, |at| at.saturating_sub(now.boot));
        // Never at once: a mistake in a state machine must not become a spinning core.
        wait.clamp(Duration::from_millis(5), TICK_MAX)
    }
}

/// The key of a folder's slot.
fn folder_key(directory: &Path) -> SlotKey {
    SlotKey::Delivery(Arc::from(directory))
}

/// Time since boot, for the parts that count on it alone.
fn boot(now: Now) -> Duration {
    now.boot
}
