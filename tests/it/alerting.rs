//! The whole chain on the real programs: a webhook in, a notification out.
//!
//! Exporter, Prometheus, Alertmanager and a receiver, with the rules and the configuration that are
//! shipped; only addresses and the waits that group notifications are others.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::{Arc, Mutex},
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::{
    dashboards,
    support::{Exporter, Server, command, fixture, request, wait_for},
};

#[test]
fn a_downgrade_is_notified_once_and_what_follows_from_it_is_not() {
    let chain = Chain::start();

    // Two numbers of one account are flagged, and then their limit falls.
    for number in ["15550100001", "15550100002"] {
        chain.quality(
            "1",
            number,
            json!({"event": "FLAGGED", "current_limit": "TIER_10K"}),
        );
    }
    chain.wait_until_scraped("15550100002", 10_000.0);
    for number in ["15550100001", "15550100002"] {
        chain.quality(
            "1",
            number,
            json!({"event": "FLAGGED", "current_limit": "TIER_1K"}),
        );
    }
    let first = chain.notification("WhatsAppPhoneNumberDowngraded", "1");
    println!("{first:#}");
    let texts = descriptions(&first);
    assert_eq!(
        texts.len(),
        2,
        "one notification for two numbers: {texts:?}"
    );
    for number in ["15550100001", "15550100002"] {
        let text = texts
            .iter()
            .find(|text| text.contains(number))
            .unwrap_or_else(|| panic!("no {number}: {texts:?}"));
        assert!(
            text.ends_with("fell from 10000 to 1000 customers in 24 hours."),
            "{text}"
        );
    }

    // An account falls without any DOWNGRADE event, from unlimited.
    chain.quality(
        "2",
        "15550100003",
        json!({"event": "UPGRADE", "max_daily_conversations_per_business": "TIER_UNLIMITED"}),
    );
    chain.wait_until_scraped("15550100003", f64::INFINITY);
    chain.capability(
        "2",
        json!({"max_daily_conversations_per_business": 2000, "max_phone_numbers_per_waba": 25}),
    );
    let account = chain.notification("WhatsAppBusinessAccountDowngraded", "2");
    assert!(
        descriptions(&account)[0].contains("fell from unlimited to 2000 customers in 24 hours."),
        "{account:#}"
    );

    // A number falls from unlimited, and the first event ever of another is a fall.
    chain.quality(
        "3",
        "15550100004",
        json!({"event": "UPGRADE", "current_limit": "TIER_UNLIMITED"}),
    );
    chain.wait_until_scraped("15550100004", f64::INFINITY);
    chain.quality(
        "3",
        "15550100004",
        json!({"event": "ONBOARDING", "current_limit": "TIER_100K"}),
    );
    let unlimited = chain.notification("WhatsAppPhoneNumberDowngraded", "3");
    assert!(
        descriptions(&unlimited)[0].contains("fell from unlimited to 100000"),
        "{unlimited:#}"
    );
    chain.quality(
        "4",
        "15550100005",
        json!({"event": "DOWNGRADE", "current_limit": "TIER_250", "old_limit": "TIER_1K"}),
    );
    let unknown = chain.notification("WhatsAppPhoneNumberDowngraded", "4");
    assert!(
        descriptions(&unknown)[0].contains("fell from 1000 to 250"),
        "{unknown:#}"
    );

    // What follows from a fall is suppressed: the flags of its numbers, and the numbers of an
    // account that fell.
    for (alert, waba_id) in [
        ("WhatsAppPhoneNumberFlagged", "1"),
        ("WhatsAppPhoneNumberDowngraded", "2"),
    ] {
        wait_for(
            &format!("{alert} of account {waba_id} to be suppressed"),
            || {
                let states = chain.states(alert, waba_id);
                !states.is_empty() && states.iter().all(|state| state == "suppressed")
            },
        );
        assert_eq!(
            chain.received(alert, waba_id).len(),
            0,
            "{alert} of account {waba_id} was notified"
        );
    }

    // A number's own fall after its account's is another fall.
    chain.quality(
        "2",
        "15550100003",
        json!({"event": "DOWNGRADE", "current_limit": "TIER_250"}),
    );
    let own = chain.notification("WhatsAppPhoneNumberDowngraded", "2");
    assert!(
        descriptions(&own)[0].contains("fell from 2000 to 250"),
        "{own:#}"
    );

    chain.bad_news_of_accounts();

    // A restart is no news.
    let before = chain.all_received();
    let chain = chain.kill_exporter_and_restart();
    chain.wait_for_evaluations_after_restart();
    assert_eq!(chain.all_received(), before, "a restart notified something");

    // Another fall of a number that fell is.
    chain.quality(
        "4",
        "15550100005",
        json!({"event": "DOWNGRADE", "current_limit": "TIER_50"}),
    );
    wait_for("a second fall to be notified", || {
        chain.received("WhatsAppPhoneNumberDowngraded", "4").len() == 2
    });
    let again = &chain.received("WhatsAppPhoneNumberDowngraded", "4")[1];
    assert!(
        descriptions(again)[0].contains("fell from 250 to 50"),
        "{again:#}"
    );

    chain.every_query_of_the_dashboards_returns_data();
    chain.dashboards_and_rules_name_what_is_there();
}

