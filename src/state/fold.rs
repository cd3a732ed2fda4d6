//! The fold: a batch of changes is drafted over what is known, stored, and then published.
//!
//! ```text
//! let mut draft = fold.draft();
//! draft.apply(&change, accepted_at);   // nothing of it is shown yet
//! store.commit(&draft.batch())?;       // if this fails, dropping the draft changes nothing
//! draft.publish(&batch);               // now readers see it
//! ```
//!
//! How a change is folded into a record stands in the file of its kind.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use serde::Serialize;

use super::{
    Account, Entity, Heartbeat, HeartbeatKind, Number, Table, account::Capability, account_event,
    number::QualityEvent,
};
use crate::domain::{
    AccountKey, Change, ChangeKind, LimitScope, MessagingLimit, NumberKey, PhoneNumber,
    ProviderName, Timestamp,
};

/// Folds changes into records; nothing else publishes to the table.
#[derive(Debug)]
pub struct Fold {
    table: Arc<Table>,
    max_phone_numbers: usize,
    pub(super) members: HashMap<AccountKey, Members>,
    /// As stored.
    heartbeats: HashMap<ProviderName, Heartbeat>,
    /// What this version cannot read, and so must not change.
    frozen: HashSet<Forgettable>,
}

/// The numbers of an account.
#[derive(Debug, Default)]
pub(super) struct Members {
    pub(super) all: HashSet<PhoneNumber>,
    /// Numbers whose limit may differ from their account's. When the account repeats the limit it
    /// already had, only these can change. It may hold numbers that do not differ.
    pub(super) differing: HashSet<PhoneNumber>,
}

/// Changes that are folded and not yet published. When it is dropped, it has changed nothing.
#[derive(Debug)]
pub struct Draft<'a> {
    pub(super) fold: &'a mut Fold,
    pub(super) numbers: Drafted<NumberKey>,
    accounts: Drafted<AccountKey>,
    heartbeats: HashMap<ProviderName, Heartbeat>,
    /// Whether a heartbeat must be stored even if nothing else is.
    heartbeat_is_due: bool,
    pub(super) new_numbers: Vec<NumberKey>,
    /// How many there are when this is published.
    number_count: usize,
    account_count: usize,
    /// As in [`Members`].
    pub(super) differing: HashMap<AccountKey, HashSet<PhoneNumber>>,
    /// Numbers that only take over their account's limit.
    inherited: HashSet<NumberKey>,
    /// Accounts that get a number, or of which a number gets another limit by itself.
    joined: HashSet<AccountKey>,
    /// Accounts whose limit was given to their numbers.
    limited: HashSet<AccountKey>,
}

/// What is drafted under a key; `None` where it is to be forgotten.
pub(super) type Drafted<K> = HashMap<K, Option<Arc<<K as Entity>::Record>>>;

/// A key and what is known under it, as it is stored.
#[derive(Clone, Debug)]
pub enum Record {
    /// A phone number.
    Number(NumberKey, Arc<Number>),
    /// An account.
    Account(AccountKey, Arc<Account>),
    /// A provider's signs of life.
    Heartbeat(ProviderName, Heartbeat),
}

/// What the storage tells of a record that this process did not write itself.
#[derive(Clone, Debug)]
pub enum Update {
    /// It is stored.
    Put(Record),
    /// It is stored no longer.
    Delete(Forgettable),
    /// It is stored in a form that this version cannot read. What was known of it stays, and nothing
    /// changes it.
    Newer(Forgettable),
    /// The storage has lost it, because an older state of it was restored.
    Lost(Forgettable),
}

/// The key of a record that can be forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Forgettable {
    /// Of a phone number.
    Number(NumberKey),
    /// Of an account.
    Account(AccountKey),
}

/// How much was forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Forgotten {
    /// Phone numbers.
    pub phone_numbers: usize,
    /// Accounts of which something was known besides their numbers.
    pub accounts: usize,
}

/// What to store together: records, and keys whose records are to be removed. Each key stands there
/// once, because a storage that is given two records under one could not tell which counts.
#[derive(Debug, Default)]
pub struct Batch {
    records: Vec<Record>,
    /// How many of the records, the first, may be stored before the others.
    inherited: usize,
    forgotten: Vec<Forgettable>,
    joined: HashSet<AccountKey>,
    limited: HashSet<AccountKey>,
}

/// For how many documents of phone numbers an account's counts: it may have 55 kilobytes, where a
/// number's has one.
const ACCOUNT_DOCUMENTS: usize = 8;

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// It was new.
    Applied(Applied),
    /// All that it says was overtaken by something newer; it was counted.
    Stale(Applied),
    /// It was seen before; nothing changed.
    Duplicate,
    /// It is about one number, or account, more than there may be; nothing changed.
    Refused,
    /// It is about something that a newer version has stored and this one cannot read; nothing
    /// changed.
    Frozen,
}

