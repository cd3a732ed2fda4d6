//! The documents that are stored: a line of JSON with a version, under a key that names what it is
//! about, so that a person can read it with the storage's own tools.

use std::sync::Arc;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    domain::{
        AccountEvent, AccountKey, AlertSeverity, BanState, EventKind, NumberKey, ProviderName,
        Restriction, TemplateEvent, TemplateQuality, Vocabulary,
    },
    providers,
    state::{Entity, Forgettable, History, Record},
};

/// The version of the documents.
const VERSION: u32 = 1;
/// The kind of a provider's signs of life.
const HEARTBEAT: &str = "provider";
/// The kind of the mark that something was forgotten.
const FORGOTTEN: &str = "forgotten";
/// The key of that mark, of which there is one.
pub(super) const FORGOTTEN_KEY: &str = r#"["forgotten",""]"#;
/// The document of a mark.
pub(super) const EMPTY_DOCUMENT: &str = r#"{"version":1,"record":{}}"#;

/// A stored document.
#[derive(Serialize, Deserialize)]
struct Document<T> {
    version: u32,
    record: T,
}

/// As much of a document as tells a newer one from a damaged one.
#[derive(Deserialize)]
struct Sketch {
    version: u32,
    #[serde(default)]
    record: Value,
}

/// Why a document cannot be read.
#[derive(Debug, PartialEq)]
pub enum Unreadable {
    /// A later version wrote it; what of it is unknown to this one.
    Newer(String),
    /// It is not one of this program's, or not as it was written.
    Damaged(&'static str),
}

/// The document's key: a JSON list, because a phone number may hold any separator.
///
/// # Errors
///
/// Those of the JSON library, of which none is expected.
pub fn key_of(record: &Record) -> serde_json::Result<Vec<u8>> {
    match record {
        Record::Number(key, _) => key_of_entity(key),
        Record::Account(key, _) => key_of_entity(key),
        Record::Heartbeat(provider, _) => serde_json::to_vec(&[HEARTBEAT, provider.as_str()]),
    }
}

/// The key of the document that is to be removed.
pub(super) fn key_of_forgotten(key: &Forgettable) -> serde_json::Result<Vec<u8>> {
    match key {
        Forgettable::Number(key) => key_of_entity(key),
        Forgettable::Account(key) => key_of_entity(key),
    }
}

fn key_of_entity<K: Entity>(key: &K) -> serde_json::Result<Vec<u8>> {
    key_with_kind(K::KIND, key)
}

/// The key of something else about what the key names.
pub(super) fn key_with_kind<K: Entity>(kind: &str, key: &K) -> serde_json::Result<Vec<u8>> {
    let mut parts = key.label_values();
    parts.insert(0, kind);
    serde_json::to_vec(parts.as_slice())
}

/// What a key names, where that can be forgotten and this version knows it.
#[cfg(feature = "etcd")]
pub(super) fn forgettable(key: &[u8]) -> Option<Forgettable> {
    let parts: Vec<String> = serde_json::from_slice(key).ok()?;
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let [kind, provider, rest @ ..] = parts.as_slice() else {
        return None;
    };
    let provider = providers::by_name(provider)?.name;
    match *kind {
        NumberKey::KIND => NumberKey::from_label_values(provider, rest).map(Forgettable::Number),
        AccountKey::KIND => AccountKey::from_label_values(provider, rest).map(Forgettable::Account),
        _ => None,
    }
}

/// Appends the document.
///
/// # Errors
///
/// Those of the JSON library, of which none is expected.
pub fn write(record: &Record, text: &mut Vec<u8>) -> serde_json::Result<()> {
    fn document<T: Serialize>(record: &T, text: &mut Vec<u8>) -> serde_json::Result<()> {
        serde_json::to_writer(
            text,
            &Document {
                version: VERSION,
                record,
            },
        )
    }
    match record {
        Record::Number(_, number) => document(number.as_ref(), text),
        Record::Account(_, account) => document(account.as_ref(), text),
        Record::Heartbeat(_, heartbeat) => document(heartbeat, text),
    }
}

/// Reads a document under its key; `None` where it is the mark that something was forgotten.
///
/// # Errors
///
/// [`Unreadable`]; the database is damaged, or newer than this program.
pub fn read(key: &str, value: &str) -> Result<Option<Record>, Unreadable> {
    let damaged = Unreadable::Damaged("a key is not readable");
    // Owned: what is escaped in JSON cannot be borrowed from it.
    let Ok(parts) = serde_json::from_str::<Vec<String>>(key) else {
        return Err(damaged);
    };
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let [kind, provider, rest @ ..] = parts.as_slice() else {
        return Err(damaged);
    };
    let find = || match providers::by_name(provider) {
        Some(provider) => Ok(provider.name),
        None => Err(Unreadable::newer("provider", provider)),
    };
    Ok(Some(match *kind {
        NumberKey::KIND => {
            let (key, number) = read_entity(find()?, rest, value)?;
            Record::Number(key, number)
        }
        AccountKey::KIND => {
            let (key, account) = read_entity(find()?, rest, value)?;
            Record::Account(key, account)
        }
        HEARTBEAT => Record::Heartbeat(find()?, content(value)?),
        FORGOTTEN => return Ok(None),
        _ => return Err(Unreadable::newer("kind of record", kind)),
    }))
}

fn read_entity<K: Entity>(
    provider: ProviderName,
    rest: &[&str],
    value: &str,
) -> Result<(K, Arc<K::Record>), Unreadable> {
    let key = K::from_label_values(provider, rest);
    let key = key.ok_or(Unreadable::Damaged("a key has too few parts, or too many"))?;
    Ok((key, Arc::new(content(value)?)))
}

fn content<T: DeserializeOwned>(value: &str) -> Result<T, Unreadable> {
    match serde_json::from_str::<Document<T>>(value) {
        Ok(document) if document.version <= VERSION => Ok(document.record),
        _ => Err(why_unreadable(value)),
    }
}

/// Where a record has counts under the names of a vocabulary, and whether a name is of it.
type Names = (&'static str, fn(&str) -> bool);

const NAMES: [Names; 5] = [
    ("/events", |name| EventKind::from_name(name).is_some()),
    ("/account_events/counts", |name| {
        AccountEvent::from_name(name).is_some()
    }),
    ("/alerts", |name| AlertSeverity::from_name(name).is_some()),
    ("/template_events", |name| {
        TemplateEvent::from_name(name).is_some()
    }),
    ("/template_qualities/counts", |name| {
        TemplateQuality::from_name(name).is_some()
    }),
];

/// A later version may have given its documents a higher version, or only know a further event.
fn why_unreadable(value: &str) -> Unreadable {
    // serde's message may quote the document.
    let damaged = Unreadable::Damaged("a record is not a readable document");
    let Ok(Sketch { version, record }) = serde_json::from_str(value) else {
        return damaged;
    };
    if version > VERSION {
        let what = format!("a document has version {version}, and this version reads {VERSION}");
        return Unreadable::Newer(what);
    }
    for (names, is_known) in NAMES {
        let named = record.pointer(names).and_then(Value::as_object);
        if let Some(name) = named.and_then(|named| named.keys().find(|name| !is_known(name))) {
            return Unreadable::newer("event", name);
        }
    }
    if let Some(value) = unknown_value(&record) {
        return Unreadable::newer("value", value);
    }
    let history = record.get("history").and_then(Value::as_str);
    match history.and_then(History::unknown_code) {
        Some(code) => Unreadable::newer("event code", &code.to_string()),
        None => damaged,
    }
}

/// A restriction or a ban state that this version does not know.
fn unknown_value(record: &Value) -> Option<&str> {
    let events = record.get("account_events")?;
    let restrictions = events.get("restrictions").and_then(Value::as_array);
    let restrictions = restrictions.into_iter().flatten();
    let mut restrictions = restrictions.filter_map(|known| known.get("restriction")?.as_str());
    let ban_state = events.pointer("/ban_state/value").and_then(Value::as_str);
    let mut ban_state = ban_state.into_iter();
    restrictions
        .find(|name| Restriction::from_name(name).is_none())
        .or_else(|| ban_state.find(|name| BanState::from_name(name).is_none()))
}

impl Unreadable {
    /// A name that a later version may have made, as far as it is fit for a sentence.
    fn newer(kind: &str, name: &str) -> Self {
        let name: String = name
            .chars()
            .filter(char::is_ascii_graphic)
            .take(64)
            .collect();
        Self::Newer(format!("its {kind} {name:?} is unknown to this version"))
    }
}
