//! The vocabularies of what happens to an account and to its templates, and the rating of a number.
//!
//! Sources: Meta's reference pages of the webhooks `account_update`, `account_alerts`,
//! `message_template_status_update` and `message_template_quality_update`.

use serde::{Deserialize, Serialize};

use super::{
    Identity, Timestamp,
    vocabulary::{Vocabulary, vocabulary},
};

vocabulary! {
    /// The kinds of account event (Meta's `account_update`).
    AccountEvent {
        /// The account was deleted.
        Deleted = "ACCOUNT_DELETED",
        /// The account was separated from the platform, such as by its owner's request.
        Offboarded = "ACCOUNT_OFFBOARDED",
        /// The account was connected to the platform again.
        Reconnected = "ACCOUNT_RECONNECTED",
        /// The account was restricted, or a restriction was lifted.
        Restriction = "ACCOUNT_RESTRICTION",
        /// The account violated a policy.
        Violation = "ACCOUNT_VIOLATION",
        /// The account was or will be disabled, or was reinstated.
        Disabled = "DISABLED_UPDATE",
        /// The account was verified.
        Verified = "VERIFIED_ACCOUNT",
        /// A documented event that says nothing of what the account may send.
        Other = "OTHER",
        /// A name that this version does not know, or none.
        Unknown = "UNKNOWN",
    }
}

vocabulary! {
    /// What an account must not do.
    Restriction {
        /// It must not add phone numbers.
        AddPhoneNumber = "RESTRICTED_ADD_PHONE_NUMBER_ACTION",
        /// It must not open conversations.
        BusinessInitiated = "RESTRICTED_BIZ_INITIATED_MESSAGING",
        /// It must not answer in conversations that customers opened.
        CustomerInitiated = "RESTRICTED_CUSTOMER_INITIATED_MESSAGING",
        /// A name that this version does not know, or none.
        Unknown = "UNKNOWN",
    }
}

vocabulary! {
    /// Whether an account is disabled (Meta's `waba_ban_state`).
    BanState {
        /// It is disabled.
        Disable = "DISABLE",
        /// It will be disabled.
        ScheduleForDisable = "SCHEDULE_FOR_DISABLE",
        /// It is not disabled any more.
        Reinstate = "REINSTATE",
    }
}

vocabulary! {
    /// How severe an account alert is.
    AlertSeverity {
        /// Critical.
        Critical = "CRITICAL",
        /// A warning.
        Warning = "WARNING",
        /// For information.
        Informational = "INFORMATIONAL",
        /// A name that this version does not know, or none.
        Unknown = "UNKNOWN",
    }
}

vocabulary! {
    /// What became of a template (Meta's `message_template_status_update`).
    TemplateEvent {
        /// It may be sent.
        Approved = "APPROVED",
        /// It was refused.
        Rejected = "REJECTED",
        /// It is under review.
        Pending = "PENDING",
        /// It must not be sent for a time, because of its quality.
        Paused = "PAUSED",
        /// It may be sent again.
        Unpaused = "UNPAUSED",
        /// It will be disabled unless its quality recovers.
        Flagged = "FLAGGED",
        /// It must not be sent any more.
        Disabled = "DISABLED",
        /// It may be sent again after it was disabled.
        Reinstated = "REINSTATED",
        /// It will be deleted.
        PendingDeletion = "PENDING_DELETION",
        /// It was deleted.
        Deleted = "DELETED",
        /// The account has as many templates as it may have.
        LimitExceeded = "LIMIT_EXCEEDED",
        /// The refusal is under appeal.
        InAppeal = "IN_APPEAL",
        /// A documented event that says nothing of whether it may be sent.
        Other = "OTHER",
        /// A name that this version does not know, or none.
        Unknown = "UNKNOWN",
    }
}

vocabulary! {
    /// The quality of a template.
    TemplateQuality {
        /// High.
        Green = "GREEN",
        /// Medium.
        Yellow = "YELLOW",
        /// Low.
        Red = "RED",
        /// Pending, as Meta documents it, or a name that this version does not know.
        Unknown = "UNKNOWN",
    }
}

