//! Messaging limits, as they are sent, shown and stored.

use std::{cmp::Ordering, fmt};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Unique customers that may be written to first in a rolling 24 hours.
///
/// Zero means *not set yet*, infinity *unlimited*. Never negative, never NaN.
#[derive(Clone, Copy, PartialEq)]
pub struct MessagingLimit(f64);

/// Below it a double is the whole number it stands for.
const EXACT: f64 = (1_u64 << 53) as f64;

/// Which way a limit went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The limit rose.
    Up,
    /// The limit fell.
    Down,
}

impl MessagingLimit {
    /// No limit has been set for the number yet.
    pub const NOT_SET: Self = Self(0.0);
    /// No limit applies.
    pub const UNLIMITED: Self = Self(f64::INFINITY);

    /// Reads a limit sent as a string: `TIER_10K`, `LIMIT_250`, `100000`, `Unlimited`,
    /// `TIER_NOT_SET`.
    ///
    /// `None` where the string is not a limit. The tiers are read by rule, not by list, so that a
    /// tier Meta adds tomorrow is understood.
    pub fn parse(text: &str) -> Option<Self> {
        let is = |names: &[&str]| names.iter().any(|name| name.eq_ignore_ascii_case(text));
        if is(&["-1", "UNLIMITED", "TIER_UNLIMITED", "LIMIT_UNLIMITED"]) {
            return Some(Self::UNLIMITED);
        }
        if is(&["TIER_NOT_SET", "NOT_SET", "UNTIERED", "LIMIT_NA"]) {
            return Some(Self::NOT_SET);
        }
        let digits = strip_prefix(text, "TIER_")
            .or_else(|| strip_prefix(text, "LIMIT_"))
            .unwrap_or(text);
        let (digits, factor) = match digits.as_bytes().last()? {
            b'K' | b'k' => (digits.get(..digits.len() - 1)?, 1e3),
            b'M' | b'm' => (digits.get(..digits.len() - 1)?, 1e6),
            _ => (digits, 1.0),
        };
        if !(1..=15).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        Some(Self(digits.parse::<f64>().ok()? * factor))
    }

    /// Reads a limit sent as a JSON number: whole and not negative, or −1 for unlimited.
    pub fn from_number(number: f64) -> Option<Self> {
        if number == -1.0 {
            return Some(Self::UNLIMITED);
        }
        (number.is_finite() && number >= 0.0 && number.fract() == 0.0).then_some(Self(number.abs()))
    }

    /// The limit as a tier is named, without its `TIER_`: `10K`, `250`, `UNLIMITED`, `NOT_SET`.
    pub fn tier(self) -> String {
        let in_units =
            |unit: f64| (self.0 >= unit && self.0 % unit == 0.0).then_some(self.0 / unit);
        match self {
            Self::UNLIMITED => "UNLIMITED".into(),
            Self::NOT_SET => "NOT_SET".into(),
            _ => match (in_units(1e6), in_units(1e3)) {
                (Some(millions), _) => format!("{millions}M"),
                (None, Some(thousands)) => format!("{thousands}K"),
                (None, None) => self.to_string(),
            },
        }
    }

    /// The value as Prometheus takes it.
    pub const fn as_f64(self) -> f64 {
        self.0
    }

    /// Whether this says anything about what may be sent: everything but *not set*.
    pub fn is_set(self) -> bool {
        self != Self::NOT_SET
    }

    /// The direction from `before` to this limit, or `None` where they are equal.
    pub fn direction_from(self, before: Self) -> Option<Direction> {
        match self.0.total_cmp(&before.0) {
            Ordering::Less => Some(Direction::Down),
            Ordering::Equal => None,
            Ordering::Greater => Some(Direction::Up),
        }
    }
}

fn strip_prefix<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let head = text.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix)
        .then(|| text.get(prefix.len()..))?
}

/// As a sample value of the text format: digits, or `+Inf`.
impl fmt::Display for MessagingLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_infinite() {
            f.write_str("+Inf")
        } else if self.0 < EXACT {
            fmt::Display::fmt(&(self.0 as u64), f)
        } else {
            fmt::Display::fmt(&self.0, f)
        }
    }
}

