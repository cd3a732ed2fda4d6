//! Whatever the internet sends is read, counted or refused; nothing of it stops the program.

use proptest::{collection::vec, option, prelude::*, sample::Index};
use serde_json::{Map, Value as Json};
use whatsapp_quality_exporter::{
    domain::ChangeKind,
    providers::{self, Delivery, Example},
};

use crate::memory::{cases, get, post};

/// The names and values that mean something to a provider.
const WORDS: [&str; 40] = [
    "object",
    "whatsapp_business_account",
    "entry",
    "id",
    "time",
    "changes",
    "field",
    "value",
    "phone_number_quality_update",
    "business_capability_update",
    "display_phone_number",
    "phone_no",
    "event",
    "FLAGGED",
    "current_limit",
    "old_limit",
    "max_daily_conversations_per_business",
    "max_daily_conversation_per_phone",
    "max_phone_numbers_per_business",
    "max_phone_numbers_per_waba",
    "TIER_1K",
    "TIER_NOT_SET",
    "eventId",
    "timestamp",
    "2025-12-17T19:33:20Z",
    "businessAccountId",
    "eventType",
    "eventDetails",
    "displayPhoneNumber",
    "meta",
    "currentLimit",
    "maxDailyConversationsPerBusiness",
    "oldLimit",
    "type",
    "whatsapp_phone_number_quality_update",
    "eventTime",
    "body",
    "messageLimit",
    "wabaId",
    "447700900101",
];

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn arbitrary_bytes_are_read(body in vec(any::<u8>(), 0..256)) {
        reads(&post(&body));
    }

    #[test]
    fn arbitrary_json_is_read(body in json()) {
        reads(&post(body.to_string().as_bytes()));
    }

    #[test]
    fn valid_payloads_with_another_part_are_read(
        provider in any::<Index>(), place in any::<Index>(), part in json(), deeper in any::<bool>()
    ) {
        let mut body: Json = serde_json::from_str(bodies()[provider.index(bodies().len())]).unwrap();
        let places = places(&body, "");
        let place = body.pointer_mut(&places[place.index(places.len())]).unwrap();
        *place = if deeper { Json::Array(vec![part, place.clone()]) } else { part };
        reads(&post(body.to_string().as_bytes()));
    }

    #[test]
    fn valid_payloads_with_broken_bytes_are_read(
        provider in any::<Index>(), edits in vec((any::<Index>(), option::of(any::<u8>())), 1..8)
    ) {
        let mut body = bodies()[provider.index(bodies().len())].as_bytes().to_vec();
        for (place, byte) in edits {
            let place = place.index(body.len());
            match byte {
                Some(byte) => body[place] = byte,
                None => drop(body.remove(place)),
            }
        }
        reads(&post(&body));
    }

    #[test]
    fn arbitrary_queries_are_read(query in ".*", pairs in vec((parameter(), argument()), 0..6)) {
        reads(&get(&query));
        let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        reads(&get(&pairs.join("&")));
    }
}

#[test]
fn nesting_has_no_depth_that_hurts() {
    const DEPTH: usize = 10_000;
    let list = format!("{}{}", "[".repeat(DEPTH), "]".repeat(DEPTH));
    let object = format!("{}1{}", r#"{"a":"#.repeat(DEPTH), "}".repeat(DEPTH));
    for deep in [&list, &object] {
        reads(&post(deep.as_bytes()));
        for body in bodies() {
            let body: Json = serde_json::from_str(body).unwrap();
            for place in places(&body, "") {
                let mut body = body.clone();
                *body.pointer_mut(&place).unwrap() = "DEEP".into();
                reads(&post(body.to_string().replace("\"DEEP\"", deep).as_bytes()));
            }
        }
    }
    let unknown = format!(
        r#"{{"unknown":{list},"entry":[{{"id":"1","time":1,"unknown":{object},"changes":[{{"field":
        "phone_number_quality_update","value":{{"unknown":{list},"display_phone_number":"2","event":"FLAGGED"}}}}]}}]}}"#
    );
    assert!(
        reads(&post(unknown.as_bytes())) > 0,
        "what is unknown must not void what is known, however deep it is"
    );
}