/// Exposed, and on purpose neither drawn nor alerted on.
const UNUSED: &[&str] = &["whatsapp_exporter_config_last_reload_success_timestamp_seconds"];

/// Families that are there with a storage in etcd alone.
const OF_ETCD: [&str; 1] = ["whatsapp_exporter_storage_watch_lag_seconds"];

/// Prometheus' own.
const OF_PROMETHEUS: &[&str] = &[
    "ALERTS",
    "up",
    "scrape_duration_seconds",
    "scrape_samples_scraped",
];

/// The programs, each ended with the test.
struct Chain {
    exporter: Exporter,
    prometheus: Server,
    alertmanager: Server,
    notifications: Arc<Mutex<Vec<Json>>>,
    restarted: f64,
    folder: TempDir,
}

impl Chain {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (receiver, notifications) = receive();
        let verify_token = [("WHATSAPP_EXPORTER_META_VERIFY_TOKEN", "verify")];
        let numbers = "provider,waba_id,phone_number,name\nmeta,9,15550109999,Support\n";
        fs::write(folder.path().join("numbers.csv"), numbers).unwrap();
        let mut import = command();
        import
            .current_dir(folder.path())
            .args(["import", "numbers.csv"]);
        assert!(import.status().unwrap().success());
        let exporter = Exporter::start_with(&folder.path().join("data"), &[], &verify_token);
        let handshake = "/webhooks/meta?hub.mode=subscribe&hub.challenge=7&hub.verify_token=verify";
        assert_eq!(
            request(exporter.webhook, "GET", handshake, &[], b"")
                .unwrap()
                .text(),
            "7"
        );

