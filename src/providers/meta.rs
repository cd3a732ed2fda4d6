//! Meta Cloud API.
//!
//! Sources: Meta's reference pages of its webhooks, which the envelope names.

use super::{Example, Proof, Provider, SecretKind, Signature, SignatureForm, envelope};
use crate::domain::ProviderName;

pub(super) static PROVIDER: Provider = Provider {
    name: ProviderName::new("meta"),
    title: "Meta Cloud API",
    proof: Proof::Signature(Signature {
        header: "x-hub-signature-256",
        form: SignatureForm::Prefixed("sha256="),
        secret: SecretKind::AppSecret,
    }),
    handshake: true,
    setup: include_str!("meta.md"),
    example: Example::Json(
        r#"{"object":"whatsapp_business_account","entry":[{"id":"102290129340398","time":1748454394,"changes":[{"field":"phone_number_quality_update","value":{"display_phone_number":"15550783881","event":"DOWNGRADE","old_limit":"TIER_10K","current_limit":"TIER_1K"}}]}]}"#,
    ),
    write: envelope::write,
    read: envelope::read,
    ..Provider::POST_WITH_TOKEN
};
