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

/// Kaleyra's webhooks: parameters in the URL, or the same names in a flat JSON object.
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
        if delivery.method == Method::GET {
            // Pairs of strings always decode.
            let pairs: Vec<(Cow<'_, str>, Cow<'_, str>)> =
                serde_urlencoded::from_str(delivery.query).unwrap_or_default();
            // The last of a repeated name, as in JSON.
            let last = |name: &str| pairs.iter().rev().find(|(key, _)| key.eq_ignore_ascii_case(name));
            Ok(read(|name| last(name).map(|(_, value)| Scalar::Text(Cow::Borrowed(value.as_ref())))))
        } else {
            let fields: Fields<'_> = read_body(delivery.body)?;
            Ok(read(|name| fields.scalar_without_case(name)))
        }
    }

    fn example(&self) -> Example {
        Example::Query("display_phone_number=16505551111&event=FLAGGED&current_limit=TIER_10K")
    }
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
