//! The page: the text that Prometheus reads.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    process::{Command, Stdio},
};

use prometheus::{
    Encoder, TextEncoder,
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};
use proptest::{collection::vec, option, prelude::*};
use serde_json::json;
use whatsapp_quality_exporter::{
    domain::{
        AccountEvent, AccountKey, AlertSeverity, BanState, Change, ChangeKind, Direction,
        EventKind, LimitScope, MaxPhoneNumbers, MessagingLimit, PhoneNumber, QualityRating,
        ReportedLimit, Restriction, RestrictionEnd, TemplateEvent, TemplateId, TemplateQuality,
        Vocabulary, WabaId,
    },
    state::{Account, Limit, SHARDS, Table, Tally},
};

use crate::{
    memory::{Memory, NEW_YEAR, at, cases, get, post, provider, publish},
    support::{Exporter, Sample, assert_golden, samples, value},
};

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn the_page_says_what_the_client_library_would(changes in vec(change(), 1..24)) {
        let mut memory = Memory::default();
        for (change, clock) in changes.iter().zip(NEW_YEAR..) {
            let mut draft = memory.fold.draft();
            draft.apply(change, at(clock));
            publish(draft);
        }
        let page = memory.page();
        assert_families_are_whole(&page);
        prop_assert_eq!(sorted(&page), sorted(&by_the_client_library(&memory.table)));
    }
}

#[test]
fn the_page_is_the_golden_one() {
    assert_golden("fixtures/metrics.txt", &page_of_everything());
}

/// A page with every family and every closed label.
pub(crate) fn page_of_everything() -> String {
    let mut memory = Memory::default();
    let meta = json!({"object": "whatsapp_business_account", "entry": [
        {"id": "300000000000101", "time": NEW_YEAR - 3600, "changes": [
            {"field": "phone_number_quality_update", "value": {"display_phone_number": "+44 7700 900101",
                "event": "DOWNGRADE", "old_limit": "TIER_10K", "max_daily_conversations_per_business": "TIER_2K"}},
            {"field": "phone_number_quality_update", "value": {"display_phone_number": "+44 7700 900202",
                "event": "FLAGGED"}},
            {"field": "business_capability_update", "value": {"max_phone_numbers_per_waba": 25}}]},
        {"id": "300000000000202", "time": NEW_YEAR, "changes": [
            {"field": "business_capability_update", "value": {"max_daily_conversations_per_business": -1,
                "max_phone_numbers_per_business": 2}}]},
        {"id": "300000000000303", "time": NEW_YEAR, "changes": [
            {"field": "business_capability_update", "value": {"max_daily_conversations_per_business": 250}},
            {"field": "phone_number_quality_update", "value": {"display_phone_number": "+44 7700 900505",
                "event": "UPGRADE", "max_daily_conversations_per_business": "TIER_2K"}}]}]});
    let innopaas = json!({"id": "1", "type": "whatsapp_phone_number_quality_update",
        "eventTime": "2025-12-31T23:59:59.250Z", "body": {"displayPhoneNumber": "4477***00303",
        "wabaId": "a\"b\\c}🙂", "event": "THROUGHPUT_UPGRADE", "messageLimit": "Unlimited"}});
    memory
        .deliver(
            provider("meta"),
            &post(meta.to_string().as_bytes()),
            at(NEW_YEAR),
        )
        .unwrap();
    memory
        .deliver(
            provider("innopaas"),
            &post(innopaas.to_string().as_bytes()),
            at(NEW_YEAR + 1),
        )
        .unwrap();
    memory
        .deliver(
            provider("kaleyra"),
            &get("phone_no=447700900404&event=PAUSED"),
            at(NEW_YEAR + 2),
        )
        .unwrap();
    memory.page()
}

