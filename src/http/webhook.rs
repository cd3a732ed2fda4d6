//! The public listener: the providers' webhooks and nothing else.

use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, OnceLock},
    time::Instant,
};

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, StatusCode,
    body::Body,
    header::{
        ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
    },
    http::request::Parts,
};
use tracing::{info, warn};

use super::{
    Answer, Gate, Handler, PLAIN, answer,
    auth::{Denied, Proof},
    body::{Bodies, BodyError, discard},
    error, header, json, lacks_host, method_not_allowed, not_found,
};
use crate::{
    ingest::{Ingest, IngestError, Request, Tally},
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
    /// Lines about requests that are not authentic.
    stranger_lines: LogLines,
}

impl Webhooks {
    /// Webhooks go through `gates` to `ingest`, once the state is loaded and that is set.
    pub fn new(gates: Vec<Gate>, ingest: Arc<OnceLock<Ingest>>, telemetry: Arc<Telemetry>) -> Self {
        let bodies = Bodies::default();
        let (log_lines, stranger_lines) = (LogLines::of_the_known(), LogLines::of_strangers());
        Self {
            gates,
            ingest,
            telemetry,
            bodies,
            log_lines,
            stranger_lines,
        }
    }

    /// Reads a request that is authentic, and says what to answer in the end where that is not the counts; or else says
    /// what to answer now.
    async fn receive<B: Body<Data = Bytes> + Send>(
        &self,
        gate: &Gate,
        metrics: &ProviderMetrics,
        head: &Parts,
        body: B,
    ) -> Result<(Request, Option<Answer>), Box<Answer>> {
        let admitted = match self.admit(gate, metrics, head) {
            Ok(admitted) => admitted,
            Err(answer) => {
                discard(body).await;
                return Err(answer);
            }
        };
        let proof = match admitted {
            Admitted::Handshake(challenge) => return Ok((Request::Handshake, Some(*challenge))),
            Admitted::Delivery(proof) => proof,
        };
        let body = match self.bodies.read(body).await {
            Ok(body) => body,
            Err(reason) => {
                return Err(self.rejected(gate, self.lines(&proof), status_of(reason), &reason));
            }
        };
        gate.verify(&proof, &body)
            .map_err(|denied| self.unauthorized(gate, metrics, denied))?;
        let query = head.uri.query().unwrap_or_default();
        let content_type = header(&head.headers, CONTENT_TYPE).unwrap_or_default();
        let delivery = Delivery {
            method: &head.method,
            query,
            content_type,
            body: &body,
        };
        match gate.provider.parse(&delivery) {
            Ok(parsed) => Ok((Request::Delivery(parsed), None)),
            Err(reason) => {
                Err(self.rejected(gate, &self.log_lines, StatusCode::BAD_REQUEST, &reason))
            }
        }
    }

    /// Says what the body has still to prove, or what to answer without reading it.
    fn admit(
        &self,
        gate: &Gate,
        metrics: &ProviderMetrics,
        head: &Parts,
    ) -> Result<Admitted, Box<Answer>> {
        let provider = gate.provider;
        let (_, path_token) = target(head.uri.path());
        if let Some(answer) = lacks_host(head) {
            self.log_rejected(
                gate,
                &self.stranger_lines,
                StatusCode::BAD_REQUEST,
                &"not one Host header",
            );
            return Err(Box::new(answer));
        }
        if !gate.is_on() || path_token.is_some() && !gate.takes_token() {
            let reason = "nothing is served at this path";
            return Err(self.rejected(gate, &self.stranger_lines, StatusCode::NOT_FOUND, &reason));
        }
        if provider.auth() == Auth::Signature && head.method == Method::GET {
            let challenge = self.handshake(gate, metrics, head.uri.query().unwrap_or_default())?;
            return Ok(Admitted::Handshake(Box::new(challenge)));
        }
        if !provider.methods().contains(&head.method) {
            let handshake = (provider.auth() == Auth::Signature).then_some("GET");
            let methods = provider.methods().iter().map(Method::as_str);
            self.log_rejected(
                gate,
                &self.stranger_lines,
                StatusCode::METHOD_NOT_ALLOWED,
                &"wrong method",
            );
            return Err(Box::new(method_not_allowed(
                &handshake.into_iter().chain(methods).collect::<Vec<_>>(),
            )));
        }
        let proof = gate
            .check(&head.headers, path_token)
            .map_err(|denied| self.unauthorized(gate, metrics, denied))?;
        if is_encoded(&head.headers) {
            let reason = "the body has a Content-Encoding; send it as it is";
            let mut answer = self.rejected(
                gate,
                self.lines(&proof),
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                &reason,
            );
            answer
                .headers_mut()
                .insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            return Err(answer);
        }
        Ok(Admitted::Delivery(proof))
    }

    /// The lines of the log for a request of which this is still to be proven.
    fn lines(&self, proof: &Proof) -> &LogLines {
        match proof {
            Proof::Done => &self.log_lines,
            Proof::Signature(_) => &self.stranger_lines,
        }
    }

    /// Hands what was read to the writer; or else says what to answer.
    fn submit(
        &self,
        gate: &Gate,
        request: Request,
    ) -> Result<impl Future<Output = Result<Tally, IngestError>> + use<>, Box<Answer>> {
        match self.ingest.get() {
            Some(ingest) => Ok(ingest.submit(gate.provider.name(), request)),
            None => {
                let reason = "the stored state is still being loaded";
                Err(self.rejected(
                    gate,
                    &self.log_lines,
                    StatusCode::SERVICE_UNAVAILABLE,
                    &reason,
                ))
            }
        }
    }

