//! 8x8.
//!
//! Sources: 8x8's webhook pages "WhatsApp Phone Number Quality Change", "WhatsApp Account Update"
//! and "WhatsApp Template Change", and its "WhatsApp Webhooks Reference". All samples of a page share
//! one `eventId`, so the id alone does not tell deliveries apart.

use super::{
    Example, Provider,
    shape::{Kind, Paths, Shape},
};
use crate::domain::ProviderName;

pub(super) static PROVIDER: Provider = Provider {
    name: ProviderName::new("8x8"),
    title: "8x8",
    setup: include_str!("eight_by_eight.md"),
    example: Example::Json(
        r#"{"eventId":"0f88f5c4-fae7-4dcf-8ff2-b2990133edea","timestamp":"2025-01-01T00:00:00.00Z","businessAccountId":"950523421983857","eventType":"phone_number_quality_update","eventDetails":{"displayPhoneNumber":"15550783882","meta":{"event":"UPGRADE","currentLimit":"TIER_10K","oldLimit":"TIER_1K"}}}"#,
    ),
    shapes: &[
        Shape::new(&[(TYPE, QUALITY)], Kind::Quality, AT),
        Shape::new(&[(TYPE, &["account_update"])], Kind::Account, AT),
        Shape::new(&[(TYPE, STATUS_UPDATE)], Kind::TemplateStatus, AT),
        Shape::new(&[(TYPE, SCORE_UPDATE)], Kind::TemplateQuality, AT),
    ],
    ..Provider::POST_WITH_TOKEN
};

const TYPE: &[&str] = &["eventType"];
const QUALITY: &[&str] = &["phone_number_quality_update"];
const STATUS_UPDATE: &[&str] = &["template_status_update"];
const SCORE_UPDATE: &[&str] = &["template_quality_update"];
const AT: Paths = Paths {
    waba_id: &["businessAccountId"],
    delivery_id: &["eventId"],
    time: &["timestamp"],
    phone_number: &["eventDetails.displayPhoneNumber"],
    event: &["eventDetails.meta.event"],
    account_event: &["eventDetails.event"],
    template_event: &["eventDetails.meta.status"],
    portfolio_limit: &["eventDetails.meta.maxDailyConversationsPerBusiness"],
    current_limit: &["eventDetails.meta.currentLimit"],
    old_limit: &["eventDetails.meta.oldLimit"],
    restrictions: &["eventDetails.restrictionInfo[]"],
    restriction: ["restrictionType", "expiration"],
    ban_state: &["eventDetails.banInfo.wabaBanState"],
    violation: &["eventDetails.violationInfo.violationType"],
    template_id: &["eventDetails.templateId"],
    template_name: &["eventDetails.templateName"],
    template_language: &["eventDetails.templateLanguage"],
    quality: &["eventDetails.meta.newQualityScore"],
    ..Paths::NONE
};
