//! What callers of the socket are served outlives the agent: one that starts while the CA is away serves what has not ended,
//! and is corrected when the CA is back.

use std::{os::unix::fs::PermissionsExt, path::PathBuf, time::Duration};

use mintage_agent::{AgentError, AgentEvent, Config};
use mintage_proto::{
    v1,
    workload::{JwtBundlesRequest, X509svidResponse},
};
use mintage_svid::LeafInfo;
use tonic::Code;

use crate::support::{
    FakeCa,
    agent::{Node, Running, until},
    entry,
    socket::{call, client, end, ids, leaf, next, socket_config, started, svids},
};

const A: &str = "spiffe://dev.test/a";
const B: &str = "spiffe://dev.test/b";

fn kept(node: &Node, name: &str) -> PathBuf {
    node.data().join("workloads").join(name)
}

/// Waits until these pairs are on disk.
async fn written(node: &Node, entries: &[&str]) {
    until("what is kept", || {
        entries.iter().all(|entry| kept(node, &format!("{entry}.pem")).exists())
    })
    .await;
}

/// A CA that gives `a` and `b`, both given to this process, and then down; what was given.
async fn given(ttl: Duration) -> (FakeCa, Node, X509svidResponse) {
    let (ca, node, agent) = started(Vec::new()).await;
    ca.script().svid_ttl = ttl;
    let mut agent = agent;
    ca.set_entries(vec![entry("a", "/a"), entry("b", "/b")]);
    applied(&mut agent, 2).await;
    let first = next(&mut svids(&node).await.unwrap()).await;
    assert_eq!(ids(&first), [A, B]);
    written(&node, &["a", "b"]).await;
    ca.down();
    agent.stop().await;
    (ca, node, first)
}

