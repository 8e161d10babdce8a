//! What stays of a shard whose records were given up leads to what was signed, wherever it lies.

use std::{fs, path::Path, sync::Arc};

use super::{
    damage::{files, release_first, three},
    kit::{Place, key, options, origin},
};
use crate::{
    Checkpoint, FileJournal, Frontier, Journal, LedgerError, LedgerTreeWriter, Policy, ShardReport,
    limits::SEGMENT_RECORDS, verify, verify_ledger_tree,
};

/// Records of the first shard beside the two that open and close it.
const RECORDS: u64 = SEGMENT_RECORDS as u64 + 600;
const TILES: [&str; 4] = ["tile/0/258.p/90", "tile/1/000", "tile/1/001.p/2", "tile/2/000.p/1"];

fn released(place: &Place) -> Arc<FileJournal> {
    let (journal, _) = three(place, options(), [RECORDS, 5, 5]);
    release_first(&journal).unwrap();
    journal
}

fn first_of(ledger: &Path) -> Result<ShardReport, LedgerError> {
    verify(ledger, Some(&[key().vkey(&origin())]), &mut ()).map(|mut reports| reports.remove(0))
}

fn tiles_of(ledger: &Path) -> (u64, u64) {
    let first = first_of(ledger).unwrap();
    assert!(first.released);
    (first.tiles, first.tiles_missing)
}

fn export(place: &Place, name: &str) -> Result<std::path::PathBuf, LedgerError> {
    let out = place.ledger().with_file_name(name);
    let mut writer = LedgerTreeWriter::create(&place.ledger(), &out)?;
    verify(&place.ledger(), None, &mut writer)?;
    writer.finish().map(|_| out)
}

fn verify_exported(dir: &Path) -> Result<u64, LedgerError> {
    let first = Policy::trusting([key().vkey(&origin())]).unwrap();
    let reports = verify_ledger_tree(dir, Some(&first), &mut ())?;
    assert!(reports[0].released && !reports[1].released);
    Ok(reports[0].tiles)
}

/// Damages each of the tiles in every way, and hands on which it was with what is told of it.
fn each_damage(shard: &Path, mut told: impl FnMut(&str, &str)) {
    for name in TILES {
        let path = shard.join(name);
        let whole = fs::read(&path).unwrap();
        for bit in [0, 4 * whole.len() + 3, 8 * whole.len() - 1] {
            let mut altered = whole.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &altered).unwrap();
            told(name, "flipped");
        }
        for length in [0, whole.len() - 32, whole.len() - 1] {
            fs::write(&path, &whole[..length]).unwrap();
            told(name, "cut");
        }
        fs::remove_file(&path).unwrap();
        told(name, "missing");
        fs::write(&path, &whole).unwrap();
    }
}

/// The partial tiles of the lowest levels have nothing below them: one of both is wrong then.
fn check_named(found: &Path, name: &str, what: &str) {
    let lowest = ["tile/0/258.p/90", "tile/1/001.p/2"];
    let is_named = found.ends_with(name) || what == "flipped" && lowest.contains(&name) && found.ends_with(lowest[0]);
    assert!(is_named, "{name} {what}: {}", found.display());
}

#[test]
fn each_kept_tile_of_a_data_directory_is_hashed_again_and_named() {
    let place = Place::new();
    drop(released(&place));
    let tiles: Vec<_> = files(&place.shard().join("tile"));
    assert_eq!(tiles, TILES.map(|name| place.shard().join(name)));
    assert_eq!(tiles_of(&place.ledger()), (4, 0));
    each_damage(&place.shard(), |name, what| match first_of(&place.ledger()) {
        Err(error @ LedgerError::Corrupt { .. }) => {
            let text = error.to_string();
            let LedgerError::Corrupt { path, .. } = error else {
                panic!()
            };
            check_named(&path, name, what);
            assert!(text.contains("restore it from a backup"), "{text}");
        }
        other => panic!("{name} {what}: {other:?}"),
    });
    // The mark says what must be there, so it is held to its words.
    let mark = place.shard().join("released");
    let text = fs::read_to_string(&mark).unwrap();
    fs::write(&mark, text.lines().next().unwrap()).unwrap();
    assert!(matches!(first_of(&place.ledger()), Err(LedgerError::Corrupt { path, .. }) if path == mark));
    fs::write(&mark, text).unwrap();
    assert_eq!(tiles_of(&place.ledger()), (4, 0));
}

#[test]
fn kept_tiles_are_exported_and_verified_there_the_same_way() {
    let place = Place::new();
    drop(released(&place));
    let out = export(&place, "out").unwrap();
    let shard = out.join("a1b2/2025-12");
    assert_eq!(files(&shard.join("tile")), TILES.map(|name| shard.join(name)));
    assert_eq!(verify_exported(&out).unwrap(), 4);
    each_damage(&shard, |name, what| match verify_exported(&out) {
        Err(LedgerError::Tree { path, .. }) => check_named(&path, name, what),
        other => panic!("{name} {what}: {other:?}"),
    });
    for extra in [
        "tile/0/000",
        "tile/1/001.p/1",
        "tile/1/001",
        "tile/entries/000",
        "snapshot",
        "notes",
    ] {
        let path = shard.join(extra);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, b"x").unwrap();
        match verify_exported(&out) {
            Err(LedgerError::Tree { path: found, .. }) => assert_eq!(found, path),
            other => panic!("{extra}: {other:?}"),
        }
        fs::remove_file(&path).unwrap();
        let _ = fs::remove_dir(path.parent().unwrap());
    }
    assert_eq!(verify_exported(&out).unwrap(), 4);
    // What is not right is not exported.
    fs::remove_file(place.shard().join(TILES[1])).unwrap();
    assert!(export(&place, "again").is_err());
}

