//! Which key signs: the intermediate, whose root may be locked away, or the root itself, below which chains are one
//! certificate long. Either way agents join, certificates are issued and revocation is believed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{fs, path::Path};

use mintage_ca::{Ca, ChainMode, Deps};
use mintage_proto::v1::{
    RevokeRequest, SearchRequest, ledger_client::LedgerClient, revocation_client::RevocationClient,
    revoke_request::Target,
};
use mintage_svid::{CertInfo, LeafInfo, verify_issued};
use mintage_tests::kit::{
    ca::{CaProcess, config, entry, make, token},
    client::{Joined, admin, join},
    stream::{Stream, ask, code},
};

/// Joins, obtains a certificate, revokes it; returns the agent and the leaf.
async fn life(socket: &Path, address: &str) -> (Joined, Vec<u8>) {
    entry(socket, "web", "/web").await;
    let agent = join(&token(socket, "n1").await).await.unwrap();
    let mut stream = Stream::open(&agent, address).await.unwrap();
    let issued = stream.ask_one(ask("web")).await.unwrap();
    assert_eq!(code(&issued), "");
    let serial = LeafInfo::parse(&issued.leaf).unwrap().serial().to_string();
    let channel = admin(socket).await.unwrap();
    let request = RevokeRequest {
        target: Some(Target::Serial(serial.clone())),
        reason: "key-compromise".to_owned(),
        ..RevokeRequest::default()
    };
    RevocationClient::new(channel.clone()).revoke(request).await.unwrap();
    let search = SearchRequest {
        serial,
        ..SearchRequest::default()
    };
    let found = LedgerClient::new(channel)
        .search(search)
        .await
        .unwrap()
        .into_inner()
        .records;
    let issue = found.iter().find(|record| record.kind == "issue").unwrap();
    assert_eq!(issue.state, "revoked");
    (agent, issued.leaf)
}

#[tokio::test(flavor = "multi_thread")]
async fn with_chain_root_the_root_signs_and_chains_are_one_certificate_long() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ca");
    make(&dir);
    let by_root = config(&dir).with_chain(ChainMode::Root);
    let ca = Ca::start(by_root, Deps::system()).await.unwrap();
    let (agent, leaf) = life(ca.admin_socket(), &ca.address().to_string()).await;
    assert_eq!(agent.chain.len(), 1);
    let root = CertInfo::parse_signing(&agent.roots[0]).unwrap();
    for signed in [&agent.chain[0], &leaf] {
        verify_issued(signed, root.spki_der()).unwrap();
    }
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_default_chain_the_roots_key_is_never_read() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ca");
    make(&dir);
    fs::rename(dir.join("keys/root.key"), folder.path().join("safe")).unwrap();
    let running = CaProcess::start(&dir, 0);
    let (agent, leaf) = life(&running.admin_socket(), &running.address).await;
    assert_eq!(agent.chain.len(), 2);
    let intermediate = CertInfo::parse_signing(&agent.chain[1]).unwrap();
    for signed in [&agent.chain[0], &leaf] {
        verify_issued(signed, intermediate.spki_der()).unwrap();
    }
    assert_eq!(running.stop(), Some(0));
}
