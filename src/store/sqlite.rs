use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig};

use super::{Record, Store, StoreError, Unreadable, decode, encode, key_of};

/// The embedded storage: one SQLite database in WAL mode, one fsync or more a commit.
#[derive(Debug)]
pub struct Sqlite {
    connection: Connection,
    database: PathBuf,
    /// Held, and with it the folder, until the process ends.
    _lock: File,
}

const DATABASE: &str = "whatsapp-quality-exporter.db";
/// Marks the file as this program's ("WAQE"); `file` and the `sqlite3` shell show it.
const APPLICATION_ID: u32 = 0x5741_5145;
/// Bytes in a page of the database.
const PAGE_SIZE: u64 = 4096;
/// Pages in the write-ahead log before they are written into the database: 32 MiB, so that a busy page is written
/// there once and not for every few commits.
const CHECKPOINT_PAGES: u32 = 8192;
/// The version of the tables.
const FORMAT: u32 = 1;

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
        Ok(Self { connection, database, _lock: lock })
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

    fn read(&self, each: &mut dyn FnMut(Record)) -> Result<(), StoreError> {
        let failed = |error| unreadable(&self.database, error);
        let mut all = self.connection.prepare("SELECT key, value FROM documents ORDER BY key").map_err(failed)?;
        let mut rows = all.query([]).map_err(failed)?;
        let mut last = String::new();
        while let Some(row) = rows.next().map_err(failed)? {
            let text = |index| row.get_ref(index).ok().and_then(|value| value.as_str().ok());
            let (Some(key), Some(value)) = (text(0), text(1)) else {
                return Err(damaged(&self.database, "a document is not text"));
            };
            // Where a page stands in the place of another, all can be read and some are missing.
            if key <= last.as_str() {
                return Err(damaged(&self.database, "the documents are out of order"));
            }
            key.clone_into(&mut last);
            each(decode(key, value).map_err(|error| match error {
                Unreadable::Newer(found) => newer(&self.database, found),
                Unreadable::Damaged(what) => damaged(&self.database, &what),
            })?);
        }
        Ok(())
    }
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
        let transaction = self.connection.transaction().map_err(&failed)?;
        {
            let mut put = transaction
                .prepare_cached(
                    "INSERT INTO documents (key, value) VALUES (?1, ?2) \
                     ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                )
                .map_err(&failed)?;
            for record in records {
                put.execute((key_of(record), encode(record))).map_err(&failed)?;
            }
        }
        transaction.commit().map_err(&failed)
    }

    fn probe(&mut self) -> Result<(), StoreError> {
        let failed = Self::engine("probe");
        let transaction = self.connection.transaction().map_err(&failed)?;
        transaction
            .execute_batch(
                "INSERT INTO documents (key, value) VALUES ('probe', ''); \
                 DELETE FROM documents WHERE key = 'probe';",
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
             CREATE TABLE documents (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;"
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
