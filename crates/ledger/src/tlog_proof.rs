//! Offline proofs that a leaf is in a log (C2SP tlog-proof): a text file with the leaf's index, its path to the root, and
//! the checkpoint with the signatures of log and witnesses.
//!
//! Ours carry the record's own bytes as the extra data, so that who has nothing else can hash the leaf himself. Nothing
//! authenticates extra data: believe it only after [`TlogProof::verify`] took its leaf hash.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    LedgerError,
    foreign::{ForeignCheckpoint, number},
    limits::{PROOF_HASHES_MAX, TLOG_PROOF_BYTES_MAX},
    note::SignedNote,
    policy::{Checked, Policy},
    proof::verify_inclusion,
    tree::Hash,
};

/// The first line.
const HEAD: &str = "c2sp.org/tlog-proof@v1";

/// A proof of inclusion, not believed before [`TlogProof::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlogProof {
    extra: Option<Vec<u8>>,
    index: u64,
    path: Vec<Hash>,
    note: SignedNote,
}

impl TlogProof {
    /// The proof of leaf `index` by its path to the root of the checkpoint in `note`, with extra data for who verifies.
    pub fn new(extra: Option<Vec<u8>>, index: u64, path: Vec<Hash>, note: SignedNote) -> Self {
        Self {
            extra,
            index,
            path,
            note,
        }
    }

    /// Reads a proof (C2SP tlog-proof, format).
    ///
    /// # Errors
    /// Refuses every other form, a note that is no checkpoint, more than 64 hashes and more than 256 KB.
    pub fn parse(bytes: &[u8]) -> Result<Self, LedgerError> {
        let refuse = |problem: &str| LedgerError::format("tlog-proof", problem);
        if bytes.len() > TLOG_PROOF_BYTES_MAX {
            return Err(refuse(&format!(
                "has {} bytes, the limit is {TLOG_PROOF_BYTES_MAX}",
                bytes.len()
            )));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| refuse("is not UTF-8"))?;
        let (head, note) = text
            .split_once("\n\n")
            .ok_or_else(|| refuse("has no blank line before its checkpoint"))?;
        let mut lines = head.split('\n').peekable();
        if lines.next() != Some(HEAD) {
            return Err(refuse(&format!("does not begin with the line {HEAD}")));
        }
        let extra = match lines.peek().and_then(|line| line.strip_prefix("extra ")) {
            Some(encoded) => {
                let extra = STANDARD.decode(encoded);
                lines.next();
                Some(extra.map_err(|_| refuse("has extra data that is no base64"))?)
            }
            None => None,
        };
        let index = lines.next().and_then(|line| line.strip_prefix("index "));
        let index = index.and_then(number).ok_or_else(|| refuse("has no index line"))?;
        let mut path = Vec::new();
        for line in lines {
            if path.len() >= PROOF_HASHES_MAX {
                return Err(refuse("has more than 64 hashes"));
            }
            let hash = STANDARD
                .decode(line)
                .map_err(|_| refuse("has a hash that is no base64"))?;
            path.push(Hash::from_slice(&hash)?);
        }
        let note = SignedNote::parse(note.as_bytes())?;
        ForeignCheckpoint::parse(note.text())?;
        Ok(Self {
            extra,
            index,
            path,
            note,
        })
    }

    /// The extra data, which nothing authenticates by itself.
    pub fn extra(&self) -> Option<&[u8]> {
        self.extra.as_deref()
    }

    /// Where the leaf is said to be.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The hashes from the leaf's sibling up.
    pub fn path(&self) -> &[Hash] {
        &self.path
    }

    /// The checkpoint with its signatures.
    pub fn note(&self) -> &SignedNote {
        &self.note
    }

    /// Checks that `leaf` stands at the proof's index below a checkpoint that the policy accepts, witnesses included
    /// (C2SP tlog-proof, verifying).
    ///
    /// # Errors
    /// Refuses a checkpoint that no log of the policy signed or too few witnesses cosigned, and a path that leads
    /// elsewhere.
    pub fn verify<'a>(&self, leaf: &Hash, policy: &'a Policy) -> Result<Checked<'a>, LedgerError> {
        let checked = policy.check(&self.note)?;
        if !checked.quorum {
            return Err(LedgerError::Signature(format!(
                "the quorum of the policy is not met: {} of its witnesses cosigned",
                checked.witnesses.len()
            )));
        }
        let (size, root) = (checked.checkpoint.size(), checked.checkpoint.root());
        verify_inclusion(leaf, self.index, size, &self.path, &root)?;
        Ok(checked)
    }
}

impl fmt::Display for TlogProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEAD}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", STANDARD.encode(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        for hash in &self.path {
            writeln!(f, "{}", STANDARD.encode(hash.as_bytes()))?;
        }
        write!(f, "\n{}", self.note)
    }
}

#[cfg(test)]
mod tests {
    use mintage_identity::{TrustDomain, UnixTime};
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    use super::*;
    use crate::{Checkpoint, Cosigner, LogKey, Origin, Vkey, leaf_hash, tree::naive};

    fn pair(seed: u8) -> LogKey {
        LogKey::generate(&Zeroizing::new([seed; 32])).unwrap().0
    }

