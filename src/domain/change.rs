//! What one change of a webhook says, and what tells one delivery from another.

use std::fmt;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

use super::{
    AccountEvent, AccountKey, AlertSeverity, BanState, EventKind, MessagingLimit, PhoneNumber,
    QualityRating, Restriction, RestrictionEnd, TemplateEvent, TemplateId, TemplateQuality,
    Timestamp, vocabulary::vocabulary,
};

/// What one change of a webhook says.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The account that it names.
    pub account: AccountKey,
    /// When the provider says it happened; `None` where it says nothing readable.
    pub time: Option<Timestamp>,
    /// What tells this delivery from another; `None` where it has neither an id nor a time.
    pub identity: Option<Identity>,
    /// Values that this version does not know.
    pub unknown: Vec<UnknownValue>,
    /// What happened.
    pub kind: ChangeKind,
}

/// What happened, by the kind of webhook.
#[derive(Clone, Debug, PartialEq)]
pub enum ChangeKind {
    /// An event of a phone number (Meta's `phone_number_quality_update`).
    PhoneNumberQuality {
        /// The number.
        phone_number: PhoneNumber,
        /// The event; `None` where the provider only observed the number's state.
        event: Option<EventKind>,
        /// The limit that it carries, where that is usable.
        limit: Option<ReportedLimit>,
        /// The limit before, as the provider knows it.
        old_limit: Option<MessagingLimit>,
        /// The rating, where one is reported; within, `None` where the number has no rating.
        rating: Option<Option<QualityRating>>,
    },
    /// What an account may do (Meta's `business_capability_update`).
    AccountCapability {
        /// The event of its limit; `None` where the provider names none, as Meta.
        event: Option<EventKind>,
        /// The portfolio's limit, where it carries a usable one.
        limit: Option<MessagingLimit>,
        /// The limit before, as the provider knows it.
        old_limit: Option<MessagingLimit>,
        /// How many phone numbers there may be.
        max_phone_numbers: MaxPhoneNumbers,
    },
    /// An event of an account (Meta's `account_update`).
    Account {
        /// The event.
        event: AccountEvent,
        /// What is restricted until when; empty where all restrictions are lifted, `None` where
        /// nothing is said of them.
        restrictions: Option<Vec<(Restriction, RestrictionEnd)>>,
        /// Whether the account is disabled.
        ban_state: Option<BanState>,
    },
    /// An alert about an account (Meta's `account_alerts`).
    AccountAlert(AlertSeverity),
    /// What became of a template (Meta's `message_template_status_update`).
    TemplateStatus {
        /// The template; `None` where nothing names it.
        template: Option<TemplateId>,
        /// The event.
        event: TemplateEvent,
    },
    /// The quality of a template (Meta's `message_template_quality_update`).
    TemplateQuality {
        /// The template; `None` where nothing names it.
        template: Option<TemplateId>,
        /// The new quality.
        quality: TemplateQuality,
    },
}

/// A limit and what it applies to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReportedLimit {
    /// The limit.
    pub limit: MessagingLimit,
    /// What it applies to.
    pub scope: LimitScope,
}

/// What a limit applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitScope {
    /// The phone number alone.
    PhoneNumber,
    /// The business portfolio, and so every phone number of the account.
    Portfolio,
}

/// A value that a provider sent and this version does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownValue {
    /// Where it stood.
    pub field: UnknownField,
    /// As it is safe to log.
    pub value: SmolStr,
}

vocabulary! {
    /// Where an unknown value stood.
    UnknownField {
        /// In the place of a quality event's name.
        Event = "event",
        /// In the place of a limit.
        Limit = "limit",
        /// In the place of an account event's name.
        AccountEvent = "account_event",
        /// In the place of a restriction's type.
        Restriction = "restriction",
        /// In the place of an account's ban state.
        BanState = "ban_state",
        /// In the place of an alert's severity.
        Severity = "severity",
        /// In the place of a template event's name.
        TemplateEvent = "template_event",
        /// In the place of a template's quality.
        Quality = "quality",
    }
}

/// How many phone numbers there may be. Meta sends one scope or the other, never both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaxPhoneNumbers {
    /// In the whole business portfolio.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub business: Option<u64>,
    /// In the WhatsApp Business Account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waba: Option<u64>,
}

impl Change {
    /// When it happened, where the provider says a time that can be believed at `received`.
    pub fn happened(&self, received: Timestamp) -> Option<Timestamp> {
        self.time.filter(|time| !time.is_ahead_of(received))
    }
}

impl UnknownValue {
    const MAX_CHARACTERS: usize = 64;
    /// Shorter numbers do not exist: E.164 with a country code.
    const DIGITS_OF_A_NUMBER: usize = 7;

    /// Takes what stood there: its printable characters, at most 64 of them. Where it has as many
    /// digits as a phone number or an id, each digit is masked, because these are personal data.
    pub fn new(field: UnknownField, text: &str) -> Self {
        let printable = text
            .chars()
            .filter(|c| is_printable(*c))
            .take(Self::MAX_CHARACTERS);
        let is_number =
            printable.clone().filter(|c| c.is_numeric()).count() >= Self::DIGITS_OF_A_NUMBER;
        let value = printable
            .map(|c| if is_number && c.is_numeric() { '*' } else { c })
            .collect();
        Self { field, value }
    }
}

fn is_printable(c: char) -> bool {
    use GeneralCategory::{Format, LineSeparator, ParagraphSeparator, PrivateUse, Unassigned};
    !c.is_control()
        && !matches!(
            c.general_category(),
            Format | LineSeparator | ParagraphSeparator | PrivateUse | Unassigned
        )
}

/// A short hash of what a delivery said: the first 8 bytes of a SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity([u8; 8]);

impl Identity {
    /// Hashes the parts so that no two lists of parts run together.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        // One digest of one text is quicker than a digest fed in parts.
        let mut text = Vec::with_capacity(256);
        for part in parts {
            // No body has parts of 4 GiB.
            text.extend_from_slice(&(part.len() as u32).to_be_bytes());
            text.extend_from_slice(part);
        }
        let hash = digest::digest(&digest::SHA256, &text);
        Self(hash.as_ref().first_chunk().copied().unwrap_or_default())
    }

    /// The hash.
    pub const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_value_is_printable_short_and_no_number() {
        for (text, want) in [
            ("RESTRICTED", "RESTRICTED"),
            ("TIER_3X", "TIER_3X"),
            ("é 😀", "é 😀"),
            ("a\nb\u{200e}c\u{2028}d\u{1b}[0m", "abcd[0m"),
            ("+1 555-078-3881", "+* ***-***-****"),
            ("١٥٥٥٠٧٨٣٨٨١", "***********"),
            ("123456", "123456"),
        ] {
            assert_eq!(
                UnknownValue::new(UnknownField::Event, text).value,
                want,
                "{text:?}"
            );
        }
        assert_eq!(
            UnknownValue::new(UnknownField::Limit, &"é".repeat(100)).value,
            "é".repeat(64)
        );
    }

    #[test]
    fn parts_do_not_run_together() {
        let identity = |parts: &[&str]| Identity::of(parts.iter().map(|part| part.as_bytes()));
        assert_ne!(identity(&["12", "345"]), identity(&["123", "45"]));
        assert_ne!(identity(&["a"]), identity(&["a", ""]));
        assert_eq!(identity(&["a", "b"]), identity(&["a", "b"]));
    }
}
