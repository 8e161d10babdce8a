//! Expiry buckets: revoked serials are grouped by the end of their certificates, so that a group dies whole.

use mintage_identity::UnixTime;

use crate::limits::{DROP_GRACE, FUTURE_SKEW};

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;
const WEEK_MS: i64 = 7 * DAY_MS;
/// Certificates with less than this left are grouped by the minute.
const MINUTE_SPAN_MS: i64 = 2 * HOUR_MS;
/// Certificates with less than this left are grouped by the hour; longer ones by the week.
const HOUR_SPAN_MS: i64 = WEEK_MS;

/// Width of a bucket. The values are those of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub(crate) enum Span {
    Minute = 1,
    Hour = 2,
    Week = 3,
    /// The end is unknown or beyond what a week number can say; never dropped by time.
    Forever = 4,
}

impl Span {
    pub(crate) const ALL: [Self; 4] = [Self::Minute, Self::Hour, Self::Week, Self::Forever];

    pub(crate) fn from_wire(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|span| *span as u8 == code)
    }

    /// The bucket's number; `None` when it does not fit.
    fn index_of(self, millis: u64) -> Option<u32> {
        let index = match self {
            Self::Minute => millis / MINUTE_MS as u64,
            Self::Hour => millis / HOUR_MS as u64,
            Self::Week => millis / WEEK_MS as u64,
            Self::Forever => 0,
        };
        u32::try_from(index).ok()
    }

    fn width_ms(self) -> Option<i64> {
        match self {
            Self::Minute => Some(MINUTE_MS),
            Self::Hour => Some(HOUR_MS),
            Self::Week => Some(WEEK_MS),
            Self::Forever => None,
        }
    }
}

/// A group of certificates that end in the same minute, hour or week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket {
    span: Span,
    /// Number of the minute, hour or week since 1970; zero for [`Span::Forever`].
    index: u32,
}

impl Bucket {
    /// The bucket a certificate goes to that is revoked at `at`: minutes when less than 2 h are left, hours when less
    /// than 7 days, else weeks.
    pub(crate) fn place(not_after: UnixTime, at: UnixTime) -> Self {
        let left = not_after.millis().saturating_sub(at.millis());
        let span = match left {
            _ if left < MINUTE_SPAN_MS => Span::Minute,
            _ if left < HOUR_SPAN_MS => Span::Hour,
            _ => Span::Week,
        };
        // An end before 1970 is long dead; it shares the first bucket, which every horizon drops.
        let not_after = not_after.max(UnixTime::from_millis(0));
        Self::containing(span, not_after).unwrap_or(Self::FOREVER)
    }

    /// Sorts before every other bucket.
    pub(crate) const FIRST: Self = Self {
        span: Span::Minute,
        index: 0,
    };

    pub(crate) const FOREVER: Self = Self {
        span: Span::Forever,
        index: 0,
    };

    /// The bucket of `span` that a certificate ending at `not_after` would be in.
    pub(crate) fn containing(span: Span, not_after: UnixTime) -> Option<Self> {
        let index = span.index_of(u64::try_from(not_after.millis()).ok()?)?;
        Some(Self { span, index })
    }

    /// Every bucket that a certificate ending at `not_after` may have been put in.
    pub(crate) fn all_for(not_after: UnixTime) -> impl Iterator<Item = Self> {
        let not_after = not_after.max(UnixTime::from_millis(0));
        Span::ALL
            .into_iter()
            .filter_map(move |span| Self::containing(span, not_after))
    }

    pub(crate) fn from_wire(span: u8, index: u32) -> Option<Self> {
        let span = Span::from_wire(span)?;
        (span != Span::Forever || index == 0).then_some(Self { span, index })
    }

    pub(crate) fn span(self) -> Span {
        self.span
    }

    pub(crate) fn index(self) -> u32 {
        self.index
    }

    /// One number that sorts like the bucket.
    pub(crate) fn packed(self) -> u64 {
        Self::packed_begin(self.span) + u64::from(self.index)
    }

    /// [`Self::packed`] of the span's bucket zero.
    pub(crate) fn packed_begin(span: Span) -> u64 {
        u64::from(span as u8) << 32
    }

    /// The instant at which every certificate in the bucket has ended; `None` when that is not known.
    pub fn end(self) -> Option<UnixTime> {
        let width = self.span.width_ms()?;
        Some(UnixTime::from_millis((i64::from(self.index) + 1) * width))
    }

