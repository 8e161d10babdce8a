//! `mintage exec` against a real agent: the program's files, its signals, its exit code, and what follows a rotation.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    io::{BufRead, BufReader, Lines},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

use mintage_proto::v1::revoke_request::Target;
use mintage_tests::kit::{bins::binary, ca::entry_for, node::Node};
use rustix::process::{Pid, Signal, kill_process};

/// Prints its serial's file when it starts and at each HUP, and ends by TERM with 7.
const PROGRAM: &str = r#"
show() { sha256sum < "$MINTAGE_SVID_FILE"; }
trap show HUP
trap 'exit 7' TERM
show
while :; do sleep 0.05; done
"#;

fn exec(socket: &Path, base: &Path, options: &[&str], program: &[&str]) -> Command {
    let mut command = Command::new(binary("mintage"));
    command
        .arg("exec")
        .args(options)
        .arg("--socket")
        .arg(socket)
        .arg("--")
        .args(program);
    command
        .env("XDG_RUNTIME_DIR", base)
        .env_remove("SPIFFE_ENDPOINT_SOCKET")
        .stdin(Stdio::null());
    command
}

fn started(mut command: Command) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

async fn rotate(node: &Node) {
    node.revoke(Target::SpiffeId("spiffe://dev.test/web".to_owned())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_gets_files_variables_and_its_own_umask_and_gives_its_exit_code() {
    let node = Node::start(&["web"], "").await;
    let (socket, base) = (node.socket(), node.beside("run"));
    let script = r#"
        echo "$SPIFFE_ENDPOINT_SOCKET"; echo "$MINTAGE_SPIFFE_ID"; umask
        stat -c %a "$MINTAGE_DIRECTORY"; stat -L -c %a "$MINTAGE_KEY_FILE"
        grep -q CERTIFICATE "$MINTAGE_SVID_FILE" && grep -q CERTIFICATE "$MINTAGE_BUNDLE_FILE" && exit 42
    "#;
    let umask = "umask 027; exec \"$@\"";
    let mut shell = Command::new("sh");
    let inner = exec(&socket, &base, &[], &["sh", "-c", script]);
    shell
        .args(["-c", umask, "sh"])
        .arg(inner.get_program())
        .args(inner.get_args());
    shell.env("XDG_RUNTIME_DIR", &base).env_remove("SPIFFE_ENDPOINT_SOCKET");
    let output = shell.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        output.status.code(),
        Some(42),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines,
        [
            &*format!("unix://{}", socket.display()),
            "spiffe://dev.test/web",
            "0027",
            "700",
            "600"
        ]
    );
    assert_eq!(fs::read_dir(&base).unwrap().count(), 0, "the folder is gone");

    // What a signal ended is told as a shell tells it; what cannot start is a failure of ours.
    let killed = exec(&socket, &base, &[], &["sh", "-c", "kill -9 $$"]).output().unwrap();
    assert_eq!(killed.status.code(), Some(137));
    let missing = exec(&socket, &base, &[], &["/nonexistent/program"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("/nonexistent/program"));
    assert_eq!(fs::read_dir(&base).unwrap().count(), 0);
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_is_signalled_or_starts_the_program_anew_and_signals_go_on_to_it() {
    let node = Node::start(&["web"], "").await;
    let (socket, base) = (node.socket(), node.beside("run"));
    for option in ["signal=HUP", "restart"] {
        let (mut running, mut lines) =
            started(exec(&socket, &base, &["--on-rotation", option], &["sh", "-c", PROGRAM]));
        let first = lines.next().unwrap().unwrap();
        rotate(&node).await;
        let second = lines.next().unwrap().unwrap();
        assert_ne!(first, second, "{option}");
        // Ours ends by the program's own word, and is not started again.
        send(&running, Signal::TERM);
        assert_eq!(running.wait().unwrap().code(), Some(7), "{option}");
        assert!(lines.next().is_none(), "{option}");
        assert_eq!(fs::read_dir(&base).unwrap().count(), 0, "{option}");
    }
    // Without a word about it the files change and the program is left alone; HUP goes on to it.
    let (mut running, mut lines) = started(exec(&socket, &base, &[], &["sh", "-c", PROGRAM]));
    let first = lines.next().unwrap().unwrap();
    let folder = fs::read_dir(&base).unwrap().next().unwrap().unwrap().path();
    let before = fs::read(folder.join("svid.pem")).unwrap();
    rotate(&node).await;
    while fs::read(folder.join("svid.pem")).unwrap() == before {
        tokio::task::yield_now().await;
    }
    send(&running, Signal::HUP);
    assert_ne!(lines.next().unwrap().unwrap(), first);
    send(&running, Signal::TERM);
    assert_eq!(running.wait().unwrap().code(), Some(7));
    assert!(lines.next().is_none(), "it was told nothing else");
    node.stop();
}

/// At TERM it goes on until its certificate has changed, and ends with 7.
const DRAINING: &str = r#"
serial() { sha256sum < "$MINTAGE_SVID_FILE"; }
drain() { echo draining; before=$(serial); while [ "$(serial)" = "$before" ]; do sleep 0.05; done; echo changed; exit 7; }
trap drain TERM
echo started
while :; do sleep 0.05; done
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_was_told_to_end_is_not_started_anew_by_a_rotation() {
    let node = Node::start(&["web"], "").await;
    let (socket, base) = (node.socket(), node.beside("run"));
    let options = ["--on-rotation", "restart"];
    let (mut running, mut lines) = started(exec(&socket, &base, &options, &["sh", "-c", DRAINING]));
    assert_eq!(lines.next().unwrap().unwrap(), "started");
    send(&running, Signal::TERM);
    assert_eq!(lines.next().unwrap().unwrap(), "draining");
    rotate(&node).await;
    assert_eq!(lines.next().unwrap().unwrap(), "changed");
    assert_eq!(running.wait().unwrap().code(), Some(7));
    assert!(lines.next().is_none(), "it was not started again");
    assert_eq!(fs::read_dir(&base).unwrap().count(), 0);
    node.stop();
}

/// Takes no notice of TERM at its first start, and ends by it with 7 at its second.
const STUBBORN: &str = r#"
trap '' TERM
[ -e "$1" ] && trap 'exit 7' TERM
echo >> "$1"
echo started
while :; do sleep 0.05; done
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_does_not_end_for_a_restart_is_killed_and_started_anew() {
    let node = Node::start(&["web"], "").await;
    let (socket, base) = (node.socket(), node.beside("run"));
    let starts = node.beside("starts").join("starts");
    let program = ["sh", "-c", STUBBORN, "sh", starts.to_str().unwrap()];
    let mut command = exec(&socket, &base, &["--on-rotation", "restart"], &program);
    command.stderr(Stdio::piped());
    let (mut running, mut lines) = started(command);
    let mut notices = BufReader::new(running.stderr.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "started");
    rotate(&node).await;
    let told = notices.next().unwrap().unwrap();
    assert!(told.contains("did not end within 10 s and is killed"), "{told}");
    assert_eq!(lines.next().unwrap().unwrap(), "started");
    assert_eq!(fs::read_to_string(&starts).unwrap().len(), 2);
    send(&running, Signal::TERM);
    assert_eq!(running.wait().unwrap().code(), Some(7));
    assert!(lines.next().is_none());
    assert_eq!(fs::read_dir(&base).unwrap().count(), 0);
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_given_the_identity_that_is_asked_for_and_keeps_it() {
    let node = Node::start(&["alpha", "web"], "").await;
    let (socket, base) = (node.socket(), node.beside("run"));
    let script = r#"echo "$MINTAGE_SPIFFE_ID"; openssl x509 -in "$MINTAGE_SVID_FILE" -noout -ext subjectAltName"#;
    let of = |options: &[&str]| exec(&socket, &base, options, &["sh", "-c", script]).output().unwrap();
    for (options, id) in [
        (&["--spiffe-id", "spiffe://dev.test/web"][..], "spiffe://dev.test/web"),
        (&[], "spiffe://dev.test/alpha"),
    ] {
        let output = of(options);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said.lines().next(), Some(id));
        if mintage_tests::kit::peers::peer("openssl").is_some() {
            assert!(said.contains(&format!("URI:{id}")), "{said}");
        }
    }
    let none = of(&["--spiffe-id", "spiffe://dev.test/nobody"]);
    assert_eq!(none.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&none.stderr).contains("spiffe://dev.test/nobody"));
    assert!(none.stdout.is_empty(), "nothing ran");
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_could_not_be_written_follow_once_they_can_be() {
    let node = Node::start(&["web"], "").await;
    let (socket, base) = (node.socket(), node.beside("run"));
    let mut command = exec(&socket, &base, &["--on-rotation", "signal=HUP"], &["sh", "-c", PROGRAM]);
    command.stderr(Stdio::piped());
    let (mut running, mut lines) = started(command);
    let mut notices = BufReader::new(running.stderr.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    // A file in the folder's place: root is not stopped by modes.
    let folder = fs::read_dir(&base).unwrap().next().unwrap().unwrap().path();
    let away = base.join("away");
    fs::rename(&folder, &away).unwrap();
    fs::write(&folder, "").unwrap();
    rotate(&node).await;
    let told = notices.next().unwrap().unwrap();
    assert!(told.contains("the files stay as they were"), "{told}");
    fs::remove_file(&folder).unwrap();
    fs::rename(&away, &folder).unwrap();
    assert_ne!(lines.next().unwrap().unwrap(), first, "no further rotation was needed");
    send(&running, Signal::TERM);
    assert_eq!(running.wait().unwrap().code(), Some(7));
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_run_without_an_identity() {
    let mut node = Node::start(&[], "").await;
    let (socket, base) = (node.socket(), node.beside("run"));
    node.agent.wait_for("its socket", || socket.exists().then_some(()));
    let other = rustix::process::geteuid().as_raw() + 1;
    entry_for(&node.ca.admin_socket(), "other", "/other", other).await;
    let refused = exec(&socket, &base, &[], &["touch", base.join("ran").to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(
        refused.status.code(),
        Some(3),
        "{}",
        String::from_utf8_lossy(&refused.stderr)
    );
    let nobody = exec(Path::new("/nonexistent/agent.sock"), &base, &[], &["true"])
        .output()
        .unwrap();
    assert_eq!(nobody.status.code(), Some(2));
    let wrong = exec(&socket, &base, &["--on-rotation", "signal=KILL"], &["true"])
        .output()
        .unwrap();
    assert_eq!(wrong.status.code(), Some(1));
    assert_eq!(fs::read_dir(&base).unwrap().count(), 0);
    node.stop();
}
