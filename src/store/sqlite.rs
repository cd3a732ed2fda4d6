use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use hashbrown::HashMap;
use rusqlite::{
    Connection, ErrorCode, OpenFlags, Transaction,
    config::DbConfig,
    types::{ToSqlOutput, ValueRef},
};

use super::{Record, Store, StoreError, Unreadable, decode, write_document, write_key};

/// The embedded storage: one SQLite database in WAL mode, one fsync or more a commit.
///
/// Documents are only ever appended, and the newest under a key counts: what a commit writes lies side by side,
/// several documents in a page, however many numbers there are. The oldest rows are removed as new ones come; those
/// that still count are appended again first.
#[derive(Debug)]
pub struct Sqlite {
    connection: Connection,
    database: PathBuf,
    versions: Versions,
    /// Held, and with it the folder, until the process ends.
    _lock: File,
}

/// What is in the table `versions`, as of the last commit. Its ids have no gaps.
#[derive(Debug, Default)]
struct Versions {
    /// The id of the oldest row.
    oldest: i64,
    /// The id of the newest row.
    newest: i64,
    /// The id of the row that counts, for each key.
    current: HashMap<Box<[u8]>, i64>,
}

/// A key and the id of its row.
type Row = (Box<[u8]>, i64);

const DATABASE: &str = "whatsapp-quality-exporter.db";
/// Marks the file as this program's ("WAQE"); `file` and the `sqlite3` shell show it.
const APPLICATION_ID: u32 = 0x5741_5145;
/// Bytes in a page of the database.
const PAGE_SIZE: u64 = 4096;
/// Pages in the write-ahead log before they are written into the database: 32 MiB.
const CHECKPOINT_PAGES: u32 = 8192;
/// The version of the tables; the first was never released.
const FORMAT: u32 = 2;
/// Rows that no longer count and stay nevertheless; in a larger fleet as many as do count.
const SPARE: usize = 2048;
/// Rows removed at a time, at least.
const TRIMMED: usize = 128;

impl Sqlite {
    /// Opens the database in `folder`, and makes both where there are none.
    ///
    /// # Errors
    ///
    /// [`StoreError::Folder`], [`StoreError::InUse`], [`StoreError::Damaged`], [`StoreError::Newer`]; the
    /// database is as it was before.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let in_folder = |source| StoreError::Folder { path: folder.into(), source };
        create_private(folder).map_err(in_folder)?;
        let lock =
            File::options().create(true).truncate(false).write(true).open(folder.join("lock")).map_err(in_folder)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::InUse { path: folder.into() }),
            Err(TryLockError::Error(error)) => return Err(in_folder(error)),
        }

        let database = folder.join(DATABASE);
        match fs::metadata(&database) {
            Ok(found) if found.len() == 0 => return Err(damaged(&database, "the file is empty")),
            // SQLite itself may overlook it where the missing bytes are unused ones.
            Ok(found) if found.len() % PAGE_SIZE != 0 => return Err(damaged(&database, "the file is cut off")),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => create(folder, &database)?,
            Err(error) => return Err(in_folder(error)),
        }
        let connection = open_existing(&database)?;
        Ok(Self { connection, database, versions: Versions::default(), _lock: lock })
    }

    fn engine(operation: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
        move |source| StoreError::Engine { operation, source }
    }

    fn check(&self) -> Result<(), StoreError> {
        let verdict: String = self
            .connection
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(|error| unreadable(&self.database, error))?;
        if verdict == "ok" { Ok(()) } else { Err(damaged(&self.database, &verdict)) }
    }

    fn read(&mut self, each: &mut dyn FnMut(Record)) -> Result<(), StoreError> {
        let failed = |error| unreadable(&self.database, error);
        let versions = &mut self.versions;
        let mut all =
            self.connection.prepare("SELECT id, key, value FROM versions ORDER BY id DESC").map_err(failed)?;
        let mut rows = all.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let text = |index| row.get_ref(index).ok().and_then(|value| value.as_str().ok());
            let (Ok(id), Some(key), Some(value)) = (row.get(0), text(1), text(2)) else {
                return Err(damaged(&self.database, "a document is not text"));
            };
            if versions.newest == 0 {
                versions.newest = id;
            } else if id != versions.oldest - 1 {
                // Where a page stands in the place of another, all can be read and some are missing.
                return Err(damaged(&self.database, "documents are missing"));
            }
            versions.oldest = id;
            if versions.current.contains_key(key.as_bytes()) {
                continue;
            }
            versions.current.insert(key.as_bytes().into(), id);
            each(decode(key, value).map_err(|error| match error {
                Unreadable::Newer(found) => newer(&self.database, found),
                Unreadable::Damaged(what) => damaged(&self.database, &what),
            })?);
        }
        versions.oldest = versions.oldest.max(1);
        Ok(())
    }
}

