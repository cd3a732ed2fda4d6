//! The status page, and a page for each phone number and each account.
//!
//! They are written by the server, with their style in them and without scripts, so that a browser
//! needs nothing else and may load nothing else.

mod health;
mod moment;
mod rows;
mod search;
mod standing;

use std::{sync::Arc, time::SystemTime};

use askama::Template;
use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::STANDARD};
use hyper::{
    StatusCode,
    header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderValue, REFERRER_POLICY},
};

use super::{Answer, Endpoints, HTML, answer, error, find, not_found};
use crate::{
    domain::{Direction, EventKind, Timestamp},
    state::{Limit, Table},
    telemetry::Telemetry,
};
use health::{AccountState, Health};
use moment::Moment;
use rows::{AccountRow, EventRow, NumberRow};
use search::{Choice, Search};
use standing::Standing;

const STYLE: &str = include_str!("pages/style.css");
/// Rows in a table.
const ROWS: usize = 50;

/// Writes the pages.
pub(super) struct Pages {
    pub(super) table: Arc<Table>,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) endpoints: Arc<Endpoints>,
    pub(super) telemetry_path: String,
    /// What stands before `/webhooks/` where the providers send them, as far as it is known.
    pub(super) external_url: Option<String>,
    pub(super) started: Timestamp,
    headers: [(hyper::header::HeaderName, HeaderValue); 3],
}

/// What every page has.
struct Frame<'a> {
    telemetry_path: &'a str,
    style: &'static str,
}

#[derive(Template)]
#[template(path = "index.html")]
struct Index<'a> {
    frame: Frame<'a>,
    total: usize,
    flagged: usize,
    lowered: usize,
    q: &'a str,
    providers: Vec<Choice>,
    states: Vec<Choice>,
    is_filtered: bool,
    rows: Vec<NumberRow>,
    caption: String,
    page: usize,
    pages: usize,
    previous: Option<String>,
    next: Option<String>,
    accounts: Vec<AccountRow>,
    accounts_caption: String,
    standings: Vec<Standing>,
    has_external_url: bool,
    version: &'static str,
    revision: &'static str,
    started: Option<Moment>,
    storage_is_up: bool,
}

#[derive(Template)]
#[template(path = "number.html")]
struct NumberPage<'a> {
    frame: Frame<'a>,
    row: NumberRow,
    changes: LimitChanges,
    has_high_throughput: bool,
    rating: &'static str,
    history: Vec<EventRow>,
    /// The webhooks of its account, which change its limit, too.
    account_history: Vec<EventRow>,
    counts: Vec<(&'static str, u64)>,
}

#[derive(Template)]
#[template(path = "account.html")]
struct AccountPage<'a> {
    frame: Frame<'a>,
    row: AccountRow,
    changes: LimitChanges,
    max_phone_numbers: String,
    health: Health,
    history: Vec<EventRow>,
    rows: Vec<NumberRow>,
    caption: String,
}

/// How often a limit went which way.
struct LimitChanges {
    raised: u64,
    last_raised: Option<Moment>,
    lowered: u64,
    last_lowered: Option<Moment>,
}

impl LimitChanges {
    fn of(limit: &Limit, now: Timestamp) -> Self {
        let [up, down] = [Direction::Up, Direction::Down].map(|way| limit.changes(way));
        Self {
            raised: up.total,
            last_raised: up.last.map(|at| Moment::new(at, now)),
            lowered: down.total,
            last_lowered: down.last.map(|at| Moment::new(at, now)),
        }
    }
}

impl Pages {
    pub(super) fn new(
        table: Arc<Table>,
        telemetry: Arc<Telemetry>,
        endpoints: Arc<Endpoints>,
        telemetry_path: String,
        external_url: Option<String>,
    ) -> Self {
        let hash = STANDARD.encode(digest::digest(&digest::SHA256, STYLE.as_bytes()));
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{hash}'; form-action 'self'; base-uri 'none'; \
             frame-ancestors 'none'"
        );
        // The policy is ASCII; without it, nothing at all would be loaded.
        let policy = HeaderValue::from_str(&policy);
        let nothing = HeaderValue::from_static("default-src 'none'");
        Self {
            table,
            telemetry,
            endpoints,
            telemetry_path,
            external_url,
            started: SystemTime::now().into(),
            headers: [
                (CONTENT_SECURITY_POLICY, policy.unwrap_or(nothing)),
                // An address has a phone number in it.
                (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
                (CACHE_CONTROL, HeaderValue::from_static("no-store")),
            ],
        }
    }