        let configuration = fixture("../alerts/alertmanager.yml")
            .replace("http://127.0.0.1:9095/", &format!("http://{receiver}/"))
            .replace("group_wait: 30s", "group_wait: 5s")
            .replace("group_interval: 1m", "group_interval: 5s");
        let alertmanager = Server::start(
            "prometheus-alertmanager",
            folder.path(),
            &configuration,
            |command, file, address| {
                command
                    .arg(format!("--config.file={}", file.display()))
                    .arg(format!(
                        "--storage.path={}",
                        file.with_extension("data").display()
                    ))
                    .arg(format!("--web.listen-address={address}"))
                    .arg("--cluster.listen-address=");
            },
        );
        let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("alerts/whatsapp.rules.yml");
        let targets = folder.path().join("targets.json");
        aim(&targets, exporter.web);
        let configuration = json!({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [rules],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager.address]}]}]},
            "scrape_configs": [{"job_name": "whatsapp", "file_sd_configs": [{"files": [targets]}]}],
        });
        let prometheus = Server::prometheus("prometheus", folder.path(), &configuration);
        let chain = Self {
            exporter,
            prometheus,
            alertmanager,
            notifications,
            restarted: 0.0,
            folder,
        };
        wait_for("the exporter to be scraped", || {
            chain.instant("whatsapp_exporter_build_info").is_some()
        });
        chain
    }

    /// A restriction of one account and the ban of another are notified once each; the ban hides the
    /// fall of its account, and not another's news.
    fn bad_news_of_accounts(&self) {
        self.deliver(
            "5",
            "account_update",
            &json!({"event": "ACCOUNT_RESTRICTION", "restriction_info": [
                {"restriction_type": "RESTRICTED_BIZ_INITIATED_MESSAGING", "expiration": now() as u64 + 86_400}]}),
        );
        let restricted = self.notification("WhatsAppBusinessAccountRestricted", "5");
        println!("{restricted:#}");
        let texts = descriptions(&restricted);
        assert_eq!(texts.len(), 1, "{restricted:#}");
        assert!(
            texts[0].contains("RESTRICTED_BIZ_INITIATED_MESSAGING of account 5"),
            "{texts:?}"
        );

        let ban = json!({"event": "DISABLED_UPDATE", "ban_info": {"waba_ban_state": "DISABLE"}});
        self.deliver("6", "account_update", &ban);
        let disabled = self.notification("WhatsAppBusinessAccountDisabled", "6");
        println!("{disabled:#}");
        let texts = descriptions(&disabled);
        assert_eq!(texts.len(), 1, "{disabled:#}");
        assert!(texts[0].contains("account 6 is disabled"), "{texts:?}");
        for limit in [10_000, 2000] {
            self.capability("6", json!({"max_daily_conversations_per_business": limit}));
        }
        wait_for("the fall of the disabled account to be suppressed", || {
            let states = self.states("WhatsAppBusinessAccountDowngraded", "6");
            !states.is_empty() && states.iter().all(|state| state == "suppressed")
        });
        let fall = self.received("WhatsAppBusinessAccountDowngraded", "6");
        assert_eq!(fall.len(), 0, "{fall:#?}");

        for (field, value, alert) in [
            (
                "account_update",
                json!({"event": "ACCOUNT_VIOLATION"}),
                "WhatsAppBusinessAccountViolation",
            ),
            (
                "account_alerts",
                json!({"alert_severity": "CRITICAL"}),
                "WhatsAppBusinessAccountAlert",
            ),
            (
                "message_template_status_update",
                json!({"event": "PAUSED", "message_template_id": 1}),
                "WhatsAppTemplateStopped",
            ),
        ] {
            self.deliver("5", field, &value);
            let notified = self.notification(alert, "5");
            assert!(
                descriptions(&notified)[0].contains("account 5"),
                "{notified:#}"
            );
        }
        let red = json!({"new_quality_score": "RED", "message_template_id": 1});
        self.deliver("5", "message_template_quality_update", &red);
        let rated = json!({"field": "phone_number_quality_update", "wabaId": "7", "event": "FLAGGED",
            "displayPhoneNumber": "15550100007", "qualityRating": "GREEN"});
        let answer = self.exporter.post("/webhooks/nxcloud", &rated.to_string());
        assert_eq!(answer.json()["applied"], 1, "{}", answer.text());
    }

    fn quality(&self, waba_id: &str, number: &str, mut value: Json) {
        value["display_phone_number"] = number.into();
        self.deliver(waba_id, "phone_number_quality_update", &value);
    }

    fn capability(&self, waba_id: &str, value: Json) {
        self.deliver(waba_id, "business_capability_update", &value);
    }

    fn deliver(&self, waba_id: &str, field: &str, value: &Json) {
        let body = json!({"object": "whatsapp_business_account",
            "entry": [{"id": waba_id, "time": now() as u64, "changes": [{"field": field, "value": value}]}]});
        let answer = self.exporter.post("/webhooks/meta", &body.to_string());
        assert_eq!(answer.json()["applied"], 1, "{body}");
    }

    /// A fall is seen by what was scraped before it.
    fn wait_until_scraped(&self, number: &str, limit: f64) {
        let query = format!("whatsapp_phone_number_messaging_limit{{phone_number=\"{number}\"}}");
        wait_for("a limit to be scraped", || {
            self.instant(&query) == Some(limit)
        });
    }

    /// The first notification of an alert of an account.
    fn notification(&self, alert: &str, waba_id: &str) -> Json {
        wait_for(&format!("{alert} of account {waba_id}"), || {
            !self.received(alert, waba_id).is_empty()
        });
        let received = self.received(alert, waba_id);
        assert_eq!(received.len(), 1, "{received:#?}");
        received[0].clone()
    }

    fn received(&self, alert: &str, waba_id: &str) -> Vec<Json> {
        let of = |group: &Json| {
            group["groupLabels"]["alertname"] == alert && group["groupLabels"]["waba_id"] == waba_id
        };
        self.notifications
            .lock()
            .unwrap()
            .iter()
            .filter(|group| of(group))
            .cloned()
            .collect()
    }

    /// What came so far, without the watchdog and without what is resolved.
    fn all_received(&self) -> Vec<Json> {
        let notifications = self.notifications.lock().unwrap();
        let of_interest = |group: &&Json| group["groupLabels"]["alertname"] != "WhatsAppWatchdog";
        notifications
            .iter()
            .filter(of_interest)
            .map(|group| group["groupLabels"].clone())
            .collect()
    }

    /// How Alertmanager treats the alerts of that name.
    fn states(&self, alert: &str, waba_id: &str) -> Vec<String> {
        let alerts = self.alertmanager.get("/api/v2/alerts");
        let of = |found: &&Json| {
            found["labels"]["alertname"] == alert && found["labels"]["waba_id"] == waba_id
        };
        let state = |found: &Json| found["status"]["state"].as_str().unwrap().to_owned();
        alerts
            .as_array()
            .unwrap()
            .iter()
            .filter(of)
            .map(state)
            .collect()
    }

    fn kill_exporter_and_restart(self) -> Self {
        let exporter = self.exporter.kill_and_restart();
        aim(&self.folder.path().join("targets.json"), exporter.web);
        Self {
            exporter,
            restarted: now(),
            ..self
        }
    }

    /// Until Prometheus has scraped the new process, and every rule and group has had its turn
    /// twice.
    fn wait_for_evaluations_after_restart(&self) {
        wait_for("the new process to be scraped", || {
            self.instant("process_start_time_seconds{job=\"whatsapp\"}")
                .is_some_and(|start| start > self.restarted - 10.0)
                && self
                    .instant("timestamp(whatsapp_exporter_build_info)")
                    .is_some_and(|at| at > self.restarted)
        });
        let scraped = now();
        wait_for(
            "the rules to be evaluated, and groups to be flushed, twice",
            || {
                let groups = self.prometheus.get("/api/v1/rules");
                let groups = groups["data"]["groups"].as_array().unwrap();
                let evaluated = |group: &Json| {
                    self.instant_of(group["lastEvaluation"].as_str().unwrap()) > scraped + 12.0
                };
                groups.iter().all(evaluated)
            },
        );
    }

    fn instant_of(&self, time: &str) -> f64 {
        time.parse::<jiff::Timestamp>().unwrap().as_nanosecond() as f64 / 1e9
    }

    /// The value of the first series of an instant query.
    fn instant(&self, query: &str) -> Option<f64> {
        self.query(query)["data"]["result"][0]["value"][1]
            .as_str()
            .map(|value| value.replace("Inf", "inf").parse().unwrap())
    }

    fn query(&self, query: &str) -> Json {
        let form = serde_urlencoded::to_string([("query", query)]).unwrap();
        self.prometheus.get(&format!("/api/v1/query?{form}"))
    }

    fn every_query_of_the_dashboards_returns_data(&self) {
        for (place, expression) in dashboards::queries() {
            let answer = self.query(&expression);
            assert_eq!(
                answer["status"], "success",
                "{place}: {expression}: {answer}"
            );
            assert_ne!(
                answer["data"]["result"],
                json!([]),
                "{place}: no data: {expression}"
            );
        }
        for (place, series, label) in dashboards::variables() {
            let form = serde_urlencoded::to_string([("match[]", &series)]).unwrap();
            let answer = self
                .prometheus
                .get(&format!("/api/v1/label/{label}/values?{form}"));
            assert_ne!(answer["data"], json!([]), "{place}: no values: {series}");
        }
    }

    fn dashboards_and_rules_name_what_is_there(&self) {
        let page = self.exporter.get("/metrics");
        let families = page
            .text()
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "));
        let exposed: BTreeMap<&str, &str> =
            families.filter_map(|line| line.split_once(' ')).collect();
        let is_exposed = |name: &str| {
            let of_histogram = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end));
            exposed.contains_key(name)
                || of_histogram.is_some_and(|family| exposed.get(family) == Some(&"histogram"))
        };
        let rules = fixture("../alerts/whatsapp.rules.yml");
        let expressions = dashboards::queries()
            .into_iter()
            .map(|(_, expression)| expression);
        let used: BTreeSet<String> = expressions
            .chain([rules.clone()])
            .flat_map(|text| names(&text))
            .collect();
        for name in &used {
            assert!(
                is_exposed(name)
                    || OF_PROMETHEUS.contains(&name.as_str())
                    || OF_ETCD.contains(&name.as_str()),
                "{name} is used and not exposed"
            );
        }
        let is_used = |family: &str| {
            used.iter()
                .any(|name| name == family || name.strip_suffix("_bucket") == Some(family))
        };
        for family in exposed
            .keys()
            .filter(|family| family.starts_with("whatsapp_"))
        {
            assert!(
                is_used(family) != UNUSED.contains(family),
                "{family} is exposed; used: {}",
                is_used(family)
            );
        }
    }
}

