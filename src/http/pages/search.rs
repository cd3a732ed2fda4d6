//! What a reader looks for among the phone numbers and the accounts, and in which order it is shown.

use std::{cmp::Reverse, hint::black_box, sync::Arc};

use hashbrown::HashMap;
use memchr::memmem::Finder;

use super::{
    AccountState, ROWS,
    rows::{NumberRow, since},
};
use crate::{
    domain::{
        AccountKey, Direction, MessagingLimit, NumberKey, PhoneNumber, ProviderName, Timestamp,
    },
    http::pairs,
    providers,
    state::{Account, Limit, Number, Table},
};

/// Characters of a search that are looked at.
const MAX_CHARACTERS: usize = 64;

/// What is looked for.
#[derive(Default)]
pub(super) struct Search {
    /// A part of a number, of a name or of an account, as it was typed.
    pub(super) q: String,
    finders: Finders,
    provider: Option<ProviderName>,
    state: Option<State>,
    account: Option<AccountKey>,
    /// From 1 on.
    page: usize,
}

/// What finds [`Search::q`], made once for all numbers.
#[derive(Default)]
struct Finders {
    /// As it was typed.
    in_account: Option<Finder<'static>>,
    /// In lower case.
    in_name: Option<Finder<'static>>,
    /// As a number is written.
    in_number: Option<Finder<'static>>,
}

/// A choice of a filter.
pub(super) struct Choice {
    pub(super) value: &'static str,
    pub(super) text: &'static str,
    pub(super) is_chosen: bool,
}

/// What is to be said of a number at a glance.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    Flagged,
    Lowered,
    Limited,
    Unknown,
    Unlimited,
}

/// A number that matches: what it is ordered by, and where to find it.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    /// Worst first.
    state: State,
    /// What is equally bad, newest first.
    since: Reverse<Option<Timestamp>>,
    /// What is equally new, by number.
    phone_number: NumberStart,
    shard: usize,
    /// Among the entries of the shard.
    index: usize,
}

/// The first characters of a phone number, which are all of it where it is one of E.164.
type NumberStart = [u8; 16];

/// A page of what was found.
pub(super) struct Found {
    /// All that are known, whatever was looked for.
    pub(super) total: usize,
    pub(super) flagged: usize,
    pub(super) lowered: usize,
    pub(super) matching: usize,
    /// The page that is shown, from 1 on: the last one where there are fewer than was asked for.
    pub(super) page: usize,
    rows: Vec<Candidate>,
    /// How many numbers each account has.
    pub(super) of_account: HashMap<AccountKey, usize>,
}

/// An account, of which something is known or at least a number.
pub(super) struct FoundAccount {
    pub(super) key: AccountKey,
    pub(super) account: Option<Arc<Account>>,
    pub(super) numbers: usize,
}

impl State {
    const ALL: [Self; 5] = [
        Self::Flagged,
        Self::Lowered,
        Self::Limited,
        Self::Unlimited,
        Self::Unknown,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Flagged => "flagged",
            Self::Lowered => "lowered",
            Self::Limited => "limited",
            Self::Unknown => "unknown",
            Self::Unlimited => "unlimited",
        }
    }

    /// Whether it is true of a number; flagged and lowered may both be, besides what the limit is.
    fn is_of(self, number: &Number) -> bool {
        let limit = number.limit.value();
        match self {
            Self::Flagged => number.flagged.is_some_and(|known| known.value),
            Self::Lowered => is_lowered(&number.limit),
            Self::Limited => limit.is_some_and(|limit| limit != MessagingLimit::UNLIMITED),
            Self::Unknown => limit.is_none(),
            Self::Unlimited => limit == Some(MessagingLimit::UNLIMITED),
        }
    }

    /// The worst that is true of a number.
    fn worst(number: &Number) -> Self {
        let worst = [Self::Flagged, Self::Lowered, Self::Limited, Self::Unlimited];
        let worst = worst.into_iter().find(|state| state.is_of(number));
        worst.unwrap_or(Self::Unknown)
    }

    /// What is shown of a number: that it is flagged or lowered, or else what its limit is.
    pub(super) fn shown(number: &Number) -> Vec<&'static str> {
        let bad = [Self::Flagged, Self::Lowered].into_iter();
        let bad: Vec<_> = bad
            .filter(|state| state.is_of(number))
            .map(Self::as_str)
            .collect();
        match bad.is_empty() {
            true => vec![Self::worst(number).as_str()],
            false => bad,
        }
    }

    /// Since when the worst that is true of a number is true.
    pub(super) fn since(number: &Number) -> Option<Timestamp> {
        match Self::worst(number) {
            Self::Flagged => number.flagged.map(|known| known.at),
            _ => since(&number.limit),
        }
    }
}

/// Whether the last change of a limit was downward.
fn is_lowered(limit: &Limit) -> bool {
    limit.changes(Direction::Down).last > limit.changes(Direction::Up).last
}

