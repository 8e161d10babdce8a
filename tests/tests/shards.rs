//! Shards with the real CA: certificates on both sides of the end of a log, proofs of both, a state that is lost after its records
//! were given up, and a month that ends.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use mintage_ca::{Ca, Deps};
use mintage_svid::LeafInfo;
use mintage_tests::kit::{
    bins::binary,
    ca::{CaProcess, config, entry, make_with, token},
    client::join,
    clock::Shifted,
    face::metric,
    stream::{Stream, ask, code},
    witness::WitnessHome,
};
use serde_json::Value;
use tempfile::TempDir;

/// Longest wait for what should happen at once; the machine may be busy.
const SOON: Duration = Duration::from_secs(30);

/// What `mintage` says on this CA's socket and folder, when it ends with this code.
#[track_caller]
fn ran(code: i32, data: &Path, words: &[&str]) -> String {
    let mut command = Command::new(binary("mintage"));
    for variable in ["MINTAGE_FORMAT", "MINTAGE_ADMIN_SOCKET", "MINTAGE_LOG"] {
        command.env_remove(variable);
    }
    command.arg("--data-dir").arg(data).args(words).stdin(Stdio::null());
    let output = command.output().unwrap();
    let [said, told] = [output.stdout, output.stderr].map(|octets| String::from_utf8(octets).unwrap());
    assert_eq!(output.status.code(), Some(code), "{words:?}: {said}{told}");
    said + &told
}

#[track_caller]
fn asked(data: &Path, words: &[&str]) -> Value {
    let said = ran(0, data, &[words, &["-o", "json"]].concat());
    let json = &said[..=said.rfind('}').unwrap()];
    serde_json::from_str(json).unwrap()
}

/// Serials that the agent of this stream gets for an entry, one after the other.
async fn issue(stream: &mut Stream, entry: &str, count: usize) -> Vec<String> {
    let mut serials = Vec::new();
    for _ in 0..count {
        let minted = stream.ask_one(ask(entry)).await.unwrap();
        assert_eq!(code(&minted), "");
        serials.push(LeafInfo::parse(&minted.leaf).unwrap().serial().to_string());
    }
    serials
}

/// A new CA in a folder of its own.
async fn begun(deps: &Deps) -> (Ca, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    make_with(&folder.path().join("ca"), deps);
    (over(&folder, deps).await, folder)
}

/// The CA of this folder.
async fn over(folder: &TempDir, deps: &Deps) -> Ca {
    Ca::start(config(&folder.path().join("ca")), deps.clone())
        .await
        .unwrap()
}

/// The stream of a new agent.
async fn agent(ca: &Ca, name: &str) -> Stream {
    let joined = join(&token(ca.admin_socket(), name).await).await.unwrap();
    Stream::open(&joined, &ca.address().to_string()).await.unwrap()
}

