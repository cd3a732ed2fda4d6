//! Points in time, as they are sent, shown and stored.

use std::{fmt, time::SystemTime};

use jiff::{civil::DateTime, tz::TimeZone};
use serde::{Deserialize, Deserializer, Serialize, de};

/// A point in time, in nanoseconds of the Unix epoch; between 1970 and 2262.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(#[serde(deserialize_with = "since_1970")] i64);

const NANOS: i64 = 1_000_000_000;

impl Timestamp {
    /// How far ahead of the clock a provider's time may be before it is not believed: 10 minutes.
    const TOLERANCE: i64 = 600 * NANOS;

    /// Before every time that a provider says.
    pub const BEFORE_ALL: Self = Self(0);

    /// A whole second of the Unix epoch, or `None` where it is not after 1970 or beyond 2262.
    ///
    /// Zero is no time: a sender that fills every key with an empty value sends it.
    pub fn from_unix_seconds(seconds: i64) -> Option<Self> {
        Self::from_nanos(i128::from(seconds) * i128::from(NANOS))
    }

    /// Reads Unix seconds, with or without a fraction; 10^11 and more are milliseconds.
    pub fn parse_unix(text: &str) -> Option<Self> {
        const MILLISECONDS_FROM: i64 = 100_000_000_000;
        if let Ok(whole) = text.parse::<i64>() {
            let unit = if whole >= MILLISECONDS_FROM {
                NANOS / 1000
            } else {
                NANOS
            };
            return Self::from_nanos(i128::from(whole) * i128::from(unit));
        }
        let number: f64 = text
            .parse()
            .ok()
            .filter(|number: &f64| number.is_finite())?;
        // To the microsecond, which a double of this size still tells apart.
        let unit = if number >= MILLISECONDS_FROM as f64 {
            1e3
        } else {
            1e6
        };
        Self::from_nanos(((number * unit).round() as i128).checked_mul(1000)?)
    }

    /// Reads ISO 8601, or `YYYY-MM-DD HH:MM:SS`; without an offset it is UTC.
    pub fn parse_iso(text: &str) -> Option<Self> {
        let instant = match text.parse::<jiff::Timestamp>() {
            Ok(instant) => instant,
            Err(_) => text
                .parse::<DateTime>()
                .ok()?
                .to_zoned(TimeZone::UTC)
                .ok()?
                .timestamp(),
        };
        Self::from_nanos(instant.as_nanosecond())
    }

    /// ISO 8601 in UTC, to the millisecond.
    pub fn to_iso(self) -> String {
        let instant = jiff::Timestamp::from_millisecond(self.0 / (NANOS / 1000));
        instant.map_or_else(|_| self.to_string(), |instant| format!("{instant:.3}"))
    }

    /// Milliseconds of the Unix epoch; `None` beyond 2262.
    pub fn from_unix_milliseconds(milliseconds: u64) -> Option<Self> {
        let milliseconds = i64::try_from(milliseconds).ok()?;
        milliseconds.checked_mul(NANOS / 1000).map(Self)
    }

    /// Whole milliseconds of the Unix epoch.
    pub fn as_unix_milliseconds(self) -> u64 {
        (self.0 / (NANOS / 1000)).unsigned_abs()
    }

    fn from_nanos(nanos: i128) -> Option<Self> {
        i64::try_from(nanos)
            .ok()
            .filter(|nanos| *nanos > 0)
            .map(Self)
    }

    /// Seconds of the Unix epoch, to the millisecond: the number that [`fmt::Display`] writes.
    pub fn as_seconds(self) -> f64 {
        (self.0 / (NANOS / 1000)) as f64 / 1000.0
    }

    /// Seconds from `earlier` to this, zero where `earlier` is later.
    pub fn seconds_since(self, earlier: Self) -> f64 {
        self.0.saturating_sub(earlier.0).max(0) as f64 / NANOS as f64
    }

    /// Whether this is too far ahead of `clock` to be believed.
    pub fn is_ahead_of(self, clock: Self) -> bool {
        self.0 > clock.0.saturating_add(Self::TOLERANCE)
    }
}

