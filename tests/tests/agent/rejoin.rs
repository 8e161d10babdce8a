//! An agent whose certificate has expired comes back by its last key, over this connection alone, within seven days, and
//! not after a ban or an eviction, nor when that key is known to be in other hands.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{path::Path, sync::Arc, time::Duration};

use mintage_attest::{JoinToken, rejoin::prove};
use mintage_ca::{Ca, Deps};
use mintage_mint::{KeyPolicy, prove_possession};
use mintage_proto::v1::{
    AttestResponse, BanAgentRequest, EvictAgentRequest, ListAgentsRequest, RejoinRequest, RevokeRequest,
    node_client::NodeClient, revocation_client::RevocationClient, revoke_request::Target,
};
use mintage_svid::LeafInfo;
use mintage_tests::kit::{
    ca::{config, make, token},
    client::{Exporter, Joined, admin, channel, join, key_and_csr, provider, random, registry},
    clock::Shifted,
};
use mintage_verifier::{JoinVerifier, TlsSettings, join_config};
use ring::rand::SystemRandom;
use tonic::{Code, Status, transport::Channel};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// An anonymous channel whose client has the test's clock: the CA's own certificate is as new as the CA's clock.
async fn connect(ca: &Ca, token: &JoinToken, clock: &Arc<Shifted>) -> (Channel, Exporter) {
    let pins = token.root_hashes().iter().copied();
    let verifier = JoinVerifier::new(token.trust_domain().clone(), pins, &provider()).unwrap();
    let settings = TlsSettings::new(provider(), clock.clone()).with_alpn([b"h2".as_slice()]);
    let tls = join_config(verifier, &settings).unwrap();
    channel(&ca.address().to_string(), tls).await.unwrap()
}

/// Asks to come back over `to`, with a signature over the exporter of `signed`.
async fn rejoin(agent: &Joined, to: &Channel, signed: &Exporter) -> Result<AttestResponse, Status> {
    let (_, csr) = key_and_csr();
    let new_key = prove_possession(&csr, &KeyPolicy::default()).unwrap().spki_sha256();
    let exporter = *signed.lock().unwrap();
    let request = RejoinRequest {
        last_chain: agent.chain.clone(),
        signature: prove(&agent.key, &exporter, &new_key, &SystemRandom::new()).unwrap(),
        csr,
        request_id: random::<16>().to_vec(),
        agent_version: "kit".to_owned(),
    };
    Ok(NodeClient::new(to.clone()).rejoin(request).await?.into_inner())
}

/// A data directory that these agents have joined, and a token for its roots.
async fn joined(dir: &Path, names: &[&str]) -> (Vec<Joined>, JoinToken) {
    make(dir);
    let ca = Ca::start(config(dir), Deps::system()).await.unwrap();
    let mut agents = Vec::new();
    for name in names {
        agents.push(join(&token(ca.admin_socket(), name).await).await.unwrap());
    }
    let roots = token(ca.admin_socket(), "roots").await;
    ca.stop().await;
    (agents, roots)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_agent_comes_back_by_its_last_key_and_by_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ca");
    let (agents, roots) = joined(&dir, &["n1", "banned", "evicted", "late"]).await;
    let [agent, banned, evicted, late] = &agents[..] else {
        panic!("four agents")
    };

    let clock = Shifted::behind(Duration::ZERO);
    clock.move_on(2 * HOUR);
    let ca = Ca::start(config(&dir), clock.deps()).await.unwrap();
    let (here, exporter) = connect(&ca, &roots, &clock).await;
    let (_elsewhere, other) = connect(&ca, &roots, &clock).await;
    let refused = |outcome: Result<AttestResponse, Status>, what: &str| {
        let status = outcome.expect_err(what);
        assert_eq!(status.code(), Code::Unauthenticated, "{what}: {status:?}");
    };
    refused(
        rejoin(agent, &here, &other).await,
        "a signature over another connection",
    );
    let stolen = Joined {
        key: key_and_csr().0,
        ..agent.clone()
    };
    refused(rejoin(&stolen, &here, &exporter).await, "a certificate without its key");

    let back = rejoin(agent, &here, &exporter).await.unwrap();
    assert_eq!(back.instance, agent.instance, "it is the same agent, not a new one");
    let (was, is) = (
        LeafInfo::parse(&agent.chain[0]).unwrap(),
        LeafInfo::parse(&back.chain[0]).unwrap(),
    );
    assert_eq!(was.id(), is.id());
    assert_ne!(was.serial(), is.serial());
    assert!(was.not_after() < is.not_before(), "the first had expired");

    let mut admin = registry(ca.admin_socket()).await;
    let ban = BanAgentRequest {
        name: "banned".to_owned(),
        ..BanAgentRequest::default()
    };
    admin.ban_agent(ban).await.unwrap();
    let evict = EvictAgentRequest {
        name: "evicted".to_owned(),
        ..EvictAgentRequest::default()
    };
    admin.evict_agent(evict).await.unwrap();
    refused(rejoin(banned, &here, &exporter).await, "a banned agent");
    refused(rejoin(evicted, &here, &exporter).await, "an evicted agent");
    ca.stop().await;

    clock.move_on(7 * DAY);
    let ca = Ca::start(config(&dir), clock.deps()).await.unwrap();
    let (here, exporter) = connect(&ca, &roots, &clock).await;
    refused(
        rejoin(late, &here, &exporter).await,
        "seven days and an hour after its end",
    );
    let agents = registry(ca.admin_socket())
        .await
        .list_agents(ListAgentsRequest::default())
        .await;
    let names: Vec<_> = agents
        .unwrap()
        .into_inner()
        .agents
        .into_iter()
        .map(|agent| agent.name)
        .collect();
    assert_eq!(names.len(), 4, "nobody came in anew: {names:?}");
    ca.stop().await;
}

