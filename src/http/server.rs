//! Sockets: accepts connections, bounds them, and ends them in order.

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::{Request, body::Body, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch},
    time::{Instant, interval, sleep},
};
use tracing::{debug, warn};

use super::Answer;

/// Connections at a time, each listener: two of them fit into the usual 1024 file descriptors.
const MAX_CONNECTIONS: u32 = 480;
/// For a request's head, and for the next request on a connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The head of a request; beyond it hyper answers 431.
const MAX_HEAD: usize = 64 << 10;
/// After this a connection ends with its current request: nobody holds a place for ever.
const MAX_AGE: Duration = Duration::from_secs(300);
/// For the last request of a connection that is to end.
const LAST_REQUEST: Duration = Duration::from_secs(10);

/// Answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Whether its answers are so small that head and body are copied together sooner than they are sent apart.
    const SMALL_ANSWERS: bool;

    /// Answers one.
    fn handle<B>(&self, request: Request<B>) -> impl Future<Output = Answer> + Send
    where
        B: Body<Data = Bytes> + Send;
}

/// Serves until `stop` turns true or its sender is gone, then finishes what is in flight, at most 10 s.
pub async fn serve<H: Handler>(listener: TcpListener, handler: Arc<H>, mut stop: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS as usize));
    // Since when each connection is there; it is to end when its sender is dropped.
    let mut open: Vec<(Instant, oneshot::Sender<()>)> = Vec::new();
    // Also, with it no timeout of a head is ever the first deadline of all, which would cost a system call each.
    let mut review = interval(HEAD_TIMEOUT / 4);
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            accepted = accepted => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
            now = review.tick() => {
                open.retain(|(since, end)| !end.is_closed() && now.duration_since(*since) < MAX_AGE);
                continue;
            }
        };
        match (place, accepted) {
            (Ok(place), Ok((stream, _))) => {
                let (end, ended) = oneshot::channel();
                open.push((Instant::now(), end));
                tokio::spawn(connection(stream, place, Arc::clone(&handler), ended));
            }
            (_, Err(error)) => {
                // Out of file descriptors, or a peer that hung up already.
                warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(100)).await;
            }
            (Err(_), _) => break,
        }
    }
    drop((listener, open));
    // All places are free again when all connections have ended, which they do in time.
    let _ = places.acquire_many(MAX_CONNECTIONS).await;
}

async fn connection<H: Handler>(
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
    handler: Arc<H>,
    ended: oneshot::Receiver<()>,
) {
    // Without it a small answer may wait for the peer's acknowledgement.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let handler = Arc::clone(&handler);
        async move { Ok::<_, Infallible>(handler.handle(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .writev(!H::SMALL_ANSWERS)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        _ = ended => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(LAST_REQUEST, connection).await {
                Ok(result) => result,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = result {
        debug!(%error, "connection ended");
    }
}
