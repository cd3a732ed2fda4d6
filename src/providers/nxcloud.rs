//! NXCloud.
//!
//! Sources: NXCloud's callback pages "Number Sends Level Change Status Report Push" and "Waba
//! Exception Status Report Push", and the pages "phone webhook" and "template webhook" for the form
//! with a `value`, which is Meta's. A restriction is one object, not a list.

use super::{
    Example, Provider,
    shape::{Kind, Paths, Shape},
};
use crate::domain::ProviderName;

pub(super) static PROVIDER: Provider = Provider {
    name: ProviderName::new("nxcloud"),
    title: "NXCloud",
    setup: include_str!("nxcloud.md"),
    example: Example::Json(
        r#"{"appId":"lilin123","wabaId":"126627963872225","event":"ONBOARDING","field":"phone_number_quality_update","currentLimit":"TIER_1K","oldLimit":"TIER_NOT_SET","qualityRating":"GREEN","displayPhoneNumber":"91856321412"}"#,
    ),
    shapes: &[
        Shape::new(&[(FIELD, QUALITY)], Kind::Quality, AT),
        Shape::new(&[(FIELD, &["account_update"])], Kind::Account, AT),
        Shape::new(&[(FIELD, STATUS)], Kind::TemplateStatus, TEMPLATE),
        Shape::new(&[(FIELD, SCORE)], Kind::TemplateQuality, TEMPLATE),
    ],
    ..Provider::POST_WITH_TOKEN
};

const FIELD: &[&str] = &["field"];
const QUALITY: &[&str] = &["phone_number_quality_update"];
const STATUS: &[&str] = &["message_template_status_update"];
const SCORE: &[&str] = &["message_template_quality_update"];
const AT: Paths = Paths {
    waba_id: &["wabaId", "value.wabaId"],
    time: &["value.time"],
    phone_number: &["displayPhoneNumber", "value.display_phone_number"],
    event: &["event", "value.event"],
    account_event: &["event", "value.event"],
    portfolio_limit: &["value.max_daily_conversations_per_business"],
    current_limit: &["currentLimit", "value.current_limit"],
    old_limit: &["oldLimit", "value.old_limit"],
    rating: &["qualityRating"],
    restrictions: &["restrictions"],
    restriction: ["restriction_type", "expiration"],
    ban_state: &["ban_info.waba_ban_state", "value.ban_info.waba_ban_state"],
    violation: &["violation_info.violation_type"],
    ..Paths::NONE
};
const TEMPLATE: Paths = Paths {
    waba_id: &["value.wabaId"],
    time: &["value.time"],
    template_event: &["value.event"],
    template_id: &["value.message_template_id"],
    template_name: &["value.message_template_name"],
    template_language: &["value.message_template_language"],
    quality: &["value.new_quality_score"],
    ..Paths::NONE
};
