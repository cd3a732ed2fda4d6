//! Meta's webhooks, passed on by a relay without Meta's signature.
//!
//! Sources: those of Meta. A relay that keeps the signature and the body's bytes needs none of this:
//! its webhooks are Meta's.

use super::{Example, Provider, envelope};
use crate::domain::ProviderName;

pub(super) static PROVIDER: Provider = Provider {
    name: ProviderName::new("relay"),
    title: "Relay of Meta webhooks",
    setup: include_str!("relay.md"),
    example: Example::Json(
        r#"{"object":"whatsapp_business_account","entry":[{"id":"102290129340398","time":1748454394,"changes":[{"field":"phone_number_quality_update","value":{"display_phone_number":"15550783881","event":"FLAGGED","current_limit":"TIER_10K"}}]}]}"#,
    ),
    write: envelope::write,
    read: envelope::read,
    ..Provider::POST_WITH_TOKEN
};
