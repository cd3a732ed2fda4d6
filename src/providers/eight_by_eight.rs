//! 8x8.
//!
//! Source: 8x8's webhook page "WhatsApp phone number quality update". All samples of that page
//! share one `eventId`, so the id alone does not tell deliveries apart.

use serde_json::json;

use super::{
    Delivery, Example, InvalidChange, Message, ParseError, Parsed, Provider, Sample,
    json::{Fields, read_fields},
    quality::QualityFields,
};
use crate::domain::{Change, ProviderName};

const EVENT_TYPE: &str = "phone_number_quality_update";

pub(super) static PROVIDER: Provider = Provider {
    name: ProviderName::new("8x8"),
    title: "8x8",
    setup: include_str!("eight_by_eight.md"),
    example: Example::Json(
        r#"{"eventId":"0f88f5c4-fae7-4dcf-8ff2-b2990133edea","timestamp":"2025-01-01T00:00:00.00Z","businessAccountId":"950523421983857","eventType":"phone_number_quality_update","eventDetails":{"displayPhoneNumber":"15550783882","meta":{"event":"UPGRADE","currentLimit":"TIER_10K","oldLimit":"TIER_1K"}}}"#,
    ),
    write,
    read,
    ..Provider::POST_WITH_TOKEN
};

fn write(sample: &Sample) -> Option<Message> {
    let (phone_number, _) = sample.quality()?;
    Some(Message::Json(json!({
        "eventId": sample.id(),
        "timestamp": sample.at.to_iso(),
        "businessAccountId": sample.waba_id.as_str(),
        "eventType": EVENT_TYPE,
        "eventDetails": {
            "displayPhoneNumber": phone_number,
            "meta": sample.fields("event", ["currentLimit", "oldLimit"]),
        },
    })))
}

fn read(provider: ProviderName, delivery: &Delivery<'_>) -> Result<Parsed, ParseError> {
    let envelope = read_fields(delivery.body)?;
    if envelope.scalar("eventType").as_str() != EVENT_TYPE {
        return Ok(Parsed::nothing());
    }
    Ok(Parsed::one(read_event(provider, &envelope)))
}

fn read_event(provider: ProviderName, envelope: &Fields<'_>) -> Result<Change, InvalidChange> {
    let details = envelope.object("eventDetails")?;
    let meta = details.object("meta")?;
    let fields = QualityFields {
        waba_id: envelope.scalar("businessAccountId"),
        delivery_id: envelope.scalar("eventId"),
        time: envelope.scalar("timestamp"),
        phone_number: details.scalar("displayPhoneNumber"),
        event: meta.scalar("event"),
        portfolio_limit: meta.scalar("maxDailyConversationsPerBusiness"),
        current_limit: meta.scalar("currentLimit"),
        old_limit: meta.scalar("oldLimit"),
    };
    fields.change(provider)
}
