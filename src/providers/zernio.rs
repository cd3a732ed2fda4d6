//! Zernio.
//!
//! Sources: Zernio's schemas `WebhookPayloadWhatsAppAccountQualityUpdated` and
//! `WebhookPayloadWhatsAppAccountStatusUpdated`. Its account is the one at Zernio, and not WhatsApp's:
//! it stands for that one where there is no number. The generated reference shows names with
//! underscores, which deliveries do not have.

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
        r#"{"id":"665f1c2e8b3a4d0012345678","event":"whatsapp.account.quality_updated","account":{"accountId":"64e1f0a2c9b7d80012345678","profileId":"64e1f0a2c9b7d80087654321","platform":"whatsapp","username":"+1 555-078-3881"},"quality":{"source":"phone_number_quality_update","metaEvent":"FLAGGED","qualityRating":"RED","previousQualityRating":"GREEN","messagingLimitTier":"TIER_2K","previousMessagingLimitTier":"TIER_10K","displayPhoneNumber":"+1 555-078-3881"},"timestamp":"2026-01-05T10:00:00.000Z"}"#,
    ),
    shapes: &[
        Shape::new(&[(SOURCE, QUALITY)], Kind::Quality, AT),
        Shape::new(&[(&["event"], STATUS)], Kind::Account, OF_ACCOUNT),
    ],
    ..Provider::POST_WITH_TOKEN
};

const SOURCE: &[&str] = &["quality.source"];
const QUALITY: &[&str] = &["phone_number_quality_update"];
const STATUS: &[&str] = &["whatsapp.account.status_updated"];
const AT: Paths = Paths {
    delivery_id: &["id"],
    time: &["timestamp"],
    phone_number: &["quality.displayPhoneNumber", "quality.display_phone_number"],
    event: &["quality.metaEvent", "quality.meta_event"],
    current_limit: &["quality.messagingLimitTier", "quality.messaging_limit_tier"],
    old_limit: &[
        "quality.previousMessagingLimitTier",
        "quality.previous_messaging_limit_tier",
    ],
    rating: &["quality.qualityRating", "quality.quality_rating"],
    ..Paths::NONE
};
const OF_ACCOUNT: Paths = Paths {
    waba_id: &["account.accountId"],
    account_event: &["status.metaEvent"],
    restrictions: &["status.restrictions[]"],
    restriction: ["type", "expiresAt"],
    ban_state: &["status.banState"],
    violation: &["status.violationType"],
    ..AT
};
