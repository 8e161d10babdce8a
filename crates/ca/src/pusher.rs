//! The pusher follows the state's views and tells every stream what changed: entries, trust, revocations, retirement.
//! It knows only views, so a change made by another replica is pushed like one of our own.

use std::sync::Arc;

use mintage_identity::{EntryName, SpiffeId, UnixTime};
use mintage_ledger::{
    LiveQuery,
    wire::{CaEventKind, CaRole},
};
use mintage_policy::AgentStatus;
use mintage_proto::v1::{
    CaMessage, Entries, JwtKey, Retire, Trust, TrustBundle, ca_message::Message as Down, revoked::News,
};
use mintage_state::{EntryChange, StandingEntry, View};
use prost::Message as _;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    convert::wire_entry,
    desk::Desk,
    excepted,
    federation::federated_message,
    health::Trouble,
    limits::{HEARTBEAT_INTERVAL, PUBLISH_INDEX_WAIT},
    publisher::revoked,
    trust::{PeerTrust, trust_of},
};

/// Bytes of entries, or of their names, in one message; a full set goes out in as many as it takes.
pub(crate) const ENTRIES_BYTES_MAX: usize = 512 * 1024;
/// Bytes of the key and length of one of them (protobuf encoding, up to 2 MB long).
const FRAME_BYTES: usize = 4;
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
    // What came since the streams were told last counts as a change.
    let mut known = desk.fleet.told();
    views.mark_changed();
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
                // Revocation first: it is what somebody waits for. What failed before is left to the next beat.
                if view.revoked().sequence() > known.revoked().sequence() {
                    publish(&desk, &view, &registry).await;
                }
                Push { desk: &desk, old: &known, new: &view }.all(&trust, &registry);
                known = view;
            }
            _ = beat.tick() => {
                beats += 1;
                // What could not be published, or was revoked before this task began.
                publish(&desk, &desk.state.view(), &registry).await;
                heartbeat(&desk, beats % BEATS_PER_PRUNE == 0);
            }
            () = stop.cancelled() => return,
        }
    }
}

/// Takes the count of live certificates, which walks through all of them: at the start and once a minute. It blocks.
pub(crate) fn count_live(desk: &Desk) {
    let live = desk
        .index
        .live_count_shown(&LiveQuery::default(), desk.clock.unguarded());
    desk.metrics.live(live);
}

fn heartbeat(desk: &Arc<Desk>, prune: bool) {
    if prune {
        // By a clock that stepped ahead what lives would be forgotten, and nothing would bring it back.
        if let Ok(now) = desk.clock.now() {
            desk.state.prune(now);
        }
        // Nobody waits for it, and a revocation must not.
        let worker = Arc::clone(desk);
        tokio::task::spawn_blocking(move || count_live(&worker));
    }
    let now = desk.clock.unguarded();
    desk.measure();
    // Nobody says that nothing is newer while something is.
    if desk.is_unpublished() {
        return;
    }
    match desk.publisher.heartbeat(now) {
        Ok(news) => {
            desk.fleet.push(|_| Some(message(Down::Revoked(revoked(news.clone())))));
        }
        Err(problem) => error!(error = %problem, "no heartbeat could be signed"),
    }
}

/// A message of the stream.
pub(crate) fn message(down: Down) -> CaMessage {
    CaMessage { message: Some(down) }
}

/// Publishes what this view has revoked and nobody was told of yet. What fails is tried again with the next heartbeat, whether
/// or not anything else is revoked meanwhile.
async fn publish(desk: &Arc<Desk>, view: &Arc<View>, registry: &mintage_verifier_tokio::Registry) {
    if view.revoked().sequence() <= desk.publisher.sequence() {
        return;
    }
    let at = desk.clock.clock().monotonic();
    // The CA's own callers are judged by the records, and wait for nothing that is signed for others.
    let closed = registry.trust_changed();
    wait_for_index(desk, view).await;
    let (worker, to) = (desk.clone(), view.clone());
    // A walk through everything that lives, and a set of millions that is signed: not on a thread that others wait for.
    let signed = tokio::task::spawn_blocking(move || signed(&worker, &to)).await;
    match signed.map_err(|error| error.to_string()).and_then(|signed| signed) {
        Ok(Some(news)) => {
            desk.health.over(Trouble::Revocation);
            desk.propagation.published(desk.publisher.sequence(), at);
            let told = desk.fleet.push(|_| Some(message(Down::Revoked(revoked(news.clone())))));
            info!(
                sequence = desk.publisher.sequence(),
                agents = told,
                closed,
                "revocation pushed"
            );
        }
        Ok(None) => {}
        Err(problem) => {
            error!(error = %problem, "revocation news could not be signed; it is tried again");
            let text = format!("revocation news cannot be signed: {problem}");
            desk.health.trouble(Trouble::Revocation, text);
        }
    }
}

