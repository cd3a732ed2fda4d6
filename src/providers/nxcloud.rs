//! NXCloud.
//!
//! Sources: NXCloud's callback pages "Number Sends Level Change Status Report Push" and "Waba
//! Exception Status Report Push", and the page "phone webhook" for the form with a `value`. A
//! restriction is one object, not a list.

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
        Shape::new(
            &[(FIELD, &["phone_number_quality_update"])],
            Kind::Quality,
            AT,
        ),
        Shape::new(&[(FIELD, &["account_update"])], Kind::Account, AT),
    ],
    ..Provider::POST_WITH_TOKEN
};

const FIELD: &[&str] = &["field"];
const AT: Paths = Paths {
    waba_id: &["wabaId", "value.wabaId"],
    time: &["value.time"],
    phone_number: &["displayPhoneNumber"],
    event: &["event", "value.event"],
    account_event: &["event", "value.event"],
    current_limit: &["currentLimit"],
    old_limit: &["oldLimit"],
    rating: &["qualityRating"],
    restrictions: &["restrictions"],
    restriction: ["restriction_type", "expiration"],
    ban_state: &["ban_info.waba_ban_state", "value.ban_info.waba_ban_state"],
    violation: &["violation_info.violation_type"],
    ..Paths::NONE
};