/// The limit of the number or of the account, before and after the change, and what was left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Applied {
    /// PreviousLimit: what was shown, or else what the provider says.
    pub old_limit: Option<MessagingLimit>,
    /// After.
    pub new_limit: Option<MessagingLimit>,
    /// Whether the change is about a template that is not counted, because the account has more of
    /// low quality than are remembered.
    pub is_template_left_out: bool,
}

/// A change, and when it was accepted.
pub(super) struct Received<'a> {
    pub(super) change: &'a Change,
    pub(super) accepted_at: Timestamp,
}

impl Fold {
    /// A fold over an empty table that takes at most `max_phone_numbers` numbers, and as many
    /// accounts that only a capability names.
    pub fn new(table: Arc<Table>, max_phone_numbers: usize) -> Self {
        Self {
            table,
            max_phone_numbers,
            members: HashMap::new(),
            heartbeats: HashMap::new(),
            frozen: HashSet::new(),
        }
    }

    /// Takes what the storage tells.
    pub fn adopt(&mut self, update: &Update) {
        match update {
            Update::Put(record) => {
                if let Some(key) = record.key() {
                    self.frozen.remove(&key);
                }
                match record {
                    Record::Heartbeat(provider, heartbeat) => {
                        let known = self.heartbeats.entry(*provider).or_default();
                        *known = known.max(*heartbeat);
                    }
                    _ => self.publish(record),
                }
            }
            Update::Delete(key) => {
                self.frozen.remove(key);
                self.forget(key);
            }
            Update::Newer(key) => {
                self.frozen.insert(key.clone());
            }
            Update::Lost(_) => {}
        }
    }

    /// Takes keys away until enough is known under them, to be stored once more; `None` where no key is
    /// left.
    pub fn next_known(&self, keys: &mut Vec<Forgettable>, enough: usize) -> Option<Batch> {
        let mut records = Vec::new();
        let mut documents = 0;
        while documents < enough {
            let Some(key) = keys.pop() else { break };
            match key {
                Forgettable::Number(key) => {
                    documents += 1;
                    let number = self.table.numbers.get(&key);
                    records.extend(number.map(|number| Record::Number(key, number)));
                }
                Forgettable::Account(key) => {
                    documents += ACCOUNT_DOCUMENTS;
                    let account = self.table.accounts.get(&key);
                    records.extend(account.map(|account| Record::Account(key, account)));
                }
            }
        }
        (documents > 0).then(|| records.into())
    }

    /// How many phone numbers are known.
    pub fn phone_numbers(&self) -> usize {
        self.table.numbers.len()
    }

    /// Begins a batch.
    pub fn draft(&mut self) -> Draft<'_> {
        Draft {
            number_count: self.table.numbers.len(),
            account_count: self.table.accounts.len(),
            fold: self,
            numbers: HashMap::new(),
            accounts: HashMap::new(),
            heartbeats: HashMap::new(),
            heartbeat_is_due: false,
            new_numbers: Vec::new(),
            differing: HashMap::new(),
            inherited: HashSet::new(),
            joined: HashSet::new(),
            limited: HashSet::new(),
        }
    }

    /// The signs of life of each provider that has given any, as stored.
    pub fn heartbeats(&self) -> impl Iterator<Item = (ProviderName, Heartbeat)> {
        self.heartbeats
            .iter()
            .map(|(provider, heartbeat)| (*provider, *heartbeat))
    }

    fn publish(&mut self, record: &Record) {
        match record {
            Record::Number(key, number) => self.publish_number(key, number),
            Record::Account(key, account) => self.publish_account(key, account),
            Record::Heartbeat(provider, heartbeat) => {
                self.heartbeats.insert(*provider, *heartbeat);
            }
        }
    }

    fn forget(&mut self, key: &Forgettable) {
        match key {
            Forgettable::Number(key) => {
                self.table.numbers.remove(key);
                if let Some(members) = self.members.get_mut(&key.account) {
                    members.all.remove(&key.phone_number);
                    members.differing.remove(&key.phone_number);
                    if members.all.is_empty() {
                        self.members.remove(&key.account);
                    }
                }
            }
            Forgettable::Account(key) => self.table.accounts.remove(key),
        }
    }

    fn publish_number(&mut self, key: &NumberKey, number: &Arc<Number>) {
        let before = self.table.numbers.put(key.clone(), Arc::clone(number));
        let limit = number.limit.value();
        if before
            .as_ref()
            .is_some_and(|before| before.limit.value() == limit)
        {
            return;
        }
        let members = self.members.entry(key.account.clone()).or_default();
        if before.is_none() {
            members.all.insert(key.phone_number.clone());
        }
        let account = self.table.accounts.get(&key.account);
        if account.and_then(|account| account.limit.value()) == limit {
            members.differing.remove(&key.phone_number);
        } else {
            members.differing.insert(key.phone_number.clone());
        }
    }

    fn publish_account(&mut self, key: &AccountKey, account: &Arc<Account>) {
        let before = self.table.accounts.put(key.clone(), Arc::clone(account));
        let limit = account.limit.value();
        if before.and_then(|before| before.limit.value()) == limit {
            return;
        }
        let Some(members) = self.members.get_mut(key) else {
            return;
        };
        let differs = |phone_number: &&PhoneNumber| {
            let number = self.table.numbers.get(&NumberKey::of(key, phone_number));
            number.is_none_or(|number| number.limit.value() != limit)
        };
        members.differing = members.all.iter().filter(differs).cloned().collect();
    }
}

