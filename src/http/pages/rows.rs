//! The rows of the tables: what is known, in the words of a person.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{super::find, AccountState, Moment, search::State};
use crate::{
    domain::{AccountKey, Direction, MessagingLimit, NumberKey, Timestamp},
    state::{Account, History, Limit, Number, PastEvent, Table},
};

/// A phone number.
pub(super) struct NumberRow {
    pub(super) phone_number: String,
    pub(super) name: Option<String>,
    pub(super) href: String,
    pub(super) states: Vec<&'static str>,
    pub(super) limit: String,
    pub(super) before: String,
    pub(super) since: Option<Moment>,
    pub(super) last_event: Option<Moment>,
    /// Of the event that happened last.
    pub(super) last_event_name: Option<&'static str>,
    pub(super) waba_id: String,
    pub(super) account_href: String,
    pub(super) provider: &'static str,
}

/// An account.
pub(super) struct AccountRow {
    pub(super) waba_id: String,
    pub(super) href: String,
    pub(super) states: Vec<&'static str>,
    pub(super) provider: &'static str,
    pub(super) limit: String,
    pub(super) before: String,
    pub(super) since: Option<Moment>,
    pub(super) numbers: usize,
}

impl NumberRow {
    pub(super) fn new(table: &Table, key: &NumberKey, number: &Number, now: Timestamp) -> Self {
        let shown = table.shown(key);
        let phone_number = shown.last().map(ToString::to_string).unwrap_or_default();
        let account = path_of(&key.account);
        Self {
            href: format!("/numbers/{account}/{}", segment(&phone_number)),
            phone_number,
            name: number.name.as_ref().map(ToString::to_string),
            states: State::shown(number),
            limit: in_words(number.limit.value(), "unknown"),
            before: in_words(number.limit.previous, "none"),
            since: State::since(number).map(|at| Moment::new(at, now)),
            last_event: number.last_event.map(|at| Moment::new(at, now)),
            last_event_name: last_event_name(&number.history),
            waba_id: waba_id(&key.account),
            account_href: format!("/accounts/{account}"),
            provider: key.account.provider.as_str(),
        }
    }
}

impl AccountRow {
    pub(super) fn new(
        key: &AccountKey,
        account: Option<&Account>,
        numbers: usize,
        now: Timestamp,
    ) -> Self {
        let nothing = Limit::default();
        let limit = account.map_or(&nothing, |account| &account.limit);
        Self {
            waba_id: waba_id(key),
            href: format!("/accounts/{}", path_of(key)),
            states: AccountState::all(account, now)
                .into_iter()
                .map(AccountState::as_str)
                .collect(),
            provider: key.provider.as_str(),
            limit: in_words(limit.value(), "unknown"),
            before: in_words(limit.previous, "none"),
            since: since(limit).map(|at| Moment::new(at, now)),
            numbers,
        }
    }
}

/// An event of a history.
pub(super) struct EventRow {
    pub(super) name: &'static str,
    pub(super) happened: Moment,
    pub(super) accepted: Moment,
    pub(super) limit: String,
}

impl EventRow {
    pub(super) fn all(history: &History, now: Timestamp) -> Vec<Self> {
        let row = |event: PastEvent| Self {
            name: event.name.as_str(),
            happened: Moment::new(event.happened_at, now),
            accepted: Moment::new(event.accepted_at, now),
            limit: in_words(event.limit, "not reported"),
        };
        history.newest_first().map(row).collect()
    }
}

/// Deliveries come in any order; of equal times the later arrival counts.
fn last_event_name(history: &History) -> Option<&'static str> {
    let mut newest: Option<PastEvent> = None;
    for event in history.newest_first() {
        if newest.is_none_or(|newest| event.happened_at > newest.happened_at) {
            newest = Some(event);
        }
    }
    newest.map(|event| event.name.as_str())
}

/// Since when a limit is what it is: the last change, or else when it was first reported.
pub(super) fn since(limit: &Limit) -> Option<Timestamp> {
    let changes = [Direction::Up, Direction::Down].map(|way| limit.changes(way).last);
    let changed = changes.into_iter().max().flatten();
    // Nobody says since when an imported limit has been what it is.
    let reported = limit.current.map(|known| known.at);
    changed.or(reported.filter(|at| *at > Timestamp::BEFORE_ALL))
}

/// A limit as a person says it.
fn in_words(limit: Option<MessagingLimit>, none: &str) -> String {
    match limit {
        None => none.to_owned(),
        Some(MessagingLimit::UNLIMITED) => "Unlimited".into(),
        Some(MessagingLimit::NOT_SET) => "not set".into(),
        Some(limit) => limit.tier(),
    }
}

fn waba_id(key: &AccountKey) -> String {
    let id = key.waba_id.as_str();
    if id.is_empty() {
        find::EMPTY.into()
    } else {
        id.into()
    }
}

fn path_of(key: &AccountKey) -> String {
    format!("{}/{}", key.provider, segment(&waba_id(key)))
}

/// A segment of a path that may hold anything. A dash stands for an empty account.
fn segment(text: &str) -> String {
    match text {
        find::EMPTY => text.to_owned(),
        _ => utf8_percent_encode(text, NON_ALPHANUMERIC).to_string(),
    }
}
