//! The law: what is known depends neither on the order of deliveries nor on their repetition, nor
//! on how they fall into commits, on commits that fail, and on restarts.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{collection::vec, option, prelude::*, sample::Index};
use serde_json::{Value as Json, json};
use whatsapp_quality_exporter::{
    domain::{
        AccountEvent, AccountKey, AlertSeverity, BanState, Change, EventKind, NumberKey,
        PhoneNumber, Restriction, TemplateEvent, TemplateQuality, Timestamp, WabaId,
    },
    state::{Draft, Forgettable, Heartbeat, HeartbeatKind, Record, Update},
    store::Sqlite,
};

use crate::{
    exposition::hostile,
    memory::{Memory, NEW_YEAR, at, cases, changes, get, provider, publish},
    support::value,
};

/// When the first delivery happened; each next one a second later.
const FIRST: i64 = NEW_YEAR - 1_000_000;

/// As many deliveries as a record remembers: any more could be taken for new when repeated.
const WINDOW: usize = 32;

/// Few, so that the same limit is often said twice. The last is none.
const LIMITS: [&str; 6] = [
    "TIER_250",
    "TIER_1K",
    "TIER_2K",
    "TIER_UNLIMITED",
    "TIER_NOT_SET",
    "PLENTY",
];

/// A delivery of Meta's that holds one change.
#[derive(Clone, Debug)]
struct Report {
    account: String,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Quality {
        number: String,
        event: &'static str,
        portfolio: Word,
        current: Word,
        old: Word,
    },
    Capability {
        portfolio: Word,
        per_phone: Word,
        business: Option<u64>,
        waba: Option<u64>,
    },
    /// An account event, an alert, or what became of a template and its quality: the fields that
    /// matter.
    Health { field: &'static str, value: Json },
    /// The operator removes a number, or the account with all its numbers.
    Forget { number: Option<String> },
}

/// A limit as it is sent, or null.
type Word = Json;

/// A delivery that arrives: which it is, and what happens then.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    said: usize,
    /// The commit of all since the last one fails: the draft is dropped, and made again later.
    fails: bool,
    commits: bool,
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn state_depends_on_neither_order_nor_repetition(
        (said, arrivals) in plain().prop_flat_map(|said| {
            let arrivals = in_any_order(said.len());
            (Just(said), arrivals)
        })
    ) {
        let mut memory = Memory::default();
        deliver(&mut memory, &said, &arrivals, &|_| at(NEW_YEAR));
        prop_assert_eq!(lawful(&memory), model(&said));
    }

    #[test]
    fn repetition_alone_changes_nothing_at_all(
        (said, (once, repeated)) in plain().prop_flat_map(|said| {
            let arrivals = with_and_without_repetition(said.len());
            (Just(said), arrivals)
        })
    ) {
        // Each is accepted at the time of its first arrival, which both have in common.
        let arrived = |said: usize| {
            let position = once.iter().position(|arrival| arrival.said == said).unwrap();
            at(NEW_YEAR + i64::try_from(position).unwrap())
        };
        let [mut plain, mut noisy] = [Memory::default(), Memory::default()];
        deliver(&mut plain, &said, &once, &arrived);
        deliver(&mut noisy, &said, &repeated, &arrived);
        prop_assert_eq!(plain.page(), noisy.page());
        prop_assert_eq!(plain.histories::<NumberKey>(), noisy.histories::<NumberKey>());
        prop_assert_eq!(plain.histories::<AccountKey>(), noisy.histories::<AccountKey>());
    }
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn what_was_forgotten_begins_anew(
        (said, arrivals) in with_forgetting().prop_flat_map(|said| {
            let arrivals = arriving((0..said.len()).collect());
            (Just(said), arrivals)
        })
    ) {
        let mut memory = Memory::default();
        deliver(&mut memory, &said, &arrivals, &|_| at(NEW_YEAR));
        prop_assert_eq!(lawful(&memory), model(&said));
    }
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn a_restart_changes_nothing(
        (said, arrivals) in strange().prop_flat_map(|said| {
            let arrivals = in_any_order(said.len());
            (Just(said), arrivals)
        })
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut running = Memory::default();
        let mut restarted = Memory::default();
        for (arrivals, clock) in arrivals.chunks(8).zip(NEW_YEAR..) {
            deliver(&mut running, &said, arrivals, &|_| at(clock));

            let mut store = Sqlite::open(folder.path()).unwrap();
            restarted = load(&mut store);
            let mut draft = restarted.fold.draft();
            draft.note(provider("meta").name, HeartbeatKind::Accepted, at(clock));
            for arrival in arrivals {
                said[arrival.said].apply(&mut draft, arrival.said, at(clock));
            }
            store.commit(&draft.batch()).unwrap();
            drop(store);

            restarted = load(&mut Sqlite::open(folder.path()).unwrap());
            prop_assert_eq!(restarted.page(), running.page());
            prop_assert_eq!(restarted.histories::<NumberKey>(), running.histories::<NumberKey>());
            prop_assert_eq!(restarted.histories::<AccountKey>(), running.histories::<AccountKey>());
            let heartbeat = Heartbeat { last_accepted: Some(at(clock)), ..Heartbeat::default() };
            prop_assert_eq!(restarted.fold.heartbeats().collect::<Vec<_>>(), [(provider("meta").name, heartbeat)]);
        }
        prop_assert_eq!(restarted.fold.phone_numbers(), running.fold.phone_numbers());
    }
}

