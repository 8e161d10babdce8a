//! The tiles of level 1 in the folder of a shard whose records are there: whatever happens to them, a verifier tells it, and a
//! start makes them again from the records before anything is signed or proven.

use std::{fs, path::Path, sync::Arc};

use super::{
    damage::three,
    kit::{Place, campaign, integrate, key, keys, options, origin, trees},
    segments::{SEGMENT, filled, small_files},
};
use crate::{FileJournal, Hash, Journal, LedgerError, Sealer, Trees, verify, verify_inclusion};

const TILE: &str = "tile/1/000";
/// Octets of a tile, and the lengths to which one is cut.
const OCTETS: usize = 256 * 32;
const CUTS: [usize; 4] = [0, 31, OCTETS - 32, OCTETS - 1];

/// What is done to the tile.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Bit(usize),
    Cut(usize),
    Gone,
}

fn damages() -> impl Iterator<Item = Damage> {
    let bits = campaign(0..8 * OCTETS, 9001).chain([0, 8 * OCTETS - 1]);
    let cuts = CUTS.into_iter().map(Damage::Cut);
    bits.map(Damage::Bit).chain(cuts).chain([Damage::Gone])
}

impl Damage {
    fn on(self, path: &Path, whole: &[u8]) {
        let mut octets = whole.to_vec();
        match self {
            Self::Bit(bit) => octets[bit / 8] ^= 1 << (bit % 8),
            Self::Cut(length) => octets.truncate(length),
            Self::Gone => return fs::remove_file(path).unwrap(),
        }
        fs::write(path, octets).unwrap();
    }
}

/// A verifier refuses a tile that is another, and tells of one that is not whole.
fn check_told(place: &Place, damage: Damage) {
    let told = verify(&place.ledger(), Some(&[key().vkey(&origin())]), &mut ());
    match (damage, told) {
        (Damage::Bit(_), Err(LedgerError::Derived { path, .. })) => assert_eq!(path, place.shard().join(TILE)),
        (Damage::Cut(_) | Damage::Gone, Ok(reports)) => assert_eq!(reports[0].tiles_missing, 1),
        (_, told) => panic!("{damage:?}: {told:?}"),
    }
}

/// Proofs of some records of a log below the tile, and the root of what it covers.
fn check_tree(journal: &Arc<FileJournal>, trees: &Arc<Trees>, segment: &Hash, damage: Damage) {
    let log = journal.logs()[0].clone();
    let tree = trees.of_log(&log).unwrap();
    let signed = journal.checkpoint_of(&log).unwrap();
    let (size, root) = (signed.checkpoint().size, signed.checkpoint().root);
    assert_eq!((tree.size(), tree.root().unwrap()), (size, root), "{damage:?}");
    assert_eq!(tree.root_at(SEGMENT).unwrap(), *segment, "{damage:?}");
    for index in [0, 256, 32_768, SEGMENT - 1] {
        let leaf = journal.read_from(index, 1).unwrap()[0].leaf_hash();
        let path = tree.inclusion(index, &leaf, size, &root).unwrap();
        verify_inclusion(&leaf, index, size, &path, &root).unwrap();
    }
}

#[test]
fn a_start_of_the_log_that_is_written_makes_a_damaged_upper_tile_again() {
    let place = Place::new();
    let (journal, tree) = filled(&place, small_files(), SEGMENT + 700);
    Sealer::new(journal.clone(), tree.clone()).seal_next().unwrap();
    journal.release_sealed().unwrap();
    let segment = tree.growing().1.root_at(SEGMENT).unwrap();
    drop((journal, tree));
    let path = place.shard().join(TILE);
    let whole = fs::read(&path).unwrap();
    assert_eq!(whole.len(), OCTETS);
    for damage in damages() {
        damage.on(&path, &whole);
        check_told(&place, damage);
        let journal = Arc::new(FileJournal::open(&place.ledger(), small_files()).unwrap());
        let trees = trees(&journal);
        integrate(&journal, &trees, Some(keys()));
        check_tree(&journal, &trees, &segment, damage);
        assert!(fs::read(&path).unwrap() == whole, "{damage:?}: it is not made again");
    }
    verify(&place.ledger(), None, &mut ()).unwrap();
}

#[test]
fn the_tree_of_a_closed_log_makes_a_damaged_upper_tile_again() {
    let place = Place::new();
    let (journal, trees_before) = three(&place, options(), [SEGMENT + 300, 5, 5]);
    let log = journal.logs()[0].clone();
    let segment = trees_before.of_log(&log).unwrap().root_at(SEGMENT).unwrap();
    let path = place.shard().join(TILE);
    let whole = fs::read(&path).unwrap();
    for damage in damages() {
        damage.on(&path, &whole);
        check_told(&place, damage);
        check_tree(&journal, &trees(&journal), &segment, damage);
        assert!(fs::read(&path).unwrap() == whole, "{damage:?}: it is not made again");
    }
}

#[test]
fn an_upper_tile_that_is_damaged_while_the_ledger_is_open_gives_nothing_wrong() {
    let place = Place::new();
    let (journal, grown) = filled(&place, small_files(), SEGMENT + 700);
    let (log, tree) = grown.growing();
    let signed = journal.checkpoint_of(&log).unwrap();
    let (size, root) = (signed.checkpoint().size, signed.checkpoint().root);
    // The root over a little more than half of the tile, and a proof made of all its hashes.
    let (half, leaf) = (32_768 + 256, journal.read_from(0, 1).unwrap()[0].leaf_hash());
    let half_root = tree.root_at(half).unwrap();
    let path = place.shard().join(TILE);
    let whole = fs::read(&path).unwrap();
    for damage in damages() {
        damage.on(&path, &whole);
        let refused = |told: Option<LedgerError>| {
            let is_named = matches!(told, Some(LedgerError::Corrupt { .. } | LedgerError::Missing { .. }));
            assert!(is_named, "{damage:?}: {told:?}");
        };
        refused(tree.root_at(half).err());
        refused(tree.consistency((half, &half_root), (size, &root)).err());
        refused(tree.tile(1, 0, 256).err());
        match tree.inclusion(0, &leaf, size, &root) {
            Ok(path) => verify_inclusion(&leaf, 0, size, &path, &root).unwrap(),
            Err(told) => refused(Some(told)),
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(tree.root_at(half).unwrap(), half_root);
    }
}
