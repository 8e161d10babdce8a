//! A strict DER reader: definite lengths in minimal form, one-byte tags, nothing left over.
//!
//! X.509 parsers are lenient in different ways (non-minimal lengths, BER indefinite forms, bytes after the last field
//! of a sequence), and a document that two readers see differently is an attack. So every outside document is first
//! walked here, and only then handed to a parser for its meaning.

use crate::limits::DER_DEPTH_MAX;

/// `INTEGER`.
pub const TAG_INTEGER: u8 = 0x02;
/// `BIT STRING`, primitive.
pub const TAG_BIT_STRING: u8 = 0x03;
/// `OCTET STRING`, primitive.
pub const TAG_OCTET_STRING: u8 = 0x04;
/// `NULL`.
pub const TAG_NULL: u8 = 0x05;
/// `OBJECT IDENTIFIER`.
pub const TAG_OID: u8 = 0x06;
/// `SEQUENCE`, constructed.
pub const TAG_SEQUENCE: u8 = 0x30;
/// `SET`, constructed.
pub const TAG_SET: u8 = 0x31;
/// Context-specific `[0]`, constructed.
pub const TAG_CONTEXT_0: u8 = 0xa0;

/// Why bytes are not DER.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DerError {
    /// The value ends before its declared length, or nothing is there at all.
    #[error("DER is truncated")]
    Truncated,
    /// Bytes follow the last expected value.
    #[error("bytes follow the end of the DER value")]
    Trailing,
    /// The length is indefinite or not in its shortest form.
    #[error("a DER length is indefinite or not minimal (this is BER, re-encode it)")]
    Length,
    /// A tag other than the expected one.
    #[error("unexpected DER tag 0x{found:02x} (expected 0x{expected:02x})")]
    Tag {
        /// The tag asked for.
        expected: u8,
        /// The tag that is there.
        found: u8,
    },
    /// A value breaks the rules of its type (boolean, integer, bit string, constructed string).
    #[error("a DER value of tag 0x{0:02x} is not in canonical form")]
    Value(u8),
    /// Deeper than [`DER_DEPTH_MAX`].
    #[error("DER is nested deeper than {DER_DEPTH_MAX} levels")]
    Depth,
}

/// One tag-length-value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tlv<'a> {
    /// The identifier octet.
    pub tag: u8,
    /// The content octets.
    pub value: &'a [u8],
    /// Identifier, length and content octets.
    pub raw: &'a [u8],
}

/// Reads values one after the other from a slice.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader over `der`.
    pub fn new(der: &'a [u8]) -> Self {
        Self { rest: der }
    }

    /// Whether everything has been read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The tag of the next value, if any.
    pub fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// The next value, whatever its tag.
    pub fn any(&mut self) -> Result<Tlv<'a>, DerError> {
        let bytes = self.rest;
        let [tag, first, tail @ ..] = bytes else {
            return Err(DerError::Truncated);
        };
        // Tag numbers from 31 up take several octets; no document read here has one.
        if tag & 0x1f == 0x1f {
            return Err(DerError::Value(*tag));
        }
        let (length, tail) = match *first {
            short @ 0..=0x7f => (usize::from(short), tail),
            0x81 => match tail {
                [a @ 0x80..=0xff, tail @ ..] => (usize::from(*a), tail),
                [_, ..] => return Err(DerError::Length),
                [] => return Err(DerError::Truncated),
            },
            0x82 => match tail {
                [a @ 1..=0xff, b, tail @ ..] => (usize::from(u16::from_be_bytes([*a, *b])), tail),
                [0, ..] => return Err(DerError::Length),
                _ => return Err(DerError::Truncated),
            },
            0x83 => match tail {
                [a @ 1..=0xff, b, c, tail @ ..] => (u32::from_be_bytes([0, *a, *b, *c]) as usize, tail),
                [0, ..] => return Err(DerError::Length),
                _ => return Err(DerError::Truncated),
            },
            // Indefinite (0x80), or longer than any document this crate takes.
            _ => return Err(DerError::Length),
        };
        if tail.len() < length {
            return Err(DerError::Truncated);
        }
        let (value, rest) = tail.split_at(length);
        self.rest = rest;
        Ok(Tlv {
            tag: *tag,
            value,
            raw: &bytes[..bytes.len() - rest.len()],
        })
    }

    /// The next value, which must have this tag.
    pub fn expect(&mut self, tag: u8) -> Result<Tlv<'a>, DerError> {
        let before = self.rest;
        let tlv = self.any()?;
        if tlv.tag != tag {
            // What is not taken stays to be read.
            self.rest = before;
            return Err(DerError::Tag {
                expected: tag,
                found: tlv.tag,
            });
        }
        Ok(tlv)
    }

    /// Refuses leftovers.
    pub fn finish(&self) -> Result<(), DerError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DerError::Trailing)
        }
    }
}

/// Walks a whole document: exactly one value, every nested length strict, every universal value canonical.
pub fn check(der: &[u8]) -> Result<(), DerError> {
    let mut reader = Reader::new(der);
    let tlv = reader.any()?;
    reader.finish()?;
    check_value(&tlv, 0)
}

