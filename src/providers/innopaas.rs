//! InnoPaaS.
//!
//! Source: InnoPaaS' webhook page. Its samples mask digits of the number and of the account.

use serde_json::json;

use super::{
    Delivery, Example, Message, ParseError, Parsed, Provider, Sample, json::read_fields,
    quality::QualityFields,
};
use crate::domain::ProviderName;

const TYPE: &str = "whatsapp_phone_number_quality_update";

pub(super) static PROVIDER: Provider = Provider {
    name: ProviderName::new("innopaas"),
    title: "InnoPaaS",
    setup: include_str!("innopaas.md"),
    example: Example::Json(
        r#"{"id":"fd201190-50dc-4151-baec-1d16c8a704e1","type":"whatsapp_phone_number_quality_update","eventTime":"2023-10-16T13:04:57.644Z","body":{"messageLimit":"Unlimited","event":"THROUGHPUT_UPGRADE","displayPhoneNumber":"8613800000000","wabaId":"110129500080569"}}"#,
    ),
    write,
    read,
    ..Provider::POST_WITH_TOKEN
};

fn write(sample: &Sample) -> Option<Message> {
    let (phone_number, _) = sample.quality()?;
    let mut body = sample.fields("event", ["messageLimit", "oldLimit"]);
    body.insert("displayPhoneNumber".into(), phone_number.into());
    body.insert("wabaId".into(), sample.waba_id.as_str().into());
    Some(Message::Json(json!({
        "id": sample.id(),
        "type": TYPE,
        "eventTime": sample.at.to_iso(),
        "body": body,
    })))
}

fn read(provider: ProviderName, delivery: &Delivery<'_>) -> Result<Parsed, ParseError> {
    let envelope = read_fields(delivery.body)?;
    if envelope.scalar("type").as_str() != TYPE {
        return Ok(Parsed::nothing());
    }
    Ok(Parsed::one(envelope.object("body").and_then(|body| {
        let fields = QualityFields {
            waba_id: body.scalar("wabaId"),
            delivery_id: envelope.scalar("id"),
            time: envelope.scalar("eventTime"),
            phone_number: body.scalar("displayPhoneNumber"),
            event: body.scalar("event"),
            portfolio_limit: body.scalar("maxDailyConversationsPerBusiness"),
            current_limit: body.scalar("messageLimit"),
            old_limit: body.scalar("oldLimit"),
        };
        fields.change(provider)
    })))
}
