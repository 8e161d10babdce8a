//! What a crash leaves behind, and what it cannot have left behind.

use std::fs;

use proptest::prelude::*;

use super::kit::{Place, campaign, contents, few_cases, group, options};
use crate::{FileJournal, Journal, LedgerError};

/// A ledger of groups of these sizes after record 0, its contents, and where its groups end in the file.
fn ledger(sizes: &[u64]) -> (Place, Vec<Vec<u8>>, Vec<usize>) {
    let place = Place::new();
    let journal = place.create(options());
    let (mut next, mut ends) = (1, vec![end(&place)]);
    for size in sizes {
        journal.append(&group(next, next + size), 0).unwrap();
        next += size;
        ends.push(end(&place));
    }
    let all = contents(&journal);
    drop(journal);
    (place, all, ends)
}

/// End of what is written in the first file.
fn end(place: &Place) -> usize {
    let bytes = fs::read(place.wal(1)).unwrap();
    bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1
}

fn records_before(sizes: &[u64], groups: usize) -> usize {
    1 + sizes[..groups].iter().sum::<u64>() as usize
}

#[test]
fn a_kill_at_every_byte_leaves_whole_groups() {
    let sizes = [2, 1, 3];
    let (place, all, ends) = ledger(&sizes);
    let whole = fs::read(place.wal(1)).unwrap();
    for cut in campaign(ends[0]..ends[3] + 1, 6) {
        let copy = place.copy();
        let mut bytes = whole.clone();
        bytes[cut..].fill(0);
        fs::write(copy.wal(1), &bytes).unwrap();
        let groups = ends.iter().rposition(|end| *end <= cut).unwrap();
        let expected = records_before(&sizes, groups);
        // What a view has applied was acknowledged, so less than that is never accepted.
        assert!(copy.open_applied(expected as u64 + 1).is_err(), "{cut}");
        for round in 0..2 {
            let journal = copy.open().unwrap_or_else(|error| panic!("{cut}: {error}"));
            assert_eq!(contents(&journal), all[..expected], "{cut}");
            assert_eq!(journal.recovered().cut, round == 0 && cut != ends[groups], "{cut}");
        }
        let journal = copy.open().unwrap();
        journal.append(&group(90, 92), 0).unwrap();
        assert_eq!(journal.size() as usize, expected + 2);
    }
}

#[test]
fn a_file_truncated_at_any_byte_is_refused() {
    let (place, _, ends) = ledger(&[2, 1, 3]);
    let whole = fs::read(place.wal(1)).unwrap();
    assert_eq!(whole.len() % 4096, 0);
    for len in campaign(0..ends[3] + 1, 6) {
        let copy = place.copy();
        fs::write(copy.wal(1), &whole[..len]).unwrap();
        let error = copy.open().map(|journal| journal.size());
        assert!(error.is_err() || len % 4096 == 0 && len > 0, "{len}: {error:?}");
        // Where the first record is cut off, the checkpoint that was signed over it tells so.
        match error {
            Err(LedgerError::RolledBack { have: 0, need: 1, .. }) => assert!(len < ends[0], "{len}"),
            Err(LedgerError::Corrupt { .. }) | Ok(_) => {}
            Err(other) => panic!("{len}: {other}"),
        }
    }
}