/// What a change without a time to believe does after the machine's clock was wrong.
#[test]
fn event_without_a_time_is_the_newest_after_a_clock_that_was_ahead() {
    const DAY: i64 = 86_400;
    let mut memory = Memory::default();
    let kaleyra =
        |event: &str, limit: &str| format!("phone_no=1&event={event}&current_limit={limit}");
    memory
        .deliver(
            provider("kaleyra"),
            &get(&kaleyra("FLAGGED", "TIER_10K")),
            at(NEW_YEAR + DAY),
        )
        .unwrap();
    let fall = memory
        .deliver(
            provider("kaleyra"),
            &get(&kaleyra("DOWNGRADE", "TIER_1K")),
            at(NEW_YEAR),
        )
        .unwrap();
    assert_eq!((fall.applied, fall.stale), (1, 0));
    let samples = memory.samples();
    assert_eq!(
        value(&samples, "whatsapp_phone_number_messaging_limit", &[]),
        Some(1000.0)
    );
    assert_eq!(
        value(&samples, "whatsapp_phone_number_flagged", &[]),
        Some(0.0)
    );
    let changed = "whatsapp_phone_number_messaging_limit_changed_timestamp_seconds";
    // The time at which the fall was accepted is that of the clock.
    assert_eq!(
        value(&samples, changed, &[("direction", "down")]),
        Some(NEW_YEAR as f64)
    );
}

#[test]
fn event_is_the_newest_where_the_clock_starts_in_the_past() {
    const LONG_AGO: i64 = NEW_YEAR - 200_000_000;
    for first in [
        vec![account("TIER_10K".into()), number("TIER_10K".into())],
        // The number's own limit is newer than its account's.
        vec![
            account("TIER_100K".into()),
            number("TIER_10K".into()),
            number("TIER_10K".into()),
        ],
    ] {
        for last in [number("TIER_1K".into()), account("TIER_1K".into())] {
            let mut memory = Memory::default();
            let said = [first.clone(), vec![last]].concat();
            let arrival = |said| Arrival {
                said,
                fails: false,
                commits: true,
            };
            for said_before in 0..first.len() {
                deliver(&mut memory, &said, &[arrival(said_before)], &|_| {
                    at(NEW_YEAR)
                });
            }
            deliver(&mut memory, &said, &[arrival(first.len())], &|_| {
                at(LONG_AGO)
            });
            let samples = memory.samples();
            assert_eq!(
                value(&samples, "whatsapp_phone_number_messaging_limit", &[]),
                Some(1000.0),
                "{said:?}"
            );
            let falls = "whatsapp_phone_number_messaging_limit_changes_total";
            assert_eq!(
                value(&samples, falls, &[("direction", "down")]),
                Some(1.0),
                "{said:?}"
            );
        }
    }
}

