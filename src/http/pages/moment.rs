//! Points in time, as a person reads them.

use crate::domain::Timestamp;

/// A time with its distance from now.
pub(super) struct Moment {
    /// For programs.
    pub(super) iso: String,
    /// In full.
    pub(super) exact: String,
    /// Such as "3 hours ago".
    pub(super) ago: String,
}

/// The units, largest first, in seconds.
const UNITS: [(&str, u64); 6] = [
    ("year", 365 * 86_400),
    ("month", 30 * 86_400),
    ("day", 86_400),
    ("hour", 3600),
    ("minute", 60),
    ("second", 1),
];

impl Moment {
    pub(super) fn new(at: Timestamp, now: Timestamp) -> Self {
        let iso = at.to_iso();
        let (date, time) = iso.split_once('T').unwrap_or((&iso, ""));
        let time = time.split('.').next().unwrap_or_default();
        Self {
            exact: format!("{date} {time} UTC"),
            ago: ago(now.seconds_since(at) as u64),
            iso,
        }
    }
}

fn ago(seconds: u64) -> String {
    let unit = UNITS.iter().find(|(_, unit)| seconds >= *unit);
    match unit {
        Some((name, unit)) => match seconds / unit {
            1 => format!("1 {name} ago"),
            count => format!("{count} {name}s ago"),
        },
        None => "just now".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_is_in_the_largest_whole_unit() {
        for (seconds, text) in [
            (0, "just now"),
            (1, "1 second ago"),
            (59, "59 seconds ago"),
            (60, "1 minute ago"),
            (3599, "59 minutes ago"),
            (3 * 3600 + 5, "3 hours ago"),
            (86_400, "1 day ago"),
            (29 * 86_400, "29 days ago"),
            (400 * 86_400, "1 year ago"),
        ] {
            assert_eq!(ago(seconds), text);
        }
        let [at, now] =
            [1_748_454_394, 1_748_454_400].map(|at| Timestamp::from_unix_seconds(at).unwrap());
        let moment = Moment::new(at, now);
        assert_eq!(moment.iso, "2025-05-28T17:46:34.000Z");
        assert_eq!(moment.exact, "2025-05-28 17:46:34 UTC");
        // A clock that was set back.
        assert_eq!(Moment::new(now, at).ago, "just now");
    }
}
