//! Client libraries of the Workload API that nobody here wrote, unchanged, at the agent's socket: each gets the full set at
//! once and at every change, keeps its identity through a revocation, and loses it with its entry.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{fs, path::PathBuf, time::Duration};

use mintage_proto::v1::{DeleteEntryRequest, revoke_request::Target};
use mintage_tests::kit::{
    ca::domain,
    client::registry,
    node::Node,
    workloads::{Workload, serial_in},
};

/// Where the modules of the clients are kept between runs.
fn scratch() -> PathBuf {
    let scratch = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("interop");
    fs::create_dir_all(&scratch).unwrap();
    scratch
}

fn id(name: &str) -> String {
    format!("spiffe://{}/{name}", domain())
}

async fn delete(node: &Node, name: &str) {
    let request = DeleteEntryRequest {
        name: name.to_owned(),
        dry_run: false,
    };
    let mut registry = registry(&node.ca.admin_socket()).await;
    registry.delete_entry(request).await.unwrap();
}

/// Printed, not asserted: how long is a matter of the machine.
fn print(client: &str, what: &str, latency: Duration) {
    let millis = latency.as_secs_f64() * 1e3;
    println!("{client}: {what} {millis:.1} ms after the reply to the command");
}

#[tokio::test(flavor = "multi_thread")]
async fn w10_w15_py_spiffe_follows_a_rotation_and_a_withdrawal() {
    let node = Node::start(&["web", "db"], "").await;
    let Some(mut client) = Workload::python(&scratch(), &node.socket()) else {
        return;
    };
    let (web, db) = (id("web"), id("db"));
    let both = |line: &str| Some((serial_in(line, "set", &web)?, serial_in(line, "set", &db)?));
    let ((old, kept), _) = client.hear("the first set", both);

    node.revoke(Target::Serial(old.clone())).await;
    let replaced = |line: &str| both(line).filter(|(web, _)| *web != old);
    let ((_, beside), latency) = client.hear("the replacement", replaced);
    print("spiffe (PyPI)", "replaced", latency);
    assert_eq!(beside, kept, "the identity beside it is as it was");

    delete(&node, "web").await;
    let alone = |line: &str| serial_in(line, "set", &db).filter(|_| serial_in(line, "set", &web).is_none());
    let (left, latency) = client.hear("the set without it", alone);
    print("spiffe (PyPI)", "one of two withdrawn", latency);
    assert_eq!(left, kept);
    client.tell("fetch");
    let (fetched, _) = client.hear("an answer", |line| serial_in(line, "fetched", &db));
    assert_eq!(fetched, kept);

    delete(&node, "db").await;
    let denied = |line: &str| (line.starts_with("ended ") && line.contains("PERMISSION_DENIED")).then_some(());
    let ((), latency) = client.hear("the end", denied);
    print("spiffe (PyPI)", "the last withdrawn", latency);
    client.tell("fetch");
    client.hear("a refusal", |line| line.starts_with("refused ").then_some(()));
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn w10_w15_go_spiffe_talks_mutual_tls_through_a_rotation_and_hears_a_withdrawal() {
    let node = Node::start(&["web"], "").await;
    let Some(start) = Workload::go(&scratch()) else {
        return;
    };
    let (socket, domain, web) = (node.socket(), domain().to_string(), id("web"));
    let socket = socket.to_str().unwrap();
    let mut server = start(&["serve", socket, &domain]);
    let listening = |line: &str| line.strip_prefix("listening ").map(str::to_owned);
    let (address, _) = server.hear("its address", listening);
    let mut client = start(&["dial", socket, &domain, &address]);
    let (old, _) = client.hear("its identity", |line| serial_in(line, "source", &web));
    client.tell("dial");
    let sides = |line: &str, word: &str| Some((serial_in(line, word, "client")?, serial_in(line, word, "server")?));
    let (first, _) = client.hear("an answer", |line| sides(line, "dial"));
    assert_eq!(first, (old.clone(), old.clone()));

    node.revoke(Target::Serial(old.clone())).await;
    let replaced = |line: &str| serial_in(line, "source", &web).filter(|serial| *serial != old);
    let (new, latency) = client.hear("the replacement", replaced);
    print("go-spiffe", "replaced", latency);
    let (at_server, _) = server.hear("the replacement", replaced);
    assert_eq!(at_server, new);
    client.tell("again");
    let (again, _) = client.hear("an answer on the first connection", |line| sides(line, "again"));
    assert_eq!(again, first, "an open connection stays what it was");
    client.tell("dial");
    let (second, _) = client.hear("an answer", |line| sides(line, "dial"));
    assert_eq!(second, (new.clone(), new));

    delete(&node, "web").await;
    let denied = |line: &str| line.starts_with("ended PermissionDenied").then_some(());
    let ((), latency) = client.hear("the withdrawal", denied);
    print("go-spiffe", "withdrawn", latency);
    node.stop();
}