#[test]
fn account_finds_the_number_that_had_another_limit_after_a_restart() {
    let said = [
        account("TIER_2K".into()),
        number("TIER_250".into()),
        account("TIER_2K".into()),
    ];
    let arrival = |said| Arrival {
        said,
        fails: false,
        commits: true,
    };
    let mut memory = Memory::default();
    let mut draft = memory.fold.draft();
    for change in [0, 1]
        .into_iter()
        .flat_map(|index| said[index].changes(index))
    {
        draft.apply(&change, at(NEW_YEAR));
    }
    let mut restarted = Memory::default();
    draft
        .batch()
        .records()
        .iter()
        .for_each(|record| restarted.fold.adopt(&Update::Put(record.clone())));
    deliver(&mut restarted, &said, &[arrival(2)], &|_| at(NEW_YEAR));
    assert_eq!(
        value(
            &restarted.samples(),
            "whatsapp_phone_number_messaging_limit",
            &[]
        ),
        Some(2000.0)
    );
}

#[test]
fn an_account_that_repeats_itself_finds_the_number_that_took_another_limit_just_before() {
    let said = [
        account("TIER_2K".into()),
        number(Json::Null),
        number("TIER_250".into()),
        account("TIER_2K".into()),
    ];
    let mut memory = Memory::default();
    let arrivals = [(0, true), (1, true), (2, false), (3, true)];
    let arrivals = arrivals.map(|(said, commits)| Arrival {
        said,
        fails: false,
        commits,
    });
    deliver(&mut memory, &said, &arrivals, &|_| at(NEW_YEAR));
    assert_eq!(
        value(
            &memory.samples(),
            "whatsapp_phone_number_messaging_limit",
            &[]
        ),
        Some(2000.0)
    );
}

#[test]
fn an_account_that_repeats_itself_finds_the_number_that_did_not_follow_it() {
    let said = [
        account("TIER_2K".into()),
        number(Json::Null),
        account("TIER_250".into()),
        number("TIER_2K".into()),
        account("TIER_250".into()),
    ];
    let mut memory = Memory::default();
    // The account's fall arrives late, when the number has said something newer.
    for (index, limit) in [
        (0, None),
        (1, Some(2000.0)),
        (3, Some(2000.0)),
        (2, Some(2000.0)),
        (4, Some(250.0)),
    ] {
        let arrival = Arrival {
            said: index,
            fails: false,
            commits: true,
        };
        deliver(&mut memory, &said, &[arrival], &|_| at(NEW_YEAR));
        let shown = value(
            &memory.samples(),
            "whatsapp_phone_number_messaging_limit",
            &[],
        );
        assert_eq!(shown, limit, "after delivery {index}");
    }
}

#[test]
fn a_draft_that_is_dropped_leaves_nothing_behind() {
    let said = [
        account("TIER_2K".into()),
        number("TIER_250".into()),
        account("TIER_1K".into()),
    ];
    let mut memory = Memory::default();
    for first in 0..said.len() {
        let before = format!("{:?}", memory.fold);
        let mut draft = memory.fold.draft();
        said.iter()
            .enumerate()
            .skip(first)
            .for_each(|(index, said)| {
                for change in said.changes(index) {
                    draft.apply(&change, at(NEW_YEAR));
                }
            });
        drop(draft);
        assert_eq!(format!("{:?}", memory.fold), before);
        let arrival = Arrival {
            said: first,
            fails: false,
            commits: true,
        };
        deliver(&mut memory, &said, &[arrival], &|_| at(NEW_YEAR));
    }
}

fn account(limit: Word) -> Report {
    let what = What::Capability {
        portfolio: limit,
        per_phone: Json::Null,
        business: None,
        waba: None,
    };
    Report {
        account: "300000000000101".into(),
        what,
    }
}