fn check_value(tlv: &Tlv<'_>, depth: usize) -> Result<(), DerError> {
    const CONSTRUCTED: u8 = 0x20;
    if depth > DER_DEPTH_MAX {
        return Err(DerError::Depth);
    }
    let universal = tlv.tag & 0xc0 == 0;
    if tlv.tag & CONSTRUCTED != 0 {
        // DER forbids strings in pieces: of the universal types only SEQUENCE and SET are constructed.
        if universal && tlv.tag != TAG_SEQUENCE && tlv.tag != TAG_SET {
            return Err(DerError::Value(tlv.tag));
        }
        let mut inner = Reader::new(tlv.value);
        while !inner.is_empty() {
            check_value(&inner.any()?, depth + 1)?;
        }
        return Ok(());
    }
    if !universal || primitive_is_canonical(tlv.tag, tlv.value) {
        Ok(())
    } else {
        Err(DerError::Value(tlv.tag))
    }
}

fn primitive_is_canonical(tag: u8, value: &[u8]) -> bool {
    match tag {
        0x01 => matches!(value, [0x00 | 0xff]),
        TAG_INTEGER | 0x0a => match value {
            [] => false,
            [0x00, next, ..] => next & 0x80 != 0,
            [0xff, next, ..] => next & 0x80 == 0,
            _ => true,
        },
        TAG_BIT_STRING => match value {
            [0] => true,
            [unused @ 0..=7, .., last] => last & ((1u8 << unused) - 1) == 0,
            _ => false,
        },
        TAG_NULL => value.is_empty(),
        TAG_OID => match value {
            [] => false,
            [.., last] => {
                // Each arc ends with a clear top bit and never begins with a padding octet 0x80.
                last & 0x80 == 0 && value[0] != 0x80 && value.windows(2).all(|w| w[0] & 0x80 != 0 || w[1] != 0x80)
            }
        },
        // A primitive SEQUENCE or SET, end-of-contents, or a real type reserved by the standard.
        0x00 | 0x0f | 0x10 | 0x11 => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn minimal_definite_values_pass() {
        for good in [
            &[0x30, 0x00][..],
            &[0x30, 0x03, 0x02, 0x01, 0x05],
            &[0x01, 0x01, 0xff],
            &[0x03, 0x02, 0x07, 0x80],
            &[0x06, 0x03, 0x55, 0x1d, 0x11],
            &[0x02, 0x02, 0x00, 0x80],
        ] {
            assert_eq!(check(good), Ok(()), "{good:02x?}");
        }
    }

    #[test]
    fn ber_forms_and_leftovers_are_refused() {
        let cases: &[(&[u8], DerError)] = &[
            (&[], DerError::Truncated),
            (&[0x30], DerError::Truncated),
            (&[0x30, 0x80, 0x00, 0x00], DerError::Length),
            (&[0x30, 0x81, 0x03, 0x02, 0x01, 0x05], DerError::Length),
            (&[0x30, 0x82, 0x00, 0x03, 0x02, 0x01, 0x05], DerError::Length),
            (&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], DerError::Length),
            (&[0x30, 0x04, 0x02, 0x01, 0x05], DerError::Truncated),
            (&[0x30, 0x00, 0x00], DerError::Trailing),
            (&[0x01, 0x01, 0x01], DerError::Value(1)),
            (&[0x02, 0x02, 0x00, 0x05], DerError::Value(2)),
            (&[0x02, 0x00], DerError::Value(2)),
            (&[0x03, 0x02, 0x07, 0x81], DerError::Value(3)),
            (&[0x03, 0x01, 0x01], DerError::Value(3)),
            (&[0x24, 0x04, 0x04, 0x02, 0x01, 0x01], DerError::Value(0x24)),
            (&[0x10, 0x00], DerError::Value(0x10)),
            (&[0x06, 0x02, 0x80, 0x01], DerError::Value(6)),
            (&[0x1f, 0x81, 0x01, 0x00], DerError::Value(0x1f)),
        ];
        for (bytes, error) in cases {
            assert_eq!(check(bytes), Err(*error), "{bytes:02x?}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let mut der = vec![0x30, 0x00];
        for _ in 0..DER_DEPTH_MAX + 1 {
            let mut outer = vec![0x30, der.len() as u8];
            outer.extend_from_slice(&der);
            der = outer;
        }
        assert_eq!(check(&der), Err(DerError::Depth));
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = check(&bytes);
        }

        #[test]
        fn a_walked_document_is_cut_nowhere(bytes in proptest::collection::vec(any::<u8>(), 0..70_000)) {
            let mut der = vec![0x04];
            match bytes.len() {
                n @ 0..=0x7f => der.push(n as u8),
                n @ 0x80..=0xff => der.extend([0x81, n as u8]),
                n @ 0x100..=0xffff => der.extend([0x82, (n >> 8) as u8, n as u8]),
                n => der.extend([0x83, (n >> 16) as u8, (n >> 8) as u8, n as u8]),
            }
            der.extend_from_slice(&bytes);
            prop_assert_eq!(check(&der), Ok(()));
            der.pop();
            prop_assert!(check(&der).is_err());
        }
    }
}
