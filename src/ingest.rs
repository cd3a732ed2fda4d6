//! From parsed changes to durable state: a bounded queue and one writer.
//!
//! The writer takes all that is queued, folds it, commits once, publishes, and only then answers.
//! What arrives during a commit goes into the next as one. Commits wait for the disk on a thread of
//! their own; meanwhile the next webhooks are read, verified and parsed.

use std::{
    fmt,
    panic::resume_unwind,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
    time::timeout,
};
use tracing::{error, info, warn};

use crate::{
    domain::{Change, EventKind, MessagingLimit, Subject, Timestamp},
    providers::Parsed,
    state::{Applied, Fold, Outcome, Record},
    store::{Store, StoreError},
    telemetry::Telemetry,
};

/// Deliveries that may wait for the writer.
const QUEUE: usize = 2048;
/// Deliveries that go into one commit.
const BATCH: usize = 1024;
/// How often a storage that failed is tried.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// The entrance: hands deliveries to the writer.
#[derive(Clone, Debug)]
pub struct Ingest(mpsc::Sender<Job>);

/// The one that folds and commits.
#[derive(Debug)]
pub struct Writer<S> {
    queue: mpsc::Receiver<Job>,
    fold: Fold,
    store: Arc<Mutex<S>>,
    telemetry: Arc<Telemetry>,
    log_phone_numbers: bool,
    size_read: Option<Instant>,
}

/// What became of the changes of a delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[expect(missing_docs, reason = "the names are the outcomes of the contract")]
pub struct Tally {
    pub applied: u64,
    pub duplicate: u64,
    pub stale: u64,
    pub ignored: u64,
    pub invalid: u64,
    pub test: u64,
}

/// Why a delivery was not stored; the sender may try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IngestError {
    /// More deliveries are waiting than the writer can take.
    #[error("too many webhooks are waiting to be stored")]
    Busy,
    /// The storage did not take it.
    #[error("the storage does not take changes at the moment")]
    Storage,
}

#[derive(Debug)]
struct Job {
    provider: &'static str,
    parsed: Parsed,
    done: oneshot::Sender<Result<Tally, IngestError>>,
}

/// Makes the two ends.
pub fn channel<S: Store + 'static>(
    fold: Fold,
    store: S,
    telemetry: Arc<Telemetry>,
    log_phone_numbers: bool,
) -> (Ingest, Writer<S>) {
    let (sender, queue) = mpsc::channel(QUEUE);
    let store = Arc::new(Mutex::new(store));
    (Ingest(sender), Writer { queue, fold, store, telemetry, log_phone_numbers, size_read: None })
}

impl Ingest {
    /// Hands over a delivery and waits until its changes are durable.
    ///
    /// # Errors
    ///
    /// Nothing of the delivery was applied; [`IngestError`] says why.
    pub async fn submit(&self, provider: &'static str, parsed: Parsed) -> Result<Tally, IngestError> {
        let (done, answer) = oneshot::channel();
        self.0.try_send(Job { provider, parsed, done }).map_err(|_| IngestError::Busy)?;
        answer.await.unwrap_or(Err(IngestError::Storage))
    }
}

