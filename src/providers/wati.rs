//! Wati.
//!
//! Sources: Wati's webhook pages "Phone Number Quality Update Event", "Business Capability Updated",
//! "WABA Account Content Updated" and "WABA Account Deleted". Its older page names the first kind
//! otherwise than its newer one, whose example has no event.

use super::{
    Example, Provider,
    shape::{Kind, Paths, Shape},
};
use crate::domain::ProviderName;

pub(super) static PROVIDER: Provider = Provider {
    name: ProviderName::new("wati"),
    title: "Wati",
    setup: include_str!("wati.md"),
    example: Example::Json(
        r#"{"eventType":"PhoneNumberQualityUpdatedEvent","phoneNumber":"12177593225","event":"THROUGHPUT_UPGRADE","currentLimit":"TIER_UNLIMITED","oldLimit":"","channelId":null,"channelPhoneNumber":"17735704742"}"#,
    ),
    shapes: &[
        Shape::new(&[(TYPE, QUALITY)], Kind::QualityOrObservation, AT),
        Shape::new(&[(TYPE, CAPABILITIES)], Kind::Capability, CAPABILITY),
        Shape::new(&[(TYPE, &["accountUpdated"])], Kind::Account, AT),
        Shape::new(&[(TYPE, &["accountDeleted"])], Kind::Account, DELETED),
    ],
    ..Provider::POST_WITH_TOKEN
};

const TYPE: &[&str] = &["eventType"];
const CAPABILITIES: &[&str] = &["businessCapabilityUpdated"];
const QUALITY: &[&str] = &[
    "phoneNumberQualityUpdated",
    "PhoneNumberQualityUpdatedEvent",
];
const AT: Paths = Paths {
    waba_id: &["wabaId"],
    phone_number: &["phoneNumber"],
    event: &["event"],
    account_event: &["event"],
    portfolio_limit: &["businessCurrentMessagingLimit"],
    current_limit: &["currentLimit"],
    old_limit: &["oldLimit"],
    restrictions: &["restriction_info[]"],
    restriction: ["restriction_type", "expiration"],
    ban_state: &["banInfo.waba_ban_state"],
    violation: &["violationInfo.violation_type"],
    ..Paths::NONE
};
const CAPABILITY: Paths = Paths {
    waba_id: &["wabaId"],
    portfolio_limit: &["maxDailyConversationsPerBusiness"],
    per_phone_limit: &["maxDailyConversationPerPhone"],
    max_per_business: &["maxPhoneNumbersPerBusiness"],
    max_per_waba: &["maxPhoneNumbersPerWaba"],
    ..Paths::NONE
};
const DELETED: Paths = Paths {
    implied_event: "ACCOUNT_DELETED",
    ..AT
};
