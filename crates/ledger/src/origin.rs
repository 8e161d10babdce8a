//! What a shard is called: its origin line, and the folder it has.

use std::{fmt, path::PathBuf};

use mintage_identity::{TrustDomain, UnixTime};

use crate::LedgerError;

/// Longest ledger id in bytes: a UUID or a short host name fits.
const ID_BYTES_MAX: usize = 64;
/// Longest shard name in bytes: `2026-11` and a suffix.
const SHARD_BYTES_MAX: usize = 16;
/// First letter of the mark of a shard that a restore began.
const RESTORED: char = 'r';
/// Between trust domain and ledger id, so that nobody's other log has the same name.
const MIDDLE: &str = "/mintage/";

/// The origin of a shard: `<trust domain>/mintage/<ledger id>/<YYYY-MM>`. It is the first line of every checkpoint
/// (C2SP tlog-checkpoint) and the name of the key that signs them; no two trees share one.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    line: String,
    id_at: usize,
    shard_at: usize,
}

impl Origin {
    /// The origin of the shard of `now`'s month of the ledger `id`.
    ///
    /// # Errors
    /// Refuses an id other than 1 to 64 characters of `[a-z0-9-]`.
    pub fn new(trust_domain: &TrustDomain, id: &str, now: UnixTime) -> Result<Self, LedgerError> {
        Self::parse(&format!("{trust_domain}{MIDDLE}{id}/{}", month_of(now)))
    }

    /// The shard of `now`'s month of the same ledger.
    ///
    /// # Errors
    /// None for an origin that was read or made.
    pub fn of_month(&self, now: UnixTime) -> Result<Self, LedgerError> {
        Self::parse(&format!("{}{}", &self.line[..self.shard_at], month_of(now)))
    }

    /// A further shard of the same month.
    ///
    /// # Errors
    /// Refuses a number so large that the name has no room for it.
    pub fn numbered(&self, number: u32) -> Result<Self, LedgerError> {
        self.marked(&number.to_string())
    }

    /// A shard of the same month with this mark behind it.
    ///
    /// # Errors
    /// Refuses a mark of over 8 characters, or of others than `[a-z0-9-]`.
    pub fn marked(&self, mark: &str) -> Result<Self, LedgerError> {
        Self::parse(&format!("{}-{mark}", &self.line[..self.shard_at + 7]))
    }

    /// A shard of the same month that a restore begins: its digits are random, so that nobody can have used the name.
    ///
    /// # Errors
    /// None for an origin that was read or made.
    pub fn restored(&self, digits: [u8; 3]) -> Result<Self, LedgerError> {
        let digits = u32::from_be_bytes([0, digits[0], digits[1], digits[2]]);
        self.marked(&format!("{RESTORED}{digits:06x}"))
    }

    /// True when a restore began this shard: the log before it may have gone on elsewhere after the backup.
    pub fn is_restored(&self) -> bool {
        self.shard()[7..].starts_with(&format!("-{RESTORED}"))
    }

    /// Reads an origin line.
    ///
    /// # Errors
    /// Refuses every other shape.
    pub fn parse(line: &str) -> Result<Self, LedgerError> {
        let refuse = |problem: &str| LedgerError::format("origin", format!("{line:?} {problem}"));
        let shape = || refuse("is not <trust domain>/mintage/<ledger id>/<YYYY-MM>");
        let (domain, rest) = line.split_once(MIDDLE).ok_or_else(shape)?;
        let (id, shard) = rest.split_once('/').ok_or_else(shape)?;
        TrustDomain::parse(domain)?;
        let plain = |text: &str| {
            text.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        if id.is_empty() || id.len() > ID_BYTES_MAX || !plain(id) || id.starts_with('-') {
            return Err(refuse("has a ledger id other than 1 to 64 characters of [a-z0-9-]"));
        }
        let digits = |at: std::ops::Range<usize>| {
            shard
                .as_bytes()
                .get(at)
                .is_some_and(|part| part.iter().all(u8::is_ascii_digit))
        };
        let dated = digits(0..4) && shard.as_bytes().get(4) == Some(&b'-') && digits(5..7);
        if !dated || shard.len() > SHARD_BYTES_MAX || !plain(shard) {
            return Err(refuse("has a shard name other than <YYYY-MM> and a suffix"));
        }
        Ok(Self {
            id_at: domain.len() + MIDDLE.len(),
            shard_at: line.len() - shard.len(),
            line: line.to_owned(),
        })
    }

    /// The line, as in a checkpoint.
    pub fn as_str(&self) -> &str {
        &self.line
    }

    /// The trust domain's name.
    pub fn trust_domain_str(&self) -> &str {
        &self.line[..self.id_at - MIDDLE.len()]
    }

    /// The ledger id.
    pub fn id(&self) -> &str {
        &self.line[self.id_at..self.shard_at - 1]
    }

    /// The shard's name, its month.
    pub fn shard(&self) -> &str {
        &self.line[self.shard_at..]
    }

    /// The shard's folder below the ledger's.
    pub(crate) fn folder(&self) -> PathBuf {
        PathBuf::from(self.id()).join(self.shard())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Origin({})", self.line)
    }
}

/// `YYYY-MM` in UTC, by the civil calendar from a day count (years before 0 or after 9999 are clamped).
fn month_of(now: UnixTime) -> String {
    let days = now.seconds().div_euclid(86_400);
    // Days since 0000-03-01, in eras of 400 years of 146,097 days.
    let shifted = days + 719_468;
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{:04}-{month:02}", year.clamp(0, 9999))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_follow_the_calendar() {
        for (seconds, month) in [
            (0, "1970-01"),
            (951_782_399, "2000-02"),
            (951_868_799, "2000-02"),
            (951_868_800, "2000-03"),
            (1_764_547_199, "2025-11"),
            (1_764_547_200, "2025-12"),
            (-1, "1969-12"),
            (2_147_483_648, "2038-01"),
            (4_107_542_399, "2100-02"),
            (4_107_542_400, "2100-03"),
        ] {
            assert_eq!(month_of(UnixTime::from_seconds(seconds)), month, "{seconds}");
        }
    }

    #[test]
    fn an_origin_names_domain_ledger_and_month() {
        let domain = TrustDomain::parse("dev.test").unwrap();
        let origin = Origin::new(&domain, "a1b2", UnixTime::from_seconds(1_764_547_200)).unwrap();
        assert_eq!(origin.as_str(), "dev.test/mintage/a1b2/2025-12");
        assert_eq!(
            (origin.trust_domain_str(), origin.id(), origin.shard()),
            ("dev.test", "a1b2", "2025-12")
        );
        assert_eq!(origin.folder(), PathBuf::from("a1b2/2025-12"));
        let next = origin.of_month(UnixTime::from_seconds(1_767_225_600)).unwrap();
        assert_eq!(next.as_str(), "dev.test/mintage/a1b2/2026-01");
        let more = next.numbered(2).unwrap().numbered(13).unwrap();
        assert_eq!(more.shard(), "2026-01-13");
        for bad in [
            "",
            "dev.test",
            "dev.test/mintage/a",
            "dev.test/mintage/a/..",
            "dev.test/mintage/../2025-12",
            "dev.test/mintage/a b/2025-12",
            "dev.test/mintage/A/2025-12",
            "dev.test/mintage/a/2025-12/x",
            "dev.test/mintage/a/2025-12+",
            "Dev.test/mintage/a/2025-12",
            "dev.test/mintage/a/2025-12\n",
        ] {
            assert!(Origin::parse(bad).is_err(), "{bad:?}");
        }
    }
}
