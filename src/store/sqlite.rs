use std::{
    error::Error,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    time::Duration,
};

use hashbrown::HashMap;
use rusqlite::{
    Connection, ErrorCode, OpenFlags, Row,
    config::DbConfig,
    ffi,
    hooks::Wal,
    types::{ToSqlOutput, ValueRef},
};

use super::{Batch, Record, Store, StoreError, Unreadable, decode, key_of, write_document};

/// The embedded storage: one SQLite database in WAL mode, one fsync or more a commit.
///
/// A document never overwrites the one before it. It goes into a new row, or into the next one that no longer counts,
/// so that what a commit writes lies side by side, several documents in a page, however many numbers there are.
#[derive(Debug)]
pub struct Sqlite {
    connection: Connection,
    database: PathBuf,
    versions: Versions,
    /// Pages in the write-ahead log, as of the last commit.
    log_pages: Arc<AtomicI32>,
    /// How many there are to be before they are written into the database.
    checkpoint_at: i32,
    /// Held, and with it the folder, until the process ends.
    _lock: File,
}

/// What is in the table `versions`, as of the last commit. Its ids count from 1 and have no gaps; here they count
/// from 0.
///
/// Each commit has a revision, and its rows have the total of the revisions of all rows that count after it. Where a
/// page is an older one than the rest, a document that counts is missing or older, and the total is not met.
#[derive(Debug, Default)]
struct Versions {
    /// The revision of a row that holds the newest document under its key; 0 of a row that does not count.
    counting: Vec<i64>,
    /// The row that holds the newest document, for each key.
    newest: HashMap<Box<[u8]>, usize>,
    /// Where the next row that does not count is looked for.
    next: usize,
    /// The newest revision.
    revision: i64,
    /// The total of `counting`.
    total: i64,
}

const DATABASE: &str = "whatsapp-quality-exporter.db";
/// Marks the file as this program's ("WAQE"); `file` and the `sqlite3` shell show it.
const APPLICATION_ID: u32 = 0x5741_5145;
/// Bytes in a page of the database.
const PAGE_SIZE: u64 = 4096;
/// Pages in the write-ahead log before they are written into the database: 32 MiB.
const CHECKPOINT_PAGES: i32 = 8192;
/// Pages that are added to it before that is tried again, where it failed.
const CHECKPOINT_AGAIN: i32 = 1024;
/// The version of the tables; those before were never released.
const FORMAT: u32 = 3;
/// Rows that need not count; in a larger fleet as many as do count.
const SPARE: usize = 1024;

