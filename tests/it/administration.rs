//! Phone numbers and accounts that the operator removes.

use std::{fs, process::Command};

use serde_json::json;

use crate::{
    readme::{blocks, section},
    support::{Answer, Exporter, fixture, request, wait_for},
};

const ENABLED: &str = "--web.enable-admin-api";
const NUMBER: &str = "15550783881";

fn delete(exporter: &Exporter, path: &str) -> Answer {
    let path = format!("/api/v1/{path}");
    request(exporter.web, "DELETE", &path, &[], b"").unwrap()
}

/// A number of Meta's is flagged.
fn flag(exporter: &Exporter, waba_id: &str, number: &str, time: i64) {
    let answer = exporter.post("/webhooks/meta", &flagged(waba_id, number, time));
    assert_eq!(answer.json()["applied"], 1, "{}", answer.text());
}

fn flagged(waba_id: &str, number: &str, time: i64) -> String {
    let value = json!({"display_phone_number": number, "event": "FLAGGED"});
    let change = json!({"field": "phone_number_quality_update", "value": value});
    json!({"entry": [{"id": waba_id, "time": time, "changes": [change]}]}).to_string()
}

/// Meta reports the limit of an account.
fn capability(exporter: &Exporter, waba_id: &str, limit: u32) {
    let value = json!({"max_daily_conversations_per_business": format!("TIER_{limit}")});
    let change = json!({"field": "business_capability_update", "value": value});
    let body = json!({"entry": [{"id": waba_id, "time": 1_748_454_394, "changes": [change]}]});
    let answer = exporter.post("/webhooks/meta", &body.to_string());
    assert_eq!(answer.json()["applied"], 1, "{}", answer.text());
}

/// The samples of numbers and accounts on all forms of the page.
fn pages(exporter: &Exporter) -> Vec<String> {
    let paths = ["/metrics", "/metrics?shard=0/2", "/metrics?shard=1/2"];
    let lines = |path: &&str| {
        let page = exporter.get(path);
        let is_known = |line: &&str| {
            line.contains("whatsapp_phone_number_") || line.contains("whatsapp_business_account_")
        };
        let lines: Vec<_> = page.text().lines().filter(is_known).collect();
        lines.join("\n")
    };
    paths.iter().map(lines).collect()
}

