//! The embedded storage: one SQLite database in WAL mode, with one fsync or more for each commit.
//!
//! A table `versions` holds the documents, each row a version of one; [`rows`] says which version
//! counts. For example, `SELECT * FROM documents` in the `sqlite3` shell shows
//! `["number","meta","102290129340398","15550783881"]` and
//! `{"version":1,"record":{"limit":{"current":{"value":1000,"at":1748454394000000000}}}}`.

mod file;
mod rows;

use std::{
    error::Error,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
};

use rusqlite::{
    Connection, Row, Transaction,
    config::DbConfig,
    hooks::Wal,
    types::{ToSqlOutput, ValueRef},
};

use super::{
    Batch, Commit, Record, Store, StoreError, StoreErrorKind, Update,
    document::{self, Unreadable},
};
use file::{unreadable, wal_bytes};
use rows::RowTable;

/// The embedded storage.
#[derive(Debug)]
pub struct Sqlite {
    connection: Connection,
    database: PathBuf,
    rows: RowTable,
    /// Pages in the write-ahead log, as of the last commit.
    wal_pages: Arc<AtomicI32>,
    /// The pages in the write-ahead log at which the next checkpoint is due.
    checkpoint_at: i32,
    /// Held, and with it the folder, until the process ends.
    _lock: File,
}

/// Pages in the write-ahead log at which a checkpoint writes them back: 32 MiB.
const CHECKPOINT_PAGES: i32 = 8192;
/// Pages that are added to it before a checkpoint that failed is tried again.
const CHECKPOINT_AGAIN: i32 = 1024;

impl Sqlite {
    /// Opens the database in `folder`, and makes both where there are none.
    ///
    /// # Errors
    ///
    /// Where the folder cannot be used or another process has it, and where the database is damaged
    /// or newer; the database is as it was before.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let lock = file::lock(folder)?;
        let database = folder.join(file::DATABASE);
        Ok(Self {
            connection: file::open(folder, &database)?,
            database,
            rows: RowTable::default(),
            wal_pages: Arc::new(AtomicI32::new(0)),
            checkpoint_at: CHECKPOINT_PAGES,
            _lock: lock,
        })
    }

    /// Hands every record in `folder` to `each`, as it is at one moment, also while another process
    /// has the folder. Nothing is changed.
    ///
    /// # Errors
    ///
    /// Where there is no database, and those of [`Store::load`].
    pub fn read(folder: &Path, each: &mut dyn FnMut(Record)) -> Result<(), StoreError> {
        let database = folder.join(file::DATABASE);
        let connection = file::open_to_read(&database)?;
        let failed = |error| unreadable(&database, error);
        // All that is read within a transaction is of one moment.
        connection.execute_batch("BEGIN").map_err(failed)?;
        let rows = read_rows(&connection, &database)?;
        read_documents(&connection, &database, &rows, each)
    }

    /// Whether [`Sqlite::open`] would find what it needs in `folder`; nothing is made there, but the
    /// lock beside a database that is there.
    ///
    /// # Errors
    ///
    /// Those of [`Sqlite::open`]. A database is not read, so damage in it is not found.
    pub fn check_folder(folder: &Path) -> Result<(), StoreError> {
        match folder.join(file::DATABASE).exists() {
            true => Self::open(folder).map(drop),
            false => file::check_folder(folder),
        }
    }

    /// The error of a call into SQLite. After a fatal one, closing must not try again what failed:
    /// a second fsync may succeed and have kept nothing, and the log would be removed.
    fn failed(&self, operation: &str, source: rusqlite::Error) -> StoreError {
        let error = file::failed(&self.database, operation, source);
        if error.is_fatal() {
            // It does nothing but set a flag.
            let flag = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
            let _ = self.connection.set_db_config(flag, true);
        }
        error
    }

    /// Writes the write-ahead log back, in a mode of SQLite's `wal_checkpoint`.
    fn checkpoint(&self, mode: &str) -> Result<(), StoreError> {
        // SQLite reports no error where a reader is in the way: the row says that it was busy, or
        // that fewer pages were written back than the log has.
        let is_done = |row: &Row<'_>| {
            let is_busy = row.get::<_, i64>(0)? != 0;
            Ok(!is_busy && row.get::<_, i64>(1)? == row.get::<_, i64>(2)?)
        };
        let pragma = format!("PRAGMA wal_checkpoint({mode})");
        match self.connection.query_row(&pragma, [], is_done) {
            Ok(true) => Ok(()),
            Ok(false) => Err(StoreError::held(&self.database)),
            Err(source) => Err(self.failed("write back the log", source)),
        }
    }

    /// Has commits go through a write-ahead log that is in the folder after a loss of power.
    fn begin_log(&self) -> Result<(), StoreError> {
        let failed = |source| self.failed("begin its write-ahead log", source);
        let connection = &self.connection;
        let mut pragma = connection
            .prepare("PRAGMA journal_mode = WAL")
            .map_err(failed)?;
        let mut rows = pragma.query([]).map_err(failed)?;
        // The change is committed, and may fail, after the row that says what the mode will be.
        while rows.next().map_err(failed)?.is_some() {}
        // The file is made by the first that reads. SQLite syncs its name at the first commit, and
        // goes on where that fails.
        connection
            .query_row("PRAGMA user_version", [], |_| Ok(()))
            .map_err(failed)?;
        file::sync_name(&self.database)
    }

    fn check(&self) -> Result<(), StoreError> {
        let verdict: String = self
            .connection
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(|error| unreadable(&self.database, error))?;
        match verdict.as_str() {
            "ok" => Ok(()),
            _ => Err(StoreError::damaged(&self.database, &verdict)),
        }
    }
}

