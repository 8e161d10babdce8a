//! Certificate serial numbers (RFC 5280, section 4.1.2.2), normalised to 20 octets.

use std::{fmt, str::FromStr};

use crate::{NameError, limits::SERIAL_OCTETS_MAX};

const FIELD: &str = "serial";
/// Octets of a serial made here.
const NATIVE_OCTETS: usize = 16;

/// A certificate serial number: a positive integer of at most 20 octets, kept left-padded so that equality does not
/// depend on its DER form. Serials made here have 16 octets from a CSPRNG with the top two bits `01`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial([u8; SERIAL_OCTETS_MAX]);

impl Serial {
    /// A serial of ours from 16 random octets: the top two bits are set to `01`, so that the DER form always has
    /// exactly 16 octets and is positive.
    pub fn from_random(mut random: [u8; NATIVE_OCTETS]) -> Self {
        random[0] = (random[0] & 0x3f) | 0x40;
        let mut octets = [0; SERIAL_OCTETS_MAX];
        octets[SERIAL_OCTETS_MAX - NATIVE_OCTETS..].copy_from_slice(&random);
        Self(octets)
    }

    /// Reads the content octets of a DER INTEGER, or any big-endian magnitude; leading zeros are dropped.
    ///
    /// # Errors
    /// Refuses zero and more than 20 significant octets. A negative DER INTEGER must be refused by the caller, who
    /// alone sees the sign.
    pub fn from_be_octets(octets: &[u8]) -> Result<Self, NameError> {
        let first = octets.iter().position(|&o| o != 0).unwrap_or(octets.len());
        let significant = &octets[first..];
        if significant.is_empty() || significant.len() > SERIAL_OCTETS_MAX {
            let problem = format!("must be positive and at most {SERIAL_OCTETS_MAX} octets");
            return Err(NameError::new(FIELD, &hex_of(octets), problem));
        }
        let mut padded = [0; SERIAL_OCTETS_MAX];
        padded[SERIAL_OCTETS_MAX - significant.len()..].copy_from_slice(significant);
        Ok(Self(padded))
    }

    /// Reads hexadecimal digits, upper or lower case, with or without colons.
    ///
    /// # Errors
    /// Refuses other characters, an empty text and values out of range.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let digits: Vec<u8> = text.bytes().filter(|&b| b != b':').collect();
        let bad =
            digits.is_empty() || digits.len() > 2 * SERIAL_OCTETS_MAX || !digits.iter().all(u8::is_ascii_hexdigit);
        if bad {
            return Err(NameError::new(FIELD, text, "is not 1 to 40 hexadecimal digits"));
        }
        let value = |digit: u8| (digit as char).to_digit(16).unwrap_or(0) as u8;
        let mut octets = Vec::with_capacity(SERIAL_OCTETS_MAX);
        let (head, pairs) = digits.split_at(digits.len() % 2);
        octets.extend(head.iter().map(|&d| value(d)));
        octets.extend(pairs.chunks_exact(2).map(|pair| value(pair[0]) << 4 | value(pair[1])));
        Self::from_be_octets(&octets)
    }

    /// All 20 octets, left-padded with zeros.
    #[inline]
    pub fn padded(&self) -> &[u8; SERIAL_OCTETS_MAX] {
        &self.0
    }

    /// The significant octets, big-endian, without leading zeros.
    pub fn octets(&self) -> &[u8] {
        let first = self.0.iter().position(|&o| o != 0).unwrap_or(SERIAL_OCTETS_MAX - 1);
        &self.0[first..]
    }

    /// True when the serial has the shape of ours: 16 octets, top two bits `01`. Only then are its last 12 octets known
    /// to be uniform.
    #[inline]
    pub fn is_native(&self) -> bool {
        self.0[..SERIAL_OCTETS_MAX - NATIVE_OCTETS] == [0; SERIAL_OCTETS_MAX - NATIVE_OCTETS]
            && self.0[SERIAL_OCTETS_MAX - NATIVE_OCTETS] & 0xc0 == 0x40
    }

    /// The last 12 octets, which index the revocation filter for native serials.
    #[inline]
    pub fn tail(&self) -> [u8; 12] {
        let mut tail = [0; 12];
        tail.copy_from_slice(&self.0[SERIAL_OCTETS_MAX - 12..]);
        tail
    }
}

fn hex_of(octets: &[u8]) -> String {
    octets.iter().map(|o| format!("{o:02x}")).collect()
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.octets().iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

impl FromStr for Serial {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn random_serials_have_sixteen_positive_octets() {
        for fill in [0x00, 0x80, 0xff] {
            let serial = Serial::from_random([fill; 16]);
            assert_eq!(serial.octets().len(), 16);
            assert!(serial.is_native());
            assert_eq!(serial.octets()[0] & 0xc0, 0x40);
        }
    }

    #[test]
    fn zero_and_long_values_are_refused() {
        assert!(Serial::from_be_octets(&[0, 0]).is_err());
        assert!(Serial::from_be_octets(&[]).is_err());
        assert!(Serial::from_be_octets(&[1; 21]).is_err());
        assert!(Serial::from_be_octets(&[0, 1, 1, 1]).is_ok());
        for bad in ["", "zz", "0", ":", "1 2"] {
            assert!(Serial::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(
            Serial::parse("0A:bC").unwrap(),
            Serial::from_be_octets(&[10, 0xbc]).unwrap()
        );
    }

    proptest! {
        #[test]
        fn text_round_trips(octets in proptest::collection::vec(any::<u8>(), 0..24)) {
            if let Ok(serial) = Serial::from_be_octets(&octets) {
                prop_assert_eq!(Serial::parse(&serial.to_string()).unwrap(), serial);
                prop_assert_eq!(Serial::from_be_octets(serial.octets()).unwrap(), serial);
            }
        }
    }
}
