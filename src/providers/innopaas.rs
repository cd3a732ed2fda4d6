//! InnoPaaS.
//!
//! Sources: InnoPaaS' webhook pages "Number Quality Status" and "Template Status". Its samples mask
//! digits of the number and of the account. In one version of the page the sample of a
//! template's status has another type than the heading above it.

use super::{
    Example, Provider,
    shape::{Kind, Paths, Shape},
};
use crate::domain::ProviderName;

pub(super) static PROVIDER: Provider = Provider {
    name: ProviderName::new("innopaas"),
    title: "InnoPaaS",
    setup: include_str!("innopaas.md"),
    example: Example::Json(
        r#"{"id":"fd201190-50dc-4151-baec-1d16c8a704e1","type":"whatsapp_phone_number_quality_update","eventTime":"2023-10-16T13:04:57.644Z","body":{"messageLimit":"Unlimited","event":"THROUGHPUT_UPGRADE","displayPhoneNumber":"8613800000000","wabaId":"110129500080569"}}"#,
    ),
    shapes: &[
        Shape::new(&[(TYPE, QUALITY)], Kind::Quality, AT),
        Shape::new(&[(TYPE, STATUS)], Kind::TemplateStatus, AT),
        Shape::new(&[(TYPE, SCORE)], Kind::TemplateQuality, AT),
    ],
    ..Provider::POST_WITH_TOKEN
};

const TYPE: &[&str] = &["type"];
const QUALITY: &[&str] = &["whatsapp_phone_number_quality_update"];
const STATUS: &[&str] = &[
    "whatsapp_template_status_updated",
    "whatsapp_template_status_update",
];
const SCORE: &[&str] = &["message_template_quality_update"];
const AT: Paths = Paths {
    waba_id: &["body.wabaId"],
    delivery_id: &["id"],
    time: &["eventTime"],
    phone_number: &["body.displayPhoneNumber"],
    event: &["body.event"],
    template_event: &["body.templateStatus", "body.status", "body.event"],
    portfolio_limit: &["body.maxDailyConversationsPerBusiness"],
    current_limit: &["body.messageLimit"],
    old_limit: &["body.oldLimit"],
    template_id: &["body.templateId"],
    template_name: &["body.templateName"],
    template_language: &["body.templateLanguage"],
    quality: &["body.newQualityScore"],
    ..Paths::NONE
};
