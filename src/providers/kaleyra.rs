//! Kaleyra.
//!
//! Source: Kaleyra's webhook page; its table and its example name the parameters differently, and
//! the same URL receives incoming messages. It sends neither an id nor a time, so every delivery
//! counts.

use std::borrow::Cow;

use hyper::Method;

use super::{
    Delivery, Example, Message, ParseError, Parsed, Provider, Sample,
    json::{Scalar, read_fields},
    quality::QualityFields,
};
use crate::domain::ProviderName;

pub(super) static PROVIDER: Provider = Provider {
    name: ProviderName::new("kaleyra"),
    title: "Kaleyra",
    methods: &[Method::GET, Method::POST],
    setup: include_str!("kaleyra.md"),
    example: Example::Query(
        "display_phone_number=16505551111&event=FLAGGED&current_limit=TIER_10K",
    ),
    write,
    read,
    ..Provider::POST_WITH_TOKEN
};

fn write(sample: &Sample) -> Option<Message> {
    let (phone_number, _) = sample.quality()?;
    let mut fields = sample.fields("event", ["current_limit", "old_limit"]);
    fields.insert("display_phone_number".into(), phone_number.into());
    serde_urlencoded::to_string(fields).ok().map(Message::Query)
}

/// Kaleyra sends a form with a few pairs; those beyond are not read.
const MAX_PAIRS: usize = 1024;

fn read(provider: ProviderName, delivery: &Delivery<'_>) -> Result<Parsed, ParseError> {
    let form = match *delivery.method {
        Method::GET => Some(delivery.query.as_bytes()),
        _ => form(delivery),
    };
    if let Some(form) = form {
        // Pairs of strings always decode.
        let pairs: Vec<(String, String)> =
            serde_urlencoded::from_bytes(first_pairs(form)).unwrap_or_default();
        // The last of a repeated name, as in JSON.
        let last = |name: &str| {
            pairs
                .iter()
                .rev()
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
        };
        Ok(read_event(provider, |name| {
            last(name).map(|(_, value)| Scalar::Text(Cow::Borrowed(value)))
        }))
    } else {
        let fields = read_fields(delivery.body)?;
        Ok(read_event(provider, |name| {
            fields.scalar_without_case(name)
        }))
    }
}

/// As much of a form as has [`MAX_PAIRS`] pairs.
fn first_pairs(form: &[u8]) -> &[u8] {
    let mut ends = form.iter().enumerate().filter(|(_, byte)| **byte == b'&');
    let end = ends.nth(MAX_PAIRS - 1).map_or(form.len(), |(end, _)| end);
    form.get(..end).unwrap_or(form)
}

/// The body, where it is a form. A person with curl sends JSON under the name of a form, so a body
/// that begins as JSON is not one.
fn form<'a>(delivery: &Delivery<'a>) -> Option<&'a [u8]> {
    let essence = delivery
        .content_type
        .split(|b| *b == b';')
        .next()?
        .trim_ascii();
    let body = delivery
        .body
        .strip_prefix("\u{feff}".as_bytes())
        .unwrap_or(delivery.body);
    let begins_as_json = matches!(body.trim_ascii_start().first(), Some(b'{' | b'['));
    (essence.eq_ignore_ascii_case(b"application/x-www-form-urlencoded") && !begins_as_json)
        .then_some(delivery.body)
}

fn read_event<'a>(provider: ProviderName, field: impl Fn(&str) -> Option<Scalar<'a>>) -> Parsed {
    // The example's name and the table's.
    let number = match (field("display_phone_number"), field("phone_no")) {
        (Some(number), Some(other)) => Some(if number.is_empty() { other } else { number }),
        (number, other) => number.or(other),
    };
    let (Some(phone_number), Some(event)) = (number, field("event")) else {
        return Parsed::nothing();
    };
    if phone_number.is_empty() && event.is_empty() {
        return Parsed::nothing();
    }
    let fields = QualityFields {
        phone_number,
        event,
        portfolio_limit: field("max_daily_conversations_per_business").unwrap_or_default(),
        current_limit: field("current_limit").unwrap_or_default(),
        old_limit: field("old_limit").unwrap_or_default(),
        ..QualityFields::default()
    };
    Parsed::one(fields.change(provider))
}
