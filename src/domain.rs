//! The vocabulary: what a webhook can say, in types that can only be built valid.
//!
//! Nothing here knows a provider, a socket or a clock.

mod change;
mod event;
mod health;
mod key;
mod limit;
mod name;
mod provider;
mod pseudonym;
mod time;
mod vocabulary;

pub use change::{
    Change, ChangeKind, Identity, LimitScope, MaxPhoneNumbers, ReportedLimit, UnknownField,
    UnknownValue,
};
pub use event::{EventKind, EventName};
pub use health::{
    AccountEvent, AlertSeverity, BanState, QualityRating, Restriction, RestrictionEnd,
    TemplateEvent, TemplateId, TemplateQuality,
};
pub use key::{AccountKey, InvalidKey, NumberKey, PhoneNumber, WabaId};
pub use limit::{Direction, MessagingLimit};
pub use name::{DisplayName, InvalidName};
pub use provider::ProviderName;
pub use pseudonym::{NumberPrivacy, Pseudonyms};
pub use time::Timestamp;
pub use vocabulary::Vocabulary;
