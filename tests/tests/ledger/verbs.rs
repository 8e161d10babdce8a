//! The real `mintage` reading a ledger: followed, exported, compared, and asked who holds what.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use mintage_tests::kit::{
    bins::binary,
    ca::{self, TestCa},
    client,
    stream::{Stream, ask, code},
};
use serde_json::Value;

/// Longest wait for what should happen at once; the machine may be busy.
const SOON: Duration = Duration::from_secs(30);

/// `mintage` on this CA's socket and folder, without what the tester's own shell would change about it.
fn mintage(data: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(binary("mintage"));
    for variable in ["MINTAGE_FORMAT", "MINTAGE_ADMIN_SOCKET", "MINTAGE_LOG"] {
        command.env_remove(variable);
    }
    command.arg("--data-dir").arg(data).args(words);
    command.stdin(Stdio::null());
    command
}

/// Runs it to its end and holds it to an exit code; what it said on standard output and standard error.
#[track_caller]
fn ran(code: i32, data: &Path, words: &[&str]) -> (String, String) {
    let output = mintage(data, words).output().unwrap();
    let [said, notices] = [&output.stdout, &output.stderr].map(|octets| String::from_utf8(octets.clone()).unwrap());
    assert_eq!(output.status.code(), Some(code), "{words:?}: {said}{notices}");
    (said, notices)
}

/// `audit tail -f`, and its lines as they come.
fn following(data: &Path, words: &[&str]) -> (Child, Receiver<String>) {
    let words = [&["audit", "tail", "-f"], words].concat();
    let mut child = mintage(data, &words).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (sender, receiver) = channel();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
    (child, receiver)
}