fn number(limit: Word) -> Report {
    let number = "447700900101".into();
    let what = What::Quality {
        number,
        event: "ONBOARDING",
        portfolio: Json::Null,
        current: limit,
        old: Json::Null,
    };
    Report {
        account: "300000000000101".into(),
        what,
    }
}

/// Folds the deliveries as they arrive.
fn deliver(
    memory: &mut Memory,
    said: &[Report],
    arrivals: &[Arrival],
    clock: &dyn Fn(usize) -> Timestamp,
) {
    let apply = |memory: &mut Memory, batch: &[usize], commits: bool| {
        let mut draft = memory.fold.draft();
        for index in batch {
            said[*index].apply(&mut draft, *index, clock(*index));
        }
        if commits {
            publish(draft);
        }
    };
    let mut batch = Vec::new();
    for arrival in arrivals {
        batch.push(arrival.said);
        if arrival.fails {
            apply(memory, &batch, false);
        }
        if arrival.commits {
            apply(memory, &std::mem::take(&mut batch), true);
        }
    }
    apply(memory, &batch, true);
}

/// What the program has after a start on this storage.
fn load(store: &mut Sqlite) -> Memory {
    let mut memory = Memory::default();
    store
        .load(&mut |record: Record| memory.fold.adopt(&Update::Put(record)))
        .unwrap();
    memory
}

/// The families that depend on no order.
pub const LAWFUL: [&str; 14] = [
    "whatsapp_phone_number_messaging_limit",
    "whatsapp_phone_number_flagged",
    "whatsapp_phone_number_high_throughput",
    "whatsapp_phone_number_quality_events_total",
    "whatsapp_phone_number_last_event_timestamp_seconds",
    "whatsapp_business_account_messaging_limit",
    "whatsapp_business_account_max_phone_numbers",
    "whatsapp_business_account_events_total",
    "whatsapp_business_account_restriction_end_timestamp_seconds",
    "whatsapp_business_account_disabled",
    "whatsapp_business_account_disable_scheduled",
    "whatsapp_business_account_alerts_total",
    "whatsapp_business_account_template_events_total",
    "whatsapp_business_account_template_quality_events_total",
];

/// The samples that the law speaks of.
fn lawful(memory: &Memory) -> BTreeSet<String> {
    let samples = memory
        .samples()
        .into_iter()
        .filter(|sample| LAWFUL.contains(&sample.name.as_str()));
    samples
        .map(|sample| line(&sample.name, sample.labels, sample.value))
        .collect()
}

