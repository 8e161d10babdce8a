//! What a witness is asked and what it answers (C2SP tlog-witness, add-checkpoint): the body, the decision, and the reading
//! of answers. Nothing here waits, stores or looks at a clock.

mod add_log;

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    CosignerKey, LedgerError,
    foreign::{ForeignCheckpoint, number},
    limits::{ADD_CHECKPOINT_BYTES_MAX, NOTE_BYTES_MAX, WITNESS_PROOF_HASHES_MAX},
    note::{NoteSignature, SignedNote, Vkey},
    proof::verify_consistency,
    tree::{Hash, empty_root},
};

pub use self::add_log::{LogVerdict, decide_log};

/// Content type of the answer that says which size the witness holds.
pub const SIZE_CONTENT_TYPE: &str = "text/x.tlog.size";

/// A request to cosign a checkpoint, with the proof that it goes on from an older one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddCheckpoint {
    old: u64,
    proof: Vec<Hash>,
    note: SignedNote,
    checkpoint: ForeignCheckpoint,
}

impl AddCheckpoint {
    /// A request: `note` is consistent with the tree of `old` leaves, as `proof` shows.
    ///
    /// # Errors
    /// Refuses more than 63 hashes, a note that is no checkpoint, and one that is smaller than `old`.
    pub fn new(old: u64, proof: Vec<Hash>, note: SignedNote) -> Result<Self, LedgerError> {
        let checkpoint = ForeignCheckpoint::parse(note.text())?;
        if proof.len() > WITNESS_PROOF_HASHES_MAX {
            let problem = format!(
                "has {} proof lines, the limit is {WITNESS_PROOF_HASHES_MAX}",
                proof.len()
            );
            return Err(refuse(problem));
        }
        if old > checkpoint.size() {
            let problem = format!("goes from size {old} back to {}", checkpoint.size());
            return Err(refuse(problem));
        }
        Ok(Self {
            old,
            proof,
            note,
            checkpoint,
        })
    }

    /// Reads a request's body. Nothing in it is believed yet.
    ///
    /// # Errors
    /// Refuses what [`AddCheckpoint::new`] does, another shape than old size, proof lines, blank line and checkpoint, and
    /// more octets than a checkpoint and 63 hashes can have.
    pub fn parse(body: &[u8]) -> Result<Self, LedgerError> {
        if body.len() > ADD_CHECKPOINT_BYTES_MAX {
            let problem = format!("has {} bytes, the limit is {ADD_CHECKPOINT_BYTES_MAX}", body.len());
            return Err(refuse(problem));
        }
        let blank = body.windows(2).position(|pair| pair == b"\n\n");
        let blank = blank.ok_or_else(|| refuse("has no blank line before the checkpoint"))?;
        let head = std::str::from_utf8(&body[..blank]).map_err(|_| refuse("is not UTF-8"))?;
        let mut lines = head.split('\n');
        let old = lines.next().and_then(|line| number(line.strip_prefix("old ")?));
        let old = old.ok_or_else(|| refuse("does not begin with a line of old and a plain size"))?;
        let proof = lines
            // One more than allowed is read, so that too many are told from enough.
            .take(WITNESS_PROOF_HASHES_MAX + 1)
            .map(hash)
            .collect::<Result<_, _>>()?;
        Self::new(old, proof, SignedNote::parse(&body[blank + 2..])?)
    }

    /// The size from which the proof leads.
    pub fn old_size(&self) -> u64 {
        self.old
    }

    /// The consistency proof.
    pub fn proof(&self) -> &[Hash] {
        &self.proof
    }

    /// The checkpoint as it was signed.
    pub fn note(&self) -> &SignedNote {
        &self.note
    }

    /// What the checkpoint says.
    pub fn checkpoint(&self) -> &ForeignCheckpoint {
        &self.checkpoint
    }
}

/// The request's body.
impl fmt::Display for AddCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "old {}", self.old)?;
        for hash in &self.proof {
            writeln!(f, "{}", STANDARD.encode(hash.as_bytes()))?;
        }
        write!(f, "\n{}", self.note)
    }
}

/// The last tree that a witness cosigned of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeHead {
    /// Number of leaves.
    pub size: u64,
    /// Root hash at that size.
    pub root: Hash,
}

impl TreeHead {
    /// The tree that a witness which has seen nothing of a log takes it to be.
    pub fn empty() -> Self {
        Self {
            size: 0,
            root: empty_root(),
        }
    }
}

/// What a witness does with a request; each has its HTTP status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Store this tree, then cosign (200).
    Cosign(TreeHead),
    /// The body is no request (400).
    Malformed(String),
    /// No key of the log has signed, or a line of one does not verify (403).
    NotSigned(String),
    /// The witness has no key of a log with this origin (404).
    UnknownLog,
    /// The old size is not the stored one, which this is (409).
    OtherSize(u64),
    /// The checkpoint is not shown to go on from the stored one (422).
    Inconsistent(String),
}

