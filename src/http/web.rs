//! The private listener: metrics, health, the API and the pages.

use std::sync::Arc;

use super::{
    Answer, Endpoints, Handler, JSON, LOADING, PLAIN, PageBody, Protection, answer,
    answer::PieceMaker,
    api::{self, BadQuery},
    body::drain_body,
    documents::document,
    error, find, json, lacks_host, method_not_allowed, not_found,
    pages::Pages,
    scrape::{Scrapes, too_many_requests},
    unavailable,
};
use crate::{
    domain::{AccountKey, NumberKey},
    ingest::WriterQueue,
    readiness::Readiness,
    state::{Forgettable, Forgotten, Table},
    telemetry::Telemetry,
};
use bytes::Bytes;
use hyper::{Request, StatusCode, body::Body};
use tokio::sync::{mpsc, oneshot};

/// What is served besides the metrics, whose path is `--web.telemetry-path`.
pub const ROUTES: &[Route] = &[
    Route {
        path: "/",
        action: Action::Index,
    },
    Route {
        path: "/numbers/{provider}/{waba_id}/{phone_number}",
        action: Action::Page(Pages::number),
    },
    Route {
        path: "/accounts/{provider}/{waba_id}",
        action: Action::Page(Pages::account),
    },
    Route {
        path: "/docs/{page}",
        action: Action::Document,
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
        path: "/-/reload",
        action: Action::Reload,
    },
    Route {
        path: "/api/v1/phone_numbers",
        action: Action::List(api::list::<NumberKey>),
    },
    Route {
        path: "/api/v1/accounts",
        action: Action::List(api::list::<AccountKey>),
    },
    Route {
        path: "/api/v1/phone_numbers/{provider}/{waba_id}/{phone_number}",
        action: Action::Remove(|table, segments| {
            find::number(table, segments).map(Forgettable::Number)
        }),
    },
    Route {
        path: "/api/v1/accounts/{provider}/{waba_id}",
        action: Action::Remove(|_, segments| find::account(segments).map(Forgettable::Account)),
    },
];

/// The methods of a route from which is only read.
const READ: &[&str] = &["GET", "HEAD"];

/// The paths that need no password, because the probes of an orchestrator have none.
const PROBES: [&str; 2] = ["/-/healthy", "/-/ready"];

/// A path and what is answered there, to GET and HEAD where it does not say otherwise.
pub struct Route {
    /// The path; a segment in braces stands for any.
    pub path: &'static str,
    action: Action,
}

impl Route {
    /// The segments of a path that stand for something; `None` where it is not a path of this route.
    fn segments<'a>(&self, path: &'a str) -> Option<Vec<&'a str>> {
        let mut segments = Vec::new();
        let mut given = path.split('/');
        for segment in self.path.split('/') {
            let given = given.next()?;
            if segment.starts_with('{') {
                segments.push(given);
            } else if segment != given {
                return None;
            }
        }
        given.next().is_none().then_some(segments)
    }

    /// The methods that are answered.
    fn methods(&self) -> &'static [&'static str] {
        match self.action {
            Action::Reload => &["POST", "PUT"],
            Action::Remove(_) => &["DELETE"],
            _ => READ,
        }
    }
}

#[derive(Clone, Copy)]
enum Action {
    Index,
    /// A page about what the path names.
    Page(fn(&Pages, &[&str]) -> Answer),
    /// A page of the documentation.
    Document,
    Healthy,
    Ready,
    /// By `POST` or `PUT`, as in Prometheus.
    Reload,
    List(List),
    /// By `DELETE`.
    Remove(Find),
}

/// Finds what a path names, given its segments that stand for something.
type Find = fn(&Table, &[&str]) -> Option<Forgettable>;
type List = fn(&Arc<Table>, &str) -> Result<PieceMaker, BadQuery>;

/// Whether something else than the metrics is served at a path.
pub fn is_taken(path: &str) -> bool {
    path.starts_with("/api/") || ROUTES.iter().any(|route| route.segments(path).is_some())
}

/// Answers the operator's programs.
pub struct Web {
    pages: Arc<Pages>,
    table: Arc<Table>,
    readiness: Arc<Readiness>,
    scrapes: Scrapes,
    protection: Arc<Protection>,
    operations: Operations,
}

/// What the private listener was told.
#[derive(Clone, Debug, Default)]
pub struct WebOptions {
    /// The path of the metrics.
    pub telemetry_path: String,
    /// Scrapes, pages and lists of the API at a time; 0 for no limit.
    pub max_requests: usize,
    /// What stands before `/webhooks/` where the providers send them, where that is known.
    pub external_url: Option<String>,
}

/// What the operator may do by a request; `None` where that is not enabled.
#[derive(Clone, Debug, Default)]
pub struct Operations {
    /// Asks for a reload.
    pub reloads: Option<mpsc::Sender<Reload>>,
    /// Removes phone numbers and accounts.
    pub removals: Option<WriterQueue>,
}

/// A request for a reload: the sentence that says why it failed, or nothing.
pub type Reload = oneshot::Sender<Result<(), String>>;

impl Web {
    /// Shows `table`, once the stored state is loaded.
    pub fn new(
        options: WebOptions,
        table: Arc<Table>,
        readiness: Arc<Readiness>,
        telemetry: Arc<Telemetry>,
        endpoints: Arc<Endpoints>,
        protection: Arc<Protection>,
        operations: Operations,
    ) -> Self {
        let pages = Pages::new(
            Arc::clone(&table),
            Arc::clone(&telemetry),
            endpoints,
            options.telemetry_path,
            options.external_url,
        );
        let scrapes = Scrapes::new(Arc::clone(&table), telemetry, options.max_requests);
        Self {
            pages: Arc::new(pages),
            table,
            readiness,
            scrapes,
            protection,
            operations,
        }
    }

