//! What time it is, and durations as text. State time, which commands carry and `apply` goes by, is the core's.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use holdfast_core::id::Millis;
use time::OffsetDateTime;
use time::macros::format_description;

/// Milliseconds since 1970, as a node's clock has them.
pub type Clock = Arc<dyn Fn() -> Millis + Send + Sync>;

/// The machine's clock.
#[must_use]
pub fn system_clock() -> Clock {
    Arc::new(now_ms)
}

/// The wall clock, milliseconds since 1970.
#[must_use]
pub fn now_ms() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A moment of state time.
#[must_use]
pub fn moment(ms: Millis) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// A moment as ISO 8601, in UTC with milliseconds.
#[must_use]
pub fn iso_8601(ms: Millis) -> String {
    let form = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    moment(ms).format(form).expect("a moment has all parts of a date")
}

const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Milliseconds of a number with a unit: `ms`, `s`, `m`, `h` or `d`.
#[must_use]
pub fn parse_duration(text: &str) -> Option<u64> {
    let digits = text.find(|character: char| !character.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// Milliseconds of a duration as [`parse_duration`] reads it; a number alone is seconds.
#[must_use]
pub fn seconds_or_duration(text: &str) -> Option<Millis> {
    let seconds = text.parse::<u64>().ok().and_then(|seconds| seconds.checked_mul(1000));
    seconds.or_else(|| parse_duration(text))
}

/// A duration in the largest unit that loses nothing.
#[must_use]
pub fn duration_text(duration: Duration) -> String {
    let ms = duration.as_millis() as u64;
    let (unit, factor) = UNITS.iter().rev().find(|(_, factor)| ms.is_multiple_of(*factor)).unwrap_or(&UNITS[0]);
    format!("{}{unit}", ms / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_have_milliseconds() {
        assert_eq!(iso_8601(1_445_412_480_678), "2015-10-21T07:28:00.678Z");
        assert_eq!(iso_8601(0), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn durations_come_and_go() {
        for (text, ms) in [("10m", 600_000), ("90s", 90_000), ("1d", 86_400_000), ("1500ms", 1500)] {
            assert_eq!(parse_duration(text), Some(ms));
            assert_eq!(duration_text(Duration::from_millis(ms)), text);
        }
        for bad in ["10", "m", "1w", "-1s", "1.5h", "99999999999999999999d", "18446744073709551615d"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }
}