    /// The proof of one leaf of a tree, and the log's key.
    fn proof(index: u64, size: u64) -> (TlogProof, Vkey) {
        let domain = TrustDomain::parse("dev.test").unwrap();
        let origin = Origin::new(&domain, "a1b2", UnixTime::from_seconds(0)).unwrap();
        let leaves: Vec<Hash> = (0..size).map(|number| leaf_hash(&number.to_be_bytes())).collect();
        let vkey = pair(3).vkey(&origin);
        let signed = pair(3).sign(Checkpoint {
            origin,
            size,
            root: naive::root(&leaves),
        });
        let path = naive::path(index as usize, &leaves);
        let extra = Some(index.to_be_bytes().to_vec());
        (TlogProof::new(extra, index, path, signed.note().clone()), vkey)
    }

    fn leaf(proof: &TlogProof) -> Hash {
        leaf_hash(proof.extra().unwrap())
    }

    #[test]
    fn a_proof_reads_back_and_verifies() {
        for (index, size) in [(0, 1), (0, 2), (8, 21), (20, 21)] {
            let (made, vkey) = proof(index, size);
            let text = made.to_string();
            let read = TlogProof::parse(text.as_bytes()).unwrap();
            assert_eq!((&read, read.to_string()), (&made, text));
            let policy = Policy::trusting([vkey]).unwrap();
            let checked = read.verify(&leaf(&read), &policy).unwrap();
            assert_eq!((checked.checkpoint.size(), checked.witnesses.len()), (size, 0));
            assert!(read.verify(&leaf_hash(b"other"), &policy).is_err());
        }
        let (mut plain, _) = proof(1, 2);
        plain.extra = None;
        assert_eq!(TlogProof::parse(plain.to_string().as_bytes()).unwrap(), plain);
        assert!(!plain.to_string().contains("extra"));
    }

    #[test]
    fn another_key_index_and_path_prove_nothing() {
        let (good, vkey) = proof(8, 21);
        let leaf = leaf(&good);
        let policy = Policy::trusting([vkey.clone()]).unwrap();
        good.verify(&leaf, &policy).unwrap();
        let other = Policy::trusting([Vkey::new(vkey.name(), [9; 32]).unwrap()]).unwrap();
        assert!(good.verify(&leaf, &other).is_err());
        let mut bad = good.clone();
        bad.index = 9;
        assert!(bad.verify(&leaf, &policy).is_err());
        let mut bad = good.clone();
        bad.path.pop();
        assert!(bad.verify(&leaf, &policy).is_err());
    }

    #[test]
    fn a_quorum_that_is_not_met_proves_nothing() {
        let (alone, vkey) = proof(8, 21);
        let witness = Cosigner::new("w", pair(4)).unwrap();
        let text = format!("log {vkey}\nwitness w {}\nquorum w\n", witness.key());
        let policy = Policy::parse(text.as_bytes()).unwrap();
        let told = alone.verify(&leaf(&alone), &policy).unwrap_err().to_string();
        assert!(told.contains("quorum"), "{told}");
        let line = witness.cosign(alone.note(), UnixTime::from_seconds(7)).unwrap();
        let mut seen = alone.clone();
        seen.note = alone.note.with_lines([line]).unwrap();
        assert_eq!(seen.verify(&leaf(&seen), &policy).unwrap().witnesses.len(), 1);
    }

    #[test]
    fn malformed_proofs_are_refused() {
        let text = proof(8, 21).0.to_string();
        let line = |at: usize| text.lines().nth(at).unwrap();
        for bad in [
            String::new(),
            text.replace("@v1", "@v2"),
            text.replacen("extra ", "extra  ", 1),
            text.replacen("index 8", "index 08", 1),
            text.replacen("index 8", "index", 1),
            text.replacen("index 8\n", "", 1),
            text.replacen(line(3), "AAAA", 1),
            text.replacen("\n\n", "\n", 1),
            text.replacen("\n\n", "\n\n\n", 1),
            text.replacen('\n', "\r\n", 1),
            text.replacen(line(3), &vec![line(3); 65].join("\n"), 1),
            text.trim_end().to_owned(),
        ] {
            assert!(TlogProof::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(TlogProof::parse(&vec![b'a'; TLOG_PROOF_BYTES_MAX + 1]).is_err());
    }

    proptest! {
        #[test]
        fn altered_proofs_never_panic_nor_prove_another_leaf(at in any::<usize>(), octet in any::<u8>()) {
            let (good, vkey) = proof(8, 21);
            let mut bytes = good.to_string().into_bytes();
            let place = at % bytes.len();
            bytes[place] = octet;
            if let Ok(read) = TlogProof::parse(&bytes) {
                let policy = Policy::trusting([vkey]).unwrap();
                if read.verify(&leaf(&good), &policy).is_ok() {
                    prop_assert_eq!((read.index(), read.path()), (good.index(), good.path()));
                }
            }
        }

        #[test]
        fn arbitrary_text_never_panics(text in "(c2sp.org/tlog-proof@v1)?\n?(extra [A-Z=]{0,8}\n)?(index [0-9]{0,21}\n)?[\\PC\n]{0,80}") {
            let _ = TlogProof::parse(text.as_bytes());
        }
    }
}
