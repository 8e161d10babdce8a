//! Checkpoints of any log (C2SP tlog-checkpoint): what witnesses and policies look at. Our own logs' checkpoints are read
//! more strictly, by `Checkpoint`.

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{LedgerError, tree::Hash};

/// The text of a checkpoint whose origin may be anyone's. Believe it only after a signature was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignCheckpoint {
    origin: String,
    size: u64,
    root: Hash,
    extensions: Vec<String>,
}

impl ForeignCheckpoint {
    /// Reads a note's text (C2SP tlog-checkpoint, note text): origin, size, root, extension lines, each with its newline.
    ///
    /// # Errors
    /// Refuses fewer than three lines, empty lines, sizes with leading zeros and roots of another length than 32.
    pub fn parse(text: &str) -> Result<Self, LedgerError> {
        let refuse = |problem: &str| LedgerError::format("checkpoint", problem);
        let body = text
            .strip_suffix('\n')
            .ok_or_else(|| refuse("does not end in a newline"))?;
        let mut lines = body.split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(refuse("has fewer than three lines"));
        };
        if origin.is_empty() {
            return Err(refuse("has an empty origin"));
        }
        let extensions: Vec<String> = lines.map(str::to_owned).collect();
        if extensions.iter().any(String::is_empty) {
            return Err(refuse("has an empty extension line"));
        }
        let root = STANDARD
            .decode(root)
            .map_err(|_| refuse("has a root that is no base64"))?;
        Ok(Self {
            origin: origin.to_owned(),
            size: number(size).ok_or_else(|| refuse("has no plain tree size"))?,
            root: Hash::from_slice(&root)?,
            extensions,
        })
    }

    /// The origin line: which log.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Root hash at that size.
    pub fn root(&self) -> Hash {
        self.root
    }

    /// Extension lines, of no meaning here.
    pub fn extensions(&self) -> &[String] {
        &self.extensions
    }
}

/// A decimal number without sign or leading zeros.
pub(crate) fn number(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|octet| octet.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOT: &str = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=";

    #[test]
    fn any_origin_and_extension_lines_are_read() {
        let read = ForeignCheckpoint::parse(&format!("go.sum database tree\n20852163\n{ROOT}\nmore\n")).unwrap();
        assert_eq!((read.origin(), read.size()), ("go.sum database tree", 20_852_163));
        assert_eq!(STANDARD.encode(read.root().as_bytes()), ROOT);
        assert_eq!(read.extensions(), ["more"]);
        assert!(ForeignCheckpoint::parse(&format!("x\n0\n{ROOT}\n")).is_ok());
    }

    #[test]
    fn malformed_checkpoints_are_refused() {
        for bad in [
            String::new(),
            "x\n1\n".into(),
            format!("x\n1\n{ROOT}"),
            format!("\n1\n{ROOT}\n"),
            format!("x\n1\n{ROOT}\n\n"),
            format!("x\n1\n{ROOT}\n\nmore\n"),
            format!("x\n01\n{ROOT}\n"),
            format!("x\n+1\n{ROOT}\n"),
            format!("x\n\n{ROOT}\n"),
            format!("x\n18446744073709551616\n{ROOT}\n"),
            "x\n1\nAAAA\n".into(),
            format!("x\n1\n{}\n", ROOT.replace("q2I=", "q2J=")),
        ] {
            assert!(ForeignCheckpoint::parse(&bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "(\\PC{0,9}\n){0,5}") {
            let _ = ForeignCheckpoint::parse(&text);
        }
    }
}