impl From<Vec<Record>> for Batch {
    fn from(records: Vec<Record>) -> Self {
        Self {
            records,
            ..Self::default()
        }
    }
}

impl Update {
    /// The key of what it is about, where that can be forgotten.
    pub fn key(&self) -> Option<Forgettable> {
        match self {
            Self::Put(record) => record.key(),
            Self::Delete(key) | Self::Newer(key) | Self::Lost(key) => Some(key.clone()),
        }
    }
}

impl Record {
    /// The key, where the record can be forgotten.
    pub fn key(&self) -> Option<Forgettable> {
        match self {
            Self::Number(key, _) => Some(Forgettable::Number(key.clone())),
            Self::Account(key, _) => Some(Forgettable::Account(key.clone())),
            Self::Heartbeat(..) => None,
        }
    }
}

impl Batch {
    /// The records.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The keys whose records are to be removed.
    pub fn forgotten(&self) -> &[Forgettable] {
        &self.forgotten
    }

    /// The records of numbers that only take over their account's limit, and those that need be
    /// stored no earlier: a delivery is remembered in the latter. Where not all of them can be stored
    /// at once, the former go first, so that a delivery that comes again repairs what was not stored.
    pub fn split(&self) -> (&[Record], &[Record]) {
        self.records.split_at(self.inherited)
    }

    /// Accounts that get a number, or of which a number gets another limit by itself.
    pub fn joined(&self) -> impl Iterator<Item = &AccountKey> {
        self.joined.iter()
    }

    /// Accounts whose limit was given to all of their numbers that are known.
    pub fn limited(&self) -> impl Iterator<Item = &AccountKey> {
        self.limited.iter()
    }

    /// Whether there is nothing to store.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.forgotten.is_empty()
    }
}

