//! Certificates that local programs saw in use: what is of this trust domain is told to the CA, once and in time; rubbish
//! and strangers' certificates are not.

use mintage_proto::v1::{ReportSeenRequest, SeenChain, SeenResult, agent_local_client::AgentLocalClient};
use mintage_svid::{LeafInfo, cert_sha256};
use tonic::{Code, Status, transport::Channel};

use crate::support::{
    FakeCa,
    agent::{Node, until},
    pki::Pki,
    socket::{channel, started},
};

const ID: &str = "spiffe://dev.test/web";

async fn local(node: &Node) -> AgentLocalClient<Channel> {
    AgentLocalClient::new(channel(node.socket()).await)
}

async fn report(node: &Node, chains: Vec<Vec<Vec<u8>>>) -> Result<Vec<SeenResult>, Status> {
    let chains = chains
        .into_iter()
        .map(|certificates| SeenChain { certificates })
        .collect();
    let answer = local(node).await.report_seen(ReportSeenRequest { chains }).await?;
    Ok(answer.into_inner().results)
}

/// A chain that this CA's key signed.
fn chain(ca: &FakeCa) -> Vec<Vec<u8>> {
    let pki = &ca.state.pki;
    vec![pki.leaf_for_another_key(ID), pki.issuer_der.clone()]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_in_use_is_told_once_with_what_identifies_it() {
    let (ca, node, agent) = started(Vec::new()).await;
    let seen = chain(&ca);
    assert_eq!(
        report(&node, vec![seen.clone()]).await.unwrap(),
        [SeenResult::default()]
    );
    until("the certificate told", || ca.seen().uses.len() == 1).await;
    let told = ca.seen().uses[0].clone();
    let leaf = LeafInfo::parse(&seen[0]).unwrap();
    assert_eq!(told.certificate_sha256, cert_sha256(&seen[0]).as_bytes());
    assert_eq!(told.serial, leaf.serial().octets());
    assert_eq!(told.issuer_key_id, ca.state.pki.issuer_id.as_bytes());
    assert_eq!(
        (told.spiffe_id.as_str(), told.not_after_s),
        (ID, leaf.not_after().seconds())
    );
    let again = report(&node, vec![seen.clone(), chain(&ca)]).await.unwrap();
    assert_eq!(
        again.iter().map(|result| result.known).collect::<Vec<_>>(),
        [true, false]
    );
    until("the other one told", || ca.seen().uses.len() == 2).await;
    assert_ne!(ca.seen().uses[1].serial, told.serial);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rubbish_strangers_and_too_much_are_refused_here() {
    let (ca, node, agent) = started(Vec::new()).await;
    let stranger = Pki::new();
    let refused = [
        vec![],
        vec![b"rubbish".to_vec()],
        vec![stranger.leaf_for_another_key(ID), stranger.issuer_der.clone()],
        // Its name fits, its signature does not.
        vec![stranger.leaf_for_another_key(ID), ca.state.pki.issuer_der.clone()],
        vec![ca.state.pki.issuer_der.clone()],
        vec![ca.state.pki.leaf_for_another_key(ID); 20],
    ];
    let results = report(&node, refused.to_vec()).await.unwrap();
    assert_eq!(results.len(), refused.len());
    for (at, result) in results.iter().enumerate() {
        assert!(
            !result.known && result.problem.starts_with("certificates: "),
            "{at}: {result:?}"
        );
    }
    let many = report(&node, vec![Vec::new(); 17]).await.unwrap_err();
    assert!(
        many.code() == Code::InvalidArgument && many.message().contains("limit is 16"),
        "{many:?}"
    );
    assert!(report(&node, vec![vec![vec![0; 70_000]]]).await.is_err());
    // One that is good is told beside them, and alone.
    report(&node, [refused.to_vec(), vec![chain(&ca)]].concat())
        .await
        .unwrap();
    until("the good one told", || !ca.seen().uses.is_empty()).await;
    assert_eq!(ca.seen().uses.len(), 1);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_seen_without_a_ca_waits_for_one() {
    let (ca, node, mut agent) = started(Vec::new()).await;
    ca.down();
    agent
        .event("the end of the stream", |event| {
            matches!(event, mintage_agent::AgentEvent::Disconnected { .. }).then_some(())
        })
        .await;
    report(&node, vec![chain(&ca)]).await.unwrap();
    ca.up().await;
    until("the certificate told", || ca.seen().uses.len() == 1).await;
    agent.stop().await;
}
