//! The pusher follows the state's views and tells every stream what changed: entries, trust, revocations, retirement.
//! It knows only views, so a change made by another replica is pushed like one of our own.

use std::sync::Arc;

use mintage_identity::{SpiffeId, UnixTime};
use mintage_ledger::{
    LiveQuery,
    wire::{CaEventKind, CaRole},
};
use mintage_policy::AgentStatus;
use mintage_proto::v1::{CaMessage, Entries, JwtKey, Retire, Trust, TrustBundle, ca_message::Message as Down};
use mintage_state::{EntryChange, StandingEntry, View};
use prost::Message as _;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::{
    convert::wire_entry,
    desk::Desk,
    federation::federated_message,
    health::Trouble,
    limits::HEARTBEAT_INTERVAL,
    publisher::revoked,
    trust::{PeerTrust, trust_of},
};

/// Bytes of entries in one message; a full set goes out in as many as it takes.
const ENTRIES_BYTES_MAX: usize = 512 * 1024;
/// How often a consumer of the bundle shall look for a newer one where nothing pushes, in seconds.
const REFRESH_HINT_SECONDS: u32 = 300;
/// Heartbeats between two rounds of forgetting what has expired.
const BEATS_PER_PRUNE: u32 = 12;

/// Follows the state until told to stop.
pub(crate) async fn run(
    desk: Arc<Desk>,
    trust: Arc<PeerTrust>,
    registry: mintage_verifier_tokio::Registry,
    stop: CancellationToken,
) {
    let mut views = desk.state.subscribe();
    let mut known = views.borrow_and_update().clone();
    let mut beat = tokio::time::interval(HEARTBEAT_INTERVAL);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut beats = 0;
    loop {
        tokio::select! {
            changed = views.changed() => {
                if changed.is_err() {
                    return;
                }
                let view = views.borrow_and_update().clone();
                Push { desk: &desk, old: &known, new: &view }.all(&trust, &registry);
                known = view;
            }
            _ = beat.tick() => {
                beats += 1;
                heartbeat(&desk, beats % BEATS_PER_PRUNE == 0);
            }
            () = stop.cancelled() => return,
        }
    }
}

/// Takes the count of live certificates, which walks through all of them: at the start and once a minute.
pub(crate) fn count_live(desk: &Desk) {
    let live = desk
        .index
        .live_count_shown(&LiveQuery::default(), desk.clock.unguarded());
    desk.metrics.live(live);
}

fn heartbeat(desk: &Desk, prune: bool) {
    let now = desk.clock.unguarded();
    if prune {
        desk.state.prune(now);
        count_live(desk);
    }
    desk.measure();
    match desk.publisher.heartbeat(now) {
        Ok(news) => {
            desk.fleet.push(|_| Some(message(Down::Revoked(revoked(news.clone())))));
        }
        Err(problem) => error!(error = %problem, "no heartbeat could be signed"),
    }
}

fn message(down: Down) -> CaMessage {
    CaMessage { message: Some(down) }
}

/// One step from an older view to a newer one.
struct Push<'a> {
    desk: &'a Desk,
    old: &'a View,
    new: &'a View,
}

impl Push<'_> {
    fn all(&self, trust: &PeerTrust, registry: &mintage_verifier_tokio::Registry) {
        // Revocation first: it is what somebody waits for.
        self.revocations(registry);
        self.retired();
        self.trust(trust, registry);
        self.federated();
        self.entries();
    }

    fn revocations(&self, registry: &mintage_verifier_tokio::Registry) {
        if self.new.revoked().sequence() == self.old.revoked().sequence() {
            return;
        }
        let now = self.desk.clock.unguarded();
        let at = self.desk.clock.clock().monotonic();
        let live = match self.desk.index.live_serials(now) {
            Ok(live) => live,
            Err(problem) => return self.unsigned(&problem),
        };
        match self.desk.publisher.advance(self.new.revoked(), live, now) {
            Ok(Some(news)) => {
                self.desk.health.over(Trouble::Revocation);
                self.desk.propagation.published(self.desk.publisher.sequence(), at);
                let told = self
                    .desk
                    .fleet
                    .push(|_| Some(message(Down::Revoked(revoked(news.clone())))));
                let closed = registry.trust_changed();
                info!(
                    sequence = self.desk.publisher.sequence(),
                    agents = told,
                    closed,
                    "revocation pushed"
                );
            }
            Ok(None) => {}
            Err(problem) => self.unsigned(&problem),
        }
    }

    fn unsigned(&self, problem: &dyn std::fmt::Display) {
        error!(error = %problem, "revocation news could not be signed");
        let text = format!("revocation news cannot be signed: {problem}");
        self.desk.health.trouble(Trouble::Revocation, text);
    }

    /// Agents whose instance may no longer speak lose their streams at once.
    fn retired(&self) {
        if self.new.agent_changes_since(self.old).is_empty() {
            return;
        }
        let last = message(Down::Retire(Retire {
            entries: Vec::new(),
            agent: true,
            why: "this agent instance was banned, evicted or replaced".to_owned(),
        }));
        let gone = |name: &mintage_identity::AgentName, instance| {
            self.new
                .agent(name)
                .is_none_or(|agent| agent.instance != instance || agent.status != AgentStatus::Active)
        };
        self.desk.fleet.expel(gone, &last);
    }

    fn trust(&self, trust: &PeerTrust, registry: &mintage_verifier_tokio::Registry) {
        let stages = |view: &View| view.ca_keys().map(|key| key.changed).max();
        let sequence = |view: &View| view.bundle().map(|bundle| bundle.sequence);
        if stages(self.old) == stages(self.new) && sequence(self.old) == sequence(self.new) {
            return;
        }
        if let Some(bundle) = self.new.bundle().filter(|_| sequence(self.old) != sequence(self.new)) {
            match trust_of(&self.desk.domain, &bundle.roots_der, &self.desk.state) {
                Ok(snapshot) => {
                    trust.store.swap(snapshot);
                    registry.trust_changed();
                }
                Err(problem) => error!(error = %problem, "the new bundle cannot be used to verify callers"),
            }
        }
        let news = trust_message(self.desk, self.new);
        self.desk.fleet.push(|_| Some(message(Down::Trust(news.clone()))));
    }

    /// Before the entries: one that names a bundle finds it there.
    fn federated(&self) {
        if self.new.federated_changed_since(self.old) {
            let news = federated_message(self.new);
            self.desk.fleet.push(|_| Some(message(Down::Federated(news.clone()))));
        }
    }

    fn entries(&self) {
        let changes = self.new.entry_changes_since(self.old);
        if changes.is_empty() {
            return;
        }
        let index = self.new.applied();
        self.desk
            .fleet
            .push(|agent| changes_for(agent, &changes, index).map(|entries| message(Down::Entries(entries))));
    }
}

