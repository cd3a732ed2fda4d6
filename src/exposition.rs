//! What Prometheus reads: the families of phone numbers and accounts, and the formats.
//!
//! These series are written directly. The `prometheus` crate keys a child by a hash of its label
//! values joined without a separator, so that account `12` with number `345` and account `123` with
//! number `45` would be one series; it serves the exporter's own, closed label sets.
//!
//! A scrape hands out bytes that exist: [`Exposition`] keeps the samples of each shard and family, in the encoding
//! that is asked for, until a fold touches the shard.

mod cache;
mod families;
pub mod gzip;
mod text;

use std::sync::Arc;

use bytes::Bytes;
use prometheus::proto::MetricFamily;

pub use families::{ACCOUNT, Family, Kind, PHONE_NUMBER, Value};

use crate::{
    domain::{AccountKey, NumberKey},
    state::{Account, Number, Table},
};
use cache::{Sheet, Subject};

/// What a scraper asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// The format of the page.
    pub format: Format,
    /// Its encoding.
    pub encoding: Encoding,
    /// The part of the phone numbers.
    pub part: Part,
}

/// A format of the page. The lines of samples are the same in both.
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

/// Part `index` of `of`: the shards whose number leaves the remainder `index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    index: usize,
    of: usize,
}

/// A page in pieces, none of them copied from where it is kept.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The pieces, in order.
    pub pieces: Vec<Bytes>,
}

/// Makes pages, and keeps what they are made of.
#[derive(Debug)]
pub struct Exposition {
    table: Arc<Table>,
    numbers: Sheet<NumberKey, Number>,
    accounts: Sheet<AccountKey, Account>,
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

impl Part {
    /// The whole.
    pub const WHOLE: Self = Self { index: 0, of: 1 };

    /// Reads `I/N` with 0 ≤ I < N.
    pub fn parse(text: &str) -> Option<Self> {
        let (index, of) = text.split_once('/')?;
        let digits = |text: &str| {
            text.bytes()
                .all(|b| b.is_ascii_digit())
                .then(|| text.parse().ok())
                .flatten()
        };
        let part = Self {
            index: digits(index)?,
            of: digits(of)?,
        };
        (part.index < part.of).then_some(part)
    }

    fn has(self, shard: usize) -> bool {
        shard % self.of == self.index
    }
}

impl Default for Part {
    fn default() -> Self {
        Self::WHOLE
    }
}

impl Page {
    /// All pieces in one.
    pub fn to_vec(&self) -> Vec<u8> {
        self.pieces.concat()
    }
}

impl Exposition {
    /// Shows `table`.
    pub fn new(table: Arc<Table>) -> Self {
        Self {
            table,
            numbers: Sheet::default(),
            accounts: Sheet::default(),
            deflater: gzip::Deflater::default(),
        }
    }

    /// The page as it is asked for: phone numbers, and in part 0 accounts and then the `own` families.
    pub fn page(&mut self, ask: Ask, own: &[MetricFamily]) -> Page {
        let mut pieces = match ask.encoding {
            Encoding::Plain => Pieces::Plain(Vec::new()),
            Encoding::Gzip => Pieces::Gzip(gzip::Member::default()),
        };
        self.numbers
            .write(&self.table.numbers, ask, &mut pieces, &mut self.deflater);
        if ask.part.index == 0 {
            let all = Ask {
                part: Part::WHOLE,
                ..ask
            };
            self.accounts
                .write(&self.table.accounts, all, &mut pieces, &mut self.deflater);
            let mut text = Vec::new();
            text::write_own(&mut text, ask.format, own);
            pieces.push_text(text, &mut self.deflater);
        }
        if ask.format == Format::OpenMetrics {
            pieces.push_text(b"# EOF\n".to_vec(), &mut self.deflater);
        }
        Page {
            pieces: pieces.finish(),
        }
    }
}

/// What a page is put together from.
enum Pieces {
    Plain(Vec<Bytes>),
    Gzip(gzip::Member),
}

impl Pieces {
    /// Text that is not kept.
    fn push_text(&mut self, text: Vec<u8>, deflater: &mut gzip::Deflater) {
        match self {
            Self::Plain(pieces) => pieces.push(text.into()),
            Self::Gzip(member) => {
                let mut bytes = Vec::new();
                deflater.deflate(&text, &mut bytes);
                member.push(bytes.into(), gzip::Check::of(&text));
            }
        }
    }

    fn finish(self) -> Vec<Bytes> {
        match self {
            Self::Plain(pieces) => pieces,
            Self::Gzip(member) => member.finish(),
        }
    }
}

impl Subject for NumberKey {
    type Known = Number;
    const FAMILIES: &'static [Family<Number>] = PHONE_NUMBER;

    fn write_labels(&self, to: &mut Vec<u8>) {
        self.account.write_labels(to);
        to.push(b',');
        text::write_label(to, "phone_number", self.phone_number.as_str());
    }
}

impl Subject for AccountKey {
    type Known = Account;
    const FAMILIES: &'static [Family<Account>] = ACCOUNT;

    fn write_labels(&self, to: &mut Vec<u8>) {
        text::write_label(to, "provider", self.provider);
        to.push(b',');
        text::write_label(to, "waba_id", self.waba_id.as_str());
    }
}
