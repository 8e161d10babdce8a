//! Values as people read them: control characters written out, times in UTC, lives in words.

use std::time::Duration;

pub(crate) use mintage_ca::logging::{printable, printable_json};
use mintage_identity::{UnixTime, parse_duration};
use time::{
    OffsetDateTime,
    format_description::{BorrowedFormatItem, well_known::Rfc3339},
    macros::format_description,
};

const TO_THE_SECOND: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
const TO_THE_MILLISECOND: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// [`printable`] for text of several lines, whose line ends stay.
pub(crate) fn printable_lines(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(printable).collect();
    lines.join("\n")
}

fn date(millis: i64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).ok()
}

/// A time to the second in UTC, for tables; `-` for none. A time no calendar holds is shown as its number.
pub(crate) fn utc(millis: i64) -> String {
    match millis {
        0 => "-".to_owned(),
        _ => date(millis)
            .and_then(|date| date.format(TO_THE_SECOND).ok())
            .unwrap_or_else(|| format!("{millis} ms")),
    }
}

/// A time to the millisecond in RFC 3339, for JSON; `None` for none.
pub(crate) fn rfc3339(millis: i64) -> Option<String> {
    if millis == 0 {
        return None;
    }
    let shown = date(millis).and_then(|date| date.format(TO_THE_MILLISECOND).ok());
    Some(shown.unwrap_or_else(|| format!("{millis} ms")))
}

/// Reads a moment: RFC 3339, a date, or a duration that lies so far back, such as `15m`.
///
/// # Errors
/// Says the three forms.
pub(crate) fn moment(text: &str, now: UnixTime) -> Result<UnixTime, String> {
    let from = |date: OffsetDateTime| {
        let millis = date.unix_timestamp_nanos() / 1_000_000;
        i64::try_from(millis).map(UnixTime::from_millis).ok()
    };
    if let Ok(date) = OffsetDateTime::parse(text, &Rfc3339) {
        return from(date).ok_or_else(|| format!("{text:?} is no time"));
    }
    if let Ok(date) = OffsetDateTime::parse(&format!("{text}T00:00:00Z"), &Rfc3339) {
        return from(date).ok_or_else(|| format!("{text:?} is no time"));
    }
    match parse_duration("time", text) {
        Ok(back) => Ok(now.minus(back)),
        Err(_) => Err(format!(
            "{text:?} is no time; write 2026-11-23T21:00:00Z, 2026-11-23 (UTC), or how long ago: 15m, 24h, 7d"
        )),
    }
}

/// A duration in whole units, such as `10m` or `1h30m`.
pub(crate) fn lasting(seconds: u64) -> String {
    let (days, hours, minutes, rest) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    let parts = [(days, 'd'), (hours, 'h'), (minutes, 'm'), (rest, 's')];
    let mut shown: String = parts
        .iter()
        .skip_while(|(count, _)| *count == 0)
        .filter(|(count, _)| *count > 0)
        .take(2)
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect();
    if shown.is_empty() {
        shown.push_str("0s");
    }
    shown
}

/// Milliseconds with one decimal.
pub(crate) fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}

/// `1 certificate`, `2 certificates`.
pub(crate) fn count(number: u64, one: &str, many: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        number => format!("{number} {many}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newlines_and_ansi_in_names_are_written_out() {
        assert_eq!(printable("web\n\u{1b}[2J"), "web\\n\\u{1b}[2J");
        assert_eq!(printable("a\u{9b}b\u{202e}c"), "a\\u{9b}b\\u{202e}c");
        assert_eq!(printable("plain ä"), "plain ä");
        assert_eq!(printable_lines("a\n\u{1b}b\n"), "a\n\\u{1b}b\n");
    }

    #[test]
    fn json_keeps_its_meaning_when_steering_characters_are_written_out() {
        let value = serde_json::json!({"a": "x\u{9b}\u{202e}\n\u{7f}y"});
        let shown = printable_json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(
            !shown.chars().any(|c| c != '\n' && mintage_ca::logging::steers(c)),
            "{shown}"
        );
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }

    #[test]
    fn times_are_utc_and_none_is_none() {
        assert_eq!(utc(1_795_467_600_500), "2026-11-23T21:00:00Z");
        assert_eq!(rfc3339(1_795_467_600_500).unwrap(), "2026-11-23T21:00:00.500Z");
        assert_eq!((utc(0).as_str(), rfc3339(0)), ("-", None));
        assert_eq!(utc(i64::MAX), format!("{} ms", i64::MAX));
    }

    #[test]
    fn moments_are_read_in_three_forms() {
        let now = UnixTime::from_millis(1_795_467_600_500);
        for (text, millis) in [
            ("2026-11-23T21:00:00.5Z", 1_795_467_600_500),
            ("2026-11-23T22:00:00+01:00", 1_795_467_600_000),
            ("2026-11-23", 1_795_392_000_000),
            ("15m", 1_795_467_600_500 - 900_000),
        ] {
            assert_eq!(moment(text, now).unwrap().millis(), millis, "{text}");
        }
        for bad in ["", "yesterday", "15", "2026-13-01", "-5m"] {
            assert!(moment(bad, now).is_err(), "{bad}");
        }
    }

    #[test]
    fn lives_have_two_units_at_most() {
        let shown: Vec<_> = [0, 59, 60, 90, 3_600, 5_400, 90_061].map(lasting).into();
        assert_eq!(shown, ["0s", "59s", "1m", "1m30s", "1h", "1h30m", "1d1h"]);
    }
}
