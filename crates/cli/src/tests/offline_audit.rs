//! What an auditor does with files alone: check a certificate's proof, export the ledger, verify either form of it, and
//! hold it against a checkpoint of his own.

use std::sync::Arc;

use mintage_identity::UnixTime;
use mintage_ledger::{Cosigner, FileJournal, LogKey, OpenOptions, Sealer, Trees, Vkey};
use zeroize::Zeroizing;

use super::*;

/// Writes the CA's own certificate, its proof and the ledger's key beside its data directory; returns the serial.
pub(super) fn proven(running: &Running) -> String {
    let certificates = running.json(0, "cert list");
    let serial = certificates["certificates"][0]["serial"].as_str().unwrap().to_owned();
    let shown = running.json(0, &format!("audit show {serial}"));
    let proof = running.json(0, &format!("audit proof {serial}"));
    let keep = |name: &str, value: &Value| fs::write(running.dir.path().join(name), value.as_str().unwrap()).unwrap();
    keep("cert.pem", &shown["certificate"]["pem"]);
    keep("proof", &proof["tlog_proof"]);
    keep("vkey", &proof["vkey"]);
    serial
}

fn read(running: &Running, name: &str) -> String {
    fs::read_to_string(running.dir.path().join(name)).unwrap()
}

fn keep(running: &Running, name: &str, octets: impl AsRef<[u8]>) {
    fs::write(running.dir.path().join(name), octets).unwrap();
}

/// The folder of the one shard below an exported tree.
fn shard(tree: &Path) -> std::path::PathBuf {
    let vkey: Vkey = fs::read_to_string(tree.join("policy"))
        .unwrap()
        .lines()
        .find_map(|line| line.strip_prefix("log "))
        .unwrap()
        .parse()
        .unwrap();
    let (_, below) = vkey.name().split_once("/mintage/").unwrap();
    tree.join(below)
}

#[test]
fn a_certificate_is_checked_against_its_proof_with_nothing_but_a_key() {
    let mut running = Running::new();
    let serial = proven(&running);
    let text = running.expect(0, &format!("audit proof {serial}")).data;
    assert_eq!(
        text.lines().next(),
        Some("c2sp.org/tlog-proof@v1"),
        "tables print the proof itself"
    );
    let other = running.expect(0, "audit proof 0").data;
    keep(&running, "first", other);
    running.stop();

    let check = "audit check --certificate DIR/cert.pem --proof DIR/proof";
    let told = running.json(0, &format!("{check} --vkey DIR/vkey"));
    assert_eq!(
        (&told["proven"], &told["serial"]),
        (&true.into(), &serial.clone().into())
    );
    assert_eq!(told["not_proven"].as_array().unwrap().len(), 4);
    let text = running.expect(0, &format!("{check} --vkey DIR/vkey")).data;
    assert!(text.contains(&serial) && text.contains("not proven by this"), "{text}");

    let der = mintage_svid::pem::decode_certificates(&read(&running, "cert.pem")).unwrap();
    keep(&running, "cert.der", &der[0]);
    let by_der = "audit check --certificate DIR/cert.der --proof DIR/proof --vkey DIR/vkey";
    running.expect(0, by_der);
    let mut altered = der[0].clone();
    *altered.last_mut().unwrap() ^= 1;
    keep(&running, "cert.der", altered);
    assert_eq!(running.json(3, by_der)["proven"], false);

    let first = "audit check --certificate DIR/cert.pem --proof DIR/first --vkey DIR/vkey";
    assert!(running.expect(3, first).notices.contains("log.open"));
    let proof = read(&running, "proof");
    for (from, to) in [("index ", "index 1"), ("@v1", "@v2"), ("extra ", "extra AAAA")] {
        keep(&running, "proof", proof.replacen(from, to, 1));
        running.expect(3, &format!("{check} --vkey DIR/vkey"));
    }
    let without: Vec<_> = proof.lines().filter(|line| !line.starts_with("extra ")).collect();
    keep(&running, "proof", without.join("\n") + "\n");
    let told = running.expect(3, &format!("{check} --vkey DIR/vkey"));
    assert!(told.notices.contains("carries no record"), "{}", told.notices);
    keep(&running, "proof", &proof);

    let key: Vkey = read(&running, "vkey").parse().unwrap();
    keep(&running, "other", Vkey::new(key.name(), [9; 32]).unwrap().to_string());
    running.expect(3, &format!("{check} --vkey DIR/other"));
    let witness = Cosigner::new("w", LogKey::generate(&Zeroizing::new([4; 32])).unwrap().0).unwrap();
    for (quorum, code) in [("none", 0), ("w", 3)] {
        let policy = format!("log {key}\nwitness w {}\nquorum {quorum}\n", witness.key());
        keep(&running, "policy", policy);
        running.expect(code, &format!("{check} --policy DIR/policy"));
    }
    running.expect(1, check);
    running.expect(1, &format!("{check} --vkey DIR/none"));
    running.expect(
        1,
        "audit check --certificate DIR/none --proof DIR/proof --vkey DIR/vkey",
    );
    running.expect(
        1,
        "audit check --certificate DIR/cert.pem --proof DIR/none --vkey DIR/vkey",
    );
    running.expect(
        1,
        "audit check --certificate DIR/vkey --proof DIR/proof --vkey DIR/vkey",
    );
}

