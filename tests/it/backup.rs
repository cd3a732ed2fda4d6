//! Backup and restore, as `docs/deployment.md` says.

use std::{fs, path::Path, process::Command};

use serde_json::json;

use crate::{
    readme::{blocks, section},
    support::{Exporter, Sample, fixture},
};

const DATABASE: &str = "whatsapp-quality-exporter.db";
const WAL: &str = "whatsapp-quality-exporter.db-wal";
const CHANGED: &str = "whatsapp_phone_number_messaging_limit_changed_timestamp_seconds";

#[test]
fn backup_is_made_and_restored_by_the_documented_commands() {
    let page = fixture("../docs/deployment.md");
    let [commands] = blocks(section(&page, "Backup and restore"), "sh")
        .try_into()
        .unwrap();
    let (backup, restore) = commands.split_once('\n').unwrap();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut exporter = Exporter::start(&data, &[]);
    fall(&exporter, 1, "TIER_10K", "TIER_1K");
    let backed_up = numbers(&exporter);

    run(folder.path(), backup);
    fall(&exporter, 2, "TIER_1K", "TIER_250");
    let fell_at = exporter.value(CHANGED, &[("direction", "down")]).unwrap();
    exporter.end("KILL");
    assert!(
        fs::metadata(data.join(WAL)).unwrap().len() > 0,
        "there is no log of the old database"
    );

    run(folder.path(), restore);
    let exporter = exporter.start_again();
    assert_eq!(numbers(&exporter), backed_up);

    // What came after the backup is new again, and so is the time at which it fell.
    fall(&exporter, 2, "TIER_1K", "TIER_250");
    assert!(exporter.value(CHANGED, &[("direction", "down")]).unwrap() > fell_at);
}

#[test]
fn database_file_has_everything_after_a_clean_stop() {
    copies_are_whole("TERM", &[DATABASE]);
}

#[test]
fn write_ahead_log_belongs_to_the_database_after_a_kill() {
    copies_are_whole("KILL", &[DATABASE, WAL]);
}

fn copies_are_whole(signal: &str, files: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let mut exporter = Exporter::start(folder.path(), &[]);
    fall(&exporter, 1, "TIER_10K", "TIER_1K");
    fall(&exporter, 2, "TIER_1K", "TIER_250");
    let known = numbers(&exporter);
    exporter.end(signal);
    let copy = tempfile::tempdir().unwrap();
    for file in files {
        fs::copy(folder.path().join(file), copy.path().join(file)).unwrap();
    }
    assert_eq!(numbers(&Exporter::start(copy.path(), &[])), known);
}

/// Delivers a fall of a limit for the first time.
fn fall(exporter: &Exporter, time: u64, from: &str, to: &str) {
    let value = json!({"display_phone_number": "15550783881", "event": "DOWNGRADE", "old_limit": from,
        "current_limit": to});
    let body = json!({"object": "whatsapp_business_account", "entry": [{"id": "102290129340398",
        "time": 1_748_454_394 + time, "changes": [{"field": "phone_number_quality_update", "value": value}]}]});
    let answer = exporter.post("/webhooks/meta", &body.to_string());
    assert_eq!(answer.json()["applied"], 1, "{body}");
}

fn numbers(exporter: &Exporter) -> Vec<Sample> {
    let samples = exporter.samples().into_iter();
    let of_numbers: Vec<_> = samples
        .filter(|sample| sample.name.starts_with("whatsapp_phone_number_"))
        .collect();
    assert!(!of_numbers.is_empty());
    of_numbers
}

fn run(folder: &Path, commands: &str) {
    let output = Command::new("sh")
        .args(["-ec", commands])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{commands}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
