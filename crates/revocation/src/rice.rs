//! Rice code for a sorted run of fingerprints: near the entropy of a random set, and read in one pass.
//!
//! The gaps between neighbours, less one, are written as `gap >> k` one-bits, a zero-bit, and the low `k` bits of the
//! gap; bits fill octets from the lowest. The rest of the last 8 octets is zero.

use crate::{
    RevocationError,
    fingerprint::{BITS, MASK},
};

const WHAT: &str = "segment";

/// The parameter that suits `count` fingerprints.
pub(crate) fn parameter_for(count: usize) -> u8 {
    let mean = (1_u64 << BITS) / (count.max(1) as u64);
    // 0.69 of the mean gap, the optimum for a geometric distribution; below 48, so it fits.
    (mean * 69 / 100).checked_ilog2().unwrap_or(0) as u8
}

/// Appends the code of `sorted` (strictly increasing, each below 2^48) to `out`.
pub(crate) fn encode(sorted: &[u64], parameter: u8, out: &mut Vec<u8>) {
    let mut bits = BitWriter {
        out,
        pending: 0,
        used: 0,
    };
    let mut next = 0;
    for &value in sorted {
        let gap = value - next;
        for _ in 0..gap >> parameter {
            bits.push(1, 1);
        }
        bits.push(0, 1);
        bits.push(gap & ((1 << parameter) - 1), u32::from(parameter));
        next = value + 1;
    }
    bits.finish();
}

/// A run of fingerprints in code. Its values are read when they are asked for: ten million of them take 34 MB as code, and 80 MB
/// as numbers.
#[derive(Clone, Copy)]
pub(crate) struct Run<'a> {
    code: &'a [u8],
    count: usize,
    parameter: u8,
}

impl<'a> Run<'a> {
    /// `count` fingerprints in `code`; whether it holds exactly these is found when they are read.
    pub(crate) fn new(code: &'a [u8], count: usize, parameter: u8) -> Result<Self, RevocationError> {
        if u32::from(parameter) >= BITS {
            return Err(malformed("its Rice parameter is not below 48"));
        }
        // Every code has at least parameter + 1 bits: the count is checked before it is believed.
        if count > code.len() * 8 / (usize::from(parameter) + 1) {
            return Err(malformed("it counts more serials than its octets can hold"));
        }
        Ok(Self { code, count, parameter })
    }

    /// Number of fingerprints.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The fingerprints, strictly increasing and each below 2^48; at the first fault an error, which is the last item.
    pub(crate) fn values(self) -> Values<'a> {
        Values {
            bits: BitReader { code: self.code, at: 0 },
            left: self.count,
            parameter: self.parameter,
            next: 0,
            is_over: false,
        }
    }

    /// All fingerprints.
    pub(crate) fn read(self) -> Result<Vec<u64>, RevocationError> {
        let mut values = Vec::with_capacity(self.count);
        for value in self.values() {
            values.push(value.map_err(malformed)?);
        }
        Ok(values)
    }
}

/// The error for what a run turned out to be.
pub(crate) fn malformed(problem: &str) -> RevocationError {
    RevocationError::malformed(WHAT, problem)
}

/// Reads a run.
#[derive(Clone)]
pub(crate) struct Values<'a> {
    bits: BitReader<'a>,
    left: usize,
    parameter: u8,
    next: u64,
    is_over: bool,
}

impl Values<'_> {
    #[inline]
    fn value(&mut self) -> Result<u64, &'static str> {
        let ones = self.bits.ones().ok_or("it ends inside a serial")?;
        let low = self
            .bits
            .take(u32::from(self.parameter))
            .ok_or("it ends inside a serial")?;
        let value = (ones <= MASK >> self.parameter)
            .then(|| self.next + (ones << self.parameter | low))
            .filter(|&value| value <= MASK)
            .ok_or("a serial is beyond 48 bits")?;
        self.next = value + 1;
        Ok(value)
    }
}

impl Iterator for Values<'_> {
    type Item = Result<u64, &'static str>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left > 0 {
            self.left -= 1;
            let value = self.value();
            if value.is_err() {
                (self.left, self.is_over) = (0, true);
            }
            return Some(value);
        }
        let fault = !std::mem::replace(&mut self.is_over, true) && !self.bits.rest_is_padding();
        fault.then_some(Err("octets follow its last serial"))
    }
}

struct BitWriter<'a> {
    out: &'a mut Vec<u8>,
    pending: u64,
    used: u32,
}

impl BitWriter<'_> {
    /// Appends the low `count` (at most 47) bits of `value`.
    fn push(&mut self, value: u64, count: u32) {
        self.pending |= value << self.used;
        let free = 64 - self.used;
        if count >= free {
            self.out.extend_from_slice(&self.pending.to_le_bytes());
            self.pending = if free == 64 { 0 } else { value >> free };
            self.used = count - free;
        } else {
            self.used += count;
        }
    }

    fn finish(self) {
        if self.used > 0 {
            self.out.extend_from_slice(&self.pending.to_le_bytes());
        }
    }
}

/// Looks at 8 octets at a time.
#[derive(Clone, Copy)]
struct BitReader<'a> {
    code: &'a [u8],
    at: usize,
}

