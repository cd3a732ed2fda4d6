//! 8x8.
//!
//! Source: 8x8's webhook page "WhatsApp phone number quality update". All samples of that page share
//! one `eventId`, so the id alone does not tell deliveries apart.

use hyper::Method;

use super::{
    Auth, Delivery, Example, InvalidChange, ParseError, Parsed, Provider,
    fields::{Facts, Fields, read_body},
};
use crate::domain::Change;

/// 8x8's webhooks, with a token in `Authorization`.
pub(super) struct EightByEight;

impl Provider for EightByEight {
    fn name(&self) -> &'static str {
        "8x8"
    }

    fn title(&self) -> &'static str {
        "8x8"
    }

    fn methods(&self) -> &'static [Method] {
        &[Method::POST]
    }

    fn auth(&self) -> Auth {
        Auth::Token
    }

    fn parse(&self, delivery: &Delivery<'_>) -> Result<Parsed, ParseError> {
        let envelope: Fields<'_> = read_body(delivery.body)?;
        if envelope.scalar("eventType").as_str() != "phone_number_quality_update" {
            return Ok(Parsed::nothing());
        }
        Ok(Parsed::one(read(&envelope)))
    }

    fn setup(&self) -> &'static str {
        "Webhook URL `https://HOST/webhooks/8x8`, and a token of your choice as its `Authorization` header. 8x8 repeats \
         what was not answered 200 after 1, 10, 30 and 90 seconds, and then gives up."
    }

    fn example(&self) -> Example {
        Example::Json(
            r#"{"eventId":"0f88f5c4-fae7-4dcf-8ff2-b2990133edea","timestamp":"2025-01-01T00:00:00.00Z","businessAccountId":"950523421983857","eventType":"phone_number_quality_update","eventDetails":{"displayPhoneNumber":"15550783882","meta":{"event":"UPGRADE","currentLimit":"TIER_10K","oldLimit":"TIER_1K"}}}"#,
        )
    }
}

fn read(envelope: &Fields<'_>) -> Result<Change, InvalidChange> {
    let details = envelope.object("eventDetails")?;
    let meta = details.object("meta")?;
    let facts = Facts {
        provider: EightByEight.name(),
        waba_id: envelope.scalar("businessAccountId"),
        delivery_id: envelope.scalar("eventId"),
        time: envelope.scalar("timestamp"),
        portfolio_limit: meta.scalar("maxDailyConversationsPerBusiness"),
        current_limit: meta.scalar("currentLimit"),
    };
    facts.quality(
        &details.scalar("displayPhoneNumber"),
        &meta.scalar("event"),
        &meta.scalar("oldLimit"),
    )
}
