//! Plain folders of logs are whole when they are written, and every file of them that is touched is named.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use mintage_identity::UnixTime;
use tempfile::TempDir;

use super::{
    kit::{Place, group, integrate, key, keys, origin, trees},
    shards::three,
};
use crate::{
    Checkpoint, Cosigner, ForeignCheckpoint, Frontier, Journal, LedgerError, LedgerTreeWriter, LogKey, Origin, Policy,
    RecordCheck, SignedNote, Stored, TreeWriter, Vkey, leaf_hash, verify, verify_ledger_tree, verify_tree,
};

/// Record number `n`, of a length of its own; some are empty.
fn record(n: u64) -> Vec<u8> {
    n.to_be_bytes()[..(n % 9) as usize].to_vec()
}

fn write(dir: &Path, pair: &LogKey, origin: &Origin, size: u64) {
    let mut tree = Frontier::new();
    (0..size).for_each(|n| tree.push(leaf_hash(&record(n))));
    let signed = pair.sign(Checkpoint {
        origin: origin.clone(),
        size,
        root: tree.root(),
    });
    let mut writer = TreeWriter::create(dir, signed).unwrap();
    // Two more than were signed, which are left out.
    for n in 0..size + 2 {
        writer.push(&record(n), leaf_hash(&record(n))).unwrap();
    }
    writer.finish().unwrap();
}

fn log(size: u64) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("log");
    write(&dir, &key(), &origin(), size);
    (folder, dir)
}

fn policy() -> Policy {
    Policy::trusting([key().vkey(&origin())]).unwrap()
}

/// Keeps what it is shown.
#[derive(Default)]
struct Seen(Vec<Vec<u8>>);

impl RecordCheck for Seen {
    fn record(&mut self, _: &Vkey, stored: &Stored) -> Result<(), String> {
        assert_eq!(stored.index(), self.0.len() as u64);
        self.0.push(stored.bytes().to_vec());
        Ok(())
    }
}

/// Every file below a folder, by its path from there.
pub(super) fn files(dir: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        match path.is_dir() {
            true => found.extend(files(&path).iter().map(|below| format!("{name}/{below}"))),
            false => drop(found.insert(name)),
        }
    }
    found
}

#[test]
fn logs_of_every_shape_read_back() {
    for size in [0, 1, 2, 255, 256, 257, 600, 66_000] {
        let (_folder, dir) = log(size);
        let mut seen = Seen::default();
        let report = verify_tree(&dir, &policy(), &mut seen).unwrap();
        assert_eq!((report.checkpoint.size(), report.vkey), (size, key().vkey(&origin())));
        assert_eq!(seen.0, (0..size).map(record).collect::<Vec<_>>());
    }
}

#[test]
fn the_files_are_those_of_the_specification() {
    let (_folder, dir) = log(600);
    let expected = [
        "checkpoint",
        "tile/0/000",
        "tile/0/001",
        "tile/0/002.p/88",
        "tile/1/000.p/2",
        "tile/entries/000",
        "tile/entries/001",
        "tile/entries/002.p/88",
    ];
    assert_eq!(files(&dir), expected.map(str::to_owned).into());
    let (_folder, dir) = log(256);
    let expected = ["checkpoint", "tile/0/000", "tile/1/000.p/1", "tile/entries/000"];
    assert_eq!(files(&dir), expected.map(str::to_owned).into());
    let bundle = fs::read(dir.join("tile/entries/000")).unwrap();
    assert_eq!(bundle[..8], [0, 0, 0, 1, 0, 0, 2, 0]);
}