/// Waits until the CA has named so many entries; what it named at the beginning of its stream are as many as there were then.
async fn applied(agent: &mut Running, entries: usize) {
    let entries = |event| matches!(event, AgentEvent::EntriesApplied { count, .. } if count == entries).then_some(());
    agent.event("entries", entries).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_without_the_ca_serves_the_same_and_the_ca_corrects_it() {
    let (ca, node, before) = given(Duration::from_secs(600)).await;
    for file in ["a.pem", "b.pem", "entries"] {
        let mode = std::fs::metadata(kept(&node, file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600, "{file}");
    }
    let mut agent = node.start(socket_config(&node), None);
    let mut stream = svids(&node).await.unwrap();
    assert_eq!(next(&mut stream).await.svids, before.svids);
    // Bundles need no CA either, nor does a caller that comes later.
    let bundles = client(&node).await.fetch_jwt_bundles(call(JwtBundlesRequest {})).await;
    assert!(bundles.is_ok(), "{bundles:?}");

    // One was deleted meanwhile, and the other is of somebody else now.
    let mut other = entry("b", "/b");
    other.selectors.push("unix:gid:4294967000".to_owned());
    ca.script().entries = vec![other];
    ca.up().await;
    let status = end(&mut stream).await;
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    applied(&mut agent, 1).await;
    until("the end of what is kept of it", || !kept(&node, "a.pem").exists()).await;
    ca.down();
    agent.stop().await;
    let agent = node.start(socket_config(&node), None);
    let refused = svids(&node).await.unwrap_err();
    assert_eq!(
        refused.code(),
        Code::Unavailable,
        "nobody can say whether there is an entry now"
    );
    assert!(refused.message().contains("has not heard from the CA"), "{refused}");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_says_something_else_after_a_restart_gets_another_certificate() {
    let (ca, node, before) = given(Duration::from_secs(600)).await;
    let agent = node.start(socket_config(&node), None);
    let mut stream = svids(&node).await.unwrap();
    next(&mut stream).await;
    ca.script().entries = vec![
        entry("a", "/a"),
        v1::Entry {
            dns_names: vec!["b.test".to_owned()],
            ..entry("b", "/b")
        },
    ];
    ca.up().await;
    let after = loop {
        let message = next(&mut stream).await;
        if message.svids[1] != before.svids[1] {
            break message;
        }
    };
    assert_eq!(after.svids[0], before.svids[0], "what is as it was is kept");
    assert_eq!(ca.asks_for("b").len(), 2);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_ended_or_was_revoked_is_not_served_after_a_restart() {
    let (ca, node, before) = given(Duration::from_secs(600)).await;
    // Revoked while the agent runs, with the CA away before it could be replaced.
    ca.up().await;
    let mut agent = node.start(socket_config(&node), None);
    agent.connected().await;
    ca.script().silent_mints = u32::MAX;
    let leaf = leaf(&before.svids[0].x509_svid);
    let leaf = LeafInfo::parse(&leaf).unwrap();
    let sequence = ca.revoke(*leaf.serial(), leaf.not_after());
    let enforced =
        |event| matches!(event, AgentEvent::RevocationApplied { sequence: at } if at == sequence).then_some(());
    agent.event("the revocation", enforced).await;
    let saved = node.data().join("revocation");
    until("the saved revocation", || {
        std::fs::read_dir(&saved).unwrap().count() > 0
    })
    .await;
    ca.down();
    agent.stop().await;
    let agent = node.start(socket_config(&node), None);
    let refused = svids(&node).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(
        refused.message().contains("entry a"),
        "the other one is not put first: {refused}"
    );
    agent.stop().await;
    assert!(!kept(&node, "a.pem").exists() && kept(&node, "b.pem").exists());

    // A clock that is far behind makes nothing useless for ever.
    node.clock.shift(-86_400);
    let agent = node.start(socket_config(&node), None);
    assert_eq!(svids(&node).await.unwrap_err().code(), Code::Unavailable);
    agent.stop().await;
    assert!(kept(&node, "b.pem").exists());

    node.clock.shift(3600);
    let agent = node.start(socket_config(&node), None);
    assert_eq!(svids(&node).await.unwrap_err().code(), Code::Unavailable);
    agent.stop().await;
    assert!(!kept(&node, "b.pem").exists(), "a key that is of no use any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_files_are_set_aside_and_never_keep_an_agent_from_starting() {
    let (ca, node, before) = given(Duration::from_secs(600)).await;
    let whole = std::fs::read(kept(&node, "b.pem")).unwrap();
    std::fs::write(kept(&node, "b.pem"), &whole[..whole.len() / 2]).unwrap();
    let mut agent = node.start(socket_config(&node), None);
    let refused = svids(&node).await.unwrap_err();
    assert!(refused.message().contains("entry b"), "{refused}");
    assert!(kept(&node, "b.damaged").exists() && !kept(&node, "b.pem").exists());
    ca.up().await;
    // The agent tries again in its own time, and a caller is not kept waiting for that.
    agent.connected().await;
    let mut stream = svids(&node).await.unwrap();
    let after = next(&mut stream).await;
    assert_eq!((ids(&after), &after.svids[0]), (vec![A, B], &before.svids[0]));
    written(&node, &["a", "b"]).await;
    ca.down();
    drop(stream);
    agent.stop().await;

    // The entries too, another agent's pair, and what is no file at all.
    std::fs::write(kept(&node, "entries"), "rubbish").unwrap();
    std::fs::create_dir(kept(&node, "folder")).unwrap();
    let agent = node.start(socket_config(&node), None);
    assert_eq!(svids(&node).await.unwrap_err().code(), Code::Unavailable);
    assert!(kept(&node, "entries.damaged").exists() && !kept(&node, "a.pem").exists());
    agent.stop().await;
    std::fs::remove_dir_all(node.data().join("workloads")).unwrap();
    std::fs::write(node.data().join("workloads"), "a file").unwrap();
    ca.up().await;
    let mut agent = node.start(socket_config(&node), None);
    agent.connected().await;
    assert_eq!(ids(&next(&mut svids(&node).await.unwrap()).await), [A, B]);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_kept_where_the_configuration_says_so_or_the_ca_does_not_take_the_agent() {
    let without = |node: &Node| -> Config { socket_config(node).with_kept_workloads(false) };
    let (ca, node, _) = given(Duration::from_secs(600)).await;
    let mut agent = node.start(without(&node), None);
    assert_eq!(svids(&node).await.unwrap_err().code(), Code::Unavailable);
    let empty = || std::fs::read_dir(node.data().join("workloads")).unwrap().count() == 0;
    assert!(empty(), "what was kept before is removed");
    ca.up().await;
    agent.connected().await;
    next(&mut svids(&node).await.unwrap()).await;
    agent.stop().await;
    assert!(empty());

    // Banned while it was away: what it kept is withdrawn when the CA says so, and then nothing is left to do.
    let mut agent = node.start(socket_config(&node), None);
    agent.connected().await;
    next(&mut svids(&node).await.unwrap()).await;
    written(&node, &["a", "b"]).await;
    ca.down();
    agent.stop().await;
    ca.script().no_agents = true;
    let agent = node.start(socket_config(&node), None);
    let mut stream = svids(&node).await.unwrap();
    assert_eq!(ids(&next(&mut stream).await), [A, B]);
    ca.up().await;
    let status = end(&mut stream).await;
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let ended = agent.handle.stopped().await.unwrap_err();
    assert!(matches!(*ended, AgentError::NeedsToken(_)), "{ended}");
    drop(agent);
    let pairs = || {
        let names = std::fs::read_dir(node.data().join("workloads")).unwrap();
        names
            .filter(|name| name.as_ref().unwrap().path().extension().is_some())
            .count()
    };
    until("no key is left", || pairs() == 0).await;
}
