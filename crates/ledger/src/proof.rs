//! Inclusion and consistency proofs: building them from stored nodes, and checking them with nothing but hashes
//! (RFC 6962 section 2.1, RFC 9162 sections 2.1.3 and 2.1.4).

use crate::{
    LedgerError,
    limits::PROOF_HASHES_MAX,
    tree::{Hash, empty_root, node_hash},
};

/// Where the hashes of complete subtrees come from.
pub trait HashSource {
    /// Hash of the complete subtree of `2^level` leaves that begins at leaf `index * 2^level`.
    ///
    /// # Errors
    /// Fails when the subtree is not complete yet or cannot be read.
    fn node(&self, level: u8, index: u64) -> Result<Hash, LedgerError>;
}

/// Root of the tree of the first `size` leaves.
///
/// # Errors
/// Fails when a node cannot be read.
pub fn root_at(source: &impl HashSource, size: u64) -> Result<Hash, LedgerError> {
    if size == 0 {
        Ok(empty_root())
    } else {
        range(source, 0, size)
    }
}

/// The path that proves leaf `index` in the tree of `size` leaves (RFC 6962 section 2.1.1), leaf side first.
///
/// # Errors
/// Refuses an index beyond the size; fails when a node cannot be read.
pub fn inclusion(source: &impl HashSource, index: u64, size: u64) -> Result<Vec<Hash>, LedgerError> {
    if index >= size {
        return Err(LedgerError::Beyond {
            what: "leaf",
            asked: index,
            have: size,
        });
    }
    let mut siblings = Vec::new();
    let (mut low, mut high) = (0, size);
    while high - low > 1 {
        let middle = low + split(high - low);
        if index < middle {
            siblings.push(range(source, middle, high)?);
            high = middle;
        } else {
            siblings.push(range(source, low, middle)?);
            low = middle;
        }
    }
    siblings.reverse();
    Ok(siblings)
}

/// The proof that the tree of `new` leaves begins with the tree of `old` leaves (RFC 6962 section 2.1.2).
///
/// # Errors
/// Refuses an old size beyond the new; fails when a node cannot be read.
pub fn consistency(source: &impl HashSource, old: u64, new: u64) -> Result<Vec<Hash>, LedgerError> {
    if old > new {
        return Err(LedgerError::Beyond {
            what: "old size",
            asked: old,
            have: new,
        });
    }
    if old == 0 || old == new {
        return Ok(Vec::new());
    }
    let mut siblings = Vec::new();
    let (mut low, mut high) = (0, new);
    // Descend to the place where the old tree ends at the end of the range.
    while old != high {
        let middle = low + split(high - low);
        if old <= middle {
            siblings.push(range(source, middle, high)?);
            high = middle;
        } else {
            siblings.push(range(source, low, middle)?);
            low = middle;
        }
    }
    // A range that begins at zero is the old tree itself, whose root the verifier has.
    if low != 0 {
        siblings.push(range(source, low, high)?);
    }
    siblings.reverse();
    Ok(siblings)
}

/// The largest power of two smaller than `count` (`count` is at least 2).
fn split(count: u64) -> u64 {
    1 << (63 - (count - 1).leading_zeros())
}

/// Hash of the leaves `low..high`, where `low` is a multiple of the first subtree's size.
fn range(source: &impl HashSource, low: u64, high: u64) -> Result<Hash, LedgerError> {
    let count = high - low;
    if count.is_power_of_two() {
        let level = count.trailing_zeros();
        // A level is at most 63, so it fits.
        return source.node(level as u8, low >> level);
    }
    let middle = low + split(count);
    let left = range(source, low, middle)?;
    Ok(node_hash(&left, &range(source, middle, high)?))
}

/// Every complete subtree over leaves that are read one after the other, level by level: a tree for proofs, all in memory.
#[derive(Clone, Debug, Default)]
pub struct Leaves {
    levels: Vec<Vec<Hash>>,
}

impl Leaves {
    /// Appends a leaf and the subtrees it completes.
    pub fn push(&mut self, leaf: Hash) {
        let (mut level, mut hash) = (0, leaf);
        loop {
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            let row = &mut self.levels[level];
            row.push(hash);
            match row.as_slice() {
                [.., left, right] if row.len().is_multiple_of(2) => hash = node_hash(left, right),
                _ => return,
            }
            level += 1;
        }
    }
}

impl HashSource for Leaves {
    fn node(&self, level: u8, index: u64) -> Result<Hash, LedgerError> {
        let row = self.levels.get(usize::from(level));
        let hash = usize::try_from(index).ok().and_then(|index| row?.get(index).copied());
        hash.ok_or(LedgerError::Proof("a subtree is beyond the leaves that were read"))
    }
}

