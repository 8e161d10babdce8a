//! Fields of fixed width, little endian, read in order.

use mintage_identity::UnixTime;

/// Reads fields in order from a slice whose length was checked; past its end it yields zeros.
pub(crate) struct Fields<'a> {
    left: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(left: &'a [u8]) -> Self {
        Self { left }
    }

    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let (now, later) = self.left.split_at(N.min(self.left.len()));
        self.left = later;
        let mut array = [0; N];
        array[..now.len()].copy_from_slice(now);
        array
    }

    pub(crate) fn number(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    pub(crate) fn time(&mut self) -> UnixTime {
        UnixTime::from_millis(i64::from_le_bytes(self.array()))
    }
}