impl Search {
    /// Reads a query; parameters that it does not know are another's.
    pub(super) fn read(query: &str) -> Result<Self, String> {
        let mut search = Self {
            page: 1,
            ..Self::default()
        };
        for (name, value) in pairs(query) {
            match name.as_str() {
                "q" => {
                    search.q = value.trim().chars().take(MAX_CHARACTERS).collect();
                    search.finders = Finders::of(&search.q);
                }
                "provider" if !value.is_empty() => {
                    let provider = providers::by_name(&value).ok_or("provider is not one")?;
                    search.provider = Some(provider.name);
                }
                "state" if !value.is_empty() => {
                    let state = State::ALL.into_iter().find(|state| state.as_str() == value);
                    let names = State::ALL.map(State::as_str).join(", ");
                    search.state = Some(state.ok_or(format!("state is not one of {names}"))?);
                }
                "page" => {
                    let page = value.parse().ok().filter(|page: &usize| *page > 0);
                    search.page = page.ok_or("page is not a number from 1 on")?;
                }
                _ => {}
            }
        }
        Ok(search)
    }

    /// The numbers of one account.
    pub(super) fn of_account(key: &AccountKey) -> Self {
        Self {
            account: Some(key.clone()),
            page: 1,
            ..Self::default()
        }
    }

    pub(super) fn is_filtered(&self) -> bool {
        !self.q.is_empty() || self.provider.is_some() || self.state.is_some()
    }

    pub(super) fn provider_choices(&self) -> Vec<Choice> {
        let choice = |provider: &&'static providers::Provider| Choice {
            value: provider.name.as_str(),
            text: provider.title,
            is_chosen: self.provider == Some(provider.name),
        };
        providers::ALL.iter().map(choice).collect()
    }

    pub(super) fn state_choices(&self) -> Vec<Choice> {
        let choice = |state: State| Choice {
            value: state.as_str(),
            text: state.as_str(),
            is_chosen: self.state == Some(state),
        };
        State::ALL.map(choice).into()
    }

    /// The address of another page of the same.
    pub(super) fn href(&self, page: usize) -> String {
        let provider = self.provider.map(ProviderName::as_str);
        let pairs = [
            ("q", Some(self.q.as_str()).filter(|q| !q.is_empty())),
            ("provider", provider),
            ("state", self.state.map(State::as_str)),
            ("page", Some(&*page.to_string())),
        ]
        .map(|(name, value)| Some((name, value?.to_owned())));
        let pairs: Vec<_> = pairs.into_iter().flatten().collect();
        // Pairs of strings always encode.
        format!(
            "/?{}",
            serde_urlencoded::to_string(pairs).unwrap_or_default()
        )
    }

    /// Looks through all numbers, and gives a page of those that match.
    pub(super) fn numbers(&self, table: &Table) -> Found {
        let mut found = Found {
            total: 0,
            flagged: 0,
            lowered: 0,
            matching: 0,
            page: 1,
            rows: Vec::new(),
            of_account: HashMap::new(),
        };
        table.numbers.for_each_shard(|shard, entries| {
            // Nearly every record must be fetched from memory. In a loop that does nothing else, the
            // processor fetches many at a time and does not wait for each.
            for number in entries.values() {
                black_box((number.flagged, number.limit.current, number.limit.down.last));
            }
            for (index, (key, number)) in entries.iter().enumerate() {
                found.total += 1;
                found.flagged += usize::from(State::Flagged.is_of(number));
                found.lowered += usize::from(State::Lowered.is_of(number));
                match found.of_account.get_mut(&key.account) {
                    Some(numbers) => *numbers += 1,
                    None => drop(found.of_account.insert(key.account.clone(), 1)),
                }
                if self.matches(table, key, number) {
                    found.rows.push(Candidate {
                        state: State::worst(number),
                        since: Reverse(State::since(number)),
                        phone_number: start_of(table, key),
                        shard,
                        index,
                    });
                }
            }
        });
        found.matching = found.rows.len();
        let last = found.matching.div_ceil(ROWS).max(1);
        found.page = self.page.min(last);
        keep_page(&mut found.rows, found.page, Ord::cmp);
        found
    }

    fn matches(&self, table: &Table, key: &NumberKey, number: &Number) -> bool {
        let account = self
            .account
            .as_ref()
            .is_none_or(|account| *account == key.account);
        account
            && self
                .provider
                .is_none_or(|provider| provider == key.account.provider)
            && self.state.is_none_or(|state| state.is_of(number))
            && (self.q.is_empty() || self.finders.find(table, key, number))
    }

    /// The accounts that match, worst first and as many as a page has, with their numbers; and how
    /// many match. Some are known only by their numbers.
    pub(super) fn accounts(
        &self,
        table: &Table,
        of_account: &HashMap<AccountKey, usize>,
        now: Timestamp,
    ) -> (Vec<FoundAccount>, usize) {
        let mut all: HashMap<AccountKey, (Option<Arc<Account>>, usize)> = HashMap::new();
        for (key, account) in table.accounts.iter_after(None) {
            all.insert(key, (Some(account), 0));
        }
        for (key, numbers) in of_account {
            all.entry_ref(key).or_default().1 = *numbers;
        }
        let mut rows: Vec<_> = all
            .into_iter()
            .filter(|(key, _)| {
                self.provider
                    .is_none_or(|provider| provider == key.provider)
                    && (self.q.is_empty() || self.finders.find_account(key))
            })
            .map(|(key, (account, numbers))| {
                let limit = account.as_ref().map(|account| &account.limit);
                let is_lowered = limit.is_some_and(is_lowered);
                // An account with nothing wrong comes last, although `None` is less than any state.
                let state = AccountState::all(account.as_deref(), now).first().copied();
                let state = (state.is_none(), state);
                let rank = (state, Reverse(is_lowered), Reverse(limit.and_then(since)));
                let found = FoundAccount {
                    key,
                    account,
                    numbers,
                };
                (rank, found)
            })
            .collect();
        let matching = rows.len();
        keep_page(&mut rows, 1, |(rank, found), (other, other_found)| {
            rank.cmp(other)
                .then_with(|| found.key.cmp(&other_found.key))
        });
        (rows.into_iter().map(|(_, found)| found).collect(), matching)
    }
}