/// Checks that `leaf` is leaf `index` of the tree of `size` leaves with this `root` (RFC 9162 section 2.1.3.2).
///
/// # Errors
/// Refuses a proof that is too long, too short or leads to another root.
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, path: &[Hash], root: &Hash) -> Result<(), LedgerError> {
    if index >= size {
        return Err(LedgerError::Proof("the leaf index is beyond the tree"));
    }
    if path.len() > PROOF_HASHES_MAX {
        return Err(LedgerError::Proof("the inclusion path has more than 64 hashes"));
    }
    let (mut place, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for sibling in path {
        if last == 0 {
            return Err(LedgerError::Proof("the inclusion path is too long"));
        }
        if place & 1 == 1 || place == last {
            hash = node_hash(sibling, &hash);
            while place & 1 == 0 && place != 0 {
                place >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        place >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(LedgerError::Proof("the inclusion path is too short"));
    }
    if hash != *root {
        return Err(LedgerError::Proof("the inclusion path leads to another root"));
    }
    Ok(())
}

/// Checks that the tree of `new` leaves with root `new_root` begins with the tree of `old` leaves with root `old_root`
/// (RFC 9162 section 2.1.4.2).
///
/// # Errors
/// Refuses a proof that is too long, too short or leads to another root.
pub fn verify_consistency(
    old: u64,
    old_root: &Hash,
    new: u64,
    new_root: &Hash,
    path: &[Hash],
) -> Result<(), LedgerError> {
    if old > new {
        return Err(LedgerError::Proof("the old tree is larger than the new one"));
    }
    if path.len() > PROOF_HASHES_MAX {
        return Err(LedgerError::Proof("the consistency path has more than 64 hashes"));
    }
    if old == new || old == 0 {
        let same = if old == 0 {
            *old_root == empty_root()
        } else {
            old_root == new_root
        };
        return match (path.is_empty(), same) {
            (true, true) => Ok(()),
            (false, _) => Err(LedgerError::Proof("the consistency path is too long")),
            _ => Err(LedgerError::Proof("the roots differ at one size")),
        };
    }
    let mut hashes = path.iter();
    let first = if old.is_power_of_two() {
        Some(old_root)
    } else {
        hashes.next()
    };
    let Some(first) = first else {
        return Err(LedgerError::Proof("the consistency path is empty"));
    };
    let shift = (old - 1).trailing_ones();
    let (mut place, mut last) = ((old - 1) >> shift, (new - 1) >> shift);
    let (mut from_old, mut from_new) = (*first, *first);
    for hash in hashes {
        if last == 0 {
            return Err(LedgerError::Proof("the consistency path is too long"));
        }
        if place & 1 == 1 || place == last {
            from_old = node_hash(hash, &from_old);
            from_new = node_hash(hash, &from_new);
            while place & 1 == 0 && place != 0 {
                place >>= 1;
                last >>= 1;
            }
        } else {
            from_new = node_hash(&from_new, hash);
        }
        place >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(LedgerError::Proof("the consistency path is too short"));
    }
    if from_old != *old_root {
        return Err(LedgerError::Proof("the consistency path leads to another old root"));
    }
    if from_new != *new_root {
        return Err(LedgerError::Proof("the consistency path leads to another new root"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tree::{Frontier, leaf_hash, naive};

    struct Plain(Vec<Hash>);

    impl HashSource for Plain {
        fn node(&self, level: u8, index: u64) -> Result<Hash, LedgerError> {
            let width = 1usize << level;
            let low = index as usize * width;
            Ok(naive::root(&self.0[low..low + width]))
        }
    }

    fn leaves(count: usize) -> Plain {
        Plain((0..count).map(|i| leaf_hash(&i.to_be_bytes())).collect())
    }

    #[test]
    fn every_proof_of_small_trees_is_the_definition_and_verifies() {
        for size in 1..=40usize {
            let tree = leaves(size);
            let root = naive::root(&tree.0);
            assert_eq!(root_at(&tree, size as u64).unwrap(), root);
            for index in 0..size {
                let path = inclusion(&tree, index as u64, size as u64).unwrap();
                assert_eq!(path, naive::path(index, &tree.0));
                verify_inclusion(&tree.0[index], index as u64, size as u64, &path, &root).unwrap();
            }
            for old in 1..=size {
                let path = consistency(&tree, old as u64, size as u64).unwrap();
                assert_eq!(path, naive::consistency(old, &tree.0, true), "{old} {size}");
                let old_root = naive::root(&tree.0[..old]);
                verify_consistency(old as u64, &old_root, size as u64, &root, &path).unwrap();
            }
        }
    }

    /// RFC 6962 section 2.1.3: the example tree of seven leaves and the paths it prints.
    #[test]
    fn the_examples_of_rfc_6962_come_out() {
        let tree = leaves(7);
        let h = |low: usize, high: usize| naive::root(&tree.0[low..high]);
        let (a, b, c, d, e, f, j) = (h(0, 1), h(1, 2), h(2, 3), h(3, 4), h(4, 5), h(5, 6), h(6, 7));
        let (g, hh, i) = (node_hash(&a, &b), node_hash(&c, &d), node_hash(&e, &f));
        let (k, l) = (node_hash(&g, &hh), node_hash(&i, &j));
        assert_eq!(inclusion(&tree, 0, 7).unwrap(), [b, hh, l]);
        assert_eq!(inclusion(&tree, 3, 7).unwrap(), [c, g, l]);
        assert_eq!(inclusion(&tree, 4, 7).unwrap(), [f, j, k]);
        assert_eq!(inclusion(&tree, 6, 7).unwrap(), [i, k]);
        assert_eq!(consistency(&tree, 3, 7).unwrap(), [c, d, g, l]);
        assert_eq!(consistency(&tree, 4, 7).unwrap(), [l]);
        assert_eq!(consistency(&tree, 6, 7).unwrap(), [i, j, k]);
    }

    #[test]
    fn proofs_of_collected_leaves_verify_at_every_size() {
        let (mut leaves, mut frontier) = (Leaves::default(), Frontier::new());
        for size in 1..=70u64 {
            let leaf = leaf_hash(&size.to_be_bytes());
            leaves.push(leaf);
            frontier.push(leaf);
            assert_eq!(root_at(&leaves, size).unwrap(), frontier.root());
            for index in 0..size {
                let leaf = leaf_hash(&(index + 1).to_be_bytes());
                let path = inclusion(&leaves, index, size).unwrap();
                verify_inclusion(&leaf, index, size, &path, &frontier.root()).unwrap();
            }
        }
        assert!(leaves.node(0, 70).is_err() && leaves.node(60, 0).is_err());
    }

    #[test]
    fn empty_and_equal_trees_need_no_path() {
        let root = naive::root(&leaves(3).0);
        verify_consistency(0, &empty_root(), 3, &root, &[]).unwrap();
        assert!(verify_consistency(0, &root, 3, &root, &[]).is_err());
        assert!(verify_consistency(3, &root, 3, &root, &[root]).is_err());
        assert!(verify_consistency(4, &root, 3, &root, &[]).is_err());
        assert!(inclusion(&leaves(3), 3, 3).is_err());
    }

    proptest! {
        #[test]
        fn an_altered_proof_proves_nothing(
            size in 2usize..200, index in 0usize..200, old in 1usize..200, at in 0usize..64, bit in 0usize..256,
        ) {
            let (index, old) = (index % size, 1 + old % (size - 1));
            let tree = leaves(size);
            let (size, root) = (size as u64, naive::root(&tree.0));
            let mut path = inclusion(&tree, index as u64, size).unwrap();
            let leaf = tree.0[index];
            prop_assert!(verify_inclusion(&leaf, (index as u64 + 1) % size, size, &path, &root).is_err());
            let place = at % path.len();
            flip(&mut path[place], bit);
            prop_assert!(verify_inclusion(&leaf, index as u64, size, &path, &root).is_err());
            flip(&mut path[place], bit);
            let extra = path[0];
            path.push(extra);
            prop_assert!(verify_inclusion(&leaf, index as u64, size, &path, &root).is_err());
            path.truncate(path.len() - 2);
            prop_assert!(verify_inclusion(&leaf, index as u64, size, &path, &root).is_err());

            let old_root = naive::root(&tree.0[..old]);
            let mut path = consistency(&tree, old as u64, size).unwrap();
            verify_consistency(old as u64, &old_root, size, &root, &path).unwrap();
            let place = at % path.len();
            flip(&mut path[place], bit);
            prop_assert!(verify_consistency(old as u64, &old_root, size, &root, &path).is_err());
            flip(&mut path[place], bit);
            path.pop();
            prop_assert!(verify_consistency(old as u64, &old_root, size, &root, &path).is_err());
        }

        #[test]
        fn arbitrary_proofs_never_panic(
            index in any::<u64>(), size in any::<u64>(), old in any::<u64>(),
            path in proptest::collection::vec(any::<[u8; 32]>(), 0..80),
        ) {
            let path: Vec<Hash> = path.into_iter().map(Hash::new).collect();
            let root = Hash::new([7; 32]);
            prop_assert!(verify_inclusion(&root, index, size, &path, &Hash::new([8; 32])).is_err());
            let _ = verify_consistency(old, &root, size, &Hash::new([8; 32]), &path);
        }
    }

    fn flip(hash: &mut Hash, bit: usize) {
        let mut octets = *hash.as_bytes();
        octets[bit / 8] ^= 1 << (bit % 8);
        *hash = Hash::new(octets);
    }
}
