//! Accounts: what is known of one, how a webhook changes it and all its numbers, and its metric
//! families.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    AccountEvents, Alerts, Dated, Draft, Entity, Family, History, LabelValues, Limit, MetricKind,
    Outcome, PastEvent, Shards, Table, TemplateEvents, TemplateQualities, Value, account_alert,
    account_event,
    fold::{Freshness, Received},
    limit::{
        PreviousLimit, Report, change_samples, changed_samples, current_samples, previous_samples,
    },
    seen::Seen,
    template_quality, template_status,
};
use crate::domain::{
    AccountKey, EventKind, EventName, LimitScope, MaxPhoneNumbers, MessagingLimit, NumberKey,
    PhoneNumber, ProviderName, Timestamp, WabaId,
};

impl Entity for AccountKey {
    const KIND: &'static str = "account";
    const LIST: &'static str = "accounts";
    const PREFIX: &'static str = "whatsapp_business_account_";
    const LABELS: &'static [&'static str] = &["provider", "waba_id"];
    const FAMILIES: &'static [Family<Account>] = FAMILIES;

    type Record = Account;

    fn label_values(&self) -> LabelValues<'_> {
        [self.provider.as_str(), self.waba_id.as_str()]
            .into_iter()
            .collect()
    }

    fn phone_number(&self) -> Option<&PhoneNumber> {
        None
    }

    fn from_label_values(provider: ProviderName, rest: &[&str]) -> Option<Self> {
        let [waba_id] = rest else { return None };
        Some(Self {
            provider,
            waba_id: WabaId::from_stored(waba_id),
        })
    }

    fn shards(table: &Table) -> &Shards<Self> {
        &table.accounts
    }

    fn history(account: &Account) -> &History {
        &account.history
    }
}

/// What is known of an account.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Account {
    /// The limit its numbers share.
    #[serde(default, skip_serializing_if = "super::is_default")]
    pub limit: Limit,
    /// How many numbers there may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_phone_numbers: Option<Dated<MaxPhoneNumbers>>,
    /// Its events; `None` before the first.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        rename = "account_events"
    )]
    pub events: Option<Box<AccountEvents>>,
    /// Alerts about it; `None` before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alerts: Option<Box<Alerts>>,
    /// The events of its templates; `None` before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_events: Option<Box<TemplateEvents>>,
    /// The quality of its templates; `None` before the first report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_qualities: Option<Box<TemplateQualities>>,
    /// The last events that reported something of it, but for those of templates, of which a whole
    /// batch may come at once.
    #[serde(default, skip_serializing_if = "super::is_default")]
    pub history: History,
    /// Deliveries already seen: as many as Meta sends in a batch, which it sends again as a whole.
    #[serde(default, skip_serializing_if = "super::is_default")]
    pub seen: Seen<1024>,
}

impl Account {
    /// The newest time that is known of the account.
    fn newest(&self) -> Option<Timestamp> {
        let max_phone_numbers = self.max_phone_numbers.map(|known| known.at);
        let events = self.events.as_ref().and_then(|events| events.newest());
        let qualities = self.template_qualities.as_ref();
        let templates = qualities.and_then(|qualities| qualities.newest());
        let of_health = events.max(templates);
        max_phone_numbers.max(self.limit.newest()).max(of_health)
    }

    /// Adds an event without a limit to the history.
    pub(super) fn note(&mut self, name: EventName, happened_at: Timestamp, accepted_at: Timestamp) {
        self.history.add(&PastEvent {
            name,
            happened_at,
            accepted_at,
            limit: None,
        });
    }
}

/// What a webhook reports of what an account may do.
pub(super) struct Capability {
    pub(super) event: Option<EventKind>,
    pub(super) limit: Option<MessagingLimit>,
    pub(super) old_limit: Option<MessagingLimit>,
    pub(super) max_phone_numbers: MaxPhoneNumbers,
}

