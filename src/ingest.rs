//! From parsed changes to durable state: a bounded queue and one writer.
//!
//! The writer takes all that is queued, folds it, commits once, publishes, and only then answers.
//! What arrives during a commit goes into the next as one. All of that is done on a thread of its
//! own, which may wait for the disk; meanwhile the next webhooks are read, verified and parsed.

use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use smol_str::{SmolStr, ToSmolStr};
use tokio::{
    runtime,
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    time::sleep,
};
use tracing::{error, info, warn};

use crate::{
    domain::{Change, MessagingLimit, Subject, Timestamp, UnknownField},
    providers::Parsed,
    state::{Applied, Batch, Fold, Outcome, Sign},
    store::{Store, StoreError},
    telemetry::{LogLine, LogLines, Telemetry},
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
    /// All answers of a batch at once: each thread is woken once for it.
    answers: mpsc::UnboundedSender<Vec<Answer>>,
    fold: Fold,
    store: S,
    telemetry: Arc<Telemetry>,
    log_phone_numbers: bool,
    log_lines: LogLines,
    /// Lines about the storage; those about webhooks leave room for them.
    storage_lines: LogLines,
    size_read: Option<Instant>,
}

/// Gives the answers to those who wait for them.
#[derive(Debug)]
pub struct Answers(mpsc::UnboundedReceiver<Vec<Answer>>);

/// A writer at work.
#[derive(Debug)]
pub struct Working {
    ended: oneshot::Receiver<Result<(), StoreError>>,
    stop: oneshot::Sender<()>,
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
    request: Request,
    done: oneshot::Sender<Result<Tally, IngestError>>,
}

/// What a provider sent, authentic and read.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every request is a delivery"
)]
pub enum Request {
    /// Webhooks.
    Delivery(Parsed),
    /// A handshake with the right verify token.
    Handshake,
}

/// A delivery's answer, and whom to give it.
type Answer = (
    oneshot::Sender<Result<Tally, IngestError>>,
    Result<Tally, IngestError>,
);

/// Makes the entrance, the writer behind it, and the way out.
pub fn channel<S: Store + 'static>(
    fold: Fold,
    store: S,
    telemetry: Arc<Telemetry>,
    log_phone_numbers: bool,
) -> (Ingest, Writer<S>, Answers) {
    let (sender, queue) = mpsc::channel(QUEUE);
    let (answers, given) = mpsc::unbounded_channel();
    let writer = Writer {
        queue,
        answers,
        fold,
        store,
        telemetry,
        log_phone_numbers,
        log_lines: LogLines::of_the_known(),
        storage_lines: LogLines::of_the_known(),
        size_read: None,
    };
    (Ingest(sender), writer, Answers(given))
}

impl Ingest {
    /// Hands over a delivery and waits until its changes are durable.
    ///
    /// # Errors
    ///
    /// Nothing of the delivery was applied; [`IngestError`] says why.
    pub fn submit(
        &self,
        provider: &'static str,
        request: Request,
    ) -> impl Future<Output = Result<Tally, IngestError>> + use<> {
        let (done, answer) = oneshot::channel();
        let queued = self
            .0
            .try_send(Job {
                provider,
                request,
                done,
            })
            .map_err(|error| match error {
                TrySendError::Full(_) => IngestError::Busy,
                // The writer has ended.
                TrySendError::Closed(_) => IngestError::Storage,
            });
        async move {
            queued?;
            answer.await.unwrap_or(Err(IngestError::Storage))
        }
    }
}

impl Answers {
    /// Gives them until the writer has ended.
    pub async fn give(mut self) {
        while let Some(answers) = self.0.recv().await {
            for (done, answer) in answers {
                // The sender may have hung up; what it said is stored all the same.
                let _ = done.send(answer);
            }
        }
    }
}

impl Working {
    /// Waits until the writer has ended by itself: the storage can promise nothing any more. What was not answered
    /// was not stored. `None` where it panicked.
    pub async fn ended(&mut self) -> Option<Result<(), StoreError>> {
        (&mut self.ended).await.ok()
    }

    /// Ends the writer after the batch it has, and closes the storage.
    pub async fn stop(self) {
        drop(self.stop);
        let _ = self.ended.await;
    }
}

