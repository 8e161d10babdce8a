//! How many chains were accepted and refused, by reason. Reasons are a closed list, so that they may be labels.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::VerifyError;

/// Counts since the store was made. Relaxed: each number is right by itself, their sum may be caught in between.
#[derive(Debug, Default)]
pub struct Counters {
    accepted: AtomicU64,
    tolerated: AtomicU64,
    refused: [AtomicU64; VerifyError::CODES.len()],
}

impl Counters {
    /// Counts one chain; the flag says that it was accepted on a filter that is not fresh.
    pub(crate) fn count<T>(&self, outcome: &Result<(T, bool), VerifyError>) {
        match outcome {
            Ok((_, tolerated)) => {
                self.accepted.fetch_add(1, Ordering::Relaxed);
                self.tolerated.fetch_add(u64::from(*tolerated), Ordering::Relaxed);
            }
            Err(error) => {
                self.refused[error.index()].fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Chains accepted.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Of those accepted: on revocation knowledge that was not fresh, but within the policy.
    pub fn tolerated(&self) -> u64 {
        self.tolerated.load(Ordering::Relaxed)
    }

    /// Every answer by its name: `ok`, `tolerated` for what was accepted on knowledge that is not fresh, and the code of
    /// each refusal.
    pub fn by_result(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let tolerated = self.tolerated();
        let accepted = [
            ("ok", self.accepted().saturating_sub(tolerated)),
            ("tolerated", tolerated),
        ];
        accepted.into_iter().chain(self.refused())
    }

    /// Chains refused, by [`VerifyError::code`].
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        VerifyError::CODES
            .into_iter()
            .zip(self.refused.iter().map(|count| count.load(Ordering::Relaxed)))
    }
}