vocabulary! {
    /// The quality rating of a phone number.
    QualityRating {
        /// High.
        Green = "GREEN",
        /// Medium.
        Yellow = "YELLOW",
        /// Low.
        Red = "RED",
    }
}

/// When a restriction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RestrictionEnd {
    /// At this time.
    At(Timestamp),
    /// Nothing says when.
    Never,
}

/// A template of an account: a short hash of its id, or else of its name and language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TemplateId([u8; 8]);

impl AccountEvent {
    /// Documented events that say nothing of what the account may send.
    const OTHERS: [&'static str; 6] = [
        "VOLUME_BASED_PRICING_TIER_UPDATE",
        "BUSINESS_VERIFICATION_STATUS_UPDATE",
        "MM_LITE_TERMS_SIGNED",
        "AD_ACCOUNT_LINKED",
        "BUSINESS_PRIMARY_LOCATION_COUNTRY_UPDATE",
        "AUTH_INTL_PRICE_ELIGIBILITY_UPDATE",
    ];
    /// The names that a provider documents of events that concern the account alone, one by one.
    pub const DOCUMENTED: &'static [&'static str] = {
        let [documented @ .., _other, _unknown] = &Self::NAMES;
        documented
    };
    /// What the names of events between an account and a partner begin with.
    const PARTNER: &'static str = "PARTNER_";

    /// Reads a name as a provider sends it; case does not matter.
    pub fn parse(name: &str) -> Self {
        match Self::find(name) {
            Some(event) if event != Self::Other => event,
            _ if Self::is_of_a_partner(name) || is_one_of(&Self::OTHERS, name) => Self::Other,
            _ => Self::Unknown,
        }
    }

    /// Whether a name is that of an event between an account and a partner.
    pub fn is_of_a_partner(name: &str) -> bool {
        let beginning = name.get(..Self::PARTNER.len());
        beginning.is_some_and(|beginning| beginning.eq_ignore_ascii_case(Self::PARTNER))
    }
}

impl Restriction {
    /// Gupshup's name of [`Self::AddPhoneNumber`].
    const ADD_PHONE_NUMBER: &'static str = "RESTRICTION_ADD_PHONE_NUMBER_ACTION";

    /// Reads a name as a provider sends it; case does not matter.
    pub fn parse(name: &str) -> Self {
        match is_one_of(&[Self::ADD_PHONE_NUMBER], name) {
            true => Self::AddPhoneNumber,
            false => Self::find(name).unwrap_or(Self::Unknown),
        }
    }
}

impl BanState {
    /// Gupshup's name of [`Self::Disable`], beside that one.
    const DISABLE: &'static str = "ACCOUNT_DISABLE";

    /// Reads a name as a provider sends it; case does not matter. `None` where it is not known.
    pub fn parse(name: &str) -> Option<Self> {
        match is_one_of(&[Self::DISABLE], name) {
            true => Some(Self::Disable),
            false => Self::find(name),
        }
    }
}

impl AlertSeverity {
    /// Reads a name as a provider sends it; case does not matter.
    pub fn parse(name: &str) -> Self {
        Self::find(name).unwrap_or(Self::Unknown)
    }
}

