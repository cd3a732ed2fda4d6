//! Lenient reading of the JSON that providers send: any key, in any order, of any type, repeated or
//! not, in one pass.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{InvalidChange, ParseError};
use crate::domain::{MessagingLimit, Timestamp};

/// A JSON object that is read field by field.
pub(super) trait Object<'a>: Default {
    /// Takes the value of `key` from `values`: the last of a repeated key counts, as for nearly
    /// every JSON reader.
    fn take<A: MapAccess<'a>>(
        &mut self,
        key: Cow<'a, [u8]>,
        values: &mut A,
    ) -> Result<(), A::Error>;
}

/// Reads the fields of these names, and passes over all others.
macro_rules! object {
    ($object:ident { $($field:ident),* }) => {
        impl<'a> $crate::providers::json::Object<'a> for $object<'a> {
            fn take<A: serde::de::MapAccess<'a>>(
                &mut self,
                key: std::borrow::Cow<'a, [u8]>,
                values: &mut A,
            ) -> Result<(), A::Error> {
                match &*key {
                    $(name if name == stringify!($field).as_bytes() => {
                        self.$field = values.next_value()?;
                    })*
                    _ => $crate::providers::json::pass_over(values)?,
                }
                Ok(())
            }
        }
    };
}

pub(super) use object;

/// A JSON value that should be an object.
#[derive(Default)]
pub(super) enum Node<T> {
    /// Not there, or null.
    #[default]
    Absent,
    Object(T),
    Other,
}

/// A JSON list of objects; empty where it is not there, or null. What is not kept is counted, so
/// that a list of millions of zeros or of empty objects takes no memory.
pub(super) struct List<T> {
    pub(super) kept: Vec<T>,
    /// Parts that mean nothing to this program.
    pub(super) ignored: u64,
    /// Values in the place of an object, or of the list.
    pub(super) invalid: u64,
}

/// An object of a [`List`].
pub(super) trait Item<'a>: Object<'a> {
    /// Appends itself to `kept`, or increments `ignored` or `invalid`.
    fn put_into(self, list: &mut List<Self>);
}

/// A JSON object, its values not read yet.
#[derive(Default)]
pub(super) struct Fields<'a>(Vec<(Cow<'a, [u8]>, &'a RawValue)>);

