//! The Merkle tree of RFC 6962 section 2.1: leaf and node hashes, and the right edge that grows.

use std::fmt;

use ring::digest::{Context, SHA256, digest};

use crate::{LedgerError, limits::PROOF_HASHES_MAX};

/// A SHA-256 hash of a leaf or a node of the tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash([u8; 32]);

impl Hash {
    /// Wraps the octets.
    pub const fn new(octets: [u8; 32]) -> Self {
        Self(octets)
    }

    /// Takes the octets from a slice of 32.
    ///
    /// # Errors
    /// Refuses any other length.
    pub fn from_slice(octets: &[u8]) -> Result<Self, LedgerError> {
        <[u8; 32]>::try_from(octets)
            .map(Self)
            .map_err(|_| LedgerError::format("hash", format!("has {} octets, 32 are needed", octets.len())))
    }

    /// The octets.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

fn finish(context: Context) -> Hash {
    let mut octets = [0; 32];
    octets.copy_from_slice(context.finish().as_ref());
    Hash(octets)
}

/// The SHA-256 hash of plain bytes, without the tree's prefixes.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut octets = [0; 32];
    octets.copy_from_slice(digest(&SHA256, bytes).as_ref());
    octets
}

/// Hash of a leaf: SHA-256 of `0x00` and the record.
pub fn leaf_hash(record: &[u8]) -> Hash {
    let mut context = Context::new(&SHA256);
    context.update(&[0]);
    context.update(record);
    finish(context)
}

/// Hash of an inner node: SHA-256 of `0x01` and both children.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut message = [1; 65];
    message[1..33].copy_from_slice(&left.0);
    message[33..].copy_from_slice(&right.0);
    Hash(sha256(&message))
}

/// Root of the empty tree: SHA-256 of nothing.
pub fn empty_root() -> Hash {
    Hash(sha256(&[]))
}

/// The right edge of a tree: the roots of its complete subtrees, one for each bit of the size, largest first. All that
/// is needed to append, and to know the root.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Frontier {
    size: u64,
    peaks: Vec<Hash>,
}

impl Frontier {
    /// The edge of an empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// An edge from its stored parts.
    ///
    /// # Errors
    /// Refuses another number of hashes than `size` has one bits.
    pub fn from_parts(size: u64, peaks: Vec<Hash>) -> Result<Self, LedgerError> {
        if peaks.len() != size.count_ones() as usize {
            return Err(LedgerError::format(
                "tree edge",
                format!("has {} hashes for size {size}", peaks.len()),
            ));
        }
        Ok(Self { size, peaks })
    }

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The roots of the complete subtrees, largest first.
    pub fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    /// Appends a leaf.
    pub fn push(&mut self, leaf: Hash) {
        let mut carried = leaf;
        // Each trailing one bit of the size is a complete subtree that the new leaf completes to the next size.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                carried = node_hash(&left, &carried);
            }
        }
        if self.peaks.capacity() == 0 {
            self.peaks.reserve(PROOF_HASHES_MAX);
        }
        self.peaks.push(carried);
        self.size += 1;
    }

    /// The root hash (RFC 6962 section 2.1, MTH).
    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        let Some(&smallest) = peaks.next() else {
            return empty_root();
        };
        peaks.fold(smallest, |right, left| node_hash(left, &right))
    }
}

#[cfg(test)]
pub(crate) mod naive {
    //! The tree as RFC 6962 section 2.1 writes it, slow and obviously right.

    use super::*;

    pub(crate) fn split(n: usize) -> usize {
        let mut k = 1;
        while k * 2 < n {
            k *= 2;
        }
        k
    }

    pub(crate) fn root(leaves: &[Hash]) -> Hash {
        match leaves.len() {
            0 => empty_root(),
            1 => leaves[0],
            n => node_hash(&root(&leaves[..split(n)]), &root(&leaves[split(n)..])),
        }
    }

    pub(crate) fn path(index: usize, leaves: &[Hash]) -> Vec<Hash> {
        let n = leaves.len();
        if n == 1 {
            return Vec::new();
        }
        let k = split(n);
        let (mut path, sibling) = if index < k {
            (path(index, &leaves[..k]), root(&leaves[k..]))
        } else {
            (path(index - k, &leaves[k..]), root(&leaves[..k]))
        };
        path.push(sibling);
        path
    }

    pub(crate) fn consistency(old: usize, leaves: &[Hash], whole: bool) -> Vec<Hash> {
        let n = leaves.len();
        if old == n {
            return if whole { Vec::new() } else { vec![root(leaves)] };
        }
        let k = split(n);
        let (mut proof, sibling) = if old <= k {
            (consistency(old, &leaves[..k], whole), root(&leaves[k..]))
        } else {
            (consistency(old - k, &leaves[k..], false), root(&leaves[..k]))
        };
        proof.push(sibling);
        proof
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Leaves and roots of the reference tree used by certificate-transparency-go and its kin.
    const LEAVES: [&str; 8] = [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ];
    const ROOTS: [&str; 9] = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    #[test]
    fn the_published_reference_roots_come_out() {
        let mut edge = Frontier::new();
        assert_eq!(edge.root().to_string(), ROOTS[0]);
        for (leaf, root) in LEAVES.iter().zip(&ROOTS[1..]) {
            edge.push(leaf_hash(&hex::decode(leaf).unwrap()));
            assert_eq!(edge.root().to_string(), *root);
        }
        assert_eq!(edge.size(), 8);
    }

    #[test]
    fn an_edge_with_the_wrong_number_of_hashes_is_refused() {
        assert!(Frontier::from_parts(5, vec![Hash([0; 32])]).is_err());
        assert!(Frontier::from_parts(0, Vec::new()).is_ok());
    }

    proptest! {
        #[test]
        fn edge_and_definition_agree(count in 0usize..300) {
            let leaves: Vec<Hash> = (0..count).map(|i| leaf_hash(&i.to_be_bytes())).collect();
            let mut edge = Frontier::new();
            leaves.iter().for_each(|leaf| edge.push(*leaf));
            prop_assert_eq!(edge.root(), naive::root(&leaves));
            let again = Frontier::from_parts(edge.size(), edge.peaks().to_vec()).unwrap();
            prop_assert_eq!(again, edge);
        }
    }
}
