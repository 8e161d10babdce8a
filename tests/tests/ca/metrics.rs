//! What CA and agent tell Prometheus: the names that dashboards and alerts are written against, labels out of closed sets,
//! and the ends of the CA's keys, with warnings in the log while there is time.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, fs, net::SocketAddr, path::Path, process::Command, time::Duration};

use mintage_agent::{Agent, AgentEvent, AgentHandle, Config as AgentConfig, Delivery};
use mintage_identity::EntryName;
use mintage_mint::limits::{INTERMEDIATE_LIFETIME, ROOT_LIFETIME};
use mintage_proto::v1::{CaStatusRequest, RevokeRequest, revocation_client::RevocationClient, revoke_request::Target};
use mintage_tests::kit::{
    bins::binary,
    ca::{CaProcess, TestCa, make_with, with_metrics},
    client::{admin, join, registry},
    clock::Shifted,
    face::get,
};

/// Names of the CA's metrics, as they are documented; the last label of each is one that dashboards group by.
const OF_CA: [&str; 19] = [
    "mintage_issuance_requests_total{profile=,result=,reason=}",
    "mintage_issuance_duration_seconds_bucket{le=}",
    "mintage_attestations_total{attestor=,result=,reason=}",
    "mintage_svids_live{}",
    "mintage_ca_expiry_timestamp_seconds{ca=}",
    "mintage_crl_end_timestamp_seconds{ca=}",
    "mintage_crl_entries{ca=}",
    "mintage_crls_signed_total{}",
    "mintage_revocations_total{cause=}",
    "mintage_revocation_set_version{}",
    "mintage_revocation_propagation_seconds_bucket{le=}",
    "mintage_verifier_checks_total{result=}",
    "mintage_log_tree_size{}",
    "mintage_log_unwitnessed_seconds{}",
    "mintage_log_unwitnessed{}",
    "mintage_upload_pending_segments{}",
    "mintage_upload_behind_seconds{}",
    "mintage_agents_connected{}",
    "mintage_ready{}",
];

/// Names of the agent's; failures have no line before the first, and a test of its own there.
const OF_AGENT: [&str; 6] = [
    "mintage_agent_rotation_lag_seconds{}",
    "mintage_agent_svid_expiry_timestamp_seconds{}",
    "mintage_agent_revocation_set_version{}",
    "mintage_verifier_checks_total{result=}",
    "mintage_verifier_filter_age_seconds{}",
    "mintage_verifier_false_positive_total{}",
];

/// Every label there may be.
const LABELS: [&str; 8] = ["profile", "result", "reason", "attestor", "ca", "cause", "stage", "le"];

/// One sample.
#[derive(Debug)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Sample {
    /// The name and the labels, without their values.
    fn shape(&self) -> String {
        let labels: Vec<String> = self.labels.iter().map(|(label, _)| format!("{label}=")).collect();
        format!("{}{{{}}}", self.name, labels.join(","))
    }

    fn label(&self, label: &str) -> &str {
        let found = self.labels.iter().find(|(name, _)| name == label);
        found.map_or("", |(_, value)| value)
    }
}

async fn samples(face: SocketAddr) -> Vec<Sample> {
    let answer = get(face, "/metrics").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("application/openmetrics-text"), "{head}");
    let lines = body.lines().filter(|line| line.starts_with("mintage_"));
    let samples: Vec<Sample> = lines.map(sample).collect();
    assert!(samples.len() > 20, "{body}");
    samples
}

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').unwrap();
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let labels = labels
        .trim_end_matches('}')
        .split(',')
        .filter(|label| !label.is_empty());
    let labels = labels.map(|label| {
        let (name, value) = label.split_once('=').unwrap();
        (name.to_owned(), value.trim_matches('"').to_owned())
    });
    Sample {
        name: name.to_owned(),
        labels: labels.collect(),
        value: value.parse().unwrap(),
    }
}

/// The value of the one sample with this name and label; 0 where there is none.
fn value(samples: &[Sample], name: &str, label: &str, word: &str) -> f64 {
    let mut found = samples
        .iter()
        .filter(|sample| sample.name == name && sample.label(label) == word);
    let value = found.next().map_or(0.0, |sample| sample.value);
    assert!(found.next().is_none(), "{name} {label}={word} twice");
    value
}

/// A real agent in this process that delivers `web`.
async fn delivering(ca: &TestCa) -> AgentHandle {
    let delivery = Delivery::new(EntryName::parse("web").unwrap(), ca.beside("web")).unwrap();
    let config = AgentConfig::new(ca.beside("agent"))
        .with_socket(None)
        .with_metrics("127.0.0.1:0".parse().unwrap())
        .and_then(|config| config.with_deliveries(vec![delivery]));
    let agent = Agent::start(
        config.unwrap(),
        Some(ca.token("n1").await),
        mintage_agent::Deps::system(),
    );
    let agent = agent.unwrap();
    until(&mut agent.events(), |event| {
        matches!(event, AgentEvent::Delivered { .. })
    })
    .await;
    agent
}

async fn until(events: &mut tokio::sync::broadcast::Receiver<AgentEvent>, mut wanted: impl FnMut(&AgentEvent) -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(60), async {
        while !wanted(&events.recv().await.unwrap()) {}
    });
    waited.await.expect("the event");
}

