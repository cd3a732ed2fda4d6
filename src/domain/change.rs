use std::fmt;

use aws_lc_rs::digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{AccountKey, EventKind, MessagingLimit, PhoneNumber, Timestamp};

/// What one change of a webhook says.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The account it names.
    pub account: AccountKey,
    /// What it speaks of.
    pub subject: Subject,
    /// The limit it carries, where it carries a usable one.
    pub limit: Option<Said>,
    /// When the provider says it happened; `None` where it says nothing readable.
    pub time: Option<Timestamp>,
    /// What tells this delivery from another; `None` where it has neither an id nor a time.
    pub identity: Option<Identity>,
    /// Limit fields that held something which is not a limit.
    pub unusable_limits: u32,
}

/// Whom a change speaks of.
#[derive(Clone, Debug, PartialEq)]
pub enum Subject {
    /// A phone number (Meta's `phone_number_quality_update` and its kin).
    PhoneNumber {
        /// The number.
        phone_number: PhoneNumber,
        /// What happened to it.
        event: EventKind,
        /// The limit before, as the provider knows it.
        old_limit: Option<MessagingLimit>,
    },
    /// An account (Meta's `business_capability_update`).
    Account(MaxPhoneNumbers),
}

/// A limit and whose it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Said {
    /// The limit of the phone number alone.
    OfNumber(MessagingLimit),
    /// The limit of the portfolio, which all numbers of the account share.
    OfAccount(MessagingLimit),
}

/// How many phone numbers there may be. Meta sends one scope or the other, never both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaxPhoneNumbers {
    /// In the whole business portfolio.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub business: Option<u64>,
    /// In the WhatsApp Business Account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waba: Option<u64>,
}

impl Change {
    /// When it happened: the provider's time, or `received` where there is none to believe.
    pub fn happened(&self, received: Timestamp) -> Timestamp {
        self.time.filter(|time| !time.is_ahead_of(received)).unwrap_or(received)
    }
}

impl Said {
    /// The limit, whosever it is.
    pub fn limit(self) -> MessagingLimit {
        match self {
            Self::OfNumber(limit) | Self::OfAccount(limit) => limit,
        }
    }
}

/// A short hash of what a delivery said: the first 8 bytes of a SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity(u64);

impl Identity {
    /// Hashes the parts so that no two lists of parts run together.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut short = [0; 8];
        short.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
        Self(u64::from_be_bytes(short))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Sixteen hexadecimal digits: JSON readers lose the low bits of large numbers.
impl Serialize for Identity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{self:?}"))
    }
}

impl<'de> Deserialize<'de> for Identity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Identity;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("hexadecimal digits")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                u64::from_str_radix(text, 16).map(Identity).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_together() {
        let identity = |parts: &[&str]| Identity::of(parts.iter().map(|part| part.as_bytes()));
        assert_ne!(identity(&["12", "345"]), identity(&["123", "45"]));
        assert_ne!(identity(&["a"]), identity(&["a", ""]));
        assert_eq!(identity(&["a", "b"]), identity(&["a", "b"]));
    }

    #[test]
    fn an_identity_survives_json() {
        let identity = Identity::of([b"x".as_slice()]);
        let json = serde_json::to_string(&identity).unwrap();
        assert_eq!(serde_json::from_str::<Identity>(&json).unwrap(), identity);
    }
}
