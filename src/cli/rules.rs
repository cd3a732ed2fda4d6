//! `rules`: the alert rules and the configuration of Alertmanager, as files.

use super::{Verb, shipped};

const FILES: [(&str, &str); 2] = [
    (
        "whatsapp.rules.yml",
        include_str!("../../alerts/whatsapp.rules.yml"),
    ),
    (
        "alertmanager.yml",
        include_str!("../../alerts/alertmanager.yml"),
    ),
];

pub(super) const VERB: Verb = Verb {
    command: || {
        shipped::command(
            "rules",
            "write the alert rules and an example configuration of Alertmanager into a folder",
            "Example:\n  whatsapp-quality-exporter rules --runbook-url=https://wiki.example.com/runbook.md \
             /etc/prometheus/rules",
        )
    },
    run: |matches, output| shipped::write(&FILES, matches, output),
};
