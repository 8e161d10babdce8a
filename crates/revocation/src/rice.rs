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

/// Reads `count` fingerprints from `code`, which must hold exactly these.
pub(crate) fn decode(code: &[u8], count: usize, parameter: u8) -> Result<Vec<u64>, RevocationError> {
    let refuse = |problem: &str| RevocationError::malformed(WHAT, problem);
    if u32::from(parameter) >= BITS {
        return Err(refuse("its Rice parameter is not below 48"));
    }
    // Every code has at least parameter + 1 bits: the count is checked before it is believed.
    if count > code.len() * 8 / (usize::from(parameter) + 1) {
        return Err(refuse("it counts more serials than its octets can hold"));
    }
    let mut values = Vec::with_capacity(count);
    let mut bits = BitReader { code, at: 0 };
    let mut next = 0_u64;
    for _ in 0..count {
        let ones = bits.ones().ok_or_else(|| refuse("it ends inside a serial"))?;
        let low = bits
            .take(u32::from(parameter))
            .ok_or_else(|| refuse("it ends inside a serial"))?;
        let value = (ones <= MASK >> parameter)
            .then(|| next + (ones << parameter | low))
            .filter(|&value| value <= MASK)
            .ok_or_else(|| refuse("a serial is beyond 48 bits"))?;
        values.push(value);
        next = value + 1;
    }
    if !bits.rest_is_padding() {
        return Err(refuse("octets follow its last serial"));
    }
    Ok(values)
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

struct BitReader<'a> {
    code: &'a [u8],
    at: usize,
}

impl BitReader<'_> {
    fn bit(&mut self) -> Option<bool> {
        let octet = self.code.get(self.at / 8)?;
        let bit = octet >> (self.at % 8) & 1;
        self.at += 1;
        Some(bit == 1)
    }

    /// Counts one-bits up to a zero-bit and takes both.
    fn ones(&mut self) -> Option<u64> {
        let mut count = 0;
        while self.bit()? {
            count += 1;
        }
        Some(count)
    }

    fn take(&mut self, count: u32) -> Option<u64> {
        let mut value = 0;
        let mut have = 0;
        while have < count {
            let octet = u64::from(*self.code.get(self.at / 8)?);
            let offset = (self.at % 8) as u32;
            let bits = (8 - offset).min(count - have);
            value |= (octet >> offset & ((1 << bits) - 1)) << have;
            have += bits;
            self.at += bits as usize;
        }
        Some(value)
    }

    /// True when less than 8 octets are left and all their bits are zero.
    fn rest_is_padding(mut self) -> bool {
        let left = self.code.len() * 8 - self.at;
        left < 64 && (0..left).all(|_| self.bit() == Some(false))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