    async fn reload(&self) -> Answer {
        let Some(reloads) = &self.operations.reloads else {
            let sentence = "the reload is not enabled (--web.enable-lifecycle)";
            return error(StatusCode::FORBIDDEN, sentence);
        };
        let (reload, result) = oneshot::channel();
        if !self.readiness.is_loaded() {
            return loading();
        }
        // If the program is stopping, both channels are closed.
        let _ = reloads.send(reload).await;
        match result.await {
            Ok(Ok(())) => answer(
                StatusCode::OK,
                PLAIN,
                "secrets and web configurations read again\n",
            ),
            Ok(Err(reason)) => error(StatusCode::INTERNAL_SERVER_ERROR, &reason),
            Err(_) => error(StatusCode::SERVICE_UNAVAILABLE, "the program is stopping"),
        }
    }

    async fn remove(&self, find: Find, segments: &[&str]) -> Answer {
        let Some(removals) = &self.operations.removals else {
            let sentence = "removing is not enabled (--web.enable-admin-api)";
            return error(StatusCode::FORBIDDEN, sentence);
        };
        if !self.readiness.is_loaded() {
            return loading();
        }
        let result = match find(&self.table, segments) {
            Some(key) => removals.remove(key).await,
            None => Ok(Forgotten::default()),
        };
        match result {
            Ok(forgotten) if forgotten == Forgotten::default() => {
                let sentence = "no such phone number or account is known";
                error(StatusCode::NOT_FOUND, sentence)
            }
            Ok(forgotten) => json(StatusCode::OK, &forgotten),
            Err(reason) => unavailable(&reason.to_string()),
        }
    }

    fn ready(&self) -> Answer {
        if !self.readiness.is_loaded() {
            loading()
        } else if !self.readiness.storage_is_up() {
            let sentence = "the storage does not take changes; the log says why";
            error(StatusCode::SERVICE_UNAVAILABLE, sentence)
        } else if self.readiness.is_draining() {
            error(StatusCode::SERVICE_UNAVAILABLE, "the program is stopping")
        } else {
            answer(StatusCode::OK, PLAIN, "ready\n")
        }
    }

    /// Writes a page on a thread of its own, because it may look through all numbers.
    async fn page(&self, write: impl FnOnce(&Pages) -> Answer + Send + 'static) -> Answer {
        if !self.readiness.is_loaded() {
            return loading();
        }
        let Some(permit) = self.scrapes.permit() else {
            return too_many_requests();
        };
        let pages = Arc::clone(&self.pages);
        let page = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            write(&pages)
        });
        page.await.unwrap_or_else(|_| {
            let sentence = "the page cannot be written; the log says why";
            error(StatusCode::INTERNAL_SERVER_ERROR, sentence)
        })
    }

    fn list(&self, list: List, query: &str) -> Answer {
        if !self.readiness.is_loaded() {
            return loading();
        }
        let Some(permit) = self.scrapes.permit() else {
            return too_many_requests();
        };
        match list(&self.table, query) {
            Ok(pieces) => {
                let body = PageBody::from(pieces).with_permit(permit);
                answer(StatusCode::OK, JSON, Bytes::new()).map(|_| body)
            }
            Err(reason) => error(StatusCode::BAD_REQUEST, &reason.to_string()),
        }
    }
}

impl Handler for Web {
    const VECTORED_WRITES: bool = true;

    fn protection(&self) -> &Protection {
        &self.protection
    }

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
        if !PROBES.contains(&path)
            && let Some(refusal) = self.protection.current().refusal(&head).await
        {
            return refusal;
        }
        let query = head.uri.query().unwrap_or_default();
        let mut routes = ROUTES.iter();
        let route = routes.find_map(|route| Some((route, route.segments(path)?)));
        if route.is_none() && path != self.pages.telemetry_path {
            return not_found();
        }
        let methods = route.as_ref().map_or(READ, |(route, _)| route.methods());
        if !methods.contains(&head.method.as_str()) {
            return method_not_allowed(methods);
        }
        let (action, segments) = route
            .map(|(route, segments)| (route.action, segments))
            .unzip();
        match action {
            Some(Action::Index) => {
                let is_up = self.readiness.storage_is_up();
                let query = query.to_owned();
                self.page(move |pages| pages.index(&query, is_up)).await
            }
            Some(Action::Page(write)) => {
                let segments = segments.unwrap_or_default();
                let segments: Vec<String> = segments.into_iter().map(str::to_owned).collect();
                let write = move |pages: &Pages| {
                    let segments: Vec<_> = segments.iter().map(String::as_str).collect();
                    write(pages, &segments)
                };
                self.page(write).await
            }
            Some(Action::Document) => {
                let segments = segments.unwrap_or_default();
                document(segments.first().copied().unwrap_or_default())
            }
            Some(Action::Healthy) => answer(StatusCode::OK, PLAIN, "healthy\n"),
            Some(Action::Ready) => self.ready(),
            Some(Action::Reload) => self.reload().await,
            Some(Action::List(list)) => self.list(list, query),
            Some(Action::Remove(find)) => self.remove(find, &segments.unwrap_or_default()).await,
            None if !self.readiness.is_loaded() => loading(),
            None => self.scrapes.answer(&head.headers, query).await,
        }
    }
}

fn loading() -> Answer {
    error(StatusCode::SERVICE_UNAVAILABLE, LOADING)
}