/// A file with the key of the ledger's first log.
fn first_key(folder: &TempDir, data: &Path) -> String {
    let shards = asked(data, &["audit", "shards"]);
    let path = folder.path().join("vkey");
    std::fs::write(&path, shards["shards"][0]["vkey"].as_str().unwrap()).unwrap();
    path.to_str().unwrap().to_owned()
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < SOON, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_on_both_sides_of_the_end_of_a_log_are_proven_from_its_first_key() {
    let deps = Deps::system();
    let (ca, folder) = begun(&deps).await;
    let data = folder.path().join("ca");
    entry(ca.admin_socket(), "web", "/web").await;
    let mut stream = agent(&ca, "n1").await;
    let before = issue(&mut stream, "web", 3).await;
    let shards = asked(&data, &["audit", "shards"]);
    let first_key = first_key(&folder, &data);

    let rehearsed = asked(&data, &["audit", "roll", "--dry-run"]);
    assert_eq!(
        asked(&data, &["audit", "shards"]),
        shards,
        "a rehearsal changes nothing"
    );
    let rolled = asked(&data, &["audit", "roll", "--reason", "a drill"]);
    assert_eq!(rolled["begun"]["origin"], rehearsed["begun"]["origin"]);
    // The stream that was open goes on, and entries and agents stand.
    let after = issue(&mut stream, "web", 3).await;
    let listed = asked(&data, &["audit", "shards"]);
    let states: Vec<_> = listed["shards"]
        .as_array()
        .unwrap()
        .iter()
        .map(|shard| &shard["state"])
        .collect();
    assert_eq!(states, ["closed", "written"]);
    let keys: Vec<String> = std::fs::read_dir(data.join("keys"))
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        !keys.contains(&"log.key".to_owned()),
        "the old log's key is gone: {keys:?}"
    );

    for serial in before.iter().chain(&after) {
        let proof = asked(&data, &["audit", "proof", serial, "--vkey", &first_key]);
        assert_eq!(proof["verified"], true);
        let offline = asked(&data, &["audit", "proof", serial, "--vkey", &first_key, "--offline"]);
        for field in ["origin", "index", "leaf_hash"] {
            assert_eq!(proof[field], offline[field], "{field}");
        }
    }
    let second = asked(&data, &["audit", "proof", &after[0]]);
    assert_eq!(second["origin"], rolled["begun"]["origin"]);
    let verified = asked(&data, &["audit", "verify", "--vkey", &first_key, "--signatures"]);
    assert_eq!(verified["shards"].as_array().unwrap().len(), 2);
    let tree = folder.path().join("tree");
    ran(0, &data, &["audit", "export-tiles", tree.to_str().unwrap()]);
    ran(
        0,
        &data,
        &["audit", "verify", tree.to_str().unwrap(), "--vkey", &first_key],
    );
    drop(stream);
    ca.stop().await;
    let again = over(&folder, &deps).await;
    let mut stream = agent(&again, "n2").await;
    issue(&mut stream, "web", 1).await;
    assert_eq!(
        asked(&data, &["audit", "shards"])["shards"].as_array().unwrap().len(),
        2
    );
    ran(0, &data, &["audit", "verify", "--vkey", &first_key]);
    drop(stream);
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_is_neither_asked_for_nor_needed() {
    let clock = Shifted::behind(Duration::ZERO);
    let (ca, folder) = begun(&clock.deps()).await;
    let data = folder.path().join("ca");
    entry(ca.admin_socket(), "web", "/web").await;
    entry(ca.admin_socket(), "gone", "/gone").await;
    let mut stream = agent(&ca, "n1").await;
    let serial = issue(&mut stream, "web", 1).await.remove(0);
    ran(0, &data, &["entry", "delete", "gone"]);
    ran(0, &data, &["agent", "ban", "n1", "--reason", "test"]);
    drop(stream);
    let first_key = first_key(&folder, &data);
    ran(0, &data, &["audit", "roll"]);
    let none = ran(0, &data, &["audit", "retain", "--older-than", "24h"]);
    assert!(none.contains("no shard is that old"), "{none}");
    clock.move_on(Duration::from_secs(100 * 3600));
    let due = || asked(&data, &["audit", "retain", "--older-than", "24h", "--dry-run"]);
    // The closed shard is sealed in the background, a second after it was closed.
    eventually("the shard is sealed", || {
        !due()["released"].as_array().unwrap().is_empty()
    });
    ran(0, &data, &["audit", "show", &serial]);
    ran(0, &data, &["audit", "retain", "--older-than", "24h"]);
    let states = asked(&data, &["audit", "shards"]);
    assert_eq!(states["shards"][0]["state"], "released");
    ran(2, &data, &["audit", "show", &serial]);
    let told = ran(2, &data, &["audit", "show", "1"]);
    assert!(told.contains("given up"), "{told}");
    ran(0, &data, &["audit", "verify", "--vkey", &first_key]);
    let tree = folder.path().join("tree");
    ran(0, &data, &["audit", "export-tiles", tree.to_str().unwrap()]);
    ran(
        0,
        &data,
        &["audit", "verify", tree.to_str().unwrap(), "--vkey", &first_key],
    );

    // The state is lost: what stood is known from the snapshot alone.
    let entries = asked(&data, &["entry", "list"]);
    ca.stop().await;
    std::fs::remove_dir_all(data.join("state")).unwrap();
    let again = over(&folder, &clock.deps()).await;
    assert_eq!(asked(&data, &["entry", "list"]), entries);
    let agents = asked(&data, &["agent", "list"]);
    assert_eq!(agents["agents"][0]["status"], "banned", "{agents}");
    assert_eq!(entries["entries"].as_array().unwrap().len(), 1);
    ran(0, &data, &["audit", "verify", "--vkey", &first_key]);
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_ends_with_its_month() {
    let clock = Shifted::behind(Duration::ZERO);
    let (ca, folder) = begun(&clock.deps()).await;
    let data = folder.path().join("ca");
    assert_eq!(
        asked(&data, &["audit", "shards"])["shards"].as_array().unwrap().len(),
        1
    );
    ca.stop().await;
    clock.move_on(Duration::from_secs(32 * 86_400));
    // A start looks at once.
    let again = over(&folder, &clock.deps()).await;
    eventually("a new month has a new shard", || {
        asked(&data, &["audit", "shards"])["shards"].as_array().unwrap().len() == 2
    });
    ran(0, &data, &["audit", "verify"]);
    again.stop().await;
}

/// Waits until the alarm about an unwitnessed log has this value.
async fn until_unwitnessed(face: SocketAddr, value: u64) {
    let look = async {
        while metric(face, "mintage_log_unwitnessed ").await != value {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(SOON, look).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_shard_is_unwitnessed_until_its_witness_is_given_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let (data, logs, file) = (
        folder.path().join("ca"),
        folder.path().join("logs"),
        folder.path().join("ca.toml"),
    );
    make_with(&data, &Deps::system());
    let give_policy = || std::fs::copy(data.join("ledger/policy"), &logs).unwrap();
    give_policy();
    let mut home = WitnessHome::make(folder.path(), "w1", &logs);
    let witness = home.start();
    let face = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = format!(
        "data_dir = {data:?}\nlisten = \"127.0.0.1:0\"\nmetrics = \"{face}\"\n[ledger]\ncheckpoint_interval = \"100ms\"\n\
         max_unwitnessed = \"1s\"\n[[witness]]\nurl = \"http://{}\"\nvkey = \"{}\"\n",
        home.address, home.vkey
    );
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(binary("mintage-ca"));
    command.arg("serve").arg("--config").arg(&file);
    let ca = CaProcess::launch(&data, command);
    until_unwitnessed(face, 0).await;
    // The log that ends has more records than the one that begins will have for a while.
    ran(0, &data, &["audit", "roll"]);
    until_unwitnessed(face, 1).await;
    // As the README says: the policy again, and a restart.
    assert_eq!(witness.stop(), Some(0));
    give_policy();
    let _witness = home.start();
    until_unwitnessed(face, 0).await;
    assert_eq!(ca.stop(), Some(0));
}