impl From<SystemTime> for Timestamp {
    /// Times outside of 1970 to 2262 become the nearer end.
    fn from(time: SystemTime) -> Self {
        match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => Self(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)),
            Err(_) => Self(0),
        }
    }
}

/// A damaged document may hold a time before 1970, which no page can show.
fn since_1970<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let nanos = i64::deserialize(deserializer)?;
    if nanos < 0 {
        return Err(de::Error::custom("a time before 1970"));
    }
    Ok(nanos)
}

/// Seconds with at most three decimals, as a sample value of the text format.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0 / (NANOS / 1000);
        write!(f, "{}", millis / 1000)?;
        match millis % 1000 {
            0 => Ok(()),
            rest if rest % 100 == 0 => write!(f, ".{}", rest / 100),
            rest if rest % 10 == 0 => write!(f, ".{:02}", rest / 10),
            rest => write!(f, ".{rest:03}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(time: Option<Timestamp>) -> String {
        time.map_or("none".into(), |time| time.to_string())
    }

    #[test]
    fn seconds_are_the_number_that_is_shown() {
        for text in [
            "1748455330002",
            "1748454394123",
            "1748454394.5",
            "1748454394",
            "1748454394.999999999",
        ] {
            let time = Timestamp::parse_unix(text).unwrap();
            assert_eq!(time.as_seconds().to_string(), time.to_string(), "{text}");
        }
    }

    #[test]
    fn unix_seconds_or_milliseconds() {
        for (text, want) in [
            ("1748454394", "1748454394"),
            ("1748454394123", "1748454394.123"),
            ("1748454394.5", "1748454394.5"),
            ("1736071200.25", "1736071200.25"),
            ("1736071200.001", "1736071200.001"),
            ("99999999999", "none"),
            ("100000000000", "100000000"),
            ("0", "none"),
            ("-5", "none"),
            ("", "none"),
            ("NaN", "none"),
            ("inf", "none"),
            ("9223372036854775807", "none"),
            ("1e400", "none"),
            ("1e300", "none"),
        ] {
            assert_eq!(shown(Timestamp::parse_unix(text)), want, "{text}");
        }
    }

    #[test]
    fn iso_with_and_without_an_offset() {
        for (text, want) in [
            ("2025-01-01T00:00:00.00Z", "1735689600"),
            ("2023-10-16T13:04:57.644Z", "1697461497.644"),
            ("2023-02-22 12:00:00", "1677067200"),
            ("2023-02-22T12:00:00", "1677067200"),
            ("2023-02-22T13:00:00+01:00", "1677067200"),
            ("2023-02-22T12:00:00+0000", "1677067200"),
            ("2023-02-22T13:00:00+0100", "1677067200"),
            ("2023-02-22T12:00:00.010Z", "1677067200.01"),
            ("2023-02-22T12:00:00.000Z", "1677067200"),
            ("1677067200", "none"),
            ("yesterday", "none"),
            ("", "none"),
            ("9999-01-01T00:00:00Z", "none"),
        ] {
            assert_eq!(shown(Timestamp::parse_iso(text)), want, "{text}");
        }
    }

    #[test]
    fn stored_time_before_1970_is_refused() {
        let read = |text: &str| serde_json::from_str::<Timestamp>(text).ok();
        for text in ["0", "1748454394000000000", "9223372036854775807"] {
            let time = read(text).unwrap();
            assert_eq!(serde_json::to_string(&time).unwrap(), text);
        }
        for text in ["-1", "-1748454394000000000", "9223372036854775808"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn ten_minutes_ahead_is_believed_and_no_more() {
        let clock = Timestamp::from_unix_seconds(1_000_000).unwrap();
        assert!(
            !Timestamp::from_unix_seconds(1_000_600)
                .unwrap()
                .is_ahead_of(clock)
        );
        assert!(
            Timestamp::from_unix_seconds(1_000_601)
                .unwrap()
                .is_ahead_of(clock)
        );
    }
}
