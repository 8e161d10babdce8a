//! An exported ledger before verifiers that nobody here wrote: they accept it as it is, and none accepts it altered.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use mintage_identity::UnixTime;
use mintage_ledger::{Cosigner, LogKey, SignedNote};
use mintage_proto::v1::Entry;
use mintage_tests::kit::{
    bins::binary,
    ca::{self, CaProcess},
    verifiers::{Verifier, proof_by},
};
use serde_json::Value;
use tempfile::TempDir;

/// Entries that are recorded: with what else happens, a full tile and a partial one on each side of it.
const ENTRIES: usize = 300;
const BATCH: usize = 50;

/// Runs `mintage`; its exit code and the one object it prints.
fn mintage(dir: &Path, words: &[&str]) -> (Option<i32>, Value) {
    let mut command = Command::new(binary("mintage"));
    command.env_remove("MINTAGE_FORMAT").arg("--data-dir").arg(dir);
    let output = command
        .args(words)
        .args(["-o", "json"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let object = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {told}"));
    (output.status.code(), object)
}

/// A ledger of a real authority, exported.
struct Exported {
    folder: TempDir,
    log: PathBuf,
    key: String,
    size: u64,
}

async fn exported() -> Exported {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ca");
    ca::make(&dir);
    let running = CaProcess::start(&dir, 0);
    for first in (0..ENTRIES).step_by(BATCH) {
        let entry = |number: usize| Entry {
            name: format!("web-{number}"),
            spiffe_id: format!("spiffe://{}/web/{number}", ca::domain()),
            agents: vec![format!("spiffe://{}/mintage/agent/n1", ca::domain())],
            selectors: vec!["unix:uid:1".to_owned()],
            ..Entry::default()
        };
        let entries = (first..first + BATCH).map(entry).collect();
        ca::apply(&running.admin_socket(), entries).await.unwrap();
    }
    assert_eq!(running.stop(), Some(0));
    let tree = folder.path().join("tree");
    let (code, told) = mintage(&dir, &["audit", "export-tiles", tree.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{told}");
    let origin = told["logs"][0]["origin"].as_str().unwrap();
    let (_, below) = origin.split_once("/mintage/").unwrap();
    Exported {
        log: tree.join(below),
        key: told["logs"][0]["vkey"].as_str().unwrap().to_owned(),
        size: told["logs"][0]["size"].as_u64().unwrap(),
        folder,
    }
}

impl Exported {
    /// Ours, and those that are to be had.
    fn accepted(&self, verifiers: &[Verifier]) {
        let (code, told) = self.ours();
        assert_eq!(
            (code, told["shards"][0]["size"].as_u64()),
            (Some(0), Some(self.size)),
            "{told}"
        );
        for verifier in verifiers {
            let said = verifier.verify(&self.log, std::slice::from_ref(&self.key));
            assert_eq!(said, Ok(self.size), "{}", verifier.name);
        }
    }

    fn refused(&self, what: &str, verifiers: &[Verifier]) {
        let (code, told) = self.ours();
        assert_eq!(
            (code, &told["proven"]),
            (Some(3), &Value::Bool(false)),
            "{what}: {told}"
        );
        for verifier in verifiers {
            let said = verifier.verify(&self.log, std::slice::from_ref(&self.key));
            assert!(said.is_err(), "{what}: {} accepts it", verifier.name);
            println!("{what}: {}: {}", verifier.name, said.unwrap_err().trim());
        }
    }

    fn ours(&self) -> (Option<i32>, Value) {
        let tree = self.folder.path().join("tree");
        mintage(self.folder.path(), &["audit", "verify", tree.to_str().unwrap()])
    }

    /// Alters one file, and puts it back afterwards.
    fn with(&self, what: &str, file: &str, alter: impl FnOnce(&mut Vec<u8>), verifiers: &[Verifier]) {
        let path = self.log.join(file);
        let whole = fs::read(&path).unwrap_or_else(|error| panic!("{what}: {file}: {error}"));
        let mut altered = whole.clone();
        alter(&mut altered);
        assert_ne!(altered, whole, "{what}");
        fs::write(&path, altered).unwrap();
        self.refused(what, verifiers);
        fs::write(&path, whole).unwrap();
    }
}

/// The first two records of a bundle, the second one first.
fn swap(bundle: &mut [u8]) {
    let length = |at: usize| 2 + usize::from(u16::from_be_bytes([bundle[at], bundle[at + 1]]));
    let one = length(0);
    let two = length(one);
    bundle[..one + two].rotate_left(one);
}

#[tokio::test(flavor = "multi_thread")]
async fn verifiers_that_nobody_here_wrote_accept_an_exported_ledger_and_no_altered_one() {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop");
    fs::create_dir_all(&scratch).unwrap();
    let (go, python) = (Verifier::go(&scratch), Verifier::python(&scratch));
    let verifiers: Vec<Verifier> = [go, python].into_iter().flatten().collect();
    let exported = exported().await;
    assert!((257..512).contains(&exported.size), "{}", exported.size);
    exported.accepted(&verifiers);

    let edge = exported.size % 256;
    let flip = |at: usize| move |octets: &mut Vec<u8>| octets[at] ^= 1;
    exported.with("a bundle", "tile/entries/000", flip(700), &verifiers);
    exported.with(
        "the last bundle",
        &format!("tile/entries/001.p/{edge}"),
        flip(9),
        &verifiers,
    );
    exported.with("a tile", "tile/0/000", flip(32 * 77), &verifiers);
    exported.with("a partial tile", &format!("tile/0/001.p/{edge}"), flip(31), &verifiers);
    exported.with("a tile above", "tile/1/000.p/1", flip(5), &verifiers);
    exported.with(
        "two records swapped",
        "tile/entries/000",
        |octets| swap(octets),
        &verifiers,
    );
    let root = |octets: &mut Vec<u8>| {
        let text = String::from_utf8(octets.clone()).unwrap();
        let line = text.lines().nth(2).unwrap();
        let other = if line.starts_with('A') { "B" } else { "A" };
        *octets = text.replacen(line, &format!("{other}{}", &line[1..]), 1).into_bytes();
    };
    exported.with("the root", "checkpoint", root, &verifiers);
    exported.accepted(&verifiers);
    if let Some(python) = verifiers.iter().find(|verifier| verifier.name == "tlog-scales") {
        proven(&exported, python);
        cosigned(&exported, python);
    }
}

/// Our proofs are, octet for octet, those that the reader in Python makes; only the record travels in ours alone.
fn proven(exported: &Exported, python: &Verifier) {
    for index in [0, 1, 255, 256, exported.size - 1] {
        let mut command = Command::new(binary("mintage"));
        command
            .env_remove("MINTAGE_FORMAT")
            .arg("--data-dir")
            .arg(exported.folder.path().join("ca"));
        let index_word = format!("index:{index}");
        let output = command
            .args(["audit", "proof", "--offline", &index_word])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let ours = String::from_utf8(output.stdout).unwrap();
        let plain: String = ours
            .split_inclusive('\n')
            .filter(|line| !line.starts_with("extra "))
            .collect();
        assert_eq!(plain, proof_by(python, &exported.log, index), "record {index}");
    }
}

/// A witness's line beside the log's: the reader in Python knows both.
fn cosigned(exported: &Exported, python: &Verifier) {
    let pkcs8 = hex::decode(format!("302e020100300506032b657004220420{}", "05".repeat(32))).unwrap();
    let witness = Cosigner::new("witness.example/w1", LogKey::from_pkcs8(&pkcs8).unwrap()).unwrap();
    let path = exported.log.join("checkpoint");
    let note = SignedNote::parse(&fs::read(&path).unwrap()).unwrap();
    let line = witness.cosign(&note, UnixTime::from_seconds(1_795_467_600)).unwrap();
    let keys = [exported.key.clone(), witness.key().to_string()];
    assert!(python.verify(&exported.log, &keys).is_err(), "it is not cosigned yet");
    let text = note.with_lines([line]).unwrap().to_string();
    fs::write(&path, &text).unwrap();
    assert_eq!(python.verify(&exported.log, &keys), Ok(exported.size));
    // Octets in the middle of the cosignature.
    let at = text.len() - 20;
    let other = if &text[at..at + 4] == "AAAA" { "BBBB" } else { "AAAA" };
    fs::write(&path, format!("{}{other}{}", &text[..at], &text[at + 4..])).unwrap();
    assert!(python.verify(&exported.log, &keys).is_err(), "another signature");
}
