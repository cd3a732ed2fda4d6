//! One connection: its requests, and how it ends.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::Duration,
};

use hyper::{
    header::{CONNECTION, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, oneshot},
    time::timeout,
};
use tracing::debug;

use super::Handler;

/// Reviews that find a connection without a whole request before it is closed: 10 s at least, 12.5
/// s at most.
const MAX_IDLE_REVIEWS: u8 = 5;
/// The head of a request; beyond it hyper answers 431.
const MAX_HEAD: usize = 64 << 10;
/// For the last request of a connection that is to end.
const LAST_REQUEST: Duration = Duration::from_secs(10);

/// A connection that was accepted.
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) activity: Arc<Activity>,
    pub(super) close: oneshot::Receiver<Close>,
    /// Held until the connection ends.
    pub(super) permit: OwnedSemaphorePermit,
}

/// How a connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Close {
    /// At once, because it is idle.
    Now,
    /// With the answer to the request that it is at.
    AfterResponse,
}

/// What a connection is doing.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// A request is being answered.
    is_busy: AtomicBool,
    /// Reviews since there was one.
    idle_reviews: AtomicU8,
    /// The connection ends with its next answer.
    is_old: AtomicBool,
}

/// Until this is dropped, a connection is busy.
#[derive(Debug)]
pub(super) struct Busy(Arc<Activity>);

impl Activity {
    fn begin(self: &Arc<Self>) -> Busy {
        self.is_busy.store(true, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    pub(super) fn is_busy(&self) -> bool {
        self.is_busy.load(Ordering::Relaxed)
    }

    pub(super) fn set_old(&self, is_old: bool) {
        self.is_old.store(is_old, Ordering::Relaxed);
    }

    /// Counts a review, and says whether the connection has been idle for too many.
    pub(super) fn note_idle_review(&self) -> bool {
        !self.is_busy() && self.idle_reviews.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_IDLE_REVIEWS
    }
}

impl Busy {
    /// Whether the connection is to end with this request.
    fn is_last(&self) -> bool {
        self.0.is_old.load(Ordering::Relaxed)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.idle_reviews.store(0, Ordering::Relaxed);
        self.0.is_busy.store(false, Ordering::Relaxed);
    }
}

impl Connection {
    /// Answers its requests, until it ends.
    pub(super) async fn serve<H: Handler>(self, handler: Arc<H>) {
        let Self {
            stream,
            activity,
            close,
            permit: _permit,
        } = self;
        // Otherwise a small answer may wait for the peer's acknowledgement.
        let _ = stream.set_nodelay(true);
        let service = service_fn(|request| {
            let busy = activity.begin();
            let answer = Arc::clone(&handler).handle(request);
            async move {
                let mut answer = answer.await;
                if busy.is_last() {
                    let headers = answer.headers_mut();
                    headers.insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(answer.map(|body| body.holding(busy)))
            }
        });
        let connection = http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .writev(H::VECTORED_WRITES)
            // Clients may half-close after sending the request.
            .half_close(true)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            how = close => {
                if how == Ok(Close::Now) && !activity.is_busy() {
                    return;
                }
                connection.as_mut().graceful_shutdown();
                match timeout(LAST_REQUEST, connection).await {
                    Ok(result) => result,
                    Err(_) => return,
                }
            }
        };
        if let Err(error) = result {
            debug!(%error, "connection ended");
        }
    }
}
