//! Meta Cloud API.
//!
//! Sources: Meta's reference pages of the webhooks `phone_number_quality_update` and
//! `business_capability_update`.

use std::borrow::Cow;

use serde::de::MapAccess;
use serde_json::{Value as Json, json};

use super::{
    Delivery, Example, InvalidChange, Message, ParseError, Parsed, Proof, Provider, Sample,
    json::{Fields, Item, List, Node, Object, Scalar, pass_over, read_body},
    quality::{CapabilityFields, QualityFields},
};
use crate::domain::{Change, ProviderName};

pub(super) static PROVIDER: Provider = Provider {
    name: ProviderName::new("meta"),
    title: "Meta Cloud API",
    proof: Proof::Hmac {
        header: "x-hub-signature-256",
        prefix: "sha256=",
    },
    handshake: true,
    setup: include_str!("meta.md"),
    example: Example::Json(
        r#"{"object":"whatsapp_business_account","entry":[{"id":"102290129340398","time":1748454394,"changes":[{"field":"phone_number_quality_update","value":{"display_phone_number":"15550783881","event":"DOWNGRADE","old_limit":"TIER_10K","current_limit":"TIER_1K"}}]}]}"#,
    ),
    write,
    read,
    ..Provider::POST_WITH_TOKEN
};

fn write(sample: &Sample) -> Option<Message> {
    let (field, value) = match sample.quality() {
        Some((phone_number, _)) => {
            let mut value = sample.fields("event", ["current_limit", "old_limit"]);
            value.insert("display_phone_number".into(), phone_number.into());
            (QUALITY, Json::Object(value))
        }
        None => {
            let limit = format!("TIER_{}", sample.limit?.tier());
            (
                CAPABILITY,
                json!({"max_daily_conversations_per_business": limit}),
            )
        }
    };
    Some(Message::Json(json!({
        "object": "whatsapp_business_account",
        "entry": [{
            "id": sample.waba_id.as_str(),
            "time": sample.at.as_seconds().trunc() as u64,
            "changes": [{"field": field, "value": value}],
        }],
    })))
}

/// The account in the samples that the "Test" button of the app dashboard sends.
const TEST_ACCOUNT: &str = "0";
/// The fields of changes that mean something here.
const QUALITY: &str = "phone_number_quality_update";
const CAPABILITY: &str = "business_capability_update";

fn read(provider: ProviderName, delivery: &Delivery<'_>) -> Result<Parsed, ParseError> {
    let envelope: Envelope<'_> = read_body(delivery.body)?;
    let is_known = matches!(envelope.object, Scalar::Absent)
        || envelope.object.as_str() == "whatsapp_business_account";
    let mut parsed = Parsed {
        ignored: envelope.entry.ignored,
        ..Parsed::default()
    };
    parsed.invalid_shapes(envelope.entry.invalid);
    for entry in &envelope.entry.kept {
        for change in &entry.changes.kept {
            match is_known {
                true => entry.read(provider, change, &mut parsed),
                false => parsed.ignored += 1,
            }
        }
    }
    Ok(if parsed == Parsed::default() {
        Parsed::nothing()
    } else {
        parsed
    })
}

/// What Meta wraps changes in.
#[derive(Default)]
struct Envelope<'a> {
    object: Scalar<'a>,
    entry: List<Entry<'a>>,
}

/// The changes of one account.
#[derive(Default)]
struct Entry<'a> {
    id: Scalar<'a>,
    time: Scalar<'a>,
    changes: List<RawChange<'a>>,
}

#[derive(Default)]
struct RawChange<'a> {
    field: Scalar<'a>,
    value: Node<Fields<'a>>,
}

impl<'a> Object<'a> for Envelope<'a> {
    fn take<A: MapAccess<'a>>(
        &mut self,
        key: Cow<'a, [u8]>,
        values: &mut A,
    ) -> Result<(), A::Error> {
        match key.as_ref() {
            b"object" => self.object = values.next_value()?,
            b"entry" => self.entry = values.next_value()?,
            _ => pass_over(values)?,
        }
        Ok(())
    }
}

impl<'a> Object<'a> for Entry<'a> {
    fn take<A: MapAccess<'a>>(
        &mut self,
        key: Cow<'a, [u8]>,
        values: &mut A,
    ) -> Result<(), A::Error> {
        match key.as_ref() {
            b"id" => self.id = values.next_value()?,
            b"time" => self.time = values.next_value()?,
            b"changes" => self.changes = values.next_value()?,
            _ => pass_over(values)?,
        }
        Ok(())
    }
}

impl<'a> Object<'a> for RawChange<'a> {
    fn take<A: MapAccess<'a>>(
        &mut self,
        key: Cow<'a, [u8]>,
        values: &mut A,
    ) -> Result<(), A::Error> {
        match key.as_ref() {
            b"field" => self.field = values.next_value()?,
            b"value" => self.value = values.next_value()?,
            _ => pass_over(values)?,
        }
        Ok(())
    }
}

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
            QUALITY | CAPABILITY => list.kept.push(self),
            _ => list.ignored += 1,
        }
    }
}

impl Entry<'_> {
    fn read(&self, provider: ProviderName, change: &RawChange<'_>, parsed: &mut Parsed) {
        if self.id.as_str() == TEST_ACCOUNT {
            parsed.test += 1;
            return;
        }
        let Node::Object(value) = &change.value else {
            parsed.invalid(InvalidChange::Shape);
            return;
        };
        parsed.push(match change.field.as_str() {
            QUALITY => self.quality(provider, value),
            _ => self.capability(provider, value),
        });
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
        };
        fields.change(provider)
    }
}
