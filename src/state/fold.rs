use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::{Account, Fact, Heartbeat, Number, Record, Table, record::Hint};
use crate::domain::{
    AccountKey, Change, EventKind, MaxPhoneNumbers, MessagingLimit, NumberKey, PhoneNumber, Said,
    Subject, Timestamp,
};

/// Folds changes into records; the only one that publishes to the table.
#[derive(Debug)]
pub struct Fold {
    table: Arc<Table>,
    max_phone_numbers: usize,
    members: HashMap<AccountKey, Members>,
    /// As stored.
    heartbeats: HashMap<&'static str, Heartbeat>,
}

/// The numbers of an account.
#[derive(Debug, Default)]
struct Members {
    all: HashSet<PhoneNumber>,
    /// Those that may show another limit than the account's: all that a limit said of the account
    /// once more can touch. May hold some that do not.
    dissenting: HashSet<PhoneNumber>,
}

/// Changes folded and not yet published. Dropped, it changes nothing.
#[derive(Debug)]
pub struct Draft<'a> {
    fold: &'a mut Fold,
    numbers: HashMap<NumberKey, Arc<Number>>,
    accounts: HashMap<AccountKey, Arc<Account>>,
    heartbeats: HashMap<&'static str, Heartbeat>,
    born: Vec<NumberKey>,
    born_accounts: usize,
    /// As in [`Members`].
    dissenting: HashMap<AccountKey, HashSet<PhoneNumber>>,
}

/// Records to store together, accounts first. Each stands under a key of its own, because a storage that is given two
/// under one could not tell which counts.
#[derive(Debug, Default)]
pub struct Batch(Vec<Record>);

/// A sign of life of a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// A delivery was accepted.
    Accepted,
    /// A delivery held a change, be it new, repeated or overtaken.
    Change,
    /// A handshake was answered with its challenge.
    Handshake,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// It was new.
    Applied(Applied),
    /// All it says was overtaken by something newer; it was counted.
    Stale(Applied),
    /// It was seen before; nothing changed.
    Duplicate,
    /// It speaks of one number, or account, more than there may be; nothing changed.
    Refused,
}

/// The limit of the change's subject, before and after.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Applied {
    /// Before: what was shown, or else what the provider says.
    pub old_limit: Option<MessagingLimit>,
    /// After.
    pub new_limit: Option<MessagingLimit>,
}

impl Fold {
    /// A fold over an empty table that takes at most `max_phone_numbers` numbers, and as many accounts.
    pub fn new(table: Arc<Table>, max_phone_numbers: usize) -> Self {
        Self {
            table,
            max_phone_numbers,
            members: HashMap::new(),
            heartbeats: HashMap::new(),
        }
    }

    /// Takes a record as it was stored, in any order.
    pub fn restore(&mut self, record: Record) {
        self.publish(&record);
    }

    /// How many phone numbers are known.
    pub fn phone_numbers(&self) -> usize {
        self.table.phone_numbers_len()
    }

    /// Begins a batch.
    pub fn draft(&mut self) -> Draft<'_> {
        Draft {
            fold: self,
            numbers: HashMap::new(),
            accounts: HashMap::new(),
            heartbeats: HashMap::new(),
            born: Vec::new(),
            born_accounts: 0,
            dissenting: HashMap::new(),
        }
    }

    /// The signs of life of each provider that has given any, as stored.
    pub fn heartbeats(&self) -> impl Iterator<Item = (&'static str, Heartbeat)> {
        self.heartbeats
            .iter()
            .map(|(provider, heartbeat)| (*provider, *heartbeat))
    }

    fn publish(&mut self, record: &Record) {
        match record {
            Record::Number(key, number) => {
                let before = self.table.publish_number(key, number);
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
                let account = self.table.account(&key.account);
                if account.and_then(|account| account.limit.value()) == limit {
                    members.dissenting.remove(&key.phone_number);
                } else {
                    members.dissenting.insert(key.phone_number.clone());
                }
            }
            Record::Account(key, account) => {
                let before = self.table.publish_account(key, account);
                let limit = account.limit.value();
                if before.and_then(|before| before.limit.value()) == limit {
                    return;
                }
                let Some(members) = self.members.get_mut(key) else {
                    return;
                };
                members.dissenting.retain(|phone_number| {
                    let key = NumberKey {
                        account: key.clone(),
                        phone_number: phone_number.clone(),
                    };
                    self.table
                        .number(&key)
                        .is_none_or(|number| number.limit.value() != limit)
                });
            }
            Record::Provider(provider, heartbeat) => {
                self.heartbeats.insert(provider, *heartbeat);
            }
        }
    }
}

impl Batch {
    /// The records.
    pub fn records(&self) -> &[Record] {
        &self.0
    }

