//! Counters and gauges for Prometheus, in OpenMetrics text. Times are Unix seconds; no label carries an identity, an
//! entry or a serial.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

use mintage_verifier::TrustStore;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use tonic::Code;

/// Where an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Stage {
    stage: &'static str,
}

/// How something ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

/// The gRPC code of a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refusal {
    code: String,
}

type Seconds = Gauge<f64, AtomicU64>;

/// Everything this agent counts.
pub(crate) struct Metrics {
    registry: Registry,
    failures: Family<Stage, Counter>,
    renewals: Family<Outcome, Counter>,
    connections: Counter,
    workload: Family<Outcome, Counter>,
    refusals: Family<Refusal, Counter>,
    seen: Family<Outcome, Counter>,
    lookups: Family<Outcome, Counter>,
    sds: Family<Outcome, Counter>,
    verifier_checks: Family<Outcome, Counter<u64, AtomicU64>>,
    false_positives: Counter<u64, AtomicU64>,
    /// 1 while the stream to the CA is open.
    pub(crate) connected: Gauge<i64, AtomicI64>,
    /// How far past its point of renewal the latest identity is.
    pub(crate) lag: Arc<Seconds>,
    /// The first end of any certificate held for a workload; 0 for none.
    pub(crate) svid_expiry: Gauge<i64, AtomicI64>,
    /// The end of the agent's own certificate; 0 for none.
    pub(crate) own_expiry: Gauge<i64, AtomicI64>,
    /// Age of the revocation filter's last heartbeat; -1 without a filter.
    pub(crate) filter_age: Arc<Seconds>,
    /// Sequence of the revocation set in force.
    pub(crate) filter_sequence: Gauge<i64, AtomicI64>,
    /// Deliveries with a valid certificate in place.
    pub(crate) deliveries_serving: Gauge<i64, AtomicI64>,
    /// Deliveries configured.
    pub(crate) deliveries: Gauge<i64, AtomicI64>,
    /// Identities held in memory for socket callers.
    pub(crate) workloads: Gauge<i64, AtomicI64>,
    /// Entries the CA offers to this agent.
    pub(crate) entries: Gauge<i64, AtomicI64>,
    /// Open watches on the socket.
    pub(crate) watches: Gauge<i64, AtomicI64>,
    /// Lists of revoked certificates that callers of the socket do not get.
    pub(crate) crls_left_out: Gauge<i64, AtomicI64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let metrics = Self {
            registry: Registry::with_prefix("mintage"),
            failures: Family::default(),
            renewals: Family::default(),
            connections: Counter::default(),
            workload: Family::default(),
            refusals: Family::default(),
            seen: Family::default(),
            lookups: Family::default(),
            sds: Family::default(),
            verifier_checks: Family::default(),
            false_positives: Counter::default(),
            connected: Gauge::default(),
            lag: Arc::new(Gauge::default()),
            svid_expiry: Gauge::default(),
            own_expiry: Gauge::default(),
            filter_age: Arc::new(Gauge::default()),
            filter_sequence: Gauge::default(),
            deliveries_serving: Gauge::default(),
            deliveries: Gauge::default(),
            workloads: Gauge::default(),
            entries: Gauge::default(),
            watches: Gauge::default(),
            crls_left_out: Gauge::default(),
        };
        metrics.registered()
    }

    fn registered(mut self) -> Self {
        self.register_verifier();
        let r = self.registry.sub_registry_with_prefix("agent");
        let timestamp = || Unit::Other("timestamp_seconds".to_owned());
        r.register("rotation_failures", "Failed attempts by stage", self.failures.clone());
        r.register("renewals", "Certificates received by result", self.renewals.clone());
        r.register(
            "connections",
            "Streams to the CA that were opened",
            self.connections.clone(),
        );
        r.register("workload_requests", "Socket calls by result", self.workload.clone());
        let help = "Calls on the socket that were refused, by gRPC code";
        r.register("socket_refusals", help, self.refusals.clone());
        let help = "Certificates that were reported as seen in use, by result";
        r.register("seen_certificates", help, self.seen.clone());
        let help = "Certificates that local programs asked for, by answer";
        r.register("lookups", help, self.lookups.clone());
        let help = "Responses sent and requests of note on SDS streams, by result";
        r.register("sds_messages", help, self.sds.clone());
        r.register(
            "connected",
            "1 while the stream to the CA is open",
            self.connected.clone(),
        );
        let help = "How far past its point of renewal the latest identity is";
        r.register_with_unit("rotation_lag", help, Unit::Seconds, Gauge::clone(&self.lag));
        let help = "First end of any workload certificate held, 0 for none";
        r.register_with_unit("svid_expiry", help, timestamp(), self.svid_expiry.clone());
        let help = "End of the agent's own certificate, 0 for none";
        r.register_with_unit("identity_expiry", help, timestamp(), self.own_expiry.clone());
        let help = "Sequence of the revocation set in force";
        r.register("revocation_set_version", help, self.filter_sequence.clone());
        r.register(
            "deliveries_serving",
            "Deliveries with a valid certificate",
            self.deliveries_serving.clone(),
        );
        r.register("deliveries", "Deliveries configured", self.deliveries.clone());
        r.register(
            "workload_identities",
            "Identities held in memory",
            self.workloads.clone(),
        );
        r.register("entries", "Entries the CA offers to this agent", self.entries.clone());
        r.register("workload_watches", "Open watches on the socket", self.watches.clone());
        let help = "Lists of revoked certificates that are too long for callers of the socket";
        r.register("workload_crls_left_out", help, self.crls_left_out.clone());
        self
    }

    /// What verifiers answer is named alike wherever one runs.
    fn register_verifier(&mut self) {
        let r = self.registry.sub_registry_with_prefix("verifier");
        let help = "Certificates by the answer of this process's verifiers";
        r.register("checks", help, self.verifier_checks.clone());
        let help = "Hits of the revocation filter that were no revocation";
        r.register("false_positive", help, self.false_positives.clone());
        let help = "Age of the revocation filter's last heartbeat, -1 without a filter";
        r.register_with_unit("filter_age", help, Unit::Seconds, Gauge::clone(&self.filter_age));
    }

    /// Takes over what the verifiers and the filter counted, which only grows.
    pub(crate) fn verified(&self, stores: &[&Arc<TrustStore>], false_positives: u64) {
        let mut sums: BTreeMap<&'static str, u64> = BTreeMap::new();
        for (result, count) in stores.iter().flat_map(|store| store.counters().by_result()) {
            *sums.entry(result).or_default() += count;
        }
        for (result, count) in sums {
            let counter = self.verifier_checks.get_or_create(&Outcome { result });
            counter.inner().store(count, Ordering::Relaxed);
        }
        self.false_positives.inner().store(false_positives, Ordering::Relaxed);
    }

    /// An attempt failed at this stage.
    pub(crate) fn failure(&self, stage: &'static str) {
        self.failures.get_or_create(&Stage { stage }).inc();
    }

    /// A certificate came, or was refused.
    pub(crate) fn renewal(&self, result: &'static str) {
        self.renewals.get_or_create(&Outcome { result }).inc();
    }

    /// A stream to the CA was opened.
    pub(crate) fn stream_opened(&self) {
        self.connections.inc();
    }

    /// A call on the socket was answered.
    pub(crate) fn workload_request(&self, result: &'static str) {
        self.workload.get_or_create(&Outcome { result }).inc();
    }

    /// A call on the socket was refused, whoever refused it.
    pub(crate) fn refused(&self, code: Code) {
        let code = format!("{code:?}");
        self.refusals.get_or_create(&Refusal { code }).inc();
    }

    /// A certificate was reported as seen in use.
    pub(crate) fn seen(&self, result: &'static str) {
        self.seen.get_or_create(&Outcome { result }).inc();
    }

    /// A local program asked for a certificate.
    pub(crate) fn lookup(&self, answer: &'static str) {
        self.lookups.get_or_create(&Outcome { result: answer }).inc();
    }

    /// A response was sent on an SDS stream, or a request refused one, came too late or asked in vain.
    pub(crate) fn sds(&self, result: &'static str) {
        self.sds.get_or_create(&Outcome { result }).inc();
    }

    /// All of it as OpenMetrics text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::with_capacity(8 * 1024);
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use mintage_identity::TrustDomain;
    use mintage_verifier::Trust;

    use super::*;

    #[test]
    fn names_are_the_documented_ones() {
        let metrics = Metrics::new();
        metrics.failure("deliver");
        metrics.renewal("ok");
        metrics.sds("nack");
        metrics.svid_expiry.set(1_800_000_000);
        let domain = TrustDomain::parse("dev.test").unwrap();
        let store = TrustStore::new(Trust::builder(domain).build());
        metrics.verified(&[&store, &store], 3);
        let text = metrics.text();
        for line in [
            "mintage_agent_rotation_failures_total{stage=\"deliver\"} 1",
            "mintage_agent_renewals_total{result=\"ok\"} 1",
            "mintage_agent_sds_messages_total{result=\"nack\"} 1",
            "mintage_agent_svid_expiry_timestamp_seconds 1800000000",
            "mintage_agent_rotation_lag_seconds 0.0",
            "mintage_agent_connected 0",
            "mintage_agent_workload_crls_left_out 0",
            "mintage_verifier_filter_age_seconds 0.0",
            "mintage_verifier_false_positive_total 3",
            "mintage_verifier_checks_total{result=\"revocation_stale\"} 0",
            "mintage_verifier_checks_total{result=\"ok\"} 0",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