#[test]
fn an_exported_tree_is_verified_like_the_ledger_it_came_from() {
    let mut running = Running::new();
    proven(&running);
    running.stop();
    let written = running.json(0, "audit export-tiles DIR/tree --vkey DIR/vkey");
    let size = written["logs"][0]["size"].as_u64().unwrap();
    running.expect(1, "audit export-tiles DIR/tree");
    let verified = running.json(0, "audit verify DIR/tree --vkey DIR/vkey --signatures");
    assert_eq!(verified["shards"][0]["size"], size);
    assert_eq!(verified["certificates"], 1);
    assert_eq!(
        running.json(0, "audit verify --vkey DIR/vkey")["shards"][0]["root"],
        verified["shards"][0]["root"]
    );
    running.expect(0, "audit verify DIR/ca/ledger");
    let tree = running.dir.path().join("tree");
    let log = shard(&tree);
    running.expect(0, &format!("audit verify {} --vkey DIR/vkey", log.display()));
    running.expect(1, &format!("audit verify {}", log.display()));

    let key: Vkey = read(&running, "vkey").parse().unwrap();
    keep(&running, "other", Vkey::new(key.name(), [9; 32]).unwrap().to_string());
    running.expect(3, "audit verify DIR/tree --vkey DIR/other");
    let witness = Cosigner::new("w", LogKey::generate(&Zeroizing::new([4; 32])).unwrap().0).unwrap();
    keep(
        &running,
        "policy",
        format!("log {key}\nwitness w {}\nquorum w\n", witness.key()),
    );
    for dir in ["DIR/tree", "DIR/ca"] {
        let told = running.expect(3, &format!("audit verify {dir} --policy DIR/policy"));
        assert!(told.notices.contains("quorum"), "{}", told.notices);
    }
    let bundle = log.join(format!("tile/entries/000.p/{size}"));
    let mut octets = fs::read(&bundle).unwrap();
    *octets.last_mut().unwrap() ^= 1;
    fs::write(&bundle, octets).unwrap();
    let told = running.json(3, "audit verify DIR/tree --vkey DIR/vkey");
    assert_eq!(
        (&told["proven"], told["index"].as_u64()),
        (&false.into(), Some(size - 1)),
        "{told}"
    );
}

/// Gives up the records of the first shard of a CA that was stopped.
fn give_up_first(ledger: &Path) {
    let journal = Arc::new(FileJournal::open(ledger, OpenOptions::default()).unwrap());
    let trees = Trees::new(ledger, journal.clone(), journal.disk().clone());
    let mut sealer = Sealer::new(journal.clone(), trees);
    while sealer.seal_next().unwrap() {}
    let far = UnixTime::from_seconds(1 << 40);
    let old = journal.releasable(far, far).releasable;
    journal.release(&old[0]).unwrap();
}

