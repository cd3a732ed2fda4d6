//! The web configuration of a listener, as it is applied to connections and requests.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Instant,
};

use hyper::{
    StatusCode,
    header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE},
    http::request::Parts,
};
use rustls::ServerConfig;
use tracing::warn;

use super::{Answer, error, passwords::Passwords};
use crate::{
    config::{RateLimit, Role, WebConfig},
    telemetry::{LogLimiter, LogPermit},
};

/// The lock on a listener, which a reload replaces while connections go on.
pub struct Protection {
    listener: &'static str,
    current: RwLock<Arc<Current>>,
    /// Lines of the log about handshakes that failed.
    lines: LogLimiter,
}

/// What is in force.
pub(super) struct Current {
    config: Arc<WebConfig>,
    passwords: Option<Passwords>,
    bucket: Option<Bucket>,
}

impl Protection {
    /// What the configuration of a listener says.
    pub fn new(role: Role, config: Arc<WebConfig>) -> Self {
        Self {
            listener: role.as_str(),
            current: RwLock::new(Arc::new(Current::new(config))),
            lines: LogLimiter::for_strangers(),
        }
    }

    /// Takes another configuration, from the next connection and the next request on.
    pub fn replace(&self, config: Arc<WebConfig>) {
        let current = Arc::new(Current::new(config));
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = current;
    }

    /// What is in force now.
    pub(super) fn current(&self) -> Arc<Current> {
        let current = self.current.read();
        Arc::clone(&current.unwrap_or_else(PoisonError::into_inner))
    }

    /// Logs why a handshake failed, but not that a peer hung up, as probes of ports do.
    pub(super) fn log_handshake(&self, error: &io::Error) {
        let is_of_tls = error
            .get_ref()
            .is_some_and(|source| source.is::<rustls::Error>());
        if is_of_tls && let Some(LogPermit { suppressed }) = self.lines.try_line(Instant::now()) {
            warn!(listener = self.listener, %error, suppressed, "TLS handshake failed");
        }
    }
}

impl Current {
    fn new(config: Arc<WebConfig>) -> Self {
        Self {
            passwords: Passwords::new(&config.users),
            bucket: config.rate_limit.map(Bucket::new),
            config,
        }
    }

    /// What a new connection is served by; `None` where it is not encrypted.
    pub(super) fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.config.tls.clone()
    }

    /// The answer to a request that goes no further.
    pub(super) async fn refusal(&self, head: &Parts) -> Option<Answer> {
        if let Some(bucket) = &self.bucket
            && !bucket.take(Instant::now())
        {
            let sentence = "too many requests (rate_limit)";
            return Some(error(StatusCode::TOO_MANY_REQUESTS, sentence));
        }
        let passwords = self.passwords.as_ref()?;
        let authorization = head.headers.get(AUTHORIZATION);
        let authorization = authorization.map_or(&b""[..], HeaderValue::as_bytes);
        // Boxed, because few listeners have passwords, and every request would make room for it.
        if Box::pin(passwords.verify(authorization)).await {
            return None;
        }
        let sentence = "the user or the password is missing or wrong";
        let mut answer = error(StatusCode::UNAUTHORIZED, sentence);
        let challenge = r#"Basic realm="whatsapp-quality-exporter", charset="UTF-8""#;
        answer
            .headers_mut()
            .insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        Some(answer)
    }

    /// Adds the headers that each answer gets.
    pub(super) fn add_headers(&self, answer: &mut Answer) {
        for (name, value) in &self.config.headers {
            answer.headers_mut().insert(name, value.clone());
        }
    }
}

/// A token bucket, as the time at which it is full again.
struct Bucket {
    limit: RateLimit,
    began: Instant,
    /// In nanoseconds after the begin.
    full_at: Mutex<u128>,
}

impl Bucket {
    fn new(limit: RateLimit) -> Self {
        Self {
            limit,
            began: Instant::now(),
            full_at: Mutex::new(0),
        }
    }

    /// Takes a token; false where there is none.
    fn take(&self, now: Instant) -> bool {
        let now = now.duration_since(self.began).as_nanos();
        let interval = self.limit.interval.as_nanos();
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let next = now.max(*full_at) + interval;
        let is_there = next - now <= interval * u128::from(self.limit.burst);
        if is_there {
            *full_at = next;
        }
        is_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn bucket_lets_a_burst_through_and_then_one_an_interval() {
        let bucket = Bucket::new(RateLimit {
            interval: Duration::from_secs(2),
            burst: 3,
        });
        let at = |seconds| bucket.take(bucket.began + Duration::from_secs(seconds));
        assert_eq!([at(0), at(0), at(0), at(0)], [true, true, true, false]);
        assert_eq!([at(1), at(2), at(2), at(3)], [false, true, false, false]);
        assert_eq!(
            [at(100), at(100), at(100), at(100)],
            [true, true, true, false]
        );
    }
}
