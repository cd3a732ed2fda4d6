//! Kaleyra.
//!
//! Source: Kaleyra's webhook page; its table and its example name the parameters differently, and the
//! same URL receives incoming messages. It sends neither an id nor a time, so every delivery counts.

use std::borrow::Cow;

use hyper::Method;

use super::{
    Auth, Delivery, Example, ParseError, Parsed, Provider,
    fields::{Facts, Fields, Scalar, read_body},
};

/// Kaleyra's webhooks: parameters in the URL, or the same names in a flat JSON object or in a form (callback profiles).
pub(super) struct Kaleyra;

const PHONE_NUMBER: [&str; 2] = ["display_phone_number", "phone_no"];
const EVENT: &str = "event";

impl Provider for Kaleyra {
    fn name(&self) -> &'static str {
        "kaleyra"
    }

    fn title(&self) -> &'static str {
        "Kaleyra"
    }

    fn methods(&self) -> &'static [Method] {
        &[Method::GET, Method::POST]
    }

    fn auth(&self) -> Auth {
        Auth::Token
    }

    fn parse(&self, delivery: &Delivery<'_>) -> Result<Parsed, ParseError> {
        let form = if delivery.method == Method::GET {
            Some(delivery.query.as_bytes())
        } else {
            form(delivery)
        };
        if let Some(form) = form {
            // Pairs of strings always decode.
            let pairs: Vec<(Cow<'_, str>, Cow<'_, str>)> =
                serde_urlencoded::from_bytes(form).unwrap_or_default();
            // The last of a repeated name, as in JSON.
            let last = |name: &str| {
                pairs
                    .iter()
                    .rev()
                    .find(|(key, _)| key.eq_ignore_ascii_case(name))
            };
            Ok(read(|name| {
                last(name).map(|(_, value)| Scalar::Text(Cow::Borrowed(value.as_ref())))
            }))
        } else {
            let fields: Fields<'_> = read_body(delivery.body)?;
            Ok(read(|name| fields.scalar_without_case(name)))
        }
    }

    fn setup(&self) -> &'static str {
        "Webhook URL `https://HOST/webhooks/kaleyra/TOKEN?display_phone_number=<display_phone_number>&event=<event>\
         &current_limit=<current_limit>`; a callback profile may post the same names as JSON or as a form. Kaleyra \
         sends neither an id nor a time, so each delivery counts, and documents no repetition."
    }

    fn example(&self) -> Example {
        Example::Query("display_phone_number=16505551111&event=FLAGGED&current_limit=TIER_10K")
    }
}

/// The body, where it is a form. A person with curl sends JSON under the name of a form, so a body that begins as JSON
/// is not one.
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

fn read<'a>(field: impl Fn(&str) -> Option<Scalar<'a>>) -> Parsed {
    let [example, table] = PHONE_NUMBER.map(&field);
    let number = match (example, table) {
        (Some(number), Some(other)) => Some(if number.is_empty() { other } else { number }),
        (number, other) => number.or(other),
    };
    let (Some(number), Some(event)) = (number, field(EVENT)) else {
        return Parsed::nothing();
    };
    if number.is_empty() && event.is_empty() {
        return Parsed::nothing();
    }
    let scalar = |name| field(name).unwrap_or(Scalar::Absent);
    let facts = Facts {
        provider: Kaleyra.name(),
        waba_id: Scalar::Absent,
        delivery_id: Scalar::Absent,
        time: Scalar::Absent,
        portfolio_limit: scalar("max_daily_conversations_per_business"),
        current_limit: scalar("current_limit"),
    };
    Parsed::one(facts.quality(&number, &event, &scalar("old_limit")))
}
