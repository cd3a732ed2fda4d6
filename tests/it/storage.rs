//! What is kept: over restarts, beside damage, and when there is no room for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use rusqlite::{Connection, OpenFlags, config::DbConfig};
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use whatsapp_quality_exporter::{
    state::{HeartbeatKind, Record},
    store::Sqlite,
};

use crate::{
    memory::{Memory, NEW_YEAR, at, changes, provider},
    support::{
        Answer, Exporter, Sample, allow_all, command, finish, fixture, preloaded, request, value,
        wait_for,
    },
};

const DATABASE: &str = "whatsapp-quality-exporter.db";
pub const WAL: &str = "whatsapp-quality-exporter.db-wal";
const ACCOUNT: &str = "102290129340398";

// Restarts

#[test]
fn a_killed_process_shows_the_same_when_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let exporter = Exporter::start(folder.path(), &[]);
    send_of_everything(&exporter);
    let (page, samples) = (kept(&exporter), exporter.samples());
    for family in [
        "whatsapp_phone_number_messaging_limit{",
        "whatsapp_phone_number_previous_messaging_limit{",
        "whatsapp_phone_number_messaging_limit_changes_total{",
        "whatsapp_phone_number_messaging_limit_changed_timestamp_seconds{",
        "whatsapp_phone_number_flagged{",
        "whatsapp_phone_number_high_throughput{",
        "whatsapp_phone_number_quality_events_total{",
        "whatsapp_phone_number_last_event_timestamp_seconds{",
        "whatsapp_business_account_messaging_limit{",
        "whatsapp_business_account_previous_messaging_limit{",
        "whatsapp_business_account_messaging_limit_changes_total{",
        "whatsapp_business_account_messaging_limit_changed_timestamp_seconds{",
        "whatsapp_business_account_max_phone_numbers{",
    ] {
        assert!(
            page.lines().any(|line| line.starts_with(family)),
            "{family} is not tested:\n{page}"
        );
    }

    let exporter = exporter.kill_and_restart();
    assert_eq!(kept(&exporter), page);
    let again = exporter.samples();
    let known = "whatsapp_exporter_phone_numbers";
    assert_eq!(value(&again, known, &[]), value(&samples, known, &[]));
    for provider in ["meta", "8x8", "innopaas", "kaleyra"] {
        for family in ["last_accepted", "last_change"] {
            let family = format!("whatsapp_exporter_webhook_{family}_timestamp_seconds");
            let time = |samples: &[Sample]| value(samples, &family, &[("provider", provider)]);
            // It is stored with each change.
            assert_eq!(time(&samples), time(&again), "{provider}: {family}");
        }
    }
}

#[test]
fn delivery_seen_before_a_restart_is_a_duplicate_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let exporter = Exporter::start(folder.path(), &[]);
    let capability = capability(1, 1000);
    assert_eq!(
        post(&exporter, &event("15550000001", 1)).json()["applied"],
        1
    );
    assert_eq!(post(&exporter, &capability).json()["applied"], 1);
    let page = kept(&exporter);

    let mut exporter = exporter.kill_and_restart();
    assert_eq!(
        post(&exporter, &event("15550000001", 1)).json()["duplicate"],
        1
    );
    assert_eq!(exporter.end("TERM").code(), Some(0));
    let exporter = exporter.start_again();
    assert_eq!(post(&exporter, &capability).json()["duplicate"], 1);
    assert_eq!(kept(&exporter), page);
}

#[test]
fn outdated_document_is_overwritten_and_a_current_one_stays() {
    // Of a small fleet 1024 rows need not count, of a larger one as many as do.
    for (numbers, rounds) in [(500, 12), (3000, 6)] {
        let folder = tempfile::tempdir().unwrap();
        let exporter = Exporter::start(folder.path(), &[]);
        assert_eq!(
            post(&exporter, &batch(0, "1666", 100)).json()["applied"],
            100
        );
        let reader = || {
            Connection::open_with_flags(
                folder.path().join(DATABASE),
                OpenFlags::SQLITE_OPEN_READ_ONLY,
            )
            .unwrap()
        };
        let number = |statement: &str| {
            reader()
                .query_row(statement, [], |row| row.get::<_, i64>(0))
                .unwrap()
        };
        let quiet = "SELECT sum(id) FROM versions WHERE key LIKE '%\"1666%'";
        let rows_of_the_quiet = number(quiet);
        for time in 0..rounds {
            if time == rounds / 2 {
                // They overwrite, and are not to be overwritten.
                assert_eq!(
                    post(&exporter, &batch(0, "1777", 100)).json()["applied"],
                    100
                );
            }
            assert_eq!(
                post(&exporter, &batch(time, "1555", numbers)).json()["applied"],
                numbers
            );
        }
        let mut page = kept(&exporter);
        let mut exporter = exporter.kill_and_restart();
        assert_eq!(kept(&exporter), page);
        // It goes on where it ended.
        for time in rounds..rounds + 4 {
            assert_eq!(
                post(&exporter, &batch(time, "1555", numbers)).json()["applied"],
                numbers
            );
            page = kept(&exporter);
            exporter = exporter.kill_and_restart();
            assert_eq!(kept(&exporter), page);
        }

        assert_eq!(
            number("SELECT count(*) FROM documents WHERE key LIKE '[\"number\"%'"),
            numbers as i64 + 200
        );
        let documents = number("SELECT count(*) FROM documents");
        assert_eq!(
            number("SELECT count(*) FROM versions"),
            documents + documents.max(1024)
        );
        assert_eq!(
            number(quiet),
            rows_of_the_quiet,
            "what was not sent again was written again"
        );
    }
}

// The folder

#[test]
fn the_folder_is_made_for_this_user_alone() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::new(folder.path());
    let (above, storage) = (disk.storage.join("above"), disk.storage.join("above/data"));
    let exporter = disk.start_in(&storage);
    for made in [&storage, &above] {
        assert_eq!(mode(made), 0o700, "{}", made.display());
    }
    for holds_a_name in [&storage, &above, &disk.storage] {
        assert!(disk.synced(holds_a_name) > 0, "{}", holds_a_name.display());
    }
    drop(exporter);
}