impl Sqlite {
    /// As [`Store::load`], with each record.
    ///
    /// # Errors
    ///
    /// Those of [`Store::load`].
    pub fn load(&mut self, each: &mut dyn FnMut(Record)) -> Result<(), StoreError> {
        self.check()?;
        self.rows = read_rows(&self.connection, &self.database)?;
        read_documents(&self.connection, &self.database, &self.rows, each)?;
        // Only now, so that a database that is refused stays as it was, and the log beside it, too.
        // What is overwritten becomes zeros, so that a removed phone number stands in no page.
        let failed = |source| file::failed(&self.database, "open", source);
        self.connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)
            .map_err(failed)?;
        // Into SQLite's own 2 MB the rows that a thousand busy numbers take in turn do not fit.
        self.connection
            .execute_batch(
                "PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = -8192; \
                 PRAGMA secure_delete = ON;",
            )
            .map_err(failed)?;
        self.begin_log()?;
        let wal_pages = Arc::clone(&self.wal_pages);
        let hook = move |_: &mut Wal, pages| {
            wal_pages.store(pages, Ordering::Relaxed);
            Ok(())
        };
        self.connection.wal_hook(Some(hook)).map_err(failed)?;
        if wal_bytes(&self.database) == 0 {
            return Ok(());
        }
        // What a killed process wrote may be nowhere but in the kernel's memory; after a failed
        // fsync the kernel may believe that the disk has it. So the log is synced and written back.
        match self.checkpoint("TRUNCATE") {
            Err(error) if error.is_fatal() => Err(error),
            // Where the disk is full, the changes stay in the log.
            _ => Ok(()),
        }
    }

    /// As [`Store::commit`]; there is never a conflict.
    ///
    /// # Errors
    ///
    /// Those of [`Store::commit`].
    pub fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let failed = |source| self.failed("commit", source);
        let forgotten = keys_of(batch.forgotten(), document::key_of_forgotten).map_err(failed)?;
        let mut keys = keys_of(batch.records(), document::key_of).map_err(failed)?;
        let mut records: Vec<_> = batch.records().iter().map(Some).collect();
        if !forgotten.is_empty() {
            keys.push(document::FORGOTTEN_KEY.as_bytes().into());
            records.push(None);
        }
        let rows = self.rows.allocate(records.len());
        let revision = self.rows.last_revision + 1;
        let added = keys.iter().map(|key| revision - self.rows.revision_of(key));
        let removed = forgotten.iter().map(|key| self.rows.revision_of(key));
        let live_sum = self.rows.live_sum + added.sum::<i64>() - removed.sum::<i64>();
        let rows_of_records = keys.iter().zip(records).zip(&rows);
        let placed = rows_of_records.map(|((key, record), row)| (*row, &**key, record));
        write(&mut self.connection, placed, &forgotten, revision, live_sum)
            .map_err(|source| self.failed("commit", source))?;
        self.rows.last_revision = revision;
        forgotten.iter().for_each(|key| self.rows.forget(key));
        for (key, row) in keys.into_iter().zip(rows) {
            self.rows.mark_live(key, row, revision);
        }
        Ok(())
    }

    /// As [`Store::probe`].
    ///
    /// # Errors
    ///
    /// Those of [`Store::commit`].
    pub fn probe(&mut self) -> Result<(), StoreError> {
        probe(&mut self.connection).map_err(|source| self.failed("probe", source))
    }

    /// Checkpoints where the write-ahead log has grown long. SQLite would do so within a commit,
    /// and say nothing of a failure.
    ///
    /// # Errors
    ///
    /// Those of [`Store::commit`].
    pub fn maintain(&mut self) -> Result<(), StoreError> {
        let pages = self.wal_pages.load(Ordering::Relaxed);
        if pages < self.checkpoint_at {
            return Ok(());
        }
        let result = self.checkpoint("PASSIVE");
        let is_done = result.is_ok();
        self.checkpoint_at = if is_done {
            CHECKPOINT_PAGES
        } else {
            pages + CHECKPOINT_AGAIN
        };
        result
    }

    /// As [`Store::size_bytes`].
    ///
    /// # Errors
    ///
    /// Those of [`Store::size_bytes`].
    pub fn size_bytes(&self) -> Result<u64, StoreError> {
        let found = fs::metadata(&self.database).map_err(|source| {
            let path = self.database.display();
            let sentence = format!("cannot read the size of {path}: {source}");
            StoreError::new(StoreErrorKind::Unavailable, sentence).because(source)
        })?;
        Ok(found.len() + wal_bytes(&self.database))
    }
}

