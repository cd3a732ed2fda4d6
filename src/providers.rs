//! The senders of webhooks, and what theirs mean.
//!
//! A provider is a file with a constant and a function, its line in the list below, and a folder
//! of fixtures. Routes, flags, label values, metrics that exist from the start, authentication and
//! documentation derive from that list. Nothing here does I/O.

mod envelope;
mod form;
mod health;
mod json;
mod quality;
mod sample;
mod shape;
mod sns;

use std::fmt;

use hyper::Method;
use smallvec::SmallVec;

use crate::domain::{Change, InvalidKey, ProviderName, Timestamp};
use shape::Shape;

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
    relay,
    wati,
    nxcloud,
    ycloud,
    gupshup,
    telnyx,
    zernio,
    acl,
    aws,
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
    /// The kinds of change that it sends, where they are read by their shapes.
    shapes: &'static [Shape],
    /// Writes a delivery as the provider documents it; `None` where it documents none of that kind.
    write: fn(&Self, &Sample) -> Option<Message>,
    /// Reads a delivery.
    read: fn(&Self, &Delivery<'_>) -> Result<Parsed, ParseError>,
}

/// How a delivery proves that it is the provider's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// By a signature.
    Signature(Signature),
    /// By a token of the operator's choice, in `Authorization` or as the last segment of the path.
    Token,
    /// By either of them.
    SignatureOrToken(Signature),
}

/// An HMAC-SHA256 in hex digits, with a secret that the provider and the operator share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The header that holds it, in lower case.
    pub header: &'static str,
    /// How it stands there, and what is signed.
    pub form: SignatureForm,
    /// The kind of the secret.
    pub secret: SecretKind,
}

/// How a signature stands in its header, and what is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureForm {
    /// The digits after this prefix; the raw body is signed.
    Prefixed(&'static str),
    /// `t=SECONDS,s=DIGITS`; the text `SECONDS.BODY` is signed.
    Timed,
}

/// What a secret is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretKind {
    /// With it Meta signs its webhooks.
    AppSecret,
    /// With it another provider signs its webhooks.
    SigningSecret,
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
    /// An address of the provider that a person must open once, before it delivers anything.
    pub subscribe_url: Option<String>,
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

    /// The same, or [`Parsed::nothing`] where it is empty.
    fn or_nothing(self) -> Self {
        match self == Self::default() {
            true => Self::nothing(),
            false => self,
        }
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
        shapes: &[],
        write: shape::write,
        read: shape::read,
    };

    /// Writes a delivery as the provider documents it; `None` where it documents none of that kind.
    pub fn write(&self, sample: &Sample) -> Option<Message> {
        (self.write)(self, sample)
    }

    /// Reads a delivery. Pure: the same bytes give the same answer.
    ///
    /// # Errors
    ///
    /// Only where the request is not what the provider sends at all; one bad change among good ones
    /// is counted in [`Parsed`].
    pub fn parse(&self, delivery: &Delivery<'_>) -> Result<Parsed, ParseError> {
        (self.read)(self, delivery)
    }

    /// The secrets that the operator shares with it; each but a verify token proves webhooks.
    pub fn secrets(&self) -> impl Iterator<Item = SecretKind> {
        let signing = self.proof.signature().map(|signature| signature.secret);
        let token = self.proof.takes_token().then_some(SecretKind::Token);
        let asking = self.handshake.then_some(SecretKind::VerifyToken);
        [signing, token, asking].into_iter().flatten()
    }
}

impl Proof {
    /// The signature, where one proves a delivery.
    pub const fn signature(&self) -> Option<&Signature> {
        match self {
            Self::Signature(signature) | Self::SignatureOrToken(signature) => Some(signature),
            Self::Token => None,
        }
    }

    /// Whether a token proves a delivery.
    pub const fn takes_token(&self) -> bool {
        matches!(self, Self::Token | Self::SignatureOrToken(_))
    }
}

impl SignatureForm {
    /// What is signed before the body, and the hex digits; `None` where the value is not of this
    /// form.
    pub(crate) fn read(self, value: &[u8]) -> Option<(Vec<u8>, &[u8])> {
        match self {
            Self::Prefixed(prefix) => Some((Vec::new(), value.strip_prefix(prefix.as_bytes())?)),
            Self::Timed => {
                let mut parts = value.split(|byte| *byte == b',');
                let seconds = parts.next()?.strip_prefix(b"t=")?;
                let digits = parts.next()?.strip_prefix(b"s=")?;
                let is_time = !seconds.is_empty() && seconds.iter().all(u8::is_ascii_digit);
                (is_time && parts.next().is_none()).then(|| ([seconds, b"."].concat(), digits))
            }
        }
    }

    /// What is signed before the body, and the value of the header with these digits.
    pub(crate) fn write(self, at: Timestamp) -> (String, impl Fn(&str) -> String) {
        let seconds = at.as_seconds().trunc() as u64;
        let signed = match self {
            Self::Prefixed(_) => String::new(),
            Self::Timed => format!("{seconds}."),
        };
        (signed, move |digits: &str| match self {
            Self::Prefixed(prefix) => format!("{prefix}{digits}"),
            Self::Timed => format!("t={seconds},s={digits}"),
        })
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
