//! What became of an account's templates: how many events there were of each kind.

use super::{
    Account, Draft, Family, MetricKind, Outcome, Tally,
    fold::{Freshness, Received},
    tally::ByValue,
};
use crate::domain::{TemplateEvent, TemplateId};

/// Template events by kind.
pub type TemplateEvents = ByValue<TemplateEvent, Tally, { TemplateEvent::ALL.len() }>;

impl Draft<'_> {
    /// Folds a template event into its account.
    pub(super) fn apply_template_status(
        &mut self,
        template: Option<TemplateId>,
        event: TemplateEvent,
        received: &Received<'_>,
    ) -> Outcome {
        self.apply_to_account(received, |account, happened_at| {
            let events = account.template_events.get_or_insert_default();
            events.count_at(event, received.accepted_at);
            let mut freshness = Freshness::default();
            if let Some(qualities) = &mut account.template_qualities
                && let Some(stopped) = event.stopped()
                && let Some(is_news) = qualities.stop(template, stopped, happened_at)
            {
                freshness.note(is_news);
            }
            freshness
        })
    }
}

pub(super) const COUNTS: Family<Account> = Family {
    name: "whatsapp_business_account_template_events_total",
    kind: MetricKind::Counter,
    help: "Accepted template events by kind; OTHER are those that say nothing of whether a template may be sent.",
    label: Some("event"),
    samples: |account, sample| {
        if let Some(events) = &account.template_events {
            events.total_samples(sample);
        }
    },
};

pub(super) const LAST: Family<Account> = Family {
    name: "whatsapp_business_account_template_event_timestamp_seconds",
    kind: MetricKind::Gauge,
    help: "When this exporter accepted the last template event of that kind; absent until then.",
    label: Some("event"),
    samples: |account, sample| {
        if let Some(events) = &account.template_events {
            events.last_samples(sample);
        }
    },
};