#[test]
fn removed_number_is_as_if_it_had_never_been_known() {
    let [storage, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let exporter = Exporter::start(storage.path(), &[ENABLED, "--limits.max-phone-numbers=3"]);
    let never = Exporter::start(other.path(), &[]);
    for (waba_id, number) in [("1", NUMBER), ("1", "15550783882"), ("2", NUMBER)] {
        flag(&exporter, waba_id, number, 1_748_454_394);
        if (waba_id, number) != ("1", NUMBER) {
            flag(&never, waba_id, number, 1_748_454_394);
        }
    }
    // The page is kept from one scrape to the next.
    assert_ne!(pages(&exporter), pages(&never));

    let removed = delete(&exporter, &format!("phone_numbers/meta/1/{NUMBER}"));
    assert_eq!(removed.status, 200, "{}", removed.text());
    assert_eq!(removed.json(), json!({"phone_numbers": 1, "accounts": 0}));
    assert_eq!(pages(&exporter), pages(&never));
    let lists = [&exporter, &never].map(|exporter| {
        let mut list = exporter.get("/api/v1/phone_numbers").json();
        for number in list["phone_numbers"].as_array_mut().unwrap() {
            for event in number["history"].as_array_mut().unwrap() {
                assert!(event["accepted_timestamp_seconds"].take().is_f64());
            }
        }
        list
    });
    assert_eq!(lists[0], lists[1]);
    let known = exporter.value("whatsapp_exporter_phone_numbers", &[]);
    assert_eq!(known, Some(2.0));
    let log = exporter.log();
    assert!(
        log.contains("*******3881") && !log.contains(NUMBER),
        "{log}"
    );

    let exporter = exporter.kill_and_restart();
    assert_eq!(pages(&exporter), pages(&never));

    // There is room for it again, and a delivery from before it was removed counts.
    flag(&exporter, "1", NUMBER, 1_748_454_394);
    let labels = [
        ("waba_id", "1"),
        ("phone_number", NUMBER),
        ("event", "FLAGGED"),
    ];
    let events = exporter.value("whatsapp_phone_number_quality_events_total", &labels);
    assert_eq!(events, Some(1.0));
    let exporter = exporter.kill_and_restart();
    let events = exporter.value("whatsapp_phone_number_quality_events_total", &labels);
    assert_eq!(events, Some(1.0));
}

#[test]
fn removed_number_is_not_in_the_files_of_the_storage() {
    let storage = tempfile::tempdir().unwrap();
    let mut exporter = Exporter::start(storage.path(), &[ENABLED]);
    // More documents than stand on one page, and many versions of one of them.
    for time in 0..100 {
        flag(&exporter, "1", NUMBER, 1_748_454_394 + time);
        flag(&exporter, "2", &format!("1666{time:07}"), 1_748_454_394);
    }
    let has = |number: &str| {
        let files = fs::read_dir(storage.path()).unwrap();
        let mut contents = files.map(|file| fs::read(file.unwrap().path()).unwrap());
        contents.any(|content| {
            let mut windows = content.windows(number.len());
            windows.any(|window| window == number.as_bytes())
        })
    };
    assert!(has(NUMBER));
    assert_eq!(delete(&exporter, "accounts/meta/1").status, 200);
    assert!(exporter.end("TERM").success());
    assert!(!has(NUMBER));
    assert!(has("16660000000"));
}

#[test]
fn commands_of_the_documentation_remove_a_number_and_an_account() {
    let storage = tempfile::tempdir().unwrap();
    let exporter = Exporter::start(storage.path(), &[ENABLED]);
    let page = fixture("../docs/deployment.md");
    let commands = blocks(section(&page, "Removing a number or an account"), "sh");
    let port = exporter.web.to_string();
    let commands = commands.concat().replace("127.0.0.1:10877", &port);
    for (command, removed) in commands.trim().lines().zip([
        r#"{"phone_numbers":1,"accounts":0}"#,
        r#"{"phone_numbers":2,"accounts":1}"#,
    ]) {
        capability(&exporter, "102290129340398", 1000);
        for number in [NUMBER, "15550783882"] {
            flag(&exporter, "102290129340398", number, 1_748_454_394);
        }
        let output = Command::new("sh").args(["-c", command]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), removed);
        let left = "accounts/meta/102290129340398";
        assert!([200, 404].contains(&delete(&exporter, left).status));
    }
}

#[test]
fn removed_account_goes_with_all_its_numbers() {
    let storage = tempfile::tempdir().unwrap();
    let exporter = Exporter::start(storage.path(), &[ENABLED]);
    for waba_id in ["1", "2"] {
        capability(&exporter, waba_id, 1000);
        for number in ["15550783881", "15550783882"] {
            flag(&exporter, waba_id, number, 1_748_454_395);
        }
    }
    let removed = delete(&exporter, "accounts/meta/1");
    assert_eq!(removed.json(), json!({"phone_numbers": 2, "accounts": 1}));
    let exporter = exporter.kill_and_restart();
    let limit = |waba_id: &str, name: &str| exporter.value(name, &[("waba_id", waba_id)]);
    let of_account = "whatsapp_business_account_messaging_limit";
    assert_eq!(limit("1", of_account), None);
    assert_eq!(limit("2", of_account), Some(1000.0));
    assert!(!exporter.get("/metrics").text().contains("waba_id=\"1\""));

    // A number of it has no limit to take over.
    flag(&exporter, "1", NUMBER, 1_748_454_396);
    assert_eq!(limit("1", "whatsapp_phone_number_messaging_limit"), None);

    // A number that is removed alone takes over its account's limit when it is reported again.
    let path = format!("phone_numbers/meta/2/{NUMBER}");
    assert_eq!(delete(&exporter, &path).status, 200);
    flag(&exporter, "2", NUMBER, 1_748_454_396);
    let labels = [("waba_id", "2"), ("phone_number", NUMBER)];
    let taken_over = exporter.value("whatsapp_phone_number_messaging_limit", &labels);
    assert_eq!(taken_over, Some(1000.0));
}

