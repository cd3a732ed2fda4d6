//! The text format 0.0.4 and OpenMetrics 1.0, which differ in what stands around the samples.
//!
//! Sources: Prometheus' documentation, "Exposition formats"; the OpenMetrics specification 1.0.

use std::io::Write;

use prometheus::{
    Encoder, TextEncoder,
    proto::{LabelPair, Metric, MetricFamily, MetricType},
};

use super::Format;
use crate::state::{Entity, Family, MetricKind, ShownValues, Value};

pub(super) fn write_header<T>(page: &mut Vec<u8>, format: Format, family: &Family<T>) {
    write_metadata(page, format, family.name, family.help, family.kind.as_str());
}

fn write_metadata(page: &mut Vec<u8>, format: Format, name: &str, help: &str, kind: &str) {
    // In OpenMetrics the family of a counter has no suffix, only its samples do.
    let name = match format {
        Format::OpenMetrics if kind == MetricKind::Counter.as_str() => {
            name.strip_suffix("_total").unwrap_or(name)
        }
        _ => name,
    };
    push(page, &["# HELP ", name, " "]);
    write_escaped(page, help, format == Format::OpenMetrics);
    push(page, &["\n# TYPE ", name, " ", kind, "\n"]);
}

pub(super) fn write_samples<T>(text: &mut Vec<u8>, family: &Family<T>, labels: &[u8], record: &T) {
    (family.samples)(record, &mut |label_value, value| {
        push(text, &[family.name, "{"]);
        text.extend_from_slice(labels);
        if let Some(label) = family.label {
            text.push(b',');
            write_label(text, label, label_value);
        }
        push(text, &["} "]);
        write_value(text, value);
        text.push(b'\n');
    });
}

fn write_value(text: &mut Vec<u8>, value: Value) {
    match value {
        Value::Count(count) => push(text, &[itoa::Buffer::new().format(count)]),
        // Writing to memory does not fail.
        Value::Limit(limit) => drop(write!(text, "{limit}")),
        Value::Time(time) => drop(write!(text, "{time}")),
    }
}

/// Writes the labels of a key with these values, without braces.
pub(super) fn write_labels<K: Entity>(labels: &mut Vec<u8>, values: &ShownValues<'_>) {
    for (index, (name, value)) in K::LABELS.iter().zip(values).enumerate() {
        if index > 0 {
            labels.push(b',');
        }
        write_label(labels, name, value);
    }
}

fn write_label(labels: &mut Vec<u8>, name: &str, value: &str) {
    push(labels, &[name, "=\""]);
    write_escaped(labels, value, true);
    labels.push(b'"');
}

/// Escapes backslash and newline, and in some places quotes.
fn write_escaped(to: &mut Vec<u8>, text: &str, quotes: bool) {
    if !text.contains(['\\', '\n', '"']) {
        return to.extend_from_slice(text.as_bytes());
    }
    for byte in text.bytes() {
        match byte {
            b'\\' => to.extend_from_slice(b"\\\\"),
            b'\n' => to.extend_from_slice(b"\\n"),
            b'"' if quotes => to.extend_from_slice(b"\\\""),
            _ => to.push(byte),
        }
    }
}

/// The families of the `prometheus` crate: with its own encoder, or in OpenMetrics, which it does
/// not write.
pub(super) fn write_exporter_families(
    page: &mut Vec<u8>,
    format: Format,
    families: &[MetricFamily],
) {
    if format == Format::Text {
        // It fails on a family without samples, which a registry does not gather.
        let _ = TextEncoder::new().encode(families, page);
        return;
    }
    for family in families {
        let kind = match family.get_field_type() {
            MetricType::COUNTER => "counter",
            MetricType::GAUGE => "gauge",
            MetricType::HISTOGRAM => "histogram",
            MetricType::SUMMARY => "summary",
            MetricType::UNTYPED => "unknown",
        };
        write_metadata(page, format, family.name(), family.help(), kind);
        for metric in family.get_metric() {
            write_exporter_samples(page, family, metric);
        }
    }
}

fn write_exporter_samples(page: &mut Vec<u8>, family: &MetricFamily, metric: &Metric) {
    let name = family.name();
    match family.get_field_type() {
        MetricType::COUNTER => write_exporter_sample(
            page,
            name,
            "",
            metric,
            None,
            metric.get_counter().get_value(),
        ),
        MetricType::GAUGE => {
            write_exporter_sample(page, name, "", metric, None, metric.get_gauge().get_value())
        }
        MetricType::HISTOGRAM => {
            let histogram = metric.get_histogram();
            let count = histogram.get_sample_count() as f64;
            for bucket in histogram
                .get_bucket()
                .iter()
                .filter(|bucket| bucket.upper_bound().is_finite())
            {
                let bound = Some(bucket.upper_bound());
                write_exporter_sample(
                    page,
                    name,
                    "_bucket",
                    metric,
                    bound,
                    bucket.cumulative_count() as f64,
                );
            }
            write_exporter_sample(page, name, "_bucket", metric, Some(f64::INFINITY), count);
            write_exporter_sample(page, name, "_count", metric, None, count);
            write_exporter_sample(page, name, "_sum", metric, None, histogram.get_sample_sum());
        }
        // This program has none.
        MetricType::SUMMARY | MetricType::UNTYPED => {}
    }
}

fn write_exporter_sample(
    page: &mut Vec<u8>,
    name: &str,
    suffix: &str,
    metric: &Metric,
    bound: Option<f64>,
    value: f64,
) {
    push(page, &[name, suffix]);
    let bound = bound.map(|bound| {
        if bound.is_infinite() {
            "+Inf".to_owned()
        } else {
            format!("{bound:?}")
        }
    });
    let own = metric
        .get_label()
        .iter()
        .map(|label: &LabelPair| (label.name(), label.value()));
    let labels = own.chain(bound.iter().map(|bound| ("le", bound.as_str())));
    for (index, (label, value)) in labels.enumerate() {
        page.push(if index == 0 { b'{' } else { b',' });
        write_label(page, label, value);
    }
    if bound.is_some() || !metric.get_label().is_empty() {
        page.push(b'}');
    }
    let _ = if value.is_infinite() && value > 0.0 {
        writeln!(page, " +Inf")
    } else {
        writeln!(page, " {value}")
    };
}

fn push(to: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        to.extend_from_slice(part.as_bytes());
    }
}
