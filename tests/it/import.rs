//! Numbers that are imported from a file, and exported again.

use std::{fs, path::Path, process::Output};

use serde_json::json;

use crate::support::{Exporter, Sample, command};

const LIMIT: &str = "whatsapp_phone_number_messaging_limit";
const CHANGES: &str = "whatsapp_phone_number_messaging_limit_changes_total";
const FILE: &str = "provider,waba_id,phone_number,name,messaging_limit
8x8,,447700900123,\"Käse, Wurst & \"\"Co\"\"\",
meta,102290129340398,15550783881,Support,10000
meta,102290129340398,15550783882,,unlimited
meta,102290129340398,15550783883,Sales,0
";

fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = command();
    command.current_dir(folder).args(arguments);
    command.output().unwrap()
}

/// Imports a file, which must succeed.
fn import(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).unwrap();
    let output = run(folder, &["import", name]);
    assert!(output.status.success(), "{output:?}");
}

/// Exports to standard output, which must succeed.
fn export(folder: &Path, format: &str) -> String {
    let output = run(folder, &["export", "-", "--format", format]);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn labels(phone_number: &str) -> [(&str, &str); 2] {
    [("provider", "meta"), ("phone_number", phone_number)]
}

fn downgrade(number: &str, time: u64, limit: &str) -> String {
    json!({"entry": [{"id": "102290129340398", "time": time, "changes": [{
        "field": "phone_number_quality_update",
        "value": {"display_phone_number": number, "event": "DOWNGRADE", "current_limit": limit},
    }]}]})
    .to_string()
}

#[test]
fn imported_numbers_are_known_without_an_event_and_exported_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    import(folder.path(), "numbers.csv", FILE);
    assert_eq!(export(folder.path(), "csv"), FILE);
    let exporter = Exporter::start(&folder.path().join("data"), &[]);
    let samples = exporter.samples();
    let of = |name: &str| {
        let is_of = |sample: &&Sample| sample.name == name;
        samples.iter().filter(is_of).collect::<Vec<_>>()
    };
    let names: Vec<_> = of("whatsapp_phone_number_info")
        .iter()
        .map(|sample| (sample.labels["name"].as_str(), sample.value))
        .collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(names.contains(&("Käse, Wurst & \"Co\"", 1.0)), "{names:?}");
    assert_eq!(of("whatsapp_phone_number_flagged").len(), 4);
    assert!(
        of("whatsapp_phone_number_quality_events_total")
            .iter()
            .all(|events| events.value == 0.0)
    );
    assert!(of(CHANGES).iter().all(|changes| changes.value == 0.0));
    for absent in [
        "whatsapp_phone_number_previous_messaging_limit",
        "whatsapp_phone_number_last_event_timestamp_seconds",
    ] {
        assert!(of(absent).is_empty(), "{absent}");
    }
    let limit = |number| exporter.value(LIMIT, &labels(number));
    assert_eq!(limit("15550783881"), Some(10_000.0));
    assert_eq!(limit("15550783882"), Some(f64::INFINITY));
    assert_eq!(limit("15550783883"), Some(0.0));
    let page = exporter.get("/?q=suPPort");
    assert!(
        page.text().contains("Support") && !page.text().contains("Sales"),
        "{}",
        page.text()
    );
    let answer = exporter
        .get("/api/v1/phone_numbers?phone_number=15550783881")
        .json();
    assert_eq!(answer["phone_numbers"][0]["info"], json!({"Support": 1}));
}

