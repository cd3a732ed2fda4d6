//! Gupshup.
//!
//! Source: Gupshup's page "System events". A tier event names no number there, so its limit is the
//! account's; the name of the app stands for the account where its id is not sent.

use super::{
    Example, Provider,
    shape::{Kind, Paths, Shape},
};
use crate::domain::ProviderName;

pub(super) static PROVIDER: Provider = Provider {
    name: ProviderName::new("gupshup"),
    title: "Gupshup",
    setup: include_str!("gupshup.md"),
    example: Example::Json(
        r#"{"app":"DemoApp","timestamp":1580142086287,"version":2,"type":"account-event","payload":{"type":"tier-event","payload":{"event":"downgrade","oldLimit":"TIER_10K","currentLimit":"TIER_1K"}},"phone":"15550783881"}"#,
    ),
    shapes: &[
        Shape::new(
            &[EVENT, (TYPE, &["tier-event"])],
            Kind::QualityOrAccount,
            TIER,
        ),
        Shape::new(
            &[EVENT, (TYPE, &["capability-event"])],
            Kind::Capability,
            CAPABILITY,
        ),
    ],
    ..Provider::POST_WITH_TOKEN
};

const EVENT: (&[&str], &[&str]) = (&["type"], &["account-event"]);
const TYPE: &[&str] = &["payload.type"];
const TIER: Paths = Paths {
    waba_id: &["payload.payload.wabaId", "app"],
    time: &["timestamp"],
    phone_number: &["phone"],
    event: &["payload.payload.event"],
    current_limit: &["payload.payload.currentLimit"],
    old_limit: &["payload.payload.oldLimit"],
    ..Paths::NONE
};
const CAPABILITY: Paths = Paths {
    waba_id: TIER.waba_id,
    time: TIER.time,
    per_phone_limit: &["payload.payload.maxDailyConversationPerPhone"],
    max_per_business: &["payload.payload.maxPhoneNumbersPerBusiness"],
    ..Paths::NONE
};
