//! Where records are kept: a map of documents, in an engine that syncs before it answers.

pub mod document;
#[cfg(feature = "etcd")]
mod etcd;
mod sqlite;

use std::{error::Error, path::Path};

#[cfg(feature = "etcd")]
pub use etcd::Etcd;
pub use sqlite::Sqlite;

use crate::state::{Batch, Record, Update};

/// A storage for records. Its futures stay on one thread.
#[expect(
    async_fn_in_trait,
    reason = "no caller needs them to be sent to another thread"
)]
pub trait Store {
    /// How many documents may be drafted before they are committed ([`Draft::documents`]).
    ///
    /// [`Draft::documents`]: crate::state::Draft::documents
    const MAX_DOCUMENTS: usize;

    /// Hands over everything that is stored, all of which survives a loss of power when it returns
    /// `Ok`. Called once, before anything else.
    ///
    /// # Errors
    ///
    /// Where anything stored cannot be read: some of the phone numbers must not be served as if
    /// they were all.
    async fn load(&mut self, each: &mut dyn FnMut(Update)) -> Result<(), StoreError>;

    /// Stores all of `batch` or nothing of it; when it returns `Ok` with [`Commit::Stored`] it
    /// survives a loss of power. A batch beyond [`Store::MAX_DOCUMENTS`] may be stored in part; what
    /// of it is stored comes as updates then, also after an error.
    ///
    /// # Errors
    ///
    /// After an error that [`StoreError::is_fatal`], the storage must not be used again.
    async fn commit(&mut self, batch: &Batch) -> Result<Commit, StoreError>;

    /// Waits for what others have stored. Dropping the future loses nothing.
    async fn updates(&mut self) -> Vec<Update>;

    /// Commits something that changes nothing, to see whether the storage takes commits.
    ///
    /// # Errors
    ///
    /// As [`Store::commit`].
    async fn probe(&mut self) -> Result<(), StoreError>;

    /// Does maintenance that no reply should wait for, such as a checkpoint. Call it after each
    /// commit.
    ///
    /// # Errors
    ///
    /// As [`Store::commit`]; what was committed before is stored all the same.
    fn maintain(&mut self) -> Result<(), StoreError>;

    /// The size of what is stored, in bytes.
    ///
    /// # Errors
    ///
    /// Where the storage does not answer.
    async fn size_bytes(&mut self) -> Result<u64, StoreError>;
}

/// What became of a batch.
#[derive(Debug)]
pub enum Commit {
    /// It is stored.
    Stored,
    /// Something that it was folded over has changed meanwhile: this, as far as it is known.
    Conflict(Vec<Update>),
}

/// Why the storage cannot be used, in a sentence that says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{sentence}")]
pub struct StoreError {
    kind: StoreErrorKind,
    sentence: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// What is wrong with the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StoreErrorKind {
    /// It does not answer or cannot be used at the moment; the operator or another program is at
    /// fault.
    Unavailable,
    /// There is no room; the operator makes some.
    Full,
    /// It takes changes and grows, because another program reads an old state of it.
    Held,
    /// Another process has it.
    InUse,
    /// A later version wrote it.
    Newer,
    /// What is stored is damaged, or is not this program's.
    Damaged,
    /// The engine opened a file for reading only and does not open it again: only a new process
    /// may find that it can be written.
    ReadOnly,
    /// Nothing more can be promised: after a failed fsync nobody knows what reached the disk.
    Lost,
}

impl StoreError {
    /// Whether nothing more can be promised, so that the process must end.
    pub fn is_fatal(&self) -> bool {
        use StoreErrorKind::{Full, Held, Unavailable};
        !matches!(self.kind, Unavailable | Full | Held)
    }

    fn new(kind: StoreErrorKind, sentence: String) -> Self {
        Self {
            kind,
            sentence,
            source: None,
        }
    }

    /// The error of an engine or of the system, which is said in the sentence, too.
    fn because(self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            source: Some(source.into()),
            ..self
        }
    }

    /// `user` is the process's, because the service often has another one than the operator.
    fn folder(path: &Path, user: &str, source: std::io::Error) -> Self {
        let path = path.display();
        let sentence = format!(
            "cannot use the storage folder {path}: {source}; give a folder that the user of this \
             process ({user}) may write (--storage.path)"
        );
        Self::new(StoreErrorKind::Unavailable, sentence).because(source)
    }

    /// As [`StoreError::folder`], where the folder can be used and a file in it cannot.
    fn file(kind: StoreErrorKind, path: &Path, user: &str, what: &str) -> Self {
        let path = path.display();
        let sentence = format!(
            "cannot write the database {path}: {what}; let the user of this process ({user}) \
             write this file, those beside it, and their folder"
        );
        Self::new(kind, sentence)
    }

    fn full(path: &Path, free: u64, source: impl Error + Send + Sync + 'static) -> Self {
        let path = path.display();
        let sentence = format!(
            "cannot write to the storage folder {path}: {source}; {free} bytes are free there: \
             make room, or lift this user's limit"
        );
        Self::new(StoreErrorKind::Full, sentence).because(source)
    }

    fn in_use(path: &Path) -> Self {
        let sentence = format!(
            "the storage folder {} is in use by another process; stop it, or give this one a \
             folder of its own (--storage.path)",
            path.display()
        );
        Self::new(StoreErrorKind::InUse, sentence)
    }

    fn newer(path: &Path, what: &str) -> Self {
        let sentence = format!(
            "the database {} was written by a newer version of this program ({what}); install \
             that version again, or give another folder (--storage.path); nothing was changed",
            path.display()
        );
        Self::new(StoreErrorKind::Newer, sentence)
    }

    fn damaged(path: &Path, what: &str) -> Self {
        let sentence = format!(
            "the database {} is damaged or not this program's: {what}; restore it from a backup, \
             or move it away to start without its history; nothing was changed",
            path.display()
        );
        Self::new(StoreErrorKind::Damaged, sentence)
    }

    /// Others were always quicker.
    pub(crate) fn conflicts(times: u32) -> Self {
        let sentence = format!(
            "other replicas changed the same records {times} times while these changes were stored; \
             if that goes on, send the webhooks of an account to one replica"
        );
        Self::new(StoreErrorKind::Unavailable, sentence)
    }

    fn held(path: &Path) -> Self {
        let sentence = format!(
            "the write-ahead log of {} cannot be written back and grows: another program has a \
             transaction open (a sqlite3 shell, a backup); end it (lsof shows who has the file \
             open)",
            path.display()
        );
        Self::new(StoreErrorKind::Held, sentence)
    }
}
