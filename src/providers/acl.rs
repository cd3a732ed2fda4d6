//! ACL Mobile.
//!
//! Source: ACL's page of the webhooks of WhatsApp. Meta's entry, or its entries, stand in
//! `channelMetadata`, and the time beside it.

use serde_json::json;

use super::{
    Delivery, Example, Message, ParseError, Parsed, Provider, Sample,
    envelope::{self, Entry, Envelope},
    json::{Node, read_fields},
};
use crate::domain::ProviderName;

pub(super) static PROVIDER: Provider = Provider {
    name: ProviderName::new("acl"),
    title: "ACL",
    setup: include_str!("acl.md"),
    example: Example::Json(
        r#"{"eventCategory":"PHONE_NUMBER_QUALITY","channel":"wa","timestamp":"1760001000","channelMetadata":{"id":"524126980791429","changes":[{"field":"phone_number_quality_update","value":{"display_phone_number":"15550783881","event":"FLAGGED","current_limit":"TIER_10K"}}]}}"#,
    ),
    write,
    read,
    ..Provider::POST_WITH_TOKEN
};

const METADATA: &str = "channelMetadata";

fn write(_: &Provider, sample: &Sample) -> Option<Message> {
    let time = sample.at.as_seconds().trunc().to_string();
    let metadata = envelope::entry(sample)?;
    Some(Message::Json(
        json!({"channel": "wa", "timestamp": time, METADATA: metadata}),
    ))
}

fn read(provider: &Provider, delivery: &Delivery<'_>) -> Result<Parsed, ParseError> {
    let body = read_fields(delivery.body)?;
    let time = body.scalar("timestamp");
    let mut parsed = Parsed::default();
    // The keys of an entry and of an envelope are others.
    match (body.node(METADATA), body.node(METADATA)) {
        (Node::<Entry<'_>>::Object(mut entry), Node::<Envelope<'_>>::Object(mut envelope)) => {
            if time.time().is_some() {
                entry.time.clone_from(&time);
                envelope.set_time(&time);
            }
            entry.read_into(provider.name, &mut parsed);
            envelope.read_into(provider.name, &mut parsed);
        }
        (Node::Absent, _) => {}
        _ => parsed.invalid_shapes(1),
    }
    Ok(parsed.or_nothing())
}