/// Takes what Alertmanager sends.
pub fn receive() -> (SocketAddr, Arc<Mutex<Vec<Json>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let notifications = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&notifications);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(stream);
            let mut length = 0;
            for line in reader
                .by_ref()
                .lines()
                .map_while(Result::ok)
                .take_while(|line| !line.is_empty())
            {
                if let Some((name, value)) = line.split_once(": ")
                    && name.eq_ignore_ascii_case("content-length")
                {
                    length = value.parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let _ = reader
                .get_mut()
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            sink.lock()
                .unwrap()
                .push(serde_json::from_slice(&body).unwrap());
        }
    });
    (address, notifications)
}

/// Tells Prometheus where the exporter is; its port may change, its name does not.
fn aim(targets: &Path, exporter: SocketAddr) {
    let text = json!([{"targets": [exporter], "labels": {"instance": "exporter"}}]).to_string();
    let written = targets.with_extension("new");
    fs::write(&written, text).unwrap();
    fs::rename(written, targets).unwrap();
}

/// The texts of the alerts that fire.
pub fn descriptions(notification: &Json) -> Vec<String> {
    let alerts = notification["alerts"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|alert| alert["status"] == "firing");
    alerts
        .map(|alert| {
            alert["annotations"]["description"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect()
}

/// The names of metrics in a text of PromQL.
fn names(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let is_metric = |word: &&str| {
        word.starts_with("whatsapp_")
            || word.starts_with("process_")
            || OF_PROMETHEUS.contains(word)
    };
    words.filter(is_metric).map(str::to_owned).collect()
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs_f64()
}
