//! Bytes in a document: one string, because a list of numbers would be four times as long.

use ::base64::{DecodeError, Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use serde_json::value::RawValue;

pub(super) fn decode(text: &str) -> Result<Vec<u8>, DecodeError> {
    STANDARD.decode(text)
}

/// As a string that is JSON already: serde_json would look at each character for what to escape, and
/// these strings are most of a document.
pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    let length = bytes.len().div_ceil(3) * 4 + 2;
    let mut json = String::with_capacity(length);
    json.push('"');
    STANDARD.encode_string(bytes, &mut json);
    json.push('"');
    let json = RawValue::from_string(json).map_err(ser::Error::custom)?;
    json.serialize(serializer)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
    decode(&text).map_err(de::Error::custom)
}
