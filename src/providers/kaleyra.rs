//! Kaleyra.
//!
//! Sources: two webhook pages of Kaleyra's. Neither has an id or a time, so every delivery counts.

use hyper::Method;

use super::{
    Delivery, Example, Message, ParseError, Parsed, Provider, Sample, form,
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

fn write(_: &Provider, sample: &Sample) -> Option<Message> {
    let mut fields = sample.fields("event", ["current_limit", "old_limit"]);
    fields.insert("display_phone_number".into(), sample.quality()?.0.into());
    serde_urlencoded::to_string(fields).ok().map(Message::Query)
}

fn read(provider: &Provider, delivery: &Delivery<'_>) -> Result<Parsed, ParseError> {
    if let Some(pairs) = form::pairs(delivery) {
        return Ok(read_event(provider, |name| form::value(&pairs, name)));
    }
    let fields = read_fields(delivery.body)?;
    let scalar = |name: &str| fields.scalar_without_case(name);
    Ok(read_event(provider, scalar))
}

fn read_event<'a>(provider: &Provider, field: impl Fn(&str) -> Option<Scalar<'a>>) -> Parsed {
    let [number, of_other_page] = ["display_phone_number", "phone_no"].map(&field);
    let number = number.filter(|number| of_other_page.is_none() || !number.is_empty());
    let both = number.or(of_other_page).zip(field("event"));
    let both = both.filter(|(number, event)| !number.is_empty() || !event.is_empty());
    let Some((phone_number, event)) = both else {
        return Parsed::nothing();
    };
    let limit = |name| field(name).unwrap_or_default();
    let fields = QualityFields {
        phone_number,
        event,
        portfolio_limit: limit("max_daily_conversations_per_business"),
        current_limit: limit("current_limit"),
        old_limit: limit("old_limit"),
        ..QualityFields::default()
    };
    Parsed::one(fields.change(provider.name))
}
