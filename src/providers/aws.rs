//! AWS End User Messaging Social.
//!
//! Source: the user guide's page "Message and event format". Meta's entry stands in an event as text.

use serde_json::json;

use super::{
    Delivery, Example, InvalidChange, Message, ParseError, Parsed, Provider, Sample,
    envelope::{self, Entry, Envelope},
    json::{Fields, read_body, read_fields},
    sns,
};
use crate::domain::ProviderName;

pub(super) static PROVIDER: Provider = Provider {
    name: ProviderName::new("aws"),
    title: "AWS End User Messaging",
    setup: include_str!("aws.md"),
    example: Example::Json(
        r#"{"context":{"MetaWabaIds":[],"MetaPhoneNumberIds":[]},"whatsAppWebhookEntry":"{\"id\":\"524126980791429\",\"time\":1760001100,\"changes\":[{\"field\":\"phone_number_quality_update\",\"value\":{\"display_phone_number\":\"15550783881\",\"event\":\"FLAGGED\",\"current_limit\":\"TIER_10K\"}}]}"}"#,
    ),
    write,
    read,
    ..Provider::POST_WITH_TOKEN
};

fn write(_: &Provider, sample: &Sample) -> Option<Message> {
    let event = json!({"whatsAppWebhookEntry": envelope::entry(sample)?.to_string()});
    let sns = json!({"Type": "Notification", "Message": event.to_string()});
    Some(Message::Json(sns))
}

fn read(provider: &Provider, delivery: &Delivery<'_>) -> Result<Parsed, ParseError> {
    let body = read_fields(delivery.body)?;
    let message = body.scalar("Message");
    let event = read_fields(message.as_str().as_bytes());
    Ok(match (body.scalar("Type").as_str(), event) {
        ("", _) => read_event(provider, &body),
        ("Notification", Ok(event)) => read_event(provider, &event),
        ("SubscriptionConfirmation", _) => Parsed {
            subscribe_url: sns::subscribe_url(body.scalar("SubscribeURL").as_str()),
            ..Parsed::nothing()
        },
        _ => Parsed::nothing(),
    })
}

fn read_event(provider: &Provider, event: &Fields<'_>) -> Parsed {
    let entry = event.scalar("whatsAppWebhookEntry");
    match read_body::<Entry<'_>>(entry.as_str().as_bytes()) {
        Ok(entry) => Envelope::default().with(entry).read(provider.name),
        Err(_) if entry.is_empty() => Parsed::nothing(),
        Err(_) => Parsed::one(Err(InvalidChange::Shape)),
    }
}