    /// The status page: what matches the query, worst first.
    pub(super) fn index(&self, query: &str, storage_is_up: bool) -> Answer {
        let search = match Search::read(query) {
            Ok(search) => search,
            Err(sentence) => return error(StatusCode::BAD_REQUEST, &sentence),
        };
        let now = SystemTime::now().into();
        let found = search.numbers(&self.table);
        let (accounts, matching_accounts) = search.accounts(&self.table, &found.of_account, now);
        let accounts: Vec<_> = accounts
            .iter()
            .map(|found| AccountRow::new(&found.key, found.account.as_deref(), found.numbers, now))
            .collect();
        let rows = found.rows(&self.table, now);
        let pages = found.matching.div_ceil(ROWS).max(1);
        let page = found.page;
        self.html(&Index {
            frame: self.frame(),
            total: found.total,
            flagged: found.flagged,
            lowered: found.lowered,
            q: &search.q,
            providers: search.provider_choices(),
            states: search.state_choices(),
            is_filtered: search.is_filtered(),
            caption: caption("phone number", rows.len(), found.matching),
            rows,
            page,
            pages,
            previous: (page > 1).then(|| search.href(page - 1)),
            next: (page < pages).then(|| search.href(page + 1)),
            accounts_caption: caption("account", accounts.len(), matching_accounts),
            accounts,
            standings: self.standings(now),
            has_external_url: self.external_url.is_some(),
            version: env!("CARGO_PKG_VERSION"),
            revision: env!("BUILD_REVISION"),
            started: Some(Moment::new(self.started, now)),
            storage_is_up,
        })
    }

    /// The page of the phone number that a path names.
    pub(super) fn number(&self, segments: &[&str]) -> Answer {
        let key = find::shown_number(&self.table, segments);
        let known = key.and_then(|key| Some((self.table.numbers.get(&key)?, key)));
        let Some((number, key)) = known else {
            return not_found();
        };
        let now = SystemTime::now().into();
        let kinds = EventKind::ALL.into_iter();
        let account = self.table.accounts.get(&key.account).unwrap_or_default();
        self.html(&NumberPage {
            frame: self.frame(),
            row: NumberRow::new(&self.table, &key, &number, now),
            changes: LimitChanges::of(&number.limit, now),
            rating: match number.rating.as_ref().map(|known| known.value) {
                None => "not reported",
                Some(None) => "none yet",
                Some(Some(rating)) => rating.as_str(),
            },
            has_high_throughput: number.high_throughput.is_some_and(|known| known.value),
            history: EventRow::all(&number.history, now),
            account_history: EventRow::all(&account.history, now),
            counts: kinds
                .map(|kind| (kind.as_str(), number.events.of(kind)))
                .collect(),
        })
    }

    /// The page of the account that a path names: one of which something is known, or a number.
    pub(super) fn account(&self, segments: &[&str]) -> Answer {
        let Some(key) = find::account(segments) else {
            return not_found();
        };
        let account = self.table.accounts.get(&key);
        let found = Search::of_account(&key).numbers(&self.table);
        if account.is_none() && found.matching == 0 {
            return not_found();
        }
        let now = SystemTime::now().into();
        let row = AccountRow::new(&key, account.as_deref(), found.matching, now);
        let rows = found.rows(&self.table, now);
        let account = account.map(Arc::unwrap_or_clone).unwrap_or_default();
        let most = account
            .max_phone_numbers
            .map(|known| known.value)
            .unwrap_or_default();
        let most = match (most.business, most.waba) {
            (Some(business), _) => format!("{business} in the portfolio"),
            (None, Some(waba)) => format!("{waba} in the account"),
            (None, None) => "unknown".into(),
        };
        self.html(&AccountPage {
            frame: self.frame(),
            row,
            changes: LimitChanges::of(&account.limit, now),
            max_phone_numbers: most,
            health: Health::of(&account, now),
            history: EventRow::all(&account.history, now),
            caption: caption("phone number", rows.len(), found.matching),
            rows,
        })
    }

    fn frame(&self) -> Frame<'_> {
        Frame {
            telemetry_path: &self.telemetry_path,
            style: STYLE,
        }
    }

    fn standings(&self, now: Timestamp) -> Vec<Standing> {
        let endpoints = self.endpoints.all();
        let standing = |endpoint: &Arc<super::Endpoint>| {
            let metrics = self.telemetry.provider(endpoint.provider.name);
            Standing::new(endpoint, metrics, self.external_url.as_deref(), now)
        };
        endpoints.iter().map(standing).collect()
    }

    fn html(&self, page: &impl Template) -> Answer {
        let Ok(page) = page.render() else {
            let sentence = "the page cannot be written";
            return error(StatusCode::INTERNAL_SERVER_ERROR, sentence);
        };
        let mut answer = answer(StatusCode::OK, HTML, page);
        answer.headers_mut().extend(self.headers.clone());
        answer
    }
}

/// What a table shows of all that match.
fn caption(what: &str, shown: usize, matching: usize) -> String {
    let plural = if matching == 1 { "" } else { "s" };
    match shown == matching {
        true => format!("{matching} {what}{plural}, worst first"),
        false => format!("{shown} of {matching} {what}{plural}, worst first"),
    }
}