impl fmt::Debug for MessagingLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A JSON number; unlimited is the string `"+Inf"`, for JSON has no infinity.
impl Serialize for MessagingLimit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_infinite() {
            serializer.serialize_str("+Inf")
        } else if self.0 < EXACT {
            serializer.serialize_u64(self.0 as u64)
        } else {
            serializer.serialize_f64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for MessagingLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = MessagingLimit;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number of customers or \"+Inf\"")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
                Ok(MessagingLimit(number as f64))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Self::Value, E> {
                MessagingLimit::from_number(number)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Float(number), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                match text {
                    "+Inf" => Ok(MessagingLimit::UNLIMITED),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers_are_read_by_rule() {
        for (text, want) in [
            ("TIER_50", 50.0),
            ("TIER_250", 250.0),
            ("tier_1k", 1e3),
            ("LIMIT_10K", 1e4),
            ("10K", 1e4),
            ("100000", 1e5),
            ("TIER_1M", 1e6),
            ("999999999999999M", 999_999_999_999_999e6),
            ("TIER_0", 0.0),
            ("0", 0.0),
            ("TIER_NOT_SET", 0.0),
            ("not_set", 0.0),
            ("UNTIERED", 0.0),
            ("LIMIT_NA", 0.0),
            ("-1", f64::INFINITY),
            ("Unlimited", f64::INFINITY),
            ("TIER_UNLIMITED", f64::INFINITY),
            ("limit_unlimited", f64::INFINITY),
        ] {
            assert_eq!(
                MessagingLimit::parse(text).map(MessagingLimit::as_f64),
                Some(want),
                "{text}"
            );
        }
    }

    #[test]
    fn text_that_is_not_a_limit_is_refused() {
        for text in [
            "",
            " ",
            "K",
            "TIER_",
            "TIER_K",
            "TIER_TIER_1K",
            "LIMIT_TIER_1",
            "NaN",
            "inf",
            "+Inf",
            "1e3",
            "1.5",
            "+5",
            "-2",
            "10KK",
            "10G",
            " 10K",
            "1000000000000000",
            "TIER_X",
            "٣",
            "TIER_10K\0",
            "Ä",
        ] {
            assert_eq!(MessagingLimit::parse(text), None, "{text:?}");
        }
        for number in [-2.0, 0.5, f64::NAN, f64::INFINITY] {
            assert_eq!(MessagingLimit::from_number(number), None, "{number}");
        }
        assert_eq!(
            MessagingLimit::from_number(-0.0)
                .map(|l| l.to_string())
                .as_deref(),
            Some("0")
        );
    }

    #[test]
    fn tier_is_read_as_the_limit_it_names() {
        for (text, tier) in [
            ("250", "250"),
            ("TIER_1K", "1K"),
            ("2000", "2K"),
            ("1500", "1500"),
            ("100000", "100K"),
            ("TIER_1M", "1M"),
            ("unlimited", "UNLIMITED"),
            ("0", "NOT_SET"),
        ] {
            let limit = MessagingLimit::parse(text).unwrap();
            assert_eq!(limit.tier(), tier);
            let named = MessagingLimit::parse(&format!("TIER_{tier}"));
            assert_eq!(named, Some(limit));
        }
    }

    #[test]
    fn json_keeps_every_value() {
        for text in ["0", "2000", "999999999999999M", "-1"] {
            let limit = MessagingLimit::parse(text).unwrap();
            let json = serde_json::to_string(&limit).unwrap();
            assert_eq!(
                serde_json::from_str::<MessagingLimit>(&json).unwrap(),
                limit,
                "{json}"
            );
        }
        assert_eq!(
            serde_json::to_string(&MessagingLimit::UNLIMITED).unwrap(),
            "\"+Inf\""
        );
        for bad in ["null", "-3", "\"NaN\"", "0.5"] {
            assert!(
                serde_json::from_str::<MessagingLimit>(bad).is_err(),
                "{bad}"
            );
        }
    }
}
