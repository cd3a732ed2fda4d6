//! Where records are kept: a map of documents.
//!
//! A document is a line of JSON with a version, under a key that names what it is about, so that a
//! person can read it with the storage's own tools.

mod sqlite;

use std::{fmt, path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

pub use sqlite::Sqlite;

use crate::{
    domain::{AccountKey, EventKind, NumberKey, PhoneNumber, WabaId},
    providers,
    state::{Account, Batch, Heartbeat, Number, Record},
};

/// A storage for records.
pub trait Store: Send {
    /// Hands every record to `each`, all of which survive a loss of power when it returns `Ok`. Called once, before
    /// anything else.
    ///
    /// # Errors
    ///
    /// Where anything stored cannot be read: a fleet with holes must not be served.
    fn load(&mut self, each: &mut dyn FnMut(Record)) -> Result<(), StoreError>;

    /// Stores all of `batch` or nothing of it; when it returns `Ok` it survives a loss of power.
    ///
    /// # Errors
    ///
    /// After an error that [`StoreError::is_fatal`], the storage must not be used again.
    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError>;

    /// Commits something that changes nothing, to see whether the storage takes commits.
    ///
    /// # Errors
    ///
    /// As [`Store::commit`].
    fn probe(&mut self) -> Result<(), StoreError>;

    /// Does what no commit need wait for. To be called after each.
    ///
    /// # Errors
    ///
    /// As [`Store::commit`]; what was committed before is stored all the same.
    fn checkpoint(&mut self) -> Result<(), StoreError>;

    /// The size of what is stored, in bytes.
    ///
    /// # Errors
    ///
    /// Where the storage does not answer.
    fn size_bytes(&self) -> Result<u64, StoreError>;
}

/// Why the storage cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The folder cannot be made or written; the operator is at fault.
    #[error("cannot use the storage folder {}: {source}; give a folder that this user may write (--storage.path)", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The disk is full, or this user may not write more.
    #[error("cannot write to the storage folder {}: {source}; {free} bytes are free there: make room, or lift this user's limit", path.display())]
    Full {
        /// The folder.
        path: PathBuf,
        /// What the system or the engine said.
        source: Box<dyn std::error::Error + Send + Sync>,
        /// Bytes that this user may still write.
        free: u64,
    },
    /// The size of the database cannot be read.
    #[error("cannot read the size of {}: {source}", path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another program reads an old state of the database, which the write-ahead log must keep for it.
    #[error("the write-ahead log of {} cannot be written back and grows: another program has a transaction open (a sqlite3 shell, a backup); end it (lsof shows who has the file open)", path.display())]
    Held {
        /// The database.
        path: PathBuf,
    },
    /// Another process has the folder.
    #[error("the storage folder {} is in use by another process; stop it, or give this one a folder of its own (--storage.path)", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The database was written by a later version.
    #[error("the database {} was written by a newer version of this program ({what}); install that version again, or give another folder (--storage.path); nothing was changed", path.display())]
    Newer {
        /// The database.
        path: PathBuf,
        /// What this version does not know.
        what: String,
    },
    /// The database is damaged, or is none of ours.
    #[error("the database {} is damaged or not this program's: {what}; restore it from a backup, or move it away to start without its history; nothing was changed", path.display())]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// The database engine failed.
    #[error("the database {} failed to {operation}: {source}", path.display())]
    Engine {
        /// The database.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// What the engine said.
        source: rusqlite::Error,
    },
}

impl StoreError {
    /// Whether nothing more can be promised: after a failed fsync nobody knows what reached the disk.
    pub fn is_fatal(&self) -> bool {
        use rusqlite::ffi;
        match self {
            Self::Engine { source, .. } => source.sqlite_error().is_some_and(|error| {
                matches!(
                    error.code,
                    rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase
                ) || matches!(
                    error.extended_code,
                    ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC
                )
            }),
            Self::Full { .. } | Self::Held { .. } | Self::Size { .. } => false,
            _ => true,
        }
    }
}

/// The version of the documents.
const VERSION: u32 = 1;

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
enum Unreadable {
    Newer(String),
    Damaged(String),
}

