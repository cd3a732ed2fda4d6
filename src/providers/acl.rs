//! ACL Mobile.
//!
//! Sources: ACL's pages "Template Status" and "Template Quality" of the webhooks of WhatsApp. What
//! Meta sends stands in `channelMetadata`, whole or an entry alone, and the time beside it.

use serde_json::json;

use super::{
    Delivery, Example, InvalidChange, Message, ParseError, Parsed, Provider, Sample,
    envelope::{self, Envelope},
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
    // The keys of an entry and of an envelope are others.
    let (entry, envelope) = (body.node(METADATA), body.node::<Envelope<'_>>(METADATA));
    Ok(match (entry, envelope) {
        (Node::Object(entry), Node::Object(envelope)) => {
            envelope.with(entry).at(&time).read(provider.name)
        }
        (Node::Absent, _) => Parsed::nothing(),
        _ => Parsed::one(Err(InvalidChange::Shape)),
    })
}
