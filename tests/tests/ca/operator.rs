//! The real `mintage` as operators and scripts run it: what goes to which stream, in which form, with which exit code.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::Duration,
};

use mintage_svid::{X509Svid, key_matches, pem};
use mintage_tests::kit::{
    bins::binary,
    ca::{CaProcess, make},
};
use serde_json::{Value, json};

/// Longest wait for a line of a running program; a loaded machine is slow.
const LINE_MAX: Duration = Duration::from_secs(60);

/// `mintage`, without what the tester's own shell would change about it.
fn mintage(words: &[&str]) -> Command {
    let mut command = Command::new(binary("mintage"));
    for variable in ["MINTAGE_FORMAT", "MINTAGE_ADMIN_SOCKET", "MINTAGE_LOG"] {
        command.env_remove(variable);
    }
    command.args(words).stdin(Stdio::null());
    command
}

/// Runs it to its end and holds it to an exit code; what it said on standard output and standard error.
#[track_caller]
fn ran(code: i32, words: &[&str]) -> (String, String) {
    said(code, &mintage(words).output().unwrap())
}

#[track_caller]
fn said(code: i32, output: &Output) -> (String, String) {
    let [data, notices] = [&output.stdout, &output.stderr].map(|octets| String::from_utf8(octets.clone()).unwrap());
    assert_eq!(output.status.code(), Some(code), "{data}{notices}");
    (data, notices)
}

/// The one JSON object that `text` is, and nothing after it.
#[track_caller]
fn object(text: &str) -> Value {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert!(value.is_object() && value["schema_version"] == 1, "{text}");
    value
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn text_of<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("no {field} in {value}"))
}

/// A CA process over a new folder; both go with it.
fn serving() -> (tempfile::TempDir, String, CaProcess) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("ca");
    make(&data);
    let ca = CaProcess::start(&data, 0);
    (folder, data.display().to_string(), ca)
}

#[test]
fn a_tour_ends_with_one_object_that_names_what_exists() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().canonicalize().unwrap().join("tour");
    let (data, notices) = ran(0, &["dev", "--once", "--dir", dir.to_str().unwrap(), "-o", "json"]);
    let report = object(&data);
    let expected = [
        "admin_socket",
        "ca_addr",
        "dir",
        "ledger",
        "revoke_to_refused_ms",
        "schema_version",
        "steps",
        "svids",
        "trust_domain",
    ];
    assert_eq!(keys(&report), BTreeSet::from(expected));
    assert_eq!(text_of(&report, "trust_domain"), "dev.test");
    assert_eq!(Path::new(text_of(&report, "dir")), dir);
    assert!(text_of(&report, "ca_addr").parse::<std::net::SocketAddr>().is_ok());
    // The CA has ended in order and taken its socket away; the folder it was in stays.
    assert!(Path::new(text_of(&report, "admin_socket")).parent().unwrap().is_dir());
    assert!(report["revoke_to_refused_ms"].as_f64().unwrap() > 0.0);
    for step in report["steps"].as_array().unwrap() {
        assert_eq!(keys(step), BTreeSet::from(["name", "ok", "ms"]));
        assert!(step["ok"] == true && step["ms"].as_f64().unwrap() >= 0.0, "{step}");
        assert!(notices.contains(text_of(step, "name")), "{step} is not told: {notices}");
    }
    assert_eq!(report["steps"].as_array().unwrap().len(), 9);
    let svids = report["svids"].as_array().unwrap();
    let ids: Vec<_> = svids.iter().map(|svid| text_of(svid, "spiffe_id")).collect();
    assert_eq!(ids, ["spiffe://dev.test/demo/web", "spiffe://dev.test/demo/db"]);
    for svid in svids {
        told_of(svid, &[&data, &notices]);
    }
    assert_eq!(keys(&report["ledger"]), BTreeSet::from(["origin", "size", "root"]));
    verified(&dir, &report["ledger"]);
}