impl Draft<'_> {
    /// Folds a change that was accepted at `accepted_at`.
    pub fn apply(&mut self, change: &Change, accepted_at: Timestamp) -> Outcome {
        let received = Received {
            change,
            accepted_at,
        };
        if self.is_frozen(change) {
            return Outcome::Frozen;
        }
        match &change.kind {
            ChangeKind::PhoneNumberQuality {
                phone_number,
                event,
                limit,
                old_limit,
                rating,
            } => {
                let key = NumberKey::of(&change.account, phone_number);
                let quality = QualityEvent {
                    event: *event,
                    limit: *limit,
                    old_limit: *old_limit,
                    rating: *rating,
                };
                self.apply_quality(key, &quality, &received)
            }
            ChangeKind::AccountCapability {
                event,
                limit,
                old_limit,
                max_phone_numbers,
            } => {
                let capability = Capability {
                    event: *event,
                    limit: *limit,
                    old_limit: *old_limit,
                    max_phone_numbers: *max_phone_numbers,
                };
                self.apply_capability(&capability, &received)
            }
            ChangeKind::Account {
                event,
                restrictions,
                ban_state,
            } => {
                let reported = account_event::Reported {
                    event: *event,
                    restrictions: restrictions.as_deref(),
                    ban_state: *ban_state,
                };
                self.apply_account_event(&reported, &received)
            }
            ChangeKind::AccountAlert(severity) => self.apply_account_alert(*severity, &received),
            ChangeKind::TemplateStatus { template, event } => {
                self.apply_template_status(*template, *event, &received)
            }
            ChangeKind::TemplateQuality { template, quality } => {
                self.apply_template_quality(*template, *quality, &received)
            }
        }
    }

    /// Notes a sign of life of a provider.
    pub fn note(&mut self, provider: ProviderName, kind: HeartbeatKind, accepted_at: Timestamp) {
        let stored = &self.fold.heartbeats;
        let heartbeat = self
            .heartbeats
            .entry(provider)
            .or_insert_with(|| stored.get(&provider).copied().unwrap_or_default());
        self.heartbeat_is_due |= heartbeat.note(kind, accepted_at);
    }

    /// Whether this version cannot read what is to be forgotten, or something of it.
    pub fn is_frozen_key(&self, key: &Forgettable) -> bool {
        let frozen = &self.fold.frozen;
        let of_account = |account: &AccountKey| {
            let is_of = |key: &Forgettable| matches!(key, Forgettable::Number(key) if key.account == *account);
            frozen.iter().any(is_of)
        };
        frozen.contains(key) || matches!(key, Forgettable::Account(key) if of_account(key))
    }

    /// Forgets a phone number, or an account with all its numbers. What is reported of them later is
    /// the first that is known.
    pub fn forget(&mut self, key: &Forgettable) -> Forgotten {
        let mut forgotten = Forgotten::default();
        let numbers = match key {
            Forgettable::Number(key) => vec![key.clone()],
            Forgettable::Account(key) => {
                self.mark_limited(key);
                if self.account(key).is_some() {
                    self.accounts.insert(key.clone(), None);
                    self.account_count -= 1;
                    forgotten.accounts += 1;
                }
                self.all_numbers(key)
            }
        };
        for key in numbers {
            if self.number(&key).is_some() {
                if let Some(differing) = self.differing.get_mut(&key.account) {
                    differing.remove(&key.phone_number);
                }
                self.numbers.insert(key, None);
                self.number_count -= 1;
                forgotten.phone_numbers += 1;
            }
        }
        forgotten
    }

    /// How much is drafted, in documents of a phone number. With those of [`Batch::joined`].
    pub fn documents(&self) -> usize {
        self.numbers.len() + self.joined.len() + self.accounts.len() * ACCOUNT_DOCUMENTS
    }

    /// What to store before it is published.
    pub fn batch(&self) -> Batch {
        let mut batch = Batch {
            joined: self.joined.clone(),
            limited: self.limited.clone(),
            ..Batch::default()
        };
        for key in &self.inherited {
            if let Some(Some(number)) = self.numbers.get(key) {
                let number = Arc::clone(number);
                batch.records.push(Record::Number(key.clone(), number));
            }
        }
        batch.inherited = batch.records.len();
        for (key, drafted) in &self.accounts {
            match drafted {
                Some(known) => batch
                    .records
                    .push(Record::Account(key.clone(), Arc::clone(known))),
                None => batch.forgotten.push(Forgettable::Account(key.clone())),
            }
        }
        for (key, drafted) in &self.numbers {
            match drafted {
                Some(_) if self.inherited.contains(key) => {}
                Some(known) => batch
                    .records
                    .push(Record::Number(key.clone(), Arc::clone(known))),
                None => batch.forgotten.push(Forgettable::Number(key.clone())),
            }
        }
        if self.heartbeat_is_due || !batch.is_empty() {
            let heartbeats = self.heartbeats.iter();
            let heartbeats = heartbeats.map(|(name, known)| Record::Heartbeat(*name, *known));
            batch.records.extend(heartbeats);
        }
        batch
    }

    /// Shows what [`Draft::batch`] returned, now that it is durable.
    pub fn publish(self, batch: &Batch) {
        for key in batch.forgotten() {
            self.fold.forget(key);
        }
        for (account, phone_numbers) in self.differing {
            let members = self.fold.members.entry(account).or_default();
            members.differing.extend(phone_numbers);
        }
        // What numbers differ from comes before them.
        let is_account = |record: &&Record| matches!(record, Record::Account(..));
        let (accounts, others): (Vec<_>, Vec<_>) = batch.records().iter().partition(is_account);
        for record in accounts.into_iter().chain(others) {
            self.fold.publish(record);
        }
    }

    pub(super) fn has_no_room_for_a_number(&self) -> bool {
        self.number_count >= self.fold.max_phone_numbers
    }

    pub(super) fn has_no_room_for_an_account(&self) -> bool {
        self.account_count >= self.fold.max_phone_numbers
    }

    pub(super) fn number(&self, key: &NumberKey) -> Option<Arc<Number>> {
        known(&self.numbers, &self.fold.table, key)
    }

    pub(super) fn account(&self, key: &AccountKey) -> Option<Arc<Account>> {
        known(&self.accounts, &self.fold.table, key)
    }

    pub(super) fn put_number(&mut self, key: NumberKey, number: Number, is_new: bool) {
        if is_new {
            self.new_numbers.push(key.clone());
            self.number_count += 1;
        }
        self.inherited.remove(&key);
        self.numbers.insert(key, Some(Arc::new(number)));
    }

    /// Puts a number that only takes over its account's limit.
    pub(super) fn put_inherited(&mut self, key: NumberKey, number: Arc<Number>) {
        if !self.numbers.contains_key(&key) {
            self.inherited.insert(key.clone());
        }
        self.numbers.insert(key, Some(number));
    }

    /// Notes that an account gets a number, or that a number of it gets another limit by itself.
    pub(super) fn mark_joined(&mut self, key: &AccountKey) {
        self.joined.insert(key.clone());
    }

    /// Notes that an account's limit is given to its numbers.
    pub(super) fn mark_limited(&mut self, key: &AccountKey) {
        self.limited.insert(key.clone());
    }

    /// Whether this version cannot read what the change is about.
    fn is_frozen(&self, change: &Change) -> bool {
        let frozen = &self.fold.frozen;
        if frozen.is_empty() {
            return false;
        }
        let account = &change.account;
        let is_number = |name: &PhoneNumber| {
            let key = NumberKey::of(account, name);
            frozen.contains(&Forgettable::Number(key))
        };
        let is_portfolio = match &change.kind {
            ChangeKind::PhoneNumberQuality {
                phone_number,
                limit,
                ..
            } => {
                if is_number(phone_number) {
                    return true;
                }
                limit.is_some_and(|limit| limit.scope == LimitScope::Portfolio)
            }
            ChangeKind::AccountCapability { limit, .. } => limit.is_some(),
            _ => false,
        };
        // A limit of the portfolio is for all numbers of the account.
        frozen.contains(&Forgettable::Account(account.clone()))
            || is_portfolio
                && frozen
                    .iter()
                    .any(|key| matches!(key, Forgettable::Number(key) if key.account == *account))
    }

    pub(super) fn put_account(&mut self, key: AccountKey, account: Account) {
        self.account_count += usize::from(self.account(&key).is_none());
        self.accounts.insert(key, Some(Arc::new(account)));
    }

    /// The account, to be changed; a new one where none is known. It is copied once for a batch.
    pub(super) fn account_mut(&mut self, key: &AccountKey) -> &mut Account {
        self.account_count += usize::from(self.account(key).is_none());
        let table = &self.fold.table;
        let drafted = self.accounts.entry_ref(key);
        let drafted = drafted.or_insert_with(|| table.accounts.get(key));
        Arc::make_mut(drafted.get_or_insert_default())
    }

    /// Notes that a number may show another limit than its account.
    pub(super) fn mark_differing(&mut self, key: &NumberKey) {
        let differing = self.differing.entry(key.account.clone()).or_default();
        differing.insert(key.phone_number.clone());
    }
}