impl Versions {
    /// The id of the oldest row that stays when so many are appended: at most two go for each that comes, so that no
    /// commit takes much longer than another.
    fn keep_from(&self, appended: usize) -> i64 {
        let rows = usize::try_from(self.newest - self.oldest + 1).unwrap_or_default();
        let spare = rows.saturating_sub(self.current.len());
        let surplus = spare.saturating_sub(self.current.len().max(SPARE));
        let trimmed = if surplus < TRIMMED { 0 } else { surplus.min(TRIMMED.max(2 * appended)) };
        self.oldest + i64::try_from(trimmed).unwrap_or_default()
    }
}

/// Removes the rows before `keep_from`, and returns those that were appended again for it: they still count.
fn trim(transaction: &Transaction<'_>, versions: &Versions, keep_from: i64) -> rusqlite::Result<Vec<Row>> {
    let mut moved = Vec::new();
    if keep_from > versions.oldest {
        let mut oldest = transaction.prepare_cached("SELECT id, key FROM versions WHERE id < ?1 ORDER BY id")?;
        let mut rows = oldest.query([keep_from])?;
        while let Some(row) = rows.next()? {
            let id = row.get(0)?;
            let key = row.get_ref(1)?.as_bytes()?;
            if versions.current.get(key) == Some(&id) {
                moved.push((Box::from(key), id));
            }
        }
        let mut again = transaction
            .prepare_cached("INSERT INTO versions (key, value) SELECT key, value FROM versions WHERE id = ?1")?;
        for (_, id) in &mut moved {
            *id = again.insert([*id])?;
        }
        transaction.prepare_cached("DELETE FROM versions WHERE id < ?1")?.execute([keep_from])?;
    }
    Ok(moved)
}

/// Appends records, and returns their keys with the ids of their rows.
fn append(transaction: &Transaction<'_>, records: &[Record]) -> rusqlite::Result<Vec<Row>> {
    let unwritable = |error| rusqlite::Error::ToSqlConversionFailure(Box::new(error));
    let mut statement = transaction.prepare_cached("INSERT INTO versions (key, value) VALUES (?1, ?2)")?;
    let mut appended = Vec::with_capacity(records.len());
    let (mut key, mut value) = (Vec::new(), Vec::new());
    for record in records {
        key.clear();
        value.clear();
        write_key(record, &mut key).map_err(unwritable)?;
        write_document(record, &mut value).map_err(unwritable)?;
        let id = statement.insert([&key, &value].map(|text| ToSqlOutput::Borrowed(ValueRef::Text(text))))?;
        appended.push((key.as_slice().into(), id));
    }
    Ok(appended)
}