impl TemplateEvent {
    /// Documented events that say nothing of whether the template may be sent.
    const OTHERS: [&'static str; 4] = ["ARCHIVED", "UNARCHIVED", "LOCKED", "UNLOCKED"];

    /// Reads a name as a provider sends it; case does not matter.
    pub fn parse(name: &str) -> Self {
        match Self::find(name) {
            Some(event) if event != Self::Other => event,
            _ if is_one_of(&Self::OTHERS, name) => Self::Other,
            _ => Self::Unknown,
        }
    }

    /// Whether it stops the template, or starts it again; `None` where it does neither.
    pub const fn stopped(self) -> Option<bool> {
        match self {
            Self::Disabled | Self::PendingDeletion | Self::Deleted => Some(true),
            Self::Approved | Self::Reinstated | Self::Unpaused => Some(false),
            _ => None,
        }
    }
}

impl TemplateQuality {
    /// Reads a name as a provider sends it; case does not matter. `None` where it is not known.
    pub fn parse(name: &str) -> Option<Self> {
        Self::find(name)
    }
}

impl QualityRating {
    /// Reads a rating as a provider sends it; case does not matter. `None` where the number has
    /// none.
    pub fn parse(name: &str) -> Option<Self> {
        let other_names = [
            ("HIGH", Self::Green),
            ("MEDIUM", Self::Yellow),
            ("LOW", Self::Red),
        ];
        let mut other_names = other_names.into_iter();
        let is_named = |(other, _): &(&str, Self)| other.eq_ignore_ascii_case(name);
        Self::find(name).or_else(|| other_names.find(is_named).map(|(_, rating)| rating))
    }
}

impl TemplateId {
    /// The template with this id, or else with this name in this language; `None` where nothing
    /// names it.
    pub fn of(id: &str, name: &str, language: &str) -> Option<Self> {
        let identity = match (id, name) {
            ("", "") => return None,
            ("", name) => {
                let [name, language] = [name, language].map(str::to_ascii_lowercase);
                Identity::of([b"name", name.as_bytes(), language.as_bytes()])
            }
            (id, _) => Identity::of([b"id".as_slice(), id.as_bytes()]),
        };
        Some(Self(*identity.as_bytes()))
    }

    /// The template with this hash.
    pub const fn from_hash(hash: [u8; 8]) -> Self {
        Self(hash)
    }

    /// The hash.
    pub const fn as_hash(self) -> [u8; 8] {
        self.0
    }
}

fn is_one_of(names: &[&str], name: &str) -> bool {
    names.iter().any(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_account_events_are_read() {
        for (name, event) in [
            ("ACCOUNT_RESTRICTION", AccountEvent::Restriction),
            ("account_Violation", AccountEvent::Violation),
            ("PARTNER_ADDED", AccountEvent::Other),
            ("partner_of_tomorrow", AccountEvent::Other),
            ("AD_ACCOUNT_LINKED", AccountEvent::Other),
            ("OTHER", AccountEvent::Unknown),
            ("UNKNOWN", AccountEvent::Unknown),
            ("PARTNER", AccountEvent::Unknown),
            ("", AccountEvent::Unknown),
        ] {
            assert_eq!(AccountEvent::parse(name), event, "{name:?}");
        }
        for name in AccountEvent::DOCUMENTED {
            assert_eq!(AccountEvent::parse(name).as_str(), *name);
            assert_ne!(AccountEvent::parse(name), AccountEvent::Unknown);
        }
    }

    #[test]
    fn ratings_have_two_names_each() {
        for (name, rating) in [
            ("green", Some(QualityRating::Green)),
            ("HIGH", Some(QualityRating::Green)),
            ("Medium", Some(QualityRating::Yellow)),
            ("LOW", Some(QualityRating::Red)),
            ("UNKNOWN", None),
            ("NA", None),
            ("", None),
        ] {
            assert_eq!(QualityRating::parse(name), rating, "{name:?}");
        }
    }

    #[test]
    fn restrictions_and_ban_states_have_other_names() {
        for (name, restriction) in [
            (
                "restriction_add_phone_number_action",
                Restriction::AddPhoneNumber,
            ),
            (
                "RESTRICTED_ADD_PHONE_NUMBER_ACTION",
                Restriction::AddPhoneNumber,
            ),
            ("RESTRICTED_SOMETHING_NEW", Restriction::Unknown),
        ] {
            assert_eq!(Restriction::parse(name), restriction, "{name:?}");
        }
        for (name, state) in [
            ("Account_Disable", Some(BanState::Disable)),
            ("disable", Some(BanState::Disable)),
            ("ACCOUNT_REINSTATE", None),
        ] {
            assert_eq!(BanState::parse(name), state, "{name:?}");
        }
    }

    #[test]
    fn template_is_its_id_or_else_its_name_and_language() {
        let id = TemplateId::of("1", "a", "en");
        assert_eq!(id, TemplateId::of("1", "b", "de"));
        assert_ne!(id, TemplateId::of("", "1", ""));
        let named = TemplateId::of("", "a", "en_US");
        assert_eq!(named, TemplateId::of("", "A", "en_us"));
        assert_ne!(named, TemplateId::of("", "a", "de"));
        assert_eq!(TemplateId::of("", "", "en"), None);
    }
}
