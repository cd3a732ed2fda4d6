//! One connection: its requests, and how it ends.

use std::{
    convert::Infallible,
    future, io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::{
    Request, Response, Version,
    body::{Body, Frame, Incoming, SizeHint},
    header::{CONNECTION, HeaderValue},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::{Notify, oneshot},
    time::{Instant, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::debug;

use super::{Answer, Handler, PageBody, limits::Place};

/// The head of a request; beyond it hyper answers 431.
const MAX_HEAD: usize = 64 << 10;
/// For the last request of a connection that is to end.
const LAST_REQUEST: Duration = Duration::from_secs(10);
/// Requests at a time on a connection of HTTP/2.
const MAX_STREAMS: u32 = 32;
/// The answer to a plain request where TLS is expected.
const NOT_ENCRYPTED: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\
    Content-Type: application/json\r\nContent-Length: 64\r\n\r\n\
    {\"error\":\"this port speaks HTTPS; the request is not encrypted\"}";

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
    /// How many whole requests are being answered: with HTTP/2 more than one.
    answering: AtomicUsize,
    /// An answer was sent.
    has_answered: AtomicBool,
    /// The connection ends with its next answer.
    is_old: AtomicBool,
    /// Since when there is no whole request.
    waiting_since: Mutex<Instant>,
}

/// A request; its connection is busy from the time when it is whole until this is dropped.
#[derive(Debug)]
struct Exchange {
    activity: Arc<Activity>,
    is_whole: AtomicBool,
}

/// Until this is dropped, a connection is busy.
#[derive(Debug)]
pub(super) struct Busy(#[expect(dead_code, reason = "it is held to be dropped")] Arc<Exchange>);

/// A body that notes when it is whole.
struct Watched<B> {
    body: B,
    exchange: Arc<Exchange>,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self {
            answering: AtomicUsize::new(0),
            has_answered: AtomicBool::new(false),
            is_old: AtomicBool::new(false),
            waiting_since: Mutex::new(Instant::now()),
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        self.answering.load(Ordering::Relaxed) > 0
    }

    pub(super) fn has_answered(&self) -> bool {
        self.has_answered.load(Ordering::Relaxed)
    }

    /// Whether the connection is to end with its next answer.
    fn is_old(&self) -> bool {
        self.is_old.load(Ordering::Relaxed)
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

impl Exchange {
    fn new(activity: &Arc<Activity>) -> Arc<Self> {
        Arc::new(Self {
            activity: Arc::clone(activity),
            is_whole: AtomicBool::new(false),
        })
    }

    fn set_whole(&self) {
        if !self.is_whole.swap(true, Ordering::Relaxed) {
            self.activity.answering.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let activity = &self.activity;
        *activity
            .waiting_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Instant::now();
        activity.has_answered.store(true, Ordering::Relaxed);
        if *self.is_whole.get_mut() {
            activity.answering.fetch_sub(1, Ordering::Relaxed);
        }
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
            self.exchange.set_whole();
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
            mut close,
            place: _place,
        } = self;
        // Otherwise a small answer may wait for the peer's acknowledgement.
        let _ = stream.set_nodelay(true);
        let Some(tls) = handler.protection().current().tls() else {
            return serve_http1(stream, handler, activity, close).await;
        };
        // The limits of connections bound the time of a handshake: until it is done, there is no
        // whole request.
        let stream = tokio::select! {
            stream = encrypt(stream, tls) => stream,
            _ = &mut close => return,
        };
        match stream {
            Ok(Some(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
                serve_http2(stream, handler, activity, close).await;
            }
            Ok(Some(stream)) => serve_http1(stream, handler, activity, close).await,
            Ok(None) => {}
            Err(error) => handler.protection().log_handshake(&error),
        }
    }
}

/// Makes a connection an encrypted one; `None` where the peer does not speak TLS.
async fn encrypt(
    mut stream: TcpStream,
    config: Arc<ServerConfig>,
) -> io::Result<Option<TlsStream<TcpStream>>> {
    let mut first = [0];
    // A record of TLS begins with its type, which is no letter; a plain request is a method.
    if stream.peek(&mut first).await? > 0 && first.iter().all(u8::is_ascii_uppercase) {
        stream.write_all(NOT_ENCRYPTED).await?;
        stream.shutdown().await?;
        return Ok(None);
    }
    TlsAcceptor::from(config).accept(stream).await.map(Some)
}

async fn serve_http1<H: Handler>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    handler: Arc<H>,
    activity: Arc<Activity>,
    close: oneshot::Receiver<Close>,
) {
    let service = service_fn(|request| answer(request, &handler, &activity));
    let connection = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .writev(H::VECTORED_WRITES)
        // Clients may half-close after sending the request.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    let finish = |connection: Pin<&mut _>| http1::Connection::graceful_shutdown(connection);
    drive(connection, finish, &activity, close, future::pending()).await;
}

async fn serve_http2<H: Handler>(
    stream: TlsStream<TcpStream>,
    handler: Arc<H>,
    activity: Arc<Activity>,
    close: oneshot::Receiver<Close>,
) {
    debug!("connection speaks HTTP/2");
    let last = Arc::new(Notify::new());
    let service = {
        let (activity, last) = (Arc::clone(&activity), Arc::clone(&last));
        service_fn(move |request| {
            let answered = answer(request, &handler, &activity);
            let (activity, last) = (Arc::clone(&activity), Arc::clone(&last));
            async move {
                let answer = answered.await;
                if activity.is_old() {
                    last.notify_one();
                }
                answer
            }
        })
    };
    let connection = http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(MAX_STREAMS)
        .serve_connection(TokioIo::new(stream), service);
    let finish = |connection: Pin<&mut _>| http2::Connection::graceful_shutdown(connection);
    // An old connection ends with an answer, and its client is told so.
    let last = last.notified();
    drive(connection, finish, &activity, close, last).await;
}

/// Runs a connection to its end, or until `close` or `last` resolves: then `finish` lets it answer
/// what it is at.
async fn drive<C: Future<Output = hyper::Result<()>>>(
    connection: C,
    finish: impl Fn(Pin<&mut C>),
    activity: &Activity,
    close: oneshot::Receiver<Close>,
    last: impl Future<Output = ()>,
) {
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => Ok(result),
        how = close => {
            if how == Ok(Close::Now) && !activity.is_busy() {
                return;
            }
            finish(connection.as_mut());
            timeout(LAST_REQUEST, connection).await
        }
        () = last => {
            finish(connection.as_mut());
            timeout(LAST_REQUEST, connection).await
        }
    };
    if let Ok(Err(error)) = result {
        debug!(%error, "connection ended");
    }
}

/// Answers a request, and notes that the connection is busy meanwhile.
fn answer<H: Handler>(
    request: Request<Incoming>,
    handler: &Arc<H>,
    activity: &Arc<Activity>,
) -> impl Future<Output = Result<Response<PageBody>, Infallible>> + Send + use<H> {
    let exchange = Exchange::new(activity);
    let version = request.version();
    let request = request.map(|body| Watched {
        body,
        exchange: Arc::clone(&exchange),
    });
    if request.body().is_end_stream() {
        exchange.set_whole();
    }
    let handler = Arc::clone(handler);
    // A future that is made here and awaited in the block would stand in it twice, and hyper copies
    // the block for every request.
    async move {
        let protection = handler.protection().current();
        let mut answer: Answer = handler.handle(request).await;
        protection.add_headers(&mut answer);
        // An answer may come before the request is whole; it is sent all the same.
        exchange.set_whole();
        if exchange.activity.is_old() && version <= Version::HTTP_11 {
            let headers = answer.headers_mut();
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(answer.map(|body| body.holding(Busy(exchange))))
    }
}
