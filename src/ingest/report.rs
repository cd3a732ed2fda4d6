//! What the log and the metrics say of accepted requests.

use std::{sync::Arc, time::Instant};

use hashbrown::HashSet;
use smol_str::{SmolStr, ToSmolStr, format_smolstr};
use tracing::{info, warn};

use super::{OutcomeCounts, Submission, writer::Folded};
use crate::{
    domain::{
        AccountKey, Change, ChangeKind, EventKind, EventName, MessagingLimit, PhoneNumber,
        ProviderName, Timestamp,
    },
    state::{Applied, Forgettable, Forgotten, Outcome, TemplateQualities},
    telemetry::{ChangeMetrics, LogLimiter, LogPermit, ProviderMetrics, Telemetry},
};

/// Counts and logs what was accepted.
#[derive(Debug)]
pub(super) struct Reporter {
    telemetry: Arc<Telemetry>,
    log_phone_numbers: bool,
    lines: LogLimiter,
    /// Accounts of which the log said that they have too many templates of low quality.
    full_of_templates: HashSet<AccountKey>,
}

impl Reporter {
    pub(super) fn new(telemetry: Arc<Telemetry>, log_phone_numbers: bool) -> Self {
        let lines = LogLimiter::for_authentic_senders();
        Self {
            telemetry,
            log_phone_numbers,
            lines,
            full_of_templates: HashSet::new(),
        }
    }

    /// Counts a submission.
    pub(super) fn count(&self, folded: &Folded, now: Timestamp) -> OutcomeCounts {
        let Some(metrics) = self.telemetry.provider(folded.provider) else {
            return OutcomeCounts::default();
        };
        let Submission::Delivery(parsed) = &folded.submission else {
            metrics.last_handshake.set(now);
            return OutcomeCounts::default();
        };
        let mut counts = OutcomeCounts {
            ignored: parsed.ignored,
            invalid: parsed.invalid,
            test: parsed.test,
            ..OutcomeCounts::default()
        };
        for (change, outcome) in parsed.changes.iter().zip(&folded.outcomes) {
            match outcome {
                Outcome::Applied(_) => counts.applied += 1,
                Outcome::Stale(_) => counts.stale += 1,
                Outcome::Duplicate => counts.duplicate += 1,
                Outcome::Refused => {
                    counts.invalid += 1;
                    self.telemetry.phone_numbers_refused.inc();
                }
                // Such a delivery is not accepted.
                Outcome::Frozen => {}
            }
            if is_news(outcome) {
                count_change(metrics, change, now);
            }
        }
        add_counts(&metrics.changes, &counts);
        metrics.last_accepted.set(now);
        if counts.applied + counts.stale + counts.duplicate > 0 {
            metrics.last_change.set(now);
        }
        counts
    }

    /// Logs a submission.
    pub(super) fn log(&mut self, folded: &Folded, now: Instant) {
        let Submission::Delivery(parsed) = &folded.submission else {
            return;
        };
        let provider = folded.provider.as_str();
        if let Some(subscribe_url) = &parsed.subscribe_url
            && let Some(LogPermit { suppressed }) = self.lines.try_line(now)
        {
            warn!(
                provider,
                subscribe_url, suppressed, "open this address once, so that the provider delivers"
            );
        }
        if let Some(reason) = parsed.first_invalid
            && let Some(LogPermit { suppressed }) = self.lines.try_line(now)
        {
            let changes = parsed.invalid;
            warn!(provider, changes, %reason, suppressed, "invalid changes in a webhook");
        }
        for (change, outcome) in parsed.changes.iter().zip(&folded.outcomes) {
            if is_news(outcome) {
                self.log_unknown_values(folded.provider, change, now);
            }
            if *outcome == Outcome::Duplicate {
                continue;
            }
            if let Outcome::Applied(applied) = outcome
                && applied.is_template_left_out
            {
                self.log_full_of_templates(&change.account);
            }
            let Some(permit) = self.lines.try_line(now) else {
                continue;
            };
            match outcome {
                Outcome::Applied(applied) => self.log_change(change, applied, "applied", permit),
                Outcome::Stale(applied) => self.log_change(change, applied, "stale", permit),
                Outcome::Duplicate | Outcome::Refused | Outcome::Frozen => warn!(
                    provider,
                    waba_id = change.account.waba_id.as_str(),
                    suppressed = permit.suppressed,
                    "change refused: it would add a phone number or an account beyond \
                     --limits.max-phone-numbers"
                ),
            }
        }
    }