/// Revokes for a reason.
async fn revoke(ca: &Ca, target: Target, reason: &str) {
    let mut revocation = RevocationClient::new(admin(ca.admin_socket()).await.unwrap());
    let request = RevokeRequest {
        target: Some(target),
        reason: reason.to_owned(),
        no_renew: true,
        ..RevokeRequest::default()
    };
    revocation.revoke(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_key_brings_nobody_back_and_a_plain_revocation_keeps_nobody_out() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ca");
    let (agents, roots) = joined(&dir, &["plain", "stolen", "expired", "blocked", "ended"]).await;
    let [plain, stolen, expired, blocked, ended] = &agents[..] else {
        panic!("five agents")
    };
    let leaf = |agent: &Joined| LeafInfo::parse(&agent.chain[0]).unwrap();
    let serial = |agent| Target::Serial(leaf(agent).serial().to_string());

    let clock = Shifted::behind(Duration::ZERO);
    let ca = Ca::start(config(&dir), clock.deps()).await.unwrap();
    revoke(&ca, serial(plain), "superseded").await;
    for agent in [stolen, expired] {
        revoke(&ca, serial(agent), "key-compromise").await;
    }
    revoke(&ca, Target::Key(leaf(blocked).spki_sha256().to_string()), "unspecified").await;
    let id = Target::SpiffeId(leaf(ended).id().to_string());
    revoke(&ca, id, "key-compromise").await;
    let (here, exporter) = connect(&ca, &roots, &clock).await;
    let refused = |outcome: Result<AttestResponse, Status>, what: &str| {
        let status = outcome.expect_err(what);
        assert_eq!(status.code(), Code::PermissionDenied, "{what}: {status:?}");
        assert!(status.message().contains("join token"), "{what}: {status:?}");
    };
    refused(
        rejoin(stolen, &here, &exporter).await,
        "a certificate revoked for key-compromise",
    );
    refused(rejoin(blocked, &here, &exporter).await, "a key that was blocked");
    refused(
        rejoin(ended, &here, &exporter).await,
        "an identity revoked for key-compromise",
    );
    let back = rejoin(plain, &here, &exporter).await.unwrap();
    assert_eq!(back.instance, plain.instance, "it is the same agent, not a new one");
    ca.stop().await;

    // The revoked set has forgotten what expired long ago; the door has not.
    clock.move_on(2 * DAY);
    let ca = Ca::start(config(&dir), clock.deps()).await.unwrap();
    let (here, exporter) = connect(&ca, &roots, &clock).await;
    refused(rejoin(expired, &here, &exporter).await, "two days after its end");
    ca.stop().await;
}
