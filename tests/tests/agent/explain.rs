//! Why somebody gets no identity: the same sentence in the refusal, in the agent's log, by `mintage explain` on the node and
//! by `mintage entry explain` at the CA; and who may ask about whose processes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Output, Stdio},
};

use mintage_tests::kit::{bins::binary, ca::entry_for, node::Node};
use serde_json::Value;

fn mintage(socket: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(binary("mintage"));
    command.args(words).arg("--socket").arg(socket);
    command.output().unwrap()
}

fn json(socket: &Path, words: &[&str]) -> (Option<i32>, Value) {
    let output = mintage(socket, &[words, &["-o", "json"]].concat());
    let value = serde_json::from_slice(&output.stdout);
    let value = value.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), value)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_is_told_the_same_reason() {
    let mut node = Node::start(&["web"], "").await;
    let own = rustix::process::geteuid().as_raw();
    let other = own + 1;
    entry_for(&node.ca.admin_socket(), "other", "/other", other).await;
    let reason = format!("other needs unix:uid:{other}, the workload shows unix:uid:{own}");
    // Once the entry is there, `explain` has both, and what matches stands first.
    let socket = node.socket();
    let explained = node.agent.wait_for("the entry", || {
        let (code, value) = json(&socket, &["explain"]);
        assert_eq!(code, Some(0), "{value}");
        (value["entries"].as_array().unwrap().len() == 2).then_some(value)
    });
    assert_eq!(explained["schema_version"], 1);
    assert_eq!(explained["entries"][0]["name"], "web");
    assert_eq!(explained["entries"][0]["matches"], true);
    assert_eq!(explained["entries"][1]["why_not"], reason.as_str());
    assert!(
        explained["approximate"].as_array().unwrap().is_empty(),
        "its own call: {explained}"
    );

    // A process by its number shows the same, and that this is nearly so is said.
    let pid = std::process::id().to_string();
    let (code, by_pid) = json(&socket, &["explain", "--pid", &pid]);
    assert_eq!((code, by_pid["method"].as_str()), (Some(0), Some("pidfd_open")));
    assert_eq!(by_pid["entries"][1]["why_not"], reason.as_str());
    assert_eq!(by_pid["approximate"].as_array().unwrap().len(), 2, "{by_pid}");

    // So does the CA.
    let selector = format!("unix:uid:{own}");
    let at_ca = json(
        &node.ca.admin_socket(),
        &["entry", "explain", "--agent", "n1", "--selector", &selector],
    );
    let rows = at_ca.1["explanations"].as_array().unwrap().clone();
    let row = rows.iter().find(|row| row["name"] == "other").unwrap();
    assert_eq!(row["why_not"], reason.as_str());

    // And who is refused, and the agent's log.
    let delete = mintage(&node.ca.admin_socket(), &["entry", "delete", "web"]);
    assert!(delete.status.success(), "{}", said(&delete));
    let refusal = node.agent.wait_for("the refusal", || {
        let fetched = mintage(&socket, &["svid", "fetch"]);
        (fetched.status.code() == Some(3)).then(|| said(&fetched))
    });
    assert!(refusal.contains(&reason), "{refusal}");
    let log = node
        .agent
        .wait_for_log("the reason", |log| log.contains("a caller has no identity"));
    assert!(log.contains(&reason), "{log}");
    let (code, none) = json(&socket, &["explain"]);
    assert_eq!((code, none["entries"].as_array().unwrap().len()), (Some(3), 1));
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_processes_that_are_none_are_told_apart() {
    let mut node = Node::start(&["web"], "").await;
    let socket = node.socket();
    let own = rustix::process::geteuid().as_raw();
    let (code, user) = json(&socket, &["explain", "--uid", &(own + 1).to_string()]);
    assert_eq!(code, Some(3), "{user}");
    assert_eq!(user["pid"], Value::Null);
    let why = user["entries"][0]["why_not"].as_str().unwrap();
    assert!(
        why.starts_with(&format!(
            "web needs unix:uid:{own}, the workload shows unix:uid:{}",
            own + 1
        )),
        "{why}"
    );
    let mut ended = Command::new("true").spawn().unwrap();
    let pid = ended.id().to_string();
    ended.wait().unwrap();
    let gone = mintage(&socket, &["explain", "--pid", &pid]);
    assert_eq!(gone.status.code(), Some(3));
    assert!(said(&gone).contains("has ended"), "{}", said(&gone));
    for wrong in ["0", "-1", "x", "99999999999"] {
        let wrong = mintage(&socket, &["explain", "--pid", wrong]);
        assert_eq!(wrong.status.code(), Some(1), "{}", said(&wrong));
    }
    if own == 0 {
        // Another user's process, looked at as root.
        let mut sleeping = Command::new("sleep")
            .arg("600")
            .uid(65_534)
            .gid(65_534)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let (code, other) = json(&socket, &["explain", "--pid", &sleeping.id().to_string()]);
        assert_eq!((code, other["uid"].as_u64()), (Some(3), Some(65_534)));
        let shown = other["selectors"].to_string();
        assert!(
            shown.contains("unix:path:/") && shown.contains("unix:sha256:"),
            "{shown}"
        );
        sleeping.kill().unwrap();
        sleeping.wait().unwrap();
    }
    node.agent.runs();
    node.stop();
}
