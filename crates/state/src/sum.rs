//! A hash over a set of named values that is kept up to date one value at a time.
//!
//! It is the sum, lane by lane, of the SHA-256 of each pair. It finds damage and divergence; it is no defence against
//! somebody who can write the store and chooses values, who could as well write the store's own copy of the sum.

use ring::digest;

/// The sum over all (name, value) pairs of a view; independent of their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ContentSum([u64; 4]);

impl ContentSum {
    pub(crate) fn add(&mut self, name: &[u8], value: &[u8]) {
        for (lane, term) in self.0.iter_mut().zip(lanes(name, value)) {
            *lane = lane.wrapping_add(term);
        }
    }

    pub(crate) fn remove(&mut self, name: &[u8], value: &[u8]) {
        for (lane, term) in self.0.iter_mut().zip(lanes(name, value)) {
            *lane = lane.wrapping_sub(term);
        }
    }

    pub(crate) fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (octets, lane) in bytes.chunks_exact_mut(8).zip(self.0) {
            octets.copy_from_slice(&lane.to_be_bytes());
        }
        bytes
    }
}

fn lanes(name: &[u8], value: &[u8]) -> [u64; 4] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&(name.len() as u64).to_be_bytes());
    context.update(name);
    context.update(value);
    let hash = context.finish();
    let mut lanes = [0; 4];
    for (lane, octets) in lanes.iter_mut().zip(hash.as_ref().chunks_exact(8)) {
        *lane = octets.iter().fold(0, |value, &octet| value << 8 | u64::from(octet));
    }
    lanes
}