/// What is drafted under a key, or else what is published.
fn known<K: Entity>(drafted: &Drafted<K>, table: &Table, key: &K) -> Option<Arc<K::Record>> {
    match drafted.get(key) {
        Some(drafted) => drafted.clone(),
        None => K::shards(table).get(key),
    }
}

impl Received<'_> {
    /// When the change happened. A change without a time to believe is the newest that was
    /// reported, whatever this machine's clock did: a clock that was ahead once, or that starts in
    /// 1970, must not make a change stale. So its time never stands before the `newest` that is
    /// known.
    pub(super) fn happened_at(&self, newest: impl FnOnce() -> Option<Timestamp>) -> Timestamp {
        self.change.happened(self.accepted_at).unwrap_or_else(|| {
            newest().map_or(self.accepted_at, |newest| newest.max(self.accepted_at))
        })
    }
}

/// Whether the facts that a change carried were news.
#[derive(Default)]
pub(super) struct Freshness {
    carried: u32,
    fresh: u32,
    pub(super) is_template_left_out: bool,
}

impl Freshness {
    pub(super) fn note(&mut self, is_news: bool) {
        self.carried += 1;
        self.fresh += u32::from(is_news);
    }

    /// The outcome of a change that led from one limit to another.
    pub(super) fn outcome(
        &self,
        (old_limit, new_limit): (Option<MessagingLimit>, Option<MessagingLimit>),
    ) -> Outcome {
        let applied = Applied {
            old_limit,
            new_limit,
            is_template_left_out: self.is_template_left_out,
        };
        match self.carried > 0 && self.fresh == 0 {
            true => Outcome::Stale(applied),
            false => Outcome::Applied(applied),
        }
    }
}
