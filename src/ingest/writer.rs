//! The writer: the only part that folds, commits and publishes.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use hashbrown::HashSet;
use smallvec::SmallVec;
use tokio::{
    runtime,
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tracing::{error, info, warn};

use super::{IngestError, Job, OutcomeCounts, ReplySender, Submission, report::Reporter};
use crate::{
    domain::{ProviderName, Timestamp},
    readiness::Readiness,
    state::{Batch, Draft, Fold, Forgettable, Forgotten, HeartbeatKind, Outcome, Record, Update},
    store::{Commit, Store, StoreError},
    telemetry::{LogLimiter, LogPermit, Telemetry},
};

/// Requests that go into one commit.
const BATCH: usize = 1024;
/// How often a storage that failed is tried.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// How often the storage's size is read, at most.
const SIZE_INTERVAL: Duration = Duration::from_secs(1);

/// For a batch that is being stored when the program is to end.
const GRACE: Duration = Duration::from_secs(10);
/// How often a batch may meet a conflict before its senders are told to come again.
const CONFLICTS: u32 = 64;
/// The unit of the pauses after conflicts.
const PAUSE: Duration = Duration::from_millis(2);

/// The part that folds and commits.
#[derive(Debug)]
pub(super) struct Writer<S> {
    queue: mpsc::Receiver<Job>,
    replies: mpsc::UnboundedSender<Vec<Reply>>,
    fold: Fold,
    store: S,
    readiness: Arc<Readiness>,
    telemetry: Arc<Telemetry>,
    reporter: Reporter,
    /// Lines about the storage have a limit of their own, so that those about webhooks leave room.
    storage_lines: LogLimiter,
    size_read: Option<Instant>,
    /// What the storage has lost and this process knows.
    lost: Vec<Forgettable>,
}

/// A writer that loads what is stored.
#[derive(Debug)]
pub struct LoadingWriter {
    loaded: oneshot::Receiver<Result<(), StoreError>>,
    running: RunningWriter,
}

/// A writer on its thread.
#[derive(Debug)]
pub struct RunningWriter {
    ended: oneshot::Receiver<Result<(), StoreError>>,
    stop: oneshot::Sender<()>,
}

/// The result of a submission, and where it is waited for.
type Reply = (ReplySender, Result<OutcomeCounts, IngestError>);

/// A submission that was folded.
pub(super) struct Folded {
    pub(super) provider: ProviderName,
    pub(super) submission: Submission,
    /// Of each change of a delivery, in order.
    pub(super) outcomes: SmallVec<[Outcome; 1]>,
}

/// What is asked of the writer, with what has come of it.
enum Work {
    Submission(Folded, ReplySender),
    Removal {
        key: Forgettable,
        forgotten: Forgotten,
        /// Whether this version cannot read it, and so leaves it.
        is_frozen: bool,
        reply: oneshot::Sender<Result<Forgotten, IngestError>>,
    },
}

/// How far a batch is folded: the work before it, and of that the changes before it.
#[derive(Clone, Copy, Default)]
struct Place {
    work: usize,
    change: usize,
}

impl LoadingWriter {
    /// Waits until everything is loaded. `None` where the writer panicked.
    pub async fn loaded(self) -> Option<Result<RunningWriter, StoreError>> {
        let loaded = self.loaded.await.ok()?;
        Some(loaded.map(|()| self.running))
    }
}

impl RunningWriter {
    /// Waits until the writer has ended by itself: the storage can promise nothing any more. What
    /// was not answered was not stored. `None` where the writer panicked.
    pub async fn ended(&mut self) -> Option<Result<(), StoreError>> {
        (&mut self.ended).await.ok()
    }

    /// Ends the writer after the batch that it has, and closes the storage. A storage that does not
    /// answer is not waited for: what it may still store was not answered.
    pub async fn stop(self) {
        drop(self.stop);
        if timeout(GRACE, self.ended).await.is_err() {
            warn!("stopping although the storage does not answer");
        }
    }
}

/// Starts the writer on a thread of its own, on which the storage is opened and loaded.
pub(super) fn start<S: Store>(
    open: impl FnOnce() -> Result<S, StoreError> + Send + 'static,
    writer: impl FnOnce(S) -> Writer<S> + Send + 'static,
) -> io::Result<LoadingWriter> {
    let (tell_loaded, loaded) = oneshot::channel();
    let (tell_ended, ended) = oneshot::channel();
    let (stop, stopped) = oneshot::channel();
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let work = move || {
        let load = async {
            let mut writer = writer(open()?);
            writer.load().await?;
            Ok(writer)
        };
        // Nothing waits for it only when the program ends.
        match runtime.block_on(load) {
            Ok(writer) => {
                let _ = tell_loaded.send(Ok(()));
                let _ = tell_ended.send(runtime.block_on(writer.run(stopped)));
            }
            Err(error) => {
                let _ = tell_loaded.send(Err(error));
            }
        }
    };
    thread::Builder::new().name("writer".into()).spawn(work)?;
    let running = RunningWriter { ended, stop };
    Ok(LoadingWriter { loaded, running })
}

impl<S: Store> Writer<S> {
    pub(super) fn new(
        queue: mpsc::Receiver<Job>,
        replies: mpsc::UnboundedSender<Vec<Reply>>,
        fold: Fold,
        store: S,
        readiness: Arc<Readiness>,
        telemetry: Arc<Telemetry>,
        log_phone_numbers: bool,
    ) -> Self {
        let reporter = Reporter::new(Arc::clone(&telemetry), log_phone_numbers);
        let storage_lines = LogLimiter::for_authentic_senders();
        Self {
            queue,
            replies,
            fold,
            store,
            readiness,
            telemetry,
            reporter,
            storage_lines,
            size_read: None,
            lost: Vec::new(),
        }
    }

    /// Loads what is stored, and sees whether the storage takes commits.
    async fn load(&mut self) -> Result<(), StoreError> {
        let fold = &mut self.fold;
        self.store.load(&mut |update| fold.adopt(&update)).await?;
        let is_up = match self.store.probe().await {
            Ok(()) => true,
            Err(error) if error.is_fatal() => return Err(error),
            Err(error) => {
                error!(
                    %error,
                    "the storage takes no changes; webhooks are answered 503 until it does"
                );
                false
            }
        };
        self.show_heartbeats();
        self.show_phone_numbers();
        self.readiness.set_storage(is_up, &self.telemetry);
        self.readiness.set_loaded();
        if is_up {
            info!(phone_numbers = self.fold.phone_numbers(), "ready");
        }
        Ok(())
    }

    async fn run(mut self, mut stopped: oneshot::Receiver<()>) -> Result<(), StoreError> {
        self.read_size().await;
        // While the storage is down, /-/ready is 503 and a load balancer may send nothing, so a timer
        // is needed to notice recovery.
        let mut probes = interval(PROBE_INTERVAL);
        probes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut jobs = Vec::new();
            tokio::select! {
                biased;
                _ = &mut stopped => return Ok(()),
                _ = probes.tick(), if self.must_probe() => {
                    self.probe().await?;
                    continue;
                }
                updates = self.store.updates() => {
                    self.adopt(&updates);
                    self.put_back().await?;
                    continue;
                }
                received = self.queue.recv_many(&mut jobs, BATCH) => if received == 0 {
                    return Ok(());
                },
            }
            self.take(jobs, Timestamp::from(SystemTime::now())).await?;
        }
    }

    /// Whether the storage failed, or has lost something that is not put back yet.
    fn must_probe(&self) -> bool {
        !self.readiness.storage_is_up() || !self.lost.is_empty()
    }

    /// Sees whether a storage that failed takes commits again.
    async fn probe(&mut self) -> Result<(), StoreError> {
        if self.readiness.storage_is_up() {
            return self.put_back().await;
        }
        match self.store.probe().await {
            Ok(()) => {
                self.readiness.set_storage(true, &self.telemetry);
                info!("the storage takes changes again");
                self.put_back().await
            }
            Err(error) if error.is_fatal() => Err(error),
            Err(_) => Ok(()),
        }
    }

    /// Shows what others have stored.
    fn adopt(&mut self, updates: &[Update]) {
        let mut has_heartbeats = false;
        for update in updates {
            has_heartbeats |= matches!(update, Update::Put(Record::Heartbeat(..)));
            if let Update::Lost(key) = update {
                self.lost.push(key.clone());
            }
            self.fold.adopt(update);
        }
        if has_heartbeats {
            self.show_heartbeats();
        }
        self.show_phone_numbers();
    }

    /// Stores what the storage has lost once more. What cannot be stored now is tried again later.
    async fn put_back(&mut self) -> Result<(), StoreError> {
        let mut conflicts = 0;
        while conflicts < CONFLICTS
            && let Some(batch) = self.fold.next_known(&mut self.lost, S::MAX_DOCUMENTS)
        {
            let keys = batch.records().iter().filter_map(Record::key);
            match commit(&mut self.store, &batch, &self.telemetry).await {
                Ok(Commit::Stored) => {}
                // Another has put some of it back, and what it has put back is newer.
                Ok(Commit::Conflict(updates)) => {
                    let newer: HashSet<_> = updates.iter().filter_map(Update::key).collect();
                    self.lost.extend(keys.filter(|key| !newer.contains(key)));
                    self.adopt(&updates);
                    conflicts += 1;
                    sleep(pause(conflicts)).await;
                }
                Err(error) => {
                    self.lost.extend(keys);
                    self.readiness.set_storage(false, &self.telemetry);
                    self.log_failure(&error);
                    return if error.is_fatal() { Err(error) } else { Ok(()) };
                }
            }
        }
        Ok(())
    }

    /// Folds, commits, publishes and replies; an error is one after which nothing can be promised.
    async fn take(&mut self, jobs: Vec<Job>, now: Timestamp) -> Result<(), StoreError> {
        let mut works: Vec<_> = jobs.into_iter().map(Work::new).collect();
        let mut stored = Place::default();
        let mut conflicts = 0;
        let mut storage_is_up = None;
        let mut result = Ok(());
        while stored.work < works.len() {
            let mut draft = self.fold.draft();
            let end = fold(&mut draft, &mut works, stored, S::MAX_DOCUMENTS, now);
            let batch = draft.batch();
            let committed = match batch.is_empty() {
                true => Ok(Commit::Stored),
                false => commit(&mut self.store, &batch, &self.telemetry).await,
            };
            match committed {
                Ok(Commit::Stored) => {
                    draft.publish(&batch);
                    if !batch.is_empty() {
                        storage_is_up = Some(true);
                    }
                    stored = end;
                    conflicts = 0;
                }
                Ok(Commit::Conflict(updates)) => {
                    drop(draft);
                    self.adopt(&updates);
                    conflicts += 1;
                    if conflicts == CONFLICTS {
                        result = Err(StoreError::conflicts(CONFLICTS));
                        break;
                    }
                    sleep(pause(conflicts)).await;
                }
                Err(error) => {
                    storage_is_up = Some(false);
                    result = Err(error);
                    break;
                }
            }
        }
        self.show_phone_numbers();
        if let Some(is_up) = storage_is_up {
            self.readiness.set_storage(is_up, &self.telemetry);
        }
        self.reply(works, stored.work, now);
        match result {
            Ok(()) => {
                self.read_size().await;
                self.maintain()
            }
            Err(error) => {
                self.log_failure(&error);
                if error.is_fatal() { Err(error) } else { Ok(()) }
            }
        }
    }

    fn log_failure(&mut self, error: &StoreError) {
        if let Some(LogPermit { suppressed }) = self.storage_lines.try_line(Instant::now()) {
            error!(
                %error, suppressed,
                "changes not stored; their senders are answered 503 and may send them again"
            );
        }
    }

    /// Answers all requests of a batch, of which the first are stored, and then reports what was
    /// accepted.
    fn reply(&mut self, works: Vec<Work>, stored: usize, now: Timestamp) {
        let mut replies = Vec::with_capacity(works.len());
        let mut accepted = Vec::with_capacity(works.len());
        let mut removed = Vec::new();
        for (index, work) in works.into_iter().enumerate() {
            let is_stored = index < stored;
            match work {
                Work::Submission(folded, reply) => {
                    if folded.is_accepted(is_stored) {
                        replies.push((reply, Ok(self.reporter.count(&folded, now))));
                        accepted.push(folded);
                    } else {
                        replies.push((reply, Err(IngestError::Storage)));
                    }
                }
                Work::Removal {
                    key,
                    forgotten,
                    is_frozen,
                    reply,
                } => {
                    let is_stored = is_stored && !is_frozen;
                    // The client may have hung up; what it named is removed all the same.
                    let _ = reply.send(match is_stored {
                        true => Ok(forgotten),
                        false => Err(IngestError::Storage),
                    });
                    if is_stored {
                        removed.push((key, forgotten));
                    }
                }
            }
        }
        // Nothing takes them only when the program ends.
        let _ = self.replies.send(replies);
        let logged_at = Instant::now();
        for folded in &accepted {
            self.reporter.log(folded, logged_at);
        }
        for (key, forgotten) in removed {
            self.reporter.log_removal(&key, forgotten);
        }
    }

    fn show_phone_numbers(&self) {
        let phone_numbers = i64::try_from(self.fold.phone_numbers()).unwrap_or(i64::MAX);
        self.telemetry.phone_numbers.set(phone_numbers);
    }

    /// Shows the signs of life that providers gave to others, or before this process began.
    fn show_heartbeats(&self) {
        for (provider, heartbeat) in self.fold.heartbeats() {
            let Some(metrics) = self.telemetry.provider(provider) else {
                continue;
            };
            for (gauge, at) in [
                (&metrics.last_accepted, heartbeat.last_accepted),
                (&metrics.last_change, heartbeat.last_change),
                (&metrics.last_handshake, heartbeat.last_handshake),
            ] {
                if let Some(at) = at {
                    gauge.raise(at);
                }
            }
        }
    }

    /// Has the storage do what nothing waits for.
    fn maintain(&mut self) -> Result<(), StoreError> {
        match self.store.maintain() {
            Err(error) if !error.is_fatal() => {
                self.telemetry.storage.checkpoint_errors.inc();
                if let Some(LogPermit { suppressed }) = self.storage_lines.try_line(Instant::now())
                {
                    warn!(%error, suppressed, "checkpoint failed; changes are stored, but the write-ahead log grows");
                }
                Ok(())
            }
            result => result,
        }
    }

    async fn read_size(&mut self) {
        if self
            .size_read
            .is_some_and(|read| read.elapsed() < SIZE_INTERVAL)
        {
            return;
        }
        self.size_read = Some(Instant::now());
        match self.store.size_bytes().await {
            Ok(bytes) => {
                let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
                self.telemetry.storage.size.set(bytes);
            }
            Err(error) => {
                self.telemetry.storage.size_errors.inc();
                warn!(%error, "the size of the storage is unknown");
            }
        }
    }
}

