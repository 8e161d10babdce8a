//! The one task that decides: which identities are due, what is asked of the CA, what is put in place, and what socket
//! callers see. It owns all state and never waits for a disk, a network or another task; those send it inputs.

use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
    sync::Arc,
    time::Duration,
};

use mintage_identity::{RequestId, Selector, SpiffeId};
use mintage_proto::v1::{self, agent_message, ca_message::Message, node_client::NodeClient};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::{
    AgentError,
    bundle::Bundle,
    config::Delivery,
    federation::Remembered,
    held::Held,
    hook::{Content, Stopped, Turns},
    kept::Batch,
    limits::{TICK_MAX, WRITERS_MAX},
    link::Control,
    receipt::Proof,
    rotation::{Action, Event, Now},
    shared::Shared,
    status::{AgentStatus, Serving},
    workload::{Want, WhoAmI, WorkloadView},
    write::Written,
};

mod asks;
mod entries;
mod federation;
mod hooks;
mod interest;
mod jwts;
mod keeping;
mod measure;
mod news;
mod place;
mod receipts;
mod releases;
mod saving;
mod serving;
mod slot;
mod slots;
mod told;
mod view;
mod watches;

use entries::Entries;
pub(crate) use jwts::{JwtCall, NoJwt};
use keeping::Keeping;
use receipts::{Missed, Proving};
use releases::Releases;
use saving::Saving;
use slot::{Purpose, Slot, SlotKey, Trouble};
use slots::Slots;
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
        /// What lies in the folder now, where there is one.
        result: Result<Option<Written>, (&'static str, String)>,
    },
    /// The hooks of a change ended.
    Acted {
        key: SlotKey,
        held: Arc<Held>,
        content: Content,
        result: Result<(), Stopped>,
    },
    /// A try for the proof of a receipt ended.
    Proved {
        key: SlotKey,
        held: Arc<Held>,
        result: Result<Proof, Missed>,
    },
    /// What callers of the socket are served was written, or was not.
    Kept { batch: Batch, result: Result<(), String> },
    /// The CA takes neither the agent's certificate nor its last key.
    Refused,
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
    /// The gauges are to be brought up to date.
    Measure { reply: oneshot::Sender<()> },
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

/// Files that are written off the core's path.
#[derive(Default)]
struct Files {
    bundle: Arc<Saving<Arc<Bundle>>>,
    federated: Arc<Saving<Vec<u8>>>,
}

/// The core's state.
pub(crate) struct Core {
    shared: Arc<Shared>,
    own_id: Option<SpiffeId>,
    slots: Slots,
    by_request: HashMap<RequestId, SlotKey>,
    entries: Entries,
    /// What deliveries federated with when the CA was last heard.
    remembered: Remembered,
    saving: Files,
    keeping: Keeping,
    upstream: Option<Upstream>,
    /// Why the last stream ended.
    down_because: String,
    /// Slots whose rotation said Ask in this turn.
    due: Vec<SlotKey>,
    watches: Watches,
    jwts: jwts::Jwts,
    writers: Arc<Semaphore>,
    turns: Arc<Turns>,
    proving: Proving,
    releases: Releases,
    inbox: mpsc::Sender<Input>,
    link: mpsc::Sender<Control>,
}

impl Core {
    pub(crate) fn new(shared: Arc<Shared>, inbox: mpsc::Sender<Input>, link: mpsc::Sender<Control>) -> Self {
        let mut slots = Slots::default();
        slots.insert(SlotKey::Own, Slot::new(Purpose::Own));
        Self {
            own_id: shared.own_id(),
            shared,
            slots,
            by_request: HashMap::new(),
            entries: Entries::default(),
            remembered: Remembered::default(),
            saving: Files::default(),
            keeping: Keeping::default(),
            upstream: None,
            down_because: "not connected yet".to_owned(),
            due: Vec::new(),
            watches: Watches::default(),
            jwts: jwts::Jwts::default(),
            writers: Arc::new(Semaphore::new(WRITERS_MAX)),
            turns: Arc::default(),
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
        self.restore_kept();
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
                if self.own_id.as_ref().is_some_and(|own| *own != spiffe_id) {
                    self.withdraw_kept();
                }
                self.own_id = Some(spiffe_id);
                self.keeping.entries_changed();
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
            Input::Acted {
                key,
                held,
                content,
                result,
            } => self.acted(&key, &held, content, result),
            Input::Proved { key, held, result } => self.proved(&key, &held, result),
            Input::Kept { batch, result } => self.kept(&batch, result),
            Input::Refused => self.withdraw_kept(),
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
            Input::Measure { reply } => {
                self.note_metrics();
                let _ = reply.send(());
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
        for key in self.slots.keys_of(|_| true) {
            self.feed(&key, event);
        }
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
        let all = self.slots.begin_turn(now);
        for key in self.slots.touched_of(|_, slot| slot.rotation.is_due(now)) {
            self.feed(&key, Event::Tick);
        }
        self.place_again();
        self.act();
        self.ask_for_due();
        self.ask_for_proofs();
        self.tell_seen();
        self.tell_released();
        self.drop_idle_workloads();
        if all {
            self.watches.forget_unwatched();
        }
        self.publish_watches();
        self.serve_jwts();
        self.keep();
        self.slots.end_turn(now);
        self.note_serving();
    }

    fn until_next_turn(&self) -> Duration {
        let now = self.shared.deps.now();
        let times = [
            self.slots.wake_at(),
            self.watches.wake_at(),
            self.jwts.wake_at(),
            self.own_id.as_ref().and_then(|_| self.keeping.wake_at()),
            self.chase_wake_at(),
            self.seen_wake_at(),
        ];
        let next = times.into_iter().flatten().min();
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