    /// Whether there is nothing to store.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Draft<'_> {
    /// Folds a change that was received at `received`.
    pub fn apply(&mut self, change: &Change, received: Timestamp) -> Outcome {
        match &change.subject {
            Subject::PhoneNumber {
                phone_number,
                event,
                old_limit,
            } => {
                let key = NumberKey {
                    account: change.account.clone(),
                    phone_number: phone_number.clone(),
                };
                self.apply_to_number(key, *event, *old_limit, change, received)
            }
            Subject::Account(max_phone_numbers) => {
                self.apply_to_account(*max_phone_numbers, change, received)
            }
        }
    }

    /// Notes a sign of life of a provider, to the second: one write a second is enough.
    pub fn note(&mut self, provider: &'static str, sign: Sign, received: Timestamp) {
        let known = self
            .heartbeats
            .get(provider)
            .or_else(|| self.fold.heartbeats.get(provider));
        let mut heartbeat = known.copied().unwrap_or_default();
        let last = match sign {
            Sign::Accepted => &mut heartbeat.last_accepted,
            Sign::Change => &mut heartbeat.last_change,
            Sign::Handshake => &mut heartbeat.last_handshake,
        };
        // A clock that was set back says so at once.
        if last.is_none_or(|last| received < last || received.seconds_since(last) >= 1.0) {
            *last = Some(received);
            self.heartbeats.insert(provider, heartbeat);
        }
    }

    /// What to store before it is published.
    pub fn batch(&self) -> Batch {
        let accounts = self
            .accounts
            .iter()
            .map(|(key, account)| Record::Account(key.clone(), Arc::clone(account)));
        let numbers = self
            .numbers
            .iter()
            .map(|(key, number)| Record::Number(key.clone(), Arc::clone(number)));
        let heartbeats = self
            .heartbeats
            .iter()
            .map(|(provider, heartbeat)| Record::Provider(provider, *heartbeat));
        Batch(accounts.chain(numbers).chain(heartbeats).collect())
    }

    /// Shows what [`Draft::batch`] returned, now that it is durable.
    pub fn publish(self, batch: &Batch) {
        for (account, phone_numbers) in self.dissenting {
            self.fold
                .members
                .entry(account)
                .or_default()
                .dissenting
                .extend(phone_numbers);
        }
        for record in batch.records() {
            self.fold.publish(record);
        }
    }

    fn apply_to_number(
        &mut self,
        key: NumberKey,
        event: EventKind,
        old_limit: Option<MessagingLimit>,
        change: &Change,
        received: Timestamp,
    ) -> Outcome {
        let known = self.number(&key);
        let is_new = known.is_none();
        if is_new
            && self.fold.table.phone_numbers_len() + self.born.len() >= self.fold.max_phone_numbers
        {
            return Outcome::Refused;
        }
        let number = known.unwrap_or_default();
        if number.seen.contains(change.identity) {
            return Outcome::Duplicate;
        }
        let mut number = Arc::unwrap_or_clone(number);
        number.seen.remember(change.identity);
        let account = self.account(&key.account);
        let at = change.happened(received).unwrap_or_else(|| {
            let of_account = account
                .as_ref()
                .and_then(|account| self.newest(&key.account, account, change.limit));
            received.max(number.newest().max(of_account).unwrap_or(received))
        });
        number.events.count(event);
        number.last_event = number.last_event.max(Some(at));

        let mut facts = Facts::default();
        if let Some(flagged) = event.flagged() {
            facts.note(Fact::set(&mut number.flagged, flagged, at));
        }
        if let Some(high) = event.high_throughput() {
            facts.note(Fact::set(&mut number.high_throughput, high, at));
        }

        let account_limit = account.as_ref().and_then(|account| account.limit.current);
        number.limit.adopt(account_limit);
        // A number that was never shown had no limit before, whatever its account's is.
        let before = if is_new { None } else { number.limit.value() };
        let hint = Hint {
            old_limit,
            event: Some(event),
        };
        match change.limit {
            Some(said) => facts.note(number.limit.say(said.limit(), at, before, hint, received)),
            None if event == EventKind::Downgrade => {
                facts.note(number.limit.say_fell(at, before, hint, received))
            }
            None => {}
        }
        let applied = Applied {
            old_limit: before.or(old_limit),
            new_limit: number.limit.value(),
        };

        if is_new {
            self.born.push(key.clone());
        }
        let account_limit = account_limit.map(|fact| fact.value);
        if (is_new || number.limit.value() != before) && number.limit.value() != account_limit {
            self.dissents(&key);
        }
        self.numbers.insert(key.clone(), Arc::new(number));
        if let Some(Said::OfAccount(limit)) = change.limit {
            let account = account.map(Arc::unwrap_or_clone).unwrap_or_default();
            facts.note(self.say_of_account(&key.account, account, limit, at, hint, received));
        }
        facts.outcome(applied)
    }

