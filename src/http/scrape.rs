//! Scrapes: what is asked for, and the page.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

use hyper::{
    HeaderMap, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, VARY},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Answer, PageBody, error, negotiate, pairs};
use crate::{
    exposition::{Encoding, Exposition, ScrapeOptions, ShardFilter},
    state::Table,
    telemetry::Telemetry,
};

/// Answers scrapes.
pub(super) struct Scrapes {
    table: Arc<Table>,
    exposition: Arc<Mutex<Exposition>>,
    telemetry: Arc<Telemetry>,
    permits: Arc<Semaphore>,
}

impl Scrapes {
    /// Answers at most `max_requests` scrapes at a time; as with Prometheus' own exporters, 0 is no
    /// limit.
    pub(super) fn new(table: Arc<Table>, telemetry: Arc<Telemetry>, max_requests: usize) -> Self {
        let exposition = Arc::new(Mutex::new(Exposition::new(Arc::clone(&table))));
        let permits = match max_requests {
            0 => Semaphore::MAX_PERMITS,
            max => max.min(Semaphore::MAX_PERMITS),
        };
        Self {
            table,
            exposition,
            telemetry,
            permits: Arc::new(Semaphore::new(permits)),
        }
    }

    /// Leave to make one more answer that is large; `None` where as many are being sent already.
    pub(super) fn permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).try_acquire_owned().ok()
    }

    pub(super) async fn answer(&self, headers: &HeaderMap, query: &str) -> Answer {
        let part = match part_of(query) {
            Ok(part) => part,
            Err(sentence) => return error(StatusCode::BAD_REQUEST, sentence),
        };
        let Some(permit) = self.permit() else {
            return too_many_requests();
        };
        let (format, encoding) = (negotiate::format(headers), negotiate::encoding(headers));
        let options = ScrapeOptions {
            format,
            encoding,
            part,
        };
        let exposition = Arc::clone(&self.exposition);
        let table = Arc::clone(&self.table);
        let telemetry = Arc::clone(&self.telemetry);
        let page = tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let exporter_families = telemetry.gather();
            // A second scrape waits here, and finds what the first has rendered.
            let page = lock(&exposition, &table).page(options, &exporter_families);
            telemetry
                .scrape_duration
                .observe(began.elapsed().as_secs_f64());
            page
        });
        let Ok(page) = page.await else {
            let sentence = "the page cannot be written; the log says why";
            return error(StatusCode::INTERNAL_SERVER_ERROR, sentence);
        };
        let mut answer = Answer::new(PageBody::from(page).with_permit(permit));
        let headers = answer.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static(format.content_type()),
        );
        headers.insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
        if encoding == Encoding::Gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        answer
    }
}

pub(super) fn too_many_requests() -> Answer {
    let sentence = "too many requests at a time (--web.max-requests)";
    error(StatusCode::SERVICE_UNAVAILABLE, sentence)
}

/// What is kept for pages; nothing after a panic, which may have left it half made.
fn lock<'a>(exposition: &'a Mutex<Exposition>, table: &Arc<Table>) -> MutexGuard<'a, Exposition> {
    exposition.lock().unwrap_or_else(|poisoned| {
        exposition.clear_poison();
        let mut kept = poisoned.into_inner();
        *kept = Exposition::new(Arc::clone(table));
        kept
    })
}

/// `shard=I/N`; other parameters are the scraper's own affair.
fn part_of(query: &str) -> Result<ShardFilter, &'static str> {
    let pairs = pairs(query);
    match pairs.iter().find(|(name, _)| name == "shard") {
        None => Ok(ShardFilter::WHOLE),
        Some((_, part)) => ShardFilter::parse(part).ok_or("shard is not I/N with 0 <= I < N"),
    }
}
