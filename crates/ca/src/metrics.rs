//! Prometheus metrics of the CA. Labels come from closed sets; a SPIFFE ID or a serial is never one.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use mintage_ledger::CommitStats;
use mintage_verifier::Counters;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Labels of an issuance.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Issuance {
    profile: &'static str,
    result: &'static str,
    reason: &'static str,
}

/// How a call was answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    result: &'static str,
    reason: &'static str,
}

/// Labels of an attestation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Attestation {
    attestor: &'static str,
    result: &'static str,
    reason: &'static str,
}

/// One label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// Why something was revoked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cause {
    cause: &'static str,
}

/// How a check ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

/// Which key of the CA.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ca {
    ca: &'static str,
}

/// Which witness, by the name of its key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Witness {
    witness: String,
}

/// A request for a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    path: &'static str,
    status: &'static str,
}

/// Seconds, from a cached answer to a stuck disk.
const SECONDS: [f64; 12] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// Every metric; cheap to clone parts of, shared by reference.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    issuances: Family<Issuance, Counter>,
    issuance_duration: Histogram,
    attestations: Family<Attestation, Counter>,
    alarms: Family<Reason, Counter>,
    refused_calls: Family<Reason, Counter>,
    refused_connections: Family<Reason, Counter>,
    receipts: Family<Answer, Counter>,
    seen: Family<Outcome, Counter>,
    seen_unknown: Counter,
    audit_requests: Family<Asked, Counter>,
    public_requests: Family<Asked, Counter>,
    revocations: Family<Cause, Counter>,
    verifier_checks: Family<Outcome, Counter<u64, AtomicU64>>,
    revocation_propagation: Histogram,
    ca_expiry: Family<Ca, Gauge>,
    crl_end: Family<Ca, Gauge>,
    crl_entries: Family<Ca, Gauge>,
    crls_signed: Counter,
    svids_live: Gauge,
    agents_connected: Gauge,
    log_tree_size: Gauge<i64, std::sync::atomic::AtomicI64>,
    revocation_sequence: Gauge,
    log_groups: Counter<u64, AtomicU64>,
    log_records: Counter<u64, AtomicU64>,
    deny_suppressed: Counter<u64, AtomicU64>,
    streams_cut: Counter,
    watches_behind: Counter,
    accepting: Gauge,
    ready: Gauge,
    witness_cosigned_size: Family<Witness, Gauge>,
    log_unwitnessed_seconds: Gauge<f64, AtomicU64>,
    log_unwitnessed: Gauge,
    upload_objects: Family<Outcome, Counter>,
    upload_pending_segments: Gauge,
    upload_behind_seconds: Gauge<f64, AtomicU64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("mintage");
        let mut new = Self {
            registry: Registry::default(),
            issuances: Family::default(),
            issuance_duration: Histogram::new(SECONDS),
            attestations: Family::default(),
            alarms: Family::default(),
            refused_calls: Family::default(),
            refused_connections: Family::default(),
            receipts: Family::default(),
            seen: Family::default(),
            seen_unknown: Counter::default(),
            audit_requests: Family::default(),
            public_requests: Family::default(),
            revocations: Family::default(),
            verifier_checks: Family::default(),
            revocation_propagation: Histogram::new(SECONDS),
            ca_expiry: Family::default(),
            crl_end: Family::default(),
            crl_entries: Family::default(),
            crls_signed: Counter::default(),
            svids_live: Gauge::default(),
            agents_connected: Gauge::default(),
            log_tree_size: Gauge::default(),
            revocation_sequence: Gauge::default(),
            log_groups: Counter::default(),
            log_records: Counter::default(),
            deny_suppressed: Counter::default(),
            streams_cut: Counter::default(),
            watches_behind: Counter::default(),
            accepting: Gauge::default(),
            ready: Gauge::default(),
            witness_cosigned_size: Family::default(),
            log_unwitnessed_seconds: Gauge::default(),
            log_unwitnessed: Gauge::default(),
            upload_objects: Family::default(),
            upload_pending_segments: Gauge::default(),
            upload_behind_seconds: Gauge::default(),
        };
        new.register_issuing(&mut registry);
        new.register_state(&mut registry);
        new.register_crls(&mut registry);
        new.register_witnesses(&mut registry);
        new.register_seen(&mut registry);
        new.register_upload(&mut registry);
        new.registry = registry;
        new.accepting.set(1);
        new
    }

    fn register_issuing(&self, r: &mut Registry) {
        r.register(
            "issuance_requests",
            "Asks for a certificate by outcome",
            self.issuances.clone(),
        );
        r.register(
            "issuance_duration_seconds",
            "From a Mint message to its reply",
            self.issuance_duration.clone(),
        );
        r.register(
            "attestations",
            "Node attestations by outcome",
            self.attestations.clone(),
        );
        r.register(
            "alarms",
            "Refusals of somebody who used what may be another's",
            self.alarms.clone(),
        );
        r.register(
            "receipts",
            "Receipts that agents asked proof of, by outcome",
            self.receipts.clone(),
        );
        r.register(
            "refused_calls",
            "Calls refused before a handler ran",
            self.refused_calls.clone(),
        );
        r.register(
            "refused_connections",
            "Connections that were not served",
            self.refused_connections.clone(),
        );
        r.register(
            "audit_requests",
            "Requests of auditors by kind of file and status",
            self.audit_requests.clone(),
        );
        r.register(
            "public_requests",
            "Requests for public files by kind of file and status",
            self.public_requests.clone(),
        );
        r.register(
            "deny_records_suppressed",
            "Refusals counted instead of recorded",
            self.deny_suppressed.clone(),
        );
        r.register(
            "streams_cut",
            "Streams ended because their reader did not keep up",
            self.streams_cut.clone(),
        );
        r.register(
            "revocation_watches_behind",
            "Readers of revocation news that fell behind and were told to fetch the snapshot",
            self.watches_behind.clone(),
        );
        r.register(
            "accepting",
            "0 while the acceptor rests for lack of file descriptors",
            self.accepting.clone(),
        );
    }

    fn register_state(&self, r: &mut Registry) {
        r.register("revocations", "Revocations by cause", self.revocations.clone());
        let help = "From the durable record to an agent's acknowledgement";
        r.register(
            "revocation_propagation_seconds",
            help,
            self.revocation_propagation.clone(),
        );
        r.register(
            "ca_expiry_timestamp_seconds",
            "When a key of the CA ends",
            self.ca_expiry.clone(),
        );
        r.register(
            "verifier_checks",
            "Callers' certificates by the verifier's answer",
            self.verifier_checks.clone(),
        );
        r.register(
            "svids_live",
            "Certificates issued and not expired",
            self.svids_live.clone(),
        );
        r.register(
            "agents_connected",
            "Agents with an open stream",
            self.agents_connected.clone(),
        );
        r.register("log_tree_size", "Records in the ledger", self.log_tree_size.clone());
        r.register(
            "log_groups",
            "Groups made durable, one flush each",
            self.log_groups.clone(),
        );
        r.register("log_records", "Records made durable", self.log_records.clone());
        r.register(
            "revocation_set_version",
            "Sequence of the revocation set",
            self.revocation_sequence.clone(),
        );
        r.register(
            "ready",
            "1 while the CA can issue and takes new callers",
            self.ready.clone(),
        );
    }

    fn register_crls(&self, r: &mut Registry) {
        r.register(
            "crl_end_timestamp_seconds",
            "When the current list of revoked certificates of a CA key ends",
            self.crl_end.clone(),
        );
        r.register(
            "crl_entries",
            "Certificates in the current list of a CA key",
            self.crl_entries.clone(),
        );
        r.register("crls_signed", "Lists signed since the start", self.crls_signed.clone());
    }

    fn register_witnesses(&self, r: &mut Registry) {
        r.register(
            "witness_cosigned_size",
            "Records that a witness has cosigned since the start",
            self.witness_cosigned_size.clone(),
        );
        r.register(
            "log_unwitnessed_seconds",
            "How long something of the ledger has been signed and cosigned by no witness",
            self.log_unwitnessed_seconds.clone(),
        );
        r.register(
            "log_unwitnessed",
            "1 while that is longer than ledger.max_unwitnessed",
            self.log_unwitnessed.clone(),
        );
    }

    fn register_seen(&self, r: &mut Registry) {
        r.register(
            "seen_certificates",
            "Certificates that agents saw in use, by what the ledger says of them",
            self.seen.clone(),
        );
        r.register(
            "seen_unknown",
            "Certificates that agents saw in use and the ledger does not hold",
            self.seen_unknown.clone(),
        );
    }

    fn register_upload(&self, r: &mut Registry) {
        r.register(
            "upload_objects",
            "Objects of the ledger in the object store, by what became of them",
            self.upload_objects.clone(),
        );
        r.register(
            "upload_pending_segments",
            "Sealed segments that are not in the object store",
            self.upload_pending_segments.clone(),
        );
        r.register(
            "upload_behind_seconds",
            "How long a sealed segment has waited for the object store",
            self.upload_behind_seconds.clone(),
        );
    }

    /// The exposition text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    pub(crate) fn issued(&self, profile: &'static str) {
        self.issuances
            .get_or_create(&Issuance {
                profile,
                result: "ok",
                reason: "",
            })
            .inc();
    }

    pub(crate) fn denied(&self, reason: &'static str) {
        self.issuances
            .get_or_create(&Issuance {
                profile: "",
                result: "refused",
                reason,
            })
            .inc();
    }

    /// So many certificates that were seen in use had this result.
    pub(crate) fn seen(&self, result: &'static str, count: u64) {
        self.seen.get_or_create(&Outcome { result }).inc_by(count);
    }

    /// So many of them are not in the ledger.
    pub(crate) fn seen_unknown(&self, count: u64) {
        self.seen_unknown.inc_by(count);
    }

    /// How many were not, since the start.
    pub(crate) fn seen_unknown_count(&self) -> u64 {
        self.seen_unknown.get()
    }

    /// A receipt was proven, or refused for this reason.
    pub(crate) fn receipt(&self, reason: &'static str) {
        let result = if reason.is_empty() { "ok" } else { "refused" };
        self.receipts.get_or_create(&Answer { result, reason }).inc();
    }

    pub(crate) fn issuance_took(&self, seconds: f64) {
        self.issuance_duration.observe(seconds);
    }

    pub(crate) fn attested(&self, attestor: &'static str, outcome: Result<(), &'static str>) {
        let (result, reason) = match outcome {
            Ok(()) => ("ok", ""),
            Err(reason) => ("refused", reason),
        };
        self.attestations
            .get_or_create(&Attestation {
                attestor,
                result,
                reason,
            })
            .inc();
    }

    /// A refusal that somebody should be woken for.
    pub(crate) fn alarm(&self, reason: &'static str) {
        self.alarms.get_or_create(&Reason { reason }).inc();
    }

    pub(crate) fn refused_call(&self, reason: &'static str) {
        self.refused_calls.get_or_create(&Reason { reason }).inc();
    }

    pub(crate) fn refused_connection(&self, reason: &'static str) {
        self.refused_connections.get_or_create(&Reason { reason }).inc();
    }

    /// A request to the auditors' listener was answered.
    pub(crate) fn audited(&self, path: &'static str, status: &'static str) {
        self.audit_requests.get_or_create(&Asked { path, status }).inc();
    }

    /// A request for a public file was answered.
    pub(crate) fn public_request(&self, path: &'static str, status: &'static str) {
        self.public_requests.get_or_create(&Asked { path, status }).inc();
    }

    pub(crate) fn revoked(&self, cause: &'static str) {
        self.revocations.get_or_create(&Cause { cause }).inc();
    }

    /// Takes over what the verifier of callers counted, which only grows.
    pub(crate) fn verified(&self, counters: &Counters) {
        for (result, count) in counters.by_result() {
            let counter = self.verifier_checks.get_or_create(&Outcome { result });
            counter.inner().store(count, Ordering::Relaxed);
        }
    }

    pub(crate) fn propagated(&self, seconds: f64) {
        self.revocation_propagation.observe(seconds);
    }

    pub(crate) fn ca_expires(&self, ca: &'static str, seconds: i64) {
        self.ca_expiry.get_or_create(&Ca { ca }).set(seconds);
    }

    /// This list is current now.
    pub(crate) fn crl(&self, ca: &'static str, end: i64, entries: usize) {
        self.crl_end.get_or_create(&Ca { ca }).set(end);
        let entries = i64::try_from(entries).unwrap_or(i64::MAX);
        self.crl_entries.get_or_create(&Ca { ca }).set(entries);
    }

    pub(crate) fn crl_signed(&self) {
        self.crls_signed.inc();
    }

    pub(crate) fn suppressed_deny(&self) {
        self.deny_suppressed.inc();
    }

    pub(crate) fn stream_cut(&self) {
        self.streams_cut.inc();
    }

    /// A reader of revocation news fell behind.
    pub(crate) fn watch_behind(&self) {
        self.watches_behind.inc();
    }

    pub(crate) fn accepting(&self, yes: bool) {
        self.accepting.set(i64::from(yes));
    }

    pub(crate) fn ready(&self, yes: bool) {
        self.ready.set(i64::from(yes));
    }

    /// Takes over the committer's own counts, which only grow.
    pub(crate) fn commits(&self, stats: CommitStats) {
        self.log_groups.inner().store(stats.groups, Ordering::Relaxed);
        self.log_records.inner().store(stats.records, Ordering::Relaxed);
    }

    /// A witness, which is one of the configured few, has cosigned this size.
    pub(crate) fn cosigned(&self, witness: &str, size: u64) {
        let label = Witness {
            witness: witness.to_owned(),
        };
        let gauge = self.witness_cosigned_size.get_or_create(&label);
        gauge.set(i64::try_from(size).unwrap_or(i64::MAX));
    }

    pub(crate) fn unwitnessed(&self, age: Duration, alarm: bool) {
        self.log_unwitnessed_seconds.set(age.as_secs_f64());
        self.log_unwitnessed.set(i64::from(alarm));
    }

    /// An object was put into the store, or found there, or not.
    #[cfg(feature = "upload")]
    pub(crate) fn uploaded(&self, result: &'static str) {
        self.upload_objects.get_or_create(&Outcome { result }).inc();
    }

    /// So many sealed segments wait for the store, the first of them for so long.
    #[cfg(feature = "upload")]
    pub(crate) fn upload_behind(&self, segments: u64, age: Duration) {
        let segments = i64::try_from(segments).unwrap_or(i64::MAX);
        self.upload_pending_segments.set(segments);
        self.upload_behind_seconds.set(age.as_secs_f64());
    }

    pub(crate) fn live(&self, certificates: u64) {
        self.svids_live.set(i64::try_from(certificates).unwrap_or(i64::MAX));
    }

    pub(crate) fn sizes(&self, connected: usize, tree: u64, sequence: u64) {
        self.agents_connected.set(i64::try_from(connected).unwrap_or(i64::MAX));
        self.log_tree_size.set(i64::try_from(tree).unwrap_or(i64::MAX));
        self.revocation_sequence
            .set(i64::try_from(sequence).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_the_prefix_and_labels_are_closed_words() {
        let metrics = Metrics::new();
        metrics.issued("workload");
        metrics.denied("entry-unknown");
        metrics.refused_call("role");
        metrics.ca_expires("root", 5);
        metrics.revoked("superseded");
        let text = metrics.text();
        for line in [
            "mintage_issuance_requests_total{profile=\"workload\",result=\"ok\",reason=\"\"} 1",
            "mintage_refused_calls_total{reason=\"role\"} 1",
            "mintage_ca_expiry_timestamp_seconds{ca=\"root\"} 5",
            "mintage_revocations_total{cause=\"superseded\"} 1",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        assert!(!text.contains("spiffe://"));
    }
}
