//! What Prometheus reads: the families of phone numbers and accounts, and the formats.
//!
//! These series are written directly. The `prometheus` crate keys a child by a hash of its label
//! values joined without a separator, so that account `12` with number `345` and account `123` with
//! number `45` would be one series; it serves the exporter's own, closed label sets.
//!
//! A scrape hands out bytes that exist: [`Exposition`] keeps the samples of each shard and family,
//! in the encoding that is asked for, until a fold touches the shard.

mod cache;
pub mod gzip;
mod text;

use std::sync::Arc;

use bytes::Bytes;
use prometheus::proto::MetricFamily;

use crate::{
    domain::{AccountKey, NumberKey},
    state::Table,
};
use cache::FamilyCache;

/// What a scraper asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrapeOptions {
    /// The format of the page.
    pub format: Format,
    /// Its encoding.
    pub encoding: Encoding,
    /// The part of the phone numbers.
    pub part: ShardFilter,
}

/// A format of the page. The samples of phone numbers and accounts are the same in both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format 0.0.4.
    #[default]
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

/// A content encoding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// As it is.
    #[default]
    Plain,
    /// One gzip member.
    Gzip,
}

/// The shards of the table whose number modulo `divisor` is `remainder`: what
/// `?shard=REMAINDER/DIVISOR` selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardFilter {
    remainder: usize,
    divisor: usize,
}

/// Makes pages, and keeps what they are made of.
#[derive(Debug)]
pub struct Exposition {
    table: Arc<Table>,
    numbers: FamilyCache<NumberKey>,
    accounts: FamilyCache<AccountKey>,
    deflater: gzip::Deflater,
}

impl Format {
    /// The `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

impl ShardFilter {
    /// The whole.
    pub const WHOLE: Self = Self {
        remainder: 0,
        divisor: 1,
    };

    /// Reads `I/N` with 0 ≤ I < N.
    pub fn parse(text: &str) -> Option<Self> {
        let (remainder, divisor) = text.split_once('/')?;
        let digits = |text: &str| {
            text.bytes()
                .all(|b| b.is_ascii_digit())
                .then(|| text.parse().ok())
                .flatten()
        };
        let part = Self {
            remainder: digits(remainder)?,
            divisor: digits(divisor)?,
        };
        (part.remainder < part.divisor).then_some(part)
    }

    fn includes(self, shard: usize) -> bool {
        shard % self.divisor == self.remainder
    }
}

impl Default for ShardFilter {
    fn default() -> Self {
        Self::WHOLE
    }
}

impl Exposition {
    /// Shows `table`.
    pub fn new(table: Arc<Table>) -> Self {
        Self {
            table,
            numbers: FamilyCache::default(),
            accounts: FamilyCache::default(),
            deflater: gzip::Deflater::default(),
        }
    }

    /// The page, in pieces of which none is copied from where it is kept: phone numbers, and in
    /// part 0 accounts and then the `exporter_families`.
    pub fn page(
        &mut self,
        options: ScrapeOptions,
        exporter_families: &[MetricFamily],
    ) -> Vec<Bytes> {
        let deflater = &mut self.deflater;
        let mut page = match options.encoding {
            Encoding::Plain => PageBuilder::Plain(Vec::new()),
            Encoding::Gzip => PageBuilder::Gzip(gzip::Member::default()),
        };
        self.numbers
            .write(&self.table, options, &mut page, deflater);
        if options.part.remainder == 0 {
            let whole = ScrapeOptions {
                part: ShardFilter::WHOLE,
                ..options
            };
            self.accounts.write(&self.table, whole, &mut page, deflater);
            let mut text = Vec::new();
            text::write_exporter_families(&mut text, options.format, exporter_families);
            page.push_text(text, deflater);
        }
        if options.format == Format::OpenMetrics {
            page.push_text(b"# EOF\n".to_vec(), deflater);
        }
        page.finish()
    }
}

/// Puts a page together.
enum PageBuilder {
    Plain(Vec<Bytes>),
    Gzip(gzip::Member),
}

impl PageBuilder {
    /// Adds text that is not kept.
    fn push_text(&mut self, text: Vec<u8>, deflater: &mut gzip::Deflater) {
        match self {
            Self::Plain(pieces) => pieces.push(text.into()),
            Self::Gzip(member) => {
                let mut bytes = Vec::new();
                deflater.deflate(&text, &mut bytes);
                member.push([bytes.into()], gzip::Check::of(&text));
            }
        }
    }

    /// Adds pieces that are encoded already, with the check of their text.
    fn push_encoded(&mut self, pieces: impl IntoIterator<Item = Bytes>, check: gzip::Check) {
        match self {
            Self::Plain(page) => page.extend(pieces),
            Self::Gzip(member) => member.push(pieces, check),
        }
    }

    fn finish(self) -> Vec<Bytes> {
        match self {
            Self::Plain(pieces) => pieces,
            Self::Gzip(member) => member.finish(),
        }
    }
}
