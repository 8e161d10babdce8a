//! Columns of numbers, each in as few bytes as the segment's values need.

/// Bytes needed for the numbers up to `most`.
pub(crate) fn width_of(most: u64) -> u32 {
    (8 - most.leading_zeros() / 8).max(1)
}

/// Appends a number in `width` bytes.
pub(crate) fn put(out: &mut Vec<u8>, value: u64, width: u32) {
    out.extend_from_slice(&value.to_le_bytes()[..width as usize]);
}

/// Reads a number of `bytes.len()` bytes.
pub(crate) fn get(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Values above the least of them. An absent value takes the least, and means nothing.
pub(crate) fn pack(values: &[Option<i64>]) -> (Vec<u8>, i64, u32) {
    let present = || values.iter().flatten().copied();
    let (least, most) = (present().min().unwrap_or(0), present().max().unwrap_or(0));
    let above = |value: i64| value.wrapping_sub(least).cast_unsigned();
    let width = width_of(above(most));
    let mut out = Vec::with_capacity(values.len() * width as usize);
    for value in values {
        put(&mut out, value.map_or(0, above), width);
    }
    (out, least, width)
}

/// Numbers of distinct values, and then the values, each of `N` bytes.
pub(crate) fn dictionary<const N: usize>(values: &[[u8; N]]) -> (Vec<u8>, i64, u32) {
    let mut distinct = values.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    let width = width_of(distinct.len() as u64);
    let mut out = Vec::with_capacity(values.len() * width as usize + distinct.len() * N);
    for value in values {
        put(&mut out, distinct.binary_search(value).unwrap_or(0) as u64, width);
    }
    distinct.iter().for_each(|value| out.extend_from_slice(value));
    (out, distinct.len() as i64, width)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn widths_are_the_least_that_hold_the_number() {
        for (most, width) in [(0, 1), (255, 1), (256, 2), (65_535, 2), (65_536, 3), (u64::MAX, 8)] {
            assert_eq!(width_of(most), width, "{most}");
        }
    }

    proptest! {
        #[test]
        fn packed_values_come_out(values in proptest::collection::vec(proptest::option::of(any::<i64>()), 1..50)) {
            let (bytes, least, width) = pack(&values);
            for (chunk, value) in bytes.chunks_exact(width as usize).zip(&values) {
                if let Some(value) = value {
                    prop_assert_eq!(least.wrapping_add(get(chunk).cast_signed()), *value);
                }
            }
        }
    }
}