/// Holds what is told of an identity against its files, and finds nothing of its key among `printed`.
fn told_of(svid: &Value, printed: &[&str]) {
    let fields = [
        "spiffe_id",
        "certificate",
        "private_key",
        "bundle",
        "serial",
        "not_after",
    ];
    assert_eq!(keys(svid), BTreeSet::from(fields));
    let read = |field: &str| std::fs::read_to_string(text_of(svid, field)).unwrap_or_else(|e| panic!("{field}: {e}"));
    let chain = X509Svid::from_pem(&read("certificate")).unwrap();
    assert_eq!(chain.id().as_str(), text_of(svid, "spiffe_id"));
    assert_eq!(chain.leaf().serial().to_string(), text_of(svid, "serial"));
    assert!(text_of(svid, "not_after").ends_with('Z'), "{svid}");
    assert_eq!(pem::decode_certificates(&read("bundle")).unwrap().len(), 1);
    let key_text = read("private_key");
    let key = pem::decode_private_key(&key_text).unwrap();
    assert!(key_matches(&chain.chain_der()[0], &key).unwrap());
    let lines = key_text.lines().filter(|line| !line.starts_with("-----"));
    let secrets: Vec<String> = lines.map(str::to_owned).chain([hex::encode(&key)]).collect();
    assert!(secrets.len() > 2, "the key file was not read");
    for text in printed {
        assert!(!text.contains("PRIVATE KEY"), "{text}");
        assert!(!secrets.iter().any(|secret| text.contains(secret)), "a key is printed");
    }
}

/// What the tour tells of its ledger is what an auditor finds.
fn verified(dir: &Path, ledger: &Value) {
    let (data, vkey) = (dir.join("ca"), dir.join("ledger.vkey"));
    let [data, vkey] = [&data, &vkey].map(|path| path.to_str().unwrap());
    let (data, _) = ran(
        0,
        &["audit", "verify", "--data-dir", data, "--vkey", vkey, "-o", "json"],
    );
    let found = object(&data);
    let shard = &found["shards"][0];
    for field in ["origin", "size", "root"] {
        assert_eq!(shard[field], ledger[field], "{found}");
    }
}

#[test]
fn the_exit_code_tells_whose_fault_it_is_and_only_data_goes_to_standard_output() {
    let (folder, data, ca) = serving();
    let nobody = folder.path().join("nobody").display().to_string();
    for (code, words) in [
        (1, &["agent", "list", "-o", "yaml"][..]),
        (1, &["nonsense"]),
        (1, &["--data-dir", &data, "audit", "show", "web"]),
        (2, &["--data-dir", &nobody, "ca", "status"]),
        (3, &["--data-dir", &data, "audit", "show", "serial:4f"]),
        (3, &["--data-dir", &data, "entry", "show", "web", "-o", "json"]),
    ] {
        let (data, notices) = ran(code, words);
        assert_eq!(data, "", "{words:?}: {notices}");
        assert!(!notices.is_empty(), "{words:?} ends without a reason");
    }
    let (status, notices) = ran(0, &["--data-dir", &data, "ca", "status", "-o", "json"]);
    assert_eq!((&object(&status)["ready"], notices.as_str()), (&json!(true), ""));

    // Both at once: rows for a program, and for the reader that there are more.
    let search = ["--data-dir", &data, "audit", "search", "--limit", "1"];
    let (rows, notices) = ran(0, &search);
    assert!(
        notices.contains("there is more: --page ") && !rows.contains("--page"),
        "{rows}{notices}"
    );
    assert_eq!(rows.lines().count(), 2, "a header and one row: {rows}");
    assert_eq!(ca.stop(), Some(0));
}

/// A tour that goes on running; it dies with this value.
struct Staying {
    child: Child,
    lines: Receiver<String>,
}

impl Staying {
    fn start(dir: &Path) -> Self {
        let mut child = mintage(&["dev", "--dir", dir.to_str().unwrap(), "-o", "json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let notices = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            notices
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        Self { child, lines }
    }

    /// Waits for a line that holds `part`.
    fn until(&self, part: &str) {
        let mut told = Vec::new();
        while !told.last().is_some_and(|line: &String| line.contains(part)) {
            match self.lines.recv_timeout(LINE_MAX) {
                Ok(line) => told.push(line),
                Err(error) => panic!("no {part:?}: {error}\n{}", told.join("\n")),
            }
        }
    }

    /// Waits until it says nothing any more, which is when it ends.
    fn ended(&mut self) -> (Option<i32>, String) {
        loop {
            match self.lines.recv_timeout(LINE_MAX) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end"),
            }
        }
        let mut data = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut data).unwrap();
        (self.child.wait().unwrap().code(), data)
    }
}