impl Work {
    fn new(job: Job) -> Self {
        match job {
            Job::Submission {
                provider,
                submission,
                reply,
            } => {
                let folded = Folded {
                    provider,
                    submission,
                    outcomes: SmallVec::new(),
                };
                Self::Submission(folded, reply)
            }
            Job::Removal { key, reply } => Self::Removal {
                key,
                forgotten: Forgotten::default(),
                is_frozen: false,
                reply,
            },
        }
    }
}

impl Folded {
    /// Whether the sender is told that it need not send this again.
    fn is_accepted(&self, is_stored: bool) -> bool {
        match &self.submission {
            // Where a delivery holds no change, nothing could be lost.
            Submission::Delivery(parsed) if parsed.changes.is_empty() => true,
            _ => is_stored && !self.outcomes.contains(&Outcome::Frozen),
        }
    }

    /// Folds the changes from one on until enough is drafted; true where none is left.
    fn fold(&mut self, draft: &mut Draft<'_>, from: usize, enough: usize, now: Timestamp) -> bool {
        let Submission::Delivery(parsed) = &self.submission else {
            draft.note(self.provider, HeartbeatKind::Handshake, now);
            return true;
        };
        self.outcomes.truncate(from);
        for change in parsed.changes.iter().skip(from) {
            if draft.documents() >= enough {
                return false;
            }
            self.outcomes.push(draft.apply(change, now));
        }
        draft.note(self.provider, HeartbeatKind::Accepted, now);
        let is_change = |outcome: &Outcome| !matches!(outcome, Outcome::Refused | Outcome::Frozen);
        if self.outcomes.iter().any(is_change) {
            draft.note(self.provider, HeartbeatKind::Change, now);
        }
        true
    }
}

