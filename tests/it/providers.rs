//! What deliveries mean: the fixtures of every provider, from the request to the page.
//!
//! A fixture is a file below `fixtures/providers/NAME`: deliveries in their order, a second apart
//! from 2026-01-01T00:00:00Z, and what the page shows after the last of them.

use std::{collections::BTreeMap, fs, ops::Range, path::PathBuf};

use serde::Deserialize;
use serde_json::{json, value::RawValue};
use whatsapp_quality_exporter::{
    domain::{AccountKey, NumberKey},
    providers::{self, Delivery, Provider},
    state::Entity,
};

use crate::{
    memory::{Memory, NEW_YEAR, Outcomes, at, example, get, post, provider},
    support::{Exporter, Sample, fixture, request, value, wait_for},
};

type Labels = BTreeMap<String, String>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fixture {
    /// Why it matters; said where it fails.
    why: String,
    deliveries: Vec<Step>,
    /// Each names one series, by as many labels as that takes.
    #[serde(default)]
    series: Vec<(String, Labels, Expected)>,
    #[serde(default)]
    absent: Vec<(String, Labels)>,
    /// What stands nowhere on the page.
    #[serde(default)]
    never: Vec<String>,
}

/// A delivery: a query for `GET`, or a body for `POST`, as JSON kept as it is written, as text or
/// as a form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    query: Option<String>,
    body: Option<Box<RawValue>>,
    raw: Option<String>,
    form: Option<String>,
    /// Whether it is refused as a whole.
    #[serde(default)]
    error: bool,
    /// All that became of it; without a word, one change was applied.
    #[serde(default = "one_applied")]
    outcome: Outcomes,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Expected {
    Number(f64),
    /// `+Inf`, for which JSON has no number.
    Text(String),
}

fn one_applied() -> Outcomes {
    Outcomes {
        applied: 1,
        ..Outcomes::default()
    }
}

