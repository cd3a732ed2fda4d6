//! The private listener: the lists as JSON, health, and the pages beside the metrics.

use std::{collections::BTreeSet, process::Command};

use serde_json::{Value as Json, json};

use crate::{
    readme::blocks,
    support::{Answer, Exporter, command, fixture, request},
};

/// An exporter and the storage that it must not outlive.
fn exporter(arguments: &[&str]) -> (Exporter, tempfile::TempDir) {
    let storage = tempfile::tempdir().unwrap();
    (Exporter::start(storage.path(), arguments), storage)
}

/// Sends entries of Meta's, all of which must be applied.
fn send(exporter: &Exporter, entries: &[Json]) {
    let answer = exporter.post("/webhooks/meta", &json!({ "entry": entries }).to_string());
    let changes: usize = entries
        .iter()
        .map(|entry| entry["changes"].as_array().unwrap().len())
        .sum();
    assert_eq!(answer.json()["applied"], changes, "{}", answer.text());
}

fn quality(number: &str, event: &str, limits: &Json) -> Json {
    let mut value = json!({"display_phone_number": number, "event": event});
    value
        .as_object_mut()
        .unwrap()
        .extend(limits.as_object().unwrap().clone());
    json!({"field": "phone_number_quality_update", "value": value})
}

fn options(exporter: &Exporter, method: &str, path: &str) -> Answer {
    request(exporter.web, method, path, &[], b"").unwrap()
}