/// SQLite blocks its thread, and nobody else writes to its database.
impl Store for Sqlite {
    const MAX_DOCUMENTS: usize = usize::MAX;

    async fn load(&mut self, each: &mut dyn FnMut(Update)) -> Result<(), StoreError> {
        Self::load(self, &mut |record| each(Update::Put(record)))
    }

    async fn commit(&mut self, batch: &Batch) -> Result<Commit, StoreError> {
        Self::commit(self, batch).map(|()| Commit::Stored)
    }

    async fn updates(&mut self) -> Vec<Update> {
        std::future::pending().await
    }

    async fn probe(&mut self) -> Result<(), StoreError> {
        Self::probe(self)
    }

    fn maintain(&mut self) -> Result<(), StoreError> {
        Self::maintain(self)
    }

    async fn size_bytes(&mut self) -> Result<u64, StoreError> {
        Self::size_bytes(self)
    }
}

/// Finds which rows are live. Where a page stands in the place of another, or is an older one,
/// all rows can be read and some documents are missing, which the sum shows.
fn read_rows(connection: &Connection, database: &Path) -> Result<RowTable, StoreError> {
    let failed = |error| unreadable(database, error);
    let missing = || StoreError::damaged(database, "documents are missing");
    let mut table = RowTable::default();
    let mut expected = 0;
    let mut all = connection
        .prepare("SELECT id, revision, total, key FROM versions ORDER BY id")
        .map_err(failed)?;
    let mut rows = all.query([]).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        let id: i64 = row.get(0).map_err(failed)?;
        let columns = (row.get(1), row.get(2), text(row, 3));
        let (Ok(revision), Ok(total), Some(key)) = columns else {
            return Err(malformed(database));
        };
        let row = table.live_revision.len();
        if usize::try_from(id) != Ok(row + 1) {
            return Err(missing());
        }
        if revision > table.revision_of(key.as_bytes()) {
            table.mark_live(key.as_bytes().into(), row, revision);
        } else {
            table.live_revision.push(0);
        }
        if revision > table.last_revision {
            table.last_revision = revision;
            table.scan_from = row + 1;
            expected = total;
        }
    }
    if table.live_sum == expected {
        Ok(table)
    } else {
        Err(missing())
    }
}

