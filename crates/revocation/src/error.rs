//! Why a signed object, a file or a change was refused.

use std::io;

use thiserror::Error;

/// A refusal. The text names the field, what was found and what to do; nothing of the last good set is lost by one.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RevocationError {
    /// The bytes are no such object, or one of its lengths, offsets or reserved fields is wrong.
    #[error("malformed {what}: {problem}; fetch the object again")]
    Malformed {
        /// Which object or table.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The object is of a version or kind this reader does not know.
    #[error("{what} has version or kind {found}, known is {known}; update the reader")]
    Unsupported {
        /// Which object.
        what: &'static str,
        /// What was found.
        found: u64,
        /// What this reader knows.
        known: u64,
    },
    /// The object belongs to another trust domain.
    #[error("the object belongs to another trust domain; follow the publisher of your own")]
    WrongTrustDomain,
    /// No valid delegation names the signing key.
    #[error("signed by revocation key {key_id}, for which there is no valid delegation; fetch the trust bundle")]
    UnknownKey {
        /// The key id found, in hexadecimal digits.
        key_id: String,
    },
    /// The signature does not verify, or the body is not the one that was signed.
    #[error("the {what} does not verify; the object was altered or signed by another key")]
    BadSignature {
        /// Which check failed.
        what: &'static str,
    },
    /// The key's delegation has ended.
    #[error("the delegation ended {seconds_ago} s ago; fetch the trust bundle")]
    DelegationExpired {
        /// Seconds since its end.
        seconds_ago: u64,
    },
    /// The object's own `next_update` has passed.
    #[error("the object ended {seconds_ago} s ago; fetch the latest")]
    Expired {
        /// Seconds since its end.
        seconds_ago: u64,
    },
    /// The object is dated in the future.
    #[error("dated {seconds_ahead} s in the future, at most 60 s are allowed; check the clocks of both hosts")]
    FutureDate {
        /// Seconds ahead of `now`.
        seconds_ahead: u64,
    },
    /// The object is older than what is already held.
    #[error("epoch {epoch} sequence {sequence} is older than the held epoch {held_epoch} sequence {held_sequence}")]
    Rollback {
        /// Epoch of the refused object.
        epoch: u64,
        /// Sequence of the refused object.
        sequence: u64,
        /// Epoch held.
        held_epoch: u64,
        /// Sequence held.
        held_sequence: u64,
    },
    /// The object does not continue what is held; a snapshot is needed.
    #[error("the object does not continue the held sequence {held_sequence} ({problem}); fetch a snapshot")]
    BrokenChain {
        /// Sequence held; 0 for none.
        held_sequence: u64,
        /// What does not fit.
        problem: &'static str,
    },
    /// A delta was asked for that the record log does not reach.
    #[error("no delta from {from} to {to} can be made; serve a snapshot")]
    NoDelta {
        /// The follower's sequence.
        from: u64,
        /// The sequence asked for.
        to: u64,
    },
    /// A record's index does not come after the last one folded in.
    #[error("record {sequence} does not come after {last}, the last one folded in")]
    OutOfOrder {
        /// The index refused.
        sequence: u64,
        /// The last index folded in.
        last: u64,
    },
    /// A limit of [`crate::limits`] was reached.
    #[error("{what} is limited to {limit}, found {found}")]
    TooMany {
        /// What is limited.
        what: &'static str,
        /// The limit.
        limit: usize,
        /// What was found.
        found: usize,
    },
    /// A key could not be read or made.
    #[error("{what} is no usable key: {problem}")]
    BadKey {
        /// Which key.
        what: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The map belongs to a user who is not trusted, or others may write to it.
    #[error("{path} belongs to a user that is not trusted, or others may write to it; name the agent's user")]
    NotTrusted {
        /// The file.
        path: String,
    },
    /// Reading or writing failed.
    #[error("{what}: {source}")]
    Io {
        /// What was done, with the path.
        what: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

impl RevocationError {
    pub(crate) fn malformed(what: &'static str, problem: impl Into<String>) -> Self {
        let problem = problem.into();
        Self::Malformed { what, problem }
    }
}
