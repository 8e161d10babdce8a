//! Client libraries of the Workload API that nobody here wrote, unchanged, at the agent's socket: each gets the full set at
//! once and at every change, keeps its identity through a revocation, and loses it with its entry.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use mintage_proto::v1::{DeleteEntryRequest, revoke_request::Target};
use mintage_tests::kit::{
    ca::{apply, domain},
    client::registry,
    federation::{document, federate_with, federating_entry, other_domain, unfederate},
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

/// The serials of `web` and `db` in one message.
fn both(line: &str) -> Option<(String, String)> {
    Some((serial_in(line, "set", &id("web"))?, serial_in(line, "set", &id("db"))?))
}

/// The serials of the first set, after the client has verified a token too.
fn first_set_and_token(client: &mut Workload) -> (String, String) {
    let (first, _) = client.hear("the first set", both);
    client.tell("jwt audience");
    let (audience, _) = client.hear("a token that it has verified", |line| {
        serial_in(line, "token", &id("web")).or_else(|| serial_in(line, "token", &id("db")))
    });
    assert_eq!(audience, "audience");
    first
}

/// `web` is revoked and replaced, then withdrawn; each message is the full set, and `db` stays what it was.
async fn replaced_then_one_left(node: &Node, client: &mut Workload, library: &str, old: &str, kept: &str) {
    node.revoke(Target::Serial(old.to_owned())).await;
    let replaced = |line: &str| both(line).filter(|(web, _)| web != old);
    let ((_, beside), latency) = client.hear("the replacement", replaced);
    print(library, "replaced", latency);
    assert_eq!(beside, kept, "the identity beside it is in the message too, as it was");

    delete(node, "web").await;
    let alone = |line: &str| serial_in(line, "set", &id("db")).filter(|_| serial_in(line, "set", &id("web")).is_none());
    let (left, latency) = client.hear("the set without it", alone);
    print(library, "one of two withdrawn", latency);
    assert_eq!(left, kept);
}

#[tokio::test(flavor = "multi_thread")]
async fn w10_w15_py_spiffe_follows_a_rotation_and_a_withdrawal() {
    let node = Node::start(&["web", "db"], "").await;
    let Some(mut client) = Workload::python(&scratch(), &node.socket()) else {
        return;
    };
    let (old, kept) = first_set_and_token(&mut client);
    replaced_then_one_left(&node, &mut client, "spiffe (PyPI)", &old, &kept).await;
    client.tell("fetch");
    let (fetched, _) = client.hear("an answer", |line| serial_in(line, "fetched", &id("db")));
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
    let Some(start) = Workload::go(&scratch()) else {
        return;
    };
    // Below the root itself, chains are one certificate long.
    for (chain, length) in [("intermediate", 2), ("root", 1)] {
        let node = Node::start_with(&["web"], "", &format!("[ca]\nchain = {chain:?}\n")).await;
        assert_eq!(node.pair("web").chain.len(), length);
        mutual_tls(node, &format!("go-spiffe, chain = {chain:?}"), &start).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn w10_w15_spiffe_rustls_talks_mutual_tls_through_a_rotation_and_hears_a_withdrawal() {
    let node = Node::start(&["web"], "").await;
    let Some(start) = Workload::rust(&scratch()) else {
        return;
    };
    mutual_tls(node, "spiffe-rustls", start).await;
}

/// A server and a client of one library, through a revocation of what both have, until their entry is deleted.
async fn mutual_tls(node: Node, library: &str, start: impl Fn(&[&str]) -> Workload) {
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
    client.tell("jwt audience");
    let (audience, _) = client.hear("a valid token", |line| serial_in(line, "token", &web));
    assert_eq!(audience, "audience");

    node.revoke(Target::Serial(old.clone())).await;
    let replaced = |line: &str| serial_in(line, "source", &web).filter(|serial| *serial != old);
    let (new, latency) = client.hear("the replacement", replaced);
    print(library, "replaced", latency);
    let (at_server, _) = server.hear("the replacement", replaced);
    assert_eq!(at_server, new);
    client.tell("again");
    let (again, _) = client.hear("an answer on the first connection", |line| sides(line, "again"));
    assert_eq!(again, first, "an open connection stays what it was");
    client.tell("dial");
    let (second, _) = client.hear("an answer", |line| sides(line, "dial"));
    assert_eq!(second, (new.clone(), new));

    delete(&node, "web").await;
    // The one is the status, the other what a library makes of it.
    let words = ["ended PermissionDenied", "ended NoIdentityIssued"];
    let denied = |line: &str| words.iter().any(|word| line.starts_with(word)).then_some(());
    let ((), latency) = client.hear("the withdrawal", denied);
    print(library, "withdrawn", latency);
    client.tell("jwt audience");
    client.hear("a refusal", |line| line.starts_with("failed ").then_some(()));
    node.stop();
}

/// A server in one trust domain and a client in the other, both of go-spiffe and unchanged: each verifies the other by the bundle
/// that its own agent hands out, until one side's operator takes it away.
#[tokio::test(flavor = "multi_thread")]
async fn go_spiffe_talks_mutual_tls_between_two_trust_domains_until_one_is_not_trusted_any_longer() {
    let Some(start) = Workload::go(&scratch()) else {
        return;
    };
    let (one, other) = (domain(), other_domain());
    let serving = Node::start_of(&one, &["web"], "", "").await;
    let calling = Node::start_of(&other, &["web"], "", "").await;
    for (node, of, with, by) in [(&serving, &one, &other, &calling), (&calling, &other, &one, &serving)] {
        let theirs = document(&by.ca.admin_socket()).await;
        federate_with(&node.ca.admin_socket(), with, &theirs).await;
        let entry = federating_entry(of, "web", with);
        apply(&node.ca.admin_socket(), vec![entry]).await.unwrap();
    }
    let socket = |node: &Node| node.socket().to_str().unwrap().to_owned();
    let mut server = start(&["serve", &socket(&serving), other.as_str()]);
    let listening = |line: &str| line.strip_prefix("listening ").map(str::to_owned);
    let (address, _) = server.hear("its address", listening);
    let mut client = start(&["dial", &socket(&calling), one.as_str(), &address]);
    let answered = |line: &str| match line.split(' ').next() {
        Some("dial") => Some(true),
        Some("failed") => Some(false),
        _ => None,
    };
    // The bundle comes to each of them on a stream of its own.
    let mut dial = |wanted: bool| loop {
        client.tell("dial");
        if client.hear("an answer", answered).0 == wanted {
            return;
        }
    };
    dial(true);
    unfederate(&serving.ca.admin_socket(), &other).await;
    let started = Instant::now();
    dial(false);
    print("go-spiffe", "another trust domain is refused", started.elapsed());
    serving.stop();
    calling.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn w10_w15_grpc_js_gets_the_full_set_each_time_with_nothing_but_the_description() {
    let node = Node::start(&["web", "db"], "").await;
    let Some(mut client) = Workload::node(&scratch(), &node.socket()) else {
        return;
    };
    let (web, db) = (id("web"), id("db"));
    // The first line of all: nothing comes before the full set, and nothing in it is unusable.
    let first = |line: &str| Some((serial_in(line, "set", &web), serial_in(line, "set", &db)));
    let (heard, _) = client.hear("the first set", first);
    let (Some(old), Some(kept)) = heard else {
        panic!("the first message has not the full set: {heard:?}");
    };
    client.tell("jwt audience");
    let tokens = format!("tokens {db}=audience {web}=audience");
    client.hear("a token for each identity", |line| (line == tokens).then_some(()));

    replaced_then_one_left(&node, &mut client, "@grpc/grpc-js", &old, &kept).await;
    client.tell("fetch");
    let (fetched, _) = client.hear("an answer", |line| serial_in(line, "fetched", &db));
    assert_eq!(fetched, kept);

    delete(&node, "db").await;
    let denied = |line: &str| line.starts_with("ended PERMISSION_DENIED ").then_some(());
    let ((), latency) = client.hear("the end", denied);
    print("@grpc/grpc-js", "the last withdrawn", latency);
    for word in ["fetch", "jwt audience"] {
        client.tell(word);
        let refused = |line: &str| line.starts_with("refused PERMISSION_DENIED ").then_some(());
        client.hear("a refusal", refused);
    }
    assert!(!client.has_said("unusable"), "every key and chain was usable");
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn w10_w15_java_spiffe_follows_a_rotation_and_a_withdrawal() {
    let node = Node::start(&["web", "db"], "").await;
    let Some(mut client) = Workload::java(&scratch(), &node.socket()) else {
        return;
    };
    let (old, kept) = first_set_and_token(&mut client);
    replaced_then_one_left(&node, &mut client, "java-spiffe", &old, &kept).await;
    client.tell("source");
    let (handed, _) = client.hear("what its source has", |line| serial_in(line, "source", &id("db")));
    assert_eq!(handed, kept);

    // Its stream asks again by itself and without a word when it is refused, so it is asked.
    delete(&node, "db").await;
    client.tell("fetch");
    let refused = |line: &str| match line.split(' ').next() {
        Some("fetched") => Some(false),
        Some("refused") => Some(line.contains("PERMISSION_DENIED")),
        _ => None,
    };
    while !client.hear("an answer", refused).0 {
        client.tell("fetch");
    }
    node.stop();
}
