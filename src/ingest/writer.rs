//! The writer: the only part that folds, commits and publishes.

use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use smallvec::SmallVec;
use tokio::{
    runtime,
    sync::{mpsc, oneshot},
    time::sleep,
};
use tracing::{error, info, warn};

use super::{IngestError, Job, OutcomeCounts, ReplySender, Submission, report::Reporter};
use crate::{
    domain::{ProviderName, Timestamp},
    readiness::Readiness,
    state::{Batch, Draft, Fold, HeartbeatKind, Outcome},
    store::{Store, StoreError},
    telemetry::{LogLimiter, LogPermit, Telemetry},
};

/// Requests that go into one commit.
const BATCH: usize = 1024;
/// How often a storage that failed is tried.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// How often the storage's size is read, at most.
const SIZE_INTERVAL: Duration = Duration::from_secs(1);

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

impl RunningWriter {
    /// Waits until the writer has ended by itself: the storage can promise nothing any more. What
    /// was not answered was not stored. `None` where the writer panicked.
    pub async fn ended(&mut self) -> Option<Result<(), StoreError>> {
        (&mut self.ended).await.ok()
    }

    /// Ends the writer after the batch that it has, and closes the storage.
    pub async fn stop(self) {
        drop(self.stop);
        let _ = self.ended.await;
    }
}

impl<S: Store + 'static> Writer<S> {
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
        }
    }

    pub(super) fn start(self) -> io::Result<RunningWriter> {
        let (tell, ended) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let runtime = runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        let work = move || {
            let _ = tell.send(runtime.block_on(self.run(stopped)));
        };
        thread::Builder::new().name("writer".into()).spawn(work)?;
        Ok(RunningWriter { ended, stop })
    }

    async fn run(mut self, mut stopped: oneshot::Receiver<()>) -> Result<(), StoreError> {
        self.read_size();
        loop {
            let mut jobs = Vec::new();
            tokio::select! {
                biased;
                _ = &mut stopped => return Ok(()),
                received = self.queue.recv_many(&mut jobs, BATCH) => if received == 0 {
                    return Ok(());
                },
                // While the storage is down, /-/ready is 503 and a load balancer may send nothing,
                // so a timer is needed to notice recovery.
                () = sleep(PROBE_INTERVAL), if !self.readiness.storage_is_up() => {
                    self.probe()?;
                    continue;
                }
            }
            self.take(jobs, Timestamp::from(SystemTime::now()))?;
        }
    }

    /// Sees whether a storage that failed takes commits again.
    fn probe(&mut self) -> Result<(), StoreError> {
        match self.store.probe() {
            Ok(()) => {
                self.readiness.set_storage(true, &self.telemetry);
                info!("the storage takes changes again");
                Ok(())
            }
            Err(error) if error.is_fatal() => Err(error),
            Err(_) => Ok(()),
        }
    }

    /// Folds, commits, publishes and replies; an error is one after which nothing can be promised.
    fn take(&mut self, jobs: Vec<Job>, now: Timestamp) -> Result<(), StoreError> {
        let mut draft = self.fold.draft();
        let mut folded = Vec::with_capacity(jobs.len());
        let mut removed = Vec::new();
        for job in jobs {
            match job {
                Job::Submission {
                    provider,
                    submission,
                    reply,
                } => folded.push((fold(&mut draft, provider, submission, now), reply)),
                Job::Removal { key, reply } => {
                    let forgotten = draft.forget(&key);
                    removed.push((key, forgotten, reply));
                }
            }
        }
        let batch = draft.batch();
        let result = match batch.is_empty() {
            true => Ok(()),
            false => commit(&mut self.store, &batch, &self.telemetry),
        };
        if result.is_ok() {
            draft.publish(&batch);
            let phone_numbers = i64::try_from(self.fold.phone_numbers()).unwrap_or(i64::MAX);
            self.telemetry.phone_numbers.set(phone_numbers);
        }
        if !batch.is_empty() {
            self.readiness.set_storage(result.is_ok(), &self.telemetry);
        }
        self.reply(folded, result.is_ok(), now);
        for (key, forgotten, reply) in removed {
            if result.is_ok() {
                self.reporter.log_removal(&key, forgotten);
            }
            // The client may have hung up; what it named is removed all the same.
            let _ = reply.send(match result {
                Ok(()) => Ok(forgotten),
                Err(_) => Err(IngestError::Storage),
            });
        }
        match result {
            Ok(()) => {
                self.read_size();
                self.maintain()
            }
            Err(error) => {
                if let Some(LogPermit { suppressed }) = self.storage_lines.try_line(Instant::now())
                {
                    error!(
                        %error, suppressed,
                        "changes not stored; their senders are answered 503 and may send them again"
                    );
                }
                if error.is_fatal() { Err(error) } else { Ok(()) }
            }
        }
    }

    /// Answers all requests of a batch, and then reports what was accepted.
    fn reply(&mut self, folded: Vec<(Folded, ReplySender)>, is_stored: bool, now: Timestamp) {
        let mut replies = Vec::with_capacity(folded.len());
        let mut accepted = Vec::with_capacity(folded.len());
        for (folded, reply) in folded {
            // Where a delivery holds no change, nothing could be lost.
            let is_delivery = matches!(folded.submission, Submission::Delivery(_));
            if is_stored || is_delivery && folded.outcomes.is_empty() {
                replies.push((reply, Ok(self.reporter.count(&folded, now))));
                accepted.push(folded);
            } else {
                replies.push((reply, Err(IngestError::Storage)));
            }
        }
        // Nothing takes them only when the program ends.
        let _ = self.replies.send(replies);
        let logged_at = Instant::now();
        accepted
            .iter()
            .for_each(|folded| self.reporter.log(folded, logged_at));
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

    fn read_size(&mut self) {
        if self
            .size_read
            .is_some_and(|read| read.elapsed() < SIZE_INTERVAL)
        {
            return;
        }
        self.size_read = Some(Instant::now());
        match self.store.size_bytes() {
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

/// Folds a submission into the draft.
fn fold(
    draft: &mut Draft<'_>,
    provider: ProviderName,
    submission: Submission,
    now: Timestamp,
) -> Folded {
    let mut outcomes = SmallVec::new();
    match &submission {
        Submission::Handshake => draft.note(provider, HeartbeatKind::Handshake, now),
        Submission::Delivery(parsed) => {
            outcomes.extend(parsed.changes.iter().map(|change| draft.apply(change, now)));
            draft.note(provider, HeartbeatKind::Accepted, now);
            if outcomes.iter().any(|outcome| *outcome != Outcome::Refused) {
                draft.note(provider, HeartbeatKind::Change, now);
            }
        }
    }
    Folded {
        provider,
        submission,
        outcomes,
    }
}

fn commit<S: Store>(store: &mut S, batch: &Batch, telemetry: &Telemetry) -> Result<(), StoreError> {
    let metrics = &telemetry.storage;
    let began = Instant::now();
    let result = store.commit(batch);
    metrics
        .commit_duration
        .observe(began.elapsed().as_secs_f64());
    match &result {
        Ok(()) => metrics
            .last_commit
            .set(Timestamp::from(SystemTime::now()).as_seconds()),
        Err(_) => metrics.commit_errors.inc(),
    }
    result
}