#[test]
fn a_tile_that_stays_of_records_that_were_given_up_is_verified_in_either_form() {
    let mut running = Running::new();
    running.expect(0, "audit roll");
    running.stop();
    let ledger = running.dir.path().join("ca/ledger");
    give_up_first(&ledger);
    running.expect(0, "audit export-tiles DIR/tree");
    for dir in ["ca/ledger", "tree"] {
        let told = running.json(0, &format!("audit verify DIR/{dir}"));
        let first = &told["shards"][0];
        assert_eq!(
            (&first["released"], &first["tiles_missing"]),
            (&true.into(), &0.into()),
            "{told}"
        );
        let size = first["size"].as_u64().unwrap();
        assert!(size < 256 && first["tiles"] == 1, "{told}");
        let log = shard(&running.dir.path().join(dir));
        let tile = log.join(format!("tile/0/000.p/{size}"));
        let mut octets = fs::read(&tile).unwrap();
        octets[7] ^= 1;
        fs::write(&tile, &octets).unwrap();
        let told = running.json(3, &format!("audit verify DIR/{dir}"));
        let named = tile.display().to_string();
        assert!(told["problem"].as_str().unwrap().contains(&named), "{told}");
        octets[7] ^= 1;
        octets.pop();
        fs::write(&tile, &octets).unwrap();
        running.expect(3, &format!("audit verify DIR/{dir}"));
        fs::remove_file(&tile).unwrap();
        running.expect(3, &format!("audit verify DIR/{dir}"));
    }
}

#[test]
fn an_export_of_a_damaged_ledger_leaves_nothing() {
    let mut running = Running::new();
    running.stop();
    let ledger = running.dir.path().join("ca/ledger");
    let wal = shard(&ledger).join("head/00000001.wal");
    let mut octets = fs::read(&wal).unwrap();
    octets[3000] ^= 1;
    fs::write(&wal, octets).unwrap();
    running.expect(3, "audit export-tiles DIR/tree");
    assert_eq!(fs::read_dir(running.dir.path().join("tree")).unwrap().count(), 0);
}

#[test]
fn a_kept_checkpoint_shows_a_log_that_was_rolled_back_or_is_another() {
    let mut running = Running::new();
    proven(&running);
    running.expect(0, "audit export-tiles DIR/early");
    let early = shard(&running.dir.path().join("early"));
    keep(&running, "kept", fs::read(early.join("checkpoint")).unwrap());
    running.expect(0, "token create --agent n1");
    running.stop();
    running.expect(0, "audit export-tiles DIR/late");
    let late = shard(&running.dir.path().join("late"));
    keep(&running, "newer", fs::read(late.join("checkpoint")).unwrap());

    for dir in ["DIR/ca", "DIR/early", "DIR/late"] {
        let told = running.json(0, &format!("audit verify {dir} --checkpoint DIR/kept"));
        assert!(told["kept_checkpoint"].as_u64().is_some_and(|size| size > 0), "{told}");
    }
    let told = running.json(3, "audit verify DIR/early --checkpoint DIR/newer");
    assert!(told["problem"].as_str().unwrap().contains("rolled back"), "{told}");
    assert!(told["index"].as_u64().is_some_and(|index| index > 0), "{told}");

    let other = Running::new();
    other.expect(0, "audit export-tiles DIR/tree");
    let foreign = fs::read(shard(&other.dir.path().join("tree")).join("checkpoint")).unwrap();
    keep(&running, "foreign", foreign);
    let told = running.json(3, "audit verify DIR/late --checkpoint DIR/foreign");
    assert!(told["problem"].as_str().unwrap().contains("no log here"), "{told}");
    let altered = read(&running, "kept");
    let size = altered.lines().nth(1).unwrap().to_owned();
    keep(
        &running,
        "altered",
        altered.replacen(&format!("\n{size}\n"), "\n3\n", 1),
    );
    let told = running.json(3, "audit verify DIR/late --checkpoint DIR/altered");
    assert!(told["problem"].as_str().unwrap().contains("not signed"), "{told}");
    running.expect(1, "audit verify DIR/late --checkpoint DIR/none");
    keep(&running, "none", "no checkpoint");
    running.expect(1, "audit verify DIR/late --checkpoint DIR/none");
}
