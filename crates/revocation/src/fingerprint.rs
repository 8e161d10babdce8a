//! The 48-bit fingerprint by which the filter knows a serial, and the key under which a live connection is found.

use mintage_identity::{IssuerKeyId, Serial, limits::SERIAL_OCTETS_MAX};
use ring::digest;

/// Bits of a fingerprint.
pub(crate) const BITS: u32 = 48;
pub(crate) const MASK: u64 = (1 << BITS) - 1;
/// 2^48 divided by the golden ratio, made odd.
const FOLD: u64 = 0x9e37_79b9_7f4b;
/// Where the 12 octets that index the filter begin.
const TAIL_AT: usize = SERIAL_OCTETS_MAX - 12;
/// Label of the hash for serials that are not known to be uniform.
const LABEL: &[u8] = b"mintage-revocation-serial-v1\0";

/// How an issuer makes its serials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SerialKind {
    /// 16 octets from a CSPRNG: the last 12 octets index the filter as they are. A serial of another shape is hashed.
    Native,
    /// Anything else, for example numbers in sequence: SHA-256 of issuer key id and serial indexes the filter. Without
    /// the hash such serials would fall into few blocks, and an unhashed Bloom filter would answer yes to all of them.
    Foreign,
}

/// The key of one revoked certificate as a verifier knows it: enough to find the live connections it may belong to.
/// Two certificates may share a key; ask [`crate::View::check`] before acting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryKey {
    /// The issuing key.
    pub issuer: IssuerKeyId,
    /// 48-bit fingerprint of the serial under that issuer.
    pub fingerprint: u64,
}

/// The fingerprint of `serial` under `issuer`: the 12 index octets, folded.
pub(crate) fn fingerprint(kind: SerialKind, issuer: &IssuerKeyId, serial: &Serial) -> u64 {
    match kind == SerialKind::Native && is_native(serial) {
        true => fold(serial.padded()),
        false => hashed(issuer, serial),
    }
}

/// The fingerprint of a serial that is native, under an issuer whose serials are. The bits above its 48 are of no meaning: filters
/// do not look at them.
#[inline(always)]
pub(crate) fn plain(serial: &Serial) -> u64 {
    unmasked(serial.padded())
}

/// [`Serial::is_native`] in one comparison.
#[inline(always)]
pub(crate) fn is_native(serial: &Serial) -> bool {
    const MASK: u64 = u64::from_le_bytes([0xff, 0xff, 0xff, 0xff, 0xc0, 0, 0, 0]);
    const NATIVE: u64 = u64::from_le_bytes([0, 0, 0, 0, 0x40, 0, 0, 0]);
    let mut first = [0; 8];
    first.copy_from_slice(&serial.padded()[..8]);
    u64::from_le_bytes(first) & MASK == NATIVE
}

#[cold]
fn hashed(issuer: &IssuerKeyId, serial: &Serial) -> u64 {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(LABEL);
    context.update(issuer.as_bytes());
    context.update(serial.padded());
    let hash = context.finish();
    let mut octets = [0; SERIAL_OCTETS_MAX];
    octets[TAIL_AT..].copy_from_slice(&hash.as_ref()[..SERIAL_OCTETS_MAX - TAIL_AT]);
    fold(&octets)
}

/// The low half of the last 12 octets plus a multiple of the high half, so that every octet counts and halves that are alike
/// do not vanish.
#[inline(always)]
fn fold(octets: &[u8; SERIAL_OCTETS_MAX]) -> u64 {
    unmasked(octets) & MASK
}

#[inline(always)]
fn unmasked(octets: &[u8; SERIAL_OCTETS_MAX]) -> u64 {
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&octets[at..at + 8]);
        u64::from_be_bytes(word)
    };
    // The upper two octets of the low half are above the 48 bits.
    let (high, low) = (word(TAIL_AT) >> 16, word(TAIL_AT + 4));
    low.wrapping_add(high.wrapping_mul(FOLD))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: IssuerKeyId = IssuerKeyId::new([7; 32]);

    #[test]
    fn native_serials_are_not_hashed() {
        let of = |tail: [u8; 12]| {
            let mut octets = [0x40; 16];
            octets[4..].copy_from_slice(&tail);
            fingerprint(SerialKind::Native, &ISSUER, &Serial::from_random(octets))
        };
        assert_eq!(of([0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6]), 0x0102_0304_0506);
        assert_eq!(of([0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]), FOLD);
        assert_eq!(of([0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0]), (2 * FOLD) & MASK);
        let alike: std::collections::HashSet<_> = (0..=255).map(|octet| of([octet; 12])).collect();
        assert_eq!(alike.len(), 256);
        let serial = Serial::from_random([0x11; 16]);
        let (native, foreign) = (SerialKind::Native, SerialKind::Foreign);
        assert_ne!(
            fingerprint(native, &ISSUER, &serial),
            fingerprint(foreign, &ISSUER, &serial)
        );
    }

    #[test]
    fn native_is_what_the_serial_says() {
        for len in 1..=SERIAL_OCTETS_MAX {
            for first in [0x01, 0x3f, 0x40, 0x7f, 0x80, 0xc0, 0xff] {
                let mut octets = vec![0x40; len];
                octets[0] = first;
                let serial = Serial::from_be_octets(&octets).unwrap();
                assert_eq!(is_native(&serial), serial.is_native(), "{serial}");
            }
        }
    }

    #[test]
    fn the_examples_of_the_format_hold() {
        let native = Serial::parse("4f1d2c3b4a596877869504132231405f").unwrap();
        let short = Serial::parse("010203").unwrap();
        let of = |kind, serial| fingerprint(kind, &ISSUER, serial);
        assert_eq!(of(SerialKind::Native, &native), 0x0417_b7a6_9906);
        assert_eq!(of(SerialKind::Foreign, &native), 0x3079_4204_f369);
        assert_eq!(of(SerialKind::Native, &short), 0xf0eb_5a08_8956);
    }

    #[test]
    fn foreign_serials_depend_on_the_issuer() {
        let serial = Serial::from_be_octets(&[1, 2, 3]).unwrap();
        let one = fingerprint(SerialKind::Native, &ISSUER, &serial);
        let two = fingerprint(SerialKind::Native, &IssuerKeyId::new([8; 32]), &serial);
        assert_ne!(one, two);
        assert!(one <= MASK && two <= MASK);
        assert_eq!(one, fingerprint(SerialKind::Foreign, &ISSUER, &serial));
    }
}
