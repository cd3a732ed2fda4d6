//! Phone numbers that are shown by pseudonyms.

use std::{fs, path::Path, process::Command};

use serde_json::json;

use crate::{
    readme::{blocks, section},
    support::{Exporter, allow_all, command, finish, fixture, request},
};

const NUMBERS: [&str; 3] = ["15550783881", "25550783881", "15550783999"];

/// An exporter that knows the numbers, and shows them in this way.
fn start(storage: &Path, mode: &str, key: &str) -> Exporter {
    let file = storage.join("key");
    fs::write(&file, key).unwrap();
    let arguments = [
        format!("--privacy.phone-numbers={mode}"),
        format!("--privacy.key-file={}", file.display()),
        "--web.enable-admin-api".to_owned(),
    ];
    let exporter = Exporter::start(
        &storage.join("data"),
        &arguments.each_ref().map(String::as_str),
    );
    for number in NUMBERS {
        let value = json!({"display_phone_number": number, "event": "FLAGGED"});
        let change = json!({"field": "phone_number_quality_update", "value": value});
        let body = json!({"entry": [{"id": "1", "time": 1_748_454_394, "changes": [change]}]});
        let answer = exporter.post("/webhooks/meta", &body.to_string());
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    exporter
}

/// What is shown in the place of the numbers, from the metrics.
fn shown(exporter: &Exporter) -> Vec<String> {
    let samples = exporter.samples();
    let flagged = samples
        .into_iter()
        .filter(|sample| sample.name == "whatsapp_phone_number_flagged");
    let mut shown: Vec<_> = flagged
        .map(|sample| sample.labels["phone_number"].clone())
        .collect();
    shown.sort();
    shown
}

#[test]
fn numbers_are_shown_nowhere_and_never_become_one() {
    for (mode, length) in [("masked", 11 + 8), ("hashed", 16)] {
        let storage = tempfile::tempdir().unwrap();
        let exporter = start(storage.path(), mode, "a key\n");
        let pseudonyms = shown(&exporter);
        assert_eq!(pseudonyms.len(), NUMBERS.len(), "{mode}: {pseudonyms:?}");
        for pseudonym in &pseudonyms {
            assert_eq!(pseudonym.len(), length, "{pseudonym}");
            let hash = pseudonym.trim_start_matches('*');
            assert!(hash.bytes().all(|b| b.is_ascii_hexdigit()), "{pseudonym}");
        }
        let masked = pseudonyms
            .iter()
            .filter(|text| text.starts_with("*******3881"));
        assert_eq!(masked.count(), if mode == "masked" { 2 } else { 0 });

        let first = exporter.get("/api/v1/phone_numbers?limit=1").json();
        let next = first["next"].as_str().unwrap();
        let next = String::from_utf8(base16ct::lower::decode_vec(next).unwrap()).unwrap();
        let paths = ["/", "/metrics", "/api/v1/phone_numbers", "/api/v1/accounts"];
        let pages = paths.map(|path| exporter.get(path).text().to_owned());
        for text in pages.iter().chain([&next, &exporter.log()]) {
            for number in NUMBERS {
                assert!(!text.contains(number), "{mode}: {text}");
            }
        }
        // The key stays, and so do the series; the storage has the numbers as they are.
        let exporter = exporter.kill_and_restart();
        assert_eq!(shown(&exporter), pseudonyms);
        drop(exporter);
        let exporter = start(storage.path(), mode, "another key");
        assert!(
            shown(&exporter)
                .iter()
                .all(|other| !pseudonyms.contains(other))
        );
        drop(exporter);
        assert_eq!(shown(&start(storage.path(), "plain", "")), {
            let mut numbers = NUMBERS;
            numbers.sort_unstable();
            numbers
        });
    }
}

#[test]
fn lists_and_removals_take_what_is_shown() {
    for mode in ["masked", "hashed"] {
        let storage = tempfile::tempdir().unwrap();
        let exporter = start(storage.path(), mode, "a key");
        let pseudonyms = shown(&exporter);

        let mut listed = Vec::new();
        let mut after = String::new();
        loop {
            let page = exporter
                .get(&format!("/api/v1/phone_numbers?limit=1{after}"))
                .json();
            let number = page["phone_numbers"][0]["phone_number"].as_str().unwrap();
            listed.push(number.to_owned());
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => break,
            }
        }
        listed.sort();
        assert_eq!(listed, pseudonyms);

        let count = |number: &str| {
            let list = exporter.get(&format!("/api/v1/phone_numbers?phone_number={number}"));
            list.json()["phone_numbers"].as_array().unwrap().len()
        };
        for pseudonym in &pseudonyms {
            assert_eq!(count(pseudonym), 1, "{pseudonym}");
        }
        // Otherwise a reader could find out which pseudonym a number has.
        assert_eq!(count(NUMBERS[0]), 0);

        let delete = |number: &str| {
            let path = format!("/api/v1/phone_numbers/meta/1/{number}");
            request(exporter.web, "DELETE", &path, &[], b"")
                .unwrap()
                .status
        };
        assert_eq!(delete(&pseudonyms[0]), 200);
        assert_eq!(delete(&pseudonyms[0]), 404);
        assert_eq!(shown(&exporter), pseudonyms[1..]);
        assert_eq!(delete(NUMBERS[2]) + delete(NUMBERS[0]), 200 + 200);
    }
}

#[test]
fn commands_of_the_documentation_make_a_key_and_the_hash_of_a_number() {
    let storage = tempfile::tempdir().unwrap();
    let page = fixture("../docs/deployment.md");
    let commands = blocks(section(&page, "Phone numbers that nobody is to read"), "sh").concat();
    let mut shell = Command::new("sh");
    let shell = shell.args(["-c", &commands]).current_dir(&storage);
    let printed = String::from_utf8(shell.output().unwrap().stdout).unwrap();
    let key = fs::read_to_string(storage.path().join("privacy.key")).unwrap();
    let exporter = start(storage.path(), "hashed", &key);
    let hash = printed.trim().rsplit(' ').next().unwrap();
    assert_eq!(hash.len(), 64, "{printed}");
    assert!(
        shown(&exporter).contains(&hash[..16].to_owned()),
        "{printed}"
    );
}

#[test]
fn pseudonyms_without_a_key_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("blank"), " \n").unwrap();
    for mode in ["masked", "hashed"] {
        for (key, reason) in [
            (None, "--privacy.key-file"),
            (Some(path("missing")), "cannot read"),
            (Some(path("blank")), "empty or blank"),
        ] {
            let mut program = command();
            program.args([allow_all(), format!("--privacy.phone-numbers={mode}")]);
            program.args(key.map(|key| format!("--privacy.key-file={key}")));
            program.arg(format!("--storage.path={}", path("data")));
            let output = finish(program);
            let errors = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{errors}");
            assert!(errors.contains(reason), "{errors}");
        }
    }
}