#[test]
fn files_are_private_in_a_folder_that_is_open_to_others() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let exporter = Exporter::start(folder.path(), &[]);
    assert_eq!(post(&exporter, &event("15550000001", 1)).status, 200);
    let made: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|made| made.unwrap().path())
        .collect();
    assert!(made.len() >= 4, "{made:?}");
    for made in made {
        assert_eq!(mode(&made), 0o600, "{}", made.display());
    }
}

#[test]
fn a_folder_has_room_for_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let exporter = Exporter::start(folder.path(), &[]);
    assert_eq!(post(&exporter, &event("15550000001", 1)).status, 200);
    let sentence = refused(folder.path());
    assert!(sentence.contains("in use by another process"), "{sentence}");
    assert!(
        sentence.contains(folder.path().to_str().unwrap()),
        "{sentence}"
    );

    assert_eq!(
        post(&exporter, &event("15550000001", 2)).json()["applied"],
        1
    );
    let exporter = exporter.kill_and_restart();
    assert_eq!(events(&exporter), 2.0);
}

#[test]
fn a_folder_that_cannot_be_made_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "a file").unwrap();
    for storage in [file.clone(), file.join("data")] {
        let sentence = refused(&storage);
        assert!(
            sentence.contains(&format!(
                "cannot use the storage folder {}",
                storage.display()
            )),
            "{sentence}"
        );
        assert!(sentence.contains("--storage.path"), "{sentence}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "a file");
}

// Damage

#[test]
fn a_damaged_database_is_refused_and_left_as_it_is() {
    let whole = stopped();
    let database = fs::read(whole.path().join(DATABASE)).unwrap();
    let middle = database.len() / 2;
    assert!(database.len() > 16 * 4096, "there is no middle");
    let overwritten = |from: usize, bytes: usize| {
        let mut database = database.clone();
        database[from..from + bytes].fill(0xa5);
        database
    };
    let page = middle / 4096 * 4096;
    assert_eq!(database[page], 0x0d, "no page with documents");
    let mut repeated = database.clone();
    repeated.copy_within(page..page + 4096, page + 4096);
    let mut shorter = database.clone();
    // The number of its documents.
    shorter[page + 4] -= 1;
    let other = TempDir::new().unwrap();
    let other_database = other.path().join("other.db");
    let connection = Connection::open(&other_database).unwrap();
    connection
        .execute_batch("CREATE TABLE documents (key TEXT PRIMARY KEY, value TEXT)")
        .unwrap();
    connection.close().unwrap();

    for (what, content) in [
        ("bytes overwritten in the middle", overwritten(middle, 8192)),
        (
            "a few bytes overwritten where a page begins",
            overwritten(page, 8),
        ),
        // Every document can be read, but some twice and others not at all.
        ("a page overwritten with the one before", repeated),
        ("a page with one document less", shorter),
        ("bytes overwritten at the start", overwritten(0, 16)),
        ("truncated to half", database[..middle].to_vec()),
        (
            "truncated by a byte",
            database[..database.len() - 1].to_vec(),
        ),
        ("truncated to a page", database[..4096].to_vec()),
        ("truncated to 0", vec![]),
        ("a short text", b"not a database\n".to_vec()),
        ("a long text", b"not a database\n".repeat(1000)),
        ("zeros", vec![0; database.len()]),
        (
            "the database of another program",
            fs::read(&other_database).unwrap(),
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(DATABASE), &content).unwrap();
        let sentence = refused(folder.path());
        assert!(
            sentence.contains("damaged or not this program's"),
            "{what}: {sentence}"
        );
        assert!(
            sentence.contains("backup") && sentence.contains(DATABASE),
            "{what}: {sentence}"
        );
        assert_unchanged(
            folder.path(),
            &BTreeMap::from([(DATABASE.into(), content)]),
            what,
        );
    }
}

#[test]
fn an_older_page_among_newer_ones_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut exporter = Exporter::start(folder.path(), &[]);
    // Often enough that documents grow no more and overwrite others.
    for time in 0..36 {
        assert_eq!(
            post(&exporter, &batch(time, "1555", 500)).json()["applied"],
            500
        );
    }
    exporter.end("TERM");
    let database = folder.path().join(DATABASE);
    let older = fs::read(&database).unwrap();
    let mut exporter = exporter.start_again();
    assert_eq!(
        post(&exporter, &batch(36, "1555", 500)).json()["applied"],
        500
    );
    exporter.end("TERM");
    let newer = fs::read(&database).unwrap();
    assert_eq!(newer.len(), older.len(), "pages were added");

    let pages = (0..newer.len() / 4096).map(|page| page * 4096..(page + 1) * 4096);
    let with_documents =
        |page: &std::ops::Range<usize>| older[page.start] == 0x0d && newer[page.start] == 0x0d;
    let mut tried = 0;
    for page in
        pages.filter(|page| with_documents(page) && older[page.clone()] != newer[page.clone()])
    {
        let mut mixed = newer.clone();
        mixed[page.clone()].copy_from_slice(&older[page.clone()]);
        fs::write(&database, &mixed).unwrap();
        let sentence = refused(folder.path());
        assert!(
            sentence.contains("documents are missing"),
            "page {}: {sentence}",
            page.start / 4096
        );
        tried += 1;
    }
    assert!(tried > 20, "{tried} pages");
    fs::write(&database, &newer).unwrap();
    assert_eq!(events(&exporter.start_again()), 18_500.0);
}

