//! The storage of several replicas: documents in etcd, which syncs and replicates before it answers.
//!
//! A document stands under its key ([`document`]) below a prefix. A replica commits with the condition
//! that what it folded over is unchanged: the records that it writes, and the account of each number,
//! because a number takes over its account's limit. Otherwise it takes what is newer, and the same
//! webhooks are folded again. Some keys hold no document:
//!
//! - `["members",…]`, one for each account, is put together with each new number of the account. An
//!   account's limit is for all of its numbers, so a number that another replica adds meanwhile must
//!   be a conflict.
//! - `["clock"]` is put every few seconds, so that each replica sees how far behind its watch is.
//! - `["RESTORED"]` is put by the first replica that knows more than the cluster, because an older
//!   state of it was restored, before it puts back what is lost.

mod cluster;
mod copy;
mod follow;
mod keys;
mod revisions;

use std::time::Instant;

use etcd_client::{Compare, CompareOp, KeyValue, Txn, TxnOp, TxnOpResponse, TxnResponse};
use hashbrown::HashMap;
use tokio::sync::mpsc;
use tracing::error;

use super::{
    Batch, Commit, Record, Store, StoreError, Update,
    document::{self, Unreadable},
};
use crate::{
    config::EtcdOptions,
    state::Forgettable,
    telemetry::{LogLimiter, LogPermit, ReplicationMetrics},
};
use cluster::{Cluster, Failure};
use follow::{Event, Message};
use keys::{Key, Keys};
use revisions::{Page, Revisions};

/// Operations in one transaction of many. etcd takes 128 comparisons and as many operations
/// (`--max-txn-ops`).
const OPERATIONS: usize = 120;
/// How often a transaction is tried of which nobody knows whether it is stored.
const TRIES: u32 = 2;
/// Messages of the watch that may wait.
const MESSAGES: usize = 256;

/// The storage of several replicas.
#[derive(Debug)]
pub struct Etcd {
    cluster: Cluster,
    keys: Keys,
    revisions: Revisions,
    messages: mpsc::Receiver<Message>,
    /// What was learned and not handed over yet.
    learned: Vec<Update>,
    metrics: ReplicationMetrics,
    /// Whether the mark is due that an older state was restored.
    must_mark: bool,
    /// Lines about documents that cannot be read.
    lines: LogLimiter,
}

