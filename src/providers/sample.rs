//! Deliveries to try an exporter with, from what they are to say.

use serde_json::{Map, Value as Json};

use crate::domain::{
    AccountEvent, AlertSeverity, BanState, EventKind, MessagingLimit, PhoneNumber, QualityRating,
    Restriction, TemplateEvent, TemplateQuality, Timestamp, Vocabulary, WabaId,
};

/// What a delivery is to say.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The account.
    pub waba_id: WabaId,
    /// The phone number, where it is about one.
    pub phone_number: Option<PhoneNumber>,
    /// What happened.
    pub kind: SampleKind,
    /// The limit before.
    pub old_limit: Option<MessagingLimit>,
    /// The limit.
    pub limit: Option<MessagingLimit>,
    /// When it happened.
    pub at: Timestamp,
}

/// What happened, as a delivery is to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleKind {
    /// An event of a phone number.
    Quality(EventKind),
    /// A phone number was observed to have this rating.
    Rating(QualityRating),
    /// The limit of an account.
    Capability,
    /// An event of an account.
    Account(AccountEvent),
    /// A restriction of an account, without an end.
    Restriction(Restriction),
    /// An account is disabled, will be, or is not any more.
    BanState(BanState),
    /// An alert about an account.
    Alert(AlertSeverity),
    /// What became of a template.
    Template(TemplateEvent),
    /// The quality of a template.
    TemplateQuality(TemplateQuality),
}

impl SampleKind {
    /// All that a delivery can be to say, each with a word for it.
    pub fn all() -> Vec<(String, Self)> {
        let mut all = words("", Self::Quality);
        all.push(("capability".into(), Self::Capability));
        all.extend(words("", Self::Account));
        all.extend(words("", Self::Restriction));
        all.extend(words("", Self::BanState));
        all.extend(words("alert-", Self::Alert));
        all.extend(words("template-", Self::Template));
        all.extend(words("template-", Self::TemplateQuality));
        all.extend(words("rating-", Self::Rating));
        all
    }

    /// Whether it is about a phone number.
    pub const fn is_of_a_number(self) -> bool {
        matches!(self, Self::Quality(_) | Self::Rating(_))
    }

    /// The account event that says it.
    pub(super) fn account_event(self) -> Option<AccountEvent> {
        match self {
            Self::Account(event) => Some(event),
            Self::Restriction(_) => Some(AccountEvent::Restriction),
            Self::BanState(_) => Some(AccountEvent::Disabled),
            _ => None,
        }
    }
}

/// The values of a vocabulary that providers send, each with a word.
fn words<V: Vocabulary>(before: &str, kind: fn(V) -> SampleKind) -> Vec<(String, SampleKind)> {
    let values = V::VALUES.iter().copied();
    let sent = values.filter(|value| !["OTHER", "UNKNOWN"].contains(&value.name()));
    let word = |value: V| value.name().to_lowercase().replace('_', "-");
    sent.map(|value| (format!("{before}{}", word(value)), kind(value)))
        .collect()
}

/// A delivery as it is sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// A `GET` with this query.
    Query(String),
    /// A `POST` of this JSON.
    Json(Json),
}

impl Sample {
    /// The id of the template that deliveries are about.
    pub(super) const TEMPLATE: &str = "594425479261596";

    /// The phone number and the event, where it is about one.
    pub(super) fn quality(&self) -> Option<(&str, &'static str)> {
        match self.kind {
            SampleKind::Quality(event) => {
                Some((self.phone_number.as_ref()?.as_str(), event.as_str()))
            }
            _ => None,
        }
    }

    /// An id of the delivery, which another time makes another.
    pub(super) fn id(&self) -> String {
        format!("test-{}", self.at)
    }

    /// A limit as most providers name it.
    pub(super) fn tier(limit: MessagingLimit) -> String {
        format!("TIER_{}", limit.tier())
    }

    /// The event and the limits as fields of these names; a limit that is not given is left out.
    pub(super) fn fields(&self, event: &str, [limit, old_limit]: [&str; 2]) -> Map<String, Json> {
        let tier = |name: &str, limit: Option<MessagingLimit>| {
            Some((name.to_owned(), Self::tier(limit?).into()))
        };
        let event = (
            event.to_owned(),
            self.quality().unwrap_or_default().1.into(),
        );
        let limits = [tier(limit, self.limit), tier(old_limit, self.old_limit)];
        std::iter::once(event)
            .chain(limits.into_iter().flatten())
            .collect()
    }
}