async fn revoke(ca: &TestCa, target: Target, reason: &str) {
    let request = RevokeRequest {
        target: Some(target),
        reason: reason.to_owned(),
        ..RevokeRequest::default()
    };
    let channel = admin(ca.ca.admin_socket()).await.unwrap();
    RevocationClient::new(channel).revoke(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_names_are_told_with_closed_labels() {
    let ca = TestCa::start_with(with_metrics).await;
    ca.entry("web", "/web").await;
    let agent = delivering(&ca).await;
    let mut events = agent.events();
    revoke(
        &ca,
        Target::SpiffeId("spiffe://dev.test/web".to_owned()),
        "key-compromise",
    )
    .await;
    until(&mut events, |event| {
        matches!(event, AgentEvent::RevocationApplied { .. })
    })
    .await;
    // A used token is a refusal that is counted; the agent that is banned then is one the verifier refuses.
    let token = ca.token("n2").await;
    let other = join(&token).await.unwrap();
    assert!(join(&token).await.is_err());
    revoke(&ca, Target::Agent("n2".to_owned()), "privilege-withdrawn").await;
    let refused = mintage_tests::kit::stream::Stream::open(&other, &ca.ca.address().to_string()).await;
    assert!(refused.is_err());

    let faces = [ca.ca.metrics_address().unwrap(), agent.metrics_address().unwrap()];
    let [of_ca, of_agent] = [samples(faces[0]).await, samples(faces[1]).await];
    for (samples, names) in [(&of_ca, &OF_CA[..]), (&of_agent, &OF_AGENT[..])] {
        let shapes: BTreeSet<String> = samples.iter().map(Sample::shape).collect();
        for name in names {
            assert!(shapes.contains(*name), "{name} is not among {shapes:#?}");
        }
    }
    for (name, label, word, least) in [
        ("mintage_revocations_total", "cause", "key-compromise", 1.0),
        ("mintage_revocations_total", "cause", "privilege-withdrawn", 1.0),
        ("mintage_verifier_checks_total", "result", "ok", 1.0),
        ("mintage_verifier_checks_total", "result", "revoked", 1.0),
        ("mintage_revocation_propagation_seconds_count", "", "", 1.0),
    ] {
        assert!(
            value(&of_ca, name, label, word) >= least,
            "{name} {label}={word}: {of_ca:#?}"
        );
    }
    // The CA itself; before the first news about revocations that is told apart.
    let accepted = ["ok", "tolerated"].map(|word| value(&of_agent, "mintage_verifier_checks_total", "result", word));
    assert!(accepted[0] + accepted[1] >= 1.0, "{of_agent:#?}");
    let age = value(&of_agent, "mintage_verifier_filter_age_seconds", "", "");
    assert!((0.0..60.0).contains(&age), "{age}");
    for sample in of_ca.iter().chain(&of_agent) {
        for (label, word) in &sample.labels {
            assert!(LABELS.contains(&label.as_str()), "label {label} in {sample:?}");
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.+".contains(c);
            let is_bucket = label == "le";
            assert!(
                is_bucket || word.chars().all(plain) && word.len() < 30 && !word.contains("spiffe"),
                "{word:?} in {sample:?} is no word of a closed set"
            );
        }
    }
    agent.shutdown(Duration::from_secs(10)).await;
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_every_key_is_a_gauge_from_the_start() {
    let ca = TestCa::start_with(with_metrics).await;
    let told = samples(ca.ca.metrics_address().unwrap()).await;
    let mut registry = registry(ca.ca.admin_socket()).await;
    let status = registry.ca_status(CaStatusRequest {}).await.unwrap().into_inner();
    for (role, word) in [
        ("root", "root"),
        ("intermediate", "issuer"),
        ("revocation", "revocation"),
        ("replica", "replica"),
    ] {
        let key = status.keys.iter().find(|key| key.role == role).expect(role);
        let gauge = value(&told, "mintage_ca_expiry_timestamp_seconds", "ca", word);
        assert!(
            gauge > 0.0 && gauge as i64 == key.not_after_ms / 1000,
            "{word}: {gauge} {key:?}"
        );
    }
    ca.stop().await;
}

/// Serves an authority that was made so long ago, and returns the keys that its log warns of and those that it says have
/// ended.
fn warned(age: Duration, more: &str) -> [BTreeSet<String>; 2] {
    let folder = tempfile::tempdir().unwrap();
    let (dir, file) = (folder.path().join("ca"), folder.path().join("ca.toml"));
    make_with(&dir, &Shifted::behind(age).deps());
    write(&file, &dir, more);
    let mut command = Command::new(binary("mintage-ca"));
    command.arg("serve").arg("--config").arg(&file);
    let mut ca = CaProcess::launch(&dir, command);
    // One look tells of all; the line about the revocation key is the last of it.
    ca.wait_for("a warning of the revocation key", |log| {
        log.contains("\"ca\":\"revocation\"")
    });
    let log = ca.log();
    assert_eq!(ca.stop(), Some(0));
    ["a key of the CA ends soon", "a key of the CA has ended"].map(|message| {
        let lines = log.lines().filter(|line| line.contains(message));
        let keys = lines.map(|line| {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(event["todo"].as_str().is_some_and(|todo| !todo.is_empty()), "{line}");
            event["ca"].as_str().unwrap().to_owned()
        });
        keys.collect()
    })
}

fn write(file: &Path, dir: &Path, more: &str) {
    let dir = dir.display().to_string();
    fs::write(file, format!("data_dir = {dir:?}\nlisten = \"127.0.0.1:0\"\n{more}")).unwrap();
}

#[test]
fn ends_that_come_near_are_warned_of_in_the_log() {
    const DAY: Duration = Duration::from_secs(86_400);
    let set = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(
        warned(INTERMEDIATE_LIFETIME - 10 * DAY, ""),
        [set(&["issuer", "revocation"]), set(&[])]
    );
    // With the root as issuer the CA outlives its first revocation key.
    assert_eq!(
        warned(ROOT_LIFETIME - 100 * DAY, "[ca]\nchain = \"root\"\n"),
        [set(&["root"]), set(&["revocation"])]
    );
}
