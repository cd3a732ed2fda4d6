//! What makes a dashboard good, point by point.

use std::{fs, path::Path, process::Command};

use serde_json::{Value as Json, json};

use crate::support::fixture;

const FILES: [&str; 3] = ["whatsapp-fleet", "whatsapp-accounts", "whatsapp-exporter"];

/// Every query of every panel and annotation with its place, each variable at "All".
pub fn queries() -> Vec<(String, String)> {
    let mut queries = Vec::new();
    for (file, dashboard) in dashboards() {
        for panel in list(&dashboard["panels"]) {
            for target in list(&panel["targets"]) {
                let place = format!("{file}: {}", text(&panel["title"]));
                queries.push((place, all(text(&target["expr"]))));
            }
        }
        for mark in list(&dashboard["annotations"]["list"])
            .iter()
            .filter(|mark| mark["builtIn"] != 1)
        {
            queries.push((
                format!("{file}: {}", text(&mark["name"])),
                all(text(&mark["expr"])),
            ));
        }
    }
    queries
}

/// Every variable with its place, the series it looks at and the label it takes.
pub fn variables() -> Vec<(String, String, String)> {
    let mut variables = Vec::new();
    for (file, dashboard) in dashboards() {
        for variable in list(&dashboard["templating"]["list"])
            .iter()
            .filter(|variable| variable["type"] == "query")
        {
            let query = text(&variable["query"]["query"]);
            let inside = query
                .strip_prefix("label_values(")
                .and_then(|rest| rest.strip_suffix(')'))
                .unwrap();
            let (series, label) = inside.rsplit_once(", ").unwrap();
            variables.push((
                format!("{file}: {}", text(&variable["name"])),
                all(series),
                label.to_owned(),
            ));
        }
    }
    assert!(!variables.is_empty());
    variables
}

#[test]
fn they_are_as_the_generator_writes_them() {
    let status = Command::new(path("dashboards/generate"))
        .arg("--check")
        .status()
        .unwrap();
    assert!(status.success(), "run dashboards/generate");
}

