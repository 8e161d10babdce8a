//! The socket as its callers see it: the SPIFFE Workload API, the agent's own verbs, health; and what hostile callers get.

use std::{process::Stdio, time::Duration};

use mintage_agent::AgentEvent;
use mintage_proto::{
    v1::{self, StatusRequest, WhoAmIRequest, agent_local_client::AgentLocalClient, ca_message::Message},
    workload::{
        JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest, X509BundlesRequest, X509svidRequest,
        spiffe_workload_api_client::SpiffeWorkloadApiClient,
    },
};
use mintage_svid::{LeafInfo, key_matches};
use tokio::time::timeout;
use tonic::Code;

use crate::support::{
    self, FakeCa,
    agent::{Node, PATIENCE, page, until},
    entry,
    socket::{call, channel, client, ids, leaf, next, socket_config, started},
};

const SOCKET_VARIABLE: &str = "MINTAGE_TEST_SOCKET";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w8_w10_full_set_at_once_and_again_at_every_change() {
    let mut hinted = entry("b", "/b");
    hinted.hint = "internal".to_owned();
    let mut same_hint = entry("c", "/c");
    same_hint.hint = "internal".to_owned();
    let (ca, node, agent) = started(vec![entry("a", "/a"), hinted.clone(), same_hint]).await;
    let mut client = client(&node).await;
    let mut stream = client
        .fetch_x509svid(call(X509svidRequest {}))
        .await
        .unwrap()
        .into_inner();
    let first = next(&mut stream).await;
    assert_eq!(
        ids(&first),
        ["spiffe://dev.test/a", "spiffe://dev.test/b", "spiffe://dev.test/c"]
    );
    for svid in &first.svids {
        let leaf = leaf(&svid.x509_svid);
        assert_eq!(LeafInfo::parse(&leaf).unwrap().id().as_str(), svid.spiffe_id);
        assert!(key_matches(&leaf, &svid.x509_svid_key).unwrap());
        assert_eq!(svid.bundle, ca.state.pki.root_der);
    }
    let hints: Vec<&str> = first.svids.iter().map(|svid| svid.hint.as_str()).collect();
    assert_eq!(hints, ["", "internal", ""], "a hint names one identity");
    // A second caller gets the same certificates from memory.
    let asked = ca.seen().asks.len();
    let mut second = client
        .fetch_x509svid(call(X509svidRequest {}))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(next(&mut second).await, first);
    assert_eq!(ca.seen().asks.len(), asked);
    // A renewal reaches both; then an entry goes.
    ca.renew(&["a"]);
    for stream in [&mut stream, &mut second] {
        let renewed = next(stream).await;
        assert_ne!(renewed.svids[0].x509_svid_key, first.svids[0].x509_svid_key);
        assert_eq!(renewed.svids[1..], first.svids[1..]);
    }
    ca.set_entries(vec![hinted]);
    assert_eq!(ids(&next(&mut stream).await), ["spiffe://dev.test/b"]);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w5_w15_no_identity_is_permission_denied_with_the_reason_and_withdrawal_ends_the_stream() {
    let mut other = entry("web", "/web");
    other.selectors.push("unix:gid:4294967000".to_owned());
    let (ca, node, mut agent) = started(vec![other]).await;
    let mut client = client(&node).await;
    let status = client.fetch_x509svid(call(X509svidRequest {})).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let told = status.message();
    assert!(
        told.contains("no identity issued")
            && told.contains("web needs unix:gid:4294967000, the workload shows unix:gid:"),
        "{told}"
    );
    assert_eq!(
        client
            .fetch_x509_bundles(call(X509BundlesRequest {}))
            .await
            .unwrap_err()
            .code(),
        Code::PermissionDenied
    );
    assert!(
        ca.seen().asks.is_empty(),
        "nothing is minted for a caller without an entry"
    );

    ca.set_entries(vec![entry("web", "/web")]);
    agent
        .event("entries", |event| {
            matches!(event, AgentEvent::EntriesApplied { index: 9, .. }).then_some(())
        })
        .await;
    let mut stream = client
        .fetch_x509svid(call(X509svidRequest {}))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(ids(&next(&mut stream).await), ["spiffe://dev.test/web"]);
    ca.set_entries(vec![]);
    let status = timeout(Duration::from_secs(5), stream.message())
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w2_w11_header_bundles_and_what_a_ca_without_jwt_keys_leaves() {
    let (ca, node, agent) = started(vec![entry("web", "/web")]).await;
    let mut client = client(&node).await;
    let status = client.fetch_x509svid(X509svidRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let mut bundles = client
        .fetch_x509_bundles(call(X509BundlesRequest {}))
        .await
        .unwrap()
        .into_inner();
    let first = timeout(PATIENCE, bundles.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(first.bundles.get("spiffe://dev.test"), Some(&ca.state.pki.root_der));
    assert!(ca.seen().asks.is_empty(), "a bundle needs no certificate");
    let request = JwtsvidRequest {
        audience: vec!["db".to_owned()],
        ..JwtsvidRequest::default()
    };
    let refused = client.fetch_jwtsvid(call(request)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("older than this agent"), "{refused}");
    assert!(
        ca.seen().asks.is_empty(),
        "an older CA is not asked for what it does not know"
    );
    let mut bundles = client
        .fetch_jwt_bundles(call(JwtBundlesRequest {}))
        .await
        .unwrap()
        .into_inner();
    let first = timeout(PATIENCE, bundles.message()).await.unwrap().unwrap().unwrap();
    let keys: serde_json::Value = serde_json::from_slice(&first.bundles["spiffe://dev.test"]).unwrap();
    assert_eq!(keys["keys"], serde_json::json!([]), "no root is among JWT keys");
    let validate = call(ValidateJwtsvidRequest::default());
    assert_eq!(
        client.validate_jwtsvid(validate).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w11_open_streams_of_bundles_are_sent_the_next_root_and_the_next_key() {
    let (ca, node, agent) = started(vec![entry("web", "/web")]).await;
    let mut client = client(&node).await;
    let x509 = client.fetch_x509_bundles(call(X509BundlesRequest {})).await;
    let mut x509 = x509.unwrap().into_inner();
    let jwt = client.fetch_jwt_bundles(call(JwtBundlesRequest {})).await;
    let mut jwt = jwt.unwrap().into_inner();
    let first = timeout(PATIENCE, x509.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(first.bundles["spiffe://dev.test"], ca.state.pki.root_der);
    timeout(PATIENCE, jwt.message()).await.unwrap().unwrap().unwrap();
    let other = support::pki::Pki::new().root_der;
    let mut bundle = ca.bundle();
    bundle.sequence = 7;
    bundle.roots.push(other.clone());
    bundle
        .jwt_keys
        .push(support::jwt::Minter::new(Duration::from_secs(60)).public());
    ca.push(Message::Trust(v1::Trust { bundle: Some(bundle) }));
    let both = [ca.state.pki.root_der.clone(), other].concat();
    let next = async {
        // Lists of revoked certificates may come between.
        while x509.message().await.unwrap().unwrap().bundles["spiffe://dev.test"] != both {}
        loop {
            let message = jwt.message().await.unwrap().unwrap();
            let keys: serde_json::Value = serde_json::from_slice(&message.bundles["spiffe://dev.test"]).unwrap();
            if keys["keys"][0]["kid"] == "test-key" {
                return;
            }
        }
    };
    timeout(PATIENCE, next).await.expect("the next bundle on both streams");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_the_ca_was_reached_the_answer_is_unavailable() {
    let ca = FakeCa::start(vec![entry("web", "/web")]).await;
    let node = Node::new();
    let mut agent = node.start(socket_config(&node), Some(ca.token()));
    agent.connected().await;
    agent.stop().await;
    ca.down();
    let agent = node.start(socket_config(&node), None);
    let status = client(&node)
        .await
        .fetch_x509svid(call(X509svidRequest {}))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        status.message().contains("has not heard from the CA"),
        "{}",
        status.message()
    );
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identities_in_memory_rotate_while_they_are_watched_and_are_forgotten_afterwards() {
    let (ca, node, agent) = started(vec![entry("web", "/web")]).await;
    ca.script().svid_ttl = Duration::from_secs(4);
    let mut client = client(&node).await;
    let mut stream = client
        .fetch_x509svid(call(X509svidRequest {}))
        .await
        .unwrap()
        .into_inner();
    let first = next(&mut stream).await;
    let second = next(&mut stream).await;
    assert_ne!(first.svids[0].x509_svid_key, second.svids[0].x509_svid_key);
    assert_eq!(agent.handle.status().await.unwrap().workloads.len(), 1);
    drop(stream);
    let forgotten = async {
        while !agent.handle.status().await.unwrap().workloads.is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, forgotten)
        .await
        .expect("keys that nobody looks at are kept");
    let asked = ca.seen().asks.len();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(ca.seen().asks.len(), asked);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_verbs_stand_beside_the_spiffe_service() {
    let (_ca, node, agent) = started(vec![entry("web", "/web")]).await;
    let channel = channel(node.socket()).await;
    let mut local = AgentLocalClient::new(channel);
    let who = local.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner();
    let uid = mintage_sys::process::effective_uid();
    assert_eq!((who.uid, who.pid), (uid, std::process::id().cast_signed()));
    assert!(who.selectors.contains(&format!("unix:uid:{uid}")));
    assert_eq!(
        who.entries
            .iter()
            .map(|e| (e.name.as_str(), e.matches))
            .collect::<Vec<_>>(),
        [("web", true)]
    );
    assert!(!who.method.is_empty());
    let status = local.status(StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(
        (status.spiffe_id.as_str(), status.connected),
        (support::wire::AGENT_ID, true)
    );
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_user_cannot_open_streams_without_end_and_a_client_that_never_reads_holds_up_nobody() {
    let (ca, node, agent) = started(vec![entry("web", "/web")]).await;
    let mut open = Vec::new();
    let mut refused = 0;
    for _ in 0..8 {
        let mut client = client(&node).await;
        for _ in 0..40 {
            match timeout(PATIENCE, client.fetch_x509svid(call(X509svidRequest {})))
                .await
                .unwrap()
            {
                Ok(response) => open.push(response.into_inner()),
                Err(status) => {
                    assert_eq!(status.code(), Code::Unavailable);
                    assert!(status.message().contains("watches too often"), "{status}");
                    refused += 1;
                }
            }
        }
    }
    assert!(
        open.len() <= 256 && refused > 0,
        "{} open, {refused} refused",
        open.len()
    );
    // None of them was read so far; each still gets the newest set.
    for _ in 0..3 {
        ca.renew(&[]);
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    let asks = ca.asks_for("web").len();
    assert!((2..=5).contains(&asks), "{asks} asks for one entry");
    let mut last = open.pop().unwrap();
    assert_eq!(ids(&next(&mut last).await), ["spiffe://dev.test/web"]);
    drop(open);
    drop(last);
    let mut again = client(&node).await;
    let reopened = async {
        while again.fetch_x509svid(call(X509svidRequest {})).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, reopened).await.unwrap();
    agent.stop().await;
}

/// Not a test by itself: the process that another test starts and kills. It does nothing unless that test names a socket.
#[tokio::test]
async fn child_holds_a_stream() {
    let Ok(socket) = std::env::var(SOCKET_VARIABLE) else {
        return;
    };
    let mut client = SpiffeWorkloadApiClient::new(channel(socket.into()).await);
    let mut stream = client
        .fetch_x509svid(call(X509svidRequest {}))
        .await
        .unwrap()
        .into_inner();
    let _ = next(&mut stream).await;
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_that_dies_loses_its_streams() {
    let ca = FakeCa::start(vec![entry("web", "/web")]).await;
    let node = Node::new();
    let config = socket_config(&node)
        .with_metrics("127.0.0.1:0".parse().unwrap())
        .unwrap();
    let mut agent = node.start(config, Some(ca.token()));
    agent.connected().await;
    let address = agent.handle.metrics_address().unwrap();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "workload::child_holds_a_stream"])
        .env(SOCKET_VARIABLE, node.socket())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let watches =
        |wanted: &str| page(address, "/metrics").contains(&format!("mintage_agent_workload_watches {wanted}\n"));
    until("the child's stream", || tokio::task::block_in_place(|| watches("1"))).await;
    child.kill().unwrap();
    child.wait().unwrap();
    until("its end", || tokio::task::block_in_place(|| watches("0"))).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_ready_and_metrics_tell_the_state() {
    let ca = FakeCa::start(vec![entry("web", "/web")]).await;
    let node = Node::new();
    let config = node
        .config(&["web", "unknown"])
        .with_metrics("127.0.0.1:0".parse().unwrap())
        .unwrap();
    let mut agent = node.start(config, Some(ca.token()));
    agent.delivered("web").await;
    let address = agent.handle.metrics_address().unwrap();
    let get = |path: &str| tokio::task::block_in_place(|| page(address, path));
    assert!(get("/live").starts_with("HTTP/1.1 200"));
    let ready = get("/ready");
    assert!(
        ready.starts_with("HTTP/1.1 503") && ready.contains("offers no such entry"),
        "{ready}"
    );
    agent.handle.reload(vec![node.delivery("web")]).await.unwrap();
    let ready = get("/ready");
    assert!(
        ready.starts_with("HTTP/1.1 200") && ready.contains("\"schema_version\":1"),
        "{ready}"
    );
    let metrics = get("/metrics");
    for line in [
        "mintage_agent_connected 1",
        "mintage_agent_deliveries 1",
        "mintage_agent_deliveries_serving 1",
        "mintage_agent_rotation_failures_total{stage=\"entry\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    let value = |name: &str| -> f64 {
        let metrics = get("/metrics");
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name}: {metrics}")).parse().unwrap()
    };
    let expiry = || value("mintage_agent_svid_expiry_timestamp_seconds") as i64;
    assert_eq!(expiry(), node.read("web").leaf().not_after().seconds());
    let own = ca.state.agent_leaf().unwrap().not_after().seconds();
    assert_eq!(value("mintage_agent_identity_expiry_timestamp_seconds") as i64, own);
    assert_eq!(value("mintage_agent_rotation_lag_seconds"), 0.0, "renewal is far away");
    let secret_free = !metrics.contains("dev.test") && !metrics.contains("\"web\"");
    assert!(secret_free, "no identity is a label");
    // Without a CA the end stays what it is, and the lag grows from the point of renewal on.
    let end = expiry();
    ca.down();
    node.clock.shift(45);
    until("a lag", || value("mintage_agent_rotation_lag_seconds") > 5.0).await;
    assert_eq!(expiry(), end);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_of_a_callers_identity_is_told_on_the_page_and_leaves_the_node_ready() {
    let ca = FakeCa::start(vec![entry("web", "/web"), entry("db", "/db")]).await;
    let node = Node::new();
    let config = node
        .config(&["db"])
        .with_socket(Some(node.socket()))
        .with_metrics("127.0.0.1:0".parse().unwrap())
        .unwrap();
    let mut agent = node.start(config, Some(ca.token()));
    agent.delivered("db").await;
    ca.script().refuse = Some(v1::Refusal {
        code: "ttl_too_long".to_owned(),
        message: "the entry asks for too long a lifetime".to_owned(),
        ..v1::Refusal::default()
    });
    let mut client = client(&node).await;
    let calling = tokio::spawn(async move { client.fetch_x509svid(call(X509svidRequest {})).await.map(drop) });
    let told = agent.problem("mint").await;
    assert!(
        told.contains("before the entry or the CA's policy is changed"),
        "{told}"
    );
    let address = agent.handle.metrics_address().unwrap();
    let ready = tokio::task::block_in_place(|| page(address, "/ready"));
    assert!(
        ready.starts_with("HTTP/1.1 200"),
        "one refused workload is no reason: {ready}"
    );
    let word =
        "web for callers of the socket: mint: the CA refused: the entry asks for too long a lifetime (ttl_too_long)";
    assert!(ready.contains(word), "{ready}");
    calling.abort();
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bundle_map_follows_the_bundle_in_force() {
    let ca = FakeCa::start(vec![entry("web", "/web")]).await;
    let node = Node::new();
    let path = node.temp.path().join("run/bundles.json");
    let config = socket_config(&node).with_bundle_map(&path).unwrap();
    let mut agent = node.start(config, Some(ca.token()));
    agent.connected().await;
    let sequence = |text: &str| {
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        value["trust_domains"]["dev.test"]["spiffe_sequence"].as_u64()
    };
    let now = || std::fs::read_to_string(&path).ok().and_then(|text| sequence(&text));
    until("the map of the bundle that came with joining", || now() == Some(1)).await;
    *ca.state.bundle_sequence.lock().unwrap() = 2;
    let trust = v1::Trust {
        bundle: Some(ca.bundle()),
    };
    ca.push(Message::Trust(trust));
    until("the map of the next bundle", || now() == Some(2)).await;
    agent.stop().await;
}