impl Verdict {
    /// The HTTP status (C2SP tlog-witness, add-checkpoint).
    pub const fn status(&self) -> u16 {
        match self {
            Self::Cosign(_) => 200,
            Self::Malformed(_) => 400,
            Self::NotSigned(_) => 403,
            Self::UnknownLog => 404,
            Self::OtherSize(_) => 409,
            Self::Inconsistent(_) => 422,
        }
    }
}

/// Decides on a request by the keys of its log; those of other logs are ignored. `stored` is the last tree that was cosigned of its log, [`TreeHead::empty`] before the first; it has
/// to stay the last one until the verdict is carried out.
pub fn decide(keys: &[Vkey], request: &AddCheckpoint, stored: TreeHead) -> Verdict {
    let (note, checkpoint) = (request.note(), request.checkpoint());
    let mut known = false;
    let mut signed = false;
    for key in keys.iter().filter(|key| key.name() == checkpoint.origin()) {
        known = true;
        if note.lines_of(key.named()).next().is_none() {
            continue;
        }
        if let Err(error) = note.verify(key) {
            return Verdict::NotSigned(error.to_string());
        }
        signed = true;
    }
    match (known, signed) {
        (false, _) => return Verdict::UnknownLog,
        (true, false) => return Verdict::NotSigned("no key of this log has signed the checkpoint".to_owned()),
        (true, true) => {}
    }
    if request.old_size() != stored.size {
        return Verdict::OtherSize(stored.size);
    }
    let new = TreeHead {
        size: checkpoint.size(),
        root: checkpoint.root(),
    };
    if new.size == 0 && new.root != empty_root() {
        return Verdict::Inconsistent("the root of no leaves is not that of the empty tree".to_owned());
    }
    match verify_consistency(stored.size, &stored.root, new.size, &new.root, request.proof()) {
        Ok(()) => Verdict::Cosign(new),
        Err(error) => Verdict::Inconsistent(error.to_string()),
    }
}

/// What a witness keeps of a request that it cosigns: the checkpoint with the lines of its log's keys and the witness's own.
///
/// # Errors
/// Refuses a checkpoint whose extension lines leave no room for that in a note.
pub fn cosigned(keys: &[Vkey], request: &AddCheckpoint, line: NoteSignature) -> Result<SignedNote, LedgerError> {
    let origin = request.checkpoint().origin();
    let own = keys.iter().filter(|key| key.name() == origin);
    let of_logs = own.flat_map(|key| request.note().lines_of(key.named()).cloned());
    let bare = SignedNote::new(request.note().text().to_owned(), Vec::new());
    let whole = bare.with_lines(of_logs.chain([line]))?;
    // It must read back, or the witness could not be started again.
    SignedNote::parse(whole.to_string().as_bytes())
}

/// The cosignature of `key` in a witness's answer to the checkpoint `note`, verified; lines of other keys are ignored.
///
/// # Errors
/// Refuses an answer that is no signature lines, has none of this key, or one that does not verify.
pub fn cosignature_in(answer: &[u8], note: &SignedNote, key: &CosignerKey) -> Result<NoteSignature, LedgerError> {
    if answer.len() > NOTE_BYTES_MAX {
        return Err(LedgerError::format("cosignatures", "are longer than any note"));
    }
    // The answer may be put behind the text and read as a note; its own blank lines would move where the text ends.
    if answer.windows(2).any(|pair| pair == b"\n\n") || answer.starts_with(b"\n") {
        return Err(LedgerError::format("cosignatures", "have a blank line"));
    }
    let whole = [note.text().as_bytes(), b"\n", answer].concat();
    let answered = SignedNote::parse(&whole)?;
    let time = key.time_on(&answered)?;
    let missing = || LedgerError::Signature(format!("no line of {}", key.name()));
    let time = time.ok_or_else(missing)?;
    if time.seconds() == 0 {
        return Err(LedgerError::Signature(format!(
            "the line of {} has no time",
            key.name()
        )));
    }
    // Every line of this key has verified.
    let line = answered.signatures().iter().rfind(|line| key.is_of(line));
    line.cloned().ok_or_else(missing)
}

/// The size in a witness's answer that the old size is not the one it holds.
///
/// # Errors
/// Refuses anything but a plain number and a newline.
pub fn size_in(answer: &[u8]) -> Result<u64, LedgerError> {
    let text = std::str::from_utf8(answer).ok();
    let size = text.and_then(|text| number(text.strip_suffix('\n')?));
    size.ok_or_else(|| LedgerError::format("tree size of a witness", "is no plain number and newline"))
}

fn refuse(problem: impl Into<String>) -> LedgerError {
    LedgerError::format("add-checkpoint request", problem)
}

fn hash(line: &str) -> Result<Hash, LedgerError> {
    let octets = STANDARD
        .decode(line)
        .map_err(|_| refuse("has a proof line that is no base64"))?;
    Hash::from_slice(&octets)
}

#[cfg(test)]
mod tests;
