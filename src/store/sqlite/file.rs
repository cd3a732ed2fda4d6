//! The files of the storage: the folder, its lock, the database, and what errors of them mean.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::Path,
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, MAIN_DB, OpenFlags, config::DbConfig, ffi};

use super::super::{StoreError, StoreErrorKind};

pub(super) const DATABASE: &str = "whatsapp-quality-exporter.db";
/// Marks the file as this program's ("WAQE"); `file` and the `sqlite3` shell show it.
const APPLICATION_ID: u32 = 0x5741_5145;
/// Bytes in a page of the database.
const PAGE_SIZE: u64 = 4096;
/// The version of the tables; those before were never released.
const FORMAT: u32 = 3;

/// Makes the folder where there is none, and locks it for this process.
pub(super) fn lock(folder: &Path) -> Result<File, StoreError> {
    let in_folder = |source| unusable(folder, source);
    create_private(folder).map_err(in_folder)?;
    let file = folder.join("lock");
    let lock = private_file()
        .create(true)
        .truncate(false)
        .open(file)
        .map_err(in_folder)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(StoreError::in_use(folder)),
        Err(TryLockError::Error(error)) => Err(in_folder(error)),
    }
}

/// Whether a database could be made in a folder, which need not be there.
pub(super) fn check_folder(folder: &Path) -> Result<(), StoreError> {
    let is_there = |path: &&Path| path.symlink_metadata().is_ok();
    let existing = folder.ancestors().find(is_there).unwrap_or(folder);
    let is_usable = fs::metadata(existing).and_then(|found| {
        if !found.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        #[cfg(unix)]
        rustix::fs::access(
            existing,
            rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK,
        )?;
        Ok(())
    });
    is_usable.map_err(|source| unusable(folder, source))
}