#[test]
fn a_damaged_document_is_refused_and_left_as_it_is() {
    for (what, statement) in [
        ("no JSON", "UPDATE versions SET value = substr(value, 2)"),
        (
            "another JSON",
            "UPDATE versions SET value = '{\"version\":1,\"record\":7}'",
        ),
        ("no version", "UPDATE versions SET value = '{}'"),
        ("a blob", "UPDATE versions SET value = x'00'"),
        (
            "a revision that is no number",
            "UPDATE versions SET revision = 'one'",
        ),
        (
            "a revision after which there is none",
            "UPDATE versions SET revision = 9223372036854775807 WHERE id = 1",
        ),
        (
            "a total that is no number",
            "UPDATE versions SET total = x'00'",
        ),
        ("another total", "UPDATE versions SET total = total - 1"),
        (
            "one document twice",
            "UPDATE versions SET key = (SELECT max(key) FROM versions)",
        ),
        (
            "a key that lacks a part",
            "UPDATE versions SET key = '[\"number\",\"meta\"]' WHERE key LIKE '%number%'",
        ),
        (
            "a key that is no list",
            "INSERT INTO versions (revision, total, key, value) SELECT max(revision) + 1, max(total) + max(revision) + 1, \
             'galaxy', '{\"version\":1,\"record\":{}}' FROM versions",
        ),
        (
            "half a delivery that was seen",
            "UPDATE versions SET value = replace(value, '\"seen\":\"', '\"seen\":\"AAAA')",
        ),
        (
            "seen deliveries that are none",
            "UPDATE versions SET value = replace(value, '\"seen\":\"', '\"seen\":\"?')",
        ),
        (
            "a format that was never released",
            "PRAGMA user_version = 2",
        ),
    ] {
        let folder = changed(statement);
        let before = files(folder.path());
        let sentence = refused(folder.path());
        assert!(sentence.contains(DATABASE), "{what}: {sentence}");
        assert!(
            sentence.contains("damaged or not this program's"),
            "{what}: {sentence}"
        );
        assert!(
            !sentence.contains("15550000"),
            "a document is quoted: {sentence}"
        );
        assert_unchanged(folder.path(), &before, what);
    }
}

#[test]
fn a_newer_database_is_refused_and_left_as_it_is() {
    for (what, statement, found) in [
        (
            "its format",
            "PRAGMA user_version = 9",
            "its table has format 9, and this version reads 3",
        ),
        (
            "one document",
            "UPDATE versions SET value = replace(value, '\"version\":1,', '\"version\":7,') \
             WHERE id = (SELECT max(id) FROM versions)",
            "a document has version 7, and this version reads 1",
        ),
        (
            "one document of a shape unknown today",
            "UPDATE versions SET value = '{\"version\":7,\"new\":[]}' \
             WHERE revision = (SELECT max(revision) FROM versions)",
            "a document has version 7, and this version reads 1",
        ),
        (
            "one provider",
            "UPDATE versions SET key = replace(key, 'meta', 'tomorrow')",
            "its provider \"tomorrow\" is unknown to this version",
        ),
        (
            "one kind of record",
            "INSERT INTO versions (revision, total, key, value) SELECT max(revision) + 1, max(total) + max(revision) + 1, \
             '[\"template\",\"meta\"]', '{\"version\":1,\"record\":{}}' FROM versions",
            "its kind of record \"template\" is unknown to this version",
        ),
        (
            "one restriction",
            "INSERT INTO versions (revision, total, key, value) SELECT max(revision) + 1, max(total) + max(revision) + 1, \
             '[\"account\",\"meta\",\"1\"]', '{\"version\":1,\"record\":{\"account_events\":{\"restrictions\":\
             [{\"restriction\":\"RESTRICTED_TOMORROW\",\"end\":null,\"at\":1}]}}}' FROM versions",
            "its value \"RESTRICTED_TOMORROW\" is unknown to this version",
        ),
        (
            "one event",
            "UPDATE versions SET value = replace(value, '\"FLAGGED\"', '\"PAUSED\"')",
            "its event \"PAUSED\" is unknown to this version",
        ),
        (
            "one event of a history",
            "UPDATE versions SET value = replace(value, '\"history\":\"AQ', '\"history\":\"Af')",
            "its event code \"241\" is unknown to this version",
        ),
    ] {
        let folder = changed(statement);
        let before = files(folder.path());
        let sentence = refused(folder.path());
        assert!(sentence.contains("newer version"), "{what}: {sentence}");
        assert!(sentence.contains(found), "{what}: {sentence}");
        assert!(
            !sentence.contains("15550000"),
            "a document is quoted: {sentence}"
        );
        assert_unchanged(folder.path(), &before, what);
    }
}

#[test]
fn a_database_that_was_restored_without_a_log_is_as_good() {
    let folder = changed("PRAGMA journal_mode = DELETE");
    let mut exporter = Exporter::start(folder.path(), &[]);
    assert_eq!(events(&exporter), 500.0);
    assert_eq!(
        post(&exporter, &event("15550000001", 1)).json()["applied"],
        1
    );
    exporter.end("TERM");

    // A refusal does not even change its mode.
    let folder = changed("PRAGMA journal_mode = DELETE; UPDATE versions SET value = '{}'");
    let before = files(folder.path());
    refused(folder.path());
    assert_unchanged(folder.path(), &before, "refused");
}

#[test]
fn log_of_a_killed_process_beside_a_damaged_database_is_left_as_it_is() {
    let folder = killed();
    let database = folder.path().join(DATABASE);
    let mut bytes = fs::read(&database).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 8192].fill(0xa5);
    fs::write(&database, bytes).unwrap();
    let before = files(folder.path());
    assert!(before[WAL].len() > 4096, "nothing was left");
    let sentence = refused(folder.path());
    assert!(sentence.contains("damaged"), "{sentence}");
    assert_unchanged(folder.path(), &before, "refused");
}

