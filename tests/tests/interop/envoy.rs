//! Envoy, whose SPIFFE validator ignores CRLs, and which asks the agent about each connection (network filter) or each request
//! (HTTP filter): it accepts the good client, refuses the revoked one, and accepts the one after it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{fs, path::Path, time::Instant};

use mintage_proto::v1::revoke_request::Target;
use mintage_tests::kit::{
    node::{Node, Pair, until},
    proxies::Proxy,
};

/// What is seen on the port of the network filter, which ends the connection, and on that of the HTTP filter.
async fn seen(client: &Pair, envoy: &Proxy) -> [String; 2] {
    let one = async |port: u16| match client.get(port).await {
        Ok(answer) => answer.lines().next().unwrap_or_default().to_owned(),
        Err(_) => "ended".to_owned(),
    };
    [one(envoy.ports[0]).await, one(envoy.ports[1]).await]
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_refuses_a_revoked_client_by_asking_the_agent() {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop");
    fs::create_dir_all(&scratch).unwrap();
    let mut node = Node::start(&["web", "db"], "").await;
    let folder = node.beside("envoy");
    node.pair("web").write(&folder);
    let Some(envoy) = Proxy::envoy(&scratch, &folder, &node.socket()) else {
        return;
    };
    let client = node.pair("db");
    let good = ["HTTP/1.1 200 OK", "HTTP/1.1 200 OK"];
    let refused = ["ended", "HTTP/1.1 403 Forbidden"];
    until(Instant::now(), "the agent's first set", async || {
        seen(&client, &envoy).await == good
    })
    .await;

    let accepted = node.revoke(Target::Serial(client.serial())).await;
    let first = until(accepted, "the refusal", async || {
        client.get(envoy.ports[0]).await.is_err()
    })
    .await;
    println!(
        "Envoy refuses {:.1} ms after the reply to the command to revoke",
        first.as_secs_f64() * 1e3
    );
    for _ in 0..3 {
        assert_eq!(seen(&client, &envoy).await, refused, "{}", envoy.log());
    }
    let next = node.after("db", &client);
    assert_eq!(seen(&next, &envoy).await, good, "{}", envoy.log());

    // Without the agent nobody passes.
    let Node { ca, agent, .. } = node;
    assert_eq!(agent.stop(), Some(0));
    assert_eq!(seen(&next, &envoy).await, refused, "{}", envoy.log());
    assert_eq!(ca.stop(), Some(0));
}
