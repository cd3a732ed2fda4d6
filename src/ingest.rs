//! From parsed changes to durable state: a bounded queue and one writer.
//!
//! The writer takes all that is queued, folds it, commits once, publishes, and only then answers.
//! What arrives during a commit goes into the next as one. All of that is done on a thread of its
//! own, which may wait for the disk; meanwhile the next webhooks are read, verified and parsed.

mod report;
mod writer;

use std::{io, sync::Arc};

use tokio::sync::{
    mpsc::{self, error::TrySendError},
    oneshot,
};

pub use writer::{LoadingWriter, RunningWriter};

use crate::{
    domain::ProviderName,
    providers::Parsed,
    readiness::Readiness,
    state::{Fold, Forgettable, Forgotten},
    store::{Store, StoreError},
    telemetry::Telemetry,
};
use writer::Writer;

/// Deliveries that may wait for the writer.
const QUEUE: usize = 2048;

/// The sending end of the writer's queue.
#[derive(Clone, Debug)]
pub struct WriterQueue(mpsc::Sender<Job>);

/// What is submitted to the writer: the content of an authentic request.
#[derive(Debug)]
pub enum Submission {
    /// Webhooks. They are boxed, because a submission is moved often on its way to the answer.
    Delivery(Box<Parsed>),
    /// A handshake with the right verify token.
    Handshake,
}

/// What became of the changes of a delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[expect(missing_docs, reason = "the names are the outcomes of the contract")]
pub struct OutcomeCounts {
    pub applied: u64,
    pub duplicate: u64,
    pub stale: u64,
    pub ignored: u64,
    pub invalid: u64,
    pub test: u64,
}

/// Why a submission was not stored; the sender may try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IngestError {
    /// More requests are waiting than the writer can take.
    #[error("too many webhooks are waiting to be stored")]
    Busy,
    /// The storage did not take it.
    #[error("the storage does not take changes at the moment")]
    Storage,
}

/// What waits in the queue.
#[derive(Debug)]
enum Job {
    Submission {
        provider: ProviderName,
        submission: Submission,
        reply: ReplySender,
    },
    Removal {
        key: Forgettable,
        reply: oneshot::Sender<Result<Forgotten, IngestError>>,
    },
}

type ReplySender = oneshot::Sender<Result<OutcomeCounts, IngestError>>;

/// The end of the queue at which the writer takes.
#[derive(Debug)]
pub struct Jobs(mpsc::Receiver<Job>);

/// The queue of a writer that is not started yet.
pub fn queue() -> (WriterQueue, Jobs) {
    let (sender, jobs) = mpsc::channel(QUEUE);
    (WriterQueue(sender), Jobs(jobs))
}

/// Starts the writer on a thread of its own: it opens the storage, loads what is stored, and then
/// takes from the queue. Storages are opened there because one of them lives by tasks of its thread.
///
/// # Errors
///
/// Where the system gives no thread.
pub fn start<S: Store + 'static>(
    jobs: Jobs,
    fold: Fold,
    open: impl FnOnce() -> Result<S, StoreError> + Send + 'static,
    readiness: &Arc<Readiness>,
    telemetry: Arc<Telemetry>,
    log_phone_numbers: bool,
) -> io::Result<LoadingWriter> {
    let (replies, mut ready) = mpsc::unbounded_channel();
    let readiness = Arc::clone(readiness);
    let loading = writer::start(open, move |store| {
        let jobs = jobs.0;
        Writer::new(
            jobs,
            replies,
            fold,
            store,
            readiness,
            telemetry,
            log_phone_numbers,
        )
    })?;
    // All replies of a batch come at once, so that this thread is woken once for them.
    tokio::spawn(async move {
        while let Some(replies) = ready.recv().await {
            for (reply, result) in replies {
                // The sender may have hung up; its changes are stored all the same.
                let _ = reply.send(result);
            }
        }
    });
    Ok(loading)
}

impl WriterQueue {
    /// Hands over a submission and waits until its changes are durable.
    ///
    /// # Errors
    ///
    /// Nothing of the submission was applied; [`IngestError`] says why.
    pub fn submit(
        &self,
        provider: ProviderName,
        submission: Submission,
    ) -> impl Future<Output = Result<OutcomeCounts, IngestError>> + use<> {
        let (reply, result) = oneshot::channel();
        self.send(
            Job::Submission {
                provider,
                submission,
                reply,
            },
            result,
        )
    }

    /// Removes a phone number, or an account with all its numbers, and waits until that is durable.
    ///
    /// # Errors
    ///
    /// Nothing was removed; [`IngestError`] says why.
    pub fn remove(
        &self,
        key: Forgettable,
    ) -> impl Future<Output = Result<Forgotten, IngestError>> + use<> {
        let (reply, result) = oneshot::channel();
        self.send(Job::Removal { key, reply }, result)
    }

    fn send<T>(
        &self,
        job: Job,
        result: oneshot::Receiver<Result<T, IngestError>>,
    ) -> impl Future<Output = Result<T, IngestError>> + use<T> {
        let queued = self.0.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => IngestError::Busy,
            // The writer has ended.
            TrySendError::Closed(_) => IngestError::Storage,
        });
        async move {
            queued?;
            result.await.unwrap_or(Err(IngestError::Storage))
        }
    }
}
