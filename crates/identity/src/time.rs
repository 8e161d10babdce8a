//! Instants and lifetimes as values. Nothing here reads a clock: callers pass `now` in.

use std::{fmt, str::FromStr, time::Duration};

use crate::{
    NameError,
    limits::{TTL_SECONDS_MAX, TTL_SECONDS_MIN},
};

/// Milliseconds since 1970-01-01T00:00:00Z, without leap seconds. Arithmetic saturates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixTime(i64);

impl UnixTime {
    /// From milliseconds since the epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// From whole seconds since the epoch.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// Milliseconds since the epoch.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// This instant rounded down to a whole second, the precision of X.509.
    pub const fn floor_to_second(self) -> Self {
        Self::from_seconds(self.seconds())
    }

    /// The instant `after` later.
    #[must_use]
    pub fn plus(self, after: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(after.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// The instant `before` earlier.
    #[must_use]
    pub fn minus(self, before: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(i64::try_from(before.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// Time from `earlier` to here; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// A certificate's lifetime: 60 s to 24 h, in whole seconds; 10 min unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ttl(u32);

impl Ttl {
    /// The default of an entry: 10 minutes.
    pub const DEFAULT: Self = Self(600);

    /// From seconds.
    ///
    /// # Errors
    /// Refuses less than 60 and more than 86,400; a lifetime is refused, never clamped.
    pub fn from_seconds(seconds: i64) -> Result<Self, NameError> {
        match u32::try_from(seconds) {
            Ok(fits) if (TTL_SECONDS_MIN..=TTL_SECONDS_MAX).contains(&fits) => Ok(Self(fits)),
            _ => Err(NameError::new(
                "ttl",
                &seconds.to_string(),
                format!("is out of range; allowed are {TTL_SECONDS_MIN}s to 24h"),
            )),
        }
    }

    /// Parses whole numbers with a unit: `90s`, `10m`, `24h`.
    ///
    /// # Errors
    /// Refuses other shapes (a unit is needed) and values out of range.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let duration = parse_duration("ttl", text)?;
        Self::from_seconds(i64::try_from(duration.as_secs()).unwrap_or(i64::MAX))
    }

    /// Whole seconds.
    pub const fn seconds(self) -> u32 {
        self.0
    }

    /// As a duration.
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.0 as u64)
    }
}

/// Parses a duration such as `500ms`, `90s`, `10m`, `24h` or `7d` for the setting called `field`.
///
/// # Errors
/// Refuses text without a unit, with a sign, a fraction or blanks, and values that overflow.
pub fn parse_duration(field: &'static str, text: &str) -> Result<Duration, NameError> {
    let refuse = || {
        NameError::new(
            field,
            text,
            "is no duration; write a whole number and a unit: 500ms, 90s, 10m, 24h, 7d",
        )
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| refuse())?;
    let millis_per_unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(refuse()),
    };
    number
        .checked_mul(millis_per_unit)
        .map(Duration::from_millis)
        .ok_or_else(refuse)
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            s if s % 3600 == 0 => write!(f, "{}h", s / 3600),
            s if s % 60 == 0 => write!(f, "{}m", s / 60),
            s => write!(f, "{s}s"),
        }
    }
}

impl FromStr for Ttl {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_out_of_range_are_refused_not_clamped() {
        for bad in [0, -1, 1, 59, 86_401, i64::MAX, i64::MIN] {
            assert!(Ttl::from_seconds(bad).is_err(), "{bad}");
        }
        for bad in [
            "",
            "10",
            "m",
            "-5m",
            "1.5h",
            "10 m",
            "99999999999999999999s",
            "584942417d",
        ] {
            assert!(Ttl::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Ttl::parse("10m").unwrap(), Ttl::DEFAULT);
        assert_eq!(Ttl::parse("24h").unwrap().to_string(), "24h");
        assert_eq!(Ttl::parse("90s").unwrap().to_string(), "90s");
    }

    #[test]
    fn arithmetic_saturates() {
        let end = UnixTime::from_millis(i64::MAX);
        assert_eq!(end.plus(Duration::from_secs(1)), end);
        assert_eq!(UnixTime::from_seconds(i64::MAX), end);
        assert_eq!(UnixTime::from_millis(-1).seconds(), -1);
        assert_eq!(
            UnixTime::from_seconds(1).since(UnixTime::from_seconds(5)),
            Duration::ZERO
        );
    }
}
