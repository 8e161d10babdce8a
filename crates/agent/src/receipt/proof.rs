//! One proof (C2SP tlog-proof), held against the receipt that came with the certificate before it is written anywhere.
//! What an agent cannot tell is whether the right key signed the checkpoint: that is for whoever audits the proof.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::digest::{Context, SHA256};

use super::Receipt;
use crate::limits::{PROOF_BYTES_MAX, PROOF_HASHES_MAX};

/// The first line.
const HEAD: &str = "c2sp.org/tlog-proof@v1";
/// What a leaf's and a node's octets are hashed behind (RFC 6962, section 2.1).
const LEAF: u8 = 0;
const NODE: u8 = 1;

type Hash = [u8; 32];

/// A proof that fits its receipt and its certificate. Only [`Proof::check`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proof(Arc<[u8]>);

/// The parts of a proof's text that are looked at.
struct Parts<'a> {
    extra: Vec<u8>,
    index: u64,
    path: Vec<Hash>,
    origin: &'a str,
    size: u64,
    root: Hash,
}

impl Proof {
    /// Takes a proof when it is of exactly this record: origin, index and leaf hash are the receipt's, the record's octets
    /// have that hash and hold this certificate, and the path leads from the leaf to the checkpoint's root.
    pub(crate) fn check(octets: &[u8], receipt: &Receipt, leaf_der: &[u8]) -> Result<Self, String> {
        let parts = read(octets)?;
        if parts.origin != receipt.origin() || parts.index != receipt.index() {
            return Err(format!(
                "the proof is of record {} of {}, not of record {} of {}",
                parts.index,
                parts.origin.escape_debug(),
                receipt.index(),
                receipt.origin()
            ));
        }
        let leaf = hashed(LEAF, &[&parts.extra]);
        if leaf != *receipt.leaf_hash() {
            return Err("the proof is of another record than the certificate came with".to_owned());
        }
        let holds = |der: &[u8]| !der.is_empty() && parts.extra.windows(der.len()).any(|part| part == der);
        if !holds(leaf_der) {
            return Err("the record does not hold the certificate".to_owned());
        }
        match climb(leaf, parts.index, parts.size, &parts.path) {
            Some(root) if root == parts.root => Ok(Self(octets.into())),
            _ => Err("its path does not lead to the checkpoint's root".to_owned()),
        }
    }

    /// The text, as it is written.
    pub(crate) fn octets(&self) -> &[u8] {
        &self.0
    }
}

fn read(octets: &[u8]) -> Result<Parts<'_>, String> {
    if octets.len() > PROOF_BYTES_MAX {
        return Err(format!(
            "the proof has {} bytes, the limit is {PROOF_BYTES_MAX}",
            octets.len()
        ));
    }
    let broken = |what: &str| format!("the proof {what}");
    let text = std::str::from_utf8(octets).map_err(|_| broken("is not UTF-8"))?;
    let (head, note) = text
        .split_once("\n\n")
        .ok_or_else(|| broken("has no blank line before its checkpoint"))?;
    let mut lines = head.split('\n');
    if lines.next() != Some(HEAD) {
        return Err(broken("does not begin with its format's line"));
    }
    let extra = lines.next().and_then(|line| line.strip_prefix("extra "));
    let extra = extra.and_then(|text| STANDARD.decode(text).ok());
    let extra = extra.ok_or_else(|| broken("carries no record"))?;
    let index = lines.next().and_then(|line| line.strip_prefix("index "));
    let index = index.and_then(number).ok_or_else(|| broken("has no index"))?;
    let path: Option<Vec<Hash>> = lines.by_ref().take(PROOF_HASHES_MAX).map(hash).collect();
    let path = path.ok_or_else(|| broken("has a hash that is none"))?;
    if lines.next().is_some() {
        return Err(format!("the proof has more than {PROOF_HASHES_MAX} hashes"));
    }
    let mut note = note.split('\n');
    let (Some(origin), Some(size), Some(root)) =
        (note.next(), note.next().and_then(number), note.next().and_then(hash))
    else {
        return Err(broken("has no checkpoint with origin, size and root"));
    };
    Ok(Parts {
        extra,
        index,
        path,
        origin,
        size,
        root,
    })
}

/// A decimal number without sign or leading zeros.
fn number(text: &str) -> Option<u64> {
    let plain = text == "0" || (!text.starts_with('0') && text.bytes().all(|octet| octet.is_ascii_digit()));
    text.parse().ok().filter(|_| plain)
}

fn hash(text: &str) -> Option<Hash> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