impl Unreadable {
    /// A name that a later version may have made, as far as it is fit for a sentence.
    fn newer(kind: &str, name: &str) -> Self {
        let name: String = name
            .chars()
            .filter(|c| c.is_ascii_graphic())
            .take(64)
            .collect();
        Self::Newer(format!("its {kind} {name:?} is unknown to this version"))
    }
}

/// The document's key: a JSON list, for a phone number may hold any separator.
fn key_of(record: &Record) -> serde_json::Result<Vec<u8>> {
    let parts: &[&str] = match record {
        Record::Number(key, _) => &[
            "number",
            key.account.provider,
            key.account.waba_id.as_str(),
            key.phone_number.as_str(),
        ],
        Record::Account(key, _) => &["account", key.provider, key.waba_id.as_str()],
        Record::Provider(provider, _) => &["provider", provider],
    };
    serde_json::to_vec(parts)
}

/// Appends the document.
fn write_document(record: &Record, text: &mut Vec<u8>) -> serde_json::Result<()> {
    match record {
        Record::Number(_, number) => serde_json::to_writer(
            text,
            &Document {
                version: VERSION,
                record: number.as_ref(),
            },
        ),
        Record::Account(_, account) => serde_json::to_writer(
            text,
            &Document {
                version: VERSION,
                record: account.as_ref(),
            },
        ),
        Record::Provider(_, heartbeat) => serde_json::to_writer(
            text,
            &Document {
                version: VERSION,
                record: heartbeat,
            },
        ),
    }
}

fn decode(key: &str, value: &str) -> Result<Record, Unreadable> {
    let damaged = |what: &dyn fmt::Display| Unreadable::Damaged(what.to_string());
    // Owned: what is escaped in JSON cannot be borrowed from it.
    let parts: Vec<String> =
        serde_json::from_str(key).map_err(|_| damaged(&"a key is not readable"))?;
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let provider = |name: &str| {
        let provider = providers::ALL
            .iter()
            .find(|provider| provider.name() == name);
        provider
            .map(|provider| provider.name())
            .ok_or_else(|| Unreadable::newer("provider", name))
    };
    let account = |name, waba_id| {
        Ok(AccountKey {
            provider: provider(name)?,
            waba_id: WabaId::from_stored(waba_id),
        })
    };
    match parts.as_slice() {
        ["number", name, waba_id, number] => {
            let key = NumberKey {
                account: account(name, waba_id)?,
                phone_number: PhoneNumber::from_stored(number),
            };
            Ok(Record::Number(key, Arc::new(content::<Number>(value)?)))
        }
        ["account", name, waba_id] => Ok(Record::Account(
            account(name, waba_id)?,
            Arc::new(content::<Account>(value)?),
        )),
        ["provider", name] => Ok(Record::Provider(
            provider(name)?,
            content::<Heartbeat>(value)?,
        )),
        ["number" | "account" | "provider", ..] | [] => Err(damaged(&"a key is not readable")),
        [kind, ..] => Err(Unreadable::newer("kind of record", kind)),
    }
}

fn content<T: DeserializeOwned>(value: &str) -> Result<T, Unreadable> {
    match serde_json::from_str::<Document<T>>(value) {
        Ok(document) if document.version <= VERSION => Ok(document.record),
        _ => Err(why_unreadable(value)),
    }
}

/// A later version may have given its documents a higher version, or only have learned an event's name.
fn why_unreadable(value: &str) -> Unreadable {
    // serde's message may quote the document.
    let damaged = Unreadable::Damaged("a record is not a readable document".into());
    let Ok(Sketch { version, record }) = serde_json::from_str(value) else {
        return damaged;
    };
    if version > VERSION {
        return Unreadable::Newer(format!(
            "a document has version {version}, and this version reads {VERSION}"
        ));
    }
    let is_known = |event: &&String| {
        EventKind::ALL
            .iter()
            .any(|kind| kind.as_str() == event.as_str())
    };
    let events = record.get("events").and_then(Value::as_object);
    match events.and_then(|events| events.keys().find(|event| !is_known(event))) {
        Some(event) => Unreadable::newer("event", event),
        None => damaged,
    }
}
