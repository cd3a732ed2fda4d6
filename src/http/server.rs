//! Listeners: accepts connections, and ends them in order.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::{Request, body::Body};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::yield_now,
    time::{MissedTickBehavior, interval, sleep},
};
use tracing::warn;

use super::{Answer, Protection, connection::Connection, limits::Connections};

/// How often connections are reviewed, all at once: a timer for each connection costs more than
/// parsing a request (docs/performance.md).
const REVIEW: Duration = Duration::from_millis(2500);

/// Answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Whether the head and the body of an answer are written from where they are. Small answers
    /// are sent sooner if they are copied into one buffer.
    const VECTORED_WRITES: bool;

    /// How the listener is protected.
    fn protection(&self) -> &Protection;

    /// Answers one.
    fn handle<B>(self: Arc<Self>, request: Request<B>) -> impl Future<Output = Answer> + Send
    where
        B: Body<Data = Bytes> + Send;
}

/// Serves until `stop` turns true or its sender is gone, then answers the requests that are whole,
/// at most 10 s.
pub async fn serve<H: Handler>(
    listener: TcpListener,
    handler: Arc<H>,
    connections: Arc<Connections>,
    mut stop: watch::Receiver<bool>,
) {
    let mut reviews = interval(REVIEW);
    // If the process was suspended, let it read what arrived before idle connections are closed.
    reviews.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // A connection that was accepted and has no place yet.
    let mut waiting: Option<(TcpStream, SocketAddr)> = None;
    loop {
        let (mut is_taken, mut is_refused) = (false, false);
        tokio::select! {
            accepted = listener.accept(), if waiting.is_none() => match accepted {
                Ok(accepted) => waiting = Some(accepted),
                Err(error) => {
                    // No file descriptor is left, or the peer hung up already.
                    warn!(%error, "cannot accept a connection");
                    is_refused = true;
                }
            },
            () = connections.room(), if waiting.is_some() => {
                let Some((stream, peer)) = waiting.take() else { continue };
                // Where the peer has its share, its connection is closed by being dropped.
                if let Some((place, activity, close)) = connections.enter(peer.ip()) {
                    let connection = Connection { stream, activity, close, place };
                    tokio::spawn(connection.serve(Arc::clone(&handler)));
                }
                is_taken = true;
            }
            // A sender whose connection was accepted has an answer.
            _ = stop.wait_for(|stop| *stop), if waiting.is_none() => break,
            now = reviews.tick() => connections.review(now),
        }
        if is_taken {
            // The new connection reads a request that has arrived before another one can take its
            // place, and one that gave way returns its file descriptor.
            yield_now().await;
        }
        if is_refused {
            sleep(Duration::from_millis(100)).await;
        }
    }
    drop(listener);
    connections.end_all().await;
}
