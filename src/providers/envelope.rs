//! Meta's envelope, which those who pass Meta's webhooks on keep whole or in part.
//!
//! Sources: Meta's reference pages of the webhooks `phone_number_quality_update`,
//! `business_capability_update`, `account_update`, `account_alerts`,
//! `message_template_status_update` and `message_template_quality_update`.

use serde_json::{Value as Json, json};

use super::{
    Delivery, InvalidChange, Message, ParseError, Parsed, Provider, Sample, SampleKind,
    health::{AccountEventFields, AlertFields, Common, TemplateFields},
    json::{Fields, Item, List, Node, Scalar, object, read_body},
    quality::{CapabilityFields, QualityFields},
    shape::TEST_ACCOUNT,
};
use crate::domain::{AccountEvent, Change, ProviderName};

/// Writes a delivery as Meta sends it.
pub(super) fn write(_: &Provider, sample: &Sample) -> Option<Message> {
    Some(Message::Json(json!({
        "object": "whatsapp_business_account",
        "entry": [entry(sample)?],
    })))
}

/// Writes the entry of a delivery.
pub(super) fn entry(sample: &Sample) -> Option<Json> {
    let event = sample.kind.account_event().map(AccountEvent::as_str);
    let (field, value) = match sample.kind {
        SampleKind::Quality(_) => {
            let mut value = sample.fields("event", ["current_limit", "old_limit"]);
            let phone_number = sample.quality()?.0;
            value.insert("display_phone_number".into(), phone_number.into());
            (QUALITY, Json::Object(value))
        }
        SampleKind::Rating(_) => return None,
        SampleKind::Capability => {
            let limit = Sample::tier(sample.limit?);
            (
                CAPABILITY,
                json!({"max_daily_conversations_per_business": limit}),
            )
        }
        SampleKind::Account(_) => (ACCOUNT_EVENT, json!({"event": event})),
        SampleKind::Restriction(restriction) => {
            let listed = json!([{"restriction_type": restriction}]);
            (
                ACCOUNT_EVENT,
                json!({"event": event, "restriction_info": listed}),
            )
        }
        SampleKind::BanState(state) => {
            let info = json!({"waba_ban_state": state});
            (ACCOUNT_EVENT, json!({"event": event, "ban_info": info}))
        }
        SampleKind::Alert(severity) => {
            let info = json!({"alert_severity": severity});
            (ACCOUNT_ALERT, json!({"alert_info": info}))
        }
        SampleKind::Template(event) => (
            TEMPLATE_STATUS,
            json!({"message_template_id": Sample::TEMPLATE, "event": event}),
        ),
        SampleKind::TemplateQuality(quality) => (
            TEMPLATE_QUALITY,
            json!({"message_template_id": Sample::TEMPLATE, "new_quality_score": quality}),
        ),
    };
    Some(json!({
        "id": sample.waba_id.as_str(),
        "time": sample.at.as_seconds().trunc() as u64,
        "changes": [{"field": field, "value": value}],
    }))
}

/// The fields of changes that mean something here.
const QUALITY: &str = "phone_number_quality_update";
const CAPABILITY: &str = "business_capability_update";
const ACCOUNT_EVENT: &str = "account_update";
const ACCOUNT_ALERT: &str = "account_alerts";
const TEMPLATE_STATUS: &str = "message_template_status_update";
const TEMPLATE_QUALITY: &str = "message_template_quality_update";

/// Reads a delivery as Meta sends it.
pub(super) fn read(provider: &Provider, delivery: &Delivery<'_>) -> Result<Parsed, ParseError> {
    let envelope: Envelope<'_> = read_body(delivery.body)?;
    Ok(envelope.read(provider.name))
}

/// What Meta wraps changes in.
#[derive(Default)]
pub(super) struct Envelope<'a> {
    object: Scalar<'a>,
    entry: List<Entry<'a>>,
}

/// The changes of one account.
#[derive(Default)]
pub(super) struct Entry<'a> {
    id: Scalar<'a>,
    time: Scalar<'a>,
    changes: List<RawChange<'a>>,
}

#[derive(Default)]
struct RawChange<'a> {
    field: Scalar<'a>,
    value: Node<Fields<'a>>,
}

object!(Envelope { object, entry });
object!(Entry { id, time, changes });
object!(RawChange { field, value });

impl<'a> Item<'a> for Entry<'a> {
    fn put_into(self, list: &mut List<Self>) {
        list.ignored += self.changes.ignored;
        list.invalid += self.changes.invalid;
        if !self.changes.kept.is_empty() {
            list.kept.push(self);
        }
    }
}

impl<'a> Item<'a> for RawChange<'a> {
    fn put_into(self, list: &mut List<Self>) {
        match self.field.as_str() {
            QUALITY | CAPABILITY | ACCOUNT_EVENT | ACCOUNT_ALERT | TEMPLATE_STATUS
            | TEMPLATE_QUALITY => list.kept.push(self),
            _ => list.ignored += 1,
        }
    }
}