impl BitReader<'_> {
    /// The next bits, 57 of them or more, with zeros above; past the end there are zeros only.
    #[inline]
    fn peek(&self) -> u64 {
        let rest = self.code.get(self.at / 8..).unwrap_or_default();
        let word = match rest.first_chunk() {
            Some(octets) => u64::from_le_bytes(*octets),
            None => last_octets(rest),
        };
        word >> (self.at % 8)
    }

    /// Goes on by `count` bits; `None` when there are not so many.
    #[inline]
    fn skip(&mut self, count: usize) -> Option<()> {
        self.at += count;
        (self.at <= self.code.len() * 8).then_some(())
    }

    /// Counts one-bits up to a zero-bit and takes both.
    #[inline]
    fn ones(&mut self) -> Option<u64> {
        let mut count = 0;
        loop {
            let (run, seen) = ((!self.peek()).trailing_zeros(), 64 - (self.at % 8) as u32);
            if run < seen {
                self.skip(run as usize + 1)?;
                return Some(count + u64::from(run));
            }
            self.skip(seen as usize)?;
            count += u64::from(seen);
        }
    }

    /// Takes `count` bits, at most 47.
    #[inline]
    fn take(&mut self, count: u32) -> Option<u64> {
        let value = self.peek() & ((1 << count) - 1);
        self.skip(count as usize)?;
        Some(value)
    }

    /// True when less than 8 octets are left and all their bits are zero.
    fn rest_is_padding(self) -> bool {
        let left = self.code.len() * 8 - self.at;
        // The second look is at what the first may not have reached.
        let second = Self {
            at: self.at + 57,
            ..self
        };
        left < 64 && self.peek() == 0 && (left <= 57 || second.peek() == 0)
    }
}

#[cold]
fn last_octets(rest: &[u8]) -> u64 {
    let mut octets = [0; 8];
    octets[..rest.len()].copy_from_slice(rest);
    u64::from_le_bytes(octets)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(code: &[u8], count: usize, parameter: u8) -> Result<Vec<u64>, RevocationError> {
        Run::new(code, count, parameter)?.read()
    }

    fn round(sorted: &[u64], parameter: u8) -> Vec<u8> {
        let mut out = Vec::new();
        encode(sorted, parameter, &mut out);
        assert_eq!(out.len() % 8, 0);
        assert_eq!(decode(&out, sorted.len(), parameter).unwrap(), sorted);
        out
    }

    proptest! {
        #[test]
        fn sorted_sets_round_trip(set in proptest::collection::btree_set(0..=MASK, 0..300)) {
            let sorted: Vec<u64> = set.into_iter().collect();
            let parameter = parameter_for(sorted.len());
            let code = round(&sorted, parameter);
            if !sorted.is_empty() {
                prop_assert!(decode(&code[..code.len() - 8], sorted.len(), parameter).is_err());
            }
        }

        #[test]
        fn any_octets_decode_or_are_refused(
            code in proptest::collection::vec(any::<u8>(), 0..200), count in 0_usize..400, parameter in 0_u8..=255
        ) {
            if let Ok(values) = decode(&code, count, parameter) {
                prop_assert!(values.windows(2).all(|pair| pair[0] < pair[1]) && values.iter().all(|&v| v <= MASK));
            }
        }

        #[test]
        fn the_code_is_read_as_if_bit_by_bit(
            code in proptest::collection::vec(prop_oneof![Just(0_u8), Just(0xff), any::<u8>()], 0..60),
            count in 0_usize..40,
            parameter in 0_u8..48,
        ) {
            let by_words = decode(&code, count, parameter).ok();
            prop_assert_eq!(by_words, decoded_bit_by_bit(&code, count, parameter));
        }
    }

    /// The reader of section 3 of FORMAT.md, bit by bit.
    fn decoded_bit_by_bit(code: &[u8], count: usize, parameter: u8) -> Option<Vec<u64>> {
        let mut bits = code
            .iter()
            .flat_map(|octet| (0..8).map(move |bit| octet >> bit & 1 == 1));
        let (mut values, mut next) = (Vec::new(), 0_u64);
        for _ in 0..count {
            let mut ones = 0_u64;
            while bits.next()? {
                ones += 1;
            }
            let mut low = 0;
            for at in 0..parameter {
                low |= u64::from(bits.next()?) << at;
            }
            let value = (u128::from(ones) << parameter) + u128::from(low) + u128::from(next);
            next = u64::try_from(value).ok().filter(|&value| value <= MASK)? + 1;
            values.push(next - 1);
        }
        let rest: Vec<bool> = bits.collect();
        (rest.len() < 64 && !rest.contains(&true)).then_some(values)
    }

    #[test]
    fn extremes_round_trip() {
        round(&[], 40);
        round(&[0], 47);
        round(&[MASK], 47);
        round(&[0, MASK], 46);
        round(&(0..1_000).collect::<Vec<_>>(), 0);
    }

    #[test]
    fn a_count_beyond_the_octets_is_refused_before_allocation() {
        assert!(decode(&[0; 8], usize::MAX / 64, 0).is_err());
        assert!(decode(&[0xff; 64], 1, 40).is_err());
    }

    #[test]
    fn size_is_near_the_entropy() {
        // Spread evenly with jitter: 100,000 serials take about 33 bits each.
        let step = MASK / 100_000;
        let sorted: Vec<u64> = (0..100_000).map(|i| i * step + (i * 2_654_435_761) % step).collect();
        let code = round(&sorted, parameter_for(sorted.len()));
        assert!(code.len() < 450_000, "{} octets", code.len());
    }
}
