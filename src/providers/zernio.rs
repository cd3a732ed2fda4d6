//! Zernio.
//!
//! Source: Zernio's schema of the webhook of a WhatsApp account's quality. It names no account, no
//! time and no id, so every delivery counts.

use super::{
    Example, Provider,
    shape::{Kind, Paths, Shape},
};
use crate::domain::ProviderName;

pub(super) static PROVIDER: Provider = Provider {
    name: ProviderName::new("zernio"),
    title: "Zernio",
    setup: include_str!("zernio.md"),
    example: Example::Json(
        r#"{"quality":{"source":"phone_number_quality_update","meta_event":"FLAGGED","quality_rating":"RED","previous_quality_rating":"GREEN","messaging_limit_tier":"TIER_2K","previous_messaging_limit_tier":"TIER_10K","display_phone_number":"+1 555-078-3881"}}"#,
    ),
    shapes: &[Shape::new(
        &[(SOURCE, &["phone_number_quality_update"])],
        Kind::Quality,
        AT,
    )],
    ..Provider::POST_WITH_TOKEN
};

const SOURCE: &[&str] = &["quality.source"];
const AT: Paths = Paths {
    phone_number: &["quality.display_phone_number"],
    event: &["quality.meta_event"],
    current_limit: &["quality.messaging_limit_tier"],
    old_limit: &["quality.previous_messaging_limit_tier"],
    rating: &["quality.quality_rating"],
    ..Paths::NONE
};