/// The same samples, from deliveries in the order in which they happened, by the words of the law:
/// of each fact the newest counts, and a number's limit is the newer of its own and its account's.
fn model(said: &[Report]) -> BTreeSet<String> {
    #[derive(Default)]
    struct Number {
        limit: Option<(usize, f64)>,
        flagged: bool,
        high_throughput: bool,
        events: BTreeMap<&'static str, u32>,
        last_event: usize,
    }
    #[derive(Default)]
    struct Account {
        limit: Option<(usize, f64)>,
        most: [Option<u64>; 2],
        health: Health,
    }
    let mut numbers: BTreeMap<(&str, &str), Number> = BTreeMap::new();
    let mut accounts: BTreeMap<&str, Account> = BTreeMap::new();
    for (time, Report { account, what }) in said.iter().enumerate() {
        match what {
            What::Quality {
                number,
                event,
                portfolio,
                current,
                ..
            } => {
                let number = numbers.entry((account, number)).or_default();
                *number.events.entry(event).or_default() += 1;
                number.last_event = time;
                match *event {
                    "FLAGGED" => number.flagged = true,
                    "UNFLAGGED" | "UPGRADE" | "DOWNGRADE" => number.flagged = false,
                    "THROUGHPUT_UPGRADE" => number.high_throughput = true,
                    _ => {}
                }
                match (limit_of(portfolio), limit_of(current)) {
                    (Some(limit), _)
                        if limit > 0.0 && *event != "THROUGHPUT_UPGRADE" && !account.is_empty() =>
                    {
                        accounts.entry(account).or_default().limit = Some((time, limit));
                    }
                    (portfolio, current) => {
                        let positive = |limit: &f64| *limit > 0.0;
                        let limit = portfolio
                            .filter(positive)
                            .or(current.filter(positive))
                            .or(portfolio)
                            .or(current);
                        number.limit = limit.map(|limit| (time, limit)).or(number.limit);
                    }
                }
            }
            What::Capability {
                portfolio,
                per_phone,
                business,
                waba,
            } => {
                let account = accounts.entry(account).or_default();
                let mut limits = [portfolio, per_phone].into_iter().filter_map(limit_of);
                if let Some(limit) = limits.find(|limit| *limit > 0.0) {
                    account.limit = Some((time, limit));
                }
                if business.is_some() || waba.is_some() {
                    account.most = [*business, *waba];
                }
            }
            What::Health { field, value } => {
                let account = accounts.entry(account).or_default();
                account.health.apply(field, value);
            }
            What::Forget {
                number: Some(number),
            } => drop(numbers.remove(&(account, number))),
            What::Forget { number: None } => {
                accounts.remove(account.as_str());
                numbers.retain(|(of, _), _| of != account);
            }
        }
    }

    let mut lines = BTreeSet::new();
    let mut show = |name: &str, labels: &[(&str, &str)], value: f64| {
        let labels = [("provider", "meta")].iter().chain(labels);
        let labels = labels.map(|(label, value)| ((*label).to_owned(), (*value).to_owned()));
        lines.insert(line(&format!("whatsapp_{name}"), labels.collect(), value));
    };
    for ((account, number), known) in &numbers {
        let labels = [("waba_id", *account), ("phone_number", *number)];
        let of_account = accounts.get(account).and_then(|account| account.limit);
        if let Some((_, limit)) = known
            .limit
            .into_iter()
            .chain(of_account)
            .max_by_key(|(time, _)| *time)
        {
            show("phone_number_messaging_limit", &labels, limit);
        }
        show("phone_number_flagged", &labels, known.flagged.into());
        show(
            "phone_number_high_throughput",
            &labels,
            known.high_throughput.into(),
        );
        for kind in EventKind::ALL.map(EventKind::as_str) {
            let labels = [labels[0], labels[1], ("event", kind)];
            show(
                "phone_number_quality_events_total",
                &labels,
                known.events.get(kind).copied().unwrap_or(0).into(),
            );
        }
        show(
            "phone_number_last_event_timestamp_seconds",
            &labels,
            happened(known.last_event) as f64,
        );
    }
    for (account, known) in &accounts {
        if let Some((_, limit)) = known.limit {
            show(
                "business_account_messaging_limit",
                &[("waba_id", account)],
                limit,
            );
        }
        for (scope, most) in ["business", "waba"].into_iter().zip(known.most) {
            if let Some(most) = most {
                show(
                    "business_account_max_phone_numbers",
                    &[("waba_id", account), ("scope", scope)],
                    most as f64,
                );
            }
        }
        known.health.show(&mut |name, label, value| {
            let labels = [Some(("waba_id", *account)), label];
            let labels: Vec<_> = labels.into_iter().flatten().collect();
            show(&format!("business_account_{name}"), &labels, value);
        });
    }
    lines
}

/// Takes a sample: the family, its label with a value where it has one, and the sample's value.
type Show<'a> = dyn FnMut(&str, Option<(&str, &str)>, f64) + 'a;

/// What the model knows of an account's health.
#[derive(Default)]
struct Health {
    /// By the field of the webhook and the value of its label.
    counts: BTreeMap<&'static str, BTreeMap<String, u32>>,
    /// Ends that were said since all restrictions were last lifted, the latest said last.
    ends: Vec<(String, f64)>,
    ban_state: Option<String>,
}

