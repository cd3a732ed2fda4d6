//! The private listener: metrics, health, the API and a page that leads to them.

use std::{
    fmt::Write,
    sync::{Arc, OnceLock},
    time::Instant,
};

use bytes::Bytes;
use hyper::{Method, Request, StatusCode, body::Body};

use super::{Answer, HTML, Handler, PLAIN, answer, api, body::discard, error, method_not_allowed, not_found};
use crate::{exposition, ingest::Ingest, providers, state::Table, telemetry::Telemetry};

/// Answers the operator's programs.
pub struct Web {
    telemetry_path: String,
    table: Arc<Table>,
    ingest: Arc<OnceLock<Ingest>>,
    telemetry: Arc<Telemetry>,
}

impl Web {
    /// Shows `table`, once the state is loaded and `ingest` is set.
    pub fn new(
        telemetry_path: String,
        table: Arc<Table>,
        ingest: Arc<OnceLock<Ingest>>,
        telemetry: Arc<Telemetry>,
    ) -> Self {
        Self { telemetry_path, table, ingest, telemetry }
    }

    fn is_loaded(&self) -> bool {
        self.ingest.get().is_some()
    }

    async fn metrics(&self) -> Answer {
        if !self.is_loaded() {
            return loading();
        }
        let began = Instant::now();
        let table = Arc::clone(&self.table);
        let own = self.telemetry.gather();
        let page = tokio::task::spawn_blocking(move || exposition::page(&table, &own)).await;
        self.telemetry.scrape_duration.observe(began.elapsed().as_secs_f64());
        match page {
            Ok(Ok(page)) => answer(StatusCode::OK, exposition::CONTENT_TYPE, page),
            _ => error(StatusCode::INTERNAL_SERVER_ERROR, "the page cannot be written; the log says why"),
        }
    }

    fn ready(&self) -> Answer {
        if !self.is_loaded() {
            loading()
        } else if self.telemetry.storage.up.get() != 1 {
            error(StatusCode::SERVICE_UNAVAILABLE, "the storage does not take changes; the log says why")
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
        let links = [path.as_str(), "/-/healthy", "/-/ready", "/api/v1/phone_numbers", "/api/v1/accounts"];
        for link in links {
            // Writing to a string does not fail.
            let _ = write!(page, "<li><a href=\"{link}\">{link}</a></li>");
        }
        page.push_str("</ul><p>Webhooks are received on the webhook listener:</p><ul>");
        for provider in providers::ALL {
            let _ = write!(page, "<li>{}: <code>/webhooks/{}</code></li>", provider.title(), provider.name());
        }
        page.push_str("</ul></body></html>\n");
        answer(StatusCode::OK, HTML, page)
    }

    async fn api(&self, list: fn(&Table, &str) -> Result<serde_json::Value, api::BadQuery>, query: &str) -> Answer {
        if !self.is_loaded() {
            return loading();
        }
        let table = Arc::clone(&self.table);
        let query = query.to_owned();
        match tokio::task::spawn_blocking(move || list(&table, &query).map(|page| super::json(StatusCode::OK, &page)))
            .await
        {
            Ok(Ok(answer)) => answer,
            Ok(Err(reason)) => error(StatusCode::BAD_REQUEST, &reason.to_string()),
            Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "the list cannot be written; the log says why"),
        }
    }
}

impl Handler for Web {
    async fn handle<B>(&self, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes> + Send,
    {
        let (head, body) = request.into_parts();
        discard(body).await;
        let path = head.uri.path();
        let query = head.uri.query().unwrap_or_default();
        let known = ["/", "/-/healthy", "/-/ready", "/api/v1/phone_numbers", "/api/v1/accounts"];
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
            _ => self.metrics().await,
        }
    }
}

fn loading() -> Answer {
    error(StatusCode::SERVICE_UNAVAILABLE, "the stored state is still being loaded")
}