impl Sqlite {
    /// Opens the database in `folder`, and makes both where there are none.
    ///
    /// # Errors
    ///
    /// [`StoreError::Folder`], [`StoreError::InUse`], [`StoreError::Damaged`], [`StoreError::Newer`]; the
    /// database is as it was before.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let in_folder = |source| unusable(folder, source);
        create_private(folder).map_err(in_folder)?;
        let lock = private_file()
            .create(true)
            .truncate(false)
            .open(folder.join("lock"))
            .map_err(in_folder)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::InUse {
                    path: folder.into(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(in_folder(error)),
        }

        let database = folder.join(DATABASE);
        match fs::metadata(&database) {
            Ok(found) if found.len() == 0 => return Err(damaged(&database, "the file is empty")),
            // SQLite itself may overlook it where the missing bytes are unused ones. Where a log is there, the disk may
            // have been full while the log was written into the database, which it will be again.
            Ok(found) if found.len() % PAGE_SIZE != 0 && log_bytes(&database) == 0 => {
                return Err(damaged(&database, "the file is cut off"));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => create(folder, &database)?,
            Err(error) => return Err(in_folder(error)),
        }
        let connection = open_existing(&database)?;
        Ok(Self {
            connection,
            database,
            versions: Versions::default(),
            log_pages: Arc::new(AtomicI32::new(0)),
            checkpoint_at: CHECKPOINT_PAGES,
            _lock: lock,
        })
    }

    /// The error. After one that is fatal closing must not try once more what failed: a second fsync may succeed and
    /// have kept nothing, and the log would be removed.
    fn failed(&self, operation: &'static str, source: rusqlite::Error) -> StoreError {
        let error = engine_failed(&self.database, operation, source);
        if error.is_fatal() {
            // It does nothing but set a flag.
            let _ = self
                .connection
                .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        }
        error
    }

    /// Writes the log into the database, in a mode of SQLite's `wal_checkpoint`.
    fn write_log(&self, mode: &str) -> Result<(), StoreError> {
        // SQLite reports no error where a reader is in the way: it answers that it was busy, or that it wrote back fewer
        // pages than the log has.
        let written =
            self.connection
                .query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
                    Ok(row.get::<_, i64>(0)? == 0
                        && row.get::<_, i64>(1)? == row.get::<_, i64>(2)?)
                });
        match written {
            Ok(true) => Ok(()),
            Ok(false) => Err(StoreError::Held {
                path: self.database.clone(),
            }),
            Err(source) => Err(self.failed("write the log into the database", source)),
        }
    }

    fn check(&self) -> Result<(), StoreError> {
        let verdict: String = self
            .connection
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(|error| unreadable(&self.database, error))?;
        if verdict == "ok" {
            Ok(())
        } else {
            Err(damaged(&self.database, &verdict))
        }
    }

    fn read(&mut self, each: &mut dyn FnMut(Record)) -> Result<(), StoreError> {
        let failed = |error| unreadable(&self.database, error);
        let malformed = || damaged(&self.database, "a row is not of its types");
        // Where a page stands in the place of another, or is an older one, all can be read and some are missing.
        let missing = || damaged(&self.database, "documents are missing");
        let versions = &mut self.versions;
        let mut expected = 0;
        let mut all = self
            .connection
            .prepare("SELECT id, revision, total, key FROM versions ORDER BY id")
            .map_err(failed)?;
        let mut rows = all.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let id: i64 = row.get(0).map_err(failed)?;
            let (Ok(revision), Ok(total), Some(key)) = (row.get(1), row.get(2), text(row, 3))
            else {
                return Err(malformed());
            };
            let row = versions.counting.len();
            if usize::try_from(id) != Ok(row + 1) {
                return Err(missing());
            }
            if revision > versions.revision_of(key.as_bytes()) {
                versions.take(key.as_bytes().into(), row, revision);
            } else {
                versions.counting.push(0);
            }
            if revision > versions.revision {
                versions.revision = revision;
                versions.next = row + 1;
                expected = total;
            }
        }
        if versions.total != expected {
            return Err(missing());
        }

        let mut all = self
            .connection
            .prepare("SELECT key, value FROM versions ORDER BY id")
            .map_err(failed)?;
        let mut rows = all.query([]).map_err(failed)?;
        for revision in &versions.counting {
            let row = rows.next().map_err(failed)?.ok_or_else(missing)?;
            if *revision == 0 {
                continue;
            }
            let (Some(key), Some(value)) = (text(row, 0), text(row, 1)) else {
                return Err(malformed());
            };
            each(decode(key, value).map_err(|error| match error {
                Unreadable::Newer(what) => StoreError::Newer {
                    path: self.database.clone(),
                    what,
                },
                Unreadable::Damaged(what) => damaged(&self.database, &what),
            })?);
        }
        Ok(())
    }
}

impl Versions {
    /// The rows into which so many documents go: new ones while few are there that do not count, then those.
    fn rows(&self, documents: usize) -> Vec<usize> {
        let there = self.counting.len();
        let wanted = self.newest.len() + self.newest.len().max(SPARE);
        let overwritten = documents.saturating_sub(wanted.saturating_sub(there));
        let old = (self.next..there)
            .chain(0..self.next)
            .filter(|row| self.counting.get(*row) == Some(&0));
        old.take(overwritten)
            .chain(there..)
            .take(documents)
            .collect()
    }

    /// The revision of the newest document under a key; 0 where there is none.
    fn revision_of(&self, key: &[u8]) -> i64 {
        self.newest
            .get(key)
            .and_then(|row| self.counting.get(*row))
            .copied()
            .unwrap_or_default()
    }

    /// Notes that a row holds the newest document under a key.
    fn take(&mut self, key: Box<[u8]>, row: usize, revision: i64) {
        // Of a damaged database it may overflow.
        self.total = self
            .total
            .wrapping_add(revision)
            .wrapping_sub(self.revision_of(&key));
        let before = self.newest.insert(key, row);
        if let Some(counting) = before.and_then(|row| self.counting.get_mut(row)) {
            *counting = 0;
        }
        match self.counting.get_mut(row) {
            Some(counting) => {
                *counting = revision;
                self.next = row + 1;
            }
            None => self.counting.push(revision),
        }
    }
}

