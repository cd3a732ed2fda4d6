//! What a scraper accepts, after RFC 9110: the highest quality wins.

use std::cmp::Ordering;

use hyper::{
    HeaderMap,
    header::{ACCEPT, ACCEPT_ENCODING, HeaderName},
};

use crate::exposition::{Encoding, Format};

/// OpenMetrics where the scraper prefers it, else the text format, which every scraper reads.
pub(super) fn format(headers: &HeaderMap) -> Format {
    let items = items(headers, ACCEPT);
    // Of the ranges that a type is in, the most specific one counts.
    let quality = |name: &str, version: &str| {
        let specificity = |item: &Item| match (item.name.as_str(), item.version()) {
            (given, Some(given_version)) if given == name && given_version == version => Some(3),
            (given, None) if given == name => Some(2),
            (given, _)
                if given
                    .strip_suffix('*')
                    .is_some_and(|kind| kind.ends_with('/') && name.starts_with(kind)) =>
            {
                Some(1)
            }
            ("*/*", _) => Some(0),
            _ => None,
        };
        let matching = items
            .iter()
            .filter_map(|item| Some((specificity(item)?, item.quality)));
        matching.max_by(|one, other| one.partial_cmp(other).unwrap_or(Ordering::Equal))
    };
    let text = quality("text/plain", "0.0.4").map_or(0.0, |(_, quality)| quality);
    match quality("application/openmetrics-text", "1.0.0") {
        // A scraper that accepts only `*/*` gets the text format.
        Some((specificity, quality)) if specificity > 0 && quality > 0.0 && quality >= text => {
            Format::OpenMetrics
        }
        _ => Format::Text,
    }
}

/// gzip where the scraper accepts it and does not prefer the page as it is.
pub(super) fn encoding(headers: &HeaderMap) -> Encoding {
    let mut gzip = None;
    let mut any = None;
    let mut identity = None;
    for Item { name, quality, .. } in items(headers, ACCEPT_ENCODING) {
        match name.as_str() {
            "gzip" | "x-gzip" => gzip = Some(quality),
            "*" => any = Some(quality),
            "identity" => identity = Some(quality),
            _ => {}
        }
    }
    let gzip = gzip.or(any).unwrap_or(0.0);
    if gzip > 0.0 && identity.is_none_or(|identity| gzip >= identity) {
        Encoding::Gzip
    } else {
        Encoding::Plain
    }
}

/// One of the things a header lists, in lower case.
struct Item {
    name: String,
    parameters: Vec<(String, String)>,
    quality: f32,
}

impl Item {
    fn version(&self) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(name, _)| name == "version")
            .map(|(_, value)| value.as_str())
    }
}

fn items(headers: &HeaderMap, name: HeaderName) -> Vec<Item> {
    let values = headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(item)
        .collect()
}

fn item(text: &str) -> Item {
    let lower = text.to_ascii_lowercase();
    let mut parts = lower.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default().to_owned();
    let parameters: Vec<(String, String)> = parts
        .filter_map(|part| part.split_once('='))
        .map(|(name, value)| {
            (
                name.trim().to_owned(),
                value.trim().trim_matches('"').to_owned(),
            )
        })
        .collect();
    let quality = parameters
        .iter()
        .find(|(name, _)| name == "q")
        .map_or(Some(1.0), |(_, q)| q.parse().ok());
    // A quality that cannot be read counts as 0.
    let quality = quality
        .filter(|quality: &f32| (0.0..=1.0).contains(quality))
        .unwrap_or(0.0);
    Item {
        name,
        parameters,
        quality,
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn headers(name: HeaderName, values: &[&'static str]) -> HeaderMap {
        values
            .iter()
            .map(|value| (name.clone(), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn open_metrics_only_where_preferred() {
        use Format::{OpenMetrics, Text};
        for (accept, want) in [
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                OpenMetrics,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.4,*/*;q=0.2",
                OpenMetrics,
            ),
            (
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
                OpenMetrics,
            ),
            ("Application/OpenMetrics-Text", OpenMetrics),
            (
                "text/plain;version=0.0.4;q=0.9,application/openmetrics-text;version=1.0.0;q=0.8",
                Text,
            ),
            (
                "application/openmetrics-text;version=1.0.0;q=0,text/plain;q=0.1",
                Text,
            ),
            ("application/openmetrics-text;version=0.0.1", Text),
            ("application/openmetrics-text;version=1.0.0;q=x", Text),
            (
                "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.1,*/*;q=0.9",
                OpenMetrics,
            ),
            (
                "application/openmetrics-text;q=0.5,text/plain;version=0.0.4;q=0.1,text/*;q=0.9",
                OpenMetrics,
            ),
            (
                "application/openmetrics-text;q=0.9,application/openmetrics-text;version=1.0.0;q=0.1,text/plain;q=0.5",
                Text,
            ),
            ("application/*", OpenMetrics),
            ("application/*,text/*", OpenMetrics),
            ("application/*;q=0.5,*/*", Text),
            ("*/*", Text),
            ("text*,application/json", Text),
            ("application/json", Text),
            ("", Text),
        ] {
            assert_eq!(format(&headers(ACCEPT, &[accept])), want, "{accept}");
        }
        assert_eq!(format(&HeaderMap::new()), Text);
        assert_eq!(
            format(&headers(
                ACCEPT,
                &["text/plain;q=0.5", "application/openmetrics-text"]
            )),
            OpenMetrics
        );
    }

    #[test]
    fn gzip_only_where_accepted() {
        use Encoding::{Gzip, Plain};
        for (accept, want) in [
            ("gzip", Gzip),
            ("GZIP", Gzip),
            ("gzip, deflate, br", Gzip),
            ("deflate, gzip;q=0.5", Gzip),
            ("*", Gzip),
            ("gzip;q=1.0, identity; q=0.5, *;q=0", Gzip),
            ("gzip;q=0", Plain),
            ("gzip; q=0.0, *", Plain),
            ("gzip;q=0.5, identity", Plain),
            ("*;q=0", Plain),
            ("identity", Plain),
            ("br", Plain),
            ("gzipped", Plain),
            ("gzip;q=2", Plain),
            ("", Plain),
        ] {
            assert_eq!(
                encoding(&headers(ACCEPT_ENCODING, &[accept])),
                want,
                "{accept}"
            );
        }
        assert_eq!(encoding(&HeaderMap::new()), Plain);
    }
}
