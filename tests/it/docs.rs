//! Documentation that is generated, or that must keep up with the program.

use whatsapp_quality_exporter::{
    config,
    domain::Timestamp,
    exposition::{ACCOUNT, Family, Kind, PHONE_NUMBER},
    providers,
    telemetry::Telemetry,
};

use crate::support::{assert_golden, fixture};

#[test]
fn golden_reference_of_the_metrics() {
    let mut page = String::from(
        "# Metrics\n\n<!-- Generated from the family tables: make golden -->\n\n## Phone numbers\n\n\
         Labels: `provider`, `waba_id` (empty where the provider sends none), `phone_number`.\n\n",
    );
    page.push_str(HEAD);
    PHONE_NUMBER.iter().for_each(|family| page.push_str(&row(family)));
    page.push_str("\n## Accounts\n\nLabels: `provider`, `waba_id`.\n\n");
    page.push_str(HEAD);
    ACCOUNT.iter().for_each(|family| page.push_str(&row(family)));
    page.push_str("\n## The exporter itself\n\n");
    page.push_str(HEAD);
    let telemetry = Telemetry::new().unwrap();
    for provider in providers::ALL {
        let metrics = telemetry.provider(provider.name()).unwrap();
        let time = Timestamp::from_unix_seconds(1).unwrap();
        for gauge in [&metrics.last_accepted, &metrics.last_change, &metrics.last_handshake] {
            gauge.set(time);
        }
        telemetry.secret_last_used(provider.name(), 1).set(time);
    }
    for family in telemetry.gather() {
        let labels: Vec<String> = match family.get_metric().first() {
            Some(metric) => metric.get_label().iter().map(|label| format!("`{}`", label.name())).collect(),
            None => Vec::new(),
        };
        let kind = format!("{:?}", family.get_field_type()).to_lowercase();
        page.push_str(&format!("| `{}` | {kind} | {} | {} |\n", family.name(), labels.join(", "), family.help()));
    }
    page.push_str("\nValues of `provider`: ");
    let names: Vec<String> = providers::ALL.iter().map(|provider| format!("`{}`", provider.name())).collect();
    page.push_str(&format!(
        "{}; `none` in `webhook_requests_total` for a path that names no provider.\n",
        names.join(", ")
    ));
    assert_golden("../docs/metrics.md", &page);
}

const HEAD: &str = "| family | type | further labels | meaning |\n|---|---|---|---|\n";

fn row<T>(family: &Family<T>) -> String {
    let kind = match family.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
    };
    let label = family.label.map(|label| format!("`{label}`")).unwrap_or_default();
    format!("| `{}` | {kind} | {label} | {} |\n", family.name, family.help)
}

#[test]
fn the_readme_has_every_flag() {
    let readme = fixture("../README.md");
    for flag in config::command().get_arguments().filter_map(|argument| argument.get_long()) {
        assert!(readme.contains(&format!("`--{flag}`")), "the README lacks --{flag}");
    }
}