fn read_documents(
    connection: &Connection,
    database: &Path,
    rows_of_table: &RowTable,
    each: &mut dyn FnMut(Record),
) -> Result<(), StoreError> {
    let failed = |error| unreadable(database, error);
    let missing = || StoreError::damaged(database, "documents are missing");
    let mut all = connection
        .prepare("SELECT key, value FROM versions ORDER BY id")
        .map_err(failed)?;
    let mut rows = all.query([]).map_err(failed)?;
    for revision in &rows_of_table.live_revision {
        let row = rows.next().map_err(failed)?.ok_or_else(missing)?;
        if *revision == 0 {
            continue;
        }
        let (Some(key), Some(value)) = (text(row, 0), text(row, 1)) else {
            return Err(malformed(database));
        };
        let record = document::read(key, value).map_err(|error| match error {
            Unreadable::Newer(what) => StoreError::newer(database, &what),
            Unreadable::Damaged(what) => StoreError::damaged(database, what),
        })?;
        record.into_iter().for_each(&mut *each);
    }
    Ok(())
}

fn malformed(database: &Path) -> StoreError {
    StoreError::damaged(database, "a row is not of its types")
}

fn keys_of<T>(
    all: &[T],
    key_of: fn(&T) -> serde_json::Result<Vec<u8>>,
) -> rusqlite::Result<Vec<Box<[u8]>>> {
    let key = |one| key_of(one).map(Vec::into_boxed_slice).map_err(unwritable);
    all.iter().map(key).collect()
}

/// Writes records with their keys into rows, the mark where there is no record, and empties the rows
/// of all versions of what is forgotten: all of it or nothing.
fn write<'a>(
    connection: &mut Connection,
    placed: impl Iterator<Item = (usize, &'a [u8], Option<&'a Record>)>,
    forgotten: &[Box<[u8]>],
    revision: i64,
    live_sum: i64,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    let mut statement = transaction.prepare_cached(
        "INSERT OR REPLACE INTO versions (id, revision, total, key, value) \
         VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    let mut value = Vec::new();
    for (row, key, record) in placed {
        value.clear();
        match record {
            Some(record) => document::write(record, &mut value).map_err(unwritable)?,
            None => value.extend_from_slice(document::EMPTY_DOCUMENT.as_bytes()),
        }
        let id = i64::try_from(row + 1).map_err(unwritable)?;
        let [key, value] = [key, &value].map(|text| ToSqlOutput::Borrowed(ValueRef::Text(text)));
        statement.execute((id, revision, live_sum, key, value))?;
    }
    drop(statement);
    if !forgotten.is_empty() {
        empty_rows(&transaction, forgotten)?;
    }
    transaction.commit()
}

/// There is no index by key, so that all keys are looked for in one pass.
fn empty_rows(transaction: &Transaction<'_>, keys: &[Box<[u8]>]) -> rusqlite::Result<()> {
    let keys = keys.iter().map(|key| str::from_utf8(key));
    let keys = keys.collect::<Result<Vec<_>, _>>().map_err(unwritable)?;
    let keys = serde_json::to_string(&keys).map_err(unwritable)?;
    transaction.execute(
        "UPDATE versions SET revision = 0, total = 0, key = ?1, value = '' \
         WHERE key IN (SELECT value FROM json_each(?2))",
        (document::FORGOTTEN_KEY, keys),
    )?;
    Ok(())
}

/// Commits something that changes nothing.
fn probe(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(
        "INSERT INTO versions (revision, total, key, value) VALUES (0, 0, 'probe', ''); \
         DELETE FROM versions WHERE id = last_insert_rowid();",
    )?;
    transaction.commit()
}

fn unwritable(error: impl Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(error))
}

/// A column as text, where it is.
fn text<'a>(row: &'a Row<'_>, column: usize) -> Option<&'a str> {
    row.get_ref(column)
        .ok()
        .and_then(|value| value.as_str().ok())
}
