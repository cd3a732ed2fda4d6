//! One connection: its requests, and how it ends.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::{
    Request,
    body::{Body, Frame, SizeHint},
    header::{CONNECTION, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    sync::oneshot,
    time::{Instant, timeout},
};
use tracing::debug;

use super::{Handler, limits::Place};

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
    pub(super) place: Place,
}

/// How a connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Close {
    /// At once, because it has no whole request.
    Now,
    /// With the answer to the request that it is at.
    AfterResponse,
}

/// What a connection is doing.
#[derive(Debug)]
pub(super) struct Activity {
    /// A whole request is being answered.
    is_busy: AtomicBool,
    /// An answer was sent.
    has_answered: AtomicBool,
    /// The connection ends with its next answer.
    is_old: AtomicBool,
    /// Since when there is no whole request.
    waiting_since: Mutex<Instant>,
}

/// Until this is dropped, a connection is busy.
#[derive(Debug)]
pub(super) struct Busy(Arc<Activity>);

/// A body that notes when it is whole.
struct Watched<B> {
    body: B,
    activity: Arc<Activity>,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self {
            is_busy: AtomicBool::new(false),
            has_answered: AtomicBool::new(false),
            is_old: AtomicBool::new(false),
            waiting_since: Mutex::new(Instant::now()),
        }
    }

    fn set_busy(&self) {
        self.is_busy.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_busy(&self) -> bool {
        self.is_busy.load(Ordering::Relaxed)
    }

    pub(super) fn has_answered(&self) -> bool {
        self.has_answered.load(Ordering::Relaxed)
    }

    pub(super) fn set_old(&self, is_old: bool) {
        self.is_old.store(is_old, Ordering::Relaxed);
    }

    pub(super) fn waiting_since(&self) -> Instant {
        *self
            .waiting_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn waited(&self, now: Instant) -> Duration {
        now.duration_since(self.waiting_since())
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
        *self
            .0
            .waiting_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.has_answered.store(true, Ordering::Relaxed);
        self.0.is_busy.store(false, Ordering::Relaxed);
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Watched<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() || self.body.is_end_stream() {
            self.activity.set_busy();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Connection {
    /// Answers its requests, until it ends.
    pub(super) async fn serve<H: Handler>(self, handler: Arc<H>) {
        let Self {
            stream,
            activity,
            close,
            place: _place,
        } = self;
        // Otherwise a small answer may wait for the peer's acknowledgement.
        let _ = stream.set_nodelay(true);
        let service = service_fn(|request: Request<_>| {
            let request = request.map(|body| Watched {
                body,
                activity: Arc::clone(&activity),
            });
            if request.body().is_end_stream() {
                activity.set_busy();
            }
            let activity = Arc::clone(&activity);
            let answer = Arc::clone(&handler).handle(request);
            async move {
                let mut answer = answer.await;
                // An answer may come before the request is whole; it is sent all the same.
                activity.set_busy();
                let busy = Busy(activity);
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
