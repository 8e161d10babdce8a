//! `mintage svid` against a real agent: what a workload sees of itself, as files, as lines, and at each change.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Output, Stdio},
};

use mintage_proto::v1::revoke_request::Target;
use mintage_tests::kit::{
    bins::binary,
    ca::{entry, entry_for},
    node::Node,
};
use serde_json::Value;

fn mintage(socket: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(binary("mintage"));
    command.env("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", socket.display()));
    command.arg("svid").args(words).output().unwrap()
}

fn text(octets: &[u8]) -> String {
    String::from_utf8(octets.to_vec()).unwrap()
}

fn rows(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", text(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["schema_version"], 1);
    answer["svids"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_fetches_watches_and_inspects_what_it_is_given() {
    let node = Node::start(&["web"], "").await;
    let socket = node.socket();
    let fetched = rows(&mintage(&socket, &["fetch", "-o", "json"]));
    assert_eq!(fetched.len(), 1);
    assert_eq!(fetched[0]["spiffe_id"], "spiffe://dev.test/web");
    assert!(!fetched[0].to_string().contains("PRIVATE"), "no key without --write");

    // As files, which the offline verb reads again.
    let out = node.beside("out");
    fs::remove_dir(&out).unwrap();
    let written = mintage(&socket, &["fetch", "--write", out.to_str().unwrap()]);
    assert!(written.status.success() && text(&written.stdout).contains("spiffe://dev.test/web"));
    let whole = node.beside("whole").join("pair.pem");
    let pair = ["svid_key.pem", "svid.pem"].map(|name| fs::read_to_string(out.join(name)).unwrap());
    fs::write(&whole, pair.concat()).unwrap();
    let inspected = mintage(&socket, &["inspect", whole.to_str().unwrap(), "-o", "json"]);
    let inspected: Value = serde_json::from_slice(&inspected.stdout).unwrap();
    assert_eq!(inspected["key_matches"], true);
    assert_eq!(inspected["certificates"], 2);

    // Another key beside the certificate is found out.
    let other = fs::read_to_string(node.place.join("web/svid_key.pem")).unwrap();
    fs::write(&whole, format!("{other}{}", pair[1])).unwrap();
    let wrong = mintage(&socket, &["inspect", whole.to_str().unwrap()]);
    assert_eq!(wrong.status.code(), Some(3), "{}", text(&wrong.stderr));

    // A change is seen by whoever watches.
    let mut watching = Command::new(binary("mintage"))
        .args(["svid", "watch", "-o", "jsonl", "--socket"])
        .arg(&socket)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    let first = next();
    assert_eq!(first["spiffe_id"], "spiffe://dev.test/web");
    node.revoke(Target::Serial(first["serial"].as_str().unwrap().to_owned()))
        .await;
    while next()["serial"] == first["serial"] {}
    entry(&node.ca.admin_socket(), "second", "/second").await;
    while next()["spiffe_id"] != "spiffe://dev.test/second" {}
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&watching),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    assert_eq!(watching.wait().unwrap().code(), Some(0));

    let one = rows(&mintage(
        &socket,
        &["fetch", "--spiffe-id", "spiffe://dev.test/second", "-o", "json"],
    ));
    assert_eq!(one.len(), 1);
    let none = mintage(&socket, &["fetch", "--spiffe-id", "spiffe://dev.test/third"]);
    assert_eq!(none.status.code(), Some(3));
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn watched_files_follow_each_change_and_one_that_could_not_be_written_follows_later() {
    let node = Node::start(&["web"], "").await;
    let base = node.beside("base");
    let (out, away) = (base.join("out"), base.join("away"));
    let watch = || {
        let mut watch = Command::new(binary("mintage"));
        watch.args(["svid", "watch", "-o", "jsonl", "--write"]).arg(&out);
        watch.arg("--socket").arg(node.socket());
        watch
    };
    // What cannot be written from the beginning is a mistake.
    fs::write(&out, "").unwrap();
    let refused = watch().output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused.stderr));
    fs::remove_file(&out).unwrap();

    let mut watching = watch().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut notices = BufReader::new(watching.stderr.take().unwrap()).lines();
    let mut serial = || {
        let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        line["serial"].as_str().unwrap().to_owned()
    };
    let in_files = || {
        let chain = mintage_svid::pem::decode_certificates(&fs::read_to_string(out.join("svid.pem")).unwrap()).unwrap();
        mintage_svid::LeafInfo::parse(&chain[0]).unwrap().serial().to_string()
    };
    let first = serial();
    assert_eq!(in_files(), first);
    // A file in the folder's place: root is not stopped by modes.
    fs::rename(&out, &away).unwrap();
    fs::write(&out, "").unwrap();
    node.revoke(Target::Serial(first.clone())).await;
    let told = loop {
        let told = notices.next().unwrap().unwrap();
        if told.contains("files stay") {
            break told;
        }
    };
    assert!(told.contains("asking again in"), "{told}");
    fs::remove_file(&out).unwrap();
    fs::rename(&away, &out).unwrap();
    let second = loop {
        let next = serial();
        if next != first {
            break next;
        }
    };
    assert_eq!(in_files(), second, "no further rotation was needed");
    let pid = rustix::process::Pid::from_child(&watching);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(watching.wait().unwrap().code(), Some(0));
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_identity_is_told_why_and_who_finds_no_agent_what_to_do() {
    let mut node = Node::start(&[], "").await;
    let socket = node.socket();
    node.agent.wait_for("its socket", || socket.exists().then_some(()));
    let other = rustix::process::geteuid().as_raw() + 1;
    entry_for(&node.ca.admin_socket(), "other", "/other", other).await;
    let refused = mintage(&node.socket(), &["fetch"]);
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused.stderr));
    assert!(
        text(&refused.stderr).contains("no identity is issued to this process"),
        "{}",
        text(&refused.stderr)
    );

    let nobody = mintage(Path::new("/nonexistent/agent.sock"), &["fetch"]);
    assert_eq!(nobody.status.code(), Some(2));
    assert!(
        text(&nobody.stderr).contains("SPIFFE_ENDPOINT_SOCKET"),
        "{}",
        text(&nobody.stderr)
    );
    node.stop();
}