    fn apply_to_account(
        &mut self,
        max_phone_numbers: MaxPhoneNumbers,
        change: &Change,
        received: Timestamp,
    ) -> Outcome {
        let known = self.account(&change.account);
        if known.is_none()
            && self.fold.table.accounts_len() + self.born_accounts >= self.fold.max_phone_numbers
        {
            return Outcome::Refused;
        }
        let account = known.unwrap_or_default();
        if account.seen.contains(change.identity) {
            return Outcome::Duplicate;
        }
        let at = change.happened(received).unwrap_or_else(|| {
            received.max(
                self.newest(&change.account, &account, change.limit)
                    .unwrap_or(received),
            )
        });
        let mut account = Arc::unwrap_or_clone(account);
        account.seen.remember(change.identity);
        let mut facts = Facts::default();
        if max_phone_numbers != MaxPhoneNumbers::default() {
            facts.note(Fact::set(
                &mut account.max_phone_numbers,
                max_phone_numbers,
                at,
            ));
        }
        let old_limit = account.limit.value();
        match change.limit {
            Some(said) => {
                let newer = self.say_of_account(
                    &change.account,
                    account,
                    said.limit(),
                    at,
                    Hint::default(),
                    received,
                );
                facts.note(newer);
            }
            None => {
                self.put_account(change.account.clone(), account);
            }
        }
        let new_limit = self
            .account(&change.account)
            .and_then(|account| account.limit.value());
        facts.outcome(Applied {
            old_limit,
            new_limit,
        })
    }

    /// Sets an account's limit, and with it the limit of every number that knows none newer.
    fn say_of_account(
        &mut self,
        key: &AccountKey,
        mut account: Account,
        limit: MessagingLimit,
        at: Timestamp,
        hint: Hint,
        received: Timestamp,
    ) -> bool {
        let before = account.limit.value();
        let newer = account.limit.say(limit, at, before, hint, received);
        self.put_account(key.clone(), account);
        if newer {
            for key in self.touched_by(key, before != Some(limit)) {
                let Some(mut number) = self.number(&key) else {
                    continue;
                };
                let shown = number.limit.value();
                if shown != Some(limit) {
                    let stays = !Arc::make_mut(&mut number).limit.say(
                        limit,
                        at,
                        shown,
                        Hint::default(),
                        received,
                    );
                    if stays {
                        self.dissents(&key);
                    }
                    self.numbers.insert(key, number);
                }
            }
        }
        newer
    }

    /// The newest time that is known of an account, and where a limit is said of it, of the limits of its numbers.
    ///
    /// A change without a time to believe is the newest that was said, whatever this machine's clock did: a clock that
    /// was ahead once, or that starts in 1970, must not make a change stale.
    fn newest(&self, key: &AccountKey, account: &Account, said: Option<Said>) -> Option<Timestamp> {
        let numbers = match said {
            Some(Said::OfAccount(_)) => self.touched_by(key, true),
            _ => Vec::new(),
        };
        let limits = numbers
            .iter()
            .filter_map(|key| self.number(key)?.limit.newest());
        limits.chain(account.newest()).max()
    }

    /// The numbers that a limit said of their account may concern. Where it repeats what the account
    /// had, those that show it already need no record: theirs is as new as their account's.
    fn touched_by(&self, account: &AccountKey, changed: bool) -> Vec<NumberKey> {
        let key = |phone_number: &PhoneNumber| NumberKey {
            account: account.clone(),
            phone_number: phone_number.clone(),
        };
        let members = self.fold.members.get(account).into_iter();
        if changed {
            let born = self
                .born
                .iter()
                .filter(|key| key.account == *account)
                .cloned();
            members
                .flat_map(|members| &members.all)
                .map(key)
                .chain(born)
                .collect()
        } else {
            let here = self.dissenting.get(account).into_iter().flatten();
            members
                .flat_map(|members| &members.dissenting)
                .chain(here)
                .map(key)
                .collect()
        }
    }

    fn number(&self, key: &NumberKey) -> Option<Arc<Number>> {
        self.numbers
            .get(key)
            .cloned()
            .or_else(|| self.fold.table.number(key))
    }

    fn account(&self, key: &AccountKey) -> Option<Arc<Account>> {
        self.accounts
            .get(key)
            .cloned()
            .or_else(|| self.fold.table.account(key))
    }

    fn put_account(&mut self, key: AccountKey, account: Account) {
        self.born_accounts += usize::from(self.account(&key).is_none());
        self.accounts.insert(key, Arc::new(account));
    }

    /// Notes that a number may show another limit than its account.
    fn dissents(&mut self, key: &NumberKey) {
        self.dissenting
            .entry(key.account.clone())
            .or_default()
            .insert(key.phone_number.clone());
    }
}

/// The facts a change carried, and how many of them were news.
#[derive(Default)]
struct Facts {
    carried: u32,
    news: u32,
}

impl Facts {
    fn note(&mut self, news: bool) {
        self.carried += 1;
        self.news += u32::from(news);
    }

    fn outcome(&self, applied: Applied) -> Outcome {
        if self.carried > 0 && self.news == 0 {
            Outcome::Stale(applied)
        } else {
            Outcome::Applied(applied)
        }
    }
}
