//! How many connections there are at a time, and which of them gives way to a new one.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use super::connection::{Activity, Close};

/// A connection must have sent its first whole request after this.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// A new connection may keep its place so long without a whole request, so that one whose request is
/// on its way does not give way to a crowd that comes after it.
const FIRST_BYTES: Duration = Duration::from_millis(20);
/// For bytes on their way: of an answer, what hyper has taken and the peer has not read yet; of a
/// request to a program that is to end, what has not arrived yet.
const LAST_BYTES: Duration = Duration::from_secs(1);
/// A connection of this age is closed with its next response; at twice this age it is closed after
/// the response in progress. So no connection keeps its place for ever.
const MAX_AGE: Duration = Duration::from_secs(300);
/// One peer address has at most this share of the connections, so that one machine cannot hold all.
const SHARE_OF_A_PEER: usize = 4;

/// The limits of a role: of the web or of the webhook listeners.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at a time, on all addresses of the role together.
    pub max_connections: usize,
    /// How long a connection may wait for its next request: longer than a scrape interval, and than
    /// the keep-alive time of the usual proxies.
    pub max_idle: Duration,
    /// Proxies, whose address stands for many peers.
    pub trusted_proxies: Vec<IpAddr>,
}

/// The connections of a role.
#[derive(Debug)]
pub struct Connections {
    limits: Limits,
    open: Mutex<Open>,
    /// Told when a connection ends.
    ended: Notify,
}

#[derive(Debug, Default)]
struct Open {
    next_id: u64,
    connections: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    peer: IpAddr,
    accepted_at: Instant,
    activity: Arc<Activity>,
    close: Option<oneshot::Sender<Close>>,
}

/// A connection's place, which is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    id: u64,
    connections: Arc<Connections>,
}

