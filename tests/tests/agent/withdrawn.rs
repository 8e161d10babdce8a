//! An identity that the agent no longer gives: its files go, nobody is made somebody else, and it may come back.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    io::{BufRead, BufReader, Lines, Read},
    path::Path,
    process::{Child, Command, Stdio},
};

use mintage_svid::{LeafInfo, pem::decode_certificates};
use mintage_tests::kit::{
    bins::binary,
    ca::{delete, entry},
    node::Node,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const ALPHA: &str = "spiffe://dev.test/alpha";
const WEB: &str = "spiffe://dev.test/web";

fn mintage(node: &Node) -> Command {
    let mut command = Command::new(binary("mintage"));
    command.env("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", node.socket().display()));
    command.stdin(Stdio::null());
    command
}

fn started(command: &mut Command) -> (Child, impl FnMut() -> String + use<>, impl FnMut(&str) + use<>) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut notices = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = move || lines.next().unwrap().unwrap();
    (child, line, move |part: &str| until(&mut notices, part))
}

/// Reads up to a notice with this in it.
fn until(notices: &mut Lines<BufReader<impl Read>>, part: &str) {
    for line in notices {
        if line.unwrap().contains(part) {
            return;
        }
    }
    panic!("it ended before it said {part:?}");
}

fn ends(mut child: Child, code: i32) {
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(code));
}

fn held(folder: &Path) -> String {
    let chain = decode_certificates(&fs::read_to_string(folder.join("svid.pem")).unwrap()).unwrap();
    LeafInfo::parse(&chain[0]).unwrap().id().to_string()
}

/// Nothing but the mark of whose the folder is.
fn is_emptied(folder: &Path) -> bool {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.eq([".mintage-delivery"])
}

#[tokio::test(flavor = "multi_thread")]
async fn watched_files_are_of_one_identity_and_go_when_it_is_withdrawn() {
    let node = Node::start(&["alpha", "web"], "").await;
    let (admin, out) = (node.ca.admin_socket(), node.beside("out"));
    fs::remove_dir(&out).unwrap();
    let mut watch = mintage(&node);
    watch.args(["svid", "watch", "-o", "jsonl", "--write"]).arg(&out);
    let (watching, mut line, mut notice) = started(&mut watch);
    let mut until_row = |id: &str, withdrawn: bool| loop {
        let row: Value = serde_json::from_str(&line()).unwrap();
        if row["spiffe_id"] == id && (row["withdrawn"] == true) == withdrawn {
            return;
        }
    };
    until_row(WEB, false);
    assert_eq!(held(&out), ALPHA, "the first one");

    // The other one is given on, and stays out of these files.
    delete(&admin, "alpha").await;
    notice("spiffe://dev.test/alpha is withdrawn: its files are removed from");
    assert!(is_emptied(&out));
    until_row(ALPHA, true);
    until_row(WEB, false);
    assert!(is_emptied(&out));
    entry(&admin, "alpha", "/alpha").await;
    until_row(ALPHA, false);
    assert_eq!(held(&out), ALPHA);

    // To be given nothing at all is no other thing.
    delete(&admin, "web").await;
    until_row(WEB, true);
    assert_eq!(held(&out), ALPHA);
    delete(&admin, "alpha").await;
    notice("spiffe://dev.test/alpha is withdrawn");
    assert!(is_emptied(&out));
    until_row(ALPHA, true);
    ends(watching, 0);
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_an_identity_are_replaced_by_anothers_only_when_that_is_named() {
    let node = Node::start(&["alpha", "web"], "").await;
    let (admin, out) = (node.ca.admin_socket(), node.beside("out"));
    fs::remove_dir(&out).unwrap();
    let fetch = |options: &[&str]| {
        let mut fetch = mintage(&node);
        fetch.args(["svid", "fetch", "--write"]).arg(&out).args(options);
        fetch.output().unwrap()
    };
    assert!(fetch(&["--spiffe-id", WEB]).status.success());
    assert!(fetch(&[]).status.success());
    assert_eq!(held(&out), WEB, "though it is not the first one");

    let mut watch = mintage(&node);
    watch.args(["svid", "watch", "-o", "jsonl", "--spiffe-id", WEB]);
    let (watching, mut line, mut notice) = started(&mut watch);
    assert!(line().contains(WEB), "alpha is not asked for");
    delete(&admin, "web").await;
    notice("the agent gives this process no spiffe://dev.test/web");
    assert!(line().contains("withdrawn"));
    ends(watching, 0);

    let refused = fetch(&[]);
    assert_eq!(refused.status.code(), Some(3));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains(WEB) && said.contains("--spiffe-id"), "{said}");
    assert_eq!(held(&out), WEB, "what another process wrote stays");
    let mut watch = mintage(&node);
    let (watching, _, mut notice) = started(watch.args(["svid", "watch", "--write"]).arg(&out));
    notice("nothing is written to");
    assert_eq!(held(&out), WEB);
    ends(watching, 0);
    assert!(fetch(&["--spiffe-id", ALPHA]).status.success());
    assert_eq!(held(&out), ALPHA);
    node.stop();
}

