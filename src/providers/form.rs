//! Forms: the query of a `GET`, or a body that is one.

use std::borrow::Cow;

use hyper::Method;

use super::{Delivery, json::Scalar};

/// A provider sends a form with a few pairs; those beyond are not read.
const MAX_PAIRS: usize = 1024;

/// The pairs of a delivery; `None` where its body is not a form.
pub(super) fn pairs(delivery: &Delivery<'_>) -> Option<Vec<(String, String)>> {
    let form = match *delivery.method {
        Method::GET => delivery.query.as_bytes(),
        _ => form(delivery)?,
    };
    // Pairs of strings always decode.
    Some(serde_urlencoded::from_bytes(first_pairs(form)).unwrap_or_default())
}

/// The value of a name, whose case does not matter; of a repeated name the last, as in JSON.
pub(super) fn value<'a>(pairs: &'a [(String, String)], name: &str) -> Option<Scalar<'a>> {
    let mut pairs = pairs.iter().rev();
    let pair = pairs.find(|(key, _)| key.eq_ignore_ascii_case(name));
    pair.map(|(_, value)| Scalar::Text(Cow::Borrowed(value)))
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