impl Store for Sqlite {
    fn load(&mut self, each: &mut dyn FnMut(Record)) -> Result<(), StoreError> {
        self.check()?;
        self.read(each)?;
        // Only now, so that a database that is refused stays as it was, and the log beside it, too.
        let failed = |source| engine_failed(&self.database, "open", source);
        self.connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)
            .map_err(failed)?;
        self.connection
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0;")
            .map_err(failed)?;
        let log_pages = Arc::clone(&self.log_pages);
        let hook = move |_: &mut Wal, pages| {
            log_pages.store(pages, Ordering::Relaxed);
            Ok(())
        };
        self.connection.wal_hook(Some(hook)).map_err(failed)?;
        if log_bytes(&self.database) == 0 {
            return Ok(());
        }
        // What a killed process wrote may be nowhere but in the kernel's memory; after a failed fsync the kernel may
        // believe that the disk has it. So the log is synced, and then written once more, into the database.
        match self.write_log("TRUNCATE") {
            Err(error) if error.is_fatal() => Err(error),
            // Where the disk is full, it stays in the log.
            _ => Ok(()),
        }
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let records = batch.records();
        let rows = self.versions.rows(records.len());
        let key = |record| {
            key_of(record)
                .map(Vec::into_boxed_slice)
                .map_err(unwritable)
        };
        let keys = records.iter().map(key).collect::<Result<Vec<_>, _>>();
        let keys = keys.map_err(|source| engine_failed(&self.database, "commit", source))?;
        let revision = self.versions.revision + 1;
        let total = keys.iter().fold(self.versions.total, |total, key| {
            total + revision - self.versions.revision_of(key)
        });
        let placed = keys
            .iter()
            .zip(records)
            .zip(&rows)
            .map(|((key, record), row)| (*row, &**key, record));
        write(&mut self.connection, placed, revision, total)
            .map_err(|source| self.failed("commit", source))?;
        self.versions.revision = revision;
        for (key, row) in keys.into_iter().zip(rows) {
            self.versions.take(key, row, revision);
        }
        Ok(())
    }

    fn probe(&mut self) -> Result<(), StoreError> {
        probe(&mut self.connection).map_err(|source| self.failed("probe", source))
    }

    /// Writes the log into the database where it has grown long. SQLite would do so within a commit and say nothing of
    /// a failure.
    fn checkpoint(&mut self) -> Result<(), StoreError> {
        let pages = self.log_pages.load(Ordering::Relaxed);
        if pages < self.checkpoint_at {
            return Ok(());
        }
        let written = self.write_log("PASSIVE");
        self.checkpoint_at = if written.is_ok() {
            CHECKPOINT_PAGES
        } else {
            pages + CHECKPOINT_AGAIN
        };
        written
    }

    fn size_bytes(&self) -> Result<u64, StoreError> {
        let failed = |source| StoreError::Size {
            path: self.database.clone(),
            source,
        };
        Ok(fs::metadata(&self.database).map_err(failed)?.len() + log_bytes(&self.database))
    }
}

/// Writes records with their keys into rows, all or none.
fn write<'a>(
    connection: &mut Connection,
    placed: impl Iterator<Item = (usize, &'a [u8], &'a Record)>,
    revision: i64,
    total: i64,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    let mut statement = transaction.prepare_cached(
        "INSERT OR REPLACE INTO versions (id, revision, total, key, value) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    let mut value = Vec::new();
    for (row, key, record) in placed {
        value.clear();
        write_document(record, &mut value).map_err(unwritable)?;
        let id = i64::try_from(row + 1).map_err(unwritable)?;
        let [key, value] = [key, &value].map(|text| ToSqlOutput::Borrowed(ValueRef::Text(text)));
        statement.execute((id, revision, total, key, value))?;
    }
    drop(statement);
    transaction.commit()
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

/// The size of the write-ahead log beside a database.
fn log_bytes(database: &Path) -> u64 {
    let mut log = database.as_os_str().to_owned();
    log.push("-wal");
    fs::metadata(&log)
        .map(|found| found.len())
        .unwrap_or_default()
}

/// Waits until the disk has the name of a file or a folder.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// Phone numbers are personal data: what is made here is for this user alone.
fn create_private(folder: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = folder
        .ancestors()
        .filter(|path| !path.as_os_str().is_empty())
        .take_while(|path| !path.exists())
        .collect();
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)?;
    missing.into_iter().try_for_each(sync_folder_of)
}

/// To make a file that this user alone may read. SQLite gives what it makes beside a database the mode of that.
fn private_file() -> fs::OpenOptions {
    let mut options = File::options();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Makes a database whole under another name first, so that one that is there is never half made.
fn create(folder: &Path, database: &Path) -> Result<(), StoreError> {
    let in_folder = |source| unusable(folder, source);
    for left in ["-wal", "-shm"] {
        if folder.join(format!("{DATABASE}{left}")).exists() {
            let what = format!("the file is missing, but its {DATABASE}{left} is there");
            return Err(damaged(database, &what));
        }
    }
    let unfinished = folder.join(format!("{DATABASE}.new"));
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(in_folder(error)),
        _ => {}
    }
    private_file()
        .create_new(true)
        .open(&unfinished)
        .map_err(in_folder)?;
    let failed = |source| engine_failed(database, "create the tables", source);
    let connection = Connection::open(&unfinished).map_err(failed)?;
    connection
        .execute_batch(&format!(
            "PRAGMA page_size = {PAGE_SIZE}; PRAGMA synchronous = FULL; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT}; \
             CREATE TABLE versions (id INTEGER PRIMARY KEY, revision INTEGER NOT NULL, total INTEGER NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL); \
             CREATE VIEW documents AS SELECT key, value, max(revision) AS revision FROM versions GROUP BY key;"
        ))
        .map_err(failed)?;
    connection.close().map_err(|(_, error)| failed(error))?;
    fs::rename(&unfinished, database).map_err(in_folder)?;
    sync_folder_of(database).map_err(in_folder)
}

