//! Where records are kept: a map of documents.
//!
//! A document is a line of JSON with a version, under a key that names what it is about, so that a
//! person can read it with the storage's own tools.

mod sqlite;

use std::{fmt, path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use sqlite::Sqlite;

use crate::{
    domain::{AccountKey, NumberKey, PhoneNumber, WabaId},
    providers,
    state::{Accepted, Account, Number, Record},
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

    /// Stores all of `records` or none; when it returns `Ok` they survive a loss of power.
    ///
    /// # Errors
    ///
    /// After an error that [`StoreError::is_fatal`], the storage must not be used again.
    fn commit(&mut self, records: &[Record]) -> Result<(), StoreError>;

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
    /// Another process has the folder.
    #[error("the storage folder {} is in use by another process; stop it, or give this one a folder of its own (--storage.path)", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The database was written by a later version.
    #[error("the database {} was written by a newer version of this program (format {found}, this one reads {known}); install that version again, or give another folder (--storage.path); nothing was changed", path.display())]
    Newer {
        /// The database.
        path: PathBuf,
        /// The format that was found.
        found: u32,
        /// The newest format that this version reads.
        known: u32,
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
    #[error("the database failed to {operation}: {source}")]
    Engine {
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
                matches!(error.code, rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase)
                    || matches!(error.extended_code, ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC)
            }),
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

/// The version alone, to tell a newer document from a damaged one.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// Why a document cannot be read.
#[derive(Debug, PartialEq)]
enum Unreadable {
    Newer(u32),
    Damaged(String),
}

/// The document's key: a JSON list, for a phone number may hold any separator.
fn key_of(record: &Record) -> serde_json::Result<Vec<u8>> {
    let parts: &[&str] = match record {
        Record::Number(key, _) => {
            &["number", key.account.provider, key.account.waba_id.as_str(), key.phone_number.as_str()]
        }
        Record::Account(key, _) => &["account", key.provider, key.waba_id.as_str()],
        Record::Provider(provider, _) => &["provider", provider],
    };
    serde_json::to_vec(parts)
}

/// Appends the document.
fn write_document(record: &Record, text: &mut Vec<u8>) -> serde_json::Result<()> {
    match record {
        Record::Number(_, number) => {
            serde_json::to_writer(text, &Document { version: VERSION, record: number.as_ref() })
        }
        Record::Account(_, account) => {
            serde_json::to_writer(text, &Document { version: VERSION, record: account.as_ref() })
        }
        Record::Provider(_, accepted) => serde_json::to_writer(text, &Document { version: VERSION, record: accepted }),
    }
}

fn decode(key: &str, value: &str) -> Result<Record, Unreadable> {
    let damaged = |what: &dyn fmt::Display| Unreadable::Damaged(what.to_string());
    // Owned: what is escaped in JSON cannot be borrowed from it.
    let parts: Vec<String> = serde_json::from_str(key).map_err(|_| damaged(&"a key is not readable"))?;
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let provider = |name: &str| {
        let provider = providers::ALL.iter().find(|provider| provider.name() == name);
        provider.map(|provider| provider.name()).ok_or_else(|| damaged(&"a record is of an unknown provider"))
    };
    let account = |name, waba_id| {
        let waba_id = WabaId::parse(waba_id).map_err(|error| damaged(&error))?;
        Ok(AccountKey { provider: provider(name)?, waba_id })
    };
    match parts.as_slice() {
        ["number", name, waba_id, number] => {
            let phone_number = PhoneNumber::parse(number).map_err(|error| damaged(&error))?;
            let key = NumberKey { account: account(name, waba_id)?, phone_number };
            Ok(Record::Number(key, Arc::new(content::<Number>(value)?)))
        }
        ["account", name, waba_id] => {
            Ok(Record::Account(account(name, waba_id)?, Arc::new(content::<Account>(value)?)))
        }
        ["provider", name] => Ok(Record::Provider(provider(name)?, content::<Accepted>(value)?)),
        _ => Err(damaged(&"a record is of an unknown kind")),
    }
}

fn content<T: DeserializeOwned>(value: &str) -> Result<T, Unreadable> {
    let version = || serde_json::from_str(value).ok().map(|Version { version }| version);
    match serde_json::from_str::<Document<T>>(value) {
        Ok(document) if document.version <= VERSION => Ok(document.record),
        _ => Err(match version() {
            Some(version) if version > VERSION => Unreadable::Newer(version),
            // serde's message may quote the document.
            _ => Unreadable::Damaged("a record is not a readable document".into()),
        }),
    }
}
