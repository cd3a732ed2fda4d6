//! Lists of what is known as JSON, a page at a time.
//!
//! Each object has the labels and, under the metric's name without its prefix, every value: a
//! number, `"+Inf"`, or an object by the further label.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value as Json, json};

use super::{answer::PieceMaker, pairs};
use crate::{
    domain::PhoneNumber,
    providers,
    state::{Entity, Shards, Table, Value},
};

const DEFAULT_LIMIT: usize = 1000;
/// Objects in an answer, however many are asked for.
const MAX_LIMIT: usize = 10_000;
/// Entries that are looked at for a piece of an answer: few, so that other connections wait little.
const AT_A_TIME: usize = 256;

/// Why a query cannot be answered; the client is at fault.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum BadQuery {
    #[error("a parameter is not one of {0}, limit, after")]
    Unknown(String),
    #[error("limit is not a number from 1 on")]
    Limit,
    #[error("after is not the \"next\" of an earlier answer")]
    After,
}

/// What is asked for: everything that matches, after a key, as far as a limit.
struct Query<K> {
    filters: Vec<(&'static str, String)>,
    limit: usize,
    after: Option<K>,
}

/// A list as it is written: a piece of its JSON at a time.
struct List<K: Entity> {
    table: Arc<Table>,
    query: Query<K>,
    /// How many objects are written.
    written: usize,
    /// The `next` of the answer, where another object follows.
    next: Option<String>,
    part: Part,
}

#[derive(PartialEq)]
enum Part {
    Begin,
    Objects,
    Ended,
}

/// The list of a kind as JSON, shard by shard and in the order of the keys within one. It is
/// written as it is sent, so that a large one takes no memory.
pub(super) fn list<K: Entity>(table: &Arc<Table>, query: &str) -> Result<PieceMaker, BadQuery> {
    Ok(Box::new(List::<K> {
        table: Arc::clone(table),
        query: Query::read(table, query)?,
        written: 0,
        next: None,
        part: Part::Begin,
    }))
}

impl<K: Entity> Iterator for List<K> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut text = match self.part {
            Part::Begin => format!("{{\"{}\":[", K::LIST).into_bytes(),
            Part::Objects => Vec::new(),
            Part::Ended => return None,
        };
        self.part = Part::Objects;
        let table = Arc::clone(&self.table);
        let mut entries = K::shards(&table).iter_after(self.query.after.clone());
        for (key, record) in entries.by_ref().take(AT_A_TIME) {
            if self.query.matches(&table, &key) {
                if self.written == self.query.limit {
                    self.end(&mut text);
                    return Some(text.into());
                }
                if self.written > 0 {
                    text.push(b',');
                }
                text.extend_from_slice(object(&table, &key, &record).to_string().as_bytes());
                self.written += 1;
                self.next = (self.written == self.query.limit).then(|| cursor(&table, &key));
            }
            self.query.after = Some(key);
        }
        if entries.next().is_none() {
            self.next = None;
            self.end(&mut text);
        }
        Some(text.into())
    }
}

impl<K: Entity> List<K> {
    fn end(&mut self, text: &mut Vec<u8>) {
        self.part = Part::Ended;
        text.extend_from_slice(format!("],\"next\":{}}}", json!(self.next)).as_bytes());
    }
}

impl<K: Entity> Query<K> {
    fn read(table: &Table, query: &str) -> Result<Self, BadQuery> {
        let mut read = Self {
            filters: Vec::new(),
            limit: DEFAULT_LIMIT,
            after: None,
        };
        for (name, value) in pairs(query) {
            match name.as_str() {
                "limit" => {
                    let limit = value.parse().ok().filter(|limit: &usize| *limit > 0);
                    read.limit = limit.ok_or(BadQuery::Limit)?.min(MAX_LIMIT);
                }
                "after" => read.after = Some(key_of(table, &value).ok_or(BadQuery::After)?),
                _ => {
                    let label = K::LABELS.iter().find(|label| **label == name);
                    let label = *label.ok_or_else(|| BadQuery::Unknown(K::LABELS.join(", ")))?;
                    // A number may be given in any spelling; a text that is no number matches none.
                    let value = match (label, PhoneNumber::parse(&value)) {
                        ("phone_number", Ok(number)) => number.as_str().to_owned(),
                        _ => value,
                    };
                    read.filters.push((label, value));
                }
            }
        }
        Ok(read)
    }

    fn matches(&self, table: &Table, key: &K) -> bool {
        if self.filters.is_empty() {
            return true;
        }
        let parts = table.shown(key);
        self.filters.iter().all(|(wanted, value)| {
            let mut labels = K::LABELS.iter().zip(&parts);
            labels.any(|(label, part)| label == wanted && part == value)
        })
    }
}

fn object<K: Entity>(table: &Table, key: &K, record: &K::Record) -> Json {
    let labels = K::LABELS.iter().zip(table.shown(key));
    let mut object: Map<String, Json> = labels
        .map(|(label, value)| ((*label).to_owned(), value.into()))
        .collect();
    for family in K::FAMILIES {
        let name = family.name.strip_prefix(K::PREFIX).unwrap_or(family.name);
        (family.samples)(record, &mut |label_value, value| {
            let value = match value {
                Value::Count(count) => json!(count),
                Value::Limit(limit) => json!(limit),
                Value::Time(time) => json!(time.as_seconds()),
            };
            let by_label = || Json::Object(Map::new());
            if family.label.is_none() {
                object.insert(name.to_owned(), value);
            } else if let Json::Object(of_family) = object.entry(name).or_insert_with(by_label) {
                of_family.insert(label_value.to_owned(), value);
            }
        });
    }
    let history = K::history(record).newest_first().map(|event| {
        json!({
            "event": event.name.as_str(),
            "happened_timestamp_seconds": event.happened_at.as_seconds(),
            "accepted_timestamp_seconds": event.accepted_at.as_seconds(),
            "messaging_limit": event.limit,
        })
    });
    object.insert("history".to_owned(), history.collect());
    Json::Object(object)
}

/// The parts of a key as a JSON list, in hexadecimal: safe in any URL. Where a phone number is shown
/// by a pseudonym, its shard stands before it, because the number cannot be computed from it.
fn cursor<K: Entity>(table: &Table, key: &K) -> String {
    let mut parts = table.shown(key);
    if table.has_pseudonyms() {
        parts.insert(0, Shards::shard_of(key).to_string().into());
    }
    base16ct::lower::encode_string(json!(parts.as_slice()).to_string().as_bytes())
}

fn key_of<K: Entity>(table: &Table, cursor: &str) -> Option<K> {
    let parts: Vec<String> =
        serde_json::from_slice(&base16ct::lower::decode_vec(cursor).ok()?).ok()?;
    let (first, rest) = parts.split_first()?;
    if table.has_pseudonyms() {
        let (_, entries) = K::shards(table).entries(first.parse().ok()?, None);
        let mut keys = entries.into_iter().map(|(key, _)| key);
        return keys.find(|key| table.shown(key).as_slice() == rest);
    }
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    K::from_label_values(providers::by_name(first)?.name, &rest)
}
