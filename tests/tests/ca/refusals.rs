//! What a refusal leaves behind: the record with its own request id, the metric, the log line, and nothing used up.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::SocketAddr;

use mintage_attest::JoinToken;
use mintage_ca::{Ca, Deps};
use mintage_ledger::wire::{AgentActor, Record, actor::Who, record::Body};
use mintage_proto::v1::{
    AttestRequest, ListAgentsRequest, ListTokensRequest, RejoinRequest, RevokeRequest, node_client::NodeClient,
    registry_client::RegistryClient, revocation_client::RevocationClient, revoke_request::Target,
};
use mintage_svid::LeafInfo;
use mintage_tests::kit::{
    ca::{CaProcess, config, entry, entry_of, make, token},
    client::{Joined, admin, anonymous, join, join_with, key_and_csr, random, registry},
    face::get,
    inventory::{denials, record},
    stream::{Stream, ask, ask_with, code},
};
use tempfile::TempDir;
use tonic::{Code, Status};

/// A CA that shows its metrics.
async fn start() -> (TempDir, Ca) {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ca");
    make(&dir);
    let face = SocketAddr::from(([127, 0, 0, 1], 0));
    let ca = Ca::start(config(&dir).with_metrics(Some(face)), Deps::system())
        .await
        .unwrap();
    (folder, ca)
}

async fn open(ca: &Ca, agent: &Joined) -> Stream {
    Stream::open(agent, &ca.address().to_string()).await.unwrap()
}

/// Asserts that the metrics have each of these lines.
async fn counted(ca: &Ca, lines: &[&str]) {
    let text = get(ca.metrics_address().unwrap(), "/metrics").await;
    for line in lines {
        assert!(text.lines().any(|told| told == *line), "{line} is missing in\n{text}");
    }
}

/// The agent that an authenticated caller's record names.
fn agent_of(record: &Record) -> AgentActor {
    match record.actor.clone().and_then(|actor| actor.who) {
        Some(Who::Agent(agent)) => agent,
        other => panic!("{other:?} is no agent"),
    }
}

fn spki_of(csr: &[u8]) -> Vec<u8> {
    use x509_parser::prelude::{FromDer, X509CertificationRequest};
    let (_, csr) = X509CertificationRequest::from_der(csr).unwrap();
    csr.certification_request_info.subject_pki.raw.to_vec()
}

