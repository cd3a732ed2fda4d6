//! A task that follows the cluster: it loads all documents at one revision, and watches from there.
//! Where the watch ends or falls silent, it begins anew: what changed meanwhile, what was compacted
//! away and what a restored cluster has lost all show by the difference.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use etcd_client::{EventType, KeyValue, WatchOptions};
use tokio::{
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tracing::{info, warn};

use super::{
    cluster::{Cluster, after, end_of, watch},
    keys::Keys,
};
use crate::telemetry::ReplicationMetrics;

/// How often the clock is put.
const CLOCK: Duration = Duration::from_secs(5);
/// Silence after which a watch is given up: answers to questions must have come.
const SILENCE: Duration = Duration::from_secs(12);
/// How often the lag is shown, and the watch asked whether it is there.
const TICK: Duration = Duration::from_secs(1);
/// The pause before the cluster is followed anew.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest of these pauses.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// What the storage is told.
#[derive(Debug)]
pub(super) enum Message {
    /// A loading begins when this is answered.
    Begin(oneshot::Sender<()>),
    /// Documents of the loading.
    Page(Vec<KeyValue>),
    /// The loading has ended; it was at this revision.
    End { revision: i64 },
    /// What happened up to a revision.
    Events { events: Vec<Event>, revision: i64 },
}

/// What happened to a key.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) key: Vec<u8>,
    /// The new document; `None` where it was deleted.
    pub(super) value: Option<Vec<u8>>,
    pub(super) revision: i64,
}

/// Follows a cluster.
struct Follower {
    cluster: Cluster,
    keys: Keys,
    messages: mpsc::Sender<Message>,
    metrics: ReplicationMetrics,
    /// The revisions and times of the last put of the clock that has not come by the watch yet.
    puts: mpsc::Receiver<(i64, Instant)>,
    /// Since when the watch is behind.
    behind_since: Option<Instant>,
    /// Whether anything has come by the watch since it was last lost.
    has_followed: bool,
}

/// Starts the tasks, which end with `messages`.
pub(super) fn start(
    cluster: Cluster,
    keys: Keys,
    messages: mpsc::Sender<Message>,
    metrics: ReplicationMetrics,
) {
    let (tell_put, puts) = mpsc::channel(16);
    tokio::spawn(put_clock(cluster.clone(), keys.clone(), tell_put));
    let follower = Follower {
        cluster,
        keys,
        messages,
        metrics,
        puts,
        behind_since: Some(Instant::now()),
        has_followed: false,
    };
    tokio::spawn(follower.run());
}

/// Puts the clock again and again.
async fn put_clock(mut cluster: Cluster, keys: Keys, tell: mpsc::Sender<(i64, Instant)>) {
    loop {
        let put_at = Instant::now();
        if let Ok(revision) = cluster.put(keys.clock()).await
            && tell.send((revision, put_at)).await.is_err()
        {
            return;
        }
        sleep(CLOCK).await;
    }
}

impl Follower {
    async fn run(mut self) {
        let mut failures: u32 = 0;
        while !self.messages.is_closed() {
            let Err(error) = self.follow().await;
            self.behind_since.get_or_insert_with(Instant::now);
            self.show_lag();
            if std::mem::take(&mut self.has_followed) {
                failures = 0;
            }
            // The first loss is no news: a member of the cluster may have been restarted.
            if failures == 1 {
                warn!(
                    error,
                    "etcd cannot be followed; what other replicas store is shown when it can"
                );
            }
            self.cluster.rotate();
            sleep((PAUSE * 2_u32.pow(failures.min(8))).min(LONGEST_PAUSE)).await;
            failures += 1;
        }
    }

    /// Follows the cluster until something fails.
    async fn follow(&mut self) -> Result<Infallible, String> {
        let (ready, is_ready) = oneshot::channel();
        self.send(Message::Begin(ready)).await?;
        is_ready.await.map_err(|_| ENDED)?;
        let revision = self.load().await?;
        let client = self.cluster.client().await;
        let client = client.map_err(|error| error.to_string())?;
        let options = WatchOptions::new()
            .with_range(end_of(self.keys.prefix()))
            .with_start_revision(revision + 1);
        let mut client = watch(&client);
        let watching = client.watch(self.keys.prefix(), Some(options));
        let watching = timeout(SILENCE, watching).await.map_err(|_| SILENT)?;
        let mut stream = watching.map_err(|error| error.to_string())?;
        info!(
            revision,
            endpoint = self.cluster.endpoint(),
            "following etcd"
        );
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let mut awaited: Option<i64> = None;
        let mut seen = revision;
        self.behind_since = None;
        loop {
            tokio::select! {
                message = stream.message() => {
                    let response = message
                        .map_err(|error| error.to_string())?
                        .ok_or("the watch ended")?;
                    if response.canceled() {
                        return Err(format!("the watch was ended: {}", response.cancel_reason()));
                    }
                    seen = seen.max(self.pass_on(response.events()).await?);
                    // Passing on may have taken long.
                    heard = Instant::now();
                    self.has_followed = true;
                    if awaited.is_some_and(|revision| revision <= seen) {
                        awaited = None;
                        self.behind_since = None;
                    }
                }
                Some((revision, put_at)) = self.puts.recv() => {
                    if revision > seen {
                        awaited = Some(revision);
                        self.behind_since.get_or_insert(put_at);
                    }
                }
                _ = ticks.tick() => {
                    self.show_lag();
                    if heard.elapsed() > SILENCE {
                        return Err(SILENT.into());
                    }
                    // A cluster that takes no changes has no events, and answers this.
                    let asked = stream.request_progress().await;
                    asked.map_err(|error| error.to_string())?;
                }
            }
        }
    }

    /// Passes all documents on, as they are at one revision, which it returns.
    async fn load(&mut self) -> Result<i64, String> {
        let end = end_of(self.keys.prefix());
        let (mut from, mut revision) = (self.keys.prefix().to_vec(), 0);
        loop {
            let page = self.cluster.page(from, end.clone(), revision).await;
            let (page, at, has_more) = page.map_err(|error| error.to_string())?;
            revision = at;
            from = page.last().map(after).unwrap_or_default();
            self.send(Message::Page(page)).await?;
            if !has_more || from.is_empty() {
                self.send(Message::End { revision }).await?;
                return Ok(revision);
            }
        }
    }

    /// Passes events on, and returns the revision of the last, or 0. That of the header may be a later
    /// one, of which not all events have come.
    async fn pass_on(&self, events: &[etcd_client::Event]) -> Result<i64, String> {
        let of = |event: &etcd_client::Event| {
            let kv = event.kv()?;
            let is_put = event.event_type() == EventType::Put;
            Some(Event {
                key: kv.key().to_vec(),
                value: is_put.then(|| kv.value().to_vec()),
                revision: kv.mod_revision(),
            })
        };
        let events: Vec<_> = events.iter().filter_map(of).collect();
        let Some(revision) = events.last().map(|event| event.revision) else {
            return Ok(0);
        };
        self.send(Message::Events { events, revision }).await?;
        Ok(revision)
    }

    async fn send(&self, message: Message) -> Result<(), String> {
        let sent = self.messages.send(message).await;
        sent.map_err(|_| ENDED.to_owned())
    }

    fn show_lag(&self) {
        let since = self.behind_since;
        let lag = since.map_or(0.0, |since| since.elapsed().as_secs_f64());
        self.metrics.watch_lag.set(lag);
    }
}

const SILENT: &str = "the watch is silent";
const ENDED: &str = "the program ends";