#[test]
fn webhook_replaces_an_imported_limit_and_an_import_no_webhooks() {
    let folder = tempfile::tempdir().unwrap();
    import(folder.path(), "numbers.csv", FILE);
    let data = folder.path().join("data");
    let mut exporter = Exporter::start(&data, &[]);
    // A delivery that is years late is newer than what somebody read in a console at any time.
    let answer = exporter.post(
        "/webhooks/meta",
        &downgrade("15550783881", 1_500_000_000, "TIER_1K"),
    );
    assert_eq!(answer.json()["applied"], 1);
    let labels = labels("15550783881");
    let down = [&labels[..], &[("direction", "down")]].concat();
    assert_eq!(exporter.value(LIMIT, &labels), Some(1000.0));
    assert_eq!(exporter.value(CHANGES, &down), Some(1.0));
    let before = "whatsapp_phone_number_previous_messaging_limit";
    assert_eq!(exporter.value(before, &labels), Some(10_000.0));

    // Beside the exporter that runs: an export works, and an import needs the storage for itself.
    assert!(export(folder.path(), "csv").contains("15550783881,Support,1000\n"));
    let refused = run(folder.path(), &["import", "numbers.csv"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("another process"),
        "{refused:?}"
    );

    assert!(exporter.end("TERM").success());
    import(
        folder.path(),
        "again.csv",
        &FILE.replace("Support", "Hotline"),
    );
    let exporter = exporter.start_again();
    assert_eq!(exporter.value(LIMIT, &labels), Some(1000.0));
    assert_eq!(exporter.value(CHANGES, &down), Some(1.0));
    let name = [&labels[..], &[("name", "Hotline")]].concat();
    assert_eq!(
        exporter.value("whatsapp_phone_number_info", &name),
        Some(1.0)
    );
    let renamed = [&labels[..], &[("name", "Support")]].concat();
    assert_eq!(exporter.value("whatsapp_phone_number_info", &renamed), None);
}

#[test]
fn limit_of_the_account_is_shown_where_a_number_has_only_an_imported_one() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut exporter = Exporter::start(&data, &[]);
    let capability = |limit: u32, time: u64| {
        json!({"entry": [{"id": "102290129340398", "time": time, "changes": [{
            "field": "business_capability_update",
            "value": {"max_daily_conversations_per_business": limit},
        }]}]})
        .to_string()
    };
    exporter.post("/webhooks/meta", &capability(2000, 1_700_000_000));
    exporter.end("TERM");
    import(folder.path(), "numbers.csv", FILE);
    let exporter = exporter.start_again();
    let limit = || exporter.value(LIMIT, &labels("15550783882"));
    assert_eq!(limit(), Some(2000.0));
    exporter.post("/webhooks/meta", &capability(1000, 1_700_000_001));
    assert_eq!(limit(), Some(1000.0));
    let down = [("phone_number", "15550783882"), ("direction", "down")];
    assert_eq!(exporter.value(CHANGES, &down), Some(1.0));
}

#[test]
fn mistake_is_named_by_its_line_and_nothing_is_imported() {
    let folder = tempfile::tempdir().unwrap();
    let long = "x".repeat(65);
    for (line, sentence) in [
        (
            "meta,1",
            "line 6: it has 2 columns, and the first line has 5",
        ),
        ("meta,1,155,Name,10K,more", "line 6"),
        (
            "nobody,1,155,Name,10K",
            "line 6: the provider is not one of ",
        ),
        (
            "meta,1,<number>,Name,10K",
            "line 6: the phone number holds '<'",
        ),
        ("meta,1,,Name,10K", "line 6: the phone number is missing"),
        (
            "meta,1,155,Name,10 thousand",
            "line 6: the limit is not one",
        ),
        (
            &format!("meta,1,155,{long},10K"),
            "line 6: the name is longer than 64",
        ),
        (
            "meta,102290129340398,+1 555 078 3881,,",
            "line 6: the number stands in line 3, too",
        ),
    ] {
        fs::write(folder.path().join("numbers.csv"), format!("{FILE}{line}\n")).unwrap();
        let output = run(folder.path(), &["import", "numbers.csv"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{line}: {said}");
        assert!(
            said.contains(sentence) && said.contains("nothing is imported"),
            "{line}: {said}"
        );
        assert!(!folder.path().join("data").exists());
    }
    let unknown = FILE.replace("messaging_limit", "limit");
    fs::write(folder.path().join("numbers.csv"), unknown).unwrap();
    let output = run(folder.path(), &["import", "numbers.csv"]);
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("limit"),
        "{output:?}"
    );
    assert_eq!(output.status.code(), Some(1));

    import(folder.path(), "numbers.csv", FILE);
    fs::write(
        folder.path().join("more.csv"),
        FILE.replace("155507838", "155507839"),
    )
    .unwrap();
    let output = run(
        folder.path(),
        &["import", "more.csv", "--limits.max-phone-numbers=5"],
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("more than 5 numbers"),
        "{output:?}"
    );
    assert_eq!(export(folder.path(), "csv"), FILE);
}

#[test]
fn json_says_the_same_as_csv() {
    let folder = tempfile::tempdir().unwrap();
    import(folder.path(), "numbers.csv", FILE);
    let output = run(folder.path(), &["export", "numbers.json"]);
    assert!(output.status.success(), "{output:?}");
    let text = fs::read_to_string(folder.path().join("numbers.json")).unwrap();
    let rows: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(rows[1]["messaging_limit"], "10000");
    let other = tempfile::tempdir().unwrap();
    import(other.path(), "numbers.json", &text);
    assert_eq!(export(other.path(), "json"), text);
    assert_eq!(export(other.path(), "csv"), FILE);
    fs::write(
        other.path().join("wrong.json"),
        text.replace("15550783882", "<>"),
    )
    .unwrap();
    let output = run(other.path(), &["import", "wrong.json"]);
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("number 3 of the list"),
        "{output:?}"
    );
    let nothing = run(
        &other.path().join("."),
        &["export", "--storage.path=nowhere"],
    );
    assert_eq!(nothing.status.code(), Some(1));
}