#[test]
fn log_of_a_killed_process_beside_a_newer_database_is_left_as_it_is() {
    for statement in [
        "PRAGMA user_version = 9",
        "UPDATE versions SET value = replace(value, '\"version\":1,', '\"version\":7,')",
    ] {
        let folder = killed();
        let connection = Connection::open(folder.path().join(DATABASE)).unwrap();
        connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .unwrap();
        connection.execute_batch(statement).unwrap();
        connection.close().unwrap();
        let before = files(folder.path());
        assert!(before[WAL].len() > 4096, "nothing was left");
        let sentence = refused(folder.path());
        assert!(sentence.contains("newer version"), "{sentence}");
        assert_unchanged(folder.path(), &before, statement);
    }
}

#[test]
fn a_missing_database_whose_log_is_there_is_refused() {
    let folder = killed();
    fs::remove_file(folder.path().join(DATABASE)).unwrap();
    let before = files(folder.path());
    assert!(before[WAL].len() > 4096, "nothing was left");
    let sentence = refused(folder.path());
    assert!(
        sentence.contains("missing") && sentence.contains(WAL),
        "{sentence}"
    );
    assert_unchanged(folder.path(), &before, "refused");
}

#[test]
fn a_database_that_was_never_finished_is_begun_again() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join(format!("{DATABASE}.new")),
        "half a database",
    )
    .unwrap();
    let exporter = Exporter::start(folder.path(), &[]);
    assert_eq!(
        post(&exporter, &event("15550000001", 1)).json()["applied"],
        1
    );
    let exporter = exporter.kill_and_restart();
    assert_eq!(events(&exporter), 1.0);
}

// Other programs