/// Waits until the index holds what was recorded before a revocation, for what is looked up by it. But a revocation waits for
/// an index that is stuck no longer than this.
pub(crate) async fn wait_for_index(desk: &Desk, view: &View) {
    let Some(last) = view.applied().checked_sub(1) else {
        return;
    };
    let indexed = tokio::time::timeout(PUBLISH_INDEX_WAIT, desk.index.wait_applied(last)).await;
    if indexed.ok().flatten().is_none() {
        warn!(record = last, "the index is behind; a revocation does not wait for it");
    }
}

/// The news of this view, published; none where somebody has published it.
fn signed(desk: &Desk, view: &View) -> Result<Option<News>, String> {
    // Too many that live cost a look each; one too few, after a step of the clock, would be struck wrongly.
    let live = excepted::live(&desk.index, view.applied(), desk.clock.earliest());
    let live = live.map_err(|error| error.to_string())?;
    let news = desk.publisher.advance(view.revoked(), live, desk.clock.unguarded());
    news.map_err(|error| error.to_string())
}

/// One step from an older view to a newer one.
struct Push<'a> {
    desk: &'a Desk,
    old: &'a View,
    new: &'a Arc<View>,
}

impl Push<'_> {
    fn all(&self, trust: &PeerTrust, registry: &mintage_verifier_tokio::Registry) {
        self.retired();
        // The bundles before the entries: one that names a bundle finds it there.
        let federated = self.new.federated_changed_since(self.old);
        let federated = federated.then(|| message(Down::Federated(federated_message(self.new))));
        let trust = self.trust(trust, registry).map(|news| message(Down::Trust(news)));
        let news: Vec<CaMessage> = trust.into_iter().chain(federated).collect();
        let changes = self.new.entry_changes_since(self.old);
        if news.is_empty() && changes.is_empty() {
            return self.desk.fleet.tell_nothing(self.new);
        }
        let index = self.new.applied();
        self.desk.fleet.tell(self.new, |agent| {
            let entries = changes_for(agent, &changes, index).into_iter().map(Down::Entries);
            news.iter().cloned().chain(entries.map(message))
        });
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

    /// Takes up another bundle; the message by which agents are told of it.
    fn trust(&self, trust: &PeerTrust, registry: &mintage_verifier_tokio::Registry) -> Option<Trust> {
        let stages = |view: &View| view.ca_keys().map(|key| key.changed).max();
        let sequence = |view: &View| view.bundle().map(|bundle| bundle.sequence);
        if stages(self.old) == stages(self.new) && sequence(self.old) == sequence(self.new) {
            return None;
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
        Some(trust_message(self.desk, self.new))
    }
}

/// Entries for one agent, cut into messages of bounded size.
struct Pieces {
    pieces: Vec<Entries>,
    bytes: usize,
}

impl Pieces {
    fn new(full: bool, index: u64) -> Self {
        let first = Entries {
            full,
            index,
            ..Entries::default()
        };
        Self {
            pieces: vec![first],
            bytes: 0,
        }
    }

    /// The message that takes so many bytes more.
    fn room(&mut self, bytes: usize) -> Option<&mut Entries> {
        self.bytes += bytes + FRAME_BYTES;
        if self.bytes > ENTRIES_BYTES_MAX {
            self.bytes = bytes + FRAME_BYTES;
            let next = self.pieces.first().map(|first| Entries {
                full: first.full,
                index: first.index,
                ..Entries::default()
            });
            self.pieces.extend(next);
        }
        self.pieces.last_mut()
    }

    fn put(&mut self, standing: &StandingEntry) {
        let entry = wire_entry(&standing.entry, standing.revision);
        if let Some(piece) = self.room(entry.encoded_len()) {
            piece.put.push(entry);
        }
    }

    fn remove(&mut self, name: &EntryName) {
        if let Some(piece) = self.room(name.as_str().len()) {
            piece.removed.push(name.to_string());
        }
    }

    fn whole(mut self) -> Vec<Entries> {
        if let Some(last) = self.pieces.last_mut() {
            last.last = true;
        }
        self.pieces
    }
}

/// What of these changes concerns one agent; no message where nothing does.
fn changes_for(agent: &SpiffeId, changes: &[EntryChange], index: u64) -> Vec<Entries> {
    let usable = |standing: &&StandingEntry| standing.entry.is_for_agent(agent) && !standing.entry.is_disabled();
    let mut pieces = Pieces::new(false, index);
    for change in changes {
        match (
            change.before.as_ref().filter(usable),
            change.after.as_ref().filter(usable),
        ) {
            (_, Some(after)) => pieces.put(after),
            (Some(before), None) => pieces.remove(before.entry.name()),
            (None, None) => {}
        }
    }
    match pieces.bytes {
        0 => Vec::new(),
        _ => pieces.whole(),
    }
}

/// The full set of one agent, in messages of bounded size.
pub(crate) fn entries_of(view: &View, agent: &SpiffeId) -> Vec<Entries> {
    let mut pieces = Pieces::new(true, view.applied());
    let standing = view.entries_for_agent(agent).into_iter();
    standing
        .filter(|standing| !standing.entry.is_disabled())
        .for_each(|standing| pieces.put(standing));
    pieces.whole()
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

#[cfg(test)]
pub(crate) mod tests {
    use std::{sync::Mutex, time::Duration};

    use mintage_identity::{RevocationReason, SpkiHash};
    use mintage_proto::v1::{ApplyEntriesRequest, Entry};
    use mintage_revocation::{Delegation, Query, Replica, Verdict, Why};
    use mintage_state::command::Scope;
    use mintage_svid::{CertInfo, LeafInfo};

    use super::*;
    use crate::{
        clock::tests::Hands,
        entries,
        revoke::{Order, carry_out},
        trial::{PATIENCE, Trial},
    };

    /// What a follower that begins now is told of a certificate.
    pub(crate) fn told_anew(desk: &Desk, leaf: &LeafInfo) -> Verdict {
        let (bundle, now) = (wire_bundle(desk, &desk.state.view()), desk.clock.now().unwrap());
        let mut replica = Replica::new(&desk.domain);
        for statement in &bundle.revocation_delegations {
            let delegation = Delegation::decode(statement).unwrap();
            for ca in bundle.issuers.iter().chain(&bundle.roots) {
                let spki = CertInfo::parse_signing(ca).unwrap().spki_der().to_vec();
                if let Ok(verified) = delegation.verify(&desk.domain, &spki, now) {
                    replica.trust(verified).unwrap();
                }
            }
        }
        let snapshot = desk.publisher.snapshot(now).unwrap();
        replica.apply_snapshot(&snapshot.bytes, now).unwrap();
        let query = Query {
            issuer: desk.issuer.key_id(),
            serial: leaf.serial(),
            not_before: leaf.not_before(),
            not_after: leaf.not_after(),
            spiffe_id: Some(leaf.id()),
            spki_sha256: leaf.spki_sha256(),
        };
        replica.view().check(&query, now)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_clock_that_steps_ahead_and_back_makes_no_live_revocation_forgotten() {
        let hands = Arc::new(Hands(Mutex::new((
            UnixTime::from_seconds(1_900_000_000),
            Duration::from_secs(100),
        ))));
        let trial = Trial::open_at(hands.clone()).await;
        let desk = &trial.desk;
        trial.entries(["a"]).await;
        let agent = trial.agent("n1").await;
        let (_, registry) = trial.callers();
        let revoke = async |leaf: &LeafInfo| {
            let order = Order::new(Scope::Serial(*leaf.serial()), RevocationReason::Superseded, "");
            carry_out(desk, &trial.origin(), &order, false).await.unwrap();
            publish(desk, &desk.state.view(), &registry).await;
        };
        let first = trial.certificate(&agent, "a").await;
        revoke(&first).await;
        for step in [3_600, 10 * 365 * 86_400] {
            let right = hands.0.lock().unwrap().0;
            hands.0.lock().unwrap().0 = right.plus(Duration::from_secs(step));
            heartbeat(desk, true);
            hands.0.lock().unwrap().0 = right;
            // Issuance goes on, so its issuer is covered; and what comes next carries on all that lives.
            let next = trial.certificate(&agent, "a").await;
            assert_eq!(told_anew(desk, &next), Verdict::Good, "{step}");
            revoke(&next).await;
            for leaf in [&first, &next] {
                assert!(trial.is_revoked(leaf), "{step}");
                assert_eq!(told_anew(desk, leaf), Verdict::Revoked { why: Why::Serial }, "{step}");
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_revoked_before_anybody_followed_is_published_and_no_heartbeat_denies_it() {
        let trial = Trial::open().await;
        let desk = &trial.desk;
        let scope = Scope::Key(SpkiHash::new([7; 32]));
        let order = Order::new(scope, RevocationReason::KeyCompromise, "");
        carry_out(desk, &trial.origin(), &order, false).await.unwrap();
        let mut told = desk.publisher.subscribe();
        heartbeat(desk, false);
        assert!(told.try_recv().is_err(), "it would say that nothing is revoked");

        let ((peers, registry), stop) = (trial.callers(), CancellationToken::new());
        let following = tokio::spawn(run(desk.clone(), peers, registry, stop.clone()));
        let mut next = async || tokio::time::timeout(PATIENCE, told.recv()).await.unwrap().unwrap();
        assert!(!matches!(next().await, News::Heartbeat(_)));
        assert_eq!(desk.publisher.sequence(), desk.state.view().revoked().sequence());
        assert!(matches!(next().await, News::Heartbeat(_)), "now it is true");
        stop.cancel();
        following.await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_change_of_many_entries_goes_out_in_messages_of_bounded_size() {
        let trial = Trial::open().await;
        let before = trial.desk.state.view();
        let agent = SpiffeId::parse("spiffe://dev.test/mintage/agent/n1").unwrap();
        let entry = |number: usize| Entry {
            name: format!("{number:04}-{}", "x".repeat(100)),
            spiffe_id: format!("spiffe://dev.test/{number}/{}", "y".repeat(1_500)),
            agents: vec![agent.to_string()],
            selectors: vec!["unix:uid:1".to_owned()],
            ..Entry::default()
        };
        let count = ENTRIES_BYTES_MAX / 1_500;
        let request = ApplyEntriesRequest {
            entries: (0..count).map(entry).collect(),
            ..ApplyEntriesRequest::default()
        };
        entries::apply(&trial.desk, &trial.origin(), request).await.unwrap();
        let after = trial.desk.state.view();
        let messages = |older: &View, newer: &View| {
            let all = changes_for(&agent, &newer.entry_changes_since(older), 7);
            let lasts: Vec<bool> = all.iter().map(|entries| entries.last).collect();
            assert_eq!(lasts.iter().filter(|last| **last).count(), 1);
            assert_eq!(lasts.last(), Some(&true));
            assert!(
                all.iter()
                    .all(|entries| !entries.full && entries.encoded_len() < ENTRIES_BYTES_MAX + 100)
            );
            all
        };
        let put = messages(&before, &after);
        assert!(put.len() > 1);
        assert_eq!(put.iter().map(|entries| entries.put.len()).sum::<usize>(), count);
        let removed = messages(&after, &before);
        assert_eq!(
            removed.iter().map(|entries| entries.removed.len()).sum::<usize>(),
            count
        );
        let other = SpiffeId::parse("spiffe://dev.test/mintage/agent/n2").unwrap();
        assert!(changes_for(&other, &after.entry_changes_since(&before), 7).is_empty());
    }
}
