//! The public listener: the providers' webhooks and nothing else.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::Instant,
};

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, Request, StatusCode,
    body::Body,
    header::{
        ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE,
    },
    http::request::Parts,
};
use tracing::{info, warn};

use super::{
    Answer, Authenticator, Handler, NOT_FOUND, PLAIN, Protection, answer,
    authenticate::{AuthError, PendingSignature},
    body::{BodyError, BodyReader, drain_body},
    error, header, json, lacks_host, method_not_allowed, not_found, pairs, unavailable,
};
use crate::{
    ingest::{Submission, WriterQueue},
    providers::{Delivery, Provider},
    telemetry::{LogLimiter, LogPermit, ProviderMetrics, Telemetry},
};

/// Answers webhooks.
pub struct Webhooks {
    endpoints: Arc<Endpoints>,
    queue: WriterQueue,
    telemetry: Arc<Telemetry>,
    protection: Arc<Protection>,
    body_reader: BodyReader,
    /// Lines of the log about requests that are authentic.
    lines: LogLimiter,
    /// Lines about requests that are not, or of which that is not known yet.
    stranger_lines: LogLimiter,
}

/// A provider, and how its requests prove that they are its own.
pub struct Endpoint {
    /// The provider.
    pub provider: &'static Provider,
    /// Checks its requests.
    pub authenticator: Authenticator,
}

/// All providers, which a reload replaces while requests go on.
#[derive(Default)]
pub struct Endpoints(RwLock<Arc<[Arc<Endpoint>]>>);

/// A request that may go on.
enum Admitted {
    /// A delivery, with what its body has still to prove.
    Delivery(PendingSignature),
    /// A handshake, with the answer that is its challenge.
    Handshake(Box<Answer>),
}

/// A request on its way through this listener.
struct Exchange<'a> {
    endpoint: &'a Endpoint,
    metrics: &'a ProviderMetrics,
    head: &'a Parts,
}

impl Endpoints {
    /// Takes other endpoints from the next request on.
    pub fn replace(&self, endpoints: Vec<Endpoint>) {
        let endpoints = endpoints.into_iter().map(Arc::new).collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = endpoints;
    }

    /// All of them.
    pub fn all(&self) -> Arc<[Arc<Endpoint>]> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn find(&self, name: &str) -> Option<Arc<Endpoint>> {
        let endpoints = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut endpoints = endpoints.iter();
        endpoints
            .find(|endpoint| endpoint.provider.name.as_str() == name)
            .cloned()
    }
}

impl From<Vec<Endpoint>> for Endpoints {
    fn from(endpoints: Vec<Endpoint>) -> Self {
        let all = Self::default();
        all.replace(endpoints);
        all
    }
}

impl Webhooks {
    /// Hands the webhooks of these endpoints to the writer.
    pub fn new(
        endpoints: Arc<Endpoints>,
        queue: WriterQueue,
        telemetry: Arc<Telemetry>,
        protection: Arc<Protection>,
    ) -> Self {
        Self {
            endpoints,
            queue,
            telemetry,
            protection,
            body_reader: BodyReader::default(),
            lines: LogLimiter::for_authentic_senders(),
            stranger_lines: LogLimiter::for_strangers(),
        }
    }