impl Drop for Staying {
    fn drop(&mut self) {
        // Only the process started here, by its own handle; it may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_tour_that_stays_answers_on_its_socket_and_ends_well_on_ctrl_c() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().canonicalize().unwrap().join("tour");
    let mut staying = Staying::start(&dir);
    staying.until("Ctrl-C ends it");
    let socket: PathBuf = dir.join("ca/admin.sock");
    let (certificates, _) = ran(0, &["--socket", socket.to_str().unwrap(), "cert", "list", "-o", "json"]);
    assert!(certificates.contains("spiffe://dev.test/demo/web"), "{certificates}");
    let pid = rustix::process::Pid::from_child(&staying.child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    staying.until("stopped; everything is kept in ");
    let (code, data) = staying.ended();
    assert_eq!(code, Some(0));
    let report = object(&data);
    assert_eq!(Path::new(text_of(&report, "admin_socket")), socket);
    ran(2, &["--socket", socket.to_str().unwrap(), "ca", "status"]);
    assert!(dir.join("web/svid.pem").exists(), "everything is kept");
}

/// Runs it with `input` on standard input.
#[track_caller]
fn fed(code: i32, words: &[&str], input: &str) -> (String, String) {
    let mut command = mintage(words);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that refuses without reading closes the pipe.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    said(code, &child.wait_with_output().unwrap())
}

/// What `spire-server entry show` prints: one entry that has a counterpart here, and one that has none.
fn of_spire() -> String {
    let entry = |id: &str, path: &str, selector: &str| {
        json!({
            "id": id, "spiffe_id": {"trust_domain": "dev.test", "path": path},
            "parent_id": {"trust_domain": "dev.test", "path": "/spire/agent/join_token/abc"},
            "selectors": [{"type": "unix", "value": selector}], "x509_svid_ttl": 300
        })
    };
    let entries = [entry("e1", "/web", "uid:1000"), entry("e2", "/db", "user:root")];
    json!({"entries": entries, "next_page_token": ""}).to_string()
}

#[test]
fn an_import_that_leaves_every_entry_out_is_no_success_and_names_what_was_missing() {
    let (_folder, data, ca) = serving();
    let unmapped = [
        "--data-dir",
        &data,
        "entry",
        "import",
        "--from",
        "spire-json",
        "-",
        "-o",
        "json",
    ];
    let (printed, notices) = fed(3, &unmapped, &of_spire());
    assert_eq!(object(&printed)["left_out"], json!(2), "{printed}");
    assert!(
        notices.contains("by --agents PATTERN") && notices.contains("every entry was left out"),
        "{notices}"
    );
    assert_eq!(ca.stop(), Some(0));
}

#[test]
fn entries_of_spire_are_imported_from_standard_input_and_what_is_left_out_is_named() {
    let input = of_spire();
    let (folder, data, ca) = serving();
    let import = [
        "--data-dir",
        &data,
        "entry",
        "import",
        "--from",
        "spire-json",
        "--agents",
        "*",
    ];
    let with = |more: &[&'static str]| [&import[..], more].concat();

    for (more, dry_run) in [
        (&["-", "-o", "json", "--dry-run"][..], true),
        (&["-", "-o", "json"], false),
    ] {
        let (printed, notices) = fed(0, &with(more), &input);
        let told = object(&printed);
        assert_eq!(
            (&told["created"], &told["left_out"], &told["dry_run"]),
            (&json!(1), &json!(1), &json!(dry_run)),
            "{told}"
        );
        let [note] = told["notes"].as_array().unwrap().as_slice() else {
            panic!("{told}")
        };
        assert_eq!(keys(note), BTreeSet::from(["entry_id", "name", "text"]));
        assert_eq!((text_of(note, "entry_id"), &note["name"]), ("e2", &Value::Null));
        assert!(
            text_of(note, "text").starts_with("left out: ") && notices.contains("e2: left out: "),
            "{notices}"
        );
    }
    let (listed, _) = ran(0, &["--data-dir", &data, "entry", "list", "-o", "json"]);
    let listed = object(&listed);
    let names: Vec<_> = listed["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| text_of(entry, "name"))
        .collect();
    assert_eq!(names, ["web"], "{listed}");
    let (table, _) = fed(0, &with(&["-"]), &input);
    assert!(
        table.ends_with("0 created, 0 changed, 0 deleted, 1 unchanged\n1 left out\n"),
        "{table}"
    );

    let target = folder.path().join("toml").display().to_string();
    let (written, _) = fed(
        0,
        &[&with(&["-", "-o", "json"])[..], &["--write", &target]].concat(),
        &input,
    );
    let written = object(&written);
    assert_eq!(
        (&written["entries"], &written["left_out"]),
        (&json!(1), &json!(1)),
        "{written}"
    );
    let (refused, notices) = fed(1, &with(&["-"]), "{\"entries\": [");
    assert!(refused.is_empty() && !notices.is_empty(), "{refused}{notices}");
    assert_eq!(ca.stop(), Some(0));
    fed(2, &with(&["-"]), &input);
}