    /// True when the bucket ended at or before `horizon`: it may be dropped.
    pub fn is_dead(self, horizon: UnixTime) -> bool {
        self.end().is_some_and(|end| end <= horizon)
    }
}

/// A span prepared for finding buckets without a division: a multiplication by the width's reciprocal, which is exact for every
/// instant (Granlund and Montgomery, "Division by Invariant Integers using Multiplication", 1994).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Width {
    multiplier: u64,
    shift: u32,
}

impl Width {
    pub(crate) fn of(span: Span) -> Self {
        let width = span.width_ms().and_then(|width| u64::try_from(width).ok());
        // A width of `Forever` is none: whatever is multiplied by zero is bucket zero.
        let (multiplier, shift) = width.map_or((0, 0), |width| {
            let shift = width.ilog2();
            let multiplier = (1_u128 << (64 + shift)) / u128::from(width) + 1;
            // Below 2^64, since the width is above 2^shift and no power of two.
            (multiplier as u64, shift)
        });
        Self { multiplier, shift }
    }

    /// Number of the bucket in its span that `millis` since 1970 lies in; for an instant that is in no bucket one above those of
    /// 32 bits.
    #[inline(always)]
    pub(crate) fn index(self, millis: u64) -> u64 {
        (((u128::from(millis) * u128::from(self.multiplier)) >> 64) as u64).wrapping_shr(self.shift)
    }
}

/// The horizon of a statement made at `at`: what ended before it is no longer covered.
pub(crate) fn horizon_at(at: UnixTime) -> UnixTime {
    at.minus(DROP_GRACE)
}

/// True when no clock that is right has stated this horizon by `now`: one that was ahead did, ours with it.
pub(crate) fn is_overrun(horizon: UnixTime, now: UnixTime) -> bool {
    horizon > horizon_at(now.plus(FUTURE_SKEW))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: UnixTime = UnixTime::from_seconds(1_800_000_000);

    fn after(seconds: i64) -> UnixTime {
        UnixTime::from_seconds(AT.seconds() + seconds)
    }

    #[test]
    fn the_time_left_decides_the_width() {
        let span_of = |seconds| Bucket::place(after(seconds), AT).span();
        assert_eq!(span_of(-5), Span::Minute);
        assert_eq!(span_of(7_199), Span::Minute);
        assert_eq!(span_of(7_200), Span::Hour);
        assert_eq!(span_of(7 * 86_400 - 1), Span::Hour);
        assert_eq!(span_of(7 * 86_400), Span::Week);
        assert_eq!(Bucket::place(UnixTime::from_millis(i64::MAX), AT), Bucket::FOREVER);
        assert_eq!(Bucket::place(UnixTime::from_millis(i64::MIN), AT).index(), 0);
    }

    #[test]
    fn a_bucket_outlives_every_certificate_in_it() {
        for left in [1, 59, 60, 7_199, 7_200, 100_000, 604_800, 7_776_000] {
            let bucket = Bucket::place(after(left), AT);
            let end = bucket.end().unwrap();
            assert!(end > after(left), "{left}");
            assert!(!bucket.is_dead(after(left)), "{left}");
            assert!(bucket.is_dead(end), "{left}");
            assert_eq!(Bucket::containing(bucket.span(), after(left)), Some(bucket));
        }
        assert!(!Bucket::FOREVER.is_dead(UnixTime::from_millis(i64::MAX)));
    }

    #[test]
    fn the_bucket_is_found_without_a_division() {
        let mut instants = vec![0, 1, 1_900_000_000_000, 253_402_300_799_999, u64::MAX >> 1];
        for width in [MINUTE_MS, HOUR_MS, WEEK_MS] {
            for multiple in [1, 2, 31_666_667, 4_194_303] {
                instants.extend([-1, 0, 1].map(|off| (width * multiple + off) as u64));
            }
        }
        for span in Span::ALL {
            for &millis in &instants {
                let bucket = Bucket::containing(span, UnixTime::from_millis(millis as i64));
                let found = Width::of(span).index(millis);
                match bucket {
                    Some(bucket) => assert_eq!(found, u64::from(bucket.index()), "{span:?} {millis}"),
                    None => assert!(found > u64::from(u32::MAX), "{span:?} {millis}"),
                }
            }
        }
    }

    #[test]
    fn unknown_wire_codes_are_refused() {
        assert!(Bucket::from_wire(0, 1).is_none() && Bucket::from_wire(5, 1).is_none());
        assert!(Bucket::from_wire(4, 1).is_none());
        assert_eq!(Bucket::from_wire(4, 0), Some(Bucket::FOREVER));
    }
}