/// Opens the database of a folder, and makes it where there is none.
pub(super) fn open(folder: &Path, database: &Path) -> Result<Connection, StoreError> {
    match fs::metadata(database) {
        Ok(found) if found.len() == 0 => {
            return Err(StoreError::damaged(database, "the file is empty"));
        }
        // SQLite itself may overlook that bytes are missing at the end. Where a log is there, the
        // disk may have been full while the log was written back, which it will be again.
        Ok(found) if found.len() % PAGE_SIZE != 0 && wal_bytes(database) == 0 => {
            return Err(StoreError::damaged(database, "the file is cut off"));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(folder, database)?,
        Err(error) => return Err(unusable(folder, error)),
    }
    open_existing(database)
}

/// The size of the write-ahead log beside a database.
pub(super) fn wal_bytes(database: &Path) -> u64 {
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

/// Waits until the disk has the names of a database and of the files beside it.
pub(super) fn sync_name(database: &Path) -> Result<(), StoreError> {
    let folder = database.parent().unwrap_or(database);
    sync_folder_of(database).map_err(|source| unusable(folder, source))
}

/// Makes a folder for this user alone, because phone numbers are personal data.
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

/// Options to make a file that this user alone may read. SQLite gives the files that it makes
/// beside a database the mode of the database.
fn private_file() -> fs::OpenOptions {
    let mut options = File::options();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Makes a database under another name first, so that a database that is there is never half made.
fn create(folder: &Path, database: &Path) -> Result<(), StoreError> {
    let in_folder = |source| unusable(folder, source);
    for left in ["-wal", "-shm"] {
        if folder.join(format!("{DATABASE}{left}")).exists() {
            let what = format!("the file is missing, but its {DATABASE}{left} is there");
            return Err(StoreError::damaged(database, &what));
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
    let failed = |source| failed(database, "create the tables", source);
    let connection = Connection::open(&unfinished).map_err(failed)?;
    connection
        .execute_batch(&format!(
            "PRAGMA page_size = {PAGE_SIZE}; PRAGMA synchronous = FULL; \
             PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT}; \
             CREATE TABLE versions (id INTEGER PRIMARY KEY, revision INTEGER NOT NULL, \
             total INTEGER NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL); \
             CREATE VIEW documents AS SELECT key, value, max(revision) AS revision \
             FROM versions GROUP BY key;"
        ))
        .map_err(failed)?;
    connection.close().map_err(|(_, error)| failed(error))?;
    fs::rename(&unfinished, database).map_err(in_folder)?;
    sync_name(database)
}

fn open_existing(database: &Path) -> Result<Connection, StoreError> {
    let failed = |error| unreadable(database, error);
    let connection = Connection::open_with_flags(
        database,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(failed)?;
    // SQLite opens for reading what it may not write, and would refuse each change.
    if connection.is_readonly(MAIN_DB).map_err(failed)? {
        let what = "its permissions allow only reading";
        let kind = StoreErrorKind::ReadOnly;
        return Err(StoreError::file(kind, database, &user(), what));
    }
    // Closing would write the log of a killed process back; an empty one is only removed.
    connection
        .set_db_config(
            DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE,
            wal_bytes(database) > 0,
        )
        .map_err(failed)?;
    // A person with the sqlite3 shell may hold the lock for a moment.
    connection
        .busy_timeout(Duration::from_secs(1))
        .map_err(failed)?;
    check_format(&connection, database)?;
    Ok(connection)
}

/// Opens a database for reading alone, also while another process writes to it.
pub(super) fn open_to_read(database: &Path) -> Result<Connection, StoreError> {
    let failed = |error| unreadable(database, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database, flags).map_err(failed)?;
    connection
        .busy_timeout(Duration::from_secs(10))
        .map_err(failed)?;
    check_format(&connection, database)?;
    Ok(connection)
}

/// Whether it is this program's database, and of this version.
fn check_format(connection: &Connection, database: &Path) -> Result<(), StoreError> {
    let failed = |error| unreadable(database, error);
    let pragma = |name: &str| {
        connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, u32>(0))
    };
    let application = pragma("application_id").map_err(failed)?;
    if application != APPLICATION_ID {
        return Err(StoreError::damaged(
            database,
            "it is the database of another program",
        ));
    }
    let format = pragma("user_version").map_err(failed)?;
    if format > FORMAT {
        let what = format!("its table has format {format}, and this version reads {FORMAT}");
        return Err(StoreError::newer(database, &what));
    }
    if format < FORMAT {
        return Err(StoreError::damaged(
            database,
            "its format was never released",
        ));
    }
    Ok(())
}

pub(super) fn unreadable(database: &Path, error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::damaged(database, &error.to_string())
        }
        _ => failed(database, "open", error),
    }
}

/// Classifies an error of SQLite. On a full disk SQLite may report a failed write
/// (SQLITE_IOERR_WRITE and others) instead of SQLITE_FULL, so these count as full.
pub(super) fn failed(database: &Path, operation: &str, source: rusqlite::Error) -> StoreError {
    let folder = database.parent().unwrap_or(database);
    let codes = source
        .sqlite_error()
        .map(|error| (error.code, error.extended_code));
    let kind = match codes {
        Some((ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase, _)) => StoreErrorKind::Damaged,
        Some((_, ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC)) => StoreErrorKind::Lost,
        Some((ErrorCode::DiskFull, _)) => StoreErrorKind::Full,
        Some((ErrorCode::ReadOnly, _)) => StoreErrorKind::ReadOnly,
        Some((
            _,
            ffi::SQLITE_IOERR_WRITE | ffi::SQLITE_IOERR_SHMSIZE | ffi::SQLITE_IOERR_TRUNCATE,
        )) => StoreErrorKind::Full,
        _ => StoreErrorKind::Unavailable,
    };
    match free_bytes(folder) {
        Some(free) if kind == StoreErrorKind::Full => StoreError::full(folder, free, source),
        _ if matches!(
            codes,
            Some((ErrorCode::CannotOpen | ErrorCode::ReadOnly, _))
        ) =>
        {
            StoreError::file(kind, database, &user(), &source.to_string()).because(source)
        }
        _ => {
            let path = database.display();
            let sentence = format!("the database {path} failed to {operation}: {source}");
            StoreError::new(kind, sentence).because(source)
        }
    }
}

fn unusable(folder: &Path, source: io::Error) -> StoreError {
    match free_bytes(folder) {
        Some(free) if source.kind() == io::ErrorKind::StorageFull => {
            StoreError::full(folder, free, source)
        }
        _ => StoreError::folder(folder, &user(), source),
    }
}

/// The user whose rights count for files.
fn user() -> String {
    #[cfg(unix)]
    return format!("uid {}", rustix::process::geteuid().as_raw());
    #[cfg(not(unix))]
    "the one that started it".to_owned()
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