#[test]
fn bytes_that_are_not_utf8_void_the_body() {
    for body in bodies() {
        let at = body
            .rfind(|character: char| character.is_ascii_digit())
            .unwrap();
        let mut broken = body.as_bytes().to_vec();
        broken[at] = 0xff;
        for provider in providers::ALL {
            assert!(provider.parse(&post(&broken)).is_err(), "{provider:?}");
        }
    }
}

/// Every provider reads it: twice alike, with a change or a count for what it holds, and no change
/// that is not one. Returns how many changes there were in all.
fn reads(delivery: &Delivery<'_>) -> usize {
    let mut changes = 0;
    for provider in providers::ALL {
        let parsed = provider.parse(delivery);
        assert_eq!(
            parsed,
            provider.parse(delivery),
            "{provider:?} does not read the same twice"
        );
        let Ok(parsed) = parsed else { continue };
        let counted = parsed.ignored + parsed.test + parsed.invalid;
        assert!(
            counted > 0 || !parsed.changes.is_empty(),
            "{provider:?} does not say what it read"
        );
        assert_eq!(
            parsed.first_invalid.is_some(),
            parsed.invalid > 0,
            "{provider:?} does not say why"
        );
        for change in &parsed.changes {
            assert_eq!(change.account.provider, provider.name);
            assert!(change.account.waba_id.as_str().chars().count() <= 64);
            if let ChangeKind::PhoneNumberQuality { phone_number, .. } = &change.kind {
                let number = phone_number.as_str();
                let length = number.chars().count();
                assert!(
                    (1..=64).contains(&length) && !number.contains(['<', '>']),
                    "{number}"
                );
            } else {
                assert!(!change.account.waba_id.is_empty());
            }
        }
        changes += parsed.changes.len();
    }
    changes
}

/// The documented bodies.
fn bodies() -> Vec<&'static str> {
    let body = |example| match example {
        Example::Json(body) => Some(body),
        Example::Query(_) => None,
    };
    providers::ALL
        .iter()
        .filter_map(|provider| body(provider.example))
        .collect()
}

/// The JSON pointers of all its values.
fn places(value: &Json, here: &str) -> Vec<String> {
    let inside: Vec<(String, &Json)> = match value {
        Json::Object(object) => object
            .iter()
            .map(|(key, value)| (format!("{here}/{key}"), value))
            .collect(),
        Json::Array(list) => list
            .iter()
            .enumerate()
            .map(|(index, value)| (format!("{here}/{index}"), value))
            .collect(),
        _ => Vec::new(),
    };
    let deeper = inside
        .into_iter()
        .flat_map(|(place, value)| places(value, &place));
    std::iter::once(here.to_owned()).chain(deeper).collect()
}

fn word() -> impl Strategy<Value = String> {
    prop_oneof![4 => prop::sample::select(WORDS.as_slice()).prop_map(str::to_owned), 1 => any::<String>()]
}

/// The name of a query's parameter.
fn parameter() -> impl Strategy<Value = String> {
    let names = vec![
        "display_phone_number",
        "Phone_No",
        "event",
        "EVENT",
        "current_limit",
        "old_limit",
    ];
    prop_oneof![4 => prop::sample::select(names).prop_map(str::to_owned), 1 => word()]
}

/// What stands behind it: often nothing, or what cannot be decoded.
fn argument() -> impl Strategy<Value = String> {
    let broken = vec!["", "%", "%f", "%ff", "%00", "%zz", "+", "++", "%3C"];
    prop_oneof![prop::sample::select(broken).prop_map(str::to_owned), word()]
}

fn json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<f64>().prop_map(Json::from),
        word().prop_map(Json::from),
    ];
    leaf.prop_recursive(6, 64, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Json::from),
            vec((word(), inner), 0..6)
                .prop_map(|fields| fields.into_iter().collect::<Map<_, _>>().into()),
        ]
    })
}
