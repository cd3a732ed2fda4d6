//! Requests in, responses out. What is served where:
//!
//! | listener | path | method | answer |
//! |---|---|---|---|
//! | webhook | `/webhooks/PROVIDER`, `/webhooks/PROVIDER/TOKEN` | the provider's | [`Webhooks`] |
//! | webhook | `/webhooks/PROVIDER` of a provider with a handshake | GET | its challenge |
//! | web | `--web.telemetry-path` | GET, HEAD | the metrics |
//! | web | those of [`ROUTES`] | each its own | [`Web`] |
//!
//! Everything else is 404. Nothing of the web listener is reachable through the webhook listener.

mod answer;
mod api;
mod authenticate;
mod body;
mod connection;
mod documents;
mod find;
mod limits;
mod negotiate;
mod pages;
mod passwords;
mod protection;
mod scrape;
mod server;
mod web;
mod webhook;

use bytes::Bytes;
use hyper::{
    HeaderMap, Response, StatusCode, Version,
    header::{
        ALLOW, AsHeaderName, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
    },
    http::request::Parts,
};
use serde::Serialize;

pub use answer::PageBody;
pub use authenticate::Authenticator;
pub use limits::{Connections, Limits};
pub use protection::Protection;
pub use server::{Handler, serve};
pub use web::{Operations, ROUTES, Reload, Route, Web, WebOptions, is_taken};
pub use webhook::{Endpoint, Endpoints, Webhooks};

/// A whole answer.
pub type Answer = Response<PageBody>;

const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";
/// Seconds after which a sender may try again.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("5");
const PLAIN: &str = "text/plain; charset=utf-8";

fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(PageBody::from(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    match serde_json::to_vec(body) {
        Ok(body) => answer(status, JSON, body),
        Err(_) => answer(
            StatusCode::INTERNAL_SERVER_ERROR,
            JSON,
            r#"{"error":"the answer cannot be written"}"#,
        ),
    }
}

/// An error, in a sentence that never repeats what was sent.
fn error(status: StatusCode, sentence: &str) -> Answer {
    #[derive(Serialize)]
    struct Error<'a> {
        error: &'a str,
    }
    json(status, &Error { error: sentence })
}

/// An error that the client may try again after [`RETRY_SECONDS`].
fn unavailable(sentence: &str) -> Answer {
    let mut answer = error(StatusCode::SERVICE_UNAVAILABLE, sentence);
    answer.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS);
    answer
}

/// A request of HTTP/1.1 names exactly one host (RFC 9112, 3.2); otherwise the answer says so.
fn lacks_host(head: &Parts) -> Option<Answer> {
    let hosts = head.headers.get_all(HOST).iter().count();
    let is_wrong = head.version == Version::HTTP_11 && hosts != 1;
    is_wrong.then(|| {
        error(
            StatusCode::BAD_REQUEST,
            "a request of HTTP/1.1 needs one Host header",
        )
    })
}

/// The names and values of a query; what is not encoded as one decodes, too.
fn pairs(query: &str) -> Vec<(String, String)> {
    serde_urlencoded::from_str(query).unwrap_or_default()
}

const NOT_FOUND: &str = "nothing is served at this path";
const LOADING: &str = "the stored state is still being loaded";

fn not_found() -> Answer {
    error(StatusCode::NOT_FOUND, NOT_FOUND)
}

fn method_not_allowed(allowed: &[&str]) -> Answer {
    let allowed = allowed.join(", ");
    let mut answer = error(
        StatusCode::METHOD_NOT_ALLOWED,
        &format!("the method is not one of {allowed}"),
    );
    if let Ok(allowed) = HeaderValue::from_str(&allowed) {
        answer.headers_mut().insert(ALLOW, allowed);
    }
    answer
}

fn header(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&[u8]> {
    headers.get(name).map(HeaderValue::as_bytes)
}
