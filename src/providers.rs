//! Who sends webhooks, and what theirs mean.
//!
//! A provider is one file, its `mod` line and its entry in [`ALL`]. Routes, flags, label values,
//! zero-initialised metrics and the fixture tests derive from that list. Nothing here does I/O.

mod eight_by_eight;
mod fields;
mod innopaas;
mod kaleyra;
mod meta;

use std::fmt;

use hyper::Method;
use smallvec::SmallVec;

use crate::domain::{Change, InvalidKey};

/// Every provider, in the order of the documentation.
pub const ALL: &[&dyn Provider] = &[
    &meta::Meta,
    &eight_by_eight::EightByEight,
    &innopaas::Innopaas,
    &kaleyra::Kaleyra,
];

/// One sender of webhooks.
pub trait Provider: Sync {
    /// The label value, the last part of the path `/webhooks/NAME` and the first part of the flags.
    fn name(&self) -> &'static str;

    /// The name as its owner writes it.
    fn title(&self) -> &'static str;

    /// The methods with which it delivers.
    fn methods(&self) -> &'static [Method];

    /// How it proves who it is.
    fn auth(&self) -> Auth;

    /// Reads a delivery. Pure: the same bytes give the same answer.
    ///
    /// # Errors
    ///
    /// Only where the request is not what the provider sends at all; one bad change among good ones
    /// is counted in [`Parsed`].
    fn parse(&self, delivery: &Delivery<'_>) -> Result<Parsed, ParseError>;

    /// What to enter in its console, in Markdown; `HOST` stands for the address of the webhook listener.
    fn setup(&self) -> &'static str;

    /// A delivery as the provider documents it, for the quick start: the request's query, or its body.
    fn example(&self) -> Example;
}

/// How a provider proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// `X-Hub-Signature-256`, an HMAC-SHA256 over the raw body, and a handshake by `GET`.
    Signature,
    /// A token in `Authorization` or as the last path segment.
    Token,
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
    /// An id or a phone number sent as a JSON number has a sign, a fraction or an exponent: rounded or not, it would be
    /// another one's.
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

impl fmt::Debug for dyn Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