fn hashed(prefix: u8, parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    context.update(&[prefix]);
    parts.iter().for_each(|part| context.update(part));
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// The root that the path leads to (RFC 9162, section 2.1.3.2); `None` when it has the wrong length.
fn climb(leaf: Hash, index: u64, size: u64, path: &[Hash]) -> Option<Hash> {
    if index >= size {
        return None;
    }
    let (mut place, mut last, mut root) = (index, size - 1, leaf);
    for sibling in path {
        if last == 0 {
            return None;
        }
        if place & 1 == 1 || place == last {
            root = hashed(NODE, &[sibling, &root]);
            // A last node without a sibling moves up as it is.
            while place & 1 == 0 && place != 0 {
                place >>= 1;
                last >>= 1;
            }
        } else {
            root = hashed(NODE, &[&root, sibling]);
        }
        place >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(root)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DER: &[u8] = b"certificate";

    /// The octets of record `number`; each holds a certificate.
    fn record(number: u64) -> Vec<u8> {
        [&number.to_be_bytes()[..], DER, b"."].concat()
    }

    fn root(leaves: &[Hash]) -> Hash {
        match leaves {
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                hashed(NODE, &[&root(left), &root(right)])
            }
        }
    }

    fn path(index: usize, leaves: &[Hash]) -> Vec<Hash> {
        if leaves.len() == 1 {
            return Vec::new();
        }
        let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
        let (mut below, sibling) = match index < left.len() {
            true => (path(index, left), root(right)),
            false => (path(index - left.len(), right), root(left)),
        };
        below.push(sibling);
        below
    }

    /// The proof of one record of a tree, and its receipt.
    fn made(index: u64, size: u64) -> (String, Receipt) {
        let leaves: Vec<Hash> = (0..size).map(|number| hashed(LEAF, &[&record(number)])).collect();
        let place = usize::try_from(index).unwrap();
        let mut text = format!("{HEAD}\nextra {}\nindex {index}\n", STANDARD.encode(record(index)));
        for hash in path(place, &leaves) {
            text.push_str(&format!("{}\n", STANDARD.encode(hash)));
        }
        text.push_str(&format!(
            "\nlog\n{size}\n{}\n\n\u{2014} log AAAA\n",
            STANDARD.encode(root(&leaves))
        ));
        let receipt = Receipt::new("log".to_owned(), index, &leaves[place]).unwrap();
        (text, receipt)
    }

    #[test]
    fn every_leaf_of_every_small_tree_is_proven_and_no_other() {
        for size in 1..20 {
            for index in 0..size {
                let (text, receipt) = made(index, size);
                assert_eq!(
                    Proof::check(text.as_bytes(), &receipt, DER).unwrap().octets(),
                    text.as_bytes()
                );
                let other = made((index + 1) % size, size).1;
                assert_eq!(
                    Proof::check(text.as_bytes(), &other, DER).is_ok(),
                    size == 1,
                    "{index} of {size}"
                );
            }
        }
    }

    #[test]
    fn a_proof_of_another_log_record_certificate_or_tree_is_refused() {
        let (text, receipt) = made(8, 21);
        let refused =
            |text: &str, receipt: &Receipt, der: &[u8]| Proof::check(text.as_bytes(), receipt, der).unwrap_err();
        let elsewhere = Receipt::new("other".to_owned(), 8, receipt.leaf_hash()).unwrap();
        assert!(refused(&text, &elsewhere, DER).contains("of log"));
        let moved = Receipt::new("log".to_owned(), 9, receipt.leaf_hash()).unwrap();
        assert!(refused(&text, &moved, DER).contains("record 8"));
        let another = Receipt::new("log".to_owned(), 8, &[9; 32]).unwrap();
        assert!(refused(&text, &another, DER).contains("another record"));
        assert!(refused(&text, &receipt, b"forged").contains("does not hold the certificate"));
        assert!(refused(&text, &receipt, b"").contains("does not hold the certificate"));
        assert!(refused(&text.replace("\n21\n", "\n40\n"), &receipt, DER).contains("path"));
        assert!(refused(&text.replace("\n21\n", "\n8\n"), &receipt, DER).contains("path"));
        let hash = text.lines().nth(3).unwrap();
        assert!(refused(&text.replacen(&format!("{hash}\n"), "", 1), &receipt, DER).contains("path"));
        let long = text.replacen(hash, &vec![hash; PROOF_HASHES_MAX + 1].join("\n"), 1);
        assert!(refused(&long, &receipt, DER).contains("more than"));
        assert!(refused(&"a".repeat(PROOF_BYTES_MAX + 1), &receipt, DER).contains("limit"));
    }

    #[test]
    fn malformed_proofs_are_refused() {
        let (text, receipt) = made(8, 21);
        for (part, other) in [
            ("@v1", "@v2"),
            ("extra ", "extra  "),
            ("index 8", "index 08"),
            ("index 8\n", ""),
            ("\n\n", "\n"),
            ("\n21\n", "\n+21\n"),
            ("\nlog\n21\n", "\nlog\n"),
        ] {
            let bad = text.replacen(part, other, 1);
            assert_ne!(bad, text);
            assert!(Proof::check(bad.as_bytes(), &receipt, DER).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_altered_octet_proves_another_place(at in any::<usize>(), octet in any::<u8>()) {
            let (text, receipt) = made(8, 21);
            let mut octets = text.clone().into_bytes();
            let place = at % octets.len();
            octets[place] = octet;
            if Proof::check(&octets, &receipt, DER).is_ok() {
                // Another size can have the same path; that it is this root's, like all signatures, is for auditors.
                let size = text.find("\n21\n").unwrap();
                let signed = text.find("\n\n\u{2014}").unwrap();
                let free = place > signed || (size < place && place < size + 3);
                prop_assert!(free || octets == text.as_bytes(), "octet {place}");
            }
        }

        #[test]
        fn arbitrary_text_never_panics(text in "(c2sp.org/tlog-proof@v1)?\n?(extra [A-Z=]{0,8}\n)?(index [0-9]{0,21}\n)?[\\PC\n]{0,80}") {
            let receipt = Receipt::new("log".to_owned(), 0, &[0; 32]).unwrap();
            let _ = Proof::check(text.as_bytes(), &receipt, DER);
        }
    }
}
