//! Shards with the real CA: certificates on both sides of the end of a log, proofs of both, a state that is lost after its records
//! were given up, a month that ends, and a witness of all of them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use mintage_ca::{Ca, Deps};
use mintage_ledger::{LogKey, Origin, Succession, Vkey};
use mintage_svid::{LeafInfo, pem};
use mintage_tests::kit::{
    bins::binary,
    ca::{CaProcess, config, entry, make_with, token},
    client::join,
    clock::Shifted,
    face::metric,
    folder::copied,
    stream::{Stream, ask, code},
    witness::{WitnessHome, WitnessProcess},
};
use serde_json::Value;
use tempfile::TempDir;

/// Longest wait for what should happen at once; the machine may be busy.
const SOON: Duration = Duration::from_secs(30);

/// How `mintage` ends on this CA's socket and folder, and what it says.
fn run(data: &Path, words: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(binary("mintage"));
    for variable in ["MINTAGE_FORMAT", "MINTAGE_ADMIN_SOCKET", "MINTAGE_LOG"] {
        command.env_remove(variable);
    }
    command.arg("--data-dir").arg(data).args(words).stdin(Stdio::null());
    let output = command.output().unwrap();
    let [said, told] = [output.stdout, output.stderr].map(|octets| String::from_utf8(octets).unwrap());
    (output.status.code(), said + &told)
}