/// What of these changes concerns one agent.
fn changes_for(agent: &SpiffeId, changes: &[EntryChange], index: u64) -> Option<Entries> {
    let usable = |standing: &&StandingEntry| standing.entry.is_for_agent(agent) && !standing.entry.is_disabled();
    let mut entries = Entries {
        full: false,
        index,
        last: true,
        ..Entries::default()
    };
    for change in changes {
        match (
            change.before.as_ref().filter(usable),
            change.after.as_ref().filter(usable),
        ) {
            (_, Some(after)) => entries.put.push(wire_entry(&after.entry, after.revision)),
            (Some(before), None) => entries.removed.push(before.entry.name().to_string()),
            (None, None) => {}
        }
    }
    (!entries.put.is_empty() || !entries.removed.is_empty()).then_some(entries)
}

/// The full set of one agent, in messages of bounded size.
pub(crate) fn entries_of(view: &View, agent: &SpiffeId) -> Vec<Entries> {
    let index = view.applied();
    let mut sets = vec![Entries {
        full: true,
        index,
        ..Entries::default()
    }];
    let mut bytes = 0;
    for standing in view
        .entries_for_agent(agent)
        .into_iter()
        .filter(|standing| !standing.entry.is_disabled())
    {
        let entry = wire_entry(&standing.entry, standing.revision);
        bytes += entry.encoded_len();
        if bytes > ENTRIES_BYTES_MAX {
            bytes = entry.encoded_len();
            sets.push(Entries {
                full: true,
                index,
                ..Entries::default()
            });
        }
        if let Some(set) = sets.last_mut() {
            set.put.push(entry);
        }
    }
    if let Some(set) = sets.last_mut() {
        set.last = true;
    }
    sets
}

/// The bundle as agents get it.
pub(crate) fn trust_message(desk: &Desk, view: &View) -> Trust {
    Trust {
        bundle: Some(wire_bundle(desk, view)),
    }
}

/// The trust bundle with what verifiers of revocation need beside it.
pub(crate) fn wire_bundle(desk: &Desk, view: &View) -> TrustBundle {
    let now = desk.clock.unguarded();
    let usable = |stage: CaEventKind| {
        matches!(
            stage,
            CaEventKind::Activate | CaEventKind::Retire | CaEventKind::Prepare
        )
    };
    let alive = |until: Option<UnixTime>| until.is_none_or(|until| until > now);
    let keys = |role: CaRole| {
        view.ca_keys()
            .filter(move |key| key.role == role && usable(key.stage) && alive(key.not_after))
    };
    let (sequence, roots) = view
        .bundle()
        .map_or((0, Vec::new()), |bundle| (bundle.sequence, bundle.roots_der.clone()));
    let jwt_keys = view.bundle().into_iter().flat_map(|bundle| &bundle.jwt_keys);
    TrustBundle {
        trust_domain: desk.domain.to_string(),
        sequence,
        roots,
        refresh_hint_seconds: REFRESH_HINT_SECONDS,
        revocation_delegations: keys(CaRole::Revocation).map(|key| key.statement.clone()).collect(),
        issuers: keys(CaRole::Intermediate)
            .map(|key| key.certificate_der.clone())
            .collect(),
        jwt_keys: jwt_keys
            .map(|(kid, spki)| JwtKey {
                kid: kid.clone(),
                spki: spki.clone(),
            })
            .collect(),
    }
}