/// One value, as far as an id, a name, a number or a time can be one.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Scalar<'a> {
    /// Not there, or null.
    #[default]
    Absent,
    Text(Cow<'a, str>),
    /// A JSON number, in the digits that were sent: ids do not fit a double.
    Number(&'a str),
    /// true, false, a list, an object, or a string with half a surrogate pair.
    Other(&'a str),
}

/// Reads a body that should be an object, after a byte order mark or not.
pub(super) fn read_body<'a, T: Object<'a>>(body: &'a [u8]) -> Result<T, ParseError> {
    let text = str::from_utf8(body).map_err(|_| ParseError::NotJson)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // A long list is not read to its end only to be refused then.
    if text.trim_ascii_start().starts_with('[') {
        return Err(ParseError::NotAnObject);
    }
    match serde_json::from_str(text).map_err(|_| ParseError::NotJson)? {
        Node::Object(object) => Ok(object),
        _ => Err(ParseError::NotAnObject),
    }
}

/// Reads a body that should be an object, its values not read yet.
pub(super) fn read_fields(body: &[u8]) -> Result<Fields<'_>, ParseError> {
    read_body(body)
}

/// An empty text, as JSON.
const EMPTY: &str = r#""""#;

impl<'a> Fields<'a> {
    /// No provider sends an object with nearly as many fields; those beyond are not kept.
    const MAX: usize = 1024;

    /// Of a repeated key, the last.
    fn find(&self, wanted: impl Fn(&[u8]) -> bool) -> Option<&'a RawValue> {
        self.0
            .iter()
            .rev()
            .find(|(key, _)| wanted(key))
            .map(|(_, value)| *value)
    }

    fn raw(&self, name: &str) -> Option<&'a RawValue> {
        self.find(|key| key == name.as_bytes())
    }

    pub(super) fn scalar(&self, name: &str) -> Scalar<'a> {
        self.raw(name).map_or(Scalar::Absent, Scalar::of)
    }

    /// A field where the case of names does not matter; `None` where it is not there at all.
    pub(super) fn scalar_without_case(&self, name: &str) -> Option<Scalar<'a>> {
        self.find(|key| key.eq_ignore_ascii_case(name.as_bytes()))
            .map(Scalar::of)
    }

    /// An object within this one, read at once.
    pub(super) fn node<T: Object<'a>>(&self, name: &str) -> Node<T> {
        let raw = self.raw(name).map(RawValue::get);
        raw.map_or(Node::Absent, |raw| {
            serde_json::from_str(raw).unwrap_or(Node::Other)
        })
    }

    /// The objects of a list within this one, or one that stands in its place; `None` where it is not
    /// there, null, or an empty text. Those beyond the first 64 are not kept.
    pub(super) fn objects(&self, name: &str) -> Result<Option<Vec<Self>>, InvalidChange> {
        match self.raw(name).map(RawValue::get) {
            None | Some("null" | EMPTY) => Ok(None),
            Some(raw) if raw.starts_with('{') => Ok(Some(vec![self.object(name)?])),
            Some(raw) => match serde_json::from_str::<List<Self>>(raw) {
                Ok(list) if list.invalid == 0 => Ok(Some(list.kept)),
                _ => Err(InvalidChange::Shape),
            },
        }
    }

    /// An object within this one; without any fields where it is not there, null, or an empty text,
    /// with which some providers fill what they leave out.
    pub(super) fn object(&self, name: &str) -> Result<Self, InvalidChange> {
        match self.raw(name).map(RawValue::get) {
            None | Some("null" | EMPTY) => Ok(Self::default()),
            Some(raw) => read_body(raw.as_bytes()).map_err(|_| InvalidChange::Shape),
        }
    }
}

impl<'a> Object<'a> for Fields<'a> {
    fn take<A: MapAccess<'a>>(
        &mut self,
        key: Cow<'a, [u8]>,
        values: &mut A,
    ) -> Result<(), A::Error> {
        if self.0.is_empty() {
            self.0.reserve(8);
        }
        if self.0.len() == Self::MAX {
            return pass_over(values);
        }
        self.0.push((key, values.next_value()?));
        Ok(())
    }
}

impl<'a> Item<'a> for Fields<'a> {
    fn put_into(self, list: &mut List<Self>) {
        const MAX: usize = 64;
        match list.kept.len() < MAX {
            true => list.kept.push(self),
            false => list.ignored += 1,
        }
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self {
            kept: Vec::new(),
            ignored: 0,
            invalid: 0,
        }
    }
}

impl<'de, T: Item<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor(PhantomData))
    }
}

struct ListVisitor<T>(PhantomData<T>);

impl<'de, T: Item<'de>> Visitor<'de> for ListVisitor<T> {
    type Value = List<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<List<T>, A::Error> {
        let mut list = List::default();
        while let Some(node) = sequence.next_element::<Node<T>>()? {
            match node {
                Node::Object(item) => item.put_into(&mut list),
                Node::Absent | Node::Other => list.invalid += 1,
            }
        }
        Ok(list)
    }

    fn visit_unit<E>(self) -> Result<List<T>, E> {
        Ok(List::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<List<T>, A::Error> {
        IgnoredAny.visit_map(map)?;
        Ok(List::not_a_list())
    }

    fn visit_bool<E>(self, _: bool) -> Result<List<T>, E> {
        Ok(List::not_a_list())
    }

    fn visit_i64<E>(self, _: i64) -> Result<List<T>, E> {
        Ok(List::not_a_list())
    }

    fn visit_u64<E>(self, _: u64) -> Result<List<T>, E> {
        Ok(List::not_a_list())
    }

    fn visit_f64<E>(self, _: f64) -> Result<List<T>, E> {
        Ok(List::not_a_list())
    }

    fn visit_str<E>(self, _: &str) -> Result<List<T>, E> {
        Ok(List::not_a_list())
    }
}

impl<T> List<T> {
    fn not_a_list() -> Self {
        Self {
            invalid: 1,
            ..Self::default()
        }
    }
}

impl<'de, T: Object<'de>> Deserialize<'de> for Node<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor(PhantomData))
    }
}