impl<S: Store + 'static> Writer<S> {
    /// Works until every [`Ingest`] is dropped and the queue is empty.
    ///
    /// # Errors
    ///
    /// Where the storage can promise nothing any more. What was not answered was not stored.
    pub async fn run(mut self) -> Result<(), StoreError> {
        self.measure();
        let mut jobs = Vec::new();
        loop {
            let received = self.queue.recv_many(&mut jobs, BATCH);
            let received = if self.telemetry.storage.up.get() == 1 {
                received.await
            } else {
                // Who is not ready may be sent nothing by which to find out that it is again.
                match timeout(PROBE_INTERVAL, received).await {
                    Ok(received) => received,
                    Err(_) => {
                        self.probe().await?;
                        continue;
                    }
                }
            };
            if received == 0 {
                return Ok(());
            }
            let now = Timestamp::from(SystemTime::now());
            self.store(&mut jobs, now).await?;
        }
    }

    /// Sees whether a storage that failed takes commits again.
    async fn probe(&mut self) -> Result<(), StoreError> {
        match on_disk(&self.store, S::probe).await {
            Ok(()) => {
                self.telemetry.storage.up.set(1);
                info!("the storage takes changes again");
                Ok(())
            }
            Err(error) if error.is_fatal() => Err(error),
            Err(_) => Ok(()),
        }
    }

    async fn store(&mut self, jobs: &mut Vec<Job>, now: Timestamp) -> Result<(), StoreError> {
        let mut draft = self.fold.draft();
        let folded: Vec<(Job, Vec<Outcome>)> = jobs
            .drain(..)
            .map(|job| {
                draft.accept(job.provider, now);
                let outcomes = job.parsed.changes.iter().map(|change| draft.apply(change, now)).collect();
                (job, outcomes)
            })
            .collect();

        let (records, committed) = commit(&self.store, draft.records(), &self.telemetry).await;
        if let Err(error) = committed {
            for (job, _) in folded {
                // Without a change there is nothing that could be lost.
                let answer = match job.parsed.changes.is_empty() {
                    true => Ok(self.accepted(&job, &[], now)),
                    false => Err(IngestError::Storage),
                };
                let _ = job.done.send(answer);
            }
            return if error.is_fatal() { Err(error) } else { Ok(()) };
        }
        draft.publish(&records);
        self.telemetry.phone_numbers.set(i64::try_from(self.fold.phone_numbers()).unwrap_or(i64::MAX));
        for (job, outcomes) in folded {
            let tally = self.accepted(&job, &outcomes, now);
            // The sender may have hung up; what it said is stored all the same.
            let _ = job.done.send(Ok(tally));
        }
        self.measure();
        Ok(())
    }

    /// Counts and logs what was accepted.
    fn accepted(&self, job: &Job, outcomes: &[Outcome], now: Timestamp) -> Tally {
        let parsed = &job.parsed;
        let mut tally =
            Tally { ignored: parsed.ignored, invalid: parsed.invalid, test: parsed.test, ..Tally::default() };
        let Some(metrics) = self.telemetry.provider(job.provider) else { return tally };
        if let Some(reason) = parsed.first_invalid {
            warn!(provider = job.provider, changes = parsed.invalid, %reason, "invalid changes in a webhook");
        }
        for (change, outcome) in parsed.changes.iter().zip(outcomes) {
            match outcome {
                Outcome::Applied(applied) => {
                    tally.applied += 1;
                    self.log(change, applied, "applied");
                }
                Outcome::Stale(applied) => {
                    tally.stale += 1;
                    self.log(change, applied, "stale");
                }
                Outcome::Duplicate => tally.duplicate += 1,
                Outcome::Refused => {
                    tally.invalid += 1;
                    self.telemetry.phone_numbers_refused.inc();
                    warn!(
                        provider = change.account.provider,
                        waba_id = change.account.waba_id.as_str(),
                        "change refused: it would add a phone number or an account beyond --limits.max-phone-numbers"
                    );
                }
            }
            if matches!(outcome, Outcome::Applied(_) | Outcome::Stale(_)) {
                if matches!(change.subject, Subject::PhoneNumber { event: EventKind::Unknown, .. }) {
                    metrics.unknown_events.inc();
                }
                metrics.unknown_limits.inc_by(change.unusable_limits.into());
                if let Some(time) = change.time.filter(|time| !time.is_ahead_of(now)) {
                    metrics.delivery_delay.observe(now.seconds_since(time));
                }
            }
        }
        let counted = &metrics.changes;
        counted.applied.inc_by(tally.applied);
        counted.duplicate.inc_by(tally.duplicate);
        counted.stale.inc_by(tally.stale);
        counted.ignored.inc_by(tally.ignored);
        counted.invalid.inc_by(tally.invalid);
        counted.test.inc_by(tally.test);
        self.telemetry.accepted(job.provider, now);
        tally
    }

    fn log(&self, change: &Change, applied: &Applied, outcome: &'static str) {
        let (phone_number, event) = match &change.subject {
            Subject::PhoneNumber { phone_number, event, .. } if self.log_phone_numbers => {
                (phone_number.as_str().to_owned(), event.as_str())
            }
            Subject::PhoneNumber { phone_number, event, .. } => (phone_number.masked(), event.as_str()),
            Subject::Account(_) => (String::new(), "business_capability_update"),
        };
        info!(
            provider = change.account.provider,
            waba_id = change.account.waba_id.as_str(),
            phone_number,
            event,
            outcome,
            old_limit = %Shown(applied.old_limit),
            new_limit = %Shown(applied.new_limit),
            "webhook change accepted"
        );
    }

    /// Reads the storage's size, at most once a second.
    fn measure(&mut self) {
        if self.size_read.is_some_and(|read| read.elapsed().as_secs() < 1) {
            return;
        }
        self.size_read = Some(Instant::now());
        match lock(&self.store).size_bytes() {
            Ok(bytes) => self.telemetry.storage.size.set(i64::try_from(bytes).unwrap_or(i64::MAX)),
            Err(error) => {
                self.telemetry.storage.size_errors.inc();
                warn!(%error, "cannot read the size of the storage");
            }
        }
    }
}

/// A limit, as the log has it.
struct Shown(Option<MessagingLimit>);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(limit) => limit.fmt(f),
            None => f.write_str("unknown"),
        }
    }
}

/// Commits the records and hands them back with what came of it.
async fn commit<S: Store + 'static>(
    store: &Arc<Mutex<S>>,
    records: Vec<Record>,
    telemetry: &Telemetry,
) -> (Vec<Record>, Result<(), StoreError>) {
    if records.is_empty() {
        return (records, Ok(()));
    }
    let metrics = &telemetry.storage;
    let began = Instant::now();
    let (records, result) = on_disk(store, |store| {
        let result = store.commit(&records);
        (records, result)
    })
    .await;
    metrics.commit_duration.observe(began.elapsed().as_secs_f64());
    metrics.up.set(result.is_ok().into());
    match &result {
        Ok(()) => metrics.last_commit.set(Timestamp::from(SystemTime::now()).as_seconds()),
        Err(error) => {
            metrics.commit_errors.inc();
            error!(%error, "changes not stored; their senders were answered 503 and will send them again");
        }
    }
    (records, result)
}

/// Works with the storage on a thread that may wait for the disk.
async fn on_disk<S: Store + 'static, T: Send + 'static>(
    store: &Arc<Mutex<S>>,
    work: impl FnOnce(&mut S) -> T + Send + 'static,
) -> T {
    let store = Arc::clone(store);
    match spawn_blocking(move || work(&mut lock(&store))).await {
        Ok(done) => done,
        // Only a panic ends such work; it ends the writer as it would have without a thread.
        Err(error) => resume_unwind(error.into_panic()),
    }
}

/// Never contended: the writer waits for what it began.
fn lock<S>(store: &Mutex<S>) -> std::sync::MutexGuard<'_, S> {
    store.lock().unwrap_or_else(PoisonError::into_inner)
}
