//! From the fields of a webhook to a change, under whatever names the provider has for them.

use super::{InvalidChange, json::Scalar};
use crate::domain::{
    AccountKey, Change, ChangeKind, EventKind, Identity, InvalidKey, LimitScope, MaxPhoneNumbers,
    MessagingLimit, PhoneNumber, ProviderName, QualityRating, ReportedLimit, UnknownField,
    UnknownValue, WabaId,
};

/// The fields of a quality event; a provider leaves out those that it does not send.
#[derive(Default)]
pub(super) struct QualityFields<'a> {
    pub(super) waba_id: Scalar<'a>,
    /// The provider's id of the delivery.
    pub(super) delivery_id: Scalar<'a>,
    pub(super) time: Scalar<'a>,
    pub(super) phone_number: Scalar<'a>,
    pub(super) event: Scalar<'a>,
    /// `max_daily_conversations_per_business`.
    pub(super) portfolio_limit: Scalar<'a>,
    pub(super) current_limit: Scalar<'a>,
    pub(super) old_limit: Scalar<'a>,
    pub(super) rating: Scalar<'a>,
    /// Whether a change without an event is an observation, not an unknown event.
    pub(super) may_lack_event: bool,
}

/// The fields of an account's capability.
#[derive(Default)]
pub(super) struct CapabilityFields<'a> {
    pub(super) waba_id: Scalar<'a>,
    pub(super) delivery_id: Scalar<'a>,
    pub(super) time: Scalar<'a>,
    /// The event of the account's limit, where the provider names one.
    pub(super) event: Option<Scalar<'a>>,
    /// `max_daily_conversations_per_business`.
    pub(super) portfolio_limit: Scalar<'a>,
    pub(super) current_limit: Scalar<'a>,
    pub(super) old_limit: Scalar<'a>,
    /// `max_daily_conversation_per_phone`, which Meta has retired.
    pub(super) per_phone_limit: Scalar<'a>,
    pub(super) max_per_business: Scalar<'a>,
    pub(super) max_per_waba: Scalar<'a>,
}

impl QualityFields<'_> {
    /// The change of a phone number.
    pub(super) fn change(&self, provider: ProviderName) -> Result<Change, InvalidChange> {
        let waba_id = WabaId::parse(self.waba_id.id()?)?;
        let phone_number = PhoneNumber::parse(self.phone_number.id()?)?;
        let mut unknown = Vec::new();
        let event = match self.may_lack_event && self.event.is_empty() {
            true => None,
            false => Some(read_event(&self.event, &mut unknown)),
        };
        let portfolio = read_limit(&self.portfolio_limit, &mut unknown);
        let own = read_limit(&self.current_limit, &mut unknown);
        let old_limit = read_limit(&self.old_limit, &mut unknown);
        // THROUGHPUT_UPGRADE names the throughput level of this number, not the portfolio's limit;
        // "not set" and a limit without an account apply to the number, too.
        let is_portfolios = event != Some(EventKind::ThroughputUpgrade) && !waba_id.is_empty();
        let limit = match first_set([portfolio, own]) {
            Some(limit) if is_portfolios && limit.is_set() && Some(limit) == portfolio => {
                Some(ReportedLimit {
                    limit,
                    scope: LimitScope::Portfolio,
                })
            }
            limit => limit.map(|limit| ReportedLimit {
                limit,
                scope: LimitScope::PhoneNumber,
            }),
        };
        Ok(Change {
            identity: identity(
                &self.delivery_id,
                &self.time,
                [
                    &self.waba_id,
                    &self.delivery_id,
                    &self.time,
                    &self.portfolio_limit,
                    &self.current_limit,
                    &self.phone_number,
                    &self.event,
                    &self.old_limit,
                ]
                .into_iter()
                .chain((!self.rating.is_empty()).then_some(&self.rating))
                .map(Scalar::as_str),
            ),
            account: AccountKey { provider, waba_id },
            time: self.time.time(),
            unknown,
            kind: ChangeKind::PhoneNumberQuality {
                phone_number,
                event,
                limit,
                old_limit,
                rating: match &self.rating {
                    Scalar::Absent => None,
                    rating => Some(QualityRating::parse(rating.as_str())),
                },
            },
        })
    }
}

impl CapabilityFields<'_> {
    /// The change of an account.
    pub(super) fn change(&self, provider: ProviderName) -> Result<Change, InvalidChange> {
        let waba_id = WabaId::parse(self.waba_id.id()?)?;
        if waba_id.is_empty() {
            return Err(InvalidKey::AccountEmpty.into());
        }
        let mut unknown = Vec::new();
        let event = self.event.as_ref();
        let event_kind = event.map(|event| read_event(event, &mut unknown));
        let fields = [
            &self.portfolio_limit,
            &self.current_limit,
            &self.per_phone_limit,
        ];
        let limits = fields.map(|field| read_limit(field, &mut unknown));
        Ok(Change {
            identity: identity(
                &self.delivery_id,
                &self.time,
                [
                    &self.waba_id,
                    &self.delivery_id,
                    &self.time,
                    &self.portfolio_limit,
                    &self.current_limit,
                    &self.per_phone_limit,
                    &self.max_per_business,
                    &self.max_per_waba,
                ]
                .into_iter()
                .chain(event)
                .chain((!self.old_limit.is_empty()).then_some(&self.old_limit))
                .map(Scalar::as_str),
            ),
            account: AccountKey { provider, waba_id },
            time: self.time.time(),
            kind: ChangeKind::AccountCapability {
                event: event_kind,
                old_limit: read_limit(&self.old_limit, &mut unknown),
                // "Not set" never applies to anything but a number.
                limit: first_set(limits).filter(|limit| limit.is_set()),
                max_phone_numbers: MaxPhoneNumbers {
                    business: self.max_per_business.count(),
                    waba: self.max_per_waba.count(),
                },
            },
            unknown,
        })
    }
}

fn read_event(field: &Scalar<'_>, unknown: &mut Vec<UnknownValue>) -> EventKind {
    let event = match field {
        Scalar::Text(name) => EventKind::parse(name),
        _ => EventKind::Unknown,
    };
    if event == EventKind::Unknown {
        unknown.push(UnknownValue::new(UnknownField::Event, field.to_log()));
    }
    event
}

/// The limit in a field, where it is one.
fn read_limit(field: &Scalar<'_>, unknown: &mut Vec<UnknownValue>) -> Option<MessagingLimit> {
    field.limit().unwrap_or_else(|()| {
        unknown.push(UnknownValue::new(UnknownField::Limit, field.to_log()));
        None
    })
}

/// The first limit wins, but "not set" yields to a limit that is set in a later field.
fn first_set<const N: usize>(limits: [Option<MessagingLimit>; N]) -> Option<MessagingLimit> {
    let given = || limits.into_iter().flatten();
    given()
        .find(|limit| limit.is_set())
        .or_else(|| given().next())
}

/// The identity of a delivery, of all its fields as sent; none without an id and a time. Earlier
/// versions hashed the fields in the same order, and what they remembered still counts.
pub(super) fn identity<'a>(
    delivery_id: &Scalar<'_>,
    time: &Scalar<'_>,
    fields: impl IntoIterator<Item = &'a str>,
) -> Option<Identity> {
    if delivery_id.is_empty() && (time.is_empty() || time.as_str() == "0") {
        return None;
    }
    Some(Identity::of(fields.into_iter().map(str::as_bytes)))
}
