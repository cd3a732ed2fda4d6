//! Lenient reading of what providers send: any key, in any order, of any type, repeated or not.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess},
};
use serde_json::value::RawValue;

use super::{InvalidChange, ParseError};
use crate::domain::{
    AccountKey, Change, EventKind, Identity, MaxPhoneNumbers, MessagingLimit, PhoneNumber, Said, Subject, Timestamp,
    WabaId,
};

/// A JSON object, its values not read yet.
pub(super) struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// One value, as far as an id, a name, a number or a time can be one.
#[derive(Debug, PartialEq)]
pub(super) enum Scalar<'a> {
    /// Not there, or null.
    Absent,
    Text(Cow<'a, str>),
    /// A JSON number, in the digits that were sent: ids do not fit a double.
    Number(&'a str),
    /// true, false, a list, an object, or a string with half a surrogate pair.
    Other(&'a str),
}

impl<'a> Fields<'a> {
    /// Reads a body.
    pub(super) fn of_body(body: &'a [u8]) -> Result<Self, ParseError> {
        let text = str::from_utf8(body).map_err(|_| ParseError::NotJson)?;
        let value: &RawValue = serde_json::from_str(text).map_err(|_| ParseError::NotJson)?;
        Self::of(value).map_err(|_| ParseError::NotAnObject)
    }

    /// Reads a value that should be an object.
    pub(super) fn of(value: &'a RawValue) -> Result<Self, InvalidChange> {
        serde_json::from_str(value.get()).map_err(|_| InvalidChange::Shape)
    }

    fn raw(&self, name: &str) -> Option<&'a RawValue> {
        self.find(|key| key == name)
    }

    /// Of a repeated key, the last: so does nearly every JSON reader.
    fn find(&self, wanted: impl Fn(&str) -> bool) -> Option<&'a RawValue> {
        self.0.iter().rev().find(|(key, _)| wanted(key)).map(|(_, value)| *value)
    }

    pub(super) fn scalar(&self, name: &str) -> Scalar<'a> {
        self.raw(name).map_or(Scalar::Absent, Scalar::of)
    }

    /// A field where the case of names does not matter; `None` where it is not there at all.
    pub(super) fn scalar_without_case(&self, name: &str) -> Option<Scalar<'a>> {
        self.find(|key| key.eq_ignore_ascii_case(name)).map(Scalar::of)
    }

    pub(super) fn object(&self, name: &str) -> Result<Fields<'a>, InvalidChange> {
        Self::of(self.raw(name).ok_or(InvalidChange::Shape)?)
    }

    /// A list; one that is absent or null is empty.
    pub(super) fn list(&self, name: &str) -> Result<Vec<&'a RawValue>, InvalidChange> {
        match self.raw(name) {
            None => Ok(Vec::new()),
            Some(value) if value.get() == "null" => Ok(Vec::new()),
            Some(value) => serde_json::from_str(value.get()).map_err(|_| InvalidChange::Shape),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::with_capacity(8);
                while let Some((Key(key), value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
                    fields.push((key, value));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

impl<'a> Scalar<'a> {
    fn of(value: &'a RawValue) -> Self {
        #[derive(Deserialize)]
        struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

        let raw = value.get();
        match raw.as_bytes().first() {
            Some(b'n') => Self::Absent,
            Some(b'"') => match serde_json::from_str(raw) {
                Ok(Text(text)) => Self::Text(text),
                Err(_) => Self::Other(raw),
            },
            Some(b'-' | b'0'..=b'9') => Self::Number(raw),
            _ => Self::Other(raw),
        }
    }

    /// What stands there, as text; empty where nothing does.
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Absent => "",
            Self::Text(text) => text,
            Self::Number(text) | Self::Other(text) => text,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.as_str().is_empty()
    }

    /// An id or a phone number: text or digits; empty where nothing is there.
    fn id(&self) -> Result<&str, InvalidChange> {
        match self {
            Self::Other(_) => Err(InvalidChange::Shape),
            _ => Ok(self.as_str()),
        }
    }

    fn time(&self) -> Option<Timestamp> {
        let text = self.as_str();
        Timestamp::parse_unix(text).or_else(|| Timestamp::parse_iso(text))
    }

    /// A limit, nothing, or something that is neither.
    fn limit(&self) -> Result<Option<MessagingLimit>, ()> {
        match self {
            Self::Absent => Ok(None),
            Self::Text(text) if text.is_empty() => Ok(None),
            Self::Text(text) => MessagingLimit::parse(text).map(Some).ok_or(()),
            Self::Number(digits) => digits.parse().ok().and_then(MessagingLimit::from_number).map(Some).ok_or(()),
            Self::Other(_) => Err(()),
        }
    }

    fn count(&self) -> Option<u64> {
        self.as_str().parse().ok()
    }
}

/// The fields of a change, under whatever names the provider has for them.
pub(super) struct Facts<'a> {
    /// [`super::Provider::name`].
    pub(super) provider: &'static str,
    pub(super) waba_id: Scalar<'a>,
    /// The provider's id of the delivery; absent where it has none.
    pub(super) delivery_id: Scalar<'a>,
    pub(super) time: Scalar<'a>,
    /// `max_daily_conversations_per_business`, of the portfolio.
    pub(super) portfolio_limit: Scalar<'a>,
    pub(super) current_limit: Scalar<'a>,
}

impl Facts<'_> {
    /// A change of a phone number.
    pub(super) fn quality(
        &self,
        phone_number: &Scalar<'_>,
        event: &Scalar<'_>,
        old_limit: &Scalar<'_>,
    ) -> Result<Change, InvalidChange> {
        let waba_id = WabaId::parse(self.waba_id.id()?)?;
        let number = PhoneNumber::parse(phone_number.id()?)?;
        let kind = match event {
            Scalar::Text(name) => EventKind::parse(name),
            _ => EventKind::Unknown,
        };
        let limits = Limits::read([&self.portfolio_limit, &self.current_limit]);
        let old = Limits::read([old_limit]);
        // THROUGHPUT_UPGRADE names the throughput level of this number, not the portfolio's limit;
        // "not set" and a limit without an account speak of the number, too.
        let of_account = limits.from_first && kind != EventKind::ThroughputUpgrade && !waba_id.is_empty();
        Ok(Change {
            identity: self.identity([phone_number, event, old_limit]),
            account: AccountKey { provider: self.provider, waba_id },
            subject: Subject::PhoneNumber { phone_number: number, event: kind, old_limit: old.limit },
            limit: limits.limit.map(|limit| match limit.is_set() && of_account {
                true => Said::OfAccount(limit),
                false => Said::OfNumber(limit),
            }),
            time: self.time.time(),
            unusable_limits: limits.unusable + old.unusable,
        })
    }

    /// A change of an account. `per_phone_limit` is the field that Meta has retired.
    pub(super) fn capability(
        &self,
        per_phone_limit: &Scalar<'_>,
        max_per_business: &Scalar<'_>,
        max_per_waba: &Scalar<'_>,
    ) -> Result<Change, InvalidChange> {
        let waba_id = WabaId::parse(self.waba_id.id()?)?;
        if waba_id.is_empty() {
            return Err(crate::domain::InvalidKey::AccountEmpty.into());
        }
        let limits = Limits::read([&self.portfolio_limit, &self.current_limit, per_phone_limit]);
        Ok(Change {
            identity: self.identity([per_phone_limit, max_per_business, max_per_waba]),
            account: AccountKey { provider: self.provider, waba_id },
            subject: Subject::Account(MaxPhoneNumbers {
                business: max_per_business.count(),
                waba: max_per_waba.count(),
            }),
            // "Not set" never speaks of anyone but a number.
            limit: limits.limit.filter(|limit| limit.is_set()).map(Said::OfAccount),
            time: self.time.time(),
            unusable_limits: limits.unusable,
        })
    }

    /// The delivery's identity, of all fields as sent; none without an id and a time.
    fn identity(&self, own: [&Scalar<'_>; 3]) -> Option<Identity> {
        if self.delivery_id.is_empty() && (self.time.is_empty() || self.time.as_str() == "0") {
            return None;
        }
        let common = [&self.waba_id, &self.delivery_id, &self.time, &self.portfolio_limit, &self.current_limit];
        Some(Identity::of(common.into_iter().chain(own).map(|field| field.as_str().as_bytes())))
    }
}

/// What a row of limit fields comes to.
struct Limits {
    limit: Option<MessagingLimit>,
    /// Whether it stood in the first field.
    from_first: bool,
    unusable: u32,
}

impl Limits {
    /// The first limit wins, but "not set" yields to a positive one in a later field.
    fn read<const N: usize>(fields: [&Scalar<'_>; N]) -> Self {
        let mut read = Self { limit: None, from_first: false, unusable: 0 };
        for (index, field) in fields.into_iter().enumerate() {
            match field.limit() {
                Ok(Some(limit)) if read.limit.is_none_or(|earlier| !earlier.is_set() && limit.is_set()) => {
                    read.limit = Some(limit);
                    read.from_first = index == 0;
                }
                Ok(_) => {}
                Err(()) => read.unusable += 1,
            }
        }
        read
    }
}
