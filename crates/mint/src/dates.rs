//! The dates of a leaf: backdated, above a revocation cut, inside the issuer's life, never reversed, never overflowing.

use mintage_identity::{Ttl, UnixTime};
use time::OffsetDateTime;

use crate::{
    Issuer, MintError,
    limits::{BACKDATE, ISSUER_MARGIN, LAST_SECOND, LIFE_MIN},
};

/// First and last second of a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeafDates {
    pub(crate) not_before: UnixTime,
    pub(crate) not_after: UnixTime,
}

/// The window of time in which an issuer's certificates lie.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IssuerLife {
    pub(crate) not_before: UnixTime,
    pub(crate) not_after: UnixTime,
}

impl From<&Issuer> for IssuerLife {
    fn from(issuer: &Issuer) -> Self {
        Self {
            not_before: issuer.signs_from(),
            not_after: issuer.not_after(),
        }
    }
}

impl LeafDates {
    /// Dates for a lifetime that starts now, or above `floor` when that is later: a revocation rule kills everything
    /// whose notBefore is not above it. The backdating does not count as lifetime.
    pub(crate) fn new(now: UnixTime, ttl: Ttl, floor: Option<UnixTime>, issuer: IssuerLife) -> Result<Self, MintError> {
        let outside = !(0..=LAST_SECOND).contains(&now.seconds()) || now < issuer.not_before;
        if outside {
            return Err(MintError::Clock { now });
        }
        let now = now.floor_to_second();
        let above_floor = floor.map(|floor| floor.floor_to_second().plus(std::time::Duration::from_secs(1)));
        let not_before = now
            .minus(BACKDATE)
            .max(issuer.not_before)
            .max(above_floor.unwrap_or(issuer.not_before));
        let usable_from = now.max(not_before);
        let last = issuer
            .not_after
            .min(UnixTime::from_seconds(LAST_SECOND))
            .minus(ISSUER_MARGIN)
            .floor_to_second();
        let not_after = usable_from.plus(ttl.duration()).min(last);
        if not_after < usable_from.plus(LIFE_MIN) {
            return Err(MintError::IssuerExpiring {
                not_after: issuer.not_after,
            });
        }
        Ok(Self { not_before, not_after })
    }
}

/// The date as rcgen takes it, with the precision of a second.
pub(crate) fn instant(time: UnixTime) -> Result<OffsetDateTime, MintError> {
    if !(0..=LAST_SECOND).contains(&time.seconds()) {
        return Err(MintError::Clock { now: time });
    }
    OffsetDateTime::from_unix_timestamp(time.seconds()).map_err(|_| MintError::Clock { now: time })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> UnixTime {
        UnixTime::from_seconds(seconds)
    }

    fn life(not_before: i64, not_after: i64) -> IssuerLife {
        IssuerLife {
            not_before: at(not_before),
            not_after: at(not_after),
        }
    }

    #[test]
    fn backdating_is_thirty_seconds_and_no_lifetime() {
        let dates = LeafDates::new(
            UnixTime::from_millis(1_000_999),
            Ttl::DEFAULT,
            None,
            life(0, 10_000_000),
        )
        .unwrap();
        assert_eq!(
            dates,
            LeafDates {
                not_before: at(970),
                not_after: at(1600)
            }
        );
    }

    #[test]
    fn a_revocation_cut_raises_not_before_and_keeps_the_lifetime() {
        for cut_millis in [1_000_000, 1_000_999, 1_000_500] {
            let cut = UnixTime::from_millis(cut_millis);
            let ttl = Ttl::from_seconds(60).unwrap();
            let dates = LeafDates::new(at(1000), ttl, Some(cut), life(0, 10_000_000)).unwrap();
            assert!(dates.not_before > cut);
            assert_eq!(
                dates,
                LeafDates {
                    not_before: at(1001),
                    not_after: at(1061)
                }
            );
        }
        let old_cut = LeafDates::new(at(1000), Ttl::DEFAULT, Some(at(10)), life(0, 10_000_000)).unwrap();
        assert_eq!(old_cut.not_before, at(970));
    }

    #[test]
    fn the_issuer_is_never_outlived_and_an_expiring_one_refuses() {
        let dates = LeafDates::new(at(1000), Ttl::DEFAULT, None, life(0, 1120)).unwrap();
        assert_eq!(dates.not_after, at(1060));
        for end in [1119, 1030, 1000, 500] {
            let refused = LeafDates::new(at(1000), Ttl::DEFAULT, None, life(0, end));
            assert!(matches!(refused, Err(MintError::IssuerExpiring { .. })), "{end}");
        }
    }

    #[test]
    fn a_clock_outside_the_issuers_life_or_x509_is_refused() {
        for now in [i64::MIN, -1, 99, LAST_SECOND + 1, i64::MAX / 1000] {
            let refused = LeafDates::new(at(now), Ttl::DEFAULT, None, life(100, LAST_SECOND));
            assert!(matches!(refused, Err(MintError::Clock { .. })), "{now}");
        }
        let fresh = LeafDates::new(at(100), Ttl::DEFAULT, None, life(90, LAST_SECOND)).unwrap();
        assert_eq!(fresh.not_before, at(90), "never before the issuer itself");
    }

    proptest! {
        #[test]
        fn dates_are_ordered_and_inside_the_issuer_whatever_the_clock(
            now in any::<i64>(), ttl in 60i64..=86_400, floor in proptest::option::of(any::<i64>()),
            begin in any::<i64>(), end in any::<i64>(), near in any::<bool>(),
        ) {
            let (now, end) = if near { (now.rem_euclid(300_000_000_000_000), end.rem_euclid(300_000_000_000_000)) } else { (now, end) };
            let (now, ttl) = (UnixTime::from_millis(now), Ttl::from_seconds(ttl).unwrap());
            let issuer = IssuerLife {
                not_before: UnixTime::from_millis(begin).floor_to_second(),
                not_after: UnixTime::from_millis(end).floor_to_second(),
            };
            let floor = floor.map(UnixTime::from_millis);
            if let Ok(dates) = LeafDates::new(now, ttl, floor, issuer) {
                prop_assert!(dates.not_before < dates.not_after);
                prop_assert!(dates.not_before >= issuer.not_before);
                prop_assert!(dates.not_after <= issuer.not_after.minus(ISSUER_MARGIN));
                prop_assert!(dates.not_after.seconds() <= LAST_SECOND);
                prop_assert!(floor.is_none_or(|floor| dates.not_before > floor));
                let usable = dates.not_after.since(now.floor_to_second().max(dates.not_before));
                prop_assert!(usable >= LIFE_MIN && usable <= ttl.duration());
                prop_assert!(instant(dates.not_after).is_ok());
            }
        }
    }
}
