//! Gupshup.
//!
//! Sources: Gupshup's pages "System events" and "Webhooks". What is read names an app, no account.

use super::{
    Example, Provider,
    shape::{Condition, Kind, Paths, Shape},
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
        Shape::new(&[EVENT, TIER], Kind::QualityOrAccount, AT),
        Shape::new(&[EVENT, CAPABILITIES], Kind::Capability, CAPABILITY),
        Shape::new(VIOLATED, Kind::Account, AT.implying("ACCOUNT_VIOLATION")),
        Shape::new(BARRED, Kind::Account, AT.implying("ACCOUNT_RESTRICTION")),
        Shape::new(BANNED, Kind::Account, BAN.implying("DISABLED_UPDATE")),
    ],
    ..Provider::POST_WITH_TOKEN
};

const EVENT: Condition = (&["type"], &["account-event"]);
const TIER: Condition = (&["payload.type"], &["tier-event"]);
const CAPABILITIES: Condition = (&["payload.type"], &["capability-event"]);
const STATUS: Condition = (&["payload.type"], &["status-event"]);
const IS: &[&str] = &["payload.payload.status"];
const VIOLATED: &[Condition] = &[EVENT, STATUS, (IS, &["ACCOUNT_VIOLATION"])];
const BARRED: &[Condition] = &[EVENT, STATUS, (IS, &["ACCOUNT_RESTRICTED"])];
const BANNED: &[Condition] = &[EVENT, STATUS, (IS, BANS)];
const BANS: &[&str] = &["DISABLE", "ACCOUNT_DISABLE", "REINSTATE"];
const AT: Paths = Paths {
    waba_id: &["payload.payload.wabaId", "app"],
    time: &["timestamp"],
    phone_number: &["phone"],
    event: &["payload.payload.event"],
    account_event: IS,
    current_limit: &["payload.payload.currentLimit"],
    old_limit: &["payload.payload.oldLimit"],
    restrictions: &["payload.payload.restrictionInfo[]"],
    restriction: ["restrictionType", "expiration"],
    violation: &["payload.payload.violation_type"],
    ..Paths::NONE
};
const BAN: Paths = Paths {
    ban_state: IS,
    ..AT
};
const CAPABILITY: Paths = Paths {
    waba_id: AT.waba_id,
    time: AT.time,
    per_phone_limit: &["payload.payload.maxDailyConversationPerPhone"],
    max_per_business: &["payload.payload.maxPhoneNumbersPerBusiness"],
    ..Paths::NONE
};
