//! The private listener: metrics, health, the API and a page that leads to them.

use std::{fmt::Write, sync::Arc};

use bytes::Bytes;
use hyper::{Method, Request, StatusCode, body::Body};
use serde_json::Value as Json;

use super::{
    Answer, HTML, Handler, LOADING, PLAIN, answer,
    api::{self, BadQuery},
    body::drain_body,
    error, json, lacks_host, method_not_allowed, not_found,
    scrape::Scrapes,
};
use crate::{
    domain::{AccountKey, NumberKey},
    ingest::WriterStatus,
    providers,
    state::Table,
    telemetry::Telemetry,
};

/// What is served besides the metrics, whose path is `--web.telemetry-path`.
pub const ROUTES: &[Route] = &[
    Route {
        path: "/",
        action: Action::Index,
    },
    Route {
        path: "/-/healthy",
        action: Action::Healthy,
    },
    Route {
        path: "/-/ready",
        action: Action::Ready,
    },
    Route {
        path: "/api/v1/phone_numbers",
        action: Action::List(api::list::<NumberKey>),
    },
    Route {
        path: "/api/v1/accounts",
        action: Action::List(api::list::<AccountKey>),
    },
];

/// A path and what is answered there, to GET and HEAD.
pub struct Route {
    /// The path.
    pub path: &'static str,
    action: Action,
}

#[derive(Clone, Copy)]
enum Action {
    Index,
    Healthy,
    Ready,
    List(List),
}

type List = fn(&Table, &str) -> Result<Json, BadQuery>;

/// Whether something else than the metrics is served at a path.
pub fn is_taken(path: &str) -> bool {
    path.starts_with("/api/") || ROUTES.iter().any(|route| route.path == path)
}

/// Answers the operator's programs.
pub struct Web {
    telemetry_path: String,
    table: Arc<Table>,
    writer_status: Arc<WriterStatus>,
    scrapes: Scrapes,
}

impl Web {
    /// Shows `table`, once the stored state is loaded.
    pub fn new(
        telemetry_path: String,
        table: Arc<Table>,
        writer_status: Arc<WriterStatus>,
        telemetry: Arc<Telemetry>,
        max_requests: usize,
    ) -> Self {
        let scrapes = Scrapes::new(Arc::clone(&table), telemetry, max_requests);
        Self {
            telemetry_path,
            table,
            writer_status,
            scrapes,
        }
    }

    fn ready(&self) -> Answer {
        if !self.writer_status.is_loaded() {
            loading()
        } else if !self.writer_status.storage_is_up() {
            let sentence = "the storage does not take changes; the log says why";
            error(StatusCode::SERVICE_UNAVAILABLE, sentence)
        } else {
            answer(StatusCode::OK, PLAIN, "ready\n")
        }
    }

    fn index(&self) -> Answer {
        let mut page = format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
             <title>WhatsApp Quality Exporter</title></head>\
             <body><h1>WhatsApp Quality Exporter</h1><p>Version {}</p><ul>",
            env!("CARGO_PKG_VERSION")
        );
        let others = ROUTES
            .iter()
            .map(|route| route.path)
            .filter(|path| *path != "/");
        for link in std::iter::once(self.telemetry_path.as_str()).chain(others) {
            // Writing to a string does not fail.
            let _ = write!(page, "<li><a href=\"{link}\">{link}</a></li>");
        }
        page.push_str("</ul><p>Webhooks are received on the webhook listener:</p><ul>");
        for provider in providers::ALL {
            let (title, name) = (provider.title, provider.name);
            let _ = write!(page, "<li>{title}: <code>/webhooks/{name}</code></li>");
        }
        page.push_str("</ul></body></html>\n");
        answer(StatusCode::OK, HTML, page)
    }

    async fn list(&self, list: List, query: &str) -> Answer {
        if !self.writer_status.is_loaded() {
            return loading();
        }
        let table = Arc::clone(&self.table);
        let query = query.to_owned();
        let write = move || list(&table, &query).map(|page| json(StatusCode::OK, &page));
        match tokio::task::spawn_blocking(write).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(reason)) => error(StatusCode::BAD_REQUEST, &reason.to_string()),
            Err(_) => {
                let sentence = "the list cannot be written; the log says why";
                error(StatusCode::INTERNAL_SERVER_ERROR, sentence)
            }
        }
    }
}

impl Handler for Web {
    const VECTORED_WRITES: bool = true;

    async fn handle<B>(self: Arc<Self>, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes> + Send,
    {
        let (head, body) = request.into_parts();
        drain_body(body).await;
        if let Some(answer) = lacks_host(&head) {
            return answer;
        }
        let path = head.uri.path();
        let query = head.uri.query().unwrap_or_default();
        let route = ROUTES.iter().find(|route| route.path == path);
        if route.is_none() && path != self.telemetry_path {
            return not_found();
        }
        if head.method != Method::GET && head.method != Method::HEAD {
            return method_not_allowed(&["GET", "HEAD"]);
        }
        match route.map(|route| route.action) {
            Some(Action::Index) => self.index(),
            Some(Action::Healthy) => answer(StatusCode::OK, PLAIN, "healthy\n"),
            Some(Action::Ready) => self.ready(),
            Some(Action::List(list)) => self.list(list, query).await,
            None if !self.writer_status.is_loaded() => loading(),
            None => self.scrapes.answer(&head.headers, query).await,
        }
    }
}

fn loading() -> Answer {
    error(StatusCode::SERVICE_UNAVAILABLE, LOADING)
}