#[test]
fn the_database_can_be_read_while_the_process_runs() {
    let folder = tempfile::tempdir().unwrap();
    let exporter = Exporter::start(folder.path(), &[]);
    assert_eq!(post(&exporter, &event("15550000001", 1)).status, 200);
    let reader = Connection::open_with_flags(
        folder.path().join(DATABASE),
        OpenFlags::SQLITE_OPEN_READ_ONLY,
    )
    .unwrap();
    reader.execute_batch("BEGIN").unwrap();
    let count = || {
        reader
            .query_row("SELECT count(*) FROM documents", [], |row| {
                row.get::<_, i64>(0)
            })
            .unwrap()
    };
    let before = count();
    let document: String = reader
        .query_row(
            "SELECT value FROM documents WHERE key LIKE '%\"15550000001\"%'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    let document: Json = serde_json::from_str(&document).unwrap();
    assert_eq!(document["version"], 1, "{document}");
    assert_eq!(
        document["record"]["limit"]["current"]["value"], 10_000,
        "{document}"
    );

    // A reader that takes its time is in nobody's way.
    assert_eq!(
        post(&exporter, &event("15550000002", 1)).json()["applied"],
        1
    );
    assert_eq!(count(), before, "the reader's view changed");
    reader.execute_batch("COMMIT").unwrap();
    assert!(count() > before);
}

#[test]
fn webhooks_are_put_off_while_another_program_locks_the_database() {
    let folder = tempfile::tempdir().unwrap();
    let exporter = Exporter::start(folder.path(), &[]);
    assert_eq!(post(&exporter, &event("15550000001", 1)).status, 200);
    let other = Connection::open(folder.path().join(DATABASE)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_put_off(&post(&exporter, &event("15550000002", 1)));
    assert_eq!(exporter.get("/-/ready").status, 503);
    assert_eq!(
        exporter.value("whatsapp_exporter_storage_up", &[]),
        Some(0.0)
    );
    other.execute_batch("COMMIT").unwrap();

    // Who is not ready is sent nothing: it finds out by itself.
    wait_for("the exporter to be ready again", || {
        exporter.get("/-/ready").status == 200
    });
    assert_eq!(
        exporter.value("whatsapp_exporter_storage_up", &[]),
        Some(1.0)
    );
    assert_eq!(events(&exporter), 1.0);
    assert_eq!(
        post(&exporter, &event("15550000002", 1)).json()["applied"],
        1
    );
}

// No room

#[test]
fn a_full_disk_promises_nothing_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let exporter = Exporter::start_on_small_disk(folder.path(), 128 << 10);
    assert_eq!(
        post(&exporter, &event("15550000000", 0)).json()["applied"],
        1
    );

    // More than fits, of which a part does.
    let batch = batch(0, "1666", 1000);
    assert_put_off(&post(&exporter, &batch));
    assert_eq!(
        exporter.value("whatsapp_exporter_phone_numbers", &[]),
        Some(1.0),
        "half applied"
    );
    wait_for("the exporter to find that less still fits", || {
        exporter.get("/-/ready").status == 200
    });

    let mut accepted = 1;
    let first_refused = loop {
        let answer = post(&exporter, &event("15550000000", accepted));
        if answer.status == 503 {
            assert_put_off(&answer);
            break accepted;
        }
        assert_eq!(answer.json()["applied"], 1, "{}", answer.text());
        accepted += 1;
        assert!(accepted < 10_000, "the disk never fills");
    };
    // The smallest change may still fit, until none does.
    let kaleyra = |number: &str| {
        let target = format!("/webhooks/kaleyra?phone_no={number}&event=FLAGGED");
        request(exporter.webhook, "GET", &target, &[], b"").unwrap()
    };
    let mut small = 0;
    while kaleyra(&format!("1777{small:07}")).status == 200 {
        small += 1;
        assert!(small < 10_000, "the disk never fills");
    }
    let mut refused = 3.0;
    for answer in [
        post(&exporter, &event("15550000000", first_refused)),
        post(&exporter, &event("15550000001", 1)),
        post(&exporter, &capability(1, 250)),
        post(&exporter, &batch),
        exporter.post(
            "/webhooks/8x8",
            &eight_by_eight("15550000002", "FLAGGED", "TIER_1K"),
        ),
        kaleyra("15550000003"),
    ] {
        assert_put_off(&answer);
        refused += 1.0;
    }
    // There is nothing to store of what is of no interest.
    assert_eq!(
        exporter.post("/webhooks/meta", r#"{"entry":[]}"#).json()["ignored"],
        1
    );

    let samples = exporter.samples();
    assert_eq!(
        value(&samples, "whatsapp_exporter_storage_up", &[]),
        Some(0.0)
    );
    let errors = value(
        &samples,
        "whatsapp_exporter_storage_errors_total",
        &[("operation", "commit")],
    );
    assert!(errors.unwrap() >= refused, "{errors:?} of {refused}");
    let code = |provider, code| {
        value(
            &samples,
            "whatsapp_exporter_webhook_requests_total",
            &[("provider", provider), ("code", code)],
        )
    };
    let codes = [
        code("meta", "503"),
        code("8x8", "503"),
        code("kaleyra", "503"),
        code("meta", "200"),
    ];
    let all_accepted = (accepted + small) as f64;
    assert_eq!(codes, [6.0, 1.0, 2.0, accepted as f64 + 1.0].map(Some));
    let ready = exporter.get("/-/ready");
    assert_eq!(
        (ready.status, ready.json()["error"].is_string()),
        (503, true),
        "{}",
        ready.text()
    );
    assert_eq!(exporter.get("/-/healthy").status, 200);
    assert_eq!(events(&exporter), all_accepted);
    assert_eq!(
        value(&samples, "whatsapp_exporter_phone_numbers", &[]),
        Some(1.0 + small as f64)
    );
    let page = kept(&exporter);

    let exporter = exporter.kill_and_restart();
    assert_eq!(kept(&exporter), page);
    for time in 0..accepted {
        // A number remembers its last 32 deliveries.
        if time + 32 >= accepted {
            assert_eq!(
                post(&exporter, &event("15550000000", time)).json()["duplicate"],
                1,
                "{time}"
            );
        }
    }
    assert_eq!(
        post(&exporter, &event("15550000000", first_refused)).json()["applied"],
        1
    );
    assert_eq!(post(&exporter, &batch).json()["applied"], 1000);
    assert_eq!(
        exporter.value("whatsapp_exporter_phone_numbers", &[]),
        Some((1001 + small) as f64)
    );
}

#[test]
fn half_written_file_of_a_full_disk_is_no_damage() {
    let folder = killed();
    let whole = kept(&Exporter::start(folder.path(), &[]));
    // As where the log could not be written into the database to its end.
    let folder = killed();
    let database = fs::File::options()
        .append(true)
        .open(folder.path().join(DATABASE))
        .unwrap();
    database
        .set_len(database.metadata().unwrap().len() + 1024)
        .unwrap();
    assert_eq!(kept(&Exporter::start(folder.path(), &[])), whole);
}

#[test]
fn exporter_on_a_full_disk_is_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    let mut exporter = Exporter::start(folder.path(), &[]);
    assert_eq!(
        post(&exporter, &batch(1, "1556", 1000)).json()["applied"],
        1000
    );
    exporter.end("KILL");
    let log = fs::metadata(folder.path().join(WAL)).unwrap().len();

    // Neither the log nor the database has room for what is in the log.
    let disk = Disk::new(folder.path());
    let full = Exporter::start_on_full_disk(&disk.storage, log as usize / 2, &disk.environment());
    wait_for("the exporter to say so", || {
        full.log().contains("the storage takes no changes")
    });
    wait_for("the metrics", || full.get("/metrics").status == 200);
    assert_eq!(
        full.value("whatsapp_exporter_phone_numbers", &[]),
        Some(1000.0)
    );
    assert_eq!(full.value("whatsapp_exporter_storage_up", &[]), Some(0.0));
    assert_eq!(full.get("/-/ready").status, 503);
    assert_put_off(&post(&full, &event("15550000000", 2)));
    // What it shows may be promised again: a loss of power leaves it there.
    for path in [disk.storage.join(WAL), disk.storage.clone()] {
        assert!(disk.synced(&path) > 0, "{}", path.display());
    }
    drop(full);
    let exporter = exporter.start_again();
    assert_eq!(
        post(&exporter, &event("15550000000", 2)).json()["applied"],
        1
    );
    assert_eq!(
        exporter.value("whatsapp_exporter_phone_numbers", &[]),
        Some(1001.0)
    );
}

#[test]
fn start_on_a_full_disk_names_the_folder_and_what_is_free() {
    let folder = tempfile::tempdir().unwrap();
    let mut exporter = Exporter::start_on_full_disk(&folder.path().join("data"), 0, &[]);
    assert_eq!(exporter.wait().code(), Some(1));
    let log = exporter.log();
    let path = folder.path().join("data");
    let sentence = format!("cannot write to the storage folder {}: ", path.display());
    assert!(
        log.contains(&sentence) && log.contains(" bytes are free there: make room"),
        "{log}"
    );
}

#[test]
fn relative_folder_is_named_by_its_whole_path() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let mut command = command();
    command
        .current_dir(folder.path())
        .args([
            "--web.listen-address=127.0.0.1:0",
            "--webhook.listen-address=127.0.0.1:0",
            "--storage.path=file/data",
        ])
        .arg(allow_all());
    let output = finish(command);
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{log}");
    let whole = folder.path().join("file/data");
    assert!(
        log.contains(&format!(
            "cannot use the storage folder {}: ",
            whole.display()
        )),
        "{log}"
    );
}

#[test]
fn size_that_cannot_be_read_is_an_error_of_the_size() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Sqlite::open(folder.path()).unwrap();
    store.load(&mut |_| {}).unwrap();
    fs::remove_file(folder.path().join(DATABASE)).unwrap();
    let error = store.size_bytes().unwrap_err();
    let path = folder.path().join(DATABASE);
    assert!(
        error
            .to_string()
            .starts_with(&format!("cannot read the size of {}: ", path.display())),
        "{error}"
    );
    assert!(!error.is_fatal());
}