#[track_caller]
fn refused(dir: &Path) -> (Option<String>, Option<u64>) {
    match verify_tree(dir, &policy(), &mut ()) {
        Err(LedgerError::Tree { path, index, .. }) => {
            let below = path.strip_prefix(dir).unwrap();
            (Some(below.to_str().unwrap().to_owned()), index)
        }
        Err(LedgerError::Signature(_) | LedgerError::Format { .. } | LedgerError::Forked { .. }) => (None, None),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_altered_octet_is_refused_and_the_record_named() {
    let (_folder, dir) = log(600);
    for name in files(&dir) {
        let path = dir.join(&name);
        let whole = fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(whole.len() / 40 + 1).chain([whole.len() - 1]) {
            let mut altered = whole.clone();
            altered[at] ^= 1;
            fs::write(&path, &altered).unwrap();
            let (found, index) = refused(&dir);
            let first = match name.as_str() {
                "tile/0/000" | "tile/entries/000" => 0,
                "tile/0/001" | "tile/entries/001" => 256,
                "tile/0/002.p/88" | "tile/entries/002.p/88" => 512,
                "tile/1/000.p/2" => {
                    assert_eq!(index, Some(at as u64 / 32 * 256), "{name}");
                    continue;
                }
                _ => continue,
            };
            let index = index.unwrap();
            assert!((first..(first + 256).min(600)).contains(&index), "{name} {at}: {index}");
            if name.starts_with("tile/0") {
                assert_eq!((found, index), (Some(name.clone()), first + at as u64 / 32));
            }
        }
        fs::write(&path, &whole).unwrap();
    }
    verify_tree(&dir, &policy(), &mut ()).unwrap();
}

#[test]
fn missing_longer_and_shorter_files_are_refused_by_their_path() {
    let (_folder, dir) = log(600);
    for name in files(&dir) {
        let path = dir.join(&name);
        let whole = fs::read(&path).unwrap();
        let named = |what: &str| {
            let (found, _) = refused(&dir);
            assert!(found.is_none_or(|found| found == name), "{name} {what}");
        };
        fs::remove_file(&path).unwrap();
        assert_eq!(refused(&dir).0.as_deref(), Some(name.as_str()), "missing");
        for shorter in [0, 1, whole.len() - 1] {
            fs::write(&path, &whole[..shorter]).unwrap();
            named("shorter");
        }
        fs::write(&path, [&whole[..], b"\n"].concat()).unwrap();
        named("longer");
        fs::write(&path, [&whole[..], &[b'x'; 1 << 17]].concat()).unwrap();
        named("much longer");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(verify_tree(&dir, &policy(), &mut ()).is_err(), "{name} is a folder");
        fs::remove_dir(&path).unwrap();
        fs::write(&path, &whole).unwrap();
    }
    verify_tree(&dir, &policy(), &mut ()).unwrap();
}

#[test]
fn what_is_too_many_is_refused_by_its_path() {
    let (_folder, dir) = log(600);
    for extra in [
        "notes",
        "tile/0/003",
        "tile/0/002",
        "tile/0/002.p/87",
        "tile/2/000.p/1",
        "tile/entries/002.p/255",
        "tile/x",
        "tile/0/x000/000",
    ] {
        let path = dir.join(extra);
        let made = path.parent().filter(|folder| !folder.exists());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, b"x").unwrap();
        assert_eq!(refused(&dir).0.as_deref(), Some(extra));
        fs::remove_file(&path).unwrap();
        if let Some(folder) = made {
            fs::remove_dir(folder).unwrap();
        }
    }
    let path = dir.join("tile/0/000");
    fs::rename(&path, dir.with_file_name("elsewhere")).unwrap();
    std::os::unix::fs::symlink(dir.with_file_name("elsewhere"), &path).unwrap();
    assert_eq!(refused(&dir).0.as_deref(), Some("tile/0/000"), "a link");
}

#[test]
fn swapped_records_and_a_shorter_log_are_refused() {
    let (_folder, dir) = log(600);
    let path = dir.join("tile/entries/001");
    let whole = fs::read(&path).unwrap();
    // Records 259 and 260 have 7 and 8 octets.
    let at: usize = (256..259).map(|n| 2 + record(n).len()).sum();
    let (one, two) = (2 + record(259).len(), 2 + record(260).len());
    let swapped = [
        &whole[..at],
        &whole[at + one..at + one + two],
        &whole[at..at + one],
        &whole[at + one + two..],
    ];
    fs::write(&path, swapped.concat()).unwrap();
    assert_eq!(refused(&dir), (Some("tile/0/001".into()), Some(259)));
    // Records and tiles agree, and the checkpoint is of another log.
    let (_other, other) = log(599);
    fs::copy(dir.join("checkpoint"), other.join("checkpoint")).unwrap();
    assert!(verify_tree(&other, &policy(), &mut ()).is_err());
}

#[test]
fn a_policy_that_asks_for_witnesses_is_held() {
    let (_folder, dir) = log(9);
    let pair = LogKey::generate(&zeroize::Zeroizing::new([4; 32])).unwrap().0;
    let witness = Cosigner::new("w", pair).unwrap();
    let text = format!("log {}\nwitness w {}\nquorum w\n", key().vkey(&origin()), witness.key());
    let policy = Policy::parse(text.as_bytes()).unwrap();
    let told = verify_tree(&dir, &policy, &mut ()).unwrap_err().to_string();
    assert!(told.contains("quorum"), "{told}");
    let note = SignedNote::parse(&fs::read(dir.join("checkpoint")).unwrap()).unwrap();
    ForeignCheckpoint::parse(note.text()).unwrap();
    let line = witness.cosign(&note, UnixTime::from_seconds(7)).unwrap();
    fs::write(dir.join("checkpoint"), note.with_lines([line]).unwrap().to_string()).unwrap();
    let report = verify_tree(&dir, &policy, &mut ()).unwrap();
    assert_eq!(report.witnesses, [("w".to_owned(), UnixTime::from_seconds(7))]);
}

/// A signed ledger of 300 records, and one that no checkpoint covers.
fn ledger() -> Place {
    let place = Place::new();
    let journal = Arc::new(place.create(super::kit::options()));
    journal.append(&group(1, 300), 0).unwrap();
    integrate(&journal, &trees(&journal), Some(keys()));
    journal.append(&group(300, 301), 0).unwrap();
    place
}

#[test]
fn a_ledger_is_written_as_it_was_signed_and_only_after_it_was_verified() {
    let place = ledger();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let mut writer = LedgerTreeWriter::create(&place.ledger(), &out).unwrap();
    let report = verify(&place.ledger(), None, &mut writer).unwrap();
    assert_eq!(report[0].size, 301);
    assert!(verify_ledger_tree(&out, None, &mut ()).is_err(), "it is not finished");
    assert_eq!(writer.finish().unwrap(), [(key().vkey(&origin()), 300)]);
    let mut seen = Seen::default();
    let read = verify_ledger_tree(&out, Some(&policy()), &mut seen).unwrap();
    assert_eq!((read.len(), read[0].checkpoint.size(), seen.0.len()), (1, 300, 300));
    assert_eq!(verify_ledger_tree(&out, None, &mut ()).unwrap().len(), 1);
    let other = Policy::trusting([Vkey::new(origin().as_str(), [1; 32]).unwrap()]).unwrap();
    assert!(verify_ledger_tree(&out, Some(&other), &mut ()).is_err());
    assert!(matches!(
        LedgerTreeWriter::create(&place.ledger(), &out),
        Err(LedgerError::Exists(_))
    ));

    // Records of another ledger are not what its checkpoint says.
    let mut writer = LedgerTreeWriter::create(&place.ledger(), &folder.path().join("again")).unwrap();
    for index in 0..300 {
        let stored = Stored::new(index, &record(index), None);
        writer.record(&key().vkey(&origin()), &stored).unwrap();
    }
    assert!(matches!(writer.finish(), Err(LedgerError::Forked { size: 300, .. })));
    assert!(!folder.path().join("again/policy").exists());
}

#[test]
fn every_shard_has_its_folder_and_nothing_stands_beside_them() {
    let place = Place::new();
    drop(three(&place, super::kit::options()));
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let mut writer = LedgerTreeWriter::create(&place.ledger(), dir).unwrap();
    verify(&place.ledger(), None, &mut writer).unwrap();
    writer.finish().unwrap();
    let sizes = |dir| -> Result<Vec<u64>, LedgerError> {
        let reports = verify_ledger_tree(dir, None, &mut ())?;
        Ok(reports.iter().map(|report| report.checkpoint.size()).collect())
    };
    assert_eq!(sizes(dir).unwrap(), [300, 400, 200]);
    for extra in ["notes", "a1b2/1971-01", "other/1970-01"] {
        fs::create_dir_all(dir.join(extra)).unwrap();
        let told = sizes(dir).unwrap_err().to_string();
        assert!(told.contains(extra.split('/').next().unwrap()), "{told}");
        fs::remove_dir(dir.join(extra)).unwrap();
        let _ = fs::remove_dir(dir.join("other"));
    }
    let (one, two) = (dir.join("a1b2/2026-01"), dir.join("a1b2/2026-02"));
    fs::rename(&one, dir.join("x")).unwrap();
    fs::rename(&two, &one).unwrap();
    fs::rename(dir.join("x"), &two).unwrap();
    assert!(sizes(dir).is_err(), "two logs in each other's folder");
}

/// A checkpoint that the kit's key signed.
fn signed(size: u64, root: crate::Hash) -> String {
    let origin = origin();
    key().sign(Checkpoint { origin, size, root }).to_string()
}

#[test]
fn what_a_log_promised_before_is_exported_and_held_against_its_records() {
    let (_folder, dir) = log(600);
    let mut tree = Frontier::new();
    (0..256).for_each(|n| tree.push(leaf_hash(&record(n))));
    let kept = dir.join("checkpoints");
    fs::create_dir(&kept).unwrap();
    verify_tree(&dir, &policy(), &mut ()).unwrap();
    fs::write(kept.join("256"), signed(256, tree.root())).unwrap();
    verify_tree(&dir, &policy(), &mut ()).unwrap();
    // The same log once promised something else, of any size.
    for size in [1, 255, 599, 600] {
        fs::write(kept.join(size.to_string()), signed(size, tree.root())).unwrap();
        let told = verify_tree(&dir, &policy(), &mut ());
        assert!(
            matches!(told, Err(LedgerError::Forked { size: at, .. }) if at == size),
            "{told:?}"
        );
        fs::remove_file(kept.join(size.to_string())).unwrap();
    }
    let other = LogKey::generate(&zeroize::Zeroizing::new([9; 32])).unwrap().0;
    let head = Checkpoint {
        origin: origin(),
        size: 300,
        root: tree.root(),
    };
    for (name, note) in [
        ("300", other.sign(head).to_string()),
        ("257", signed(256, tree.root())),
        ("0256", signed(256, tree.root())),
        ("601", signed(601, tree.root())),
        ("x", "x".to_owned()),
    ] {
        fs::write(kept.join(name), note).unwrap();
        assert!(verify_tree(&dir, &policy(), &mut ()).is_err(), "{name}");
        fs::remove_file(kept.join(name)).unwrap();
    }
    verify_tree(&dir, &policy(), &mut ()).unwrap();

    // Of a ledger everything that it keeps comes along.
    let place = Place::new();
    let (journal, ..) = three(&place, super::kit::options());
    let out = place.ledger().with_file_name("out");
    let mut writer = LedgerTreeWriter::create(&place.ledger(), &out).unwrap();
    verify(&place.ledger(), None, &mut writer).unwrap();
    writer.finish().unwrap();
    for log in journal.logs() {
        // The log that is written has kept none yet.
        let of = |dir: &Path| {
            let kept = dir.join(log.origin().folder()).join("checkpoints");
            kept.exists().then(|| files(&kept))
        };
        assert_eq!(of(&out), of(&place.ledger()), "{}", log.origin());
    }
    assert!(out.join("a1b2/2025-12/checkpoints/300").exists());
    verify_ledger_tree(&out, None, &mut ()).unwrap();
}
