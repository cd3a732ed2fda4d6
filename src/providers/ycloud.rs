//! YCloud.
//!
//! Sources: YCloud's webhook pages `whatsapp.phone_number.quality_updated` and
//! `whatsapp.business_account.updated`, and its guide on webhooks for the signature.

use super::{
    Example, Proof, Provider, SecretKind, Signature, SignatureForm,
    shape::{Kind, Paths, Shape},
};
use crate::domain::{AccountEvent, ProviderName};

pub(super) static PROVIDER: Provider = Provider {
    name: ProviderName::new("ycloud"),
    title: "YCloud",
    proof: Proof::SignatureOrToken(Signature {
        header: "ycloud-signature",
        form: SignatureForm::Timed,
        secret: SecretKind::SigningSecret,
    }),
    setup: include_str!("ycloud.md"),
    example: Example::Json(
        r#"{"id":"evt_eEVEk0NZ7FyJSkOk","type":"whatsapp.phone_number.quality_updated","apiVersion":"v2","createTime":"2025-01-05T10:00:00.000Z","whatsappPhoneNumber":{"id":"105954558954427","phoneNumber":"+15550783881","displayPhoneNumber":"+1 555-078-3881","wabaId":"126627963872225","qualityRating":"RED","messagingLimit":"TIER_1K","qualityUpdateEvent":"FLAGGED"}}"#,
    ),
    shapes: &[
        Shape::new(&[(TYPE, NUMBER)], Kind::QualityOrObservation, AT),
        Shape::new(&[(TYPE, NUMBER), EVENT], Kind::Account, AT),
        Shape::new(&[(TYPE, ACCOUNT)], Kind::Account, OF_ACCOUNT),
    ],
    ..Provider::POST_WITH_TOKEN
};

const TYPE: &[&str] = &["type"];
const NUMBER: &[&str] = &["whatsapp.phone_number.quality_updated"];
const ACCOUNT: &[&str] = &["whatsapp.business_account.updated"];
const UPDATE: &[&str] = &["whatsappPhoneNumber.updateEvent"];
const EVENT: (&[&str], &[&str]) = (UPDATE, AccountEvent::DOCUMENTED);
const AT: Paths = Paths {
    waba_id: &["whatsappPhoneNumber.wabaId"],
    delivery_id: &["id"],
    time: &["createTime"],
    phone_number: &[
        "whatsappPhoneNumber.phoneNumber",
        "whatsappPhoneNumber.displayPhoneNumber",
    ],
    event: &["whatsappPhoneNumber.qualityUpdateEvent"],
    account_event: UPDATE,
    portfolio_limit: &["whatsappPhoneNumber.whatsappBusinessManagerMessagingLimit"],
    current_limit: &["whatsappPhoneNumber.messagingLimit"],
    rating: &["whatsappPhoneNumber.qualityRating"],
    ..Paths::NONE
};
const OF_ACCOUNT: Paths = Paths {
    waba_id: &["whatsappBusinessAccount.id"],
    account_event: &["whatsappBusinessAccount.updateEvent"],
    restrictions: &["whatsappBusinessAccount.restrictions[]"],
    restriction: ["restrictionType", "expiration"],
    ban_state: &["whatsappBusinessAccount.banState"],
    violation: &["whatsappBusinessAccount.violationType"],
    ..AT
};