    /// Meta's "Verification Requests": the challenge proves to Meta that this endpoint is the app's.
    fn handshake(
        &self,
        gate: &Gate,
        metrics: &ProviderMetrics,
        query: &str,
    ) -> Result<Answer, Box<Answer>> {
        let pairs: Vec<(Cow<'_, str>, Cow<'_, str>)> =
            serde_urlencoded::from_str(query).unwrap_or_default();
        let value = |name| {
            pairs
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.as_ref())
        };
        let is_known = gate.knows_verify_token(value("hub.verify_token").unwrap_or_default());
        if !is_known {
            metrics.auth_handshake.inc();
        }
        if !is_known || value("hub.mode") != Some("subscribe") {
            let reason = "the handshake's mode or verify token is not the configured one";
            return Err(self.rejected(gate, &self.stranger_lines, StatusCode::FORBIDDEN, &reason));
        }
        let Some(challenge) = value("hub.challenge") else {
            let reason = "the handshake has no challenge";
            return Err(self.rejected(gate, &self.log_lines, StatusCode::BAD_REQUEST, &reason));
        };
        Ok(answer(StatusCode::OK, PLAIN, challenge.to_owned()))
    }

    /// The same bytes for every reason; the log has the reason.
    fn unauthorized(&self, gate: &Gate, metrics: &ProviderMetrics, denied: Denied) -> Box<Answer> {
        match denied {
            Denied::Missing => metrics.auth_missing.inc(),
            Denied::Wrong => metrics.auth_wrong.inc(),
        }
        self.log_rejected(
            gate,
            &self.stranger_lines,
            StatusCode::UNAUTHORIZED,
            &denied.as_str(),
        );
        let mut answer = error(
            StatusCode::UNAUTHORIZED,
            "the signature or token is missing or wrong",
        );
        answer
            .headers_mut()
            .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        Box::new(answer)
    }

    fn rejected(
        &self,
        gate: &Gate,
        lines: &LogLines,
        status: StatusCode,
        reason: &dyn fmt::Display,
    ) -> Box<Answer> {
        self.log_rejected(gate, lines, status, reason);
        let mut answer = error(status, &reason.to_string());
        if status == StatusCode::SERVICE_UNAVAILABLE {
            answer.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS);
        }
        Box::new(answer)
    }

    fn log_rejected(
        &self,
        gate: &Gate,
        lines: &LogLines,
        status: StatusCode,
        reason: &dyn fmt::Display,
    ) {
        if let Some(LogLine { left_out }) = lines.admit(Instant::now()) {
            warn!(provider = gate.provider.name(), code = status.as_u16(), %reason, left_out, "webhook rejected");
        }
    }
}

impl Handler for Webhooks {
    const SMALL_ANSWERS: bool = true;

    fn handle<B>(self: Arc<Self>, request: hyper::Request<B>) -> impl Future<Output = Answer> + Send
    where
        B: Body<Data = Bytes> + Send,
    {
        let began = Instant::now();
        let (head, body) = request.into_parts();
        async move {
            let (name, _) = target(head.uri.path());
            let gate = self.gates.iter().find(|gate| gate.provider.name() == name);
            let Some((gate, metrics)) =
                gate.and_then(|gate| Some((gate, self.telemetry.provider(name)?)))
            else {
                discard(body).await;
                let answer = not_found();
                self.telemetry.answered(None, answer.status().as_u16());
                return answer;
            };
            let received = self.receive(gate, metrics, &head, body).await;
            // The buffer that holds it is not needed while the answer is waited for.
            drop(head);
            let submitted = received
                .and_then(|(request, challenge)| Ok((self.submit(gate, request)?, challenge)));
            let answer = match submitted {
                Ok((stored, challenge)) => match (stored.await, challenge) {
                    (Ok(tally), None) => json(StatusCode::OK, &tally),
                    (Ok(_), Some(challenge)) => {
                        info!(
                            provider = gate.provider.name(),
                            "webhook handshake answered"
                        );
                        challenge
                    }
                    (Err(reason @ (IngestError::Busy | IngestError::Storage)), _) => *self
                        .rejected(
                            gate,
                            &self.log_lines,
                            StatusCode::SERVICE_UNAVAILABLE,
                            &reason,
                        ),
                },
                Err(answer) => *answer,
            };
            metrics.duration.observe(began.elapsed().as_secs_f64());
            self.telemetry
                .answered(Some(metrics), answer.status().as_u16());
            answer
        }
    }
}

/// A request that may go on.
enum Admitted {
    /// A delivery, with what its body has still to prove.
    Delivery(Proof),
    /// A handshake, with the answer that is its challenge.
    Handshake(Box<Answer>),
}

/// Whether a body is compressed, or else not what its sender wrote.
fn is_encoded(headers: &HeaderMap) -> bool {
    let values = headers
        .get_all(CONTENT_ENCODING)
        .into_iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','));
    values
        .map(<[u8]>::trim_ascii)
        .any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"))
}

/// The provider's name and the token in a path; no name where it is not of a webhook. One slash at the end is not part
/// of either, because many consoles store a URL with one.
fn target(path: &str) -> (&str, Option<&str>) {
    let Some(rest) = path.strip_prefix("/webhooks/") else {
        return ("", None);
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
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