impl Health {
    /// The families of counts: the field of the webhook, the family, its label, and its values.
    fn families() -> [(&'static str, &'static str, &'static str, Vec<&'static str>); 4] {
        [
            (
                "account_update",
                "events_total",
                "event",
                AccountEvent::ALL.map(AccountEvent::as_str).into(),
            ),
            (
                "account_alerts",
                "alerts_total",
                "severity",
                AlertSeverity::ALL.map(AlertSeverity::as_str).into(),
            ),
            (
                "message_template_status_update",
                "template_events_total",
                "event",
                TemplateEvent::ALL.map(TemplateEvent::as_str).into(),
            ),
            (
                "message_template_quality_update",
                "template_quality_events_total",
                "quality",
                TemplateQuality::ALL.map(TemplateQuality::as_str).into(),
            ),
        ]
    }

    fn apply(&mut self, field: &'static str, value: &Json) {
        let name = ["event", "alert_severity", "new_quality_score"]
            .into_iter()
            .find_map(|name| value[name].as_str())
            .unwrap();
        let counts = self.counts.entry(field).or_default();
        *counts.entry(name.to_owned()).or_default() += 1;
        if field != "account_update" {
            return;
        }
        if let Some(listed) = value["restriction_info"].as_array() {
            if listed.is_empty() {
                self.ends.clear();
            }
            for restriction in listed {
                let name = restriction["restriction_type"].as_str().unwrap();
                let end = restriction["expiration"].as_f64().unwrap_or(f64::INFINITY);
                self.ends.push((name.to_owned(), end));
            }
        }
        if let Some(ban_state) = value["ban_info"]["waba_ban_state"].as_str() {
            self.ban_state = Some(ban_state.to_owned());
            if ban_state == "REINSTATE" {
                self.ends.clear();
            }
        }
    }

    fn show(&self, show: &mut Show<'_>) {
        for (field, family, label, values) in Self::families() {
            let Some(counts) = self.counts.get(field) else {
                continue;
            };
            for value in values {
                let count = counts.get(value).copied().unwrap_or(0);
                show(family, Some((label, value)), count.into());
            }
        }
        for restriction in Restriction::ALL.map(Restriction::as_str) {
            let ends = self.ends.iter().filter(|(name, _)| name == restriction);
            let mut ends = ends.map(|(_, end)| *end);
            let end = match restriction {
                "UNKNOWN" => ends.reduce(f64::max),
                _ => ends.next_back(),
            };
            if let Some(end) = end {
                let family = "restriction_end_timestamp_seconds";
                show(family, Some(("restriction", restriction)), end);
            }
        }
        if let Some(ban_state) = self.ban_state.as_deref() {
            show(
                "disabled",
                None,
                f64::from(u8::from(ban_state == "DISABLE")),
            );
            let is_scheduled = ban_state == "SCHEDULE_FOR_DISABLE";
            show("disable_scheduled", None, f64::from(u8::from(is_scheduled)));
        }
    }
}

/// Webhooks of an account's health: the field and the value.
fn health() -> impl Strategy<Value = (&'static str, Json)> + Clone {
    let restriction = (
        prop::sample::select(Restriction::ALL.map(Restriction::as_str).to_vec()),
        option::of(1_790_000_000_u32..1_790_000_009),
    )
        .prop_map(|(name, end)| json!({"restriction_type": name, "expiration": end}));
    let restrictions = option::of(vec(restriction, 0..3))
        .prop_map(|listed| json!({"event": "ACCOUNT_RESTRICTION", "restriction_info": listed}));
    let ban_state = option::of(prop::sample::select(
        BanState::ALL.map(BanState::as_str).to_vec(),
    ))
    .prop_map(|state| json!({"event": "DISABLED_UPDATE", "ban_info": {"waba_ban_state": state}}));
    let events = ["ACCOUNT_VIOLATION", "VERIFIED_ACCOUNT", "UNKNOWN"].to_vec();
    let event = prop::sample::select(events).prop_map(|event| json!({"event": event}));
    let alert = prop::sample::select(AlertSeverity::ALL.map(AlertSeverity::as_str).to_vec())
        .prop_map(|severity| json!({"alert_severity": severity}));
    let template = || prop::sample::select(vec!["1", "2", ""]);
    // OTHER stands for several names, and is none itself.
    let known = TemplateEvent::ALL.map(TemplateEvent::as_str).into_iter();
    let events: Vec<_> = known.filter(|event| *event != "OTHER").collect();
    let status = (template(), prop::sample::select(events))
        .prop_map(|(id, event)| json!({"message_template_id": id, "event": event}));
    let scores = TemplateQuality::ALL.map(TemplateQuality::as_str).to_vec();
    let quality = (template(), prop::sample::select(scores))
        .prop_map(|(id, score)| json!({"message_template_id": id, "new_quality_score": score}));
    let account_event = prop_oneof![3 => restrictions, 2 => ban_state, 1 => event];
    prop_oneof![
        account_event.prop_map(|value| ("account_update", value)),
        alert.prop_map(|value| ("account_alerts", value)),
        status.prop_map(|value| ("message_template_status_update", value)),
        quality.prop_map(|value| ("message_template_quality_update", value)),
    ]
}

