//! The whole way from a delivery to the page, without a process, a socket or a clock.

use std::sync::Arc;

use hyper::Method;
use proptest::test_runner::Config as ProptestConfig;
use serde::Deserialize;
use whatsapp_quality_exporter::{
    domain::{Change, Timestamp, UnknownField},
    exposition::{Exposition, ScrapeOptions},
    providers::{self, Delivery, Example, ParseError, Provider},
    state::{Draft, Entity, Fold, History, Outcome, Table},
};

use crate::support::{Sample, samples};

/// 2026-01-01T00:00:00Z.
pub const NEW_YEAR: i64 = 1_767_225_600;

/// An exporter of functions alone.
pub struct Memory {
    pub table: Arc<Table>,
    pub fold: Fold,
}

/// What became of a delivery; its names are those of the fixtures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Outcomes {
    pub applied: u32,
    pub duplicate: u32,
    pub stale: u32,
    pub refused: u32,
    pub ignored: u64,
    pub invalid: u64,
    pub test: u64,
    pub unusable_limits: u32,
}

impl Default for Memory {
    fn default() -> Self {
        Self::with_at_most(usize::MAX)
    }
}

impl Memory {
    /// One that takes so many numbers, and so many accounts.
    pub fn with_at_most(max_phone_numbers: usize) -> Self {
        let table = Arc::new(Table::default());
        Self {
            fold: Fold::new(Arc::clone(&table), max_phone_numbers),
            table,
        }
    }

    /// Takes a delivery that arrives at `received`, and shows what it changed.
    pub fn deliver(
        &mut self,
        provider: &Provider,
        delivery: &Delivery<'_>,
        received: Timestamp,
    ) -> Result<Outcomes, ParseError> {
        let parsed = provider.parse(delivery)?;
        let mut outcomes = Outcomes {
            ignored: parsed.ignored,
            invalid: parsed.invalid,
            test: parsed.test,
            unusable_limits: parsed.changes.iter().map(unusable_limits).sum(),
            ..Outcomes::default()
        };
        let mut draft = self.fold.draft();
        for change in &parsed.changes {
            match draft.apply(change, received) {
                Outcome::Applied(_) => outcomes.applied += 1,
                Outcome::Stale(_) => outcomes.stale += 1,
                Outcome::Duplicate => outcomes.duplicate += 1,
                Outcome::Refused | Outcome::Frozen => outcomes.refused += 1,
            }
        }
        publish(draft);
        Ok(outcomes)
    }

    /// The page without the exporter's own families.
    pub fn page(&self) -> String {
        let page = Exposition::new(Arc::clone(&self.table)).page(ScrapeOptions::default(), &[]);
        String::from_utf8(page.concat()).unwrap()
    }

    /// The history of everything of a kind.
    pub fn histories<K: Entity>(&self) -> Vec<(K, History)> {
        let all = K::shards(&self.table).iter_after(None);
        all.map(|(key, record)| (key, K::history(&record).clone()))
            .collect()
    }

    pub fn samples(&self) -> Vec<Sample> {
        samples(&self.page())
    }
}

fn unusable_limits(change: &Change) -> u32 {
    change
        .unknown
        .iter()
        .filter(|unknown| unknown.field == UnknownField::Limit)
        .count() as u32
}

/// Shows a draft as if it had been committed.
pub fn publish(draft: Draft<'_>) {
    let batch = draft.batch();
    draft.publish(&batch);
}

/// So many cases of a property; what fails is made small, however long that takes.
pub fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        max_shrink_iters: 1024,
        ..ProptestConfig::with_cases(cases)
    }
}

/// A provider by its name.
pub fn provider(name: &str) -> &'static Provider {
    providers::by_name(name).unwrap()
}

/// The changes of a body.
pub fn changes(provider: &Provider, body: &str) -> Vec<Change> {
    provider
        .parse(&post(body.as_bytes()))
        .unwrap()
        .changes
        .into_vec()
}

/// A whole second of the Unix epoch.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(seconds).unwrap()
}

pub fn get(query: &str) -> Delivery<'_> {
    Delivery {
        method: &Method::GET,
        query,
        content_type: b"",
        body: b"",
    }
}

pub fn post(body: &[u8]) -> Delivery<'_> {
    Delivery {
        method: &Method::POST,
        query: "",
        content_type: b"",
        body,
    }
}

pub fn example(provider: &Provider) -> Delivery<'static> {
    match provider.example {
        Example::Query(query) => get(query),
        Example::Json(body) => post(body.as_bytes()),
    }
}
