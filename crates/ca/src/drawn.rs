//! Randomness for a batch of issuances, drawn in one call instead of two system calls for each certificate.

use zeroize::Zeroizing;

use crate::{desk::Random, status::Refusal};

/// Octets that were drawn and not given out yet. Each is given out once; when they run out, more are drawn.
pub(crate) struct Drawn {
    source: Random,
    octets: Zeroizing<Vec<u8>>,
    /// Those before this were given out.
    given: usize,
    at_once: usize,
}

impl Drawn {
    /// Will draw `at_once` octets from `source` with the first call, and again when those are used up.
    pub(crate) fn new(source: Random, at_once: usize) -> Self {
        Self {
            source,
            octets: Zeroizing::default(),
            given: 0,
            at_once,
        }
    }

    /// The next octets.
    pub(crate) fn next<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        if self.octets.len() - self.given < N {
            let mut fresh = Zeroizing::new(vec![0; self.at_once.max(N)]);
            self.source
                .fill(&mut fresh)
                .map_err(|_| Refusal::unavailable("random", "the system gives no randomness; nothing is issued"))?;
            (self.octets, self.given) = (fresh, 0);
        }
        let mut octets = [0; N];
        octets.copy_from_slice(&self.octets[self.given..self.given + N]);
        self.given += N;
        Ok(octets)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, Ordering};

    use rustls::crypto::{GetRandomFailed, SecureRandom};

    use super::*;

    /// Counts up, an octet at a time, and breaks after `calls`.
    #[derive(Debug)]
    struct Counting {
        octet: AtomicU8,
        calls: AtomicU8,
    }

    impl SecureRandom for Counting {
        fn fill(&self, octets: &mut [u8]) -> Result<(), GetRandomFailed> {
            let broken = self
                .calls
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            broken.map_err(|_| GetRandomFailed)?;
            octets
                .iter_mut()
                .for_each(|octet| *octet = self.octet.fetch_add(1, Ordering::Relaxed));
            Ok(())
        }
    }

    #[test]
    fn every_octet_is_given_out_once_and_a_dry_source_is_an_error() {
        static SOURCE: Counting = Counting {
            octet: AtomicU8::new(0),
            calls: AtomicU8::new(2),
        };
        let mut drawn = Drawn::new(&SOURCE, 40);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..4 {
            let octets: [u8; 16] = drawn.next().expect("two draws give two of sixteen each");
            assert!(octets.iter().all(|octet| seen.insert(*octet)), "{octets:?} came before");
        }
        assert_eq!(drawn.next::<16>().expect_err("the source is dry").code, "random");
    }
}
