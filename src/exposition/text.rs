//! The text format 0.0.4.
//!
//! Source: Prometheus' documentation, "Exposition formats".

use std::io::Write;

use prometheus::{Encoder, TextEncoder, proto::MetricFamily};

use super::{ACCOUNT, Family, PHONE_NUMBER, Value};
use crate::{
    domain::{AccountKey, NumberKey},
    state::{SHARDS, Table},
};

/// The `Content-Type` of a page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The whole page: numbers, accounts and then the exporter's own families.
///
/// # Errors
///
/// Where one of the own families has no samples: a mistake of the caller.
pub fn page(table: &Table, own: &[MetricFamily]) -> prometheus::Result<Vec<u8>> {
    let mut page = Vec::new();
    let numbers = (0..SHARDS).flat_map(|shard| table.numbers(shard, None));
    write_families(&mut page, PHONE_NUMBER, numbers, number_labels);
    write_families(&mut page, ACCOUNT, table.accounts(None), account_labels);
    TextEncoder::new().encode(own, &mut page)?;
    Ok(page)
}

fn write_families<K, T: AsRef<V>, V>(
    page: &mut Vec<u8>,
    families: &[Family<V>],
    subjects: impl IntoIterator<Item = (K, T)>,
    labels_of: fn(&K) -> Vec<u8>,
) {
    let mut chunks: Vec<Vec<u8>> = families.iter().map(|_| Vec::new()).collect();
    for (key, subject) in subjects {
        let labels = labels_of(&key);
        for (family, chunk) in families.iter().zip(&mut chunks) {
            write_samples(chunk, family, &labels, subject.as_ref());
        }
    }
    for (family, chunk) in families.iter().zip(&chunks) {
        if !chunk.is_empty() {
            write_header(page, family);
            page.extend_from_slice(chunk);
        }
    }
}

fn write_header<T>(page: &mut Vec<u8>, family: &Family<T>) {
    let Family { name, help, kind, .. } = family;
    push(page, &["# HELP ", name, " ", help, "\n# TYPE ", name, " ", kind.as_str(), "\n"]);
}

fn write_samples<T>(chunk: &mut Vec<u8>, family: &Family<T>, labels: &[u8], subject: &T) {
    (family.samples)(subject, &mut |label_value, value| {
        push(chunk, &[family.name, "{"]);
        chunk.extend_from_slice(labels);
        if let Some(label) = family.label {
            push(chunk, &[",", label, "=\"", label_value, "\""]);
        }
        push(chunk, &["} "]);
        write_value(chunk, value);
        chunk.push(b'\n');
    });
}

fn write_value(chunk: &mut Vec<u8>, value: Value) {
    match value {
        Value::Count(count) => push(chunk, &[itoa::Buffer::new().format(count)]),
        // Writing to memory does not fail.
        Value::Limit(limit) => drop(write!(chunk, "{limit}")),
        Value::Time(time) => drop(write!(chunk, "{time}")),
    }
}

fn number_labels(key: &NumberKey) -> Vec<u8> {
    let mut labels = account_labels(&key.account);
    labels.push(b',');
    write_label(&mut labels, "phone_number", key.phone_number.as_str());
    labels
}

fn account_labels(key: &AccountKey) -> Vec<u8> {
    let mut labels = Vec::with_capacity(96);
    write_label(&mut labels, "provider", key.provider);
    labels.push(b',');
    write_label(&mut labels, "waba_id", key.waba_id.as_str());
    labels
}

fn write_label(labels: &mut Vec<u8>, name: &str, value: &str) {
    push(labels, &[name, "=\""]);
    for byte in value.bytes() {
        match byte {
            b'\\' => labels.extend_from_slice(b"\\\\"),
            b'"' => labels.extend_from_slice(b"\\\""),
            b'\n' => labels.extend_from_slice(b"\\n"),
            _ => labels.push(byte),
        }
    }
    labels.push(b'"');
}

fn push(to: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        to.extend_from_slice(part.as_bytes());
    }
}
