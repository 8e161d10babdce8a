//! Serials that revocations name, each with the place of its record: a revocation names as many as its record holds, so they are
//! no column.
//!
//! ```text
//! for each, ascending: (last 6 octets of the serial) << 16 | place, u64
//! ```
//! With 48 random bits one question in 2^48 for each mark finds a revocation of another certificate.

use mintage_identity::Serial;

/// Bytes of one mark.
pub(crate) const MARK_BYTES: u32 = 8;

/// One serial that the revocation at one place names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mark(u64);

impl Mark {
    /// The mark of a serial and a place.
    pub(crate) fn new(serial: &Serial, place: u16) -> Self {
        let tail = serial.tail();
        let octets = tail[6..]
            .iter()
            .fold(0, |octets, octet| octets << 8 | u64::from(*octet));
        Self(octets << 16 | u64::from(place))
    }

    /// The mark in these octets.
    pub(crate) fn get(octets: &[u8]) -> Self {
        Self(super::column::get(octets))
    }

    /// The place of the revocation.
    pub(crate) const fn place(self) -> u16 {
        (self.0 & 0xffff) as u16
    }

    /// Whether both name one serial.
    pub(crate) const fn is_of(self, other: Self) -> bool {
        self.0 >> 16 == other.0 >> 16
    }
}

/// The section of these marks.
pub(crate) fn section(mut marks: Vec<Mark>) -> Vec<u8> {
    marks.sort_unstable();
    marks.dedup();
    marks.iter().flat_map(|Mark(mark)| mark.to_le_bytes()).collect()
}