/// Says whether it has files when it starts and at each HUP, and ends by TERM with 7.
const PROGRAM: &str = r#"
show() { [ -e "$MINTAGE_KEY_FILE" ] && echo files || echo none; }
trap show HUP
trap 'exit 7' TERM
show
while :; do sleep 0.05; done
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_program_loses_the_files_of_an_identity_that_is_withdrawn_and_is_told_as_of_a_rotation() {
    let node = Node::start(&["alpha", "web"], "").await;
    let (admin, base) = (node.ca.admin_socket(), node.beside("run"));
    let exec = |options: &[&str]| {
        let mut exec = mintage(&node);
        exec.env("XDG_RUNTIME_DIR", &base).arg("exec").args(options);
        exec.args(["--", "sh", "-c", PROGRAM]);
        started(&mut exec)
    };
    let (running, mut line, _) = exec(&["--on-rotation", "signal=HUP", "--spiffe-id", WEB]);
    assert_eq!(line(), "files");
    delete(&admin, "web").await;
    assert_eq!(line(), "none", "alpha is still given");
    entry(&admin, "web", "/web").await;
    assert_eq!(line(), "files");
    delete(&admin, "web").await;
    assert_eq!(line(), "none");
    delete(&admin, "alpha").await;
    ends(running, 7);

    // Whoever is started anew is so once there is something to start with.
    entry(&admin, "web", "/web").await;
    while !mintage(&node)
        .args(["svid", "fetch"])
        .output()
        .unwrap()
        .status
        .success()
    {}
    let (running, mut line, mut notice) = exec(&["--on-rotation", "restart"]);
    assert_eq!(line(), "files");
    delete(&admin, "web").await;
    notice("CMD has ended and is started once the identity is given again");
    entry(&admin, "web", "/web").await;
    assert_eq!(line(), "files");
    delete(&admin, "web").await;
    notice("CMD has ended and is started once the identity is given again");
    ends(running, 128 + Signal::TERM.as_raw());
    assert_eq!(fs::read_dir(&base).unwrap().count(), 0);
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_an_update_replaced_is_refused_and_keeps_its_files() {
    let node = Node::start(&["alpha", "web"], "").await;
    let (admin, out) = (node.ca.admin_socket(), node.beside("out"));
    fs::remove_dir(&out).unwrap();
    let bin = node.beside("bin");
    let (installed, update) = (bin.join("mintage"), bin.join("next"));
    fs::copy(binary("mintage"), &installed).unwrap();
    let mut watch = Command::new(&installed);
    watch.env("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", node.socket().display()));
    watch
        .args(["svid", "watch", "-o", "jsonl", "--write"])
        .arg(&out)
        .stdin(Stdio::null());
    let (watching, mut line, mut notice) = started(&mut watch);
    assert!(line().contains(ALPHA));
    fs::copy(binary("mintage"), &update).unwrap();
    fs::rename(&update, &installed).unwrap();
    delete(&admin, "web").await;
    notice("deleted or replaced");
    assert_eq!(held(&out), ALPHA);
    ends(watching, 0);
    node.stop();
}
