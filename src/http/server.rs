//! Listeners: accepts connections, bounds how many there are, and ends them in order.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::{Request, body::Body};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tracing::warn;

use super::{
    Answer,
    connection::{Activity, Close, Connection},
};

/// Connections at a time, each listener: two of them fit into the usual 1024 file descriptors.
const MAX_CONNECTIONS: u32 = 480;
/// How often connections are reviewed, all at once: a timer for each connection costs more than
/// parsing a request (docs/performance.md).
const REVIEW: Duration = Duration::from_millis(2500);
/// A connection of this age is closed with its next response; at twice this age it is closed after
/// the response in progress. So no connection keeps its permit for ever.
const MAX_AGE: Duration = Duration::from_secs(300);

/// Answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Whether the head and the body of an answer are written from where they are. Small answers
    /// are sent sooner if they are copied into one buffer.
    const VECTORED_WRITES: bool;

    /// Answers one.
    fn handle<B>(self: Arc<Self>, request: Request<B>) -> impl Future<Output = Answer> + Send
    where
        B: Body<Data = Bytes> + Send;
}

/// A connection, as the reviews see it.
struct Open {
    accepted_at: Instant,
    activity: Arc<Activity>,
    close: oneshot::Sender<Close>,
}

/// Serves until `stop` turns true or its sender is gone, then finishes what is in flight, at most
/// 10 s.
pub async fn serve<H: Handler>(
    listener: TcpListener,
    handler: Arc<H>,
    mut stop: watch::Receiver<bool>,
) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS as usize));
    let mut open: Vec<Open> = Vec::new();
    let mut reviews = interval(REVIEW);
    // If the process was suspended, let it read what arrived before idle connections are closed.
    reviews.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let accepted = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            accepted = accepted => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
            now = reviews.tick() => {
                review(&mut open, now);
                continue;
            }
        };
        match (permit, accepted) {
            (Ok(permit), Ok((stream, _))) => {
                let (close, closed) = oneshot::channel();
                let activity = Arc::new(Activity::default());
                open.push(Open {
                    accepted_at: Instant::now(),
                    activity: Arc::clone(&activity),
                    close,
                });
                let connection = Connection {
                    stream,
                    activity,
                    close: closed,
                    permit,
                };
                tokio::spawn(connection.serve(Arc::clone(&handler)));
            }
            (_, Err(error)) => {
                // No file descriptor is left, or the peer hung up already.
                warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(100)).await;
            }
            (Err(_), _) => break,
        }
    }
    drop(listener);
    for Open { close, .. } in open {
        // It may be gone already.
        let _ = close.send(Close::AfterResponse);
    }
    // All permits are free again when all connections have ended, which they do in time.
    let _ = permits.acquire_many(MAX_CONNECTIONS).await;
}

/// Forgets connections that are gone, and closes those that are too old or have been idle too long.
///
/// An old one that is idle is told so with its next answer, because its peer may be about to send a
/// request.
fn review(open: &mut Vec<Open>, now: Instant) {
    let is_over = |open: &mut Open| {
        let age = now.duration_since(open.accepted_at);
        open.activity.set_old(age >= MAX_AGE);
        open.close.is_closed() || age >= 2 * MAX_AGE || open.activity.note_idle_review()
    };
    for Open {
        activity, close, ..
    } in open.extract_if(.., is_over)
    {
        let how = if activity.is_busy() {
            Close::AfterResponse
        } else {
            Close::Now
        };
        // It may be gone already.
        let _ = close.send(how);
    }
}