#[test]
fn reader_with_an_open_transaction_is_noticed_and_webhooks_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let exporter = Exporter::start(folder.path(), &[]);
    let mut time = 0;
    let mut send = || {
        time += 1;
        assert_eq!(
            post(&exporter, &batch(time, "1556", 1000)).json()["applied"],
            1000,
            "{time}"
        );
    };
    send();
    let reader = Connection::open(folder.path().join(DATABASE)).unwrap();
    reader
        .execute_batch("BEGIN; SELECT * FROM documents;")
        .unwrap();
    let errors = || {
        exporter
            .value(
                "whatsapp_exporter_storage_errors_total",
                &[("operation", "checkpoint")],
            )
            .unwrap()
    };
    while errors() == 0.0 {
        assert!(
            fs::metadata(folder.path().join(WAL)).unwrap().len() < 128 << 20,
            "the log grows in silence"
        );
        send();
    }
    wait_for("the log to name the reader", || {
        exporter
            .log()
            .contains("another program has a transaction open")
    });
    assert_eq!(
        exporter.value("whatsapp_exporter_storage_up", &[]),
        Some(1.0)
    );

    reader.execute_batch("COMMIT").unwrap();
    let before = errors();
    let grown = fs::metadata(folder.path().join(WAL)).unwrap().len();
    // The log is written back with the next attempt, and then begins anew: its file grows no more.
    for _ in 0..8 {
        send();
    }
    assert_eq!(errors(), before);
    assert!(fs::metadata(folder.path().join(WAL)).unwrap().len() <= grown + (8 << 20));
}

#[test]
fn batch_holds_each_key_once() {
    let mut memory = Memory::default();
    let mut draft = memory.fold.draft();
    let body = meta(
        1,
        &[
            quality("15550000001", "FLAGGED", "TIER_1K"),
            quality("15550000001", "UPGRADE", "TIER_10K"),
            json!({"field": "business_capability_update", "value": {"max_daily_conversations_per_business": 250}}),
            json!({"field": "business_capability_update", "value": {"max_daily_conversations_per_business": 2000}}),
        ],
    );
    for change in changes(provider("meta"), &body) {
        draft.apply(&change, at(NEW_YEAR));
    }
    for seconds in 0..3 {
        draft.note(
            provider("meta").name,
            HeartbeatKind::Accepted,
            at(NEW_YEAR + seconds),
        );
        draft.note(
            provider("meta").name,
            HeartbeatKind::Change,
            at(NEW_YEAR + seconds),
        );
    }
    let batch = draft.batch();
    let kinds: Vec<_> = batch
        .records()
        .iter()
        .map(|record| match record {
            Record::Account(..) => "account",
            Record::Number(..) => "number",
            Record::Heartbeat(..) => "provider",
        })
        .collect();
    assert_eq!(kinds, ["account", "number", "provider"]);
    let folder = tempfile::tempdir().unwrap();
    let mut store = Sqlite::open(folder.path()).unwrap();
    store.load(&mut |_| {}).unwrap();
    store.commit(&batch).unwrap();
    store.commit(&batch).unwrap();
    drop(store);
    let mut loaded = 0;
    Sqlite::open(folder.path())
        .unwrap()
        .load(&mut |_| loaded += 1)
        .unwrap();
    assert_eq!(loaded, 3);
}

// Databases of earlier builds. The format is a promise: every later build reads them.

#[test]
fn database_of_an_earlier_build_opens_and_shows_its_lines() {
    for name in ["format-3-stopped", "format-3-killed"] {
        let folder = tempfile::tempdir().unwrap();
        let archive = format!(
            "{}/tests/fixtures/databases/{name}.tgz",
            env!("CARGO_MANIFEST_DIR")
        );
        let status = Command::new("tar")
            .arg("-xzf")
            .arg(&archive)
            .arg("-C")
            .arg(folder.path())
            .status()
            .unwrap();
        assert!(status.success(), "{archive}");
        let database = find(folder.path(), DATABASE);
        let exporter = Exporter::start(database.parent().unwrap(), &[]);
        let page = kept(&exporter);
        let shown: BTreeSet<_> = page.lines().collect();
        let lines = fixture(&format!("fixtures/databases/{name}.txt"));
        assert!(lines.lines().count() > 500, "{name}");
        for line in lines.lines() {
            assert!(shown.contains(line), "{name} does not show {line}");
        }
    }
}

#[test]
fn spelling_that_is_refused_today_is_shown_as_it_was_stored() {
    let folder =
        changed("UPDATE versions SET key = replace(key, '15550000001', '1555\\t0000/001')");
    let exporter = Exporter::start(folder.path(), &[]);
    assert!(
        kept(&exporter).contains("phone_number=\"1555\t0000/001\""),
        "{}",
        kept(&exporter)
    );
    let found = exporter.get("/api/v1/phone_numbers?limit=1");
    let next = found.json()["next"].as_str().unwrap().to_owned();
    assert_eq!(
        exporter
            .get(&format!("/api/v1/phone_numbers?after={next}"))
            .status,
        200
    );
}

#[test]
fn log_grows_where_the_database_has_no_room_and_nothing_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::new(folder.path());
    let exporter = disk.start();
    disk.is_full_for(DATABASE);
    let mut time = 0;
    let mut send = || {
        time += 1;
        assert_eq!(
            post(&exporter, &batch(time, "1556", 1000)).json()["applied"],
            1000,
            "{time}"
        );
    };
    let errors = || {
        exporter
            .value(
                "whatsapp_exporter_storage_errors_total",
                &[("operation", "checkpoint")],
            )
            .unwrap()
    };
    while errors() == 0.0 {
        send();
    }
    wait_for("the log to say so", || {
        exporter
            .log()
            .contains("checkpoint failed; changes are stored")
    });
    assert_eq!(
        exporter.value("whatsapp_exporter_storage_up", &[]),
        Some(1.0)
    );
    // It is not tried with each commit.
    send();
    assert_eq!(errors(), 1.0);

    disk.mend();
    let database = disk.storage.join(DATABASE);
    while disk.synced(&database) == 0 {
        send();
    }
    assert_eq!(errors(), 1.0);
    let exporter = exporter.kill_and_restart();
    assert_eq!(events(&exporter), (time * 1000) as f64);
}

