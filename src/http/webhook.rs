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
    auth::{Denied, Proof},
    body::{Bodies, BodyError, discard},
    error, json, method_not_allowed, not_found,
};
use crate::{
    ingest::{Ingest, IngestError, Tally},
    providers::{Auth, Delivery, Parsed},
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

    /// Reads a delivery that is authentic; or else says what to answer.
    async fn receive<B: Body<Data = Bytes> + Send>(
        &self,
        gate: &Gate,
        metrics: &ProviderMetrics,
        head: &Parts,
        body: B,
    ) -> Result<Parsed, Box<Answer>> {
        let proof = match self.admit(gate, metrics, head) {
            Ok(proof) => proof,
            Err(answer) => {
                discard(body).await;
                return Err(answer);
            }
        };
        let body = match self.bodies.read(body).await {
            Ok(body) => body,
            Err(reason) => return Err(self.rejected(gate, status_of(reason), &reason)),
        };
        gate.verify(&proof, &body).map_err(|denied| self.unauthorized(gate, metrics, denied))?;
        let query = head.uri.query().unwrap_or_default();
        let delivery = Delivery { method: &head.method, query, body: &body };
        gate.provider.parse(&delivery).map_err(|reason| self.rejected(gate, StatusCode::BAD_REQUEST, &reason))
    }

    /// Says what the body has still to prove, or what to answer without reading it.
    fn admit(&self, gate: &Gate, metrics: &ProviderMetrics, head: &Parts) -> Result<Proof, Box<Answer>> {
        let provider = gate.provider;
        let (_, path_token) = target(head.uri.path());
        if !gate.is_on() || path_token.is_some() && !gate.takes_token() {
            return Err(self.rejected(gate, StatusCode::NOT_FOUND, &"nothing is served at this path"));
        }
        if provider.auth() == Auth::Signature && head.method == Method::GET {
            return Err(self.handshake(gate, metrics, head.uri.query().unwrap_or_default()));
        }
        if !provider.methods().contains(&head.method) {
            let handshake = (provider.auth() == Auth::Signature).then_some("GET");
            let methods = provider.methods().iter().map(Method::as_str);
            self.log_rejected(gate, StatusCode::METHOD_NOT_ALLOWED, &"wrong method");
            return Err(Box::new(method_not_allowed(&handshake.into_iter().chain(methods).collect::<Vec<_>>())));
        }
        gate.check(&head.headers, path_token).map_err(|denied| self.unauthorized(gate, metrics, denied))
    }

    /// Hands what was read to the writer; or else says what to answer.
    fn submit(
        &self,
        gate: &Gate,
        parsed: Parsed,
    ) -> Result<impl Future<Output = Result<Tally, IngestError>> + use<>, Box<Answer>> {
        match self.ingest.get() {
            Some(ingest) => Ok(ingest.submit(gate.provider.name(), parsed)),
            None => {
                let reason = "the stored state is still being loaded";
                Err(self.rejected(gate, StatusCode::SERVICE_UNAVAILABLE, &reason))
            }
        }
    }

    /// Meta's "Verification Requests": proves to Meta that this endpoint is the app's.
    fn handshake(&self, gate: &Gate, metrics: &ProviderMetrics, query: &str) -> Box<Answer> {
        let pairs: Vec<(Cow<'_, str>, Cow<'_, str>)> = serde_urlencoded::from_str(query).unwrap_or_default();
        let value = |name| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_ref());
        let token = value("hub.verify_token").unwrap_or_default();
        let is_known = gate.knows_verify_token(token);
        if !is_known {
            if token.is_empty() { metrics.auth_missing.inc() } else { metrics.auth_wrong.inc() }
        }
        if !is_known || value("hub.mode") != Some("subscribe") {
            return self.rejected(
                gate,
                StatusCode::FORBIDDEN,
                &"the handshake's mode or verify token is not the configured one",
            );
        }
        match value("hub.challenge") {
            Some(challenge) => {
                info!(provider = gate.provider.name(), "webhook handshake answered");
                Box::new(answer(StatusCode::OK, PLAIN, challenge.to_owned()))
            }
            None => self.rejected(gate, StatusCode::BAD_REQUEST, &"the handshake has no challenge"),
        }
    }

    /// The same bytes for every reason; the log has the reason.
    fn unauthorized(&self, gate: &Gate, metrics: &ProviderMetrics, denied: Denied) -> Box<Answer> {
        match denied {
            Denied::Missing => metrics.auth_missing.inc(),
            Denied::Wrong => metrics.auth_wrong.inc(),
        }
        self.log_rejected(gate, StatusCode::UNAUTHORIZED, &denied.as_str());
        let mut answer = error(StatusCode::UNAUTHORIZED, "the signature or token is missing or wrong");
        answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        Box::new(answer)
    }

    fn rejected(&self, gate: &Gate, status: StatusCode, reason: &dyn fmt::Display) -> Box<Answer> {
        self.log_rejected(gate, status, reason);
        let mut answer = error(status, &reason.to_string());
        if status == StatusCode::SERVICE_UNAVAILABLE {
            answer.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS);
        }
        Box::new(answer)
    }

    fn log_rejected(&self, gate: &Gate, status: StatusCode, reason: &dyn fmt::Display) {
        if let Some(LogLine { left_out }) = self.log_lines.admit(Instant::now()) {
            warn!(provider = gate.provider.name(), code = status.as_u16(), %reason, left_out, "webhook rejected");
        }
    }
}

impl Handler for Webhooks {
    const SMALL_ANSWERS: bool = true;

    fn handle<B>(self: Arc<Self>, request: Request<B>) -> impl Future<Output = Answer> + Send
    where
        B: Body<Data = Bytes> + Send,
    {
        let began = Instant::now();
        let (head, body) = request.into_parts();
        async move {
            let (name, _) = target(head.uri.path());
            let gate = self.gates.iter().find(|gate| gate.provider.name() == name);
            let Some((gate, metrics)) = gate.and_then(|gate| Some((gate, self.telemetry.provider(name)?))) else {
                discard(body).await;
                let answer = not_found();
                self.telemetry.answered(None, answer.status().as_u16());
                return answer;
            };
            let received = self.receive(gate, metrics, &head, body).await;
            // The buffer that holds it is not needed while the answer is waited for.
            drop(head);
            let answer = match received.and_then(|parsed| self.submit(gate, parsed)) {
                Ok(stored) => match stored.await {
                    Ok(tally) => json(StatusCode::OK, &tally),
                    Err(reason @ (IngestError::Busy | IngestError::Storage)) => {
                        *self.rejected(gate, StatusCode::SERVICE_UNAVAILABLE, &reason)
                    }
                },
                Err(answer) => *answer,
            };
            metrics.duration.observe(began.elapsed().as_secs_f64());
            self.telemetry.answered(Some(metrics), answer.status().as_u16());
            answer
        }
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
