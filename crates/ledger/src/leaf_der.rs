//! The four facts the index needs from a certificate: serial, validity and public key, read in place.
//!
//! The certificates in the log were made and linted by this CA before they were recorded, so this walk accepts less
//! than RFC 5280 allows and answers "unreadable" for the rest; it decides nothing about validity.

use mintage_identity::{Serial, SpkiHash, UnixTime};

use crate::tree::sha256;

/// What a certificate says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafFacts {
    /// Serial number.
    pub serial: Serial,
    /// Start of validity.
    pub not_before: UnixTime,
    /// End of validity.
    pub not_after: UnixTime,
    /// SHA-256 of the SubjectPublicKeyInfo.
    pub spki_sha256: SpkiHash,
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;

impl LeafFacts {
    /// Reads a certificate (RFC 5280 section 4.1), or `None` when it has another shape.
    pub fn read(der: &[u8]) -> Option<Self> {
        let mut whole = Reader(der);
        let mut certificate = Reader(whole.expect(SEQUENCE)?);
        let mut tbs = Reader(certificate.expect(SEQUENCE)?);
        tbs.expect(VERSION)?;
        let serial = tbs.expect(INTEGER)?;
        if serial.first()? & 0x80 != 0 {
            return None;
        }
        let serial = Serial::from_be_octets(serial).ok()?;
        tbs.expect(SEQUENCE)?;
        tbs.expect(SEQUENCE)?;
        let mut validity = Reader(tbs.expect(SEQUENCE)?);
        let not_before = validity.time()?;
        let not_after = validity.time()?;
        tbs.expect(SEQUENCE)?;
        let spki = tbs.whole(SEQUENCE)?;
        Some(Self {
            serial,
            not_before,
            not_after,
            spki_sha256: SpkiHash::new(sha256(spki)),
        })
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The next element: its tag, the length of its head, and all its bytes.
    fn element(&mut self) -> Option<(u8, usize, &'a [u8])> {
        let (&tag, &first) = (self.0.first()?, self.0.get(1)?);
        let (head, len) = match first {
            0..=0x7f => (2, usize::from(first)),
            0x81 => (3, usize::from(*self.0.get(2)?)),
            0x82 => (4, usize::from(u16::from_be_bytes([*self.0.get(2)?, *self.0.get(3)?]))),
            _ => return None,
        };
        let (element, rest) = self.0.split_at_checked(head + len)?;
        self.0 = rest;
        Some((tag, head, element))
    }

    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, head, element) = self.element()?;
        (found == tag).then(|| &element[head..])
    }

    fn whole(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, _, element) = self.element()?;
        (found == tag).then_some(element)
    }

    fn time(&mut self) -> Option<UnixTime> {
        let (tag, head, element) = self.element()?;
        let text = &element[head..];
        let (year, rest) = match (tag, text.len()) {
            (UTC_TIME, 13) => {
                let two = number(&text[..2])?;
                // RFC 5280 section 4.1.2.5.1: 50 and above are of the last century.
                (if two < 50 { 2000 + two } else { 1900 + two }, &text[2..])
            }
            (GENERALIZED_TIME, 15) => (number(&text[..4])?, &text[4..]),
            _ => return None,
        };
        if rest[10] != b'Z' {
            return None;
        }
        let part = |at: usize| number(&rest[at..at + 2]);
        let (month, day, hour, minute, second) = (part(0)?, part(2)?, part(4)?, part(6)?, part(8)?);
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
        Some(UnixTime::from_seconds(seconds))
    }
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0i64, |value, digit| {
        digit.is_ascii_digit().then(|| value * 10 + i64::from(digit - b'0'))
    })
}

/// Days from 1970-01-01 to a date of the civil calendar.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let from_march = (month + 9) % 12;
    let day_of_year = (153 * from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::samples;

    #[test]
    fn a_certificate_gives_its_facts() {
        let der = samples::certificate(9, 1_000_000, 1_000_600);
        let facts = LeafFacts::read(&der).unwrap();
        assert_eq!(facts.serial, samples::serial(9));
        assert_eq!(facts.not_before, UnixTime::from_seconds(1_000_000));
        assert_eq!(facts.not_after, UnixTime::from_seconds(1_000_600));
        assert_eq!(facts.spki_sha256, samples::spki(9));
    }

    #[test]
    fn dates_follow_the_calendar() {
        assert_eq!(days_from_civil(1970, 1, 1), 0);
        assert_eq!(days_from_civil(2000, 2, 29), 11_016);
        assert_eq!(days_from_civil(2100, 3, 1), 47_541);
    }

    proptest! {
        #[test]
        fn damaged_certificates_never_panic(at in 0usize..500, byte in any::<u8>(), cut in 0usize..500) {
            let mut der = samples::certificate(9, 1_000_000, 1_000_600);
            let place = at % der.len();
            der[place] = byte;
            let _ = LeafFacts::read(&der);
            der.truncate(cut % der.len());
            let _ = LeafFacts::read(&der);
        }
    }
}