fn open_existing(database: &Path) -> Result<Connection, StoreError> {
    let failed = |error| unreadable(database, error);
    let connection = Connection::open_with_flags(
        database,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(failed)?;
    // Closing would write the log of a killed process into the database; an empty one is only removed.
    connection
        .set_db_config(
            DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE,
            log_bytes(database) > 0,
        )
        .map_err(failed)?;
    // A person with the sqlite3 shell may hold the lock for a moment.
    connection
        .busy_timeout(Duration::from_secs(1))
        .map_err(failed)?;
    let pragma = |name: &str| {
        connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, u32>(0))
    };
    let application = pragma("application_id").map_err(failed)?;
    if application != APPLICATION_ID {
        return Err(damaged(database, "it is the database of another program"));
    }
    let format = pragma("user_version").map_err(failed)?;
    if format > FORMAT {
        let what = format!("its table has format {format}, and this version reads {FORMAT}");
        return Err(StoreError::Newer {
            path: database.into(),
            what,
        });
    }
    if format < FORMAT {
        return Err(damaged(database, "its format was never released"));
    }
    Ok(connection)
}

fn damaged(database: &Path, what: &str) -> StoreError {
    StoreError::Damaged {
        path: database.into(),
        what: what.into(),
    }
}

fn unreadable(database: &Path, error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            damaged(database, &error.to_string())
        }
        _ => engine_failed(database, "open", error),
    }
}

/// SQLite says of a full disk only that writing failed, where it is no single page that it could not write.
fn engine_failed(database: &Path, operation: &'static str, source: rusqlite::Error) -> StoreError {
    let folder = database.parent().unwrap_or(database);
    let writing_failed = source.sqlite_error().is_some_and(|error| {
        error.code == ErrorCode::DiskFull
            || matches!(
                error.extended_code,
                ffi::SQLITE_IOERR_WRITE | ffi::SQLITE_IOERR_SHMSIZE | ffi::SQLITE_IOERR_TRUNCATE
            )
    });
    match free_bytes(folder) {
        Some(free) if writing_failed => StoreError::Full {
            path: folder.into(),
            source: Box::new(source),
            free,
        },
        _ => StoreError::Engine {
            path: database.into(),
            operation,
            source,
        },
    }
}

fn unusable(folder: &Path, source: io::Error) -> StoreError {
    match free_bytes(folder) {
        Some(free) if source.kind() == io::ErrorKind::StorageFull => StoreError::Full {
            path: folder.into(),
            source: Box::new(source),
            free,
        },
        _ => StoreError::Folder {
            path: folder.into(),
            source,
        },
    }
}

/// What this user may still write to the disk of a folder; `None` where the system does not say.
fn free_bytes(folder: &Path) -> Option<u64> {
    #[cfg(unix)]
    return rustix::fs::statvfs(folder)
        .ok()
        .map(|found| found.f_bavail.saturating_mul(found.f_frsize));
    #[cfg(not(unix))]
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_do_not_count_are_overwritten_in_turn() {
        let mut versions = Versions::default();
        let mut commit = |keys: &[&str]| {
            let rows = versions.rows(keys.len());
            for (key, row) in keys.iter().zip(&rows) {
                versions.take(key.as_bytes().into(), *row, 1);
            }
            rows
        };
        assert_eq!(commit(&["quiet", "busy"]), [0, 1]);
        let rows = 2 + SPARE;
        let written: Vec<_> = (2..3 * rows).flat_map(|_| commit(&["busy"])).collect();
        let without_the_quiet: Vec<_> = (2..rows)
            .chain(1..rows)
            .chain(1..rows)
            .chain(1..rows)
            .take(written.len())
            .collect();
        assert_eq!(written, without_the_quiet);
        // What is new makes room for as much again, and the search goes on where it was.
        let next = written.last().unwrap() + 1;
        assert_eq!(commit(&["new"]), [next]);
        assert_eq!(commit(&["busy"]), [rows]);
        assert_eq!(commit(&["busy"]), [next + 1]);
    }
}