// A disk that fails

#[test]
fn nothing_is_promised_after_a_failed_fsync_of_a_commit() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::new(folder.path());
    let mut exporter = disk.start();
    assert_eq!(
        post(&exporter, &event("15550000000", 1)).json()["applied"],
        1
    );
    let (log, database) = (disk.storage.join(WAL), disk.storage.join(DATABASE));
    let before = (disk.synced(&log), disk.synced(&database));
    disk.fail(WAL);
    assert_put_off(&post(&exporter, &event("15550000000", 2)));
    assert_eq!(exporter.wait().code(), Some(1));
    assert!(
        exporter.log().contains(" failed to commit"),
        "{}",
        exporter.log()
    );
    assert_eq!(
        (disk.synced(&log), disk.synced(&database)),
        before,
        "it was tried again"
    );

    // What was written and not kept is written again before it is promised.
    let exporter = exporter.start_again();
    assert!(disk.synced(&database) > before.1);
    assert_eq!(
        post(&exporter, &event("15550000000", 1)).json()["duplicate"],
        1
    );
    assert_eq!(post(&exporter, &event("15550000000", 2)).status, 200);
    assert_eq!(events(&exporter), 2.0);
}

#[test]
fn process_ends_after_a_failed_fsync_of_the_database_and_promises_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::new(folder.path());
    let mut exporter = disk.start();
    let database = disk.storage.join(DATABASE);
    let before = disk.synced(&database);
    disk.fail(DATABASE);
    let mut promised = 0;
    // The log is written into the database when it is 32 MiB long.
    let ended = (1..500).any(|time| {
        let answer = request(
            exporter.webhook,
            "POST",
            "/webhooks/meta",
            &[],
            batch(time, "1556", 1000).as_bytes(),
        );
        match answer {
            Ok(answer) if answer.status == 200 => {
                promised += answer.json()["applied"].as_u64().unwrap()
            }
            _ => return true,
        }
        false
    });
    assert!(ended, "{promised} changes and no end");
    assert_eq!(exporter.wait().code(), Some(1));
    assert!(
        exporter.log().contains("failed to write back the log"),
        "{}",
        exporter.log()
    );
    assert_eq!(disk.synced(&database), before, "it was tried again");
    assert_eq!(events(&exporter.start_again()), promised as f64);
}

/// A disk whose fsyncs are counted, and that fails where that is wanted.
struct Disk {
    /// As the exporter's files are named in the log.
    storage: PathBuf,
    /// The library, and the files that it reads and writes.
    folder: TempDir,
}

impl Disk {
    fn new(storage: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        preloaded("disk", folder.path());
        Self {
            storage: storage.canonicalize().unwrap(),
            folder,
        }
    }

    fn environment(&self) -> Vec<(String, String)> {
        let names = [
            ("LD_PRELOAD", "disk.so"),
            ("FSYNC_FAILS", "fails"),
            ("WRITE_FAILS", "full"),
            ("FSYNC_LOG", "log"),
        ];
        let path = |name: &str| {
            self.folder
                .path()
                .join(name)
                .into_os_string()
                .into_string()
                .unwrap()
        };
        names
            .map(|(name, file)| (name.to_owned(), path(file)))
            .into()
    }

    fn start(&self) -> Exporter {
        self.start_in(&self.storage)
    }

    fn start_in(&self, storage: &Path) -> Exporter {
        let environment = self.environment();
        let environment: Vec<_> = environment
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        Exporter::start_with(storage, &[], &environment)
    }

    /// The next fsync of this file fails.
    fn fail(&self, file: &str) {
        fs::write(self.folder.path().join("fails"), format!("/{file}")).unwrap();
    }

    /// From now on nothing can be written to this file.
    fn is_full_for(&self, file: &str) {
        fs::write(self.folder.path().join("full"), format!("/{file}")).unwrap();
    }

    fn mend(&self) {
        fs::remove_file(self.folder.path().join("full")).unwrap();
    }

    /// How often this was made durable.
    fn synced(&self, path: &Path) -> usize {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        log.lines()
            .filter(|synced| Path::new(synced) == path)
            .count()
    }
}

// What these tests share

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// The error with which the binary refuses this storage.
#[track_caller]
fn refused(storage: &Path) -> String {
    let mut command = command();
    command
        .args([
            "--web.listen-address=127.0.0.1:0",
            "--webhook.listen-address=127.0.0.1:0",
            "--log.format=json",
        ])
        .arg(format!("--storage.path={}", storage.display()))
        .arg(allow_all());
    let output = finish(command);
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        output.status.code(),
        Some(1),
        "{}: {log}",
        storage.display()
    );
    let errors = log
        .lines()
        .map(|line| serde_json::from_str::<Json>(line).unwrap())
        .filter(|event| event["level"] == "ERROR");
    let errors: Vec<_> = errors.collect();
    let [error] = errors.as_slice() else {
        panic!("not one error in\n{log}")
    };
    error["error"].as_str().unwrap().to_owned()
}

/// A file of this name below a folder.
fn find(folder: &Path, name: &str) -> PathBuf {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
        {
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|found| found == name) {
                return path;
            }
        }
    }
    panic!("no {name}");
}

/// What is in a folder, without what is made anew at every start.
pub fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let named = entries.map(|entry| (entry.file_name().into_string().unwrap(), entry.path()));
    named
        .filter(|(name, _)| name != "lock" && !name.ends_with("-shm"))
        .map(|(name, path): (String, PathBuf)| (name, fs::read(path).unwrap()))
        .collect()
}

#[track_caller]
fn assert_unchanged(folder: &Path, before: &BTreeMap<String, Vec<u8>>, what: &str) {
    let after = files(folder);
    let lengths =
        |files: &BTreeMap<String, Vec<u8>>| files.values().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(
        after.keys().collect::<Vec<_>>(),
        before.keys().collect::<Vec<_>>(),
        "{what}"
    );
    assert_eq!(lengths(&after), lengths(before), "{what}");
    assert!(after == *before, "{what}: the bytes of a file changed");
}