/// What a transaction writes, and what it depends on.
#[derive(Default)]
struct Transaction {
    /// Keys, and the revision at which each must be.
    compared: Vec<(Vec<u8>, i64)>,
    puts: Vec<(Vec<u8>, Vec<u8>)>,
    deletes: Vec<Vec<u8>>,
    /// Puts that are not compared and of which the next revision is not noted.
    marks: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Etcd {
    /// Begins to follow a cluster. It must be called on the runtime of the writer.
    ///
    /// # Errors
    ///
    /// Where a file of the options cannot be used. That the cluster does not answer is no error.
    pub fn open(options: EtcdOptions, metrics: ReplicationMetrics) -> Result<Self, StoreError> {
        let keys = Keys::new(&options.prefix);
        let cluster = Cluster::new(options)?;
        let (sender, messages) = mpsc::channel(MESSAGES);
        follow::start(cluster.clone(), keys.clone(), sender, metrics.clone());
        Ok(Self {
            cluster,
            keys,
            revisions: Revisions::default(),
            messages,
            learned: Vec::new(),
            metrics,
            must_mark: false,
            lines: LogLimiter::for_authentic_senders(),
        })
    }

    /// Whether the cluster answers.
    ///
    /// # Errors
    ///
    /// Where it does not, and where a file of the options cannot be used.
    pub async fn check(options: EtcdOptions) -> Result<(), StoreError> {
        let keys = Keys::new(&options.prefix);
        let mut cluster = Cluster::new(options)?;
        cluster.is_empty(keys.prefix()).await.map(drop)
    }

    /// Takes a message of the watch; true where it is the end of a loading.
    fn receive(&mut self, message: Message) -> bool {
        match message {
            Message::Begin(ready) => {
                self.revisions.begin();
                // Nobody waits only when the program ends.
                let _ = ready.send(());
                false
            }
            Message::Page(page) => {
                for kv in page {
                    self.receive_stored(&kv);
                }
                false
            }
            Message::End { revision } => {
                let (missing, is_restored) = self.revisions.end(revision);
                // A loading before this one may have found it, and failed.
                let is_restored = is_restored || self.must_mark;
                let missing = missing.iter().filter_map(|key| document::forgettable(key));
                let update = match is_restored {
                    true => Update::Lost,
                    false => Update::Delete,
                };
                self.learned.extend(missing.map(update));
                self.must_mark |= is_restored && !self.revisions.has_new_mark();
                self.metrics.revision.set(revision);
                true
            }
            Message::Events { events, revision } => {
                for event in events {
                    self.receive_event(event);
                }
                self.revisions.passed(revision);
                self.metrics.revision.set(revision);
                false
            }
        }
    }

    /// Takes a document of a loading.
    fn receive_stored(&mut self, kv: &KeyValue) {
        let Some(key) = self.keys.strip(kv.key()) else {
            return;
        };
        let update = match Key::of(key) {
            Key::Clock => return,
            Key::Restored => return self.revisions.set_mark(kv.mod_revision()),
            Key::Other => Some(self.update(key, kv.value())),
            Key::Members | Key::Record => {
                let is_record = Key::of(key) == Key::Record;
                match self.revisions.page(key, kv.mod_revision()) {
                    Page::Newer if is_record => Some(self.update(key, kv.value())),
                    Page::Older if is_record => {
                        // The mark stands before all records, so it would have come.
                        self.must_mark |= !self.revisions.has_new_mark();
                        Some(document::forgettable(key).map(Update::Lost))
                    }
                    _ => None,
                }
            }
        };
        self.learned.extend(update.flatten());
    }

    fn receive_event(&mut self, event: Event) {
        let Some(key) = self.keys.strip(&event.key) else {
            return;
        };
        let Some(value) = event.value else {
            if self.revisions.deleted(key, event.revision) {
                self.learned
                    .extend(document::forgettable(key).map(Update::Delete));
            }
            return;
        };
        self.learn(key, &value, event.revision);
    }

    /// Takes a document where it is newer than what is known.
    fn learn(&mut self, key: &[u8], value: &[u8], revision: i64) {
        let is_newer = match Key::of(key) {
            Key::Clock => false,
            Key::Restored => {
                self.revisions.set_mark(revision);
                self.must_mark = false;
                false
            }
            Key::Other => true,
            Key::Members => {
                self.revisions.put(key, revision);
                false
            }
            Key::Record => self.revisions.put(key, revision),
        };
        if is_newer {
            let update = self.update(key, value);
            self.learned.extend(update);
        }
    }

    /// The document, or that this version cannot read it.
    fn update(&mut self, key: &[u8], value: &[u8]) -> Option<Update> {
        let texts = str::from_utf8(key).ok().zip(str::from_utf8(value).ok());
        let record = match texts {
            Some((key, value)) => document::read(key, value),
            None => Err(Unreadable::Damaged("a document is not text")),
        };
        let error = match record {
            Ok(record) => return record.map(Update::Put),
            Err(error) => error,
        };
        let (what, advice) = match &error {
            Unreadable::Newer(what) => (what.as_str(), "install the version that wrote it"),
            Unreadable::Damaged(what) => (*what, "remove the key, or restore its document"),
        };
        if let Some(LogPermit { suppressed }) = self.lines.try_line(Instant::now()) {
            error!(
                what,
                advice,
                suppressed,
                "a document in etcd cannot be read: what was known under its key is shown, and \
                 webhooks about it are answered 503"
            );
        }
        document::forgettable(key).map(Update::Newer)
    }

    /// What a batch, or a part of it, is as a transaction.
    fn transaction<'a>(
        &self,
        records: impl Iterator<Item = &'a Record>,
        deleted: impl Iterator<Item = &'a Forgettable>,
    ) -> Result<Transaction, StoreError> {
        let mut compared: HashMap<Vec<u8>, i64> = HashMap::new();
        let mut transaction = Transaction::default();
        let mut compare = |key: &[u8]| {
            compared
                .entry_ref(key)
                .or_insert_with(|| self.revisions.of(key));
        };
        for record in records {
            let key = document::key_of(record).map_err(StoreError::unwritable)?;
            let mut value = Vec::new();
            document::write(record, &mut value).map_err(StoreError::unwritable)?;
            match record.key() {
                None => {
                    transaction.marks.push((key, value));
                    continue;
                }
                Some(Forgettable::Number(number)) => {
                    let account = Forgettable::Account(number.account);
                    compare(&key_of(&account)?);
                }
                Some(Forgettable::Account(_)) => {}
            }
            compare(&key);
            transaction.puts.push((key, value));
        }
        for forgotten in deleted {
            let key = key_of(forgotten)?;
            compare(&key);
            transaction.deletes.push(key);
        }
        transaction.compared = compared.into_iter().collect();
        Ok(transaction)
    }

