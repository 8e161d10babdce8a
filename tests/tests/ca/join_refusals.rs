//! Whoever comes with a token that does not hold hears one answer, whatever is wrong with it; the reason is for the
//! operator alone, in a counter for each.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, net::SocketAddr, path::Path, time::Duration};

use mintage_attest::JoinToken;
use mintage_ca::Ca;
use mintage_proto::v1::{
    AttestRequest, DeleteTokenRequest, ListAgentsRequest, ListTokensRequest, node_client::NodeClient,
};
use mintage_tests::kit::{
    ca::{config, make, token},
    client::{anonymous, join, key_and_csr, random, registry},
    clock::Shifted,
    face::metric,
};
use tonic::{Code, Status};

/// Longer than any token of this test lives.
const LATER: Duration = Duration::from_secs(601);

/// One token that is used, one that is deleted, and one that nobody has used yet.
async fn spent(socket: &Path) -> [JoinToken; 3] {
    let tokens = [
        token(socket, "used").await,
        token(socket, "deleted").await,
        token(socket, "expired").await,
    ];
    join(&tokens[0]).await.unwrap();
    let mut admin = registry(socket).await;
    let listed = admin.list_tokens(ListTokensRequest::default()).await.unwrap();
    let mut listed = listed.into_inner().tokens.into_iter();
    let delete = DeleteTokenRequest {
        id: listed.find(|token| token.agent == "deleted").unwrap().id,
        ..DeleteTokenRequest::default()
    };
    admin.delete_token(delete).await.unwrap();
    tokens
}

/// Refusals that were counted under a reason of their own.
async fn counted(face: SocketAddr) -> u64 {
    let mut sum = 0;
    for reason in ["token_unknown", "token_expired", "token_other_key", "token_used"] {
        let labels = format!("{{attestor=\"join_token\",result=\"refused\",reason=\"{reason}\"}}");
        let count = metric(face, &format!("mintage_attestations_total{labels}")).await;
        let must = ["token_unknown", "token_expired"].contains(&reason);
        assert!(count > 0 || !must, "{reason} was not counted");
        sum += count;
    }
    sum
}

#[tokio::test(flavor = "multi_thread")]
async fn every_token_that_does_not_hold_gets_the_same_answer_and_its_own_counter() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ca");
    make(&dir);
    let clock = Shifted::behind(Duration::ZERO);
    let any = "127.0.0.1:0".parse().unwrap();
    let ca = Ca::start(config(&dir).with_metrics(Some(any)), clock.deps())
        .await
        .unwrap();
    let (socket, face) = (ca.admin_socket().to_path_buf(), ca.metrics_address().unwrap());
    let [used, deleted, expired] = spent(&socket).await;
    clock.move_on(LATER);

    let (channel, _) = anonymous(&used).await.unwrap();
    let refusal = async |secret: Vec<u8>| -> (i32, String) {
        let request = AttestRequest {
            secret,
            csr: key_and_csr().1,
            request_id: random::<16>().to_vec(),
            agent_version: "kit".to_owned(),
        };
        let refused: Status = NodeClient::new(channel.clone()).attest(request).await.unwrap_err();
        (refused.code() as i32, refused.message().to_owned())
    };
    let mut answers = BTreeSet::new();
    for secret in [
        random::<32>().to_vec(),
        Vec::new(),
        vec![7; 31],
        vec![7; 33],
        vec![7; 60_000],
        used.secret().to_vec(),
        deleted.secret().to_vec(),
        expired.secret().to_vec(),
    ] {
        answers.insert(refusal(secret).await);
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(answers.first().unwrap().0, Code::Unauthenticated as i32);

    assert_eq!(counted(face).await, 8, "each refusal has its reason");
    let agents = registry(&socket)
        .await
        .list_agents(ListAgentsRequest::default())
        .await
        .unwrap()
        .into_inner()
        .agents;
    assert_eq!(agents.len(), 1, "nobody came in");
    ca.stop().await;
}
