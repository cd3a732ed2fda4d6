//! Telnyx.
//!
//! Source: Telnyx' guide to WhatsApp. It sends ratings and no limits, so each is an observation; its
//! event of a restricted account has a ban state.

use super::{
    Example, Provider,
    shape::{Kind, Paths, Shape},
};
use crate::domain::ProviderName;

pub(super) static PROVIDER: Provider = Provider {
    name: ProviderName::new("telnyx"),
    title: "Telnyx",
    setup: include_str!("telnyx.md"),
    example: Example::Json(
        r#"{"data":{"event_type":"whatsapp.phone_number.quality_changed","id":"7c1d7c3e-0000-4000-8000-000000000001","occurred_at":"2025-01-05T10:00:00.000Z","record_type":"event","payload":{"record_type":"whatsapp_phone_number","phone_number":"+19455550001","previous_quality_rating":"GREEN","new_quality_rating":"YELLOW","waba_id":"524126980791429"}}}"#,
    ),
    shapes: &[
        Shape::new(&[(TYPE, QUALITY)], Kind::QualityOrObservation, AT),
        Shape::new(
            &[(TYPE, &["whatsapp.account.restricted"])],
            Kind::Account,
            RESTRICTED,
        ),
    ],
    ..Provider::POST_WITH_TOKEN
};

const TYPE: &[&str] = &["data.event_type", "event_type"];
const QUALITY: &[&str] = &["whatsapp.phone_number.quality_changed"];
const AT: Paths = Paths {
    waba_id: &["data.payload.waba_id", "payload.waba_id"],
    delivery_id: &["data.id", "id"],
    time: &["data.occurred_at", "occurred_at"],
    phone_number: &["data.payload.phone_number", "payload.phone_number"],
    rating: &[
        "data.payload.new_quality_rating",
        "payload.new_quality_rating",
    ],
    ..Paths::NONE
};
const RESTRICTED: Paths = Paths {
    implied_event: "ACCOUNT_RESTRICTION",
    ban_state: &[
        "data.payload.ban_info.waba_ban_state",
        "payload.ban_info.waba_ban_state",
    ],
    ..AT
};
