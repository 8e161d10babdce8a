//! Commands that take something away and come all at once: none is told to come again because of the others.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{path::Path, time::Duration};

use mintage_proto::v1::{
    Entry, RevocationStatusRequest, RevokeRequest, revocation_client::RevocationClient, revoke_request::Target,
};
use mintage_tests::kit::{
    ca::{TestCa, apply, domain},
    client::admin,
};
use tonic::Status;

/// Commands under way at once.
const AT_ONCE: usize = 32;
/// Commands that each of them gives, one after the other.
const EACH: usize = 4;
/// Longest wait for what should happen at once; the machine may be busy.
const SOON: Duration = Duration::from_secs(30);

async fn revoke(socket: &Path, name: String) -> Result<u64, Status> {
    let mut client = RevocationClient::new(admin(socket).await.unwrap());
    let request = RevokeRequest {
        target: Some(Target::SpiffeId(format!("spiffe://{}/{name}", domain()))),
        no_renew: true,
        ..RevokeRequest::default()
    };
    Ok(client.revoke(request).await?.into_inner().sequence)
}

#[tokio::test(flavor = "multi_thread")]
async fn many_revocations_at_once_all_stand() {
    let ca = TestCa::start().await;
    let socket = ca.ca.admin_socket().to_owned();
    let lanes = (0..AT_ONCE).map(|lane| {
        let socket = socket.clone();
        tokio::spawn(async move {
            let mut sequences = Vec::new();
            for number in 0..EACH {
                sequences.push(revoke(&socket, format!("r{lane}-{number}")).await);
            }
            sequences
        })
    });
    let mut sequences = Vec::new();
    for lane in lanes.collect::<Vec<_>>() {
        for sequence in lane.await.unwrap() {
            sequences.push(sequence.unwrap_or_else(|status| panic!("{status}")));
        }
    }
    sequences.sort_unstable();
    sequences.dedup();
    assert_eq!(sequences.len(), AT_ONCE * EACH, "each is a record of its own");
    let mut client = RevocationClient::new(admin(&socket).await.unwrap());
    // What is recorded is published right behind it.
    let published = tokio::time::timeout(SOON, async {
        loop {
            let asked = client.revocation_status(RevocationStatusRequest::default()).await;
            let status = asked.unwrap().into_inner();
            if Some(&status.sequence) >= sequences.last() {
                return status;
            }
        }
    });
    let status = published.await.expect("the last revocation is published");
    assert_eq!(status.rules, (AT_ONCE * EACH) as u64);
    assert_eq!(Some(&status.sequence), sequences.last());
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_that_somebody_else_took_the_place_of_is_refused_though_many_change_it() {
    let ca = TestCa::start().await;
    let socket = ca.ca.admin_socket().to_owned();
    let entry = |ttl_seconds, revision| Entry {
        name: "web".to_owned(),
        spiffe_id: format!("spiffe://{}/web", domain()),
        agents: vec![format!("spiffe://{}/mintage/agent/*", domain())],
        selectors: vec!["unix:uid:1".to_owned()],
        ttl_seconds,
        revision,
        ..Entry::default()
    };
    let made = apply(&socket, vec![entry(60, 0)]).await.unwrap();
    let revision = made.changes[0].revision;
    let changes = (0..AT_ONCE).map(|n| {
        let (socket, entry) = (socket.clone(), entry(61 + n as i64, revision));
        tokio::spawn(async move { apply(&socket, vec![entry]).await })
    });
    let mut stood = 0;
    for change in changes.collect::<Vec<_>>() {
        match change.await.unwrap() {
            Ok(_) => stood += 1,
            Err(status) => assert!(status.message().contains("revision"), "{status}"),
        }
    }
    assert_eq!(stood, 1, "all but the first were decided on what no longer stands");
    ca.stop().await;
}