impl Connections {
    /// No connection yet.
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            open: Mutex::default(),
            ended: Notify::new(),
        })
    }

    /// Waits until a new connection would have a place: until there are few enough, or one of them
    /// waits for a request and can give way. One that is being answered never does.
    pub(super) async fn room(&self) {
        while !self.has_room() {
            // An answer that ends leaves a connection that waits, which nothing tells.
            let _ = tokio::time::timeout(FIRST_BYTES / 2, self.ended.notified()).await;
        }
    }

    fn has_room(&self) -> bool {
        let open = self.lock();
        open.connections.len() < self.limits.max_connections
            || open.longest_waiting(|_| true).is_some()
    }

    /// Gives a new connection a place, where needed that of the connection that has waited longest
    /// without a whole request. `None` where the peer has its share, and all of it is being
    /// answered or has only just been accepted.
    pub(super) fn enter(
        self: &Arc<Self>,
        peer: IpAddr,
    ) -> Option<(Place, Arc<Activity>, oneshot::Receiver<Close>)> {
        let peer = peer.to_canonical();
        let mut open = self.lock();
        let is_own = |entry: &Entry| entry.peer == peer;
        let share = (self.limits.max_connections / SHARE_OF_A_PEER).max(1);
        let of_peer = open
            .connections
            .values()
            .filter(|entry| is_own(entry))
            .count();
        let is_exempt = peer.is_loopback() || self.limits.trusted_proxies.contains(&peer);
        if of_peer >= share && !is_exempt {
            let victim = open.longest_waiting(is_own)?;
            open.close(victim, Close::Now);
        } else if open.connections.len() >= self.limits.max_connections {
            let victim = open.longest_waiting(|_| true)?;
            open.close(victim, Close::Now);
        }
        let (close, closed) = oneshot::channel();
        let activity = Arc::new(Activity::new());
        let id = open.next_id;
        open.next_id += 1;
        let accepted_at = Instant::now();
        let entry = Entry {
            peer,
            accepted_at,
            activity: Arc::clone(&activity),
            close: Some(close),
        };
        open.connections.insert(id, entry);
        Some((
            Place {
                id,
                connections: Arc::clone(self),
            },
            activity,
            closed,
        ))
    }

    /// Closes the connections that are too old or have waited too long. An old one that waits is
    /// told so with its next answer, because its peer may be about to send a request.
    pub(super) fn review(&self, now: Instant) {
        let mut open = self.lock();
        let max_idle = self.limits.max_idle;
        let over: Vec<_> = open
            .connections
            .iter()
            .filter_map(|(id, entry)| {
                let age = now.duration_since(entry.accepted_at);
                entry.activity.set_old(age >= MAX_AGE);
                if entry.activity.is_busy() {
                    return (age >= 2 * MAX_AGE).then_some((*id, Close::AfterResponse));
                }
                let patience = if entry.activity.has_answered() {
                    max_idle
                } else {
                    FIRST_REQUEST
                };
                let waited = entry.activity.waited(now);
                (age >= 2 * MAX_AGE || waited >= patience).then_some((*id, Close::Now))
            })
            .collect();
        over.into_iter().for_each(|(id, how)| open.close(id, how));
    }

    /// Ends all: those that are being answered with their answer, the others when they have waited
    /// for [`LAST_BYTES`], because a request may be on its way to a connection that has just been
    /// accepted or answered.
    pub(super) async fn end_all(&self) {
        while self.close_waiting(Instant::now()) {
            let _ = tokio::time::timeout(Duration::from_millis(50), self.ended.notified()).await;
        }
    }

    /// Tells each connection how to end, and says whether there is any.
    fn close_waiting(&self, now: Instant) -> bool {
        let mut open = self.lock();
        let due = |(id, entry): (&u64, &Entry)| {
            entry.activity.set_old(true);
            if entry.activity.is_busy() {
                return Some((*id, Close::AfterResponse));
            }
            (entry.activity.waited(now) >= LAST_BYTES).then_some((*id, Close::Now))
        };
        let due: Vec<_> = open.connections.iter().filter_map(due).collect();
        due.into_iter().for_each(|(id, how)| open.close(id, how));
        !open.connections.is_empty()
    }

    /// A thread that panicked has left an entry too many or too few, and no half one.
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// The connection that has waited longest for a whole request, among those that are not told to
    /// close yet.
    fn longest_waiting(&self, is_wanted: impl Fn(&Entry) -> bool) -> Option<u64> {
        let now = Instant::now();
        let waiting = self.connections.iter().filter(|(_, entry)| {
            let activity = &entry.activity;
            let grace = match activity.has_answered() {
                true => LAST_BYTES,
                false => FIRST_BYTES,
            };
            let is_done = activity.waited(now) >= grace;
            entry.close.is_some() && !activity.is_busy() && is_done && is_wanted(entry)
        });
        let longest = waiting.min_by_key(|(_, entry)| entry.activity.waiting_since());
        longest.map(|(id, _)| *id)
    }

    /// Tells a connection to close. Its place is free at once if it waits.
    fn close(&mut self, id: u64, how: Close) {
        let close = match how {
            Close::Now => self
                .connections
                .remove(&id)
                .and_then(|mut entry| entry.close.take()),
            Close::AfterResponse => self
                .connections
                .get_mut(&id)
                .and_then(|entry| entry.close.take()),
        };
        if let Some(close) = close {
            // It may be gone already.
            let _ = close.send(how);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.lock().connections.remove(&self.id);
        self.connections.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn connection_gives_way_no_sooner_than_its_first_bytes_may_take() {
        let connections = Connections::new(Limits {
            max_connections: 2,
            max_idle: Duration::from_secs(90),
            trusted_proxies: Vec::new(),
        });
        let peer = IpAddr::from([127, 0, 0, 1]);
        let (_first, _, mut first_closed) = connections.enter(peer).unwrap();
        tokio::time::advance(FIRST_BYTES / 2).await;
        let (_second, _, mut second_closed) = connections.enter(peer).unwrap();
        assert!(!connections.has_room());
        assert!(connections.enter(peer).is_none());
        assert!(first_closed.try_recv().is_err());

        // It comes to an end when the first of both may give way.
        connections.room().await;
        let (_third, _, _) = connections.enter(peer).unwrap();
        assert_eq!(first_closed.try_recv(), Ok(Close::Now));
        assert!(second_closed.try_recv().is_err());
    }
}