/// The storage of a process that has ended cleanly: one file.
fn stopped() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut exporter = Exporter::start(folder.path(), &[]);
    assert_eq!(
        post(&exporter, &batch(0, "1555", 500)).json()["applied"],
        500
    );
    assert_eq!(post(&exporter, &capability(1, 1000)).json()["applied"], 1);
    assert_eq!(exporter.end("TERM").code(), Some(0));
    assert_eq!(
        files(folder.path()).into_keys().collect::<Vec<_>>(),
        [DATABASE]
    );
    folder
}

/// The storage of a process that was killed: a database, and a log that goes on where it ends.
fn killed() -> TempDir {
    let folder = stopped();
    let mut exporter = Exporter::start(folder.path(), &[]);
    assert_eq!(
        post(&exporter, &batch(0, "1556", 100)).json()["applied"],
        100
    );
    exporter.end("KILL");
    folder
}

/// The storage of a stopped process after a statement of SQL.
fn changed(statement: &str) -> TempDir {
    let folder = stopped();
    let connection = Connection::open(folder.path().join(DATABASE)).unwrap();
    connection.execute_batch(statement).unwrap();
    connection.close().unwrap();
    folder
}

fn meta(time: u64, changes: &[Json]) -> String {
    json!({"entry": [{"id": ACCOUNT, "time": 1_748_454_394 + time, "changes": changes}]})
        .to_string()
}

fn quality(number: &str, event: &str, limit: &str) -> Json {
    json!({"field": "phone_number_quality_update",
        "value": {"display_phone_number": number, "event": event, "current_limit": limit}})
}

fn event(number: &str, time: u64) -> String {
    meta(time, &[quality(number, "FLAGGED", "TIER_10K")])
}

/// One delivery about many numbers that begin alike.
fn batch(time: u64, prefix: &str, numbers: usize) -> String {
    meta(
        time,
        &(0..numbers)
            .map(|number| quality(&format!("{prefix}{number:07}"), "FLAGGED", "TIER_1K"))
            .collect::<Vec<_>>(),
    )
}

fn capability(time: u64, limit: u64) -> String {
    let value =
        json!({"max_daily_conversations_per_business": limit, "max_phone_numbers_per_waba": 25});
    meta(
        time,
        &[json!({"field": "business_capability_update", "value": value})],
    )
}

fn eight_by_eight(number: &str, event: &str, limit: &str) -> String {
    json!({"eventId": "1", "eventType": "phone_number_quality_update", "businessAccountId": "a\"b\\c d",
        "eventDetails": {"displayPhoneNumber": number, "meta": {"event": event, "currentLimit": limit}}})
    .to_string()
}

/// Every kind of value there is, of every provider.
fn send_of_everything(exporter: &Exporter) {
    for body in [
        meta(1, &[quality("15550000001", "ONBOARDING", "TIER_10K")]),
        meta(2, &[quality("15550000001", "DOWNGRADE", "TIER_1K")]),
        meta(
            3,
            &[
                quality("15550000002", "FLAGGED", "TIER_NOT_SET"),
                quality("15550000003", "SOMETHING", ""),
            ],
        ),
        meta(
            4,
            &[quality(
                "15550000004",
                "THROUGHPUT_UPGRADE",
                "TIER_UNLIMITED",
            )],
        ),
        meta(
            5,
            &[quality("15550000002", "UNFLAGGED", "999999999999999M")],
        ),
        capability(6, 2000),
        capability(7, 250),
        meta(8, &[quality("15550000001", "UPGRADE", "TIER_100K")]),
    ] {
        assert_eq!(post(exporter, &body).status, 200);
    }
    let eight = eight_by_eight("1086***36726376", "FLAGGED", "TIER_1K");
    let inno = json!({"id": "1", "type": "whatsapp_phone_number_quality_update", "eventTime": "2023-10-16T13:04:57.644Z",
        "body": {"messageLimit": "Unlimited", "event": "THROUGHPUT_UPGRADE", "displayPhoneNumber": "é\"\\", "wabaId": "1"}});
    assert_eq!(exporter.post("/webhooks/8x8", &eight).json()["applied"], 1);
    assert_eq!(
        exporter
            .post("/webhooks/innopaas", &inno.to_string())
            .json()["applied"],
        1
    );
    let kaleyra =
        "/webhooks/kaleyra?display_phone_number=15550000005&event=UPGRADE&current_limit=TIER_1K";
    assert_eq!(
        request(exporter.webhook, "GET", kaleyra, &[], b"")
            .unwrap()
            .json()["applied"],
        1
    );
}

fn post(exporter: &Exporter, body: &str) -> Answer {
    exporter.post("/webhooks/meta", body)
}

/// The page, as far as it is to survive the process.
fn kept(exporter: &Exporter) -> String {
    let page = exporter.get("/metrics");
    assert_eq!(page.status, 200, "{}", page.text());
    let families = ["whatsapp_phone_number_", "whatsapp_business_account_"];
    let lines = page
        .text()
        .lines()
        .filter(|line| families.iter().any(|family| line.starts_with(family)));
    lines.collect::<Vec<_>>().join("\n")
}

/// How many events were counted, of all numbers.
fn events(exporter: &Exporter) -> f64 {
    let samples = exporter.samples().into_iter();
    samples
        .filter(|sample| sample.name == "whatsapp_phone_number_quality_events_total")
        .map(|sample| sample.value)
        .sum()
}

/// Whether the sender is asked to send it again later.
#[track_caller]
fn assert_put_off(answer: &Answer) {
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(
        answer.headers["retry-after"].parse::<u32>().unwrap() > 0,
        "{:?}",
        answer.headers
    );
    assert!(answer.json()["error"].is_string(), "{}", answer.text());
}
