//! Alerts about an account: how many there were of each severity.

use super::{
    Account, Draft, Family, MetricKind, Outcome, Tally,
    fold::{Freshness, Received},
    tally::ByValue,
};
use crate::domain::{AlertSeverity, EventName};

/// Alerts by severity.
pub type Alerts = ByValue<AlertSeverity, Tally, { AlertSeverity::ALL.len() }>;

impl Draft<'_> {
    /// Folds an alert into its account.
    pub(super) fn apply_account_alert(
        &mut self,
        severity: AlertSeverity,
        received: &Received<'_>,
    ) -> Outcome {
        self.apply_to_account(received, |account, happened_at| {
            account.note(
                EventName::Alert(severity),
                happened_at,
                received.accepted_at,
            );
            let alerts = account.alerts.get_or_insert_default();
            alerts.count_at(severity, received.accepted_at);
            Freshness::default()
        })
    }
}

pub(super) const COUNTS: Family<Account> = Family {
    name: "whatsapp_business_account_alerts_total",
    kind: MetricKind::Counter,
    help: "Accepted account alerts by severity.",
    label: Some("severity"),
    samples: |account, sample| {
        if let Some(alerts) = &account.alerts {
            alerts.total_samples(sample);
        }
    },
};

pub(super) const LAST: Family<Account> = Family {
    name: "whatsapp_business_account_alert_timestamp_seconds",
    kind: MetricKind::Gauge,
    help: "When this exporter accepted the last alert of that severity; absent until then.",
    label: Some("severity"),
    samples: |account, sample| {
        if let Some(alerts) = &account.alerts {
            alerts.last_samples(sample);
        }
    },
};
