//! InnoPaaS.
//!
//! Source: InnoPaaS' webhook page. Its samples mask digits of the number and of the account.

use hyper::Method;

use super::{
    Auth, Delivery, Example, InvalidChange, ParseError, Parsed, Provider,
    fields::{Facts, Fields, read_body},
};
use crate::domain::Change;

/// InnoPaaS' webhooks.
pub(super) struct Innopaas;

impl Provider for Innopaas {
    fn name(&self) -> &'static str {
        "innopaas"
    }

    fn title(&self) -> &'static str {
        "InnoPaaS"
    }

    fn methods(&self) -> &'static [Method] {
        &[Method::POST]
    }

    fn auth(&self) -> Auth {
        Auth::Token
    }

    fn parse(&self, delivery: &Delivery<'_>) -> Result<Parsed, ParseError> {
        let envelope: Fields<'_> = read_body(delivery.body)?;
        if envelope.scalar("type").as_str() != "whatsapp_phone_number_quality_update" {
            return Ok(Parsed::nothing());
        }
        Ok(Parsed::one(read(&envelope)))
    }

    fn setup(&self) -> &'static str {
        "Webhook URL `https://HOST/webhooks/innopaas/TOKEN`. InnoPaaS documents no repetition."
    }

    fn example(&self) -> Example {
        Example::Json(
            r#"{"id":"fd201190-50dc-4151-baec-1d16c8a704e1","type":"whatsapp_phone_number_quality_update","eventTime":"2023-10-16T13:04:57.644Z","body":{"messageLimit":"Unlimited","event":"THROUGHPUT_UPGRADE","displayPhoneNumber":"8613800000000","wabaId":"110129500080569"}}"#,
        )
    }
}

fn read(envelope: &Fields<'_>) -> Result<Change, InvalidChange> {
    let body = envelope.object("body")?;
    let facts = Facts {
        provider: Innopaas.name(),
        waba_id: body.scalar("wabaId"),
        delivery_id: envelope.scalar("id"),
        time: envelope.scalar("eventTime"),
        portfolio_limit: body.scalar("maxDailyConversationsPerBusiness"),
        current_limit: body.scalar("messageLimit"),
    };
    facts.quality(
        &body.scalar("displayPhoneNumber"),
        &body.scalar("event"),
        &body.scalar("oldLimit"),
    )
}
