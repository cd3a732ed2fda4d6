//! `dashboards`: the dashboards of Grafana, as files.

use super::{Verb, shipped};

const FILES: [(&str, &str); 3] = [
    (
        "whatsapp-fleet.json",
        include_str!("../../dashboards/whatsapp-fleet.json"),
    ),
    (
        "whatsapp-accounts.json",
        include_str!("../../dashboards/whatsapp-accounts.json"),
    ),
    (
        "whatsapp-exporter.json",
        include_str!("../../dashboards/whatsapp-exporter.json"),
    ),
];

pub(super) const VERB: Verb = Verb {
    command: || {
        shipped::command(
            "dashboards",
            "write the dashboards of Grafana into a folder",
            "Example:\n  whatsapp-quality-exporter dashboards /var/lib/grafana/dashboards",
        )
    },
    run: |matches, output| shipped::write(&FILES, matches, output),
};