/// Folds what follows a place until enough is drafted, and returns the place of what is left.
fn fold(
    draft: &mut Draft<'_>,
    works: &mut [Work],
    from: Place,
    enough: usize,
    now: Timestamp,
) -> Place {
    let mut change = from.change;
    for (index, work) in works.iter_mut().enumerate().skip(from.work) {
        match work {
            _ if draft.documents() >= enough => {
                return Place {
                    work: index,
                    change,
                };
            }
            Work::Submission(folded, _) => {
                if !folded.fold(draft, change, enough, now) {
                    let change = folded.outcomes.len();
                    return Place {
                        work: index,
                        change,
                    };
                }
            }
            Work::Removal {
                key,
                forgotten,
                is_frozen,
                ..
            } => {
                *is_frozen = draft.is_frozen_key(key);
                if !*is_frozen {
                    *forgotten = draft.forget(key);
                }
            }
        }
        change = 0;
    }
    Place {
        work: works.len(),
        change: 0,
    }
}

/// A pause before what met a conflict is tried again: at random, so that those who met each other do
/// not meet again.
fn pause(conflicts: u32) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    let most = PAUSE * conflicts.min(16);
    most.mul_f64(random as f64 / u64::MAX as f64)
}

async fn commit<S: Store>(
    store: &mut S,
    batch: &Batch,
    telemetry: &Telemetry,
) -> Result<Commit, StoreError> {
    let metrics = &telemetry.storage;
    let began = Instant::now();
    let result = store.commit(batch).await;
    metrics
        .commit_duration
        .observe(began.elapsed().as_secs_f64());
    match &result {
        Ok(Commit::Stored) => metrics
            .last_commit
            .set(Timestamp::from(SystemTime::now()).as_seconds()),
        Ok(Commit::Conflict(_)) => {}
        Err(_) => metrics.commit_errors.inc(),
    }
    result
}