impl Draft<'_> {
    /// Folds a change into its account, and into nothing else.
    pub(super) fn apply_to_account(
        &mut self,
        received: &Received<'_>,
        apply: impl FnOnce(&mut Account, Timestamp) -> Freshness,
    ) -> Outcome {
        let Received { change, .. } = received;
        let known = self.account(&change.account);
        if known.is_none() && self.has_no_room_for_an_account() {
            return Outcome::Refused;
        }
        if known.is_some_and(|known| known.seen.contains(change.identity)) {
            return Outcome::Duplicate;
        }
        let account = self.account_mut(&change.account);
        let happened_at = received.happened_at(|| account.newest());
        account.seen.remember(change.identity);
        let freshness = apply(account, happened_at);
        let limit = account.limit.value();
        freshness.outcome((limit, limit))
    }

    /// Folds a capability into its account and all its numbers.
    pub(super) fn apply_capability(
        &mut self,
        capability: &Capability,
        received: &Received<'_>,
    ) -> Outcome {
        let key = &received.change.account;
        let known = self.account(key);
        if known.is_none() && self.has_no_room_for_an_account() {
            return Outcome::Refused;
        }
        let known = known.unwrap_or_default();
        if known.seen.contains(received.change.identity) {
            return Outcome::Duplicate;
        }
        let scope = capability.limit.map(|_| LimitScope::Portfolio);
        let happened_at = received.happened_at(|| self.newest(key, &known, scope));
        let accepted_at = received.accepted_at;
        let mut account = Arc::unwrap_or_clone(known);
        account.seen.remember(received.change.identity);
        account.history.add(&PastEvent {
            name: capability
                .event
                .map_or(EventName::Capability, EventName::Quality),
            happened_at,
            accepted_at,
            limit: capability.limit,
        });
        let mut freshness = Freshness::default();
        if capability.max_phone_numbers != MaxPhoneNumbers::default() {
            let known = &mut account.max_phone_numbers;
            freshness.note(Dated::set(known, capability.max_phone_numbers, happened_at));
        }
        let shown = account.limit.value();
        let before = PreviousLimit {
            shown,
            reported: capability.old_limit,
            implied_direction: capability.event.and_then(EventKind::implied_direction),
        };
        match capability.limit {
            Some(limit) => {
                let report = Report {
                    limit,
                    happened_at,
                    accepted_at,
                };
                freshness.note(self.apply_account_limit(key, account, report, before));
            }
            None => {
                if capability.event == Some(EventKind::Downgrade) {
                    let limit = &mut account.limit;
                    let is_newer =
                        limit.record_fall_without_limit(happened_at, accepted_at, before);
                    freshness.note(is_newer);
                }
                self.put_account(key.clone(), account);
            }
        }
        let new_limit = self.account(key).and_then(|account| account.limit.value());
        freshness.outcome((shown.or(capability.old_limit), new_limit))
    }

    /// Sets an account's limit, and with it the limit of every number that knows none newer. False
    /// where the report is stale.
    pub(super) fn apply_account_limit(
        &mut self,
        key: &AccountKey,
        mut account: Account,
        report: Report,
        before: PreviousLimit,
    ) -> bool {
        let is_newer = account.limit.apply(report, before);
        self.put_account(key.clone(), account);
        if !is_newer {
            return false;
        }
        self.mark_limited(key);
        let affected = match before.shown == Some(report.limit) {
            true => self.differing_numbers(key),
            false => self.all_numbers(key),
        };
        for key in affected {
            let Some(mut number) = self.number(&key) else {
                continue;
            };
            let shown = number.limit.value();
            if shown != Some(report.limit) {
                let before = PreviousLimit {
                    shown,
                    ..PreviousLimit::default()
                };
                if !Arc::make_mut(&mut number).limit.apply(report, before) {
                    self.mark_differing(&key);
                }
                self.put_inherited(key, number);
            }
        }
        true
    }

    /// The numbers of an account, and those that were forgotten since.
    pub(super) fn all_numbers(&self, account: &AccountKey) -> Vec<NumberKey> {
        let members = self.fold.members.get(account).into_iter();
        let known = members.flat_map(|members| &members.all);
        let new = self
            .new_numbers
            .iter()
            .filter(|key| key.account == *account);
        known
            .map(|number| NumberKey::of(account, number))
            .chain(new.cloned())
            .collect()
    }

    /// The numbers whose limit may differ from their account's. When a report repeats the account's
    /// limit, only these need a new record; the others take over its time at their next event
    /// ([`Limit::inherit`]).
    fn differing_numbers(&self, account: &AccountKey) -> Vec<NumberKey> {
        let members = self.fold.members.get(account).into_iter();
        let known = members.flat_map(|members| &members.differing);
        let drafted = self.differing.get(account).into_iter().flatten();
        known
            .chain(drafted)
            .map(|number| NumberKey::of(account, number))
            .collect()
    }

    /// The newest time that is known of an account, and where a limit of the portfolio is reported,
    /// of the limits of its numbers.
    pub(super) fn newest(
        &self,
        key: &AccountKey,
        account: &Account,
        scope: Option<LimitScope>,
    ) -> Option<Timestamp> {
        let numbers = match scope {
            Some(LimitScope::Portfolio) => self.all_numbers(key),
            _ => Vec::new(),
        };
        let limits = numbers
            .iter()
            .filter_map(|key| self.number(key)?.limit.newest());
        limits.chain(account.newest()).max()
    }
}

const FAMILIES: &[Family<Account>] = &[
    Family {
        name: "whatsapp_business_account_messaging_limit",
        kind: MetricKind::Gauge,
        help: "The portfolio's limit as last reported for this account, in unique customers in a rolling 24 hours: \
               +Inf unlimited, absent while unknown.",
        label: None,
        samples: |account, sample| current_samples(&account.limit, sample),
    },
    Family {
        name: "whatsapp_business_account_previous_messaging_limit",
        kind: MetricKind::Gauge,
        help: "The account's messaging limit before its last change; absent until there was one.",
        label: None,
        samples: |account, sample| previous_samples(&account.limit, sample),
    },
    Family {
        name: "whatsapp_business_account_messaging_limit_changes_total",
        kind: MetricKind::Counter,
        help: "Changes of the account's messaging limit.",
        label: Some("direction"),
        samples: |account, sample| change_samples(&account.limit, sample),
    },
    Family {
        name: "whatsapp_business_account_messaging_limit_changed_timestamp_seconds",
        kind: MetricKind::Gauge,
        help: "When this exporter applied the last change in that direction; absent until then.",
        label: Some("direction"),
        samples: |account, sample| changed_samples(&account.limit, sample),
    },
    Family {
        name: "whatsapp_business_account_max_phone_numbers",
        kind: MetricKind::Gauge,
        help: "Phone numbers that the business portfolio or the account may have, whichever was reported last.",
        label: Some("scope"),
        samples: |account, sample| {
            let Some(known) = account.max_phone_numbers else {
                return;
            };
            for (scope, most) in [
                ("business", known.value.business),
                ("waba", known.value.waba),
            ] {
                if let Some(most) = most {
                    sample(scope, Value::Count(most));
                }
            }
        },
    },
    account_event::COUNTS,
    account_event::LAST,
    account_event::RESTRICTION_END,
    account_event::DISABLED,
    account_event::DISABLE_SCHEDULED,
    account_alert::COUNTS,
    account_alert::LAST,
    template_status::COUNTS,
    template_status::LAST,
    template_quality::COUNTS,
    template_quality::TEMPLATES,
];