    /// Authenticates and reads a request. `Ok`: what to submit and, for a handshake, the response
    /// to send once it is stored. `Err`: the response to send now.
    async fn receive<B: Body<Data = Bytes> + Send>(
        &self,
        exchange: &Exchange<'_>,
        body: B,
    ) -> Result<(Submission, Option<Answer>), Box<Answer>> {
        let Exchange { endpoint, head, .. } = exchange;
        let pending = match self.admit(exchange) {
            Ok(Admitted::Delivery(pending)) => pending,
            Ok(Admitted::Handshake(challenge)) => {
                return Ok((Submission::Handshake, Some(*challenge)));
            }
            Err(answer) => {
                drain_body(body).await;
                return Err(answer);
            }
        };
        let lines = self.lines_for(endpoint, &pending);
        let body = self.body_reader.read(body).await.map_err(|reason| {
            let mut answer = self.rejected(endpoint, lines, status_of(reason), &reason);
            if matches!(reason, BodyError::TooLarge | BodyError::Slow) {
                // hyper closes the connection, because the body was not read to its end; the header
                // says so.
                answer
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            answer
        })?;
        let verified = endpoint.authenticator.verify(&pending, &body);
        verified.map_err(|error| self.unauthorized(exchange, error))?;
        let delivery = Delivery {
            method: &head.method,
            query: head.uri.query().unwrap_or_default(),
            content_type: header(&head.headers, CONTENT_TYPE).unwrap_or_default(),
            body: &body,
        };
        match endpoint.provider.parse(&delivery) {
            Ok(parsed) => Ok((Submission::Delivery(Box::new(parsed)), None)),
            Err(reason) => Err(self.rejected(endpoint, lines, StatusCode::BAD_REQUEST, &reason)),
        }
    }

    /// Says what the body has still to prove, or what to answer without reading it.
    fn admit(&self, exchange: &Exchange<'_>) -> Result<Admitted, Box<Answer>> {
        let Exchange { endpoint, head, .. } = exchange;
        let Endpoint {
            provider,
            authenticator,
        } = endpoint;
        let (_, path_token) = target(head.uri.path());
        let lines = &self.stranger_lines;
        if let Some(answer) = lacks_host(head) {
            self.log_rejected(
                endpoint,
                lines,
                StatusCode::BAD_REQUEST,
                &"not one Host header",
            );
            return Err(Box::new(answer));
        }
        if !authenticator.is_on() || path_token.is_some() && !authenticator.takes_token() {
            return Err(self.rejected(endpoint, lines, StatusCode::NOT_FOUND, &NOT_FOUND));
        }
        if provider.handshake && head.method == Method::GET {
            return Ok(Admitted::Handshake(Box::new(self.handshake(exchange)?)));
        }
        if !provider.methods.contains(&head.method) {
            let handshake = provider.handshake.then_some("GET");
            let methods = provider.methods.iter().map(Method::as_str);
            let methods: Vec<_> = handshake.into_iter().chain(methods).collect();
            let status = StatusCode::METHOD_NOT_ALLOWED;
            self.log_rejected(endpoint, lines, status, &"wrong method");
            return Err(Box::new(method_not_allowed(&methods)));
        }
        let checked = authenticator.check(&head.headers, path_token);
        let pending = checked.map_err(|error| self.unauthorized(exchange, error))?;
        if is_encoded(&head.headers) {
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            let reason = "the body has a Content-Encoding; send it as it is";
            let lines = self.lines_for(endpoint, &pending);
            let mut answer = self.rejected(endpoint, lines, status, &reason);
            answer
                .headers_mut()
                .insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            return Err(answer);
        }
        Ok(Admitted::Delivery(pending))
    }

    /// Meta's "Verification Requests": the challenge proves to Meta that this endpoint is the
    /// app's.
    fn handshake(&self, exchange: &Exchange<'_>) -> Result<Answer, Box<Answer>> {
        let Exchange {
            endpoint,
            metrics,
            head,
        } = exchange;
        let query = head.uri.query().unwrap_or_default();
        let pairs = pairs(query);
        let value = |name| {
            let found = pairs.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.as_str())
        };
        let token = value("hub.verify_token").unwrap_or_default();
        let is_known = endpoint.authenticator.knows_verify_token(token);
        if !is_known && let Some(failures) = &metrics.auth_handshake {
            failures.inc();
        }
        if !is_known || value("hub.mode") != Some("subscribe") {
            let reason = "the handshake's mode or verify token is not the configured one";
            let lines = &self.stranger_lines;
            return Err(self.rejected(endpoint, lines, StatusCode::FORBIDDEN, &reason));
        }
        let Some(challenge) = value("hub.challenge") else {
            let reason = "the handshake has no challenge";
            return Err(self.rejected(endpoint, &self.lines, StatusCode::BAD_REQUEST, &reason));
        };
        Ok(answer(StatusCode::OK, PLAIN, challenge.to_owned()))
    }

    /// The lines of the log for a request of which this is still to be proven.
    fn lines_for(&self, endpoint: &Endpoint, pending: &PendingSignature) -> &LogLimiter {
        match pending {
            PendingSignature::None if !endpoint.authenticator.is_open() => &self.lines,
            _ => &self.stranger_lines,
        }
    }