    /// Does a transaction; false where there is a conflict.
    async fn transact(&mut self, transaction: Transaction) -> Result<bool, StoreError> {
        let compares: Vec<_> = transaction
            .compared
            .iter()
            .map(|(key, revision)| {
                Compare::mod_revision(self.keys.full(key), CompareOp::Equal, *revision)
            })
            .collect();
        let puts = transaction.puts.iter().chain(&transaction.marks);
        let puts = puts.map(|(key, value)| TxnOp::put(self.keys.full(key), value.clone(), None));
        let deletes = transaction.deletes.iter();
        let deletes = deletes.map(|key| TxnOp::delete(self.keys.full(key), None));
        let writes: Vec<_> = puts.chain(deletes).collect();
        let request = Txn::new().when(compares).and_then(writes);
        let reads = Txn::new().and_then(self.reads(&transaction));
        let mut unknown = None;
        for _ in 0..TRIES {
            let is_unknown = match self.cluster.commit(request.clone()).await {
                Ok(response) if response.succeeded() => {
                    self.committed(&transaction, revision_of(&response));
                    return Ok(true);
                }
                Ok(_) => false,
                Err(Failure::Refused(error)) => return Err(error),
                Err(Failure::Unknown(what)) => {
                    unknown = Some(what);
                    true
                }
            };
            let response = self.cluster.read(&reads).await?;
            if !is_unknown && unknown.is_none() {
                self.conflict(&transaction, &response).await?;
                return Ok(false);
            }
            // It is stored or it is not, or it will be: what stands there tells. Should it be stored
            // after that, the comparisons of the next try fail, and that is told then.
            if let Some(revision) = self.is_stored(&transaction, &response) {
                self.committed(&transaction, revision);
                return Ok(true);
            }
            if !is_unknown || !self.is_unchanged(&transaction, &response) {
                self.conflict(&transaction, &response).await?;
                return Ok(false);
            }
        }
        Err(StoreError::etcd_unavailable(&unknown.unwrap_or_default()))
    }

    /// Whether everything is as a transaction expects it.
    fn is_unchanged(&self, transaction: &Transaction, response: &TxnResponse) -> bool {
        let found = found(response).into_iter();
        let found = found.map(|kv| kv.map_or(0, |kv| kv.mod_revision()));
        found.eq(transaction.compared.iter().map(|(_, revision)| *revision))
    }

    fn reads(&self, transaction: &Transaction) -> Vec<TxnOp> {
        let keys = transaction.compared.iter();
        keys.map(|(key, _)| TxnOp::get(self.keys.full(key), None))
            .collect()
    }

