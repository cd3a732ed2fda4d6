//! The senders of webhooks, and what theirs mean.
//!
//! A provider is a file with a constant and a function, its line in the list below, and a folder
//! of fixtures. Routes, flags, label values, metrics that exist from the start, authentication and
//! documentation derive from that list. Nothing here does I/O.

mod json;
mod quality;
mod sample;

use std::fmt;

use hyper::Method;
use smallvec::SmallVec;

use crate::domain::{Change, InvalidKey, ProviderName};

pub use sample::{Message, Sample, SampleKind};

/// Declares the module of each provider, and the list of all.
macro_rules! providers {
    ($($module:ident),* $(,)?) => {
        $(mod $module;)*

        /// Every provider, in the order of the documentation.
        pub static ALL: &[&Provider] = &[$(&$module::PROVIDER),*];
    };
}

providers! {
    meta,
    eight_by_eight,
    innopaas,
    kaleyra,
}

/// One sender of webhooks.
pub struct Provider {
    /// The label value, the last part of the path `/webhooks/NAME`, the first part of the flags.
    pub name: ProviderName,
    /// The name as its owner writes it.
    pub title: &'static str,
    /// The methods with which it delivers.
    pub methods: &'static [Method],
    /// How a delivery proves that it is the provider's.
    pub proof: Proof,
    /// Whether a `GET` with `hub.challenge` asks for proof that the endpoint is the operator's
    /// (Meta's "Verification Requests").
    pub handshake: bool,
    /// What to do in its console, how it repeats, and what it does not send, in Markdown; `HOST` stands
    /// for the webhook listener's address.
    pub setup: &'static str,
    /// A delivery as the provider documents it.
    pub example: Example,
    /// Writes a delivery as the provider documents it; `None` where it documents none of that kind.
    pub write: fn(&Sample) -> Option<Message>,
    /// Reads a delivery of the provider of this name.
    read: fn(ProviderName, &Delivery<'_>) -> Result<Parsed, ParseError>,
}

/// How a delivery proves that it is the provider's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// An HMAC-SHA256 over the raw body, in hex digits after a prefix, with a secret that the
    /// provider gives the operator.
    Hmac {
        /// The header that holds it, in lower case.
        header: &'static str,
        /// What stands before the digits.
        prefix: &'static str,
    },
    /// A token of the operator's choice, in `Authorization` or as the last segment of the path.
    Token,
}

/// What a secret is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretKind {
    /// With it the provider signs its webhooks.
    AppSecret,
    /// It proves a webhook.
    Token,
    /// With it a handshake asks; it proves no webhook.
    VerifyToken,
}

/// A request of a provider, authentic and whole.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// One of [`Provider::methods`].
    pub method: &'a Method,
    /// The raw query string, without the `?`.
    pub query: &'a str,
    /// The header `Content-Type`; empty where there is none.
    pub content_type: &'a [u8],
    /// The raw body.
    pub body: &'a [u8],
}

/// A documented delivery.
#[derive(Clone, Copy, Debug)]
pub enum Example {
    /// A `GET` with this query.
    Query(&'static str),
    /// A `POST` of this JSON.
    Json(&'static str),
}

/// What a delivery holds.
#[derive(Debug, Default, PartialEq)]
pub struct Parsed {
    /// The changes, in their order; nearly always one.
    pub changes: SmallVec<[Change; 1]>,
    /// Changes of no interest: messages, templates and the like.
    pub ignored: u64,
    /// Samples sent with the provider's test button.
    pub test: u64,
    /// Changes that mean a quality event or a limit and are not readable as one.
    pub invalid: u64,
    /// Why the first of those is not.
    pub first_invalid: Option<InvalidChange>,
}

/// Why a change cannot be used; the sender is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidChange {
    /// A list, an object or a value is of another JSON type.
    #[error("a part of it is not of the documented JSON type")]
    Shape,
    /// An id or a phone number sent as a JSON number has a sign, a fraction or an exponent: rounded
    /// or not, it would be another one's.
    #[error("an id or a phone number is a JSON number that is not plain digits")]
    NotPlainDigits,
    /// The phone number or the account id is not one.
    #[error(transparent)]
    Key(#[from] InvalidKey),
}

/// Why a request is not what the provider sends; the sender is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// The body is not JSON.
    #[error("the body is not JSON in UTF-8")]
    NotJson,
    /// The body is JSON, but not an object.
    #[error("the body is JSON, but not an object")]
    NotAnObject,
}

impl Parsed {
    fn push(&mut self, change: Result<Change, InvalidChange>) {
        match change {
            Ok(change) => self.changes.push(change),
            Err(reason) => self.invalid(reason),
        }
    }

    /// Counts values that stand in the place of an object or a list.
    fn invalid_shapes(&mut self, values: u64) {
        self.invalid += values;
        if values > 0 {
            self.first_invalid.get_or_insert(InvalidChange::Shape);
        }
    }

    fn invalid(&mut self, reason: InvalidChange) {
        self.invalid += 1;
        self.first_invalid.get_or_insert(reason);
    }

    /// A delivery that holds nothing of interest.
    fn nothing() -> Self {
        Self {
            ignored: 1,
            ..Self::default()
        }
    }

    /// A delivery of a single change.
    fn one(change: Result<Change, InvalidChange>) -> Self {
        let mut parsed = Self::default();
        parsed.push(change);
        parsed
    }
}

impl Provider {
    /// The usual case: JSON by `POST`, proven by a token.
    const POST_WITH_TOKEN: Self = Self {
        name: ProviderName::new(""),
        title: "",
        methods: &[Method::POST],
        proof: Proof::Token,
        handshake: false,
        setup: "",
        example: Example::Json(""),
        write: |_| None,
        read: |_, _| Ok(Parsed::nothing()),
    };

    /// Reads a delivery. Pure: the same bytes give the same answer.
    ///
    /// # Errors
    ///
    /// Only where the request is not what the provider sends at all; one bad change among good ones
    /// is counted in [`Parsed`].
    pub fn parse(&self, delivery: &Delivery<'_>) -> Result<Parsed, ParseError> {
        (self.read)(self.name, delivery)
    }

    /// The secrets that the operator shares with it; the first proves webhooks.
    pub fn secrets(&self) -> impl Iterator<Item = SecretKind> {
        let proving = match self.proof {
            Proof::Hmac { .. } => SecretKind::AppSecret,
            Proof::Token => SecretKind::Token,
        };
        let asking = self.handshake.then_some(SecretKind::VerifyToken);
        std::iter::once(proving).chain(asking)
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name.as_str())
    }
}

/// The provider of that name.
pub fn by_name(name: &str) -> Option<&'static Provider> {
    ALL.iter()
        .find(|provider| provider.name.as_str() == name)
        .copied()
}