    /// Logs, once, that an account has more templates of low quality than are remembered.
    fn log_full_of_templates(&mut self, account: &AccountKey) {
        if self.full_of_templates.insert(account.clone()) {
            warn!(
                provider = account.provider.as_str(),
                waba_id = account.waba_id.as_str(),
                "the account has more than {} templates of medium or low quality; \
                 whatsapp_business_account_templates does not count those beyond",
                TemplateQualities::MAX_TEMPLATES
            );
        }
    }

    /// Logs what the operator has removed.
    pub(super) fn log_removal(&self, key: &Forgettable, forgotten: Forgotten) {
        let (account, phone_number) = match key {
            Forgettable::Number(key) => (&key.account, self.shown(&key.phone_number)),
            Forgettable::Account(key) => (key, SmolStr::default()),
        };
        info!(
            provider = account.provider.as_str(),
            waba_id = account.waba_id.as_str(),
            phone_number = phone_number.as_str(),
            phone_numbers = forgotten.phone_numbers,
            accounts = forgotten.accounts,
            "removed"
        );
    }

    fn shown(&self, phone_number: &PhoneNumber) -> SmolStr {
        match self.log_phone_numbers {
            true => phone_number.as_str().to_smolstr(),
            false => phone_number.masked(),
        }
    }

    /// Logs each value that this version does not know, because a provider does not send it again.
    fn log_unknown_values(&self, provider: ProviderName, change: &Change, now: Instant) {
        for unknown in &change.unknown {
            if let Some(LogPermit { suppressed }) = self.lines.try_line(now) {
                let (field, value) = (unknown.field.as_str(), unknown.value.as_str());
                let provider = provider.as_str();
                warn!(
                    provider,
                    field, value, suppressed, "unknown value in a webhook"
                );
            }
        }
    }

    fn log_change(
        &self,
        change: &Change,
        applied: &Applied,
        outcome: &'static str,
        permit: LogPermit,
    ) {
        let phone_number = match &change.kind {
            ChangeKind::PhoneNumberQuality { phone_number, .. } => self.shown(phone_number),
            _ => SmolStr::default(),
        };
        let event = event_of(&change.kind);
        let limit = |limit: Option<MessagingLimit>| {
            limit.map_or("unknown".into(), |limit| limit.to_smolstr())
        };
        // The fields are given as text, because tracing formats other values once for each layer.
        info!(
            provider = change.account.provider.as_str(),
            waba_id = change.account.waba_id.as_str(),
            phone_number = phone_number.as_str(),
            event = event.as_str(),
            outcome,
            old_limit = limit(applied.old_limit).as_str(),
            new_limit = limit(applied.new_limit).as_str(),
            suppressed = permit.suppressed,
            message = "webhook change accepted"
        );
    }
}

/// What happened, in a word. Nothing of a template but what became of it is logged.
fn event_of(kind: &ChangeKind) -> SmolStr {
    match kind {
        ChangeKind::PhoneNumberQuality { event, .. } => {
            SmolStr::new_static(event.map_or("observation", EventKind::as_str))
        }
        ChangeKind::AccountCapability { event, .. } => SmolStr::new_static(
            event
                .map_or(EventName::Capability, EventName::Quality)
                .as_str(),
        ),
        ChangeKind::Account { event, .. } => SmolStr::new_static(event.as_str()),
        ChangeKind::AccountAlert(severity) => {
            SmolStr::new_static(EventName::Alert(*severity).as_str())
        }
        ChangeKind::TemplateStatus { event, .. } => {
            format_smolstr!("message_template_status_update {}", event.as_str())
        }
        ChangeKind::TemplateQuality { quality, .. } => {
            format_smolstr!("message_template_quality_update {}", quality.as_str())
        }
    }
}

/// Whether a change was new, be it overtaken or not.
fn is_news(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Applied(_) | Outcome::Stale(_))
}

fn count_change(metrics: &ProviderMetrics, change: &Change, now: Timestamp) {
    for unknown in &change.unknown {
        metrics.count_unknown(unknown.field);
    }
    if let Some(time) = change.happened(now) {
        metrics.delivery_delay.observe(now.seconds_since(time));
    }
}

/// Adds what became of the changes of a delivery.
fn add_counts(metrics: &ChangeMetrics, counts: &OutcomeCounts) {
    for (counter, changes) in [
        (&metrics.applied, counts.applied),
        (&metrics.duplicate, counts.duplicate),
        (&metrics.stale, counts.stale),
        (&metrics.ignored, counts.ignored),
        (&metrics.invalid, counts.invalid),
        (&metrics.test, counts.test),
    ] {
        if changes > 0 {
            counter.inc_by(changes);
        }
    }
}
