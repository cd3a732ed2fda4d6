//! Sockets: accepts connections, bounds them, and ends them in order.

use std::{
    convert::Infallible,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use hyper::{
    Request,
    body::Body,
    header::{CONNECTION, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tracing::{debug, warn};

use super::Answer;

/// Connections at a time, each listener: two of them fit into the usual 1024 file descriptors.
const MAX_CONNECTIONS: u32 = 480;
/// How often connections are looked at: all at once, for a timer of its own costs each request more than its parsing.
const REVIEW: Duration = Duration::from_millis(2500);
/// Reviews that find a connection without a whole request before it is cut: 10 s at least, 12.5 s at most.
const PATIENCE: u8 = 5;
/// The head of a request; beyond it hyper answers 431.
const MAX_HEAD: usize = 64 << 10;
/// After this a connection ends with its next answer, after twice this with what it is at: nobody holds a place for ever.
const MAX_AGE: Duration = Duration::from_secs(300);
/// For the last request of a connection that is to end.
const LAST_REQUEST: Duration = Duration::from_secs(10);

/// Answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Whether its answers are so small that head and body are copied together sooner than they are sent apart.
    const SMALL_ANSWERS: bool;

    /// Answers one.
    fn handle<B>(self: Arc<Self>, request: Request<B>) -> impl Future<Output = Answer> + Send
    where
        B: Body<Data = Bytes> + Send;
}

/// A connection, as the reviews see it.
struct Open {
    since: Instant,
    work: Arc<Work>,
    /// Dropped, it ends the connection with its current request; a message cuts it.
    end: oneshot::Sender<()>,
}

/// What a connection is at.
#[derive(Debug, Default)]
struct Work {
    /// A request is being answered.
    is_busy: AtomicBool,
    /// Reviews since there was one.
    waited: AtomicU8,
    /// It ends with the next request.
    is_old: AtomicBool,
}

/// Until this is dropped, a connection is busy.
#[derive(Debug)]
pub(super) struct Busy(Arc<Work>);

impl Work {
    fn begin(self: &Arc<Self>) -> Busy {
        self.is_busy.store(true, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    fn is_busy(&self) -> bool {
        self.is_busy.load(Ordering::Relaxed)
    }

    /// Whether it has waited too long for a request.
    fn review(&self) -> bool {
        !self.is_busy() && self.waited.fetch_add(1, Ordering::Relaxed) + 1 >= PATIENCE
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
        self.0.waited.store(0, Ordering::Relaxed);
        self.0.is_busy.store(false, Ordering::Relaxed);
    }
}

/// Serves until `stop` turns true or its sender is gone, then finishes what is in flight, at most 10 s.
pub async fn serve<H: Handler>(
    listener: TcpListener,
    handler: Arc<H>,
    mut stop: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS as usize));
    let mut open: Vec<Open> = Vec::new();
    let mut reviews = interval(REVIEW);
    // After a halt, what came meanwhile is to be read before anybody is cut.
    reviews.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            accepted = accepted => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
            now = reviews.tick() => {
                review(&mut open, now);
                continue;
            }
        };
        match (place, accepted) {
            (Ok(place), Ok((stream, _))) => {
                let (end, ended) = oneshot::channel();
                let work = Arc::new(Work::default());
                open.push(Open {
                    since: Instant::now(),
                    work: Arc::clone(&work),
                    end,
                });
                tokio::spawn(connection(stream, place, Arc::clone(&handler), work, ended));
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

/// Forgets connections that are gone, and ends those that are too old or have waited too long.
///
/// An old one that waits is told with its next answer: its peer may be about to ask.
fn review(open: &mut Vec<Open>, now: Instant) {
    let over = |open: &mut Open| {
        let age = now.duration_since(open.since);
        open.work.is_old.store(age >= MAX_AGE, Ordering::Relaxed);
        open.end.is_closed() || age >= 2 * MAX_AGE || open.work.review()
    };
    for Open { work, end, .. } in open.extract_if(.., over) {
        if !work.is_busy() {
            // It may be gone already.
            let _ = end.send(());
        }
    }
}

async fn connection<H: Handler>(
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
    handler: Arc<H>,
    work: Arc<Work>,
    ended: oneshot::Receiver<()>,
) {
    // Without it a small answer may wait for the peer's acknowledgement.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let busy = work.begin();
        let answer = Arc::clone(&handler).handle(request);
        async move {
            let mut answer = answer.await;
            if busy.is_last() {
                answer
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(answer.map(|body| body.keeps_busy(busy)))
        }
    });
    let connection = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .writev(!H::SMALL_ANSWERS)
        // Who has said all may say so before it reads.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        cut = ended => {
            if cut.is_ok() && !work.is_busy() {
                return;
            }
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