#[test]
fn empty_account_is_a_dash_and_a_number_may_have_any_spelling() {
    let storage = tempfile::tempdir().unwrap();
    let exporter = Exporter::start(storage.path(), &[ENABLED]);
    for (spelling, method) in [
        ("15550783881", "phone_numbers/kaleyra/-/15550783881"),
        (
            "15550783881",
            "phone_numbers/kaleyra/-/%2B1%20555%20078-3881",
        ),
        (
            "1086***36726376",
            "phone_numbers/kaleyra/%2D/1086%2A**36726376",
        ),
        ("15550783881", "accounts/kaleyra/-"),
    ] {
        let path = format!("/webhooks/kaleyra?phone_no={spelling}&event=FLAGGED");
        let answer = request(exporter.webhook, "GET", &path, &[], b"").unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let removed = delete(&exporter, method);
        assert_eq!(removed.json()["phone_numbers"], 1, "{method}");
        assert_eq!(
            exporter.value("whatsapp_exporter_phone_numbers", &[]),
            Some(0.0)
        );
    }
}

#[test]
fn unknown_number_is_not_found_and_removes_nothing() {
    let storage = tempfile::tempdir().unwrap();
    let exporter = Exporter::start(storage.path(), &[ENABLED]);
    flag(&exporter, "1", NUMBER, 1_748_454_394);
    for path in [
        "phone_numbers/meta/1/15550783882",
        "phone_numbers/meta/2/15550783881",
        "phone_numbers/meta/-/15550783881",
        "phone_numbers/8x8/1/15550783881",
        "phone_numbers/nobody/1/15550783881",
        "phone_numbers/meta/1/%FF",
        "phone_numbers/meta/1/",
        "phone_numbers/meta//15550783881",
        "phone_numbers/meta/1/15550783881/",
        "phone_numbers/meta/1",
        "accounts/meta/2",
        "accounts/meta/",
        "accounts/meta",
    ] {
        let answer = delete(&exporter, path);
        assert_eq!(answer.status, 404, "{path}: {}", answer.text());
    }
    for path in ["phone_numbers", "accounts"] {
        assert_eq!(delete(&exporter, path).status, 405, "{path}");
    }
    let path = format!("/api/v1/phone_numbers/meta/1/{NUMBER}");
    let answer = exporter.get(&path);
    assert_eq!(
        (answer.status, answer.headers["allow"].as_str()),
        (405, "DELETE")
    );
    let public = request(exporter.webhook, "DELETE", &path, &[], b"").unwrap();
    assert_eq!(public.status, 404);
    assert_eq!(
        exporter.value("whatsapp_exporter_phone_numbers", &[]),
        Some(1.0)
    );
}

#[test]
fn removal_is_refused_unless_it_is_enabled() {
    let storage = tempfile::tempdir().unwrap();
    let exporter = Exporter::start(storage.path(), &[]);
    flag(&exporter, "1", NUMBER, 1_748_454_394);
    let path = format!("phone_numbers/meta/1/{NUMBER}");
    for path in [path.as_str(), "accounts/meta/1"] {
        let answer = delete(&exporter, path);
        assert_eq!(answer.status, 403, "{}", answer.text());
        assert!(answer.text().contains(ENABLED), "{}", answer.text());
    }
    assert_eq!(
        exporter.value("whatsapp_exporter_phone_numbers", &[]),
        Some(1.0)
    );
}

#[test]
fn removal_that_cannot_be_stored_is_put_off_and_shown_nowhere() {
    let storage = tempfile::tempdir().unwrap();
    let environment = [("WHATSAPP_EXPORTER_WEB_ENABLE_ADMIN_API", "true")];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let exporter = Exporter::start_on_full_disk(storage.path(), 64 << 10, &environment);
    wait_for("the exporter to be ready", || {
        exporter.get("/-/ready").status == 200
    });
    let mut time = 1_748_454_394;
    let mut is_full = || {
        time += 1;
        exporter
            .post("/webhooks/meta", &flagged("1", NUMBER, time))
            .status
            == 503
    };
    while !is_full() {}
    let before = pages(&exporter);
    let answer = delete(&exporter, "accounts/meta/1");
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(answer.headers["retry-after"], "5");
    assert_eq!(pages(&exporter), before);
    let exporter = exporter.kill_and_restart();
    assert_eq!(pages(&exporter), before);
    assert_eq!(delete(&exporter, "accounts/meta/1").status, 200);
}
