//! Names of one kind, and the places that have them: SPIFFE IDs, agents, entries.
//!
//! ```text
//! number of each record's name, 0 for none | for each name, by its hash: hash u64 | end of its places u32 | end of its text u32
//! places u16... | texts
//! ```
//! A name's hash is the first eight octets of its SHA-256, so names are spread evenly and one is found where its hash
//! says it must be.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::column;
use crate::tree::sha256;

/// Bytes of one name's row.
pub(crate) const ROW_BYTES: u64 = 8 + 4 + 4;

/// The hash by which a name is found.
pub(crate) fn hash_of(name: &str) -> u64 {
    let digest = sha256(name.as_bytes());
    u64::from_be_bytes([
        digest[0], digest[1], digest[2], digest[3], digest[4], digest[5], digest[6], digest[7],
    ])
}

/// Collects the names of a segment.
#[derive(Debug, Default)]
pub(crate) struct NamesWriter {
    numbers: HashMap<Box<str>, u32, RandomState>,
    column: Vec<u32>,
}

impl NamesWriter {
    /// The next record's name, or nothing.
    pub(crate) fn push(&mut self, name: &str) {
        let number = match (name.is_empty(), self.numbers.get(name)) {
            (true, _) => 0,
            (_, Some(number)) => *number,
            _ => {
                let number = self.numbers.len() as u32 + 1;
                self.numbers.insert(name.into(), number);
                number
            }
        };
        self.column.push(number);
    }

    /// The section, its number of names and the width of its column.
    pub(crate) fn finish(self) -> (Vec<u8>, i64, u32) {
        let mut names: Vec<(u64, Box<str>, u32)> = self
            .numbers
            .into_iter()
            .map(|(name, number)| (hash_of(&name), name, number))
            .collect();
        names.sort_unstable();
        let mut by_hash = vec![0u32; names.len() + 1];
        for (at, (_, _, number)) in (1..).zip(&names) {
            by_hash[*number as usize] = at;
        }
        let column: Vec<u32> = self.column.iter().map(|number| by_hash[*number as usize]).collect();
        let width = column::width_of(names.len() as u64);
        let mut out = Vec::new();
        column
            .iter()
            .for_each(|number| column::put(&mut out, (*number).into(), width));
        let mut counts = vec![0u32; names.len() + 1];
        column.iter().for_each(|number| counts[*number as usize] += 1);
        let (mut places_end, mut text_end) = (0u32, 0u32);
        for ((hash, name, _), count) in names.iter().zip(&counts[1..]) {
            places_end += count;
            text_end += name.len() as u32;
            out.extend_from_slice(&hash.to_le_bytes());
            out.extend_from_slice(&places_end.to_le_bytes());
            out.extend_from_slice(&text_end.to_le_bytes());
        }
        let mut places: Vec<(u32, u16)> = column
            .iter()
            .copied()
            .zip(0..=u16::MAX)
            .filter(|(number, _)| *number != 0)
            .collect();
        places.sort_unstable();
        places
            .iter()
            .for_each(|(_, place)| column::put(&mut out, (*place).into(), 2));
        names
            .iter()
            .for_each(|(_, name, _)| out.extend_from_slice(name.as_bytes()));
        (out, names.len() as i64, width)
    }
}
