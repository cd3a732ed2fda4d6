//! The public listener: the providers' webhooks and nothing else.

use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, OnceLock},
    time::Instant,
};

use bytes::Bytes;
use hyper::{
    Method, Request, StatusCode,
    body::Body,
    header::{HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE},
    http::request::Parts,
};
use tracing::{info, warn};

use super::{
    Answer, Gate, Handler, PLAIN, answer,
    auth::Denied,
    body::{Bodies, BodyError, discard},
    error, json, method_not_allowed, not_found,
};
use crate::{
    ingest::{Ingest, IngestError},
    providers::{Auth, Delivery},
    telemetry::{LogLine, LogLines, ProviderMetrics, Telemetry},
};

/// Seconds after which a sender may try again.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("5");

/// Answers webhooks.
pub struct Webhooks {
    gates: Vec<Gate>,
    ingest: Arc<OnceLock<Ingest>>,
    telemetry: Arc<Telemetry>,
    bodies: Bodies,
    log_lines: LogLines,
}

impl Webhooks {
    /// Webhooks go through `gates` to `ingest`, once the state is loaded and that is set.
    pub fn new(gates: Vec<Gate>, ingest: Arc<OnceLock<Ingest>>, telemetry: Arc<Telemetry>) -> Self {
        Self { gates, ingest, telemetry, bodies: Bodies::default(), log_lines: LogLines::default() }
    }

    async fn respond<B: Body<Data = Bytes> + Send>(
        &self,
        gate: &Gate,
        metrics: &ProviderMetrics,
        head: Parts,
        body: B,
    ) -> Answer {
        let provider = gate.provider;
        let (_, path_token) = target(head.uri.path());
        let query = head.uri.query().unwrap_or_default();
        if !gate.is_on() || path_token.is_some() && !gate.takes_token() {
            discard(body).await;
            return self.rejected(gate, StatusCode::NOT_FOUND, &"nothing is served at this path");
        }
        if provider.auth() == Auth::Signature && head.method == Method::GET {
            return self.handshake(gate, metrics, query);
        }
        if !provider.methods().contains(&head.method) {
            discard(body).await;
            let handshake = (provider.auth() == Auth::Signature).then_some("GET");
            let methods = provider.methods().iter().map(Method::as_str);
            self.log_rejected(gate, StatusCode::METHOD_NOT_ALLOWED, &"wrong method");
            return method_not_allowed(&handshake.into_iter().chain(methods).collect::<Vec<_>>());
        }
        let proof = match gate.check(&head.headers, path_token) {
            Ok(proof) => proof,
            Err(denied) => {
                discard(body).await;
                return self.unauthorized(gate, metrics, denied);
            }
        };
        let body = match self.bodies.read(body).await {
            Ok(body) => body,
            Err(reason) => return self.rejected(gate, status_of(reason), &reason),
        };
        if let Err(denied) = gate.verify(&proof, &body) {
            return self.unauthorized(gate, metrics, denied);
        }
        let parsed = match provider.parse(&Delivery { method: &head.method, query, body: &body }) {
            Ok(parsed) => parsed,
            Err(reason) => return self.rejected(gate, StatusCode::BAD_REQUEST, &reason),
        };
        // The buffer that holds them is not needed while the answer is waited for.
        drop((head, body));
        let Some(ingest) = self.ingest.get() else {
            return self.rejected(gate, StatusCode::SERVICE_UNAVAILABLE, &"the stored state is still being loaded");
        };
        match ingest.submit(provider.name(), parsed).await {
            Ok(tally) => json(StatusCode::OK, &tally),
            Err(reason @ (IngestError::Busy | IngestError::Storage)) => {
                self.rejected(gate, StatusCode::SERVICE_UNAVAILABLE, &reason)
            }
        }
    }

    /// Meta's "Verification Requests": proves to Meta that this endpoint is the app's.
    fn handshake(&self, gate: &Gate, metrics: &ProviderMetrics, query: &str) -> Answer {
        let pairs: Vec<(Cow<'_, str>, Cow<'_, str>)> = serde_urlencoded::from_str(query).unwrap_or_default();
        let value = |name| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_ref());
        let token = value("hub.verify_token").unwrap_or_default();
        if value("hub.mode") != Some("subscribe") || !gate.knows_verify_token(token) {
            if token.is_empty() {
                metrics.auth_missing.inc()
            } else {
                metrics.auth_wrong.inc()
            }
            return self.rejected(
                gate,
                StatusCode::FORBIDDEN,
                &"the handshake's mode or verify token is not the configured one",
            );
        }
        match value("hub.challenge") {
            Some(challenge) => {
                info!(provider = gate.provider.name(), "webhook handshake answered");
                answer(StatusCode::OK, PLAIN, challenge.to_owned())
            }
            None => self.rejected(gate, StatusCode::BAD_REQUEST, &"the handshake has no challenge"),
        }
    }

    /// The same bytes for every reason; the log has the reason.
    fn unauthorized(&self, gate: &Gate, metrics: &ProviderMetrics, denied: Denied) -> Answer {
        match denied {
            Denied::Missing | Denied::Forwarded => metrics.auth_missing.inc(),
            Denied::Wrong => metrics.auth_wrong.inc(),
        }
        self.log_rejected(gate, StatusCode::UNAUTHORIZED, &denied.as_str());
        let mut answer = error(StatusCode::UNAUTHORIZED, "the signature or token is missing or wrong");
        answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        answer
    }

    fn rejected(&self, gate: &Gate, status: StatusCode, reason: &dyn fmt::Display) -> Answer {
        self.log_rejected(gate, status, reason);
        let mut answer = error(status, &reason.to_string());
        if status == StatusCode::SERVICE_UNAVAILABLE {
            answer.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS);
        }
        answer
    }

    fn log_rejected(&self, gate: &Gate, status: StatusCode, reason: &dyn fmt::Display) {
        if let Some(LogLine { left_out }) = self.log_lines.admit(Instant::now()) {
            warn!(provider = gate.provider.name(), code = status.as_u16(), %reason, left_out, "webhook rejected");
        }
    }
}

impl Handler for Webhooks {
    const SMALL_ANSWERS: bool = true;

    async fn handle<B>(&self, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes> + Send,
    {
        let began = Instant::now();
        let (head, body) = request.into_parts();
        let (name, _) = target(head.uri.path());
        let gate = self.gates.iter().find(|gate| gate.provider.name() == name);
        let Some((gate, metrics)) = gate.and_then(|gate| Some((gate, self.telemetry.provider(name)?))) else {
            discard(body).await;
            let answer = not_found();
            self.telemetry.answered(None, answer.status().as_u16());
            return answer;
        };
        let answer = self.respond(gate, metrics, head, body).await;
        metrics.duration.observe(began.elapsed().as_secs_f64());
        self.telemetry.answered(Some(metrics), answer.status().as_u16());
        answer
    }
}

/// The provider's name and the token in a path; no name where it is not of a webhook.
fn target(path: &str) -> (&str, Option<&str>) {
    let Some(rest) = path.strip_prefix("/webhooks/") else { return ("", None) };
    match rest.split_once('/') {
        Some((name, token)) => (name, Some(token)),
        None => (rest, None),
    }
}

fn status_of(reason: BodyError) -> StatusCode {
    match reason {
        BodyError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        BodyError::Slow => StatusCode::REQUEST_TIMEOUT,
        BodyError::Broken => StatusCode::BAD_REQUEST,
        BodyError::Busy => StatusCode::SERVICE_UNAVAILABLE,
    }
}
