//! The private listener: metrics, health, the API and a page that leads to them.

use std::{
    borrow::Cow,
    fmt::Write,
    sync::{Arc, Mutex, MutexGuard, OnceLock},
    time::Instant,
};

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, Request, StatusCode,
    body::Body,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, VARY},
};
use tokio::sync::Semaphore;

use super::{
    Answer, HTML, Handler, PLAIN, Pieces, answer, api, body::discard, error, lacks_host,
    method_not_allowed, negotiate, not_found,
};
use crate::{
    exposition::{Ask, Encoding, Exposition, Part},
    ingest::Ingest,
    providers,
    state::Table,
    telemetry::Telemetry,
};

/// Answers the operator's programs.
pub struct Web {
    telemetry_path: String,
    table: Arc<Table>,
    exposition: Arc<Mutex<Exposition>>,
    ingest: Arc<OnceLock<Ingest>>,
    telemetry: Arc<Telemetry>,
    /// Of scrapes at a time.
    places: Arc<Semaphore>,
}

impl Web {
    /// Shows `table`, once the state is loaded and `ingest` is set.
    pub fn new(
        telemetry_path: String,
        table: Arc<Table>,
        ingest: Arc<OnceLock<Ingest>>,
        telemetry: Arc<Telemetry>,
        max_requests: usize,
    ) -> Self {
        let exposition = Arc::new(Mutex::new(Exposition::new(Arc::clone(&table))));
        // As with Prometheus' own exporters, 0 is no limit.
        let places = if max_requests == 0 {
            Semaphore::MAX_PERMITS
        } else {
            max_requests.min(Semaphore::MAX_PERMITS)
        };
        Self {
            telemetry_path,
            table,
            exposition,
            ingest,
            telemetry,
            places: Arc::new(Semaphore::new(places)),
        }
    }

    fn is_loaded(&self) -> bool {
        self.ingest.get().is_some()
    }

    async fn metrics(&self, headers: &HeaderMap, query: &str) -> Answer {
        if !self.is_loaded() {
            return loading();
        }
        let part = match part_of(query) {
            Ok(part) => part,
            Err(sentence) => return error(StatusCode::BAD_REQUEST, sentence),
        };
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return error(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many scrapes at a time (--web.max-requests)",
            );
        };
        let ask = Ask {
            format: negotiate::format(headers),
            encoding: negotiate::encoding(headers),
            part,
        };
        let exposition = Arc::clone(&self.exposition);
        let table = Arc::clone(&self.table);
        let telemetry = Arc::clone(&self.telemetry);
        let page = tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let own = telemetry.gather();
            // Who comes second finds what the first has rendered.
            let page = lock(&exposition, &table).page(ask, &own);
            telemetry
                .scrape_duration
                .observe(began.elapsed().as_secs_f64());
            page
        });
        let Ok(page) = page.await else {
            return error(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the page cannot be written; the log says why",
            );
        };
        let mut answer = Answer::new(Pieces::with_place(page.pieces, place));
        let headers = answer.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static(ask.format.content_type()),
        );
        headers.insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
        if ask.encoding == Encoding::Gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        answer
    }

    fn ready(&self) -> Answer {
        if !self.is_loaded() {
            loading()
        } else if self.telemetry.storage.up.get() != 1 {
            error(
                StatusCode::SERVICE_UNAVAILABLE,
                "the storage does not take changes; the log says why",
            )
        } else {
            answer(StatusCode::OK, PLAIN, "ready\n")
        }
    }

    fn index(&self) -> Answer {
        let mut page = format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>WhatsApp Quality Exporter</title></head>\
             <body><h1>WhatsApp Quality Exporter</h1><p>Version {}</p><ul>",
            env!("CARGO_PKG_VERSION")
        );
        let path = &self.telemetry_path;
        let links = [
            path.as_str(),
            "/-/healthy",
            "/-/ready",
            "/api/v1/phone_numbers",
            "/api/v1/accounts",
        ];
        for link in links {
            // Writing to a string does not fail.
            let _ = write!(page, "<li><a href=\"{link}\">{link}</a></li>");
        }
        page.push_str("</ul><p>Webhooks are received on the webhook listener:</p><ul>");
        for provider in providers::ALL {
            let _ = write!(
                page,
                "<li>{}: <code>/webhooks/{}</code></li>",
                provider.title(),
                provider.name()
            );
        }
        page.push_str("</ul></body></html>\n");
        answer(StatusCode::OK, HTML, page)
    }

    async fn api(
        &self,
        list: fn(&Table, &str) -> Result<serde_json::Value, api::BadQuery>,
        query: &str,
    ) -> Answer {
        if !self.is_loaded() {
            return loading();
        }
        let table = Arc::clone(&self.table);
        let query = query.to_owned();
        match tokio::task::spawn_blocking(move || {
            list(&table, &query).map(|page| super::json(StatusCode::OK, &page))
        })
        .await
        {
            Ok(Ok(answer)) => answer,
            Ok(Err(reason)) => error(StatusCode::BAD_REQUEST, &reason.to_string()),
            Err(_) => error(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the list cannot be written; the log says why",
            ),
        }
    }
}

impl Handler for Web {
    const SMALL_ANSWERS: bool = false;

    async fn handle<B>(self: Arc<Self>, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes> + Send,
    {
        let (head, body) = request.into_parts();
        discard(body).await;
        if let Some(answer) = lacks_host(&head) {
            return answer;
        }
        let path = head.uri.path();
        let query = head.uri.query().unwrap_or_default();
        let known = [
            "/",
            "/-/healthy",
            "/-/ready",
            "/api/v1/phone_numbers",
            "/api/v1/accounts",
        ];
        if path != self.telemetry_path && !known.contains(&path) {
            return not_found();
        }
        if head.method != Method::GET && head.method != Method::HEAD {
            return method_not_allowed(&["GET", "HEAD"]);
        }
        match path {
            "/" => self.index(),
            "/-/healthy" => answer(StatusCode::OK, PLAIN, "healthy\n"),
            "/-/ready" => self.ready(),
            "/api/v1/phone_numbers" => self.api(api::phone_numbers, query).await,
            "/api/v1/accounts" => self.api(api::accounts, query).await,
            _ => self.metrics(&head.headers, query).await,
        }
    }
}

/// What is kept for pages; after a panic, which may have left it half made, nothing.
fn lock<'a>(exposition: &'a Mutex<Exposition>, table: &Arc<Table>) -> MutexGuard<'a, Exposition> {
    exposition.lock().unwrap_or_else(|poisoned| {
        exposition.clear_poison();
        let mut kept = poisoned.into_inner();
        *kept = Exposition::new(Arc::clone(table));
        kept
    })
}

/// `shard=I/N`; other parameters are a scraper's own affair.
fn part_of(query: &str) -> Result<Part, &'static str> {
    let pairs: Vec<(Cow<'_, str>, Cow<'_, str>)> =
        serde_urlencoded::from_str(query).unwrap_or_default();
    match pairs.iter().find(|(name, _)| name == "shard") {
        None => Ok(Part::WHOLE),
        Some((_, part)) => Part::parse(part).ok_or("shard is not I/N with 0 <= I < N"),
    }
}

fn loading() -> Answer {
    error(
        StatusCode::SERVICE_UNAVAILABLE,
        "the stored state is still being loaded",
    )
}
