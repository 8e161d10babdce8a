//! Sealed segments in an object store, with the real CA over a folder: a copy that verifies, whatever is killed on the way, and
//! nothing there that is ever overwritten.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use mintage_ca::{Ca, Config, Deps};
use mintage_tests::kit::{
    bins::binary,
    ca::{CaProcess, entry, make_with},
    clock::Shifted,
    face::metric,
    folder::copied,
};
use serde_json::Value;
use tempfile::TempDir;

/// Longest wait for what should happen at once; the machine may be busy.
const SOON: Duration = Duration::from_secs(60);

/// A CA's folder, its configuration, and the store that it names.
struct Home {
    folder: TempDir,
}

impl Home {
    fn new(deps: &Deps) -> Self {
        let home = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        make_with(&home.data(), deps);
        fs::create_dir(home.store()).unwrap();
        fs::write(home.path("ca.toml"), home.text()).unwrap();
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn data(&self) -> PathBuf {
        self.path("ca")
    }

    fn store(&self) -> PathBuf {
        self.path("store")
    }

    fn text(&self) -> String {
        let (data, store) = (self.data(), self.store());
        format!(
            "data_dir = \"{}\"\nlisten = \"127.0.0.1:0\"\nmetrics = \"127.0.0.1:0\"\n\
             [ledger]\nshards = \"manual\"\n[ledger.upload]\nurl = \"file://{}\"\n",
            data.display(),
            store.display()
        )
    }

    async fn start(&self, deps: &Deps) -> Ca {
        let config = Config::parse(&self.path("ca.toml"), &self.text()).unwrap();
        Ca::start(config, deps.clone()).await.unwrap()
    }

    fn program(&self) -> CaProcess {
        let mut command = Command::new(binary("mintage-ca"));
        command.arg("serve").arg("--config").arg(self.path("ca.toml"));
        CaProcess::launch(&self.data(), command)
    }

    /// The store's folder of a shard of the ledger, counted from 0.
    fn shard(&self, number: usize) -> PathBuf {
        let policy = fs::read_to_string(self.data().join("ledger/policy")).unwrap();
        let line = policy
            .lines()
            .filter(|line| line.starts_with("log "))
            .nth(number)
            .unwrap();
        let origin = line["log ".len()..].split('+').next().unwrap().to_owned();
        let (_, below) = origin.split_once("/mintage/").unwrap();
        self.store().join(below)
    }

    /// How many shards the store names as whole.
    fn named(&self) -> usize {
        let policy = fs::read_to_string(self.store().join("policy")).unwrap_or_default();
        policy.lines().filter(|line| line.starts_with("log ")).count()
    }

    fn eventually_named(&self, count: usize) {
        eventually(&format!("{count} shards are named"), || self.named() == count);
    }

    /// A copy of the store, verified under the key of the ledger's first log.
    fn verified(&self) -> Value {
        let to = tempfile::tempdir().unwrap();
        copied(&self.store(), &to.path().join("copy"));
        let key = self.path("vkey");
        let shards = self.asked(&["audit", "shards"]);
        fs::write(&key, shards["shards"][0]["vkey"].as_str().unwrap()).unwrap();
        let dir = to.path().join("copy");
        self.asked(&[
            "audit",
            "verify",
            dir.to_str().unwrap(),
            "--vkey",
            key.to_str().unwrap(),
            "--signatures",
        ])
    }

    #[track_caller]
    fn ran(&self, code: i32, words: &[&str]) -> String {
        let mut command = Command::new(binary("mintage"));
        for variable in ["MINTAGE_FORMAT", "MINTAGE_ADMIN_SOCKET", "MINTAGE_LOG"] {
            command.env_remove(variable);
        }
        command
            .arg("--data-dir")
            .arg(self.data())
            .args(words)
            .stdin(Stdio::null());
        let output = command.output().unwrap();
        let [said, told] = [output.stdout, output.stderr].map(|octets| String::from_utf8(octets).unwrap());
        assert_eq!(output.status.code(), Some(code), "{words:?}: {said}{told}");
        said + &told
    }

    #[track_caller]
    fn asked(&self, words: &[&str]) -> Value {
        let said = self.ran(0, &[words, &["-o", "json"]].concat());
        serde_json::from_str(&said[..=said.rfind('}').unwrap()]).unwrap()
    }

    fn roll(&self) {
        self.ran(0, &["audit", "roll"]);
    }
}

#[track_caller]
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < SOON, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

async fn until(ca: &Ca, line: &str, enough: impl Fn(u64) -> bool) {
    let face = ca.metrics_address().unwrap();
    let look = async {
        while !enough(metric(face, line).await) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let came = tokio::time::timeout(SOON, look).await;
    assert!(came.is_ok(), "{line} did not come");
}

fn conflicts(count: u64) -> bool {
    count > 0
}

const CONFLICTS: &str = "mintage_alarms_total{reason=\"upload-conflict\"} ";
const PENDING: &str = "mintage_upload_pending_segments ";

fn size_of(checkpoint: &Path) -> u64 {
    let text = fs::read_to_string(checkpoint).unwrap();
    text.lines().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_shards_go_up_and_a_copy_of_the_store_verifies() {
    let home = Home::new(&Deps::system());
    let ca = home.start(&Deps::system()).await;
    entry(ca.admin_socket(), "web", "/web").await;
    eventually("the first checkpoint goes up", || {
        home.shard(0).join("checkpoint").exists()
    });
    assert_eq!(home.named(), 0, "a shard that is written is not whole");
    home.roll();
    home.eventually_named(1);
    let one = home.verified();
    assert_eq!(one["shards"].as_array().unwrap().len(), 1);
    entry(ca.admin_socket(), "db", "/db").await;
    home.roll();
    home.eventually_named(2);
    until(&ca, PENDING, |pending| pending == 0).await;
    let both = home.verified();
    let here = home.asked(&["audit", "verify"]);
    for at in [0, 1] {
        for field in ["origin", "first", "size", "root"] {
            assert_eq!(both["shards"][at][field], here["shards"][at][field], "{field}");
        }
    }
    // One octet of a copy is another.
    let entries = home.shard(1).join("seg/00000000.entries.zst");
    let good = fs::read(&entries).unwrap();
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    fs::write(&entries, bad).unwrap();
    let to = tempfile::tempdir().unwrap();
    copied(&home.store(), &to.path().join("copy"));
    home.ran(3, &["audit", "verify", to.path().join("copy").to_str().unwrap()]);
    ca.stop().await;
}

#[test]
fn a_program_that_is_killed_goes_on_from_what_the_store_has() {
    let home = Home::new(&Deps::system());
    let mut ca = home.program();
    for round in 0..3 {
        home.roll();
        // Killed at some moment of sealing, uploading or naming.
        std::thread::sleep(Duration::from_millis(700 * round));
        ca.kill();
        ca = home.program();
    }
    home.eventually_named(3);
    assert_eq!(home.verified()["shards"].as_array().unwrap().len(), 3);
    let put = || {
        fs::metadata(home.shard(0).join("seg/00000000.entries.zst"))
            .unwrap()
            .modified()
            .unwrap()
    };
    let before = put();
    assert_eq!(ca.stop(), Some(0));
    let ca = home.program();
    home.roll();
    home.eventually_named(4);
    assert_eq!(put(), before, "what is there is not put again");
    assert_eq!(ca.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_put_is_an_alarm_and_stays() {
    let home = Home::new(&Deps::system());
    let entries = home.shard(0).join("seg/00000000.entries.zst");
    fs::create_dir_all(entries.parent().unwrap()).unwrap();
    fs::write(&entries, "not of this ledger").unwrap();
    let ca = home.start(&Deps::system()).await;
    home.roll();
    until(&ca, CONFLICTS, conflicts).await;
    assert_eq!(fs::read_to_string(&entries).unwrap(), "not of this ledger");
    assert_eq!(home.named(), 0);
    // The ledger goes on, and so do shards; the operator moves it away.
    entry(ca.admin_socket(), "web", "/web").await;
    fs::remove_file(&entries).unwrap();
    home.eventually_named(1);
    home.verified();
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_an_earlier_life_is_compared_before_its_shard_is_named() {
    let home = Home::new(&Deps::system());
    let ca = home.start(&Deps::system()).await;
    home.roll();
    home.eventually_named(1);
    ca.stop().await;
    // As if the process had died before it named the shard, and the object had rotted: its length is right.
    fs::remove_file(home.store().join("policy")).unwrap();
    let entries = home.shard(0).join("seg/00000000.entries.zst");
    let good = fs::read(&entries).unwrap();
    let mut bad = good.clone();
    bad[0] ^= 1;
    fs::write(&entries, &bad).unwrap();
    let ca = home.start(&Deps::system()).await;
    until(&ca, CONFLICTS, conflicts).await;
    assert_eq!((home.named(), fs::read(&entries).unwrap()), (0, bad));
    fs::write(&entries, good).unwrap();
    home.eventually_named(1);
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_data_directory_replaces_no_checkpoint_of_a_newer_one() {
    let home = Home::new(&Deps::system());
    let old = home.path("old");
    copied(&home.data(), &old);
    let ca = home.start(&Deps::system()).await;
    entry(ca.admin_socket(), "web", "/web").await;
    home.roll();
    home.eventually_named(1);
    ca.stop().await;
    let checkpoint = home.shard(0).join("checkpoint");
    let (newer, policy) = (
        fs::read(&checkpoint).unwrap(),
        fs::read(home.store().join("policy")).unwrap(),
    );
    fs::remove_dir_all(home.data()).unwrap();
    copied(&old, &home.data());
    // It knows nothing of the shard that the store names as closed; without that name the checkpoint itself tells.
    for name_is_there in [true, false] {
        if !name_is_there {
            fs::remove_file(home.store().join("policy")).unwrap();
        }
        let ca = home.start(&Deps::system()).await;
        until(&ca, CONFLICTS, conflicts).await;
        assert_eq!(fs::read(&checkpoint).unwrap(), newer);
        assert!(size_of(&checkpoint) > 1);
        if name_is_there {
            assert_eq!(fs::read(home.store().join("policy")).unwrap(), policy);
        }
        // It serves as ever.
        entry(ca.admin_socket(), "db", "/db").await;
        ca.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_keeps_records_here_and_nothing_else_waiting() {
    let clock = Shifted::behind(Duration::from_secs(200 * 3600));
    let home = Home::new(&clock.deps());
    let away = home.path("away");
    fs::rename(home.store(), &away).unwrap();
    let ca = home.start(&clock.deps()).await;
    entry(ca.admin_socket(), "web", "/web").await;
    home.roll();
    until(&ca, PENDING, |pending| pending == 1).await;
    clock.move_on(Duration::from_secs(100 * 3600));
    let retain = ["audit", "retain", "--older-than", "24h"];
    let kept = home.asked(&retain);
    assert_eq!(kept["released"].as_array().unwrap().len(), 0, "{kept}");
    assert_eq!(kept["withheld"].as_array().unwrap().len(), 1, "{kept}");
    assert!(home.ran(0, &retain).contains("--even-if-not-uploaded"));
    let states = home.asked(&["audit", "shards"]);
    assert_eq!(states["shards"][0]["state"], "closed");
    let forced = home.asked(&[&retain[..], &["--even-if-not-uploaded", "--dry-run"]].concat());
    assert_eq!(forced["released"].as_array().unwrap().len(), 1, "{forced}");

    // Back again.
    fs::rename(&away, home.store()).unwrap();
    home.eventually_named(1);
    until(&ca, PENDING, |pending| pending == 0).await;
    let released = home.asked(&retain);
    assert_eq!(released["released"].as_array().unwrap().len(), 1, "{released}");
    assert_eq!(home.asked(&["audit", "shards"])["shards"][0]["state"], "released");
    // What was given up here is whole there.
    assert_eq!(home.verified()["shards"][0]["released"], false);
    home.roll();
    home.eventually_named(2);
    assert_eq!(home.verified()["shards"].as_array().unwrap().len(), 2);
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_be_written_is_tried_again() {
    let home = Home::new(&Deps::system());
    // A plain file stands where the ledger's folder goes: also root cannot make it.
    let id = home.shard(0).parent().unwrap().to_owned();
    fs::write(&id, "").unwrap();
    let ca = home.start(&Deps::system()).await;
    home.roll();
    until(&ca, "mintage_upload_objects_total{result=\"failed\"} ", |count| {
        count > 1
    })
    .await;
    entry(ca.admin_socket(), "web", "/web").await;
    fs::remove_file(&id).unwrap();
    home.eventually_named(1);
    home.verified();
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_were_given_up_before_leave_a_shard_that_says_so() {
    let clock = Shifted::behind(Duration::from_secs(200 * 3600));
    let home = Home::new(&clock.deps());
    let away = home.path("away");
    fs::rename(home.store(), &away).unwrap();
    let ca = home.start(&clock.deps()).await;
    home.roll();
    clock.move_on(Duration::from_secs(100 * 3600));
    let forced = ["audit", "retain", "--older-than", "24h", "--even-if-not-uploaded"];
    eventually("the shard is sealed and given up", || {
        !home.asked(&forced)["released"].as_array().unwrap().is_empty()
    });
    fs::rename(&away, home.store()).unwrap();
    home.roll();
    home.eventually_named(2);
    let shards = home.verified()["shards"].clone();
    assert_eq!(
        (&shards[0]["released"], &shards[1]["released"]),
        (&true.into(), &false.into())
    );
    ca.stop().await;
}
