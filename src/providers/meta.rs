//! Meta Cloud API.
//!
//! Sources: Meta's reference pages of the webhooks `phone_number_quality_update` and
//! `business_capability_update`.

use hyper::Method;

use super::{
    Auth, Delivery, Example, InvalidChange, ParseError, Parsed, Provider,
    fields::{Facts, Fields, Scalar},
};

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
        let envelope = Fields::of_body(delivery.body)?;
        let object = envelope.scalar("object");
        let known = matches!(object, Scalar::Absent) || object.as_str() == "whatsapp_business_account";
        let mut parsed = Parsed::default();
        match envelope.list("entry") {
            Ok(entries) => {
                for entry in entries {
                    if let Err(reason) = Fields::of(entry).and_then(|entry| read_entry(&entry, known, &mut parsed)) {
                        parsed.invalid(reason);
                    }
                }
            }
            Err(reason) => parsed.invalid(reason),
        }
        Ok(if parsed == Parsed::default() { Parsed::nothing() } else { parsed })
    }

    fn example(&self) -> Example {
        Example::Json(
            r#"{"object":"whatsapp_business_account","entry":[{"id":"102290129340398","time":1748454394,"changes":[{"field":"phone_number_quality_update","value":{"display_phone_number":"15550783881","event":"DOWNGRADE","old_limit":"TIER_10K","current_limit":"TIER_1K"}}]}]}"#,
        )
    }
}

fn read_entry(entry: &Fields<'_>, known: bool, parsed: &mut Parsed) -> Result<(), InvalidChange> {
    for change in entry.list("changes")? {
        match Fields::of(change) {
            Ok(change) => read_change(entry, &change, known, parsed),
            Err(reason) => parsed.invalid(reason),
        }
    }
    Ok(())
}

fn read_change(entry: &Fields<'_>, change: &Fields<'_>, known: bool, parsed: &mut Parsed) {
    let field = change.scalar("field");
    let read = match field.as_str() {
        "phone_number_quality_update" if known => quality,
        "business_capability_update" if known => capability,
        _ => {
            parsed.ignored += 1;
            return;
        }
    };
    if entry.scalar("id").as_str() == TEST_ACCOUNT {
        parsed.test += 1;
    } else {
        parsed.push(change.object("value").and_then(|value| read(entry, &value)));
    }
}

fn quality(entry: &Fields<'_>, value: &Fields<'_>) -> Result<crate::domain::Change, InvalidChange> {
    facts(entry, value).quality(
        &value.scalar("display_phone_number"),
        &value.scalar("event"),
        &value.scalar("old_limit"),
    )
}

fn capability(entry: &Fields<'_>, value: &Fields<'_>) -> Result<crate::domain::Change, InvalidChange> {
    facts(entry, value).capability(
        &value.scalar("max_daily_conversation_per_phone"),
        &value.scalar("max_phone_numbers_per_business"),
        &value.scalar("max_phone_numbers_per_waba"),
    )
}

fn facts<'a>(entry: &Fields<'a>, value: &Fields<'a>) -> Facts<'a> {
    Facts {
        provider: Meta.name(),
        waba_id: entry.scalar("id"),
        delivery_id: Scalar::Absent,
        time: entry.scalar("time"),
        portfolio_limit: value.scalar("max_daily_conversations_per_business"),
        current_limit: value.scalar("current_limit"),
    }
}