/// The phone numbers of a list.
fn numbers(list: &Json) -> Vec<String> {
    let objects = list["phone_numbers"].as_array().unwrap();
    objects
        .iter()
        .map(|object| object["phone_number"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn every_value_stands_under_its_metrics_name() {
    let (exporter, _storage) = exporter(&[]);
    let capability =
        json!({"field": "business_capability_update", "value": {"max_phone_numbers_per_waba": 25}});
    send(
        &exporter,
        &[
            json!({"id": "300000000000101", "time": 1_766_000_000, "changes": [
            quality("+44 7700 900101", "FLAGGED", &json!({"current_limit": "TIER_250"}))]}),
            json!({"id": "300000000000101", "time": 1_766_000_001, "changes": [
            quality("+44 7700 900101", "UPGRADE", &json!({"max_daily_conversations_per_business": "TIER_UNLIMITED"})),
            capability]}),
        ],
    );

    let mut answer = exporter.get("/api/v1/phone_numbers").json();
    let number = &mut answer["phone_numbers"][0];
    // The one value that the test cannot know: it is the page's.
    let labels = [("direction", "up"), ("phone_number", "447700900101")];
    let changed = exporter
        .value(
            "whatsapp_phone_number_messaging_limit_changed_timestamp_seconds",
            &labels,
        )
        .unwrap();
    let shown = number["messaging_limit_changed_timestamp_seconds"]["up"]
        .take()
        .as_f64()
        .unwrap();
    assert!((shown - changed).abs() < 0.001, "{shown} is not {changed}");
    // A change is dated by when its event was accepted.
    assert_eq!(taken_times(&mut number["history"]).first(), Some(&shown));
    assert_eq!(
        answer,
        json!({
            "phone_numbers": [{
                "provider": "meta",
                "waba_id": "300000000000101",
                "phone_number": "447700900101",
                "messaging_limit": "+Inf",
                "previous_messaging_limit": 250,
                "messaging_limit_changes_total": {"up": 1, "down": 0},
                "messaging_limit_changed_timestamp_seconds": {"up": null},
                "flagged": 0,
                "high_throughput": 0,
                "quality_events_total": {"DOWNGRADE": 0, "FLAGGED": 1, "ONBOARDING": 0, "THROUGHPUT_UPGRADE": 0,
                    "UNFLAGGED": 0, "UPGRADE": 1, "UNKNOWN": 0},
                "last_event_timestamp_seconds": 1_766_000_001.0,
                "history": [
                    {"event": "UPGRADE", "happened_timestamp_seconds": 1_766_000_001.0,
                     "accepted_timestamp_seconds": null, "messaging_limit": "+Inf"},
                    {"event": "FLAGGED", "happened_timestamp_seconds": 1_766_000_000.0,
                     "accepted_timestamp_seconds": null, "messaging_limit": 250},
                ],
            }],
            "next": null,
        })
    );

    let mut answer = exporter.get("/api/v1/accounts").json();
    taken_times(&mut answer["accounts"][0]["history"]);
    assert!(
        answer["accounts"][0]["messaging_limit_changed_timestamp_seconds"]["up"]
            .take()
            .is_f64()
    );
    assert_eq!(
        answer,
        json!({
            "accounts": [{
                "provider": "meta",
                "waba_id": "300000000000101",
                "messaging_limit": "+Inf",
                "messaging_limit_changes_total": {"up": 1, "down": 0},
                "messaging_limit_changed_timestamp_seconds": {"up": null},
                "max_phone_numbers": {"waba": 25},
                "history": [
                    {"event": "business_capability_update", "happened_timestamp_seconds": 1_766_000_001.0,
                     "accepted_timestamp_seconds": null, "messaging_limit": null},
                    {"event": "UPGRADE", "happened_timestamp_seconds": 1_766_000_001.0,
                     "accepted_timestamp_seconds": null, "messaging_limit": "+Inf"},
                ],
            }],
            "next": null,
        })
    );
}

/// The times at which the events of a history were accepted, which become null there.
fn taken_times(history: &mut Json) -> Vec<f64> {
    let events = history.as_array_mut().unwrap().iter_mut();
    let times = events.map(|event| event["accepted_timestamp_seconds"].take().as_f64());
    times.map(Option::unwrap).collect()
}

#[test]
fn filters_narrow_the_lists() {
    let (exporter, _storage) = exporter(&[]);
    let account = |id, numbers: &[&str]| {
        let changes: Vec<Json> = numbers
            .iter()
            .map(|number| {
                quality(
                    number,
                    "UPGRADE",
                    &json!({"max_daily_conversations_per_business": "TIER_2K"}),
                )
            })
            .collect();
        json!({"id": id, "changes": changes})
    };
    send(
        &exporter,
        &[
            account("1", &["447700900101", "447700900202"]),
            account("2", &["447700900101"]),
        ],
    );
    let query = "phone_no=447700900303&event=FLAGGED";
    assert_eq!(
        request(
            exporter.webhook,
            "GET",
            &format!("/webhooks/kaleyra?{query}"),
            &[],
            b""
        )
        .unwrap()
        .status,
        200
    );

    for (filter, want) in [
        ("", 4),
        ("?provider=meta", 3),
        ("?provider=kaleyra", 1),
        ("?provider=8x8", 0),
        ("?provider=nobody", 0),
        ("?waba_id=1", 2),
        ("?waba_id=", 1),
        ("?waba_id=3", 0),
        ("?phone_number=447700900101", 2),
        ("?phone_number=+44+7700-900%20101", 2),
        ("?phone_number=%2B(44)7700.900.101&waba_id=2", 1),
        ("?phone_number=44770090010", 0),
        ("?phone_number=", 0),
        ("?phone_number=447700900101&provider=kaleyra", 0),
        ("?phone_number=447700900101&phone_number=447700900202", 0),
    ] {
        let list = exporter
            .get(&format!("/api/v1/phone_numbers{filter}"))
            .json();
        assert_eq!(numbers(&list).len(), want, "{filter}: {list}");
    }
    for (filter, want) in [
        ("", 2),
        ("?waba_id=2", 1),
        ("?provider=kaleyra", 0),
        ("?waba_id=2&provider=meta", 1),
    ] {
        let list = exporter.get(&format!("/api/v1/accounts{filter}")).json();
        assert_eq!(
            list["accounts"].as_array().unwrap().len(),
            want,
            "{filter}: {list}"
        );
    }
}

#[test]
fn pages_give_each_once() {
    let (exporter, _storage) = exporter(&[]);
    let mut all = BTreeSet::new();
    let mut entries = Vec::new();
    for account in 0..5 {
        // A cursor carries what a URL cannot, and a plus that is no leading one.
        let number = |index: usize| match index {
            0 => format!("{account}\"&+ü%\\"),
            _ => format!("4477009{account}{index:04}"),
        };
        let changes: Vec<Json> = (0..50)
            .map(|index| {
                quality(
                    &number(index),
                    "UPGRADE",
                    &json!({"max_daily_conversations_per_business": 2000}),
                )
            })
            .collect();
        all.extend((0..50).map(number));
        entries.push(json!({"id": format!("{account}&+"), "changes": changes}));
    }
    send(&exporter, &entries);
    assert_eq!(all.len(), 250);

    let pages = |list: &str, key: &str, label: &str, query: &str| {
        let mut found: Vec<String> = Vec::new();
        let mut sizes = Vec::new();
        let mut after = String::new();
        loop {
            let page = exporter
                .get(&format!("/api/v1/{list}?{query}{after}"))
                .json();
            let objects = page[key].as_array().unwrap();
            sizes.push(objects.len());
            assert!(sizes.len() <= 250, "{list}?{query} has no end");
            found.extend(
                objects
                    .iter()
                    .map(|object| object[label].as_str().unwrap().to_owned()),
            );
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return (found, sizes),
            }
        }
    };
    for (query, sizes) in [
        ("limit=100", vec![100, 100, 50]),
        ("limit=125", vec![125, 125]),
        ("limit=249", vec![249, 1]),
        ("limit=250", vec![250]),
        ("", vec![250]),
        ("limit=7&waba_id=3%26%2B", vec![7, 7, 7, 7, 7, 7, 7, 1]),
    ] {
        let (found, found_sizes) = pages("phone_numbers", "phone_numbers", "phone_number", query);
        assert_eq!(found_sizes, sizes, "{query}");
        let once: BTreeSet<String> = found.iter().cloned().collect();
        assert_eq!(once.len(), found.len(), "{query} gives a number twice");
        if !query.contains("waba_id") {
            assert_eq!(once, all, "{query}");
        }
    }
    let (found, sizes) = pages("accounts", "accounts", "waba_id", "limit=2");
    assert_eq!((found.len(), sizes), (5, vec![2, 2, 1]));
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>().len(), 5);
}

#[test]
fn a_query_that_cannot_be_answered_is_400() {
    let (exporter, _storage) = exporter(&[]);
    send(
        &exporter,
        &[
            json!({"id": "1", "changes": [
        quality("1", "UPGRADE", &json!({"max_daily_conversations_per_business": 2000})),
        quality("2", "UPGRADE", &json!({}))]}),
            json!({"id": "2", "changes": [
        quality("3", "UPGRADE", &json!({"max_daily_conversations_per_business": 2000}))]}),
        ],
    );
    let cursor = |list| {
        exporter.get(&format!("/api/v1/{list}?limit=1")).json()["next"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let (of_numbers, of_accounts) = (cursor("phone_numbers"), cursor("accounts"));
    let wrong = [
        "limit=0".into(),
        "limit=".into(),
        "limit=-1".into(),
        "limit=ten".into(),
        "limit=1.5".into(),
        "limit=99999999999999999999".into(),
        "after=".into(),
        "after=x".into(),
        "after=6".into(),
        "after=5b5d".into(),
        "after=7b7d".into(),
        "number=1".into(),
        "=".into(),
        "Limit=1".into(),
    ];
    let of_one: [(&str, Vec<String>); 2] = [
        (
            "phone_numbers",
            vec![
                format!("after={of_accounts}"),
                format!("after={}", &of_numbers[1..]),
            ],
        ),
        (
            "accounts",
            vec![format!("after={of_numbers}"), "phone_number=1".into()],
        ),
    ];
    for (list, own) in of_one {
        for query in wrong.iter().chain(&own) {
            let answer = exporter.get(&format!("/api/v1/{list}?{query}"));
            assert_eq!(answer.status, 400, "{list}?{query}: {}", answer.text());
            let sentence = answer.json()["error"].as_str().unwrap().to_owned();
            let word = query.split_once('=').unwrap().0.to_lowercase();
            let named = if ["limit", "after"].contains(&word.as_str()) && !query.starts_with('L') {
                &word
            } else {
                "parameter"
            };
            assert!(sentence.contains(named), "{query}: {sentence}");
        }
        assert_eq!(
            exporter.get(&format!("/api/v1/{list}?limit=100000")).status,
            200
        );
    }
}

#[test]
fn the_web_listener_answers_get_and_head_alone() {
    let (exporter, _storage) = exporter(&[]);
    for (path, content_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
        ("/-/healthy", "text/plain; charset=utf-8"),
        ("/-/ready", "text/plain; charset=utf-8"),
        ("/api/v1/phone_numbers", "application/json"),
        ("/api/v1/accounts", "application/json"),
    ] {
        let get = options(&exporter, "GET", path);
        assert_eq!(
            (get.status, get.headers["content-type"].as_str()),
            (200, content_type),
            "{path}"
        );
        assert!(!get.body.is_empty(), "{path}");
        let head = options(&exporter, "HEAD", path);
        assert_eq!(
            (head.status, head.headers["content-type"].as_str()),
            (200, content_type),
            "{path}"
        );
        assert!(head.body.is_empty(), "HEAD {path} has a body");
        let length = head.headers.get("content-length");
        // A list is written as it is sent, so that its length is not known before.
        assert_eq!(length.is_none(), path.starts_with("/api/"), "HEAD {path}");
        assert_ne!(
            length.map(String::as_str),
            Some("0"),
            "HEAD {path} does not tell the length"
        );
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let answer = options(&exporter, method, path);
            assert_eq!(
                (answer.status, answer.headers["allow"].as_str()),
                (405, "GET, HEAD"),
                "{method} {path}"
            );
        }
    }
    for path in [
        "/nothing",
        "/metrics/",
        "/-/",
        "/api/v1",
        "/api/v1/phone_numbers/",
        "/webhooks/meta",
        "//",
    ] {
        let answer = options(&exporter, "GET", path);
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.json()["error"].is_string());
    }
}

#[test]
fn the_start_page_leads_everywhere() {
    let (exporter, _storage) = exporter(&["--web.telemetry-path=/numbers"]);
    let page = options(&exporter, "GET", "/");
    let links: Vec<&str> = page
        .text()
        .split("href=\"")
        .skip(1)
        .map(|rest| rest.split_once('"').unwrap().0)
        .collect();
    for link in [
        "/numbers",
        "/-/healthy",
        "/-/ready",
        "/api/v1/phone_numbers",
        "/api/v1/accounts",
    ] {
        assert!(links.contains(&link), "{links:?} lack {link}");
    }
    for link in links.into_iter().filter(|link| link.starts_with('/')) {
        assert_eq!(options(&exporter, "GET", link).status, 200, "{link}");
    }
    for provider in whatsapp_quality_exporter::providers::ALL {
        assert!(
            page.text()
                .contains(&format!("/webhooks/{}", provider.name.as_str())),
            "{provider:?}"
        );
    }
    assert!(
        options(&exporter, "GET", "/numbers")
            .text()
            .contains("whatsapp_exporter_build_info")
    );
    assert_eq!(options(&exporter, "GET", "/metrics").status, 404);
}

#[test]
fn documented_examples_are_answered_as_documented() {
    let storage = tempfile::tempdir().unwrap();
    let exporter = Exporter::start(storage.path(), &["--web.enable-admin-api"]);
    let page = fixture("../docs/api.md");
    let run = |commands: &str| {
        let binary = command().get_program().display().to_string();
        let commands = commands
            .replace("whatsapp-quality-exporter send", &format!("{binary} send"))
            .replace(
                " send meta",
                &format!(" send --url http://{} meta", exporter.webhook),
            )
            .replace("127.0.0.1:10877", &exporter.web.to_string());
        let output = Command::new("sh")
            .args(["-ec", &commands])
            .output()
            .unwrap();
        assert!(output.status.success(), "{commands}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let commands = blocks(&page, "sh");
    let [webhooks, examples @ ..] = &commands[..] else {
        panic!("no commands");
    };
    run(webhooks);
    let answers = blocks(&page, "json");
    assert_eq!(examples.len(), answers.len());
    for (example, documented) in examples.iter().zip(answers) {
        let mut answer: Json = serde_json::from_str(&run(example)).unwrap();
        let mut documented: Json = serde_json::from_str(&documented).unwrap();
        // When the exporter accepted the events.
        for place in [
            "/phone_numbers/0/messaging_limit_changed_timestamp_seconds/down",
            "/phone_numbers/0/history/0/accepted_timestamp_seconds",
            "/accounts/0/history/0/accepted_timestamp_seconds",
        ] {
            if let Some(at) = documented.pointer_mut(place) {
                let applied = answer.pointer_mut(place).unwrap();
                assert!(applied.is_f64() && at.is_f64(), "{applied}");
                *at = applied.clone();
            }
        }
        assert_eq!(answer, documented, "{example}");
    }
}