#[test]
fn every_fixture_of_every_provider_holds() {
    let mut failures = Vec::new();
    for provider in providers::ALL {
        let fixtures = fixtures(provider.name.as_str());
        assert!(
            !fixtures.is_empty(),
            "provider {} has no fixtures",
            provider.name.as_str()
        );
        for (name, text) in fixtures {
            let fixture =
                serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
            if let Err(what) = check(provider, &fixture) {
                failures.push(format!("{name}: {what}\n  why it matters: {}", fixture.why));
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} fixtures fail:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[test]
fn the_example_of_every_provider_is_one_change() {
    for provider in providers::ALL {
        let delivery = example(provider);
        assert!(provider.methods.contains(delivery.method), "{provider:?}");
        let outcomes = Memory::default()
            .deliver(provider, &delivery, at(NEW_YEAR))
            .unwrap();
        assert_eq!(outcomes, one_applied(), "{provider:?}");
    }
}

#[test]
fn file_of_a_provider_has_sixty_lines_at_most() {
    let folder = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/providers")).unwrap();
    let files = folder.map(|file| file.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let mut found = 0;
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        if text.contains("static PROVIDER: Provider") {
            found += 1;
            let lines = text.lines().count();
            assert!(lines <= 60, "{} has {lines} lines", path.display());
        }
    }
    assert_eq!(found, providers::ALL.len());
}

#[test]
fn an_account_is_one_providers_alone() {
    const ACCOUNT: &str = "300000000000101";
    const NUMBER: &str = "447700900101";
    let of_8x8 = json!({"eventType": "phone_number_quality_update", "businessAccountId": ACCOUNT,
        "eventDetails": {"displayPhoneNumber": NUMBER, "meta": {"event": "ONBOARDING", "currentLimit": "TIER_1K"}}});
    let of_meta = json!({"entry": [{"id": ACCOUNT, "changes": [
        {"field": "phone_number_quality_update",
            "value": {"display_phone_number": NUMBER, "event": "FLAGGED", "current_limit": "TIER_250"}},
        {"field": "business_capability_update", "value": {"max_daily_conversations_per_business": 2000}}]}]});
    let mut memory = Memory::default();
    for (name, body) in [("8x8", of_8x8), ("meta", of_meta)] {
        memory
            .deliver(
                provider(name),
                &post(body.to_string().as_bytes()),
                at(NEW_YEAR),
            )
            .unwrap();
    }
    let samples = memory.samples();
    let shown = |name, provider| value(&samples, name, &[("provider", provider)]);
    assert_eq!(
        shown("whatsapp_phone_number_messaging_limit", "meta"),
        Some(2000.0)
    );
    assert_eq!(
        shown("whatsapp_phone_number_messaging_limit", "8x8"),
        Some(1000.0)
    );
    assert_eq!(shown("whatsapp_phone_number_flagged", "8x8"), Some(0.0));
    assert_eq!(
        shown("whatsapp_business_account_messaging_limit", "meta"),
        Some(2000.0)
    );
    assert_eq!(
        shown("whatsapp_business_account_messaging_limit", "8x8"),
        None
    );
}

#[test]
fn a_number_remembers_its_last_32_deliveries_and_an_account_1024() {
    let quality = |time| {
        json!({"id": "1", "time": time, "changes": [{"field": "phone_number_quality_update",
            "value": {"display_phone_number": "2", "event": "ONBOARDING"}}]})
    };
    let capability = |time| {
        json!({"id": "1", "time": time, "changes": [{"field": "business_capability_update",
            "value": {"current_limit": ""}}]})
    };
    let alert = |time| {
        json!({"id": "1", "time": time, "changes": [{"field": "account_alerts",
            "value": {"alert_severity": "WARNING"}}]})
    };
    type Entry<'a> = &'a dyn Fn(i64) -> serde_json::Value;
    let windows: [(Entry<'_>, i64); 3] = [(&quality, 32), (&capability, 1024), (&alert, 1024)];
    for (entry, window) in windows {
        let first = 1_766_000_000;
        let mut memory = Memory::default();
        let mut is_duplicate = |time| {
            let body = json!({"entry": [entry(time)]}).to_string();
            let body = post(body.as_bytes());
            let outcomes = memory.deliver(provider("meta"), &body, at(NEW_YEAR));
            outcomes.unwrap().duplicate == 1
        };
        for time in first..=first + window {
            assert!(!is_duplicate(time));
        }
        for time in first + 1..=first + window {
            let before = first + window - time;
            assert!(
                is_duplicate(time),
                "the window ends too early, {before} before the last"
            );
        }
        assert!(!is_duplicate(first), "the window has no end");
        assert!(is_duplicate(first), "what was forgotten is remembered anew");
    }
}

#[test]
fn number_beyond_the_cap_is_refused_and_known_ones_go_on() {
    let number = |account: &str, number: &str, time: i64| {
        json!({"id": account, "time": time, "changes": [{"field": "phone_number_quality_update",
            "value": {"display_phone_number": number, "event": "FLAGGED"}}]})
    };
    let account = |account: &str, time: i64| {
        json!({"id": account, "time": time, "changes": [{"field": "business_capability_update",
            "value": {"max_daily_conversations_per_business": 2000}}]})
    };
    let mut memory = Memory::with_at_most(2);
    let mut deliver = |entries: &[serde_json::Value]| {
        let body = json!({ "entry": entries }).to_string();
        let outcomes = memory
            .deliver(provider("meta"), &post(body.as_bytes()), at(NEW_YEAR))
            .unwrap();
        (outcomes.applied, outcomes.refused)
    };
    assert_eq!(deliver(&[number("1", "1", 1), account("1", 1)]), (2, 0));
    // Those known already are in the draft too, and must not be counted twice.
    let known = [number("1", "1", 2), account("1", 2)];
    let second = [number("1", "2", 2), account("2", 2)];
    let third = [number("2", "1", 2), account("3", 2)];
    assert_eq!(
        deliver(&[known.as_slice(), &second, &third].concat()),
        (4, 2)
    );
    assert_eq!(
        deliver(&[
            number("1", "1", 3),
            account("3", 3),
            number("2", "1", 3),
            account("1", 3)
        ]),
        (2, 2)
    );
    assert_eq!(
        (memory.table.numbers.len(), memory.table.accounts.len()),
        (2, 2)
    );
}

#[test]
fn the_largest_delivery_of_meta_arrives_whole() {
    let storage = tempfile::tempdir().unwrap();
    let exporter = Exporter::start(storage.path(), &[]);
    let padding = "x".repeat(2900);
    let changes: Vec<_> = (0..1000)
        .map(|index| {
            json!({"field": "phone_number_quality_update",
                "value": {"display_phone_number": format!("4477009{index:05}"), "event": "FLAGGED", "note": padding}})
        })
        .collect();
    let body =
        json!({"entry": [{"id": "300000000000101", "time": 1_766_000_000, "changes": changes}]})
            .to_string();
    assert!(body.len() > 3_000_000);
    let answer = exporter.post("/webhooks/meta", &body);
    assert_eq!(
        (answer.status, answer.json()["applied"].as_u64()),
        (200, Some(1000)),
        "{}",
        answer.text()
    );
    assert_eq!(
        exporter.value("whatsapp_exporter_phone_numbers", &[]),
        Some(1000.0)
    );
}

#[test]
fn account_that_is_full_of_templates_is_logged_once() {
    let storage = tempfile::tempdir().unwrap();
    let mut exporter = Exporter::start(storage.path(), &[]);
    let report = |account: &str, time: i64, templates: Range<u64>| {
        let red = |id: u64| {
            json!({"field": "message_template_quality_update",
                "value": {"message_template_id": id, "new_quality_score": "RED"}})
        };
        let changes: Vec<_> = templates.clone().map(red).collect();
        let body = json!({"entry": [{"id": account, "time": time, "changes": changes}]});
        let answer = exporter.post("/webhooks/meta", &body.to_string());
        let applied = answer.json()["applied"].as_u64();
        assert_eq!(applied, Some(templates.end - templates.start));
    };
    report("1", 1_766_000_000, 0..1000);
    report("2", 1_766_000_000, 0..1000);
    report("2", 1_766_000_001, 1000..1002);
    report("2", 1_766_000_002, 1002..1003);
    let red = [("waba_id", "2"), ("quality", "RED")];
    let templates = exporter.value("whatsapp_business_account_templates", &red);
    let name = "whatsapp_business_account_template_quality_events_total";
    let reports = exporter.value(name, &red);
    assert_eq!((templates, reports), (Some(1000.0), Some(1003.0)));

    exporter.end("TERM");
    let log = exporter.log();
    let is_of_templates = |line: &&str| line.contains("more than 1000 templates");
    let lines: Vec<_> = log.lines().filter(is_of_templates).collect();
    assert!(
        lines.len() == 1 && lines[0].contains(r#""waba_id":"2""#),
        "{lines:?}"
    );
}

#[test]
fn restrictions_beyond_the_first_64_of_a_list_are_not_read() {
    const LAST: &str = "RESTRICTED_BIZ_INITIATED_MESSAGING";
    const BEYOND: &str = "RESTRICTED_CUSTOMER_INITIATED_MESSAGING";
    let restriction = |name| json!({"restriction_type": name});
    let mut listed = vec![restriction("RESTRICTED_ADD_PHONE_NUMBER_ACTION"); 63];
    listed.extend([LAST, BEYOND].map(restriction));
    let restricted = json!({"event": "ACCOUNT_RESTRICTION", "restriction_info": listed});
    let change = json!({"field": "account_update", "value": restricted});
    let body = json!({"entry": [{"id": "1", "changes": [change]}]}).to_string();
    let mut memory = Memory::default();
    let outcomes = memory.deliver(provider("meta"), &post(body.as_bytes()), at(NEW_YEAR));
    assert_eq!(outcomes.unwrap(), one_applied());
    let samples = memory.samples();
    let end = |restriction| {
        let name = "whatsapp_business_account_restriction_end_timestamp_seconds";
        value(&samples, name, &[("restriction", restriction)])
    };
    assert_eq!([LAST, BEYOND].map(end), [Some(f64::INFINITY), None]);
}

#[test]
fn customers_are_never_logged() {
    const CUSTOMER: &str = "491710000001";
    let storage = tempfile::tempdir().unwrap();
    let exporter = Exporter::start(
        storage.path(),
        &["--log.level=debug", "--log.phone-numbers"],
    );
    let mut value = json!({"display_phone_number": "447700900101", "event": CUSTOMER});
    for name in ["from", "mobile", "recipient_id"] {
        value[name] = CUSTOMER.into();
    }
    let changes = json!([
        {"field": "messages", "value": {"messages": [{"from": CUSTOMER}], "statuses": [{"recipient_id": CUSTOMER}]}},
        {"field": "phone_number_quality_update", "value": {"from": CUSTOMER}},
        {"field": "phone_number_quality_update", "value": value}]);
    let answer = exporter.post(
        "/webhooks/meta",
        &json!({"entry": [{"id": "1", "changes": changes}]}).to_string(),
    );
    assert_eq!(answer.json()["ignored"], 1, "{}", answer.text());
    let message = format!("/webhooks/kaleyra?from={CUSTOMER}&mobile={CUSTOMER}&body=Hi");
    assert_eq!(
        request(exporter.webhook, "GET", &message, &[], b"")
            .unwrap()
            .json()["ignored"],
        1
    );
    exporter.post("/webhooks/meta", CUSTOMER);

    wait_for("the log of the last request", || {
        exporter.log().contains("not an object")
    });
    let log = exporter.log();
    assert!(
        log.contains("447700900101") && log.contains("invalid"),
        "the log does not tell what came:\n{log}"
    );
    assert!(!log.contains(CUSTOMER), "{log}");
}

/// The fixtures of a provider with their names, in the order of those.
fn fixtures(provider: &str) -> BTreeMap<String, String> {
    let folder: PathBuf = [
        env!("CARGO_MANIFEST_DIR"),
        "tests",
        "fixtures",
        "providers",
        provider,
    ]
    .iter()
    .collect();
    let files =
        fs::read_dir(&folder).unwrap_or_else(|error| panic!("no fixtures of {provider}: {error}"));
    let read = |file: fs::DirEntry| {
        let name = format!("{provider}/{}", file.file_name().display());
        (name.clone(), fixture(&format!("fixtures/providers/{name}")))
    };
    files.map(|file| read(file.unwrap())).collect()
}

fn check(provider: &Provider, fixture: &Fixture) -> Result<(), String> {
    let mut memory = Memory::default();
    let mut accepted = 0;
    for (number, (step, clock)) in fixture.deliveries.iter().zip(NEW_YEAR..).enumerate() {
        let content_type = b"application/x-www-form-urlencoded; charset=utf-8";
        let delivery = match (&step.query, &step.body, &step.raw, &step.form) {
            (Some(query), None, None, None) => get(query),
            (None, Some(body), None, None) => post(body.get().as_bytes()),
            (None, None, Some(raw), None) => post(raw.as_bytes()),
            (None, None, None, Some(form)) => Delivery {
                content_type,
                ..post(form.as_bytes())
            },
            _ => {
                return Err(format!(
                    "delivery {number} is not one of query, body, raw and form"
                ));
            }
        };
        let outcome = memory.deliver(provider, &delivery, at(clock));
        match outcome {
            Err(_) if step.error => {}
            Ok(outcome) if !step.error && outcome == step.outcome => {
                accepted += outcome.applied + outcome.stale
            }
            _ => {
                return Err(format!(
                    "delivery {number} came to {outcome:?}, expected {:?}",
                    step.outcome
                ));
            }
        }
    }
    let page = memory.page();
    if accepted == 0 && !page.is_empty() {
        return Err("a page although nothing was applied".into());
    }
    let samples = memory.samples();
    for (name, labels, expected) in &fixture.series {
        match find(&samples, name, labels).as_slice() {
            [found] if found.value == expected.value() => {}
            found => {
                return Err(format!(
                    "{name}{labels:?} is {found:?}, expected {:?}",
                    expected.value()
                ));
            }
        }
    }
    for (name, labels) in &fixture.absent {
        let known = NumberKey::FAMILIES
            .iter()
            .map(|family| family.name)
            .chain(AccountKey::FAMILIES.iter().map(|family| family.name));
        if !known.into_iter().any(|known| known == name) {
            return Err(format!("{name} is absent because there is no such family"));
        }
        if let [found, ..] = find(&samples, name, labels).as_slice() {
            return Err(format!("{found:?} should not be there"));
        }
    }
    match fixture
        .never
        .iter()
        .find(|text| page.contains(text.as_str()))
    {
        Some(text) => Err(format!("{text} is on the page")),
        None => Ok(()),
    }
}

fn find<'a>(samples: &'a [Sample], name: &str, labels: &Labels) -> Vec<&'a Sample> {
    let carries = |sample: &&Sample| {
        sample.name == name
            && labels
                .iter()
                .all(|(label, value)| sample.labels.get(label) == Some(value))
    };
    samples.iter().filter(carries).collect()
}

impl Expected {
    fn value(&self) -> f64 {
        match self {
            Self::Number(number) => *number,
            Self::Text(text) => text.parse().unwrap_or(f64::NAN),
        }
    }
}