    /// The same bytes for every reason; the log has the reason.
    fn unauthorized(&self, exchange: &Exchange<'_>, reason: AuthError) -> Box<Answer> {
        match reason {
            AuthError::Missing => exchange.metrics.auth_missing.inc(),
            AuthError::Wrong => exchange.metrics.auth_wrong.inc(),
        }
        let status = StatusCode::UNAUTHORIZED;
        self.log_rejected(
            exchange.endpoint,
            &self.stranger_lines,
            status,
            &reason.as_str(),
        );
        let mut answer = error(status, "the signature or token is missing or wrong");
        answer
            .headers_mut()
            .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        Box::new(answer)
    }

    /// Asks the sender to try again later.
    fn put_off(&self, endpoint: &Endpoint, reason: &dyn fmt::Display) -> Box<Answer> {
        self.rejected(
            endpoint,
            &self.lines,
            StatusCode::SERVICE_UNAVAILABLE,
            reason,
        )
    }

    fn rejected(
        &self,
        endpoint: &Endpoint,
        lines: &LogLimiter,
        status: StatusCode,
        reason: &dyn fmt::Display,
    ) -> Box<Answer> {
        self.log_rejected(endpoint, lines, status, reason);
        Box::new(match status {
            StatusCode::SERVICE_UNAVAILABLE => unavailable(&reason.to_string()),
            _ => error(status, &reason.to_string()),
        })
    }

    fn log_rejected(
        &self,
        endpoint: &Endpoint,
        lines: &LogLimiter,
        status: StatusCode,
        reason: &dyn fmt::Display,
    ) {
        if let Some(LogPermit { suppressed }) = lines.try_line(Instant::now()) {
            let (provider, code) = (endpoint.provider.name.as_str(), status.as_u16());
            warn!(provider, code, %reason, suppressed, "webhook rejected");
        }
    }
}

impl Handler for Webhooks {
    const VECTORED_WRITES: bool = false;

    fn protection(&self) -> &Protection {
        &self.protection
    }

    fn handle<B>(self: Arc<Self>, request: Request<B>) -> impl Future<Output = Answer> + Send
    where
        B: Body<Data = Bytes> + Send,
    {
        let began = Instant::now();
        let (head, body) = request.into_parts();
        async move {
            let (name, _) = target(head.uri.path());
            let known = self.endpoints.find(name).and_then(|endpoint| {
                let metrics = self.telemetry.provider(endpoint.provider.name)?;
                Some((endpoint, metrics))
            });
            if let Some(refusal) = self.protection.current().refusal(&head).await {
                drain_body(body).await;
                let metrics = known.map(|(_, metrics)| metrics);
                self.telemetry.answered(metrics, refusal.status().as_u16());
                return refusal;
            }
            let Some((endpoint, metrics)) = known else {
                drain_body(body).await;
                let answer = lacks_host(&head).unwrap_or_else(not_found);
                self.telemetry.answered(None, answer.status().as_u16());
                return answer;
            };
            let received = {
                let exchange = Exchange {
                    endpoint: &endpoint,
                    metrics,
                    head: &head,
                };
                self.receive(&exchange, body).await
            };
            // The buffer that holds the head is not needed while the storage is waited for.
            drop(head);
            let answer = match received {
                Ok((submission, challenge)) => match (
                    self.queue.submit(endpoint.provider.name, submission).await,
                    challenge,
                ) {
                    (Ok(counts), None) => json(StatusCode::OK, &counts),
                    (Ok(_), Some(challenge)) => {
                        let provider = endpoint.provider.name.as_str();
                        info!(provider, "webhook handshake answered");
                        challenge
                    }
                    (Err(reason), _) => *self.put_off(&endpoint, &reason),
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

/// Whether a body is compressed, or encoded otherwise.
fn is_encoded(headers: &HeaderMap) -> bool {
    let values = headers.get_all(CONTENT_ENCODING).into_iter();
    let codings = values.flat_map(|value| value.as_bytes().split(|b| *b == b','));
    codings
        .map(<[u8]>::trim_ascii)
        .any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"))
}

/// The provider's name and the token in a path; no name where it is not the path of a webhook. One
/// slash at the end is part of neither, because many consoles store a URL with one.
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