#[test]
fn a_file_that_ends_behind_a_whole_group_names_what_is_missing() {
    let sizes = [2, 1, 3];
    let (place, _, ends) = ledger(&sizes);
    let whole = fs::read(place.wal(1)).unwrap();
    for (groups, end) in ends.iter().enumerate() {
        fs::write(place.wal(1), &whole[..*end]).unwrap();
        let (records, end) = (records_before(&sizes, groups) as u64, *end as u64);
        // Nobody has seen more: the file alone tells that it was longer.
        match place.open().unwrap_err() {
            LedgerError::Corrupt { offset, index, .. } => assert_eq!((offset, index), (end, records)),
            other => panic!("{other}"),
        }
        match place.open_applied(records + 1).unwrap_err() {
            LedgerError::RolledBack {
                ledger,
                file,
                end: at,
                have,
                need,
                ..
            } => {
                assert_eq!(place.ledger(), ledger);
                assert_eq!(place.wal(1), ledger.join(file));
                assert_eq!((at, have, need), (end, records, records + 1));
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn every_flipped_bit_of_acknowledged_groups_is_refused() {
    let (place, _, ends) = ledger(&[1, 2]);
    let whole = fs::read(place.wal(1)).unwrap();
    for bit in campaign(0..8 * ends[2], 11) {
        let copy = place.copy();
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(copy.wal(1), &bytes).unwrap();
        let opened = copy.open().map(|journal| journal.size());
        assert!(opened.is_err(), "bit {bit} of {}: {opened:?}", 8 * ends[2]);
    }
}

#[test]
fn bits_in_unused_space_lose_nothing() {
    let (place, all, ends) = ledger(&[1, 2]);
    let whole = fs::read(place.wal(1)).unwrap();
    for at in (ends[2]..whole.len()).step_by(29) {
        let copy = place.copy();
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(copy.wal(1), &bytes).unwrap();
        if let Ok(journal) = copy.open() {
            assert_eq!(contents(&journal), all, "{at}");
        }
    }
}

#[test]
fn damage_before_the_last_group_names_its_place() {
    let (place, _, ends) = ledger(&[2, 2, 2]);
    let mut bytes = fs::read(place.wal(1)).unwrap();
    bytes[ends[0] + 200] ^= 1;
    fs::write(place.wal(1), &bytes).unwrap();
    match place.open().unwrap_err() {
        LedgerError::Corrupt { index, offset, .. } => {
            assert_eq!(index, 1);
            assert!((ends[0]..ends[1]).contains(&(offset as usize)));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn leftovers_of_an_interrupted_start_are_removed() {
    let (place, all, _) = ledger(&[3]);
    let leftover = place.wal(1).with_added_extension("new");
    fs::write(&leftover, b"half").unwrap();
    let other = place.wal(2).with_added_extension("new");
    fs::write(&other, b"half").unwrap();
    let journal = place.open().unwrap();
    assert_eq!(contents(&journal), all);
    assert!(!leftover.exists() && !other.exists());
}

#[test]
fn an_old_file_is_never_appended_to_again() {
    use std::os::unix::fs::MetadataExt;
    let (place, _, _) = ledger(&[3]);
    let before = fs::metadata(place.wal(1)).unwrap().ino();
    let held = fs::File::open(place.wal(1)).unwrap();
    let journal = place.open().unwrap();
    assert_ne!(fs::metadata(place.wal(1)).unwrap().ino(), before);
    journal.append(&group(50, 51), 0).unwrap();
    drop(held);
}

proptest! {
    #![proptest_config(few_cases())]

    /// A power cut writes some sectors of the last group and not others.
    #[test]
    fn unwritten_sectors_of_the_last_group_cut_it(
        last in 1u64..20, lost in proptest::collection::vec(any::<bool>(), 40),
    ) {
        let sizes = [2, last];
        let (place, all, ends) = ledger(&sizes);
        let mut bytes = fs::read(place.wal(1)).unwrap();
        let before = bytes.clone();
        let mut place_in = ends[1];
        for lost in lost.iter().cycle() {
            let to = (place_in / 512 + 1) * 512;
            if *lost {
                bytes[place_in..to.min(ends[2])].fill(0);
            }
            place_in = to;
            if place_in >= ends[2] {
                break;
            }
        }
        fs::write(place.wal(1), &bytes).unwrap();
        let expected = if bytes == before { all.len() } else { 3 };
        let journal = place.open().unwrap();
        prop_assert_eq!(contents(&journal), &all[..expected]);
        // A group that is wholly unwritten was never begun.
        let rest = bytes[ends[1]..].iter().any(|byte| *byte != 0);
        prop_assert_eq!(journal.recovered().cut, bytes != before && rest);
    }

    /// The same under an earlier group cannot be a crash.
    #[test]
    fn unwritten_sectors_of_an_earlier_group_are_refused(from in 0usize..3000, sectors in 1usize..4) {
        let (place, _, ends) = ledger(&[8, 1]);
        let mut bytes = fs::read(place.wal(1)).unwrap();
        let from = (ends[0] + from % (ends[1] - ends[0])) / 512 * 512;
        let (from, to) = (from.max(ends[0]), (from + 512 * sectors).min(ends[1]));
        let before = bytes.clone();
        bytes[from..to].fill(0);
        prop_assume!(bytes != before);
        fs::write(place.wal(1), &bytes).unwrap();
        let opened = place.open().map(|journal| journal.size());
        prop_assert!(matches!(opened, Err(LedgerError::Corrupt { .. })), "{opened:?}");
    }

    /// Whatever bytes are at the end, recovery neither panics nor changes its mind.
    #[test]
    fn arbitrary_tails_are_cut_or_refused(tail in proptest::collection::vec(any::<u8>(), 0..900), gap in 0usize..600) {
        let (place, all, ends) = ledger(&[2]);
        let mut bytes = fs::read(place.wal(1)).unwrap();
        let at = ends[1] + gap;
        let to = (at + tail.len()).min(bytes.len());
        bytes[at..to].copy_from_slice(&tail[..to - at]);
        fs::write(place.wal(1), &bytes).unwrap();
        if let Ok(journal) = FileJournal::open(&place.ledger(), options()) {
            prop_assert_eq!(contents(&journal), all.clone());
            drop(journal);
            let again = place.open().unwrap();
            prop_assert!(!again.recovered().cut);
            prop_assert_eq!(contents(&again), all);
        }
    }
}