    fn committed(&mut self, transaction: &Transaction, revision: i64) {
        for (key, _) in &transaction.puts {
            match Key::of(key) {
                Key::Restored => self.revisions.set_mark(revision),
                _ => {
                    self.revisions.put(key, revision);
                }
            }
        }
        for key in &transaction.deletes {
            self.revisions.deleted(key, revision);
        }
    }

    /// The revision at which a transaction was stored, as far as what stands there tells.
    fn is_stored(&self, transaction: &Transaction, response: &TxnResponse) -> Option<i64> {
        let found = found(response);
        let compared = transaction.compared.iter();
        let found: HashMap<&[u8], &Option<KeyValue>> = compared
            .map(|(key, _)| key.as_slice())
            .zip(&found)
            .collect();
        let mut stored_at = None;
        for (key, value) in &transaction.puts {
            let kv = found.get(key.as_slice())?.as_ref()?;
            let known = compared_at(transaction, key);
            let is_same = kv.value() == value && kv.mod_revision() > known;
            if !is_same || *stored_at.get_or_insert(kv.mod_revision()) != kv.mod_revision() {
                return None;
            }
        }
        for key in &transaction.deletes {
            if found.get(key.as_slice())?.is_some() {
                return None;
            }
            stored_at.get_or_insert(revision_of(response));
        }
        stored_at
    }

    /// Learns what stands where a transaction expected something else.
    async fn conflict(
        &mut self,
        transaction: &Transaction,
        response: &TxnResponse,
    ) -> Result<(), StoreError> {
        let revision = revision_of(response);
        for ((key, known), found) in transaction.compared.iter().zip(found(response)) {
            match found {
                Some(kv) if kv.mod_revision() < *known => return Err(StoreError::restored()),
                Some(kv) if kv.mod_revision() == *known => {}
                Some(kv) if Key::of(key) == Key::Members => {
                    self.learn_members(key).await?;
                    self.revisions.put(key, kv.mod_revision());
                }
                Some(kv) => self.learn(key, kv.value(), kv.mod_revision()),
                None if *known == 0 => {}
                None if revision < *known => return Err(StoreError::restored()),
                None => {
                    if self.revisions.deleted(key, revision) {
                        self.learned
                            .extend(document::forgettable(key).map(Update::Delete));
                    }
                }
            }
        }
        Ok(())
    }

    /// Tells the other replicas that an older state of the cluster was restored; false where another
    /// has told it meanwhile.
    async fn put_mark(&mut self) -> Result<bool, StoreError> {
        let mark = Transaction {
            compared: vec![(keys::RESTORED.to_vec(), self.revisions.mark())],
            puts: vec![(keys::RESTORED.to_vec(), document::EMPTY_DOCUMENT.into())],
            ..Transaction::default()
        };
        let is_put = self.transact(mark).await?;
        self.must_mark = false;
        Ok(is_put)
    }

    /// Learns all numbers of the account whose key of members this is.
    async fn learn_members(&mut self, key: &[u8]) -> Result<(), StoreError> {
        let Some(prefix) = keys::numbers_of(key) else {
            return Ok(());
        };
        for kv in self.cluster.list(self.keys.full(&prefix)).await? {
            if let Some(key) = self.keys.strip(kv.key()) {
                let (key, value) = (key.to_vec(), kv.value().to_vec());
                self.learn(&key, &value, kv.mod_revision());
            }
        }
        Ok(())
    }

