//! Places by a key of random octets: serials, public keys, requests.
//!
//! ```text
//! start of each of 16,384 buckets u32, and the end of the last | (place u16 | octets of the key)...
//! ```
//! The bucket is the key's first 14 bits; a full segment has four places in each, so that one read answers nearly
//! always. The octets of the key that are kept begin with its second: with the bucket they are all its first octets.

use super::column;

/// Bits of a key that choose its bucket.
const BUCKET_BITS: u32 = 14;
/// Number of buckets.
pub(crate) const BUCKETS: usize = 1 << BUCKET_BITS;
/// Bytes of the starts.
pub(crate) const STARTS_BYTES: u64 = (BUCKETS as u64 + 1) * 4;

/// The bucket of a key.
pub(crate) fn bucket(key: &[u8]) -> usize {
    let first = [key.first().copied().unwrap_or(0), key.get(1).copied().unwrap_or(0)];
    usize::from(u16::from_be_bytes(first) >> (16 - BUCKET_BITS))
}

/// The octets of a key that a table keeps.
pub(crate) fn kept(key: &[u8], width: u32) -> &[u8] {
    key.get(1..=width as usize).unwrap_or_default()
}

/// The key's octets up to the last that is kept, from its bucket and these.
pub(crate) fn restored(bucket: usize, kept: &[u8]) -> Vec<u8> {
    let mut key = vec![(bucket >> (BUCKET_BITS - 8)) as u8];
    key.extend_from_slice(kept);
    key
}

/// The table of keys by place; absent keys are `None`.
pub(crate) fn build<const N: usize>(keys: &[Option<[u8; N]>], width: u32) -> Vec<u8> {
    let mut rows: Vec<(usize, u16)> = (0..=u16::MAX)
        .zip(keys)
        .filter_map(|(place, key)| key.as_ref().map(|key| (bucket(key), place)))
        .collect();
    rows.sort_unstable();
    let mut starts = vec![0u32; BUCKETS + 1];
    rows.iter().for_each(|(bucket, _)| starts[bucket + 1] += 1);
    let mut sum = 0;
    let mut out = Vec::with_capacity(STARTS_BYTES as usize + rows.len() * (2 + width as usize));
    for count in starts {
        sum += count;
        out.extend_from_slice(&sum.to_le_bytes());
    }
    for (_, place) in rows {
        column::put(&mut out, place.into(), 2);
        if let Some(Some(key)) = keys.get(usize::from(place)) {
            out.extend_from_slice(kept(key, width));
        }
    }
    out
}