/// Blocks the key of a signing request.
async fn block(socket: &std::path::Path, csr: &[u8]) {
    let hash = ring::digest::digest(&ring::digest::SHA256, &spki_of(csr));
    let mut revocation = RevocationClient::new(admin(socket).await.unwrap());
    let request = RevokeRequest {
        target: Some(Target::Key(hex::encode(hash.as_ref()))),
        reason: "key-compromise".to_owned(),
        ..RevokeRequest::default()
    };
    revocation.revoke(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_carries_the_id_of_its_ask_and_a_denial_says_who_wanted_what() {
    let (_folder, ca) = start().await;
    let socket = ca.admin_socket();
    entry(socket, "web", "/web").await;
    entry_of(socket, "db", "n2").await;
    let agent = join(&token(socket, "n1").await).await.unwrap();
    let mut stream = open(&ca, &agent).await;
    let (refused, unreadable, granted) = (ask("db"), ask("NO SUCH NAME"), ask("web"));
    assert_eq!(
        code(&stream.ask_one(refused.clone()).await.unwrap()),
        "entry-not-for-agent"
    );
    assert_eq!(
        code(&stream.ask_one(unreadable.clone()).await.unwrap()),
        "invalid-argument"
    );
    let answer = stream.ask_one(granted.clone()).await.unwrap();
    let issued = record(ca.admin_socket(), answer.receipt.unwrap().index).await;
    assert!(matches!(issued.body, Some(Body::Issue(_))));
    assert_eq!(issued.request_id, granted.request_id);

    let found = denials(ca.admin_socket(), "entry-not-for-agent").await;
    let [(record, deny)] = found.as_slice() else {
        panic!("{found:?}")
    };
    assert_eq!(record.request_id, refused.request_id);
    assert_eq!(
        (deny.entry.as_str(), deny.spiffe_id.as_str(), deny.suppressed),
        ("db", "spiffe://dev.test/db", 0)
    );
    assert!(
        deny.why.contains("db") && deny.why.contains("spiffe://dev.test/mintage/agent/n1"),
        "{deny:?}"
    );
    let actor = agent_of(record);
    let own = LeafInfo::parse(&agent.chain[0]).unwrap();
    assert_eq!(
        (actor.spiffe_id.as_str(), actor.instance),
        ("spiffe://dev.test/mintage/agent/n1", agent.instance)
    );
    assert_eq!(hex::encode(&actor.serial), own.serial().to_string());
    // Of an ask that cannot be read, the id still leads to its record.
    let found = denials(ca.admin_socket(), "invalid-argument").await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].0.request_id, unreadable.request_id);
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_barred_or_anothers_are_counted_as_alarms() {
    let (folder, ca) = start().await;
    let socket = ca.admin_socket();
    entry(socket, "web", "/web").await;
    entry(socket, "db", "/db").await;
    let agent = join(&token(socket, "n1").await).await.unwrap();
    let mut stream = open(&ca, &agent).await;
    let (barred, used) = (key_and_csr().1, key_and_csr().1);
    block(socket, &barred).await;
    let pem = std::fs::read_to_string(folder.path().join("ca/keys/root.key")).unwrap();
    let root = rcgen::KeyPair::from_pem(&pem).unwrap();
    let of_ca = rcgen::CertificateParams::default().serialize_request(&root).unwrap();
    assert_eq!(code(&stream.ask_one(ask_with("web", used.clone())).await.unwrap()), "");
    for (entry, csr, times, wanted) in [
        ("web", barred, 3, "key-blocked"),
        ("web", of_ca.der().to_vec(), 1, "key-of-ca"),
        ("db", used.clone(), 2, "key-under-other-id"),
        // A second use by its own identity is a fault, not an alarm.
        ("web", used, 1, "key-reused"),
    ] {
        for _ in 0..times {
            let refused = stream.ask_one(ask_with(entry, csr.clone())).await.unwrap();
            assert_eq!(code(&refused), wanted);
        }
    }
    let lines = [
        "mintage_alarms_total{reason=\"key-blocked\"} 3",
        "mintage_alarms_total{reason=\"key-of-ca\"} 1",
        "mintage_alarms_total{reason=\"key-under-other-id\"} 2",
        "mintage_issuance_requests_total{profile=\"\",result=\"refused\",reason=\"key-reused\"} 1",
    ];
    counted(&ca, &lines).await;
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_is_an_error_in_the_log_and_a_plain_refusal_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ca");
    make(&dir);
    let ca = CaProcess::start(&dir, 0);
    let socket = ca.admin_socket();
    entry(&socket, "web", "/web").await;
    let agent = join(&token(&socket, "n1").await).await.unwrap();
    let mut stream = Stream::open(&agent, &ca.address).await.unwrap();
    let barred = key_and_csr().1;
    block(&socket, &barred).await;
    let (alarming, plain) = (ask_with("web", barred), ask("nothing"));
    for ask in [&alarming, &plain] {
        assert!(stream.ask_one(ask.clone()).await.unwrap().refusal.is_some());
    }
    drop(stream);
    // Stopped, so that all of its log is written.
    tokio::task::spawn_blocking(|| ca.stop()).await.unwrap();
    let log = std::fs::read_to_string(dir.with_extension("log")).unwrap();
    for (ask, level, code) in [(alarming, "ERROR", "key-blocked"), (plain, "WARN", "entry-unknown")] {
        let id = hex::encode(&ask.request_id);
        let lines: Vec<_> = log.lines().filter(|line| line.contains(&id)).collect();
        assert_eq!(lines.len(), 1, "{id} in\n{log}");
        for part in [format!("\"level\":\"{level}\""), format!("\"code\":\"{code}\"")] {
            assert!(lines[0].contains(&part), "no {part} in {}", lines[0]);
        }
    }
}

/// Attests with whatever request.
async fn attest(token: &JoinToken, request: AttestRequest) -> Status {
    let (channel, _) = anonymous(token).await.unwrap();
    let answer = NodeClient::new(channel).attest(request).await;
    answer.expect_err("nobody joins with this")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_join_is_counted_with_its_reason_and_uses_no_token_up() {
    let (folder, ca) = start().await;
    let socket = ca.admin_socket();
    entry(socket, "web", "/web").await;
    let agent = join(&token(socket, "n1").await).await.unwrap();
    let mut stream = open(&ca, &agent).await;
    let (barred, used) = (key_and_csr().1, key_and_csr().1);
    block(socket, &barred).await;
    assert_eq!(code(&stream.ask_one(ask_with("web", used.clone())).await.unwrap()), "");
    let pem = std::fs::read_to_string(folder.path().join("ca/keys/intermediate.key")).unwrap();
    let of_ca = rcgen::KeyPair::from_pem(&pem).unwrap();
    let of_ca = rcgen::CertificateParams::default().serialize_request(&of_ca).unwrap();

    let two = token(socket, "n2").await;
    for csr in [barred, of_ca.der().to_vec(), used] {
        let refused = join_with(&two, csr).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    }
    let request = |csr: Vec<u8>, request_id: Vec<u8>, secret: Vec<u8>| AttestRequest {
        secret,
        csr,
        request_id,
        agent_version: "test".to_owned(),
    };
    let (secret, id) = (two.secret().to_vec(), random::<16>().to_vec());
    let refused = attest(&two, request(b"no request".to_vec(), id.clone(), secret.clone())).await;
    assert_eq!(refused.code(), Code::InvalidArgument);
    let refused = attest(&two, request(key_and_csr().1, vec![1; 3], secret)).await;
    assert_eq!(refused.code(), Code::InvalidArgument);
    let refused = attest(&two, request(key_and_csr().1, id.clone(), random::<32>().to_vec())).await;
    assert_eq!(refused.code(), Code::Unauthenticated);
    let (channel, _) = anonymous(&two).await.unwrap();
    let rejoin = RejoinRequest {
        csr: key_and_csr().1,
        request_id: id,
        ..RejoinRequest::default()
    };
    let refused = NodeClient::new(channel).rejoin(rejoin).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);

    let line = |attestor: &str, result: &str, reason: &str, times: u32| {
        format!("mintage_attestations_total{{attestor=\"{attestor}\",result=\"{result}\",reason=\"{reason}\"}} {times}")
    };
    let lines = [
        line("join_token", "ok", "", 1),
        line("join_token", "refused", "key-blocked", 1),
        line("join_token", "refused", "key-of-ca", 1),
        line("join_token", "refused", "key-under-other-id", 1),
        line("join_token", "refused", "csr", 1),
        line("join_token", "refused", "invalid-argument", 1),
        line("join_token", "refused", "token_unknown", 1),
        line("rejoin", "refused", "invalid-argument", 1),
        "mintage_alarms_total{reason=\"key-blocked\"} 1".to_owned(),
    ];
    counted(&ca, &lines.each_ref().map(String::as_str)).await;
    let tokens = registry(socket).await.list_tokens(ListTokensRequest::default()).await;
    let tokens = tokens.unwrap().into_inner().tokens;
    let used: Vec<_> = tokens.iter().filter(|token| token.used).collect();
    assert_eq!((tokens.len(), used.len()), (2, 1), "{tokens:?}");
    assert_eq!(used[0].agent, "n1");
    join(&two).await.expect("the token is as good as new");
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_calls_what_no_agent_may_is_recorded_once_in_a_while() {
    let (_folder, ca) = start().await;
    let socket = ca.admin_socket();
    entry(socket, "web", "/web").await;
    let one = token(socket, "n1").await;
    // An unauthenticated caller can be anybody: counted, and never a record.
    let (nobody, _) = anonymous(&one).await.unwrap();
    let agent = join(&one).await.unwrap();
    let (channel, _) = agent.channel(&ca.address().to_string()).await.unwrap();
    for channel in [nobody, channel] {
        let mut registry = RegistryClient::new(channel);
        for _ in 0..5 {
            let refused = registry.list_agents(ListAgentsRequest::default()).await.unwrap_err();
            assert_eq!(refused.code(), Code::PermissionDenied);
        }
    }
    let mut stream = open(&ca, &agent).await;
    assert_eq!(code(&stream.ask_one(ask("web")).await.unwrap()), "");
    let found = denials(ca.admin_socket(), "role").await;
    let [(record, deny)] = found.as_slice() else {
        panic!("{found:?}")
    };
    let actor = agent_of(record);
    assert_eq!(
        (actor.spiffe_id.as_str(), actor.instance),
        ("spiffe://dev.test/mintage/agent/n1", agent.instance)
    );
    assert!(deny.why.contains("/mintage.v1.Registry/ListAgents"), "{deny:?}");
    let lines = [
        "mintage_refused_calls_total{reason=\"role\"} 10",
        "mintage_deny_records_suppressed_total 4",
    ];
    counted(&ca, &lines).await;
    ca.stop().await;
}