fn limit_of(word: &Word) -> Option<f64> {
    match word.as_str()? {
        "TIER_250" => Some(250.0),
        "TIER_1K" => Some(1000.0),
        "TIER_2K" => Some(2000.0),
        "TIER_UNLIMITED" => Some(f64::INFINITY),
        "TIER_NOT_SET" => Some(0.0),
        _ => None,
    }
}

fn line(name: &str, labels: BTreeMap<String, String>, value: f64) -> String {
    format!("{name}{labels:?} {value}")
}

fn happened(index: usize) -> i64 {
    FIRST + i64::try_from(index).unwrap()
}

impl Report {
    /// Folds what it says, or forgets.
    fn apply(&self, draft: &mut Draft<'_>, index: usize, accepted_at: Timestamp) {
        let What::Forget { number } = &self.what else {
            for change in self.changes(index) {
                draft.apply(&change, accepted_at);
            }
            return;
        };
        let account = AccountKey {
            provider: provider("meta").name,
            waba_id: WabaId::from_stored(&self.account),
        };
        draft.forget(&match number {
            None => Forgettable::Account(account),
            Some(number) => Forgettable::Number(NumberKey {
                account,
                phone_number: PhoneNumber::from_stored(number),
            }),
        });
    }

    /// What the parser makes of it; its place among the others is its time.
    fn changes(&self, index: usize) -> Vec<Change> {
        let (field, value) = match &self.what {
            What::Quality {
                number,
                event,
                portfolio,
                current,
                old,
            } => (
                "phone_number_quality_update",
                json!({"display_phone_number": number, "event": event, "current_limit": current, "old_limit": old,
                    "max_daily_conversations_per_business": portfolio}),
            ),
            What::Capability {
                portfolio,
                per_phone,
                business,
                waba,
            } => (
                "business_capability_update",
                json!({"max_daily_conversations_per_business": portfolio, "max_daily_conversation_per_phone": per_phone,
                    "max_phone_numbers_per_business": business, "max_phone_numbers_per_waba": waba}),
            ),
            What::Health { field, value } => (*field, value.clone()),
            What::Forget { .. } => return Vec::new(),
        };
        let change = json!({"field": field, "value": value});
        let entry = json!({"id": self.account, "time": happened(index), "changes": [change]});
        changes(provider("meta"), &json!({"entry": [entry]}).to_string())
    }
}

/// Deliveries of a few numbers and accounts, as many as a record remembers.
fn plain() -> impl Strategy<Value = Vec<Report>> {
    vec(plain_report(), 1..=WINDOW)
}

fn plain_report() -> impl Strategy<Value = Report> + Clone {
    let account = prop::sample::select(vec!["300000000000101", "300000000000202", ""])
        .prop_map(str::to_owned);
    let number = prop::sample::select(vec!["447700900101", "447700900202", "4477***00303"])
        .prop_map(str::to_owned);
    let limit = prop::sample::select(LIMITS.as_slice()).prop_map(Json::from);
    said(account, number, limit)
}

/// The same, with numbers and accounts that are removed in between.
fn with_forgetting() -> impl Strategy<Value = Vec<Report>> {
    vec(or_forgotten(plain_report()), 1..=WINDOW)
}

