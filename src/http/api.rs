//! Lists of phone numbers and accounts as JSON, a page at a time.
//!
//! Each object has the labels and, under the metric's name without `whatsapp_phone_number_` or
//! `whatsapp_business_account_`, every value: a number, `"+Inf"`, or an object by the further label.

use std::{borrow::Cow, sync::Arc};

use serde_json::{Map, Value as Json, json};

use crate::{
    domain::{AccountKey, NumberKey, PhoneNumber, WabaId},
    exposition::{ACCOUNT, Family, PHONE_NUMBER, Value},
    providers,
    state::{SHARDS, Shards, Table, shard_of, shard_of_account},
};

const DEFAULT_LIMIT: usize = 1000;
const MAX_LIMIT: usize = 100_000;

/// Why a query cannot be answered; who asks is at fault.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum BadQuery {
    #[error("a parameter is not one of {0}")]
    Unknown(&'static str),
    #[error("limit is not a number from 1 to 100000")]
    Limit,
    #[error("after is not the \"next\" of an earlier answer")]
    After,
}

/// What is asked for: everything that matches, after a cursor, as far as a limit.
struct Query {
    filters: Vec<(&'static str, String)>,
    limit: usize,
    after: Option<Vec<String>>,
}

/// `GET /api/v1/phone_numbers`, shard by shard and in the order of the keys within one.
pub(super) fn phone_numbers(table: &Table, query: &str) -> Result<Json, BadQuery> {
    let query = Query::read(
        query,
        &["provider", "waba_id", "phone_number"],
        "provider, waba_id, phone_number, limit, after",
    )?;
    let after = query.after(|parts| match parts {
        [provider, waba_id, number] => Some(NumberKey {
            account: account_key(provider, waba_id)?,
            phone_number: PhoneNumber::from_stored(number),
        }),
        _ => None,
    })?;
    let found = after_cursor(&table.numbers, after, shard_of).map(|(key, number)| {
        (
            labels(&key.account, Some(key.phone_number.as_str())),
            number,
        )
    });
    Ok(query.page(
        "phone_numbers",
        PHONE_NUMBER,
        "whatsapp_phone_number_",
        found,
    ))
}

/// `GET /api/v1/accounts`, likewise.
pub(super) fn accounts(table: &Table, query: &str) -> Result<Json, BadQuery> {
    let query = Query::read(
        query,
        &["provider", "waba_id"],
        "provider, waba_id, limit, after",
    )?;
    let after = query.after(|parts| match parts {
        [provider, waba_id] => account_key(provider, waba_id),
        _ => None,
    })?;
    let found = after_cursor(&table.accounts, after, shard_of_account)
        .map(|(key, account)| (labels(&key, None), account));
    Ok(query.page("accounts", ACCOUNT, "whatsapp_business_account_", found))
}

/// Everything after a key, shard by shard.
fn after_cursor<K: Ord + Clone, V>(
    shards: &Shards<K, V>,
    after: Option<K>,
    shard_of: fn(&K) -> usize,
) -> impl Iterator<Item = (K, Arc<V>)> {
    let first = after.as_ref().map_or(0, shard_of);
    (first..SHARDS).flat_map(move |shard| {
        shards
            .entries(shard, after.as_ref().filter(|_| shard == first))
            .1
    })
}

impl Query {
    fn read(query: &str, filters: &[&'static str], all: &'static str) -> Result<Self, BadQuery> {
        let pairs: Vec<(Cow<'_, str>, Cow<'_, str>)> =
            serde_urlencoded::from_str(query).unwrap_or_default();
        let mut read = Self {
            filters: Vec::new(),
            limit: DEFAULT_LIMIT,
            after: None,
        };
        for (name, value) in pairs {
            match name.as_ref() {
                "limit" => {
                    let limit = value
                        .parse()
                        .ok()
                        .filter(|limit| (1..=MAX_LIMIT).contains(limit));
                    read.limit = limit.ok_or(BadQuery::Limit)?;
                }
                "after" => read.after = Some(parts_of(&value).ok_or(BadQuery::After)?),
                _ => {
                    let known = filters.iter().find(|known| **known == name);
                    let name = *known.ok_or(BadQuery::Unknown(all))?;
                    // A number may be given in any spelling; what is no number matches none.
                    let value = match (name, PhoneNumber::parse(&value)) {
                        ("phone_number", Ok(number)) => number.as_str().to_owned(),
                        _ => value.into_owned(),
                    };
                    read.filters.push((name, value));
                }
            }
        }
        Ok(read)
    }

    fn after<K>(&self, key: impl Fn(&[&str]) -> Option<K>) -> Result<Option<K>, BadQuery> {
        let Some(parts) = &self.after else {
            return Ok(None);
        };
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        key(&parts).map(Some).ok_or(BadQuery::After)
    }

    fn page<T>(
        &self,
        name: &str,
        families: &[Family<T>],
        prefix: &str,
        found: impl Iterator<Item = (Vec<(&'static str, String)>, Arc<T>)>,
    ) -> Json {
        let mut matching = found
            .filter(|(labels, _)| self.filters.iter().all(|filter| labels.contains(filter)))
            .peekable();
        let mut objects = Vec::new();
        let mut next = None;
        while let Some((labels, subject)) = matching.next() {
            let is_last = objects.len() + 1 == self.limit;
            if is_last && matching.peek().is_some() {
                next = Some(cursor(&labels));
            }
            objects.push(object(labels, families, prefix, &subject));
            if is_last {
                break;
            }
        }
        json!({ name: objects, "next": next })
    }
}

fn labels(account: &AccountKey, phone_number: Option<&str>) -> Vec<(&'static str, String)> {
    let account = [
        ("provider", account.provider.to_owned()),
        ("waba_id", account.waba_id.as_str().to_owned()),
    ];
    let number = phone_number.map(|number| ("phone_number", number.to_owned()));
    account.into_iter().chain(number).collect()
}

fn object<T>(
    labels: Vec<(&'static str, String)>,
    families: &[Family<T>],
    prefix: &str,
    subject: &T,
) -> Json {
    let mut object: Map<String, Json> = labels
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    for family in families {
        let name = family.name.strip_prefix(prefix).unwrap_or(family.name);
        (family.samples)(subject, &mut |label_value, value| {
            let value = match value {
                Value::Count(count) => json!(count),
                Value::Limit(limit) => json!(limit),
                Value::Time(time) => json!(time.as_seconds()),
            };
            if family.label.is_none() {
                object.insert(name.to_owned(), value);
            } else if let Json::Object(by_label) = object
                .entry(name)
                .or_insert_with(|| Json::Object(Map::new()))
            {
                by_label.insert(label_value.to_owned(), value);
            }
        });
    }
    Json::Object(object)
}

fn account_key(provider: &str, waba_id: &str) -> Option<AccountKey> {
    let provider = providers::ALL
        .iter()
        .find(|known| known.name() == provider)?
        .name();
    Some(AccountKey {
        provider,
        waba_id: WabaId::from_stored(waba_id),
    })
}

/// The label values as a JSON list, in hexadecimal: safe in any URL.
fn cursor(labels: &[(&str, String)]) -> String {
    let values: Vec<&str> = labels.iter().map(|(_, value)| value.as_str()).collect();
    base16ct::lower::encode_string(json!(values).to_string().as_bytes())
}

fn parts_of(cursor: &str) -> Option<Vec<String>> {
    serde_json::from_slice(&base16ct::lower::decode_vec(cursor).ok()?).ok()
}