impl Store for Sqlite {
    fn load(&mut self, each: &mut dyn FnMut(Record)) -> Result<(), StoreError> {
        self.check()?;
        self.read(each)?;
        // Only now, so that a database that is refused stays as it was, and the log beside it, too.
        let failed = Self::engine("open");
        self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map_err(&failed)?;
        self.connection
            .execute_batch(&format!(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES};"
            ))
            .map_err(&failed)
    }

    fn commit(&mut self, records: &[Record]) -> Result<(), StoreError> {
        let failed = Self::engine("commit");
        let keep_from = self.versions.keep_from(records.len());
        let transaction = self.connection.transaction().map_err(&failed)?;
        let moved = trim(&transaction, &self.versions, keep_from).map_err(&failed)?;
        let appended = append(&transaction, records).map_err(&failed)?;
        transaction.commit().map_err(&failed)?;
        self.versions.oldest = keep_from;
        for (key, id) in moved.into_iter().chain(appended) {
            self.versions.newest = id;
            self.versions.current.insert(key, id);
        }
        Ok(())
    }

    fn probe(&mut self) -> Result<(), StoreError> {
        let failed = Self::engine("probe");
        let transaction = self.connection.transaction().map_err(&failed)?;
        transaction
            .execute_batch(
                "INSERT INTO versions (key, value) VALUES ('probe', ''); \
                 DELETE FROM versions WHERE id = last_insert_rowid();",
            )
            .map_err(&failed)?;
        transaction.commit().map_err(&failed)
    }

    fn size_bytes(&self) -> Result<u64, StoreError> {
        let failed = |source| StoreError::Folder { path: self.database.clone(), source };
        Ok(fs::metadata(&self.database).map_err(failed)?.len() + log_bytes(&self.database))
    }
}

/// The size of the write-ahead log beside a database.
fn log_bytes(database: &Path) -> u64 {
    let mut log = database.as_os_str().to_owned();
    log.push("-wal");
    fs::metadata(&log).map(|found| found.len()).unwrap_or_default()
}

/// Phone numbers are personal data: what is made here is for this user alone.
fn create_private(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Makes a database whole under another name first, so that one that is there is never half made.
fn create(folder: &Path, database: &Path) -> Result<(), StoreError> {
    let in_folder = |source| StoreError::Folder { path: folder.into(), source };
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
    let failed = Sqlite::engine("create the tables");
    let connection = Connection::open(&unfinished).map_err(&failed)?;
    connection
        .execute_batch(&format!(
            "PRAGMA page_size = {PAGE_SIZE}; PRAGMA synchronous = FULL; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT}; \
             CREATE TABLE versions (id INTEGER PRIMARY KEY, key TEXT NOT NULL, value TEXT NOT NULL); \
             CREATE VIEW documents AS SELECT key, value, max(id) AS id FROM versions GROUP BY key;"
        ))
        .map_err(&failed)?;
    connection.close().map_err(|(_, error)| failed(error))?;
    fs::rename(&unfinished, database).map_err(in_folder)?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(in_folder)
}

fn open_existing(database: &Path) -> Result<Connection, StoreError> {
    let failed = |error| unreadable(database, error);
    let connection =
        Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
            .map_err(failed)?;
    // Closing would write the log of a killed process into the database; an empty one is only removed.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, log_bytes(database) > 0).map_err(failed)?;
    // A person with the sqlite3 shell may hold the lock for a moment.
    connection.busy_timeout(Duration::from_secs(1)).map_err(failed)?;
    let pragma = |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, u32>(0));
    let application = pragma("application_id").map_err(failed)?;
    if application != APPLICATION_ID {
        return Err(damaged(database, "it is the database of another program"));
    }
    let format = pragma("user_version").map_err(failed)?;
    if format > FORMAT {
        return Err(newer(database, format));
    }
    if format < FORMAT {
        return Err(damaged(database, "its format was never released"));
    }
    Ok(connection)
}

fn newer(database: &Path, found: u32) -> StoreError {
    StoreError::Newer { path: database.into(), found, known: FORMAT.max(super::VERSION) }
}

fn damaged(database: &Path, what: &str) -> StoreError {
    StoreError::Damaged { path: database.into(), what: what.into() }
}

fn unreadable(database: &Path, error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => damaged(database, &error.to_string()),
        _ => StoreError::Engine { operation: "open", source: error },
    }
}
