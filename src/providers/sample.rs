//! Deliveries to try an exporter with, from what they are to say.

use serde_json::{Map, Value as Json};

use crate::domain::{EventKind, MessagingLimit, PhoneNumber, Timestamp, WabaId};

/// What a delivery is to say.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The account.
    pub waba_id: WabaId,
    /// What it is about.
    pub kind: SampleKind,
    /// The limit before.
    pub old_limit: Option<MessagingLimit>,
    /// The limit.
    pub limit: Option<MessagingLimit>,
    /// When it happened.
    pub at: Timestamp,
}

/// What a delivery is about.
#[derive(Clone, Debug)]
pub enum SampleKind {
    /// An event of a phone number.
    Quality(PhoneNumber, EventKind),
    /// The limit of an account.
    Capability,
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
    /// The phone number and the event, where it is about one.
    pub(super) fn quality(&self) -> Option<(&str, &'static str)> {
        match &self.kind {
            SampleKind::Quality(number, event) => Some((number.as_str(), event.as_str())),
            SampleKind::Capability => None,
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