impl Finders {
    fn of(q: &str) -> Self {
        let finder = |text: &str| Some(Finder::new(text).into_owned());
        let number = PhoneNumber::parse(q).ok();
        Self {
            in_account: finder(q),
            in_name: finder(&q.to_lowercase()),
            in_number: finder(number.as_ref().map_or(q, PhoneNumber::as_str)),
        }
    }

    /// Only what is shown of a number is searched, so that nobody can try numbers.
    fn find(&self, table: &Table, key: &NumberKey, number: &Number) -> bool {
        let is_in_number = match table.has_pseudonyms() {
            true => table
                .shown(key)
                .last()
                .is_some_and(|shown| is_in(&self.in_number, shown)),
            false => is_in(&self.in_number, key.phone_number.as_str()),
        };
        let name = || {
            number
                .name
                .as_ref()
                .map(|name| name.as_str().to_lowercase())
        };
        is_in_number
            || self.find_account(&key.account)
            || name().is_some_and(|name| is_in(&self.in_name, &name))
    }

    fn find_account(&self, key: &AccountKey) -> bool {
        is_in(&self.in_account, key.waba_id.as_str())
    }
}

fn is_in(finder: &Option<Finder<'_>>, text: &str) -> bool {
    finder
        .as_ref()
        .is_some_and(|finder| finder.find(text.as_bytes()).is_some())
}

impl Found {
    pub(super) fn rows(&self, table: &Table, now: Timestamp) -> Vec<NumberRow> {
        let rows = self.rows.iter().filter_map(|candidate| {
            let (key, number) = candidate.entry(table)?;
            Some(NumberRow::new(table, &key, &number, now))
        });
        rows.collect()
    }
}

impl Candidate {
    /// The number; nothing where it was removed meanwhile. Its index is another one where numbers
    /// before it came or went. Where numbers are shown by pseudonyms, the index alone tells, and a
    /// number that came or went meanwhile makes its neighbour appear.
    fn entry(&self, table: &Table) -> Option<(NumberKey, Arc<Number>)> {
        let (_, entries) = table.numbers.entries(self.shard, None);
        let entries = entries.into_iter().enumerate();
        let same = entries.filter(|(_, (key, _))| start_of(table, key) == self.phone_number);
        let nearest = same.min_by_key(|(index, _)| index.abs_diff(self.index));
        nearest.map(|(_, entry)| entry)
    }
}

/// Nothing where numbers are shown by pseudonyms: their order would tell of them.
fn start_of(table: &Table, key: &NumberKey) -> NumberStart {
    let mut start = NumberStart::default();
    if !table.has_pseudonyms() {
        let bytes = key.phone_number.as_str().bytes();
        start
            .iter_mut()
            .zip(bytes)
            .for_each(|(to, byte)| *to = byte);
    }
    start
}

/// Keeps the rows of a page, in order. Only these are sorted.
fn keep_page<T>(rows: &mut Vec<T>, page: usize, compare: impl Fn(&T, &T) -> std::cmp::Ordering) {
    let first = (page - 1) * ROWS;
    if rows.len() > first + ROWS {
        rows.select_nth_unstable_by(first + ROWS, &compare);
        rows.truncate(first + ROWS);
    }
    if first > 0 && rows.len() > first {
        rows.select_nth_unstable_by(first, &compare);
        rows.drain(..first);
    }
    rows.sort_unstable_by(compare);
}