impl<S: Store + 'static> Writer<S> {
    /// Starts on a thread of its own.
    ///
    /// # Errors
    ///
    /// Where the system gives no thread.
    pub fn start(self) -> io::Result<Working> {
        let (tell, ended) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let runtime = runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        let work = move || {
            let _ = tell.send(runtime.block_on(self.run(stopped)));
        };
        thread::Builder::new().name("writer".into()).spawn(work)?;
        Ok(Working { ended, stop })
    }

    async fn run(mut self, mut stopped: oneshot::Receiver<()>) -> Result<(), StoreError> {
        self.measure();
        loop {
            let mut jobs = Vec::new();
            let is_up = self.telemetry.storage.up.get() == 1;
            tokio::select! {
                biased;
                _ = &mut stopped => return Ok(()),
                received = self.queue.recv_many(&mut jobs, BATCH) => if received == 0 {
                    return Ok(());
                },
                // Who is not ready may be sent nothing by which to find out that it is again.
                () = sleep(PROBE_INTERVAL), if !is_up => {
                    self.probe()?;
                    continue;
                }
            }
            self.store(jobs, Timestamp::from(SystemTime::now()))?;
        }
    }

    /// Sees whether a storage that failed takes commits again.
    fn probe(&mut self) -> Result<(), StoreError> {
        match self.store.probe() {
            Ok(()) => {
                self.telemetry.storage.up.set(1);
                info!("the storage takes changes again");
                Ok(())
            }
            Err(error) if error.is_fatal() => Err(error),
            Err(_) => Ok(()),
        }
    }

    /// Folds, commits, publishes and answers; an error is one after which nothing can be promised any more.
    fn store(&mut self, jobs: Vec<Job>, now: Timestamp) -> Result<(), StoreError> {
        let mut draft = self.fold.draft();
        let mut outcomes = Vec::with_capacity(jobs.len());
        for Job {
            provider, request, ..
        } in &jobs
        {
            match request {
                Request::Handshake => draft.note(provider, Sign::Handshake, now),
                Request::Delivery(parsed) => {
                    let first = outcomes.len();
                    outcomes.extend(parsed.changes.iter().map(|change| draft.apply(change, now)));
                    draft.note(provider, Sign::Accepted, now);
                    if outcomes
                        .iter()
                        .skip(first)
                        .any(|outcome| *outcome != Outcome::Refused)
                    {
                        draft.note(provider, Sign::Change, now);
                    }
                }
            }
        }
        let batch = draft.batch();
        let result = match batch.is_empty() {
            true => Ok(()),
            false => commit(
                &mut self.store,
                &batch,
                &self.telemetry,
                &self.storage_lines,
            ),
        };
        if result.is_ok() {
            draft.publish(&batch);
            self.telemetry
                .phone_numbers
                .set(i64::try_from(self.fold.phone_numbers()).unwrap_or(i64::MAX));
        }

        let mut left = outcomes.as_slice();
        let mut answers = Vec::with_capacity(jobs.len());
        let mut accepted = Vec::with_capacity(jobs.len());
        for Job {
            provider,
            request,
            done,
        } in jobs
        {
            let Request::Delivery(parsed) = request else {
                answers.push((done, self.handshake(provider, result.is_ok(), now)));
                continue;
            };
            let (outcomes, others) = left.split_at(parsed.changes.len());
            left = others;
            // Without a change there is nothing that could be lost.
            if result.is_ok() || outcomes.is_empty() {
                answers.push((done, Ok(self.count(provider, &parsed, outcomes, now))));
                accepted.push((provider, parsed, outcomes));
            } else {
                answers.push((done, Err(IngestError::Storage)));
            }
        }
        // Nobody is there to take them only when the program ends.
        let _ = self.answers.send(answers);
        let logged = Instant::now();
        for (provider, parsed, outcomes) in &accepted {
            self.log(provider, parsed, outcomes, logged);
        }
        match result {
            Err(error) if error.is_fatal() => Err(error),
            Err(_) => Ok(()),
            Ok(()) => {
                self.measure();
                self.checkpoint()
            }
        }
    }

    /// Has the storage do what nobody waits for.
    fn checkpoint(&mut self) -> Result<(), StoreError> {
        match self.store.checkpoint() {
            Err(error) if !error.is_fatal() => {
                self.telemetry.storage.checkpoint_errors.inc();
                if let Some(LogLine { left_out }) = self.storage_lines.admit(Instant::now()) {
                    warn!(%error, left_out, "the storage takes changes and grows");
                }
                Ok(())
            }
            done => done,
        }
    }

    /// Notes a handshake; its time is promised to outlive the process, as a change is.
    fn handshake(
        &self,
        provider: &'static str,
        is_stored: bool,
        now: Timestamp,
    ) -> Result<Tally, IngestError> {
        if !is_stored {
            return Err(IngestError::Storage);
        }
        if let Some(metrics) = self.telemetry.provider(provider) {
            metrics.last_handshake.set(now);
        }
        Ok(Tally::default())
    }

    /// Counts what was accepted.
    fn count(
        &self,
        provider: &'static str,
        parsed: &Parsed,
        outcomes: &[Outcome],
        now: Timestamp,
    ) -> Tally {
        let mut tally = Tally {
            ignored: parsed.ignored,
            invalid: parsed.invalid,
            test: parsed.test,
            ..Tally::default()
        };
        let Some(metrics) = self.telemetry.provider(provider) else {
            return tally;
        };
        for (change, outcome) in parsed.changes.iter().zip(outcomes) {
            match outcome {
                Outcome::Applied(_) => tally.applied += 1,
                Outcome::Stale(_) => tally.stale += 1,
                Outcome::Duplicate => tally.duplicate += 1,
                Outcome::Refused => {
                    tally.invalid += 1;
                    self.telemetry.phone_numbers_refused.inc();
                }
            }
            if matches!(outcome, Outcome::Applied(_) | Outcome::Stale(_)) {
                for unknown in &change.unknown {
                    match unknown.field {
                        UnknownField::Event => metrics.unknown_events.inc(),
                        UnknownField::Limit => metrics.unknown_limits.inc(),
                    }
                }
                if let Some(time) = change.happened(now) {
                    metrics.delivery_delay.observe(now.seconds_since(time));
                }
            }
        }
        let counted = &metrics.changes;
        for (counter, changes) in [
            (&counted.applied, tally.applied),
            (&counted.duplicate, tally.duplicate),
            (&counted.stale, tally.stale),
            (&counted.ignored, tally.ignored),
            (&counted.invalid, tally.invalid),
            (&counted.test, tally.test),
        ] {
            if changes > 0 {
                counter.inc_by(changes);
            }
        }
        metrics.last_accepted.set(now);
        if tally.applied + tally.stale + tally.duplicate > 0 {
            metrics.last_change.set(now);
        }
        tally
    }

    /// Logs what was accepted.
    fn log(&self, provider: &'static str, parsed: &Parsed, outcomes: &[Outcome], now: Instant) {
        if let Some(reason) = parsed.first_invalid
            && let Some(LogLine { left_out }) = self.log_lines.admit(now)
        {
            warn!(provider, changes = parsed.invalid, %reason, left_out, "invalid changes in a webhook");
        }
        for (change, outcome) in parsed.changes.iter().zip(outcomes) {
            if matches!(outcome, Outcome::Applied(_) | Outcome::Stale(_)) {
                self.log_unknown_values(provider, change, now);
            }
            let applied = match outcome {
                Outcome::Duplicate => continue,
                Outcome::Applied(applied) => Some((applied, "applied")),
                Outcome::Stale(applied) => Some((applied, "stale")),
                Outcome::Refused => None,
            };
            let Some(line) = self.log_lines.admit(now) else {
                continue;
            };
            match applied {
                Some((applied, outcome)) => self.log_change(change, applied, outcome, line),
                None => warn!(
                    provider,
                    waba_id = change.account.waba_id.as_str(),
                    left_out = line.left_out,
                    "change refused: it would add a phone number or an account beyond --limits.max-phone-numbers"
                ),
            }
        }
    }

    /// Logs each value that this version does not know, because a provider does not send it again.
    fn log_unknown_values(&self, provider: &'static str, change: &Change, now: Instant) {
        for unknown in &change.unknown {
            if let Some(LogLine { left_out }) = self.log_lines.admit(now) {
                let (field, value) = (unknown.field.as_str(), unknown.value.as_str());
                warn!(
                    provider,
                    field, value, left_out, "unknown value in a webhook"
                );
            }
        }
    }

    fn log_change(&self, change: &Change, applied: &Applied, outcome: &'static str, line: LogLine) {
        let (phone_number, event) = match &change.subject {
            Subject::PhoneNumber {
                phone_number,
                event,
                ..
            } if self.log_phone_numbers => (phone_number.as_str().to_smolstr(), event.as_str()),
            Subject::PhoneNumber {
                phone_number,
                event,
                ..
            } => (phone_number.masked(), event.as_str()),
            Subject::Account(_) => (SmolStr::default(), "business_capability_update"),
        };
        let limit = |limit: Option<MessagingLimit>| {
            limit.map_or("unknown".into(), |limit| limit.to_smolstr())
        };
        // As text, for what is given to be formatted is written twice.
        info!(
            provider = change.account.provider,
            waba_id = change.account.waba_id.as_str(),
            phone_number = phone_number.as_str(),
            event,
            outcome,
            old_limit = limit(applied.old_limit).as_str(),
            new_limit = limit(applied.new_limit).as_str(),
            left_out = line.left_out,
            message = "webhook change accepted"
        );
    }

    /// Reads the storage's size, at most once a second.
    fn measure(&mut self) {
        if self
            .size_read
            .is_some_and(|read| read.elapsed().as_secs() < 1)
        {
            return;
        }
        self.size_read = Some(Instant::now());
        match self.store.size_bytes() {
            Ok(bytes) => self
                .telemetry
                .storage
                .size
                .set(i64::try_from(bytes).unwrap_or(i64::MAX)),
            Err(error) => {
                self.telemetry.storage.size_errors.inc();
                warn!(%error, "cannot read the size of the storage");
            }
        }
    }
}

fn commit<S: Store>(
    store: &mut S,
    batch: &Batch,
    telemetry: &Telemetry,
    lines: &LogLines,
) -> Result<(), StoreError> {
    let metrics = &telemetry.storage;
    let began = Instant::now();
    let result = store.commit(batch);
    metrics
        .commit_duration
        .observe(began.elapsed().as_secs_f64());
    metrics.up.set(result.is_ok().into());
    match &result {
        Ok(()) => metrics
            .last_commit
            .set(Timestamp::from(SystemTime::now()).as_seconds()),
        Err(error) => {
            metrics.commit_errors.inc();
            if let Some(LogLine { left_out }) = lines.admit(Instant::now()) {
                error!(%error, left_out, "changes not stored; their senders are answered 503 and may send them again");
            }
        }
    }
    result
}