/// Waits for the end; a program that does not end dies by its own handle.
fn code_of(mut child: Child) -> Option<i32> {
    let begun = Instant::now();
    while begun.elapsed() < SOON {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    panic!("it does not end");
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_follows_filters_and_ends_well_on_ctrl_c_and_when_nobody_reads() {
    let ca = TestCa::start().await;
    let data = ca.data_dir();
    let (child, lines) = following(&data, &["-n", "1", "-o", "jsonl"]);
    let first: Value = serde_json::from_str(&lines.recv_timeout(SOON).unwrap()).unwrap();
    assert_eq!(first["schema_version"], 1);
    let (only, tokens) = following(&data, &["-n", "0", "--kind", "token.create", "--agent", "n2"]);
    // Whoever has begun to follow holds one of the places.
    std::thread::sleep(Duration::from_millis(300));
    ca.entry("web", "/web").await;
    ca.token("n1").await;
    ca.token("n2").await;
    let next: Vec<Value> = (0..3)
        .map(|_| serde_json::from_str(&lines.recv_timeout(SOON).unwrap()).unwrap())
        .collect();
    let kinds: Vec<&str> = next.iter().map(|row| row["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["entry.put", "token.create", "token.create"]);
    assert_eq!(
        next[0]["index"].as_u64(),
        first["index"].as_u64().map(|index| index + 1)
    );
    let line = tokens.recv_timeout(SOON).unwrap();
    assert!(line.contains("token.create") && line.contains("for agent n2"), "{line}");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(code_of(child), Some(0));

    // The reader of the other one leaves; with one of the next records it notices.
    drop(tokens);
    let mut only = only;
    let begun = Instant::now();
    while only.try_wait().unwrap().is_none() && begun.elapsed() < SOON {
        ca.token("n2").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(code_of(only), Some(0));
    let (child, _lines) = following(&data, &["-n", "0"]);
    std::thread::sleep(Duration::from_millis(300));
    let folder = ca.stop().await;
    assert_eq!(code_of(child), Some(2), "the CA's end is told as such");
    ran(1, &data, &["audit", "tail", "-f", "-o", "json"]);
    drop(folder);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_is_found_by_what_it_names() {
    let ca = TestCa::start().await;
    let data = ca.data_dir();
    ca.entry("web", "/web").await;
    let agent = client::join(&ca.token("n1").await).await.unwrap();
    let mut stream = Stream::open(&agent, &ca.ca.address().to_string()).await.unwrap();
    for _ in 0..2 {
        assert_eq!(code(&stream.ask_one(ask("web")).await.unwrap()), "");
    }
    drop(stream);
    let issued = ran(
        0,
        &data,
        &["audit", "search", "--entry", "web", "--kind", "issue", "-o", "json"],
    )
    .0;
    let issued: Value = serde_json::from_str(&issued).unwrap();
    let serials = [0, 1].map(|at: usize| issued["records"][at]["serial"].as_str().unwrap().to_owned());
    let [first, second] = serials.each_ref().map(String::as_str);
    for scope in [
        &["--serial", first][..],
        &["--entry", "web"],
        &["--spiffe-id", "spiffe://dev.test/web", "--no-renew"],
        &["--id-prefix", "spiffe://dev.test/db/*", "--no-renew"],
        &["--agent", "n1"],
    ] {
        ran(0, &data, &[&["revoke"], scope].concat());
    }
    let said = ran(0, &data, &["audit", "search", "--kind", "revoke", "-o", "json"]).0;
    let all = indices(&said, "records");
    assert_eq!(all.len(), 5, "{said}");
    for (asked, of) in [
        (&["--entry", "web"][..], &all[1..2]),
        (&["--spiffe-id", "spiffe://dev.test/web"], &all[2..3]),
        (&["--spiffe-id", "spiffe://dev.test/db/main"], &all[3..4]),
        (&["--id-prefix", "spiffe://dev.test/db/main/*"], &all[3..4]),
        (&["--id-prefix", "spiffe://dev.test/*"], &all[2..4]),
        (&["--agent", "n1"], &all[4..]),
    ] {
        let of_verb = |verb: &[&'static str]| indices(&ran(0, &data, &[verb, asked].concat()).0, "records");
        let (search, tail) = (
            ["audit", "search", "-o", "json", "--kind", "revoke"],
            ["audit", "tail", "-o", "json", "--kind", "revoke"],
        );
        assert_eq!(of_verb(&search), of, "{asked:?}");
        assert_eq!(of_verb(&tail), of, "{asked:?}");
    }
    for serial in [first, second] {
        let found = |kind: &'static str| {
            let words = ["audit", "search", "-o", "json", "--kind", kind, "--serial", serial];
            indices(&ran(0, &data, &words).0, "records")
        };
        assert_eq!(found("issue").len(), 1);
        assert_eq!(found("issue,revoke").len(), 1 + found("revoke").len());
        assert_eq!(found("revoke").contains(&all[0]), serial == first, "{said}");
        assert!(found("revoke").iter().any(|index| all.contains(index)), "{said}");
    }
    ca.stop().await;
}

/// Indices in the rows of a listing.
fn indices(listing: &str, field: &str) -> Vec<u64> {
    let listing: Value = serde_json::from_str(listing).unwrap();
    let mut indices: Vec<u64> = listing[field]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["index"].as_u64().unwrap())
        .collect();
    indices.sort_unstable();
    indices
}

#[tokio::test(flavor = "multi_thread")]
async fn search_tail_and_export_mean_the_same_by_their_conditions() {
    let ca = TestCa::start().await;
    let data = ca.data_dir();
    ca.entry("web", "/web").await;
    let agent = client::join(&ca.token("n1").await).await.unwrap();
    let mut stream = Stream::open(&agent, &ca.ca.address().to_string()).await.unwrap();
    assert_eq!(code(&stream.ask_one(ask("web")).await.unwrap()), "");
    assert_ne!(code(&stream.ask_one(ask("nothing")).await.unwrap()), "");
    drop(stream);
    let out = ca.beside("records.jsonl");
    for conditions in [
        &["--spiffe-id", "spiffe://dev.test/web"][..],
        &["--id-prefix", "spiffe://dev.test/*"],
        &["--agent", "n1"],
        &["--entry", "web"],
        &["--kind", "issue,deny"],
        &["--since", "1h", "--kind", "entry.put"],
        &["--until", "1h"],
    ] {
        let with = |words: &[&'static str]| [words, conditions, &["-o", "json"]].concat();
        let found = indices(&ran(0, &data, &with(&["audit", "search"])).0, "records");
        let tailed = indices(&ran(0, &data, &with(&["audit", "tail", "-n", "100"])).0, "records");
        assert_eq!(found, tailed, "{conditions:?}");
        let export = [&["audit", "export", "--format", "jsonl"], conditions].concat();
        let lines = ran(0, &data, &export).0;
        let exported: Vec<u64> = lines
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["index"].as_u64().unwrap())
            .collect();
        assert_eq!(found, exported, "{conditions:?}");
        assert_eq!(found.is_empty(), conditions == ["--until", "1h"], "{conditions:?}");
    }
    let whole = ["audit", "export", "--format", "jsonl", "--out", out.to_str().unwrap()];
    ran(0, &data, &whole);
    let live = std::fs::read_to_string(&out).unwrap();
    let folder = ca.stop().await;
    let told = ran(0, &data, &[&whole[..], &["--offline", "-o", "json"]].concat()).0;
    let told: Value = serde_json::from_str(&told).unwrap();
    let offline = std::fs::read_to_string(&out).unwrap();
    assert!(
        offline.starts_with(&live),
        "the same records, and the end of the log after them"
    );
    assert_eq!(told["records"].as_u64(), Some(offline.lines().count() as u64));
    assert_eq!((&told["verified"], &told["first"]), (&Value::Bool(true), &0.into()));
    drop(folder);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_ledger_is_not_exported_and_copies_are_told_apart() {
    let ca = TestCa::start().await;
    ca.entry("web", "/web").await;
    let folder = ca.stop().await;
    let [data, copy] = ["ca", "copy"].map(|name| folder.path().join(name));
    std::fs::create_dir(&copy).unwrap();
    duplicate(&data.join("ledger"), &copy.join("ledger"));
    let diff = [
        "audit",
        "diff",
        data.to_str().unwrap(),
        copy.to_str().unwrap(),
        "-o",
        "json",
    ];
    let told: Value = serde_json::from_str(&ran(0, &data, &diff).0).unwrap();
    assert_eq!(
        (&told["relation"], &told["equal"]),
        (&"equal".into(), &Value::Bool(true))
    );

    // The original goes on: the copy is a beginning of it.
    let config = ca::config(&data);
    let again = mintage_ca::Ca::start(config, mintage_ca::Deps::system()).await.unwrap();
    ca::token(again.admin_socket(), "n1").await;
    again.stop().await;
    let told: Value = serde_json::from_str(&ran(3, &data, &diff).0).unwrap();
    assert_eq!(told["relation"], "b_is_prefix_of_a");
    assert_eq!(told["first_difference"]["index"], told["b"]["records"]);
    assert_eq!(told["only_in_a"]["token.create"]["records"], 1);
    assert!(told["only_in_b"].as_object().unwrap().is_empty());

    let wal = find(&copy, "wal");
    let mut octets = std::fs::read(&wal).unwrap();
    octets[300] ^= 1;
    std::fs::write(&wal, octets).unwrap();
    let out = folder.path().join("records.csv");
    let export = ["audit", "export", "--format", "csv", "--offline"];
    let (said, notices) = ran(3, &copy, &export);
    assert!(said.is_empty() && notices.contains("not proven"), "{said}{notices}");
    let (_, notices) = ran(3, &copy, &[&export[..], &["--out", out.to_str().unwrap()]].concat());
    assert!(notices.contains("not proven") && !out.exists(), "{notices}");
    let left = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    assert!(!left.into_iter().any(|name| name.to_string_lossy().contains("part")));
    ran(3, &data, &diff);
    ran(
        1,
        &data,
        &["audit", "diff", data.to_str().unwrap(), folder.path().to_str().unwrap()],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn exported_trees_are_compared_like_data_directories() {
    let ca = TestCa::start().await;
    ca.entry("web", "/web").await;
    let folder = ca.stop().await;
    let [data, tree, vkey] = ["ca", "tree", "vkey"].map(|name| folder.path().join(name));
    ran(0, &data, &["audit", "export-tiles", tree.to_str().unwrap()]);
    let policy = std::fs::read_to_string(tree.join("policy")).unwrap();
    let key = policy.lines().find_map(|line| line.strip_prefix("log ")).unwrap();
    std::fs::write(&vkey, key).unwrap();
    let (_, log) = key.split_once('+').unwrap().0.split_once("/mintage/").unwrap();
    let log = tree.join(log);
    let diff = |code: i32, a: &Path, b: &Path, more: &[&str]| {
        let words = ["audit", "diff", a.to_str().unwrap(), b.to_str().unwrap(), "-o", "json"];
        ran(code, &data, &[&words, more].concat())
    };
    // Whole, and one log of it alone, which brings no key of its own.
    let keys = ["--vkey", vkey.to_str().unwrap()];
    for exported in [&tree, &log] {
        let told: Value = serde_json::from_str(&diff(0, &data, exported, &keys).0).unwrap();
        assert_eq!(
            (&told["relation"], &told["a"]["root"]),
            (&"equal".into(), &told["b"]["root"])
        );
    }
    diff(0, &tree, &log, &keys);
    diff(0, &data, &tree, &[]);
    let (_, notices) = diff(1, &data, &log, &[]);
    assert!(notices.contains("--vkey"), "{notices}");

    let again = mintage_ca::Ca::start(ca::config(&data), mintage_ca::Deps::system())
        .await
        .unwrap();
    again.stop().await;
    let told: Value = serde_json::from_str(&diff(3, &tree, &data, &[]).0).unwrap();
    assert_eq!(told["relation"], "a_is_prefix_of_b");
    assert_eq!(told["first_difference"]["index"], told["a"]["records"]);

    let partial = std::fs::read_dir(log.join("tile/entries/000.p")).unwrap().next();
    let bundle = partial.unwrap().unwrap().path();
    let mut octets = std::fs::read(&bundle).unwrap();
    octets[40] ^= 1;
    std::fs::write(&bundle, octets).unwrap();
    let (_, notices) = diff(3, &tree, &data, &[]);
    assert!(notices.contains("not proven"), "{notices}");
}

fn duplicate(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => duplicate(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// The first file below `folder` with this ending.
fn find(folder: &Path, ending: &str) -> PathBuf {
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == ending) {
                return path;
            }
        }
    }
    panic!("no file ends in {ending}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_is_shown_with_its_holders_and_its_history() {
    let ca = TestCa::start().await;
    let data = ca.data_dir();
    ca.entry("web", "/web").await;
    ca.entry("db", "/db").await;
    let address = ca.ca.address().to_string();
    let mut held = Vec::new();
    for name in ["n1", "n2"] {
        let agent = client::join(&ca.token(name).await).await.unwrap();
        let mut stream = Stream::open(&agent, &address).await.unwrap();
        for entry in ["web", "db"] {
            assert_eq!(code(&stream.ask_one(ask(entry)).await.unwrap()), "");
        }
        held.push((name, agent.instance, stream));
    }
    let json = |code: i32, words: &[&str]| -> Value {
        let (data, _) = ran(code, &data, &[words, &["-o", "json"]].concat());
        serde_json::from_str(&data).unwrap()
    };
    ran(3, &data, &["cert", "holder", "spiffe://dev.test/unknown"]);
    let holder = ["cert", "holder", "spiffe://dev.test/web"];
    let shown = json(0, &holder);
    let live = shown["live"].as_array().unwrap();
    assert_eq!(live.len(), 2, "{shown}");
    for ((name, instance, _), row) in held.iter().rev().zip(live) {
        assert_eq!(
            (&row["agent"], &row["instance"]),
            (&(*name).into(), &(*instance).into()),
            "{row}"
        );
        assert_eq!(row["entry"], "web");
    }
    let serial = live[0]["serial"].as_str().unwrap().to_owned();
    ran(0, &data, &["revoke", "--serial", &serial, "--no-renew"]);
    ran(
        0,
        &data,
        &["revoke", "--id-prefix", "spiffe://dev.test/*", "--no-renew"],
    );
    let shown = json(0, &holder);
    assert!(shown["live"].as_array().unwrap().is_empty(), "{shown}");
    let history: Vec<(&str, &str)> = shown["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["kind"].as_str().unwrap(), row["state"].as_str().unwrap()))
        .collect();
    assert_eq!(
        history,
        [
            ("revoke", ""),
            ("revoke", ""),
            ("issue", "revoked"),
            ("issue", "revoked")
        ]
    );
    assert!(ran(0, &data, &holder).0.contains("nobody holds it now"));
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inventory_is_sorted_and_cut_by_expiry() {
    let ca = TestCa::start().await;
    let data = ca.data_dir();
    for name in ["c", "a", "b"] {
        ca.entry(name, &format!("/{name}")).await;
    }
    let agent = client::join(&ca.token("n1").await).await.unwrap();
    let mut stream = Stream::open(&agent, &ca.ca.address().to_string()).await.unwrap();
    for entry in ["c", "a", "b"] {
        assert_eq!(code(&stream.ask_one(ask(entry)).await.unwrap()), "");
    }
    let ids = |words: &[&str]| -> Vec<String> {
        let (listed, _) = ran(0, &data, &[&["cert", "list", "-o", "json"], words].concat());
        let listed: Value = serde_json::from_str(&listed).unwrap();
        let rows = listed["certificates"].as_array().unwrap().iter();
        rows.map(|row| row["spiffe_id"].as_str().unwrap().replace("spiffe://dev.test", ""))
            .collect()
    };
    let newest = ["/b", "/a", "/c", "/mintage/agent/n1", "/mintage/ca/ca-1"];
    assert_eq!(ids(&[]), newest);
    assert_eq!(
        ids(&["--sort", "identity"]),
        ["/a", "/b", "/c", "/mintage/agent/n1", "/mintage/ca/ca-1"]
    );
    // Ten minutes for a workload, an hour for the others.
    let by_expiry = ids(&["--sort", "expiry"]);
    let workloads: std::collections::BTreeSet<&str> = by_expiry[..3].iter().map(String::as_str).collect();
    assert_eq!(workloads, ["/a", "/b", "/c"].into());
    assert_eq!(ids(&["--expires-within", "15m"]), ["/b", "/a", "/c"]);
    assert!(ids(&["--expires-within", "1m"]).is_empty());
    assert_eq!(ids(&["--sort", "identity", "--limit", "2"]), ["/a", "/b"]);
    assert_eq!(ids(&["--agent", "n1", "--entry", "a"]), ["/a"]);
    let (first, notices) = ran(0, &data, &["cert", "list", "--limit", "1", "-o", "json"]);
    assert!(notices.contains("there is more: --page"), "{notices}");
    let next = serde_json::from_str::<Value>(&first).unwrap()["next"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(ids(&["--page", &next]), newest[1..]);
    ran(1, &data, &["cert", "list", "--sort", "expiry", "--page", &next]);
    drop(stream);
    ca.stop().await;
}