#[test]
fn checkpoints_over_what_the_kept_tiles_reach_are_held_against_them() {
    let place = Place::new();
    let (journal, _) = three(&place, options(), [RECORDS, 5, 5]);
    let leaves: Vec<_> = (0..512)
        .map(|at| journal.read_from(at, 1).unwrap()[0].leaf_hash())
        .collect();
    release_first(&journal).unwrap();
    drop(journal);
    let out = export(&place, "out").unwrap();
    let keep = |size: u64, root| {
        let note = key()
            .sign(Checkpoint {
                origin: origin(),
                size,
                root,
            })
            .to_string();
        for shard in [place.shard(), out.join("a1b2/2025-12")] {
            fs::write(shard.join(format!("checkpoints/{size}")), &note).unwrap();
        }
    };
    let forget = |size: u64| {
        for shard in [place.shard(), out.join("a1b2/2025-12")] {
            fs::remove_file(shard.join(format!("checkpoints/{size}"))).unwrap();
        }
    };
    let mut edge = Frontier::new();
    leaves.iter().for_each(|leaf| edge.push(*leaf));
    keep(512, edge.root());
    first_of(&place.ledger()).unwrap();
    verify_exported(&out).unwrap();
    for size in [512, 258 * 256, 258 * 256 + 90 - 1] {
        keep(size, leaves[0]);
        for told in [first_of(&place.ledger()).map(drop), verify_exported(&out).map(drop)] {
            assert!(
                matches!(told, Err(LedgerError::Forked { size: at, .. }) if at == size),
                "{told:?}"
            );
        }
        forget(size);
    }
    // No tile that stays tells anything of this one.
    keep(513, leaves[0]);
    first_of(&place.ledger()).unwrap();
    verify_exported(&out).unwrap();
}

#[test]
fn a_shard_given_up_before_the_edge_was_kept_verifies_with_its_full_tiles_or_none() {
    let place = Place::new();
    drop(released(&place));
    let mark = format!("records 0 to {} were given up\n", RECORDS + 2);
    fs::write(place.shard().join("released"), mark).unwrap();
    for name in TILES.iter().filter(|name| name.contains(".p/")) {
        fs::remove_file(place.shard().join(name)).unwrap();
    }
    assert_eq!(tiles_of(&place.ledger()), (1, 0));
    assert_eq!(verify_exported(&export(&place, "full").unwrap()).unwrap(), 1);
    let tile = place.shard().join("tile/1/000");
    fs::write(&tile, &fs::read(&tile).unwrap()[..8000]).unwrap();
    assert!(matches!(first_of(&place.ledger()), Err(LedgerError::Corrupt { path, .. }) if path == tile));
    fs::remove_dir_all(place.shard().join("tile")).unwrap();
    assert_eq!(tiles_of(&place.ledger()), (0, 1));
    assert_eq!(verify_exported(&export(&place, "none").unwrap()).unwrap(), 0);
    let journal = place.open().unwrap();
    assert_eq!(journal.first(), RECORDS + 2);
    assert!(journal.archive(&journal.logs()[0]).unwrap().whole);
}

#[test]
fn tiles_that_are_damaged_or_missing_are_made_again_before_the_records_go() {
    let whole = Place::new();
    drop(three(&whole, options(), [RECORDS, 5, 5]));
    let damages: [fn(&Path); 4] = [
        |shard| fs::remove_dir_all(shard.join("tile")).unwrap(),
        |shard| {
            let path = shard.join("tile/1/000");
            let mut octets = fs::read(&path).unwrap();
            octets[40] ^= 1;
            fs::write(path, octets).unwrap();
        },
        |shard| fs::write(shard.join("tile/1/000"), b"short").unwrap(),
        |shard| {
            let path = shard.join("seg/00000001.tiles");
            let mut octets = fs::read(&path).unwrap();
            octets[40] ^= 1;
            fs::write(path, octets).unwrap();
        },
    ];
    for (at, damage) in damages.iter().enumerate() {
        let place = whole.copy();
        let journal = place.open().unwrap();
        damage(&place.shard());
        release_first(&journal).unwrap();
        assert_eq!(tiles_of(&place.ledger()), (4, 0), "{at}");
    }
}

#[test]
fn an_archive_of_records_that_were_given_up_has_the_tiles_that_stay() {
    let place = Place::new();
    let journal = released(&place);
    let archive = journal.archive(&journal.logs()[0]).unwrap();
    let names: Vec<_> = archive.files.iter().map(|file| file.name.as_str()).collect();
    let tiles = TILES.map(|name| format!("a1b2/2025-12/{name}"));
    assert_eq!(names[..4], tiles);
    assert_eq!((names[4], archive.whole), ("a1b2/2025-12/released", true));
}