/// What it says when it ends with this code.
#[track_caller]
fn ran(code: i32, data: &Path, words: &[&str]) -> String {
    let (ended, said) = run(data, words);
    assert_eq!(ended, Some(code), "{words:?}: {said}");
    said
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

/// A copy of the first log's checkpoint as it stands.
fn kept(folder: &TempDir, data: &Path, name: &str) -> String {
    let shards = asked(data, &["audit", "shards"]);
    let origin = Origin::parse(shards["shards"][0]["origin"].as_str().unwrap()).unwrap();
    let path = folder.path().join(name);
    let checkpoint = data
        .join("ledger")
        .join(origin.id())
        .join(origin.shard())
        .join("checkpoint");
    std::fs::copy(checkpoint, &path).unwrap();
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
    let early = kept(&folder, &data, "early");
    ran(0, &data, &["audit", "roll"]);
    let last = kept(&folder, &data, "last");
    let none = ran(0, &data, &["audit", "retain", "--older-than", "24h"]);
    assert!(none.contains("no shard is given up"), "{none}");
    let why = asked(&data, &["audit", "retain", "--older-than", "24h"])["kept_because"].clone();
    // Sealing ends a second later.
    assert!(why == "young" || why == "not-sealed", "{why}");
    assert!(none.contains("stays: it"), "{none}");
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
    // What is still there is exported, and it is said where it begins.
    let first = states["shards"][1]["first"].as_u64().unwrap();
    let told = ran(0, &data, &["audit", "export", "--format", "jsonl"]);
    let begins = told.lines().find(|line| line.starts_with('{')).unwrap();
    let begins: Value = serde_json::from_str(begins).unwrap();
    assert_eq!(begins["index"], first, "{told}");
    assert!(told.contains(&format!("begins with record {first}")), "{told}");
    // An auditor's kept checkpoint: of the log that is gone only the last one can still be compared.
    let held = asked(&data, &["audit", "verify", "--checkpoint", &last]);
    assert!(held["kept_checkpoint"].as_u64().is_some_and(|size| size > 0), "{held}");
    let told = ran(3, &data, &["audit", "verify", "--checkpoint", &early]);
    assert!(
        told.contains("were given up") && told.contains("keep the last checkpoint"),
        "{told}"
    );
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
async fn a_copy_of_the_closed_shards_alone_verifies() {
    let (ca, folder) = begun(&Deps::system()).await;
    let data = folder.path().join("ca");
    entry(ca.admin_socket(), "web", "/web").await;
    let first_key = first_key(&folder, &data);
    ran(0, &data, &["audit", "roll"]);
    let shards = asked(&data, &["audit", "shards"]);
    let origin = Origin::parse(shards["shards"][0]["origin"].as_str().unwrap()).unwrap();
    let shard = data.join("ledger").join(origin.id()).join(origin.shard());
    let wals = || std::fs::read_dir(shard.join("head")).unwrap().count();
    eventually("the shard is sealed", || {
        shard.join("seg/00000000.idx").exists() && wals() == 0
    });
    let copy = folder.path().join("copy");
    let to = copy.join(origin.id()).join(origin.shard());
    std::fs::create_dir_all(&to).unwrap();
    for name in ["seg", "checkpoints"] {
        copied(&shard.join(name), &to.join(name));
    }
    std::fs::copy(shard.join("checkpoint"), to.join("checkpoint")).unwrap();
    let policy = format!("log {}\nquorum none\n", shards["shards"][0]["vkey"].as_str().unwrap());
    std::fs::write(copy.join("policy"), policy).unwrap();
    let verify = ["audit", "verify", copy.to_str().unwrap(), "--vkey", &first_key];
    let verified = asked(&data, &verify);
    assert_eq!(verified["shards"][0]["size"], shards["shards"][0]["records"]);
    // An index that hides a record is none of the records.
    let index = to.join("seg/00000000.idx");
    let mut octets = std::fs::read(&index).unwrap();
    let middle = octets.len() / 2;
    octets[middle] ^= 1;
    std::fs::write(&index, octets).unwrap();
    ran(3, &data, &verify);
    ca.stop().await;
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

/// Stands between a CA and its witness, and lets no statement about a log through: as a witness without that call.
fn way_of_a_witness_that_follows_nothing(witness: &str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, witness) = (listener.local_addr().unwrap(), witness.to_owned());
    std::thread::spawn(move || {
        for ours in listener.incoming() {
            let Ok(theirs) = TcpStream::connect(&witness) else {
                continue;
            };
            let ours = ours.unwrap();
            let ways = [(ours.try_clone(), theirs.try_clone()), (Ok(theirs), Ok(ours))];
            for (from, to) in ways {
                let (mut from, mut to) = (from.unwrap(), to.unwrap());
                std::thread::spawn(move || {
                    let mut octets = [0; 64 * 1024];
                    while let Ok(read @ 1..) = from.read(&mut octets) {
                        if octets.starts_with(b"POST /add-log") {
                            octets[6..9].copy_from_slice(b"not");
                        }
                        if to.write_all(&octets[..read]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        }
    });
    address
}

/// A CA with a witness of its log, both running.
struct Witnessed {
    folder: TempDir,
    home: WitnessHome,
    face: SocketAddr,
}

impl Witnessed {
    /// The CA asks its witness on the way that this function makes.
    fn begin(max_unwitnessed: &str, way: impl FnOnce(&str) -> String) -> (Self, WitnessProcess, CaProcess) {
        let folder = tempfile::tempdir().unwrap();
        let (data, logs) = (folder.path().join("ca"), folder.path().join("logs"));
        make_with(&data, &Deps::system());
        std::fs::copy(data.join("ledger/policy"), &logs).unwrap();
        let mut home = WitnessHome::make(folder.path(), "w1", &logs);
        let witness = home.start();
        let face = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let text = format!(
            "data_dir = {data:?}\nlisten = \"127.0.0.1:0\"\nmetrics = \"{face}\"\n[ledger]\ncheckpoint_interval = \
             \"100ms\"\nmax_unwitnessed = \"{max_unwitnessed}\"\n[[witness]]\nurl = \"http://{}\"\nvkey = \"{}\"\n",
            way(&home.address),
            home.vkey
        );
        let file = folder.path().join("ca.toml");
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(binary("mintage-ca"));
        command.arg("serve").arg("--config").arg(&file);
        let ca = CaProcess::launch(&data, command);
        (Self { folder, home, face }, witness, ca)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("ca")
    }

    /// A policy that trusts the first log and asks for this witness, as an auditor was given it.
    fn policy(&self) -> String {
        let path = self.folder.path().join("audit-policy");
        let logs = std::fs::read_to_string(self.folder.path().join("logs")).unwrap();
        let witness = format!("witness w1 {}\nquorum w1", self.home.vkey);
        std::fs::write(&path, logs.replace("quorum none", &witness)).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_shard_is_unwitnessed_until_a_witness_that_follows_nothing_is_given_its_key() {
    let way = |address: &str| way_of_a_witness_that_follows_nothing(address).to_string();
    let (scene, witness, mut ca) = Witnessed::begin("1s", way);
    until_unwitnessed(scene.face, 0).await;
    // The log that ends has more records than the one that begins will have for a while.
    ran(0, &scene.data(), &["audit", "roll"]);
    until_unwitnessed(scene.face, 1).await;
    ca.wait_for("what to do", |log| {
        log.contains("give it the CA's `ledger/policy` file")
    });
    // As the README says: the policy again, and a signal. One that is bad changes nothing.
    let logs = scene.folder.path().join("logs");
    std::fs::write(&logs, "log x\nquorum none\n").unwrap();
    witness.hang_up();
    eventually("a bad policy is told of", || {
        let log = scene.home.log();
        log.contains("reload refused") && log.contains("line 1")
    });
    std::fs::copy(scene.data().join("ledger/policy"), &logs).unwrap();
    witness.hang_up();
    until_unwitnessed(scene.face, 0).await;
    assert_eq!(ca.stop(), Some(0));
    assert_eq!(witness.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_follows_every_shard_and_cosigns_the_end_of_each() {
    let (mut scene, witness, ca) = Witnessed::begin("60s", str::to_owned);
    let (data, policy) = (scene.data(), scene.policy());
    let words = ["audit", "verify", "--policy", &policy, "-o", "json"];
    let proven = |shards: usize| {
        let (code, said) = run(&data, &words);
        let json: Value = serde_json::from_str(&said[..=said.rfind('}').unwrap_or_default()]).unwrap_or_default();
        let listed = json["shards"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is_cosigned = |shard: &Value| shard["witnesses"] == serde_json::json!(["w1"]);
        code == Some(0) && listed.len() == shards && listed.iter().all(is_cosigned)
    };
    eventually("the first log is witnessed", || proven(1));
    let first_key = std::fs::read_to_string(data.join("keys/log.key")).unwrap();
    let first = asked(&data, &["audit", "shards"])["shards"][0]["vkey"].clone();
    let first: Vkey = first.as_str().unwrap().parse().unwrap();

    ran(0, &data, &["audit", "roll"]);
    eventually("two logs are witnessed", || proven(2));
    // Two more begin while nobody is there to follow them.
    witness.kill();
    ran(0, &data, &["audit", "roll"]);
    ran(0, &data, &["audit", "roll"]);
    let (code, said) = run(&data, &words);
    assert_eq!(code, Some(3), "nobody has cosigned their ends: {said}");
    let witness = scene.home.start();
    eventually("four logs are witnessed", || proven(4));
    assert!(!ca.log().contains("no witness has cosigned"), "{}", ca.log());
    assert_eq!(ca.stop(), Some(0));

    // Whoever has the first key, which the CA has destroyed, names no second log after the first.
    let from = Origin::parse(first.name()).unwrap();
    let stolen = LogKey::from_pkcs8(&pem::decode_private_key(&first_key).unwrap()).unwrap();
    // RFC 8410, section 7: an Ed25519 key in PKCS#8, before its 32 octets.
    let head = hex::decode("302e020100300506032b657004220420").unwrap();
    let other = LogKey::from_pkcs8(&[&head[..], &[9; 32]].concat()).unwrap();
    let elsewhere = first.name().replacen("dev.test", "other.test", 1);
    let named = |by: &LogKey, name: &str| {
        let next = other.vkey(&Origin::parse(name).unwrap());
        Succession::sign(by, &from, &next).to_string()
    };
    let next = from.marked("x").unwrap();
    for (statement, status) in [
        (named(&stolen, next.as_str()), 409),
        (named(&other, next.as_str()), 403),
        (named(&stolen, &elsewhere), 422),
        ("garbled".to_owned(), 400),
    ] {
        let (answered, told) = scene.home.call("add-log", &statement).await.unwrap();
        assert_eq!(answered, status, "{told}");
    }
    assert_eq!(witness.stop(), Some(0));
}