    /// Stores a batch; false where there is a conflict. `early` has what is stored of it before the
    /// rest.
    async fn commit_all(
        &mut self,
        batch: &Batch,
        early: &mut Vec<Update>,
    ) -> Result<bool, StoreError> {
        let (inherited, others) = batch.split();
        let deleted = batch.forgotten();
        let numbers = deleted
            .iter()
            .filter(|key| matches!(key, Forgettable::Number(_)));
        let accounts = deleted
            .iter()
            .filter(|key| matches!(key, Forgettable::Account(_)));
        let has_key = |record: &&Record| record.key().is_some();
        let compared = batch.records().iter().filter(has_key).count() + deleted.len();
        // A number is compared with its account.
        let is_one = compared <= OPERATIONS / 2;
        let mut last = match is_one {
            true => self.transaction(batch.records().iter(), deleted.iter())?,
            false => {
                for records in inherited.chunks(OPERATIONS - 1) {
                    let part = self.transaction(records.iter(), [].iter())?;
                    if !self.transact(part).await? {
                        return Ok(false);
                    }
                    early.extend(records.iter().cloned().map(Update::Put));
                }
                let numbers: Vec<_> = numbers.collect();
                for numbers in numbers.chunks(OPERATIONS) {
                    let part = self.transaction([].iter(), numbers.iter().copied())?;
                    if !self.transact(part).await? {
                        return Ok(false);
                    }
                    let deleted = numbers.iter().copied().cloned();
                    early.extend(deleted.map(Update::Delete));
                }
                self.transaction(others.iter(), accounts)?
            }
        };
        for account in batch.limited() {
            let key = keys::members_of(account).map_err(StoreError::unwritable)?;
            let revision = self.revisions.of(&key);
            last.compared.push((key, revision));
        }
        for account in batch.joined() {
            let key = keys::members_of(account).map_err(StoreError::unwritable)?;
            last.marks.push((key, document::EMPTY_DOCUMENT.into()));
        }
        self.transact(last).await
    }
}

impl Store for Etcd {
    const MAX_DOCUMENTS: usize = 60;

    async fn load(&mut self, each: &mut dyn FnMut(Update)) -> Result<(), StoreError> {
        while let Some(message) = self.messages.recv().await {
            let is_loaded = self.receive(message);
            self.learned.drain(..).for_each(&mut *each);
            if is_loaded {
                return Ok(());
            }
        }
        Err(StoreError::no_watch())
    }

    async fn commit(&mut self, batch: &Batch) -> Result<Commit, StoreError> {
        // What is compared must not be newer than what was folded over.
        if !self.learned.is_empty() {
            return Ok(Commit::Conflict(std::mem::take(&mut self.learned)));
        }
        if self.must_mark && !self.put_mark().await? {
            return Ok(Commit::Conflict(std::mem::take(&mut self.learned)));
        }
        let mut early = Vec::new();
        let result = self.commit_all(batch, &mut early).await;
        if matches!(result, Ok(true)) {
            return Ok(Commit::Stored);
        }
        self.learned.splice(0..0, early);
        result.map(|_| Commit::Conflict(std::mem::take(&mut self.learned)))
    }

    async fn updates(&mut self) -> Vec<Update> {
        while self.learned.is_empty() {
            let Some(message) = self.messages.recv().await else {
                return std::future::pending().await;
            };
            self.receive(message);
        }
        while let Ok(message) = self.messages.try_recv() {
            self.receive(message);
        }
        std::mem::take(&mut self.learned)
    }

    async fn probe(&mut self) -> Result<(), StoreError> {
        self.cluster.put(self.keys.clock()).await.map(drop)
    }

    fn maintain(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn size_bytes(&mut self) -> Result<u64, StoreError> {
        self.cluster.size().await
    }
}

/// The revision at which a transaction expects a key.
fn compared_at(transaction: &Transaction, key: &[u8]) -> i64 {
    let mut compared = transaction.compared.iter();
    let found = compared.find(|(compared, _)| compared == key);
    found.map_or(0, |(_, revision)| *revision)
}

fn key_of(key: &Forgettable) -> Result<Vec<u8>, StoreError> {
    document::key_of_forgotten(key).map_err(StoreError::unwritable)
}

fn revision_of(response: &TxnResponse) -> i64 {
    response.header().map_or(0, |header| header.revision())
}

/// What the reads of a transaction found, in their order.
fn found(response: &TxnResponse) -> Vec<Option<KeyValue>> {
    let responses = response.op_responses().into_iter();
    let found = responses.map(|response| match response {
        TxnOpResponse::Get(mut get) => get.take_kvs().pop(),
        _ => None,
    });
    found.collect()
}
