//! A live log is served file by file as it is exported, and nothing that its checkpoint does not cover.

use std::{collections::BTreeSet, fs, path::Path};

use super::{
    kit::{Place, group, options},
    segments::{SEGMENT, filled, small_files},
    tile_dir::files,
};
use crate::{FileJournal, Journal, LedgerTreeWriter, Sealer, TreePath, Trees, verify};

/// What is exported of a ledger, file by file.
fn exported(place: &Place, out: &Path) -> BTreeSet<String> {
    let mut writer = LedgerTreeWriter::create(&place.ledger(), out).unwrap();
    verify(&place.ledger(), None, &mut writer).unwrap();
    writer.finish().unwrap();
    // What the log signed before and kept is no part of C2SP tlog-tiles, and is exported alone.
    let all = files(&out.join("a1b2/2025-12"));
    all.into_iter()
        .filter(|name| !name.starts_with("checkpoints/"))
        .collect()
}

fn served(journal: &FileJournal, trees: &Trees, path: &str) -> Option<Vec<u8>> {
    let path = TreePath::parse(path).unwrap_or_else(|| panic!("{path} names no file"));
    path.read(journal, &journal.log(), trees).unwrap()
}

#[test]
fn every_exported_file_is_served_the_same_sealed_or_not() {
    let place = Place::new();
    let (journal, trees) = filled(&place, small_files(), SEGMENT + 700);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let names = exported(&place, &out);
    assert!(names.len() > 520, "{}", names.len());
    let same = |when: &str| {
        for name in &names {
            let exported = fs::read(out.join("a1b2/2025-12").join(name)).unwrap();
            assert!(
                served(&journal, &trees, name).as_ref() == Some(&exported),
                "{name} {when}"
            );
        }
    };
    same("unsealed");
    assert!(Sealer::new(journal.clone(), trees.clone()).seal_next().unwrap());
    journal.release_sealed().unwrap();
    same("sealed");
}

#[test]
fn widths_up_to_the_checkpoints_are_served_and_nothing_beyond_it() {
    let place = Place::new();
    let (journal, trees) = filled(&place, options(), 600);
    // Appended, and in no checkpoint yet.
    journal.append(&group(600, 900), 0).unwrap();
    let edge = served(&journal, &trees, "tile/0/002.p/88").unwrap();
    let bundle = served(&journal, &trees, "tile/entries/002.p/88").unwrap();
    for (path, hashes) in [("tile/0/002.p/1", 1), ("tile/0/002.p/87", 87)] {
        assert_eq!(served(&journal, &trees, path).unwrap(), edge[..32 * hashes], "{path}");
    }
    let shorter = served(&journal, &trees, "tile/entries/002.p/87").unwrap();
    assert!(bundle.starts_with(&shorter) && shorter.len() < bundle.len());
    // A partial tile of one that is full by now: who began at an older checkpoint still reads it.
    let full = served(&journal, &trees, "tile/0/001").unwrap();
    assert_eq!(served(&journal, &trees, "tile/0/001.p/255").unwrap(), full[..255 * 32]);
    assert_eq!(served(&journal, &trees, "tile/1/000.p/2").unwrap().len(), 64);
    for beyond in [
        "tile/0/002.p/89",
        "tile/0/002",
        "tile/0/003.p/1",
        "tile/entries/002.p/89",
        "tile/entries/002",
        "tile/entries/003",
        "tile/1/000.p/3",
        "tile/1/000",
        "tile/2/000.p/1",
        "tile/63/000.p/1",
        "tile/0/x018/x446/x744/x073/x709/x551/615",
        "tile/entries/x018/x446/x744/x073/x709/x551/615",
    ] {
        assert_eq!(served(&journal, &trees, beyond), None, "{beyond}");
    }
}

#[test]
fn a_tree_that_is_behind_its_checkpoint_says_so_instead_of_giving_out_less() {
    let place = Place::new();
    let (journal, _) = filled(&place, options(), 600);
    let behind = super::kit::trees(&journal);
    let (_, tree) = behind.growing();
    tree.resume(600).unwrap();
    assert_eq!(tree.size(), 512);
    for path in ["tile/0/002.p/88", "tile/0/002.p/1"] {
        assert!(
            TreePath::parse(path)
                .unwrap()
                .read(&journal, &journal.log(), &behind)
                .is_err(),
            "{path}"
        );
    }
    assert!(served(&journal, &behind, "tile/0/001").is_some());
}