#[test]
fn promtool_and_a_restart_take_a_hostile_webhook() {
    const HOSTILE: &str = "1\"2\\3\u{2028}4'5}🙂,{=#\\n";
    // White space is not part of a number.
    const NUMBER: &str = "1\"2\\34'5}🙂,{=#\\n";
    let storage = tempfile::tempdir().unwrap();
    let exporter = Exporter::start(storage.path(), &[]);
    let change = |field: &str, value| json!({"field": field, "value": value});
    let body = json!({"entry": [{"id": HOSTILE, "time": 1_766_000_000, "changes": [
        change("phone_number_quality_update", json!({"display_phone_number": HOSTILE, "event": HOSTILE,
            "current_limit": HOSTILE, "from": HOSTILE})),
        change("business_capability_update", json!({"max_daily_conversations_per_business": 2000,
            "max_phone_numbers_per_waba": 25}))]}]});
    let answer = exporter.post("/webhooks/meta", &body.to_string());
    assert_eq!(answer.json()["applied"], 2, "{}", answer.text());

    let page = exporter.get("/metrics");
    let page = page.text();
    assert_families_are_whole(page);
    let samples = samples(page);
    let labels = [
        ("provider", "meta"),
        ("waba_id", HOSTILE),
        ("phone_number", NUMBER),
    ];
    let of_number = |name| value(&samples, name, &labels);
    assert_eq!(
        of_number("whatsapp_phone_number_messaging_limit"),
        Some(2000.0)
    );
    assert_eq!(
        of_number("whatsapp_phone_number_last_event_timestamp_seconds"),
        Some(1_766_000_000.0)
    );
    for (field, times) in [("event", 1.0), ("limit", 1.0)] {
        let labels = [("provider", "meta"), ("field", field)];
        assert_eq!(
            value(
                &samples,
                "whatsapp_exporter_webhook_unknown_values_total",
                &labels
            ),
            Some(times),
            "{field}"
        );
    }

    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("promtool, which comes with Prometheus, cannot be run: {error}")
        });
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(page.as_bytes())
        .unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.is_empty(),
        "{said}{}",
        String::from_utf8_lossy(&output.stdout)
    );

    let of_subjects = |samples: Vec<Sample>| -> Vec<Sample> {
        samples
            .into_iter()
            .filter(|sample| sample.labels.contains_key("waba_id"))
            .collect()
    };
    let restarted = exporter.kill_and_restart();
    assert_eq!(of_subjects(restarted.samples()), of_subjects(samples));
}

/// Text that breaks what does not escape it.
pub(crate) fn hostile() -> impl Strategy<Value = String> + Clone {
    let breaking = vec![
        '"', '\\', '\n', '\0', '\r', '\t', '🙂', '}', '{', ',', '=', '#', 'n', '1', '+', '\u{7f}',
        '\u{2028}',
    ];
    let character = prop_oneof![4 => prop::sample::select(breaking), 1 => any::<char>()];
    vec(character, 0..8).prop_map(String::from_iter)
}