struct NodeVisitor<T>(PhantomData<T>);

impl<'de, T: Object<'de>> Visitor<'de> for NodeVisitor<T> {
    type Value = Node<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node<T>, A::Error> {
        let mut object = T::default();
        while let Some(Key(key)) = map.next_key()? {
            object.take(key, &mut map)?;
        }
        Ok(Node::Object(object))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, sequence: A) -> Result<Node<T>, A::Error> {
        IgnoredAny.visit_seq(sequence)?;
        Ok(Node::Other)
    }

    fn visit_unit<E>(self) -> Result<Node<T>, E> {
        Ok(Node::Absent)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node<T>, E> {
        Ok(Node::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node<T>, E> {
        Ok(Node::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node<T>, E> {
        Ok(Node::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node<T>, E> {
        Ok(Node::Other)
    }

    fn visit_str<E>(self, _: &str) -> Result<Node<T>, E> {
        Ok(Node::Other)
    }
}

/// The name of a field, as bytes: an unpaired surrogate escape, which a sender leaves where it cuts
/// a text, is not valid Unicode.
struct Key<'a>(Cow<'a, [u8]>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_bytes<E>(self, name: &'de [u8]) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(name)))
            }

            fn visit_bytes<E>(self, name: &[u8]) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(name.to_vec())))
            }
        }
        deserializer.deserialize_bytes(KeyVisitor)
    }
}

/// Passes over the value of a key that means nothing.
pub(super) fn pass_over<'a, A: MapAccess<'a>>(values: &mut A) -> Result<(), A::Error> {
    values.next_value().map(|IgnoredAny| ())
}

/// Reads one value.
impl<'de: 'a, 'a> Deserialize<'de> for Scalar<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&RawValue>::deserialize(deserializer).map(Self::of)
    }
}

impl<'a> Scalar<'a> {
    fn of(value: &'a RawValue) -> Self {
        #[derive(Deserialize)]
        struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

        let raw = value.get();
        match raw.as_bytes().first() {
            Some(b'n') => Self::Absent,
            Some(b'"') => match raw.get(1..raw.len() - 1) {
                Some(text) if !text.contains('\\') => Self::Text(Cow::Borrowed(text)),
                _ => serde_json::from_str(raw)
                    .map_or(Self::Other(raw), |Text(text)| Self::Text(text)),
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

    /// What may be logged of it: of a list or an object, which may hold anything, only that it is
    /// one.
    pub(super) fn to_log(&self) -> &str {
        match self {
            Self::Other(raw) if raw.starts_with(['{', '[']) => "(an object or a list)",
            _ => self.as_str(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.as_str().is_empty()
    }

    /// An id or a phone number: text or digits; empty where nothing is there.
    pub(super) fn id(&self) -> Result<&str, InvalidChange> {
        match self {
            Self::Other(_) => Err(InvalidChange::Shape),
            Self::Number(digits) if !digits.bytes().all(|b| b.is_ascii_digit()) => {
                Err(InvalidChange::NotPlainDigits)
            }
            _ => Ok(self.as_str()),
        }
    }

    pub(super) fn time(&self) -> Option<Timestamp> {
        let text = self.as_str();
        Timestamp::parse_unix(text).or_else(|| Timestamp::parse_iso(text))
    }

    /// A limit, nothing, or something that is neither.
    pub(super) fn limit(&self) -> Result<Option<MessagingLimit>, ()> {
        match self {
            Self::Absent => Ok(None),
            Self::Text(text) if text.is_empty() => Ok(None),
            Self::Text(text) => MessagingLimit::parse(text).map(Some).ok_or(()),
            Self::Number(digits) => digits
                .parse()
                .ok()
                .and_then(MessagingLimit::from_number)
                .map(Some)
                .ok_or(()),
            Self::Other(_) => Err(()),
        }
    }

    pub(super) fn count(&self) -> Option<u64> {
        self.as_str().parse().ok()
    }
}
