//! Each answer of the socket is the whole set: no identity comes first because another one failed, and who gets nothing is
//! told which entry, limit or outage it is.

use std::time::Duration;

use mintage_agent::{SocketLimit, SocketLimits};
use mintage_proto::v1;
use tokio::time::timeout;
use tonic::Code;

use crate::support::{
    FakeCa,
    agent::{Node, PATIENCE, until},
    entry,
    socket::{end, ids, next, socket_config, svids},
};

const A: &str = "spiffe://dev.test/a";
const B: &str = "spiffe://dev.test/b";

fn refusal(retry: bool) -> v1::Refusal {
    v1::Refusal {
        code: "key-policy".to_owned(),
        message: "not for you".to_owned(),
        retry,
        ..v1::Refusal::default()
    }
}

/// A page of the agent's metrics.
async fn metrics(address: std::net::SocketAddr) -> String {
    tokio::task::spawn_blocking(move || crate::support::agent::page(address, "/metrics"))
        .await
        .unwrap()
}

/// Waits until metrics have this line.
async fn counted(address: std::net::SocketAddr, line: &str) {
    let waiting = async {
        while !metrics(address).await.contains(line) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| panic!("never {line}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w8_w10_an_identity_that_is_refused_puts_no_other_one_first() {
    let ca = FakeCa::start(vec![entry("a", "/a"), entry("b", "/b")]).await;
    let node = Node::new();
    let mut agent = node.start(socket_config(&node), Some(ca.token()));
    agent.connected().await;
    for retry in [true, false] {
        {
            let mut script = ca.script();
            script.refuse = Some(refusal(retry));
            script.refuse_only = vec!["a".to_owned()];
        }
        let refused = svids(&node).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
        assert!(
            refused.message().contains("entry a") && refused.message().contains("not for you"),
            "{refused}"
        );
    }
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w8_what_is_not_the_first_is_left_out_when_the_ca_has_said_its_last_word_and_only_then() {
    let ca = FakeCa::start(vec![entry("a", "/a"), entry("b", "/b")]).await;
    {
        let mut script = ca.script();
        script.refuse = Some(refusal(true));
        script.refuse_only = vec!["b".to_owned()];
    }
    let node = Node::new();
    let config = socket_config(&node)
        .with_metrics("127.0.0.1:0".parse().unwrap())
        .unwrap();
    let mut agent = node.start(config, Some(ca.token()));
    agent.connected().await;
    let page = agent.handle.metrics_address().unwrap();
    let refused = svids(&node).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(refused.message().contains("entry b"), "{refused}");
    ca.script().refuse = Some(refusal(false));
    let stream = timeout(PATIENCE, async {
        loop {
            if let Ok(stream) = svids(&node).await {
                break stream;
            }
        }
    });
    let mut stream = stream.await.unwrap();
    assert_eq!(ids(&next(&mut stream).await), [A]);
    counted(page, "mintage_agent_workload_requests_total{result=\"incomplete\"} ").await;
    // An entry that is mended comes into the stream that is open.
    ca.script().refuse = None;
    let mended = v1::Entry {
        dns_names: vec!["b.test".to_owned()],
        ..entry("b", "/b")
    };
    ca.set_entries(vec![entry("a", "/a"), mended]);
    while ids(&next(&mut stream).await) != [A, B] {}
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w8_when_the_first_identity_ends_nobody_is_given_another_one_in_its_place() {
    let ca = FakeCa::start(vec![entry("b", "/b")]).await;
    let node = Node::new();
    let mut agent = node.start(socket_config(&node), Some(ca.token()));
    agent.connected().await;
    let mut stream = svids(&node).await.unwrap();
    assert_eq!(ids(&next(&mut stream).await), [B]);
    // A new entry that comes first is one when its identity is there, and not before.
    {
        let mut script = ca.script();
        script.refuse = Some(refusal(true));
        script.refuse_only = vec!["a".to_owned()];
        script.svid_ttl = Duration::from_secs(6);
    }
    ca.set_entries(vec![entry("a", "/a"), entry("b", "/b")]);
    until("an ask for it", || !ca.asks_for("a").is_empty()).await;
    ca.script().refuse = None;
    assert_eq!(ids(&next(&mut stream).await), [A, B]);
    // Then it cannot be renewed.
    {
        let mut script = ca.script();
        script.refuse = Some(refusal(true));
        script.svid_ttl = Duration::from_secs(600);
    }
    let status = loop {
        match timeout(PATIENCE, stream.message()).await.unwrap() {
            Ok(message) => assert_eq!(ids(&message.unwrap()), [A, B]),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("entry a"), "{status}");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_finds_the_limit_of_identities_reached_is_told_so() {
    let ca = FakeCa::start(vec![entry("a", "/a"), entry("b", "/b")]).await;
    let node = Node::new();
    let limits = SocketLimits::default().with(SocketLimit::Identities, 1).unwrap();
    let config = socket_config(&node)
        .with_limits(limits)
        .with_metrics("127.0.0.1:0".parse().unwrap())
        .unwrap();
    let mut agent = node.start(config, Some(ca.token()));
    agent.connected().await;
    let page = agent.handle.metrics_address().unwrap();
    let refused = svids(&node).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(
        refused.message().contains("(1): raise `identities` in [limits]"),
        "{refused}"
    );
    assert!(agent.problem("limit").await.contains("`identities` in [limits]"));
    counted(page, "mintage_agent_rotation_failures_total{stage=\"limit\"} ").await;
    // One who wants no more than there is room for is served.
    ca.set_entries(vec![entry("a", "/a")]);
    let mut stream = timeout(PATIENCE, async {
        loop {
            if let Ok(stream) = svids(&node).await {
                break stream;
            }
        }
    })
    .await
    .unwrap();
    assert_eq!(ids(&next(&mut stream).await), [A]);
    ca.set_entries(Vec::new());
    assert_eq!(end(&mut stream).await.code(), Code::PermissionDenied);
    agent.stop().await;
}