/// A change whose times are whole seconds, which both sides write alike.
fn change() -> impl Strategy<Value = Change> {
    // As a database may hold them, whatever a webhook may say.
    let account = hostile().prop_map(|text| WabaId::from_stored(&text));
    let number = hostile().prop_map(|text| PhoneNumber::from_stored(&text));
    let limit = prop_oneof!["[0-9]{1,15}[KM]?", Just("-1".to_owned())]
        .prop_map(|text| MessagingLimit::parse(&text).unwrap());
    let event = prop::sample::select(EventKind::ALL.to_vec());
    let scope = prop::sample::select(vec![LimitScope::PhoneNumber, LimitScope::Portfolio]);
    let reported = (limit.clone(), scope).prop_map(|(limit, scope)| ReportedLimit { limit, scope });
    let rating = prop::sample::select(QualityRating::ALL.to_vec());
    let quality = (
        number,
        option::of(event.clone()),
        option::of(reported),
        option::of(limit.clone()),
        option::of(option::of(rating)),
    )
        .prop_map(|(phone_number, event, limit, old_limit, rating)| {
            ChangeKind::PhoneNumberQuality {
                phone_number,
                event,
                limit,
                old_limit,
                rating,
            }
        });
    let most = (option::of(any::<u64>()), option::of(any::<u64>()));
    let limits = (option::of(limit.clone()), option::of(limit));
    let capability = (option::of(event), limits, most).prop_map(
        |(event, (limit, old_limit), (business, waba))| ChangeKind::AccountCapability {
            event,
            limit,
            old_limit,
            max_phone_numbers: MaxPhoneNumbers { business, waba },
        },
    );
    let kind = prop_oneof![3 => quality, 1 => capability, 2 => health()];
    let name = prop::sample::select(vec!["meta", "kaleyra"]);
    (name, account, kind, option::of(1..NEW_YEAR)).prop_map(|(name, waba_id, kind, time)| Change {
        account: AccountKey {
            provider: provider(name).name,
            waba_id,
        },
        time: time.map(at),
        identity: None,
        unknown: vec![],
        kind,
    })
}

/// A change of an account's health.
fn health() -> impl Strategy<Value = ChangeKind> {
    let end = option::of(1..NEW_YEAR).prop_map(|end| match end {
        Some(end) => RestrictionEnd::At(at(end)),
        None => RestrictionEnd::Never,
    });
    let restriction = (prop::sample::select(Restriction::ALL.to_vec()), end);
    let ban_state = prop::sample::select(BanState::ALL.to_vec());
    let account = (
        prop::sample::select(AccountEvent::ALL.to_vec()),
        option::of(prop::collection::vec(restriction, 0..4)),
        option::of(ban_state),
    )
        .prop_map(|(event, restrictions, ban_state)| ChangeKind::Account {
            event,
            restrictions,
            ban_state,
        });
    let template = || (0..4_u64).prop_map(|id| Some(TemplateId::from_hash(id.to_be_bytes())));
    let status = (
        template(),
        prop::sample::select(TemplateEvent::ALL.to_vec()),
    );
    let quality = (
        template(),
        prop::sample::select(TemplateQuality::ALL.to_vec()),
    );
    prop_oneof![
        account,
        prop::sample::select(AlertSeverity::ALL.to_vec()).prop_map(ChangeKind::AccountAlert),
        status.prop_map(|(template, event)| ChangeKind::TemplateStatus { template, event }),
        quality.prop_map(|(template, quality)| ChangeKind::TemplateQuality { template, quality }),
    ]
}

/// Every family once, and its help and its type before its samples.
fn assert_families_are_whole(page: &str) {
    assert!(page.ends_with('\n'));
    let mut seen = BTreeSet::new();
    let mut family = "";
    let mut typed = false;
    for line in page.trim_end_matches('\n').split('\n') {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split_once(' ').unwrap().0;
            typed = false;
            assert!(seen.insert(family), "{family} comes twice");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(
                name == family && !typed && ["counter", "gauge", "histogram"].contains(&kind),
                "{line}"
            );
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            typed = true;
        } else {
            let [sample] = samples(line)
                .try_into()
                .unwrap_or_else(|_| panic!("not one sample: {line:?}"));
            let suffix = sample.name.strip_prefix(family);
            assert!(
                typed
                    && suffix
                        .is_some_and(|suffix| ["", "_bucket", "_sum", "_count"].contains(&suffix)),
                "{line}"
            );
        }
    }
}

fn sorted(page: &str) -> Vec<String> {
    let mut samples: Vec<String> = samples(page)
        .into_iter()
        .map(|sample| format!("{sample:?}"))
        .collect();
    samples.sort();
    samples
}

