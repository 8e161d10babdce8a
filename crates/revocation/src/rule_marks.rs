//! Which rules cannot strike a certificate, told by a bit for each subject: so that a set with rules is asked as fast as one without.
//!
//! A bit that is not set is certain. One that is set is settled by the rules themselves.

/// Bits for each rule: about one question in thirty then meets a bit of another rule for each kind in use.
const BITS_EACH: usize = 32;
/// 2^64 divided by the golden ratio, made odd.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// A bit for each subject of a rule.
#[derive(Clone, Default)]
pub(crate) struct Marks {
    /// A power of two of them, or none.
    words: Vec<u64>,
    shift: u32,
}

/// What is marked. The numbers keep a kind's subjects from another's.
#[derive(Clone, Copy)]
#[repr(u64)]
pub(crate) enum Subject {
    Identity = 1,
    Stem = 2,
    Key = 3,
    Issuer = 4,
}

impl Marks {
    /// Marks with room for so many rules.
    pub(crate) fn for_count(count: usize) -> Self {
        let bits = (count * BITS_EACH).next_power_of_two().max(64);
        Self {
            words: vec![0; bits / 64],
            shift: u64::BITS - bits.ilog2(),
        }
    }

    pub(crate) fn set(&mut self, subject: Subject, octets: &[u8]) {
        let at = self.place(subject, octets);
        if let Some(word) = self.words.get_mut(at / 64) {
            *word |= 1 << (at % 64);
        }
    }

    /// False when the subject was not marked.
    #[inline]
    pub(crate) fn may_have(&self, subject: Subject, octets: &[u8]) -> bool {
        let at = self.place(subject, octets);
        self.words.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    /// By length and the last sixteen octets: a digest is random there, and names of one trust domain differ there most.
    #[inline]
    fn place(&self, subject: Subject, octets: &[u8]) -> usize {
        let (last, before) = match octets.last_chunk::<16>() {
            Some(tail) => {
                let (before, last) = tail.split_at(8);
                (number(last), number(before))
            }
            None => (number(octets), 0),
        };
        let mixed = last ^ (subject as u64) << 32 ^ octets.len() as u64;
        let mixed = mixed.wrapping_mul(MIX) ^ before;
        // Twice, since the upper half of a product alone depends on all of what is multiplied.
        let mixed = (mixed ^ mixed >> 32).wrapping_mul(MIX);
        mixed.checked_shr(self.shift).unwrap_or(0) as usize
    }
}

/// The first eight octets as a number; what is missing is zero.
#[inline]
fn number(octets: &[u8]) -> u64 {
    match octets.first_chunk() {
        Some(octets) => u64::from_le_bytes(*octets),
        None => octets.iter().rev().fold(0, |all, octet| all << 8 | u64::from(*octet)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_marked_is_never_missed_and_few_others_are_met() {
        for count in [1, 2, 50, 3_000] {
            let mut marks = Marks::for_count(count);
            let name = |n: usize| format!("spiffe://prod.example.org/ns/shop/sa/{n}").into_bytes();
            (0..count).for_each(|n| marks.set(Subject::Identity, &name(n)));
            assert!((0..count).all(|n| marks.may_have(Subject::Identity, &name(n))));
            let met = |subject| {
                (count..count + 2_000)
                    .filter(|n| marks.may_have(subject, &name(*n)))
                    .count()
            };
            assert!(met(Subject::Identity) < 200, "{} of 2,000", met(Subject::Identity));
            assert!(met(Subject::Stem) < 200, "{} of 2,000", met(Subject::Stem));
        }
        let (none, mut one) = (Marks::default(), Marks::for_count(0));
        assert!(!none.may_have(Subject::Key, &[1; 32]) && !one.may_have(Subject::Key, &[]));
        one.set(Subject::Key, &[]);
        assert!(one.may_have(Subject::Key, &[]));
    }
}
