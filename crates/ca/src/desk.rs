//! What every service works with: the ledger's committer, the state, the index, the issuer, clock and randomness. Built
//! once at the start; nothing in it is set later but what is swapped whole: the policy, and this replica's certificate.

use std::{sync::Arc, time::Duration};

use arc_swap::{ArcSwap, ArcSwapOption};
use mintage_identity::{ReplicaName, Serial, SpiffeId, SpkiHash, TrustDomain, UnixTime};
use mintage_ledger::{Commits, Journal, Trees};
use mintage_mint::{Issuer, KeyPolicy};
use mintage_policy::{Grant, IssuancePolicy};
use mintage_revocation::{Query, Verdict};
use mintage_state::{State, View};
use tokio::sync::{Semaphore, watch};

use crate::{
    clock::ClockGuard, crls::Crls, denials::Denials, fleet::Fleet, health::Health, index::Index, inflight::InFlight,
    jwt_keys::JwtKeys, limits::APPLY_TIMEOUT, metrics::Metrics, propagation::Propagation, publisher::Publisher,
    seen::SeenAlarms, services::receipts::ReceiptWaits, services::records::RecordStreams, shards::Shards,
    status::Refusal, turns::Turns, upload::Uploaded, watching::Watching, witnessing::Standing,
};

/// Where randomness comes from; tests pass their own.
pub type Random = &'static dyn rustls::crypto::SecureRandom;

pub(crate) struct Desk {
    pub(crate) domain: TrustDomain,
    pub(crate) replica: ReplicaName,
    pub(crate) clock: ClockGuard,
    pub(crate) random_source: Random,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) commits: Commits,
    pub(crate) trees: Arc<Trees>,
    pub(crate) shards: Shards,
    /// Records of the ledger that a stored checkpoint covers.
    pub(crate) signed: watch::Receiver<u64>,
    pub(crate) state: Arc<State>,
    pub(crate) index: Index,
    pub(crate) issuer: Issuer,
    pub(crate) jwt_keys: JwtKeys,
    pub(crate) key_policy: KeyPolicy,
    pub(crate) current_policy: ArcSwap<IssuancePolicy>,
    /// As many batches are signed at once as there are cores, and [`crate::limits::SIGNING_AHEAD`]; the event loop stays
    /// free.
    pub(crate) signing: Semaphore,
    pub(crate) in_flight: InFlight,
    pub(crate) turns: Turns,
    /// What agents released is revoked one message after the other, so that the places in front of the lane stay with operators.
    pub(crate) releasing: Semaphore,
    pub(crate) denials: Denials,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) publisher: Publisher,
    pub(crate) watching: Watching,
    pub(crate) propagation: Propagation,
    pub(crate) crls: Crls,
    pub(crate) record_streams: RecordStreams,
    pub(crate) receipt_waits: ReceiptWaits,
    pub(crate) seen: SeenAlarms,
    /// The server certificate in use (DER); none before the first.
    pub(crate) own_certificate: ArcSwapOption<Vec<u8>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) health: Health,
    pub(crate) witnesses: Standing,
    /// How far the store has the ledger, when one is configured.
    pub(crate) uploaded: Option<Arc<Uploaded>>,
    /// Addresses that join tokens carry.
    pub(crate) advertise: Vec<String>,
}

impl Desk {
    /// The policy now.
    pub(crate) fn policy(&self) -> Arc<IssuancePolicy> {
        self.current_policy.load_full()
    }

    /// Octets from the CSPRNG.
    pub(crate) fn random<const N: usize>(&self) -> Result<[u8; N], Refusal> {
        let mut octets = [0; N];
        match self.random_source.fill(&mut octets) {
            Ok(()) => Ok(octets),
            Err(_) => Err(Refusal::unavailable(
                "random",
                "the system gives no randomness; nothing is issued",
            )),
        }
    }

    /// The time that signed revocation news may carry: now, or, while something is revoked that is not published yet, when what
    /// is published was all.
    pub(crate) fn news_time(&self) -> UnixTime {
        // The clock first: what is revoked after it was read may be missing.
        let now = self.clock.unguarded();
        self.publisher.whole_at(self.state.view().revoked().sequence(), now)
    }

    /// True while something is revoked that is not published yet.
    pub(crate) fn is_unpublished(&self) -> bool {
        self.state.view().revoked().sequence() > self.publisher.sequence()
    }

    /// This replica's own SPIFFE ID.
    pub(crate) fn own_id(&self) -> SpiffeId {
        SpiffeId::replica(&self.domain, &self.replica)
    }

    /// True when the revoked set says anything but Good of a certificate that is about to be made: its serial is drawn
    /// again, so that no verifier ever takes it for a revoked one.
    pub(crate) fn is_struck(&self, view: &View, grant: &Grant, serial: &Serial, key: &SpkiHash, now: UnixTime) -> bool {
        let query = Query {
            issuer: self.issuer.key_id(),
            serial,
            not_before: now,
            not_after: now.plus(grant.ttl().duration()),
            spiffe_id: Some(grant.spiffe_id()),
            spki_sha256: *key,
        };
        view.revoked().check(&query) != Verdict::Good
    }

    /// Waits until state and index have applied the record at `index`, so that what follows sees it.
    pub(crate) async fn wait_applied(&self, index: Option<u64>) -> Result<(), Refusal> {
        let Some(index) = index else { return Ok(()) };
        let both = async {
            self.state.wait_applied(index).await.ok()?;
            self.index.wait_applied(index).await
        };
        match tokio::time::timeout(APPLY_TIMEOUT, both).await {
            Ok(Some(())) => Ok(()),
            Ok(None) => Err(Refusal::unavailable("state", "the state follows the ledger no longer")),
            Err(_) => Err(Refusal::unavailable(
                "state-slow",
                "the record is durable but not applied yet; ask again",
            )),
        }
    }

    /// Brings the metrics that are read off other parts up to date.
    pub(crate) fn measure(&self) {
        self.metrics
            .sizes(self.fleet.len(), self.journal.size(), self.publisher.sequence());
        self.metrics.commits(self.commits.stats());
    }

    /// Seconds since `earlier` on the monotonic clock.
    pub(crate) fn seconds_since(&self, earlier: Duration) -> f64 {
        self.clock.clock().monotonic().saturating_sub(earlier).as_secs_f64()
    }
}