/// What is in the table, written by the client library.
fn by_the_client_library(table: &Table) -> String {
    let mut page = Page::default();
    let seconds = |time: whatsapp_quality_exporter::domain::Timestamp| time.as_seconds();
    for (key, number) in (0..SHARDS).flat_map(|shard| table.numbers.entries(shard, None).1) {
        let labels = [
            ("provider", key.account.provider.as_str()),
            ("waba_id", key.account.waba_id.as_str()),
            ("phone_number", key.phone_number.as_str()),
        ];
        page.limit("whatsapp_phone_number", &labels, &number.limit);
        let is = |fact: Option<whatsapp_quality_exporter::state::Dated<bool>>| {
            fact.is_some_and(|fact| fact.value).into()
        };
        page.gauge(
            "whatsapp_phone_number_flagged",
            &labels,
            None,
            is(number.flagged),
        );
        page.gauge(
            "whatsapp_phone_number_high_throughput",
            &labels,
            None,
            is(number.high_throughput),
        );
        for kind in EventKind::ALL {
            let event = Some(("event", kind.as_str()));
            page.counter(
                "whatsapp_phone_number_quality_events_total",
                &labels,
                event,
                number.events.of(kind) as f64,
            );
        }
        if let Some(known) = &number.rating {
            for rating in QualityRating::ALL {
                let label = Some(("rating", rating.as_str()));
                let is = f64::from(u8::from(known.value == Some(rating)));
                page.gauge("whatsapp_phone_number_quality_rating", &labels, label, is);
            }
        }
        if let Some(last) = number.last_event {
            page.gauge(
                "whatsapp_phone_number_last_event_timestamp_seconds",
                &labels,
                None,
                seconds(last),
            );
        }
    }
    for (key, account) in (0..SHARDS).flat_map(|shard| table.accounts.entries(shard, None).1) {
        let labels = [
            ("provider", key.provider.as_str()),
            ("waba_id", key.waba_id.as_str()),
        ];
        page.limit("whatsapp_business_account", &labels, &account.limit);
        let most = account
            .max_phone_numbers
            .map(|fact| fact.value)
            .unwrap_or_default();
        for (scope, most) in [("business", most.business), ("waba", most.waba)] {
            if let Some(most) = most {
                let scope = Some(("scope", scope));
                page.gauge(
                    "whatsapp_business_account_max_phone_numbers",
                    &labels,
                    scope,
                    most as f64,
                );
            }
        }
        page.health(&labels, &account);
    }
    page.text()
}

/// Families of the client library, by name. Its vectors of metrics would not do: see the crate's
/// `exposition`.
#[derive(Default)]
struct Page(BTreeMap<String, (MetricType, Vec<Metric>)>);

type Labels<'a> = &'a [(&'a str, &'a str)];

impl Page {
    fn limit(&mut self, prefix: &str, labels: Labels<'_>, limit: &Limit) {
        if let Some(limit) = limit.value() {
            self.gauge(
                &format!("{prefix}_messaging_limit"),
                labels,
                None,
                limit.as_f64(),
            );
        }
        if let Some(previous) = limit.previous {
            self.gauge(
                &format!("{prefix}_previous_messaging_limit"),
                labels,
                None,
                previous.as_f64(),
            );
        }
        for (name, direction) in [("up", Direction::Up), ("down", Direction::Down)] {
            let changes = limit.changes(direction);
            let direction = Some(("direction", name));
            let total = changes.total as f64;
            self.counter(
                &format!("{prefix}_messaging_limit_changes_total"),
                labels,
                direction,
                total,
            );
            if let Some(last) = changes.last {
                let name = format!("{prefix}_messaging_limit_changed_timestamp_seconds");
                self.gauge(&name, labels, direction, last.as_seconds());
            }
        }
    }