#[test]
fn they_survive_grafanas_own_schema() {
    let output = Command::new(path("tests/dashboards/round-trip"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn there_is_one_data_source_and_it_is_chosen() {
    for (file, dashboard) in dashboards() {
        let sources: Vec<_> = list(&dashboard["templating"]["list"])
            .iter()
            .filter(|variable| variable["type"] == "datasource")
            .collect();
        assert_eq!(sources.len(), 1, "{file}");
        assert_eq!(sources[0]["query"], "prometheus");
        let uids = find(dashboard, "uid");
        for uid in uids
            .iter()
            .filter(|uid| **uid != file && **uid != "-- Grafana --")
        {
            assert_eq!(uid, "${datasource}", "{file}: a fixed data source");
        }
    }
}

#[test]
fn every_panel_explains_itself() {
    for (file, dashboard) in dashboards() {
        let panels = list(&dashboard["panels"]);
        assert!(
            (1..=20).contains(&panels.len()),
            "{file}: {} panels",
            panels.len()
        );
        let mut titles: Vec<_> = panels.iter().map(|panel| text(&panel["title"])).collect();
        titles.sort_unstable();
        assert!(
            titles.windows(2).all(|pair| pair[0] != pair[1]),
            "{file}: two panels of one title"
        );
        for panel in panels {
            let place = format!("{file}: {}", text(&panel["title"]));
            let defaults = &panel["fieldConfig"]["defaults"];
            assert!(
                text(&panel["description"]).len() > 15,
                "{place}: no description"
            );
            assert!(
                !text(&panel["description"]).contains(" — ")
                    && text(&panel["description"]).ends_with('.'),
                "{place}"
            );
            assert!(!text(&defaults["unit"]).is_empty(), "{place}: no unit");
            assert!(!list(&panel["targets"]).is_empty(), "{place}: no query");
            if defaults["color"]["mode"] == "thresholds"
                && panel["options"]["colorMode"] == "background"
            {
                let mapped = list(&defaults["mappings"])
                    .iter()
                    .any(|mapping| !find(mapping.clone(), "color").is_empty());
                assert!(
                    list(&defaults["thresholds"]["steps"]).len() > 1 || mapped,
                    "{place}: a colour that says nothing"
                );
            }
            let axis = text(&defaults["custom"]["axisLabel"]);
            assert!(
                axis.is_empty() || axis != text(&panel["title"]),
                "{place}: the axis repeats the title"
            );
        }
    }
}

#[test]
fn a_rate_is_over_the_interval_of_the_graph() {
    for (file, dashboard) in dashboards() {
        for expression in find(dashboard, "expr") {
            for function in ["rate(", "increase("] {
                for (at, _) in expression.match_indices(function) {
                    let rest = &expression[at..];
                    let window = &rest[rest.find('[').unwrap()..=rest.find(']').unwrap()];
                    assert_eq!(window, "[$__rate_interval]", "{file}: {expression}");
                }
            }
        }
    }
}

#[test]
fn variables_are_chained_and_all_means_all() {
    for (file, dashboard) in dashboards() {
        let variables = list(&dashboard["templating"]["list"]);
        let queries: Vec<_> = variables
            .iter()
            .filter(|variable| variable["type"] == "query")
            .collect();
        for (index, variable) in queries.iter().enumerate() {
            let place = format!("{file}: {}", text(&variable["name"]));
            assert_eq!(variable["refresh"], 2, "{place}");
            assert_eq!(variable["includeAll"], true, "{place}");
            assert_eq!(
                variable["allValue"], ".*",
                "{place}: an empty label would be hidden"
            );
            for earlier in &queries[..index] {
                let name = format!("${}", text(&earlier["name"]));
                assert!(
                    text(&variable["query"]["query"]).contains(&name),
                    "{place} is not chained to {name}"
                );
            }
        }
    }
    let names = |file| -> Vec<String> {
        let dashboard = dashboard(file);
        list(&dashboard["templating"]["list"])
            .iter()
            .map(|variable| text(&variable["name"]).to_owned())
            .collect()
    };
    assert_eq!(
        names("whatsapp-fleet"),
        ["datasource", "provider", "waba_id", "phone_number"]
    );
    assert_eq!(
        names("whatsapp-accounts"),
        ["datasource", "provider", "waba_id"]
    );
    assert_eq!(
        names("whatsapp-exporter"),
        ["datasource", "job", "instance", "provider"]
    );
}

#[test]
fn they_are_stable_and_linked() {
    for (file, dashboard) in dashboards() {
        assert_eq!(dashboard["uid"], file);
        assert_eq!(dashboard["editable"], false);
        assert_eq!(dashboard["refresh"], "1m");
        assert!(list(&dashboard["tags"]).contains(&json!("whatsapp")));
        assert!((39..=42).contains(&dashboard["schemaVersion"].as_u64().unwrap()));
        let link = &list(&dashboard["links"])[0];
        let other = FILES.iter().find(|other| **other != file).unwrap();
        assert_eq!(link["url"], format!("/d/{other}"));
        assert_eq!(
            (&link["includeVars"], &link["keepTime"]),
            (&json!(true), &json!(true))
        );
    }
}

#[test]
fn unlimited_is_a_word_and_limits_are_never_summed() {
    for (file, dashboard) in dashboards() {
        for panel in list(&dashboard["panels"]) {
            let place = format!("{file}: {}", text(&panel["title"]));
            for target in list(&panel["targets"]) {
                let expression = text(&target["expr"]);
                if !expression.contains("messaging_limit{") {
                    continue;
                }
                assert!(!expression.contains("sum"), "{place}: {expression}");
                let word = find(panel["fieldConfig"].clone(), "text")
                    .iter()
                    .any(|text| text == "Unlimited");
                let named = panel["fieldConfig"].to_string().contains("\"+Inf\"");
                let never = expression.contains("clamp_max(") || expression.starts_with("count(");
                assert!(word || named || never, "{place}: +Inf has no word");
            }
        }
    }
    let mapping = json!({"type": "range", "options": {"from": 1_000_001, "to": null, "result": {"index": 0, "text": "Unlimited"}}});
    assert!(
        fixture("../dashboards/whatsapp-fleet.json")
            .parse::<Json>()
            .unwrap()
            .to_string()
            .contains(&mapping.to_string())
    );
}

#[test]
fn replicas_never_count_twice() {
    for (place, expression) in queries() {
        for (at, name) in expression
            .match_indices("whatsapp_phone_number_")
            .chain(expression.match_indices("whatsapp_business_"))
        {
            assert!(
                expression[..at].contains("max by ("),
                "{place}: {name} without a maximum: {expression}"
            );
        }
    }
}

#[test]
fn every_alert_has_what_a_person_needs_at_night() {
    let rules = fixture("../alerts/whatsapp.rules.yml");
    let runbook = fixture("../docs/runbook.md");
    let alerts: Vec<_> = rules.split("      - alert: ").skip(1).collect();
    assert_eq!(alerts.len(), 27);
    for alert in alerts {
        let name = alert.lines().next().unwrap();
        for needed in [
            "severity: ",
            "summary: ",
            "description: ",
            "runbook_url: ",
            "$value|$labels.|query ",
        ] {
            assert!(
                needed.split('|').any(|needed| alert.contains(needed)),
                "{name} has no {needed}"
            );
        }
        let severity = alert
            .split("severity: ")
            .nth(1)
            .unwrap()
            .lines()
            .next()
            .unwrap();
        assert!(
            ["critical", "warning", "info", "none"].contains(&severity),
            "{name}: {severity}"
        );
        assert!(
            alert.contains(&format!("docs/runbook.md#{}\n", name.to_lowercase())),
            "{name}: its runbook is another's"
        );
        assert!(
            runbook.contains(&format!("\n## {name}\n")),
            "the runbook has no {name}"
        );
    }
}

fn dashboards() -> Vec<(&'static str, Json)> {
    FILES.iter().map(|file| (*file, dashboard(file))).collect()
}

fn dashboard(file: &str) -> Json {
    serde_json::from_str(&fixture(&format!("../dashboards/{file}.json"))).unwrap()
}

/// Every text under that key, at any depth.
fn find(json: Json, wanted: &str) -> Vec<String> {
    match json {
        Json::Object(object) => {
            let here = object.get(wanted).and_then(Json::as_str).map(str::to_owned);
            here.into_iter()
                .chain(
                    object
                        .into_iter()
                        .flat_map(|(_, value)| find(value, wanted)),
                )
                .collect()
        }
        Json::Array(list) => list
            .into_iter()
            .flat_map(|value| find(value, wanted))
            .collect(),
        _ => Vec::new(),
    }
}

/// A query as Grafana sends it where everything is chosen.
fn all(expression: &str) -> String {
    let expression = expression.replace("$__rate_interval", "1m");
    ["provider", "waba_id", "phone_number", "job", "instance"]
        .iter()
        .fold(expression, |expression, name| {
            expression.replace(&format!("\"${name}\""), "\".*\"")
        })
}

fn list(json: &Json) -> &[Json] {
    json.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(json: &Json) -> &str {
    json.as_str().unwrap_or_default()
}

fn path(path: &str) -> std::path::PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    assert!(fs::exists(&path).unwrap(), "{}", path.display());
    path
}