impl<'a> Envelope<'a> {
    /// Takes an entry that stands in no envelope.
    pub(super) fn with(mut self, entry: Entry<'a>) -> Self {
        entry.put_into(&mut self.entry);
        self
    }

    /// Takes this time as that of each entry, where it is readable.
    pub(super) fn at(mut self, time: &Scalar<'a>) -> Self {
        if time.time().is_some() {
            for entry in &mut self.entry.kept {
                entry.time.clone_from(time);
            }
        }
        self
    }

    /// Reads the changes.
    pub(super) fn read(&self, provider: ProviderName) -> Parsed {
        let is_known = matches!(self.object, Scalar::Absent)
            || self.object.as_str() == "whatsapp_business_account";
        let mut parsed = Parsed {
            ignored: self.entry.ignored,
            ..Parsed::default()
        };
        parsed.invalid_shapes(self.entry.invalid);
        for entry in &self.entry.kept {
            match is_known {
                true => entry.read_changes(provider, &mut parsed),
                false => parsed.ignored += entry.changes.kept.len() as u64,
            }
        }
        parsed.or_nothing()
    }
}

impl<'a> Entry<'a> {
    fn read_changes(&self, provider: ProviderName, parsed: &mut Parsed) {
        for change in &self.changes.kept {
            if self.id.as_str() == TEST_ACCOUNT {
                parsed.test += 1;
                continue;
            }
            parsed.push(match &change.value {
                Node::Object(value) => self.change(provider, change.field.as_str(), value),
                _ => Err(InvalidChange::Shape),
            });
        }
    }

    fn change(
        &self,
        provider: ProviderName,
        field: &str,
        value: &Fields<'a>,
    ) -> Result<Change, InvalidChange> {
        match field {
            QUALITY => self.quality(provider, value),
            CAPABILITY => self.capability(provider, value),
            ACCOUNT_EVENT => self.account_event(provider, value),
            ACCOUNT_ALERT => {
                let info = value.object("alert_info")?;
                // The documentation has them nested, the samples of the app dashboard flat.
                let either = |name| match info.scalar(name) {
                    Scalar::Absent => value.scalar(name),
                    nested => nested,
                };
                let fields = AlertFields {
                    severity: either("alert_severity"),
                    alert_type: either("alert_type"),
                    entity_type: either("entity_type"),
                    entity_id: either("entity_id"),
                };
                fields.change(provider, &self.common())
            }
            _ => {
                let template = TemplateFields {
                    id: value.scalar("message_template_id"),
                    name: value.scalar("message_template_name"),
                    language: value.scalar("message_template_language"),
                };
                let common = self.common();
                match field {
                    TEMPLATE_STATUS => template.status(provider, &common, &value.scalar("event")),
                    _ => template.quality(provider, &common, &value.scalar("new_quality_score")),
                }
            }
        }
    }

    fn common(&self) -> Common<'a> {
        Common {
            waba_id: self.id.clone(),
            time: self.time.clone(),
            ..Common::default()
        }
    }

    fn quality(&self, provider: ProviderName, value: &Fields<'_>) -> Result<Change, InvalidChange> {
        let fields = QualityFields {
            waba_id: self.id.clone(),
            time: self.time.clone(),
            phone_number: value.scalar("display_phone_number"),
            event: value.scalar("event"),
            portfolio_limit: value.scalar("max_daily_conversations_per_business"),
            current_limit: value.scalar("current_limit"),
            old_limit: value.scalar("old_limit"),
            ..QualityFields::default()
        };
        fields.change(provider)
    }

    fn capability(
        &self,
        provider: ProviderName,
        value: &Fields<'_>,
    ) -> Result<Change, InvalidChange> {
        let fields = CapabilityFields {
            waba_id: self.id.clone(),
            time: self.time.clone(),
            portfolio_limit: value.scalar("max_daily_conversations_per_business"),
            current_limit: value.scalar("current_limit"),
            per_phone_limit: value.scalar("max_daily_conversation_per_phone"),
            max_per_business: value.scalar("max_phone_numbers_per_business"),
            max_per_waba: value.scalar("max_phone_numbers_per_waba"),
            ..CapabilityFields::default()
        };
        fields.change(provider)
    }

    fn account_event(
        &self,
        provider: ProviderName,
        value: &Fields<'a>,
    ) -> Result<Change, InvalidChange> {
        let event = value.scalar("event");
        let mut common = self.common();
        // The entry of such an event is the partner's portfolio.
        if AccountEvent::is_of_a_partner(event.as_str()) {
            common.waba_id = value.object("waba_info")?.scalar("waba_id");
        }
        let restrictions = value.objects("restriction_info")?;
        let names = ["restriction_type", "expiration"];
        let fields = AccountEventFields {
            event,
            is_event_implied: false,
            restrictions: AccountEventFields::restrictions(restrictions, names),
            ban_state: value.object("ban_info")?.scalar("waba_ban_state"),
            violation: value.object("violation_info")?.scalar("violation_type"),
        };
        fields.change(provider, &common)
    }
}