    fn health(&mut self, labels: Labels<'_>, account: &Account) {
        const PREFIX: &str = "whatsapp_business_account_";
        if let Some(events) = &account.events {
            self.tallies(
                "event",
                "events_total",
                "event",
                labels,
                events.counts.iter(),
            );
            for restriction in Restriction::ALL {
                let label = Some(("restriction", restriction.as_str()));
                let name = format!("{PREFIX}restriction_end_timestamp_seconds");
                match events.end_of(restriction) {
                    Some(RestrictionEnd::At(end)) => {
                        self.gauge(&name, labels, label, end.as_seconds());
                    }
                    Some(RestrictionEnd::Never) => self.gauge(&name, labels, label, f64::INFINITY),
                    None => {}
                }
            }
            if let Some(known) = events.ban_state {
                for (name, state) in [
                    ("disabled", BanState::Disable),
                    ("disable_scheduled", BanState::ScheduleForDisable),
                ] {
                    let is = f64::from(u8::from(known.value == state));
                    self.gauge(&format!("{PREFIX}{name}"), labels, None, is);
                }
            }
        }
        if let Some(alerts) = &account.alerts {
            self.tallies("alert", "alerts_total", "severity", labels, alerts.iter());
        }
        if let Some(events) = &account.template_events {
            self.tallies(
                "template_event",
                "template_events_total",
                "event",
                labels,
                events.iter(),
            );
        }
        if let Some(qualities) = &account.template_qualities {
            for (quality, count) in qualities.counts.iter() {
                let name = format!("{PREFIX}template_quality_events_total");
                self.counter(
                    &name,
                    labels,
                    Some(("quality", quality.as_str())),
                    count as f64,
                );
            }
            for quality in [TemplateQuality::Yellow, TemplateQuality::Red] {
                let count = qualities.templates_of(quality) as f64;
                let label = Some(("quality", quality.as_str()));
                self.gauge(&format!("{PREFIX}templates"), labels, label, count);
            }
        }
    }

    fn tallies<V: Vocabulary>(
        &mut self,
        last: &str,
        total: &str,
        label: &str,
        labels: Labels<'_>,
        tallies: impl Iterator<Item = (V, Tally)>,
    ) {
        for (value, tally) in tallies {
            let label = Some((label, value.name()));
            let name = format!("whatsapp_business_account_{total}");
            self.counter(&name, labels, label, tally.total as f64);
            if let Some(at) = tally.last {
                let name = format!("whatsapp_business_account_{last}_timestamp_seconds");
                self.gauge(&name, labels, label, at.as_seconds());
            }
        }
    }

    fn gauge(&mut self, name: &str, labels: Labels<'_>, label: Option<(&str, &str)>, value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        self.metric(name, MetricType::GAUGE, labels, label)
            .set_gauge(gauge);
    }

    fn counter(&mut self, name: &str, labels: Labels<'_>, label: Option<(&str, &str)>, value: f64) {
        let mut counter = Counter::default();
        counter.set_value(value);
        self.metric(name, MetricType::COUNTER, labels, label)
            .set_counter(counter);
    }

    fn metric(
        &mut self,
        name: &str,
        kind: MetricType,
        labels: Labels<'_>,
        label: Option<(&str, &str)>,
    ) -> &mut Metric {
        let pair = |(name, value): &(&str, &str)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        };
        let (_, metrics) = self
            .0
            .entry(name.to_owned())
            .or_insert_with(|| (kind, Vec::new()));
        metrics.push(Metric::from_label(
            labels.iter().chain(&label).map(pair).collect(),
        ));
        metrics.last_mut().unwrap()
    }

    fn text(self) -> String {
        let family = |(name, (kind, metrics)): (String, (MetricType, Vec<Metric>))| {
            let mut family = MetricFamily::default();
            family.set_name(name);
            family.set_help("?".into());
            family.set_field_type(kind);
            family.set_metric(metrics);
            family
        };
        let mut page = Vec::new();
        let families: Vec<MetricFamily> = self.0.into_iter().map(family).collect();
        TextEncoder::new().encode(&families, &mut page).unwrap();
        String::from_utf8(page).unwrap()
    }
}
