//! Meta Cloud API.
//!
//! Sources: Meta's reference pages of the webhooks `phone_number_quality_update` and
//! `business_capability_update`.

use std::borrow::Cow;

use hyper::Method;
use serde::de::MapAccess;

use super::{
    Auth, Delivery, Example, InvalidChange, ParseError, Parsed, Provider,
    fields::{Facts, Fields, Node, Object, Scalar, pass_over, read_body},
};
use crate::domain::Change;

/// Meta's own webhooks, signed with the app secret.
pub(super) struct Meta;

/// The account in the samples that the "Test" button of the app dashboard sends.
const TEST_ACCOUNT: &str = "0";

impl Provider for Meta {
    fn name(&self) -> &'static str {
        "meta"
    }

    fn title(&self) -> &'static str {
        "Meta Cloud API"
    }

    fn methods(&self) -> &'static [Method] {
        &[Method::POST]
    }

    fn auth(&self) -> Auth {
        Auth::Signature
    }

    fn parse(&self, delivery: &Delivery<'_>) -> Result<Parsed, ParseError> {
        let envelope: Envelope<'_> = read_body(delivery.body)?;
        let known =
            matches!(envelope.object, Scalar::Absent) || envelope.object.as_str() == "whatsapp_business_account";
        let mut parsed = Parsed::default();
        if let Err(reason) = envelope.read(known, &mut parsed) {
            parsed.invalid(reason);
        }
        Ok(if parsed == Parsed::default() { Parsed::nothing() } else { parsed })
    }

    fn example(&self) -> Example {
        Example::Json(
            r#"{"object":"whatsapp_business_account","entry":[{"id":"102290129340398","time":1748454394,"changes":[{"field":"phone_number_quality_update","value":{"display_phone_number":"15550783881","event":"DOWNGRADE","old_limit":"TIER_10K","current_limit":"TIER_1K"}}]}]}"#,
        )
    }
}

/// What Meta wraps changes in.
#[derive(Default)]
struct Envelope<'a> {
    object: Scalar<'a>,
    entry: Node<Entry<'a>>,
}

/// The changes of one account.
#[derive(Default)]
struct Entry<'a> {
    id: Scalar<'a>,
    time: Scalar<'a>,
    changes: Node<RawChange<'a>>,
}

#[derive(Default)]
struct RawChange<'a> {
    field: Scalar<'a>,
    value: Node<Fields<'a>>,
}

impl<'a> Object<'a> for Envelope<'a> {
    fn take<A: MapAccess<'a>>(&mut self, key: Cow<'a, [u8]>, values: &mut A) -> Result<(), A::Error> {
        match key.as_ref() {
            b"object" => self.object = values.next_value()?,
            b"entry" => self.entry = values.next_value()?,
            _ => pass_over(values)?,
        }
        Ok(())
    }
}

impl<'a> Object<'a> for Entry<'a> {
    fn take<A: MapAccess<'a>>(&mut self, key: Cow<'a, [u8]>, values: &mut A) -> Result<(), A::Error> {
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
    fn take<A: MapAccess<'a>>(&mut self, key: Cow<'a, [u8]>, values: &mut A) -> Result<(), A::Error> {
        match key.as_ref() {
            b"field" => self.field = values.next_value()?,
            b"value" => self.value = values.next_value()?,
            _ => pass_over(values)?,
        }
        Ok(())
    }
}

impl Envelope<'_> {
    fn read(self, known: bool, parsed: &mut Parsed) -> Result<(), InvalidChange> {
        for entry in self.entry.into_list()? {
            if let Err(reason) = entry.into_object().and_then(|entry| entry.read(known, parsed)) {
                parsed.invalid(reason);
            }
        }
        Ok(())
    }
}

impl Entry<'_> {
    fn read(mut self, known: bool, parsed: &mut Parsed) -> Result<(), InvalidChange> {
        for change in std::mem::take(&mut self.changes).into_list()? {
            match change.into_object() {
                Ok(change) => self.read_change(change, known, parsed),
                Err(reason) => parsed.invalid(reason),
            }
        }
        Ok(())
    }

    fn read_change(&self, change: RawChange<'_>, known: bool, parsed: &mut Parsed) {
        let read = match change.field.as_str() {
            "phone_number_quality_update" if known => Self::quality,
            "business_capability_update" if known => Self::capability,
            _ => {
                parsed.ignored += 1;
                return;
            }
        };
        if self.id.as_str() == TEST_ACCOUNT {
            parsed.test += 1;
        } else {
            parsed.push(change.value.into_object().and_then(|value| read(self, &value)));
        }
    }

    fn quality(&self, value: &Fields<'_>) -> Result<Change, InvalidChange> {
        self.facts(value).quality(
            &value.scalar("display_phone_number"),
            &value.scalar("event"),
            &value.scalar("old_limit"),
        )
    }

    fn capability(&self, value: &Fields<'_>) -> Result<Change, InvalidChange> {
        self.facts(value).capability(
            &value.scalar("max_daily_conversation_per_phone"),
            &value.scalar("max_phone_numbers_per_business"),
            &value.scalar("max_phone_numbers_per_waba"),
        )
    }

    fn facts<'a>(&'a self, value: &Fields<'a>) -> Facts<'a> {
        Facts {
            provider: Meta.name(),
            waba_id: self.id.clone(),
            time: self.time.clone(),
            delivery_id: Scalar::Absent,
            portfolio_limit: value.scalar("max_daily_conversations_per_business"),
            current_limit: value.scalar("current_limit"),
        }
    }
}
