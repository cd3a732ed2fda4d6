use crate::{
    domain::{Direction, EventKind, MessagingLimit, Timestamp},
    state::{Account, Limit, Number},
};

/// A metric family, of which every subject has its samples.
pub struct Family<T> {
    /// The family's name, with `_total` where it counts.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its meaning, with the unit.
    pub help: &'static str,
    /// The label it has besides those of its subject.
    pub label: Option<&'static str>,
    /// Hands out its samples: the value of [`Family::label`] and the sample's value.
    pub samples: fn(&T, &mut dyn FnMut(&'static str, Value)),
}

/// The type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// The value of a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A number of things.
    Count(u64),
    /// Customers in 24 hours.
    Limit(MessagingLimit),
    /// Seconds of the Unix epoch.
    Time(Timestamp),
}

impl Kind {
    /// The type's name in the text format.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// What there is of every phone number; labels `provider`, `waba_id` and `phone_number`.
pub const PHONE_NUMBER: &[Family<Number>] = &[
    Family {
        name: "whatsapp_phone_number_messaging_limit",
        kind: Kind::Gauge,
        help: "Unique customers the number may open conversations with in a rolling 24 hours: \
               +Inf unlimited, 0 not set yet, absent while unknown.",
        label: None,
        samples: |number, sample| current(&number.limit, sample),
    },
    Family {
        name: "whatsapp_phone_number_previous_messaging_limit",
        kind: Kind::Gauge,
        help: "The messaging limit before the last change; absent until there was one.",
        label: None,
        samples: |number, sample| previous(&number.limit, sample),
    },
    Family {
        name: "whatsapp_phone_number_messaging_limit_changes_total",
        kind: Kind::Counter,
        help: "Changes of the messaging limit, however they were learned.",
        label: Some("direction"),
        samples: |number, sample| changes(&number.limit, sample),
    },
    Family {
        name: "whatsapp_phone_number_messaging_limit_changed_timestamp_seconds",
        kind: Kind::Gauge,
        help: "When this exporter applied the last change in that direction; absent until then.",
        label: Some("direction"),
        samples: |number, sample| changed(&number.limit, sample),
    },
    Family {
        name: "whatsapp_phone_number_flagged",
        kind: Kind::Gauge,
        help: "1 while the number is flagged for its quality, 0 else.",
        label: None,
        samples: |number, sample| {
            sample(
                "",
                Value::Count(number.flagged.is_some_and(|fact| fact.value).into()),
            );
        },
    },
    Family {
        name: "whatsapp_phone_number_high_throughput",
        kind: Kind::Gauge,
        help: "1 after THROUGHPUT_UPGRADE, 0 else.",
        label: None,
        samples: |number, sample| {
            sample(
                "",
                Value::Count(number.high_throughput.is_some_and(|fact| fact.value).into()),
            );
        },
    },
    Family {
        name: "whatsapp_phone_number_quality_events_total",
        kind: Kind::Counter,
        help: "Accepted quality events by kind.",
        label: Some("event"),
        samples: |number, sample| {
            for kind in EventKind::ALL {
                sample(kind.as_str(), Value::Count(number.events.of(kind)));
            }
        },
    },
    Family {
        name: "whatsapp_phone_number_last_event_timestamp_seconds",
        kind: Kind::Gauge,
        help: "When the provider says the newest event happened; the time of its arrival where it says nothing.",
        label: None,
        samples: |number, sample| {
            if let Some(time) = number.last_event {
                sample("", Value::Time(time));
            }
        },
    },
];

/// What there is of every account; labels `provider` and `waba_id`.
pub const ACCOUNT: &[Family<Account>] = &[
    Family {
        name: "whatsapp_business_account_messaging_limit",
        kind: Kind::Gauge,
        help: "The portfolio's limit as last reported for this account, in unique customers in a rolling 24 hours: \
               +Inf unlimited, absent while unknown.",
        label: None,
        samples: |account, sample| current(&account.limit, sample),
    },
    Family {
        name: "whatsapp_business_account_previous_messaging_limit",
        kind: Kind::Gauge,
        help: "The account's messaging limit before its last change; absent until there was one.",
        label: None,
        samples: |account, sample| previous(&account.limit, sample),
    },
    Family {
        name: "whatsapp_business_account_messaging_limit_changes_total",
        kind: Kind::Counter,
        help: "Changes of the account's messaging limit.",
        label: Some("direction"),
        samples: |account, sample| changes(&account.limit, sample),
    },
    Family {
        name: "whatsapp_business_account_messaging_limit_changed_timestamp_seconds",
        kind: Kind::Gauge,
        help: "When this exporter applied the last change in that direction; absent until then.",
        label: Some("direction"),
        samples: |account, sample| changed(&account.limit, sample),
    },
    Family {
        name: "whatsapp_business_account_max_phone_numbers",
        kind: Kind::Gauge,
        help: "Phone numbers that the business portfolio or the account may have, whichever was reported last.",
        label: Some("scope"),
        samples: |account, sample| {
            let Some(fact) = account.max_phone_numbers else {
                return;
            };
            for (scope, most) in [("business", fact.value.business), ("waba", fact.value.waba)] {
                if let Some(most) = most {
                    sample(scope, Value::Count(most));
                }
            }
        },
    },
];

const DIRECTIONS: [(&str, Direction); 2] = [("up", Direction::Up), ("down", Direction::Down)];

fn current(limit: &Limit, sample: &mut dyn FnMut(&'static str, Value)) {
    if let Some(limit) = limit.value() {
        sample("", Value::Limit(limit));
    }
}

fn previous(limit: &Limit, sample: &mut dyn FnMut(&'static str, Value)) {
    if let Some(limit) = limit.previous {
        sample("", Value::Limit(limit));
    }
}

fn changes(limit: &Limit, sample: &mut dyn FnMut(&'static str, Value)) {
    for (name, direction) in DIRECTIONS {
        sample(name, Value::Count(limit.changes(direction).total));
    }
}

fn changed(limit: &Limit, sample: &mut dyn FnMut(&'static str, Value)) {
    for (name, direction) in DIRECTIONS {
        if let Some(time) = limit.changes(direction).last {
            sample(name, Value::Time(time));
        }
    }
}