/// A report, or that what a report is about is removed.
fn or_forgotten(
    report: impl Strategy<Value = Report> + Clone + 'static,
) -> impl Strategy<Value = Report> {
    let forget = report.clone().prop_map(|Report { account, what }| {
        let number = match what {
            What::Quality { number, .. } => Some(number),
            _ => None,
        };
        let what = What::Forget { number };
        Report { account, what }
    });
    prop_oneof![4 => report, 1 => forget]
}

/// Deliveries with whatever stands in a number, an account or a limit.
fn strange() -> impl Strategy<Value = Vec<Report>> {
    let name = prop_oneof![1 => hostile(), 3 => prop::sample::select(vec!["1", "++1", "12"]).prop_map(str::to_owned)];
    let limit = prop_oneof![
        1 => any::<u64>().prop_map(Json::from),
        1 => "(TIER_)?[0-9]{1,15}[KM]?".prop_map(Json::from),
        4 => prop::sample::select(LIMITS.as_slice()).prop_map(Json::from),
    ];
    let report = said(name.clone(), name, limit);
    vec(or_forgotten(report), 1..=WINDOW)
}

fn said(
    account: impl Strategy<Value = String> + Clone + 'static,
    number: impl Strategy<Value = String> + Clone + 'static,
    limit: impl Strategy<Value = Word> + Clone + 'static,
) -> impl Strategy<Value = Report> + Clone {
    let limit = prop_oneof![Just(Json::Null), limit];
    let named = account.clone().prop_map(|account| {
        if account.is_empty() {
            "1".into()
        } else {
            account
        }
    });
    let event = prop::sample::select(EventKind::ALL.map(EventKind::as_str).to_vec());
    let quality = (
        account,
        number,
        event,
        limit.clone(),
        limit.clone(),
        limit.clone(),
    )
        .prop_map(|(account, number, event, portfolio, current, old)| Report {
            account,
            what: What::Quality {
                number,
                event,
                portfolio,
                current,
                old,
            },
        });
    let most = option::of(1..30_u64);
    let health = (named.clone(), health()).prop_map(|(account, (field, value))| Report {
        account,
        what: What::Health { field, value },
    });
    let capability = (named, limit.clone(), limit, most.clone(), most).prop_map(
        |(account, portfolio, per_phone, business, waba)| Report {
            account,
            what: What::Capability {
                portfolio,
                per_phone,
                business,
                waba,
            },
        },
    );
    prop_oneof![3 => quality, 1 => capability, 3 => health]
}

/// Each delivery at least once, in any order, any of them again.
fn in_any_order(deliveries: usize) -> impl Strategy<Value = Vec<Arrival>> {
    let again = vec(0..deliveries, 0..=deliveries);
    again
        .prop_map(move |again| (0..deliveries).chain(again).collect::<Vec<_>>())
        .prop_shuffle()
        .prop_flat_map(arriving)
}

/// Deliveries in one order: as they are, and with any of them again after any other.
fn with_and_without_repetition(
    deliveries: usize,
) -> impl Strategy<Value = (Vec<Arrival>, Vec<Arrival>)> {
    let order = Just((0..deliveries).collect::<Vec<_>>()).prop_shuffle();
    (order, vec(vec(any::<Index>(), 0..3), deliveries)).prop_flat_map(|(order, again)| {
        let mut repeated = Vec::new();
        for (last, again) in again.iter().enumerate() {
            repeated.push(order[last]);
            repeated.extend(again.iter().map(|index| order[index.index(last + 1)]));
        }
        (arriving(order), arriving(repeated))
    })
}

fn arriving(order: Vec<usize>) -> impl Strategy<Value = Vec<Arrival>> {
    let fates = vec(
        (prop::bool::weighted(0.2), prop::bool::weighted(0.4)),
        order.len(),
    );
    fates.prop_map(move |fates| {
        order
            .iter()
            .zip(fates)
            .map(|(said, (fails, commits))| Arrival {
                said: *said,
                fails,
                commits,
            })
            .collect()
    })
}
