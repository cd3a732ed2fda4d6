//! Replicas that share a real etcd: whatever happens to them, to its members and to the network
//! between, all of them come to show the same, nothing that was answered 200 is lost, and nothing
//! counts twice.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, TcpListener},
    ops::Range,
    path::Path,
    process::{Child, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use rcgen::SanType;
use serde_json::json;
use whatsapp_quality_exporter::{
    domain::{MessagingLimit, PhoneNumber, Timestamp, WabaId},
    providers::{self, Delivery, Message, Provider, Sample, SampleKind},
};

use crate::{
    crash::{Connection, SECRET, body_of, counted, counts, random},
    etcd_cluster::{Cluster, bare_command, etcdctl, spawn},
    law::LAWFUL,
    link::Link,
    support::{Exporter, command, finish, own_address, request, sign, wait_for},
    tls::Certificates,
};

const PREFIX: &str = "/whatsapp-quality-exporter/";
const BEGINNING: i64 = 1_700_000_000;

/// Replicas on one cluster. A replica that was killed has another address when it is started again.
struct Replicas {
    all: Vec<Exporter>,
    /// Where a load balancer sends to.
    addresses: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Replicas {
    fn start(number: usize, endpoints: &[String]) -> Self {
        Self::start_on((0..number).map(|_| endpoints.to_vec()).collect())
    }

    /// Starts a replica for each list of endpoints.
    fn start_on(endpoints: Vec<Vec<String>>) -> Self {
        let all: Vec<_> = endpoints.iter().map(|endpoints| start(endpoints)).collect();
        let addresses = all.iter().map(|replica| replica.webhook).collect();
        Self {
            all,
            addresses: Arc::new(Mutex::new(addresses)),
        }
    }

    /// Waits until all show the same page of numbers and accounts.
    fn wait_until_they_agree(&self) {
        wait_for("the replicas to agree", || {
            let pages: Vec<_> = self.all.iter().map(page).collect();
            pages.iter().all(|page| *page == pages[0])
        });
    }

    /// Waits until all show exactly these webhooks of [`body_of`], and returns how many of them are
    /// lost and how many counted twice, on whichever replica.
    fn wait_until_they_show(&self, webhooks: usize) -> [usize; 2] {
        let expected = counts(|webhook| webhook < webhooks);
        let deadline = Instant::now() + Duration::from_secs(120);
        let mut wrong = [0, 0];
        for replica in &self.all {
            let wrong_now = || {
                let shown = counted(&replica.samples());
                [surplus(&expected, &shown), surplus(&shown, &expected)]
            };
            let mut of_replica = wrong_now();
            while of_replica != [0, 0] && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(50));
                of_replica = wrong_now();
            }
            wrong = [wrong[0] + of_replica[0], wrong[1] + of_replica[1]];
        }
        wrong
    }

    /// Kills a replica; nothing is sent to it any more.
    fn kill(&mut self, number: usize) {
        self.leave_out(number);
        self.all[number].end("KILL");
    }

    /// Starts a replica again that was killed.
    fn restart(&mut self, number: usize) {
        let replica = self.all[number].start_again();
        self.addresses.lock().unwrap().push(replica.webhook);
        self.all[number] = replica;
    }

    /// What a load balancer does with a replica that is not healthy.
    fn leave_out(&self, number: usize) {
        let address = self.all[number].webhook;
        self.addresses
            .lock()
            .unwrap()
            .retain(|known| *known != address);
    }

    fn take_in(&self, number: usize) {
        let address = self.all[number].webhook;
        self.addresses.lock().unwrap().push(address);
    }
}

/// How many events are in the first and not in the second.
fn surplus(
    of: &BTreeMap<(String, String), usize>,
    over: &BTreeMap<(String, String), usize>,
) -> usize {
    let over = |key| over.get(key).copied().unwrap_or_default();
    let each = of
        .iter()
        .map(|(key, count)| count.saturating_sub(over(key)));
    each.sum()
}

fn start(endpoints: &[String]) -> Exporter {
    let endpoints = format!("--storage.etcd.endpoints={}", endpoints.join(","));
    let timeout = "--storage.etcd.request-timeout=1s";
    let drain = "--web.drain-delay=2s";
    Exporter::start_with(
        Path::new("/nonexistent"),
        &[&endpoints, timeout, drain],
        &[("WHATSAPP_EXPORTER_META_APP_SECRET", SECRET)],
    )
}

/// The lines of numbers and accounts.
fn page(exporter: &Exporter) -> Vec<String> {
    let page = exporter.get("/metrics").text().to_owned();
    let lines = page.lines().filter(|line| {
        line.starts_with("whatsapp_phone_number_") || line.starts_with("whatsapp_business_account_")
    });
    lines.map(str::to_owned).collect()
}

/// Sends webhooks of [`body_of`] until each is answered 200, as a load balancer and a provider that
/// repeats would: where one replica does not take it, the next one gets it.
struct Load<'a> {
    addresses: Arc<Mutex<Vec<SocketAddr>>>,
    answered: &'a AtomicUsize,
    refused: &'a AtomicUsize,
}

const SENDERS: usize = 24;

impl Load<'_> {
    fn send(&self, webhooks: Range<usize>) {
        thread::scope(|scope| {
            for sender in 0..SENDERS {
                let webhooks = webhooks.clone();
                scope.spawn(move || {
                    let mut open: BTreeMap<SocketAddr, Connection> = BTreeMap::new();
                    for webhook in webhooks.skip(sender).step_by(SENDERS) {
                        self.deliver(&mut open, sender, webhook);
                    }
                });
            }
        });
    }

    fn deliver(&self, open: &mut BTreeMap<SocketAddr, Connection>, sender: usize, webhook: usize) {
        let body = body_of(webhook);
        let mut attempt = sender + webhook;
        wait_for("a webhook to be taken", || {
            let addresses = self.addresses.lock().unwrap().clone();
            let address = addresses[attempt % addresses.len()];
            attempt += 1;
            let connection = match open.remove(&address) {
                Some(connection) => Ok(connection),
                None => Connection::open(address),
            };
            let answer = connection.and_then(|mut connection| {
                let answer = connection.send_body(&body)?;
                open.insert(address, connection);
                Ok(answer)
            });
            let is_taken = answer.is_ok_and(|answer| answer.status == 200);
            match is_taken {
                true => self.answered.fetch_add(1, SeqCst),
                false => self.refused.fetch_add(1, SeqCst),
            };
            is_taken
        });
    }
}

/// Webhooks in one part of a test.
const PART: usize = 1_200;

/// The parts of a test that are sent one after the other, each while something goes wrong.
#[derive(Default)]
struct Parts {
    answered: AtomicUsize,
    refused: AtomicUsize,
    sent: usize,
    /// What went wrong, answers other than 200, and what is lost and counted twice.
    rows: Vec<(&'static str, usize, [usize; 2])>,
}

impl Parts {
    /// Sends a part; `wrong` happens when a fourth is answered and is undone by what it returns
    /// when half is.
    fn send<W>(
        &mut self,
        what: &'static str,
        replicas: &mut Replicas,
        wrong: impl FnOnce(&mut Replicas) -> W,
        right: impl FnOnce(&mut Replicas, W),
    ) {
        let first = self.sent;
        self.sent += PART;
        let refused_before = self.refused.load(SeqCst);
        let load = Load {
            addresses: Arc::clone(&replicas.addresses),
            answered: &self.answered,
            refused: &self.refused,
        };
        let reached = |share: usize| {
            wait_for("webhooks to be answered", || {
                self.answered.load(SeqCst) >= first + share
            });
        };
        thread::scope(|scope| {
            scope.spawn(|| load.send(first..first + PART));
            reached(PART / 4);
            let state = wrong(replicas);
            reached(PART / 2);
            right(replicas, state);
        });
        assert_eq!(self.answered.load(SeqCst), self.sent);
        let wrong = replicas.wait_until_they_show(self.sent);
        let refused = self.refused.load(SeqCst) - refused_before;
        self.rows.push((what, refused, wrong));
        if wrong == [0, 0] {
            replicas.wait_until_they_agree();
        }
    }

    /// Prints a row for each part, and fails where something is lost or counted twice.
    fn end(&self) {
        for (what, refused, [lost, twice]) in &self.rows {
            println!("| {what} | {PART} | {refused} | {lost} | {twice} |");
        }
        let is_right = |(_, _, wrong): &(_, _, [usize; 2])| *wrong == [0, 0];
        assert!(self.rows.iter().all(is_right));
    }
}

#[test]
fn replicas_agree_with_one_another_and_with_an_exporter_alone() {
    let cluster = Cluster::start(3);
    let replicas = Replicas::start(3, &cluster.endpoints());
    let folder = tempfile::tempdir().unwrap();
    let alone = Exporter::start(folder.path(), &[]);
    let mut deliveries = Vec::new();
    for provider in providers::ALL {
        for number in 0..3 {
            for (index, (_, kind)) in SampleKind::all().into_iter().enumerate() {
                let limit = ["250", "1K", "10K", "100K"][(index + number) % 4];
                let message = provider.write(&Sample {
                    waba_id: WabaId::parse(&format!("1000{}", number % 2)).unwrap(),
                    phone_number: kind
                        .is_of_a_number()
                        .then(|| PhoneNumber::parse(&format!("1555078388{number}")).unwrap()),
                    kind,
                    old_limit: None,
                    limit: MessagingLimit::parse(limit),
                    at: Timestamp::from_unix_seconds(
                        BEGINNING + (deliveries.len() as i64 * 7_919) % 100_003,
                    )
                    .unwrap(),
                });
                if let Some(message) = message {
                    deliveries.push((provider, message));
                }
            }
        }
    }
    let timed: Vec<_> = providers::ALL
        .iter()
        .filter(|provider| {
            let mut own = deliveries.iter().filter(|(of, _)| of.name == provider.name);
            own.all(|(provider, message)| has_time(provider, message))
        })
        .map(|provider| format!("provider=\"{}\"", provider.name))
        .collect();
    assert!(timed.len() >= 6, "{timed:?}");

    // Each comes twice, in any order, at whatever replica.
    let mut order: Vec<_> = (0..2 * deliveries.len()).collect();
    order.sort_by_key(|arrival| random(7, *arrival as u64));
    thread::scope(|scope| {
        for sender in 0..12 {
            let (order, deliveries, replicas) = (&order, &deliveries, &replicas);
            scope.spawn(move || {
                for arrival in order.iter().skip(sender).step_by(12) {
                    let replica = &replicas.all[*arrival % 3];
                    let (provider, message) = &deliveries[*arrival % deliveries.len()];
                    post(replica.webhook, provider, message);
                }
            });
        }
    });
    for arrival in &order {
        let (provider, message) = &deliveries[*arrival % deliveries.len()];
        post(alone.webhook, provider, message);
    }
    replicas.wait_until_they_agree();

    let is_lawful = |line: &&String| {
        let name = line.split('{').next().unwrap();
        LAWFUL.contains(&name)
            && timed
                .iter()
                .any(|provider| line.contains(provider.as_str()))
    };
    let alone = page(&alone);
    let alone: Vec<_> = alone.iter().filter(is_lawful).collect();
    assert!(alone.len() > 500, "{}", alone.len());
    for replica in &replicas.all {
        let shown = page(replica);
        let shown: Vec<_> = shown.iter().filter(is_lawful).collect();
        assert_eq!(shown, alone);
    }
    println!(
        "{} deliveries of {} providers, each twice, over 3 replicas: {} lines agree",
        deliveries.len(),
        providers::ALL.len(),
        alone.len()
    );
}

/// Whether a provider says when what this tells happened.
fn has_time(provider: &Provider, message: &Message) -> bool {
    let (method, query, body) = parts(message);
    let delivery = Delivery {
        method: &method.parse().unwrap(),
        query: &query,
        content_type: b"application/json",
        body: body.as_bytes(),
    };
    let parsed = provider.parse(&delivery).unwrap();
    parsed.changes.iter().all(|change| change.time.is_some())
}

fn parts(message: &Message) -> (&'static str, String, String) {
    match message {
        Message::Query(query) => ("GET", query.clone(), String::new()),
        Message::Json(json) => ("POST", String::new(), json.to_string()),
    }
}

fn post(address: SocketAddr, provider: &Provider, message: &Message) {
    let (method, query, body) = parts(message);
    let path = match query.as_str() {
        "" => format!("/webhooks/{}", provider.name),
        query => format!("/webhooks/{}?{query}", provider.name),
    };
    let mut headers = vec![("Content-Type", "application/json".to_owned())];
    if provider.name.as_str() == "meta" {
        let signature = sign(SECRET, body.as_bytes());
        headers.push(("X-Hub-Signature-256", signature));
    }
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let answer = request(address, method, &path, &headers, body.as_bytes()).unwrap();
    assert_eq!(answer.status, 200, "{}: {}", provider.name, answer.text());
}

#[test]
fn nothing_is_lost_or_counted_twice_whatever_fails() {
    let mut cluster = Cluster::start(3);
    // Each replica has its own way to each member.
    let links: Vec<Vec<Link>> = (0..3)
        .map(|_| {
            let link = |member| Link::start(own_address(), cluster.link(member).address);
            (0..3).map(link).collect()
        })
        .collect();
    let endpoint = |link: &Link| format!("http://{}", link.address);
    let endpoints = links
        .iter()
        .map(|links| links.iter().map(endpoint).collect());
    let mut replicas = Replicas::start_on(endpoints.collect());
    let mut parts = Parts::default();
    let shared = RefCell::new(&mut cluster);

    parts.send("nothing", &mut replicas, |_| {}, |_, ()| {});
    parts.send(
        "the leader of etcd is killed",
        &mut replicas,
        |_| {
            let leader = shared.borrow().leader();
            shared.borrow_mut().kill(leader);
            leader
        },
        |_, leader| shared.borrow_mut().restart(leader),
    );
    shared.borrow_mut().wait_until_healthy();
    parts.send(
        "a replica is killed",
        &mut replicas,
        |replicas| replicas.kill(1),
        |replicas, ()| replicas.restart(1),
    );
    parts.send(
        "a replica is stopped by SIGTERM",
        &mut replicas,
        |replicas| {
            replicas.all[1].signal("TERM");
            wait_for("the replica not to be ready", || {
                replicas.all[1].get("/-/ready").status == 503
            });
            replicas.leave_out(1);
            assert!(replicas.all[1].wait().success());
        },
        |replicas, ()| replicas.restart(1),
    );
    // Its load balancer had time to notice.
    assert_eq!(parts.rows.last().unwrap().1, 0);
    parts.send(
        "the leader of etcd is frozen and thawed",
        &mut replicas,
        |_| {
            let leader = shared.borrow().leader();
            shared.borrow_mut().freeze(leader);
            leader
        },
        |_, leader| shared.borrow_mut().thaw(leader),
    );
    shared.borrow_mut().wait_until_healthy();
    let refused = &AtomicUsize::new(0);
    parts.send(
        "two members are down for a while",
        &mut replicas,
        |replicas| {
            shared.borrow_mut().kill(0);
            shared.borrow_mut().kill(1);
            // Nothing can be stored: every replica says so.
            for replica in &replicas.all {
                wait_for("a replica to say that it stores nothing", || {
                    replica.get("/-/ready").status == 503
                });
                refused.fetch_add(1, SeqCst);
            }
            shared.borrow_mut().restart(0);
        },
        |_, ()| shared.borrow_mut().restart(1),
    );
    assert_eq!(refused.load(SeqCst), 3);
    shared.borrow_mut().wait_until_healthy();
    parts.send(
        "a replica is cut off from etcd",
        &mut replicas,
        |replicas| {
            links[2].iter().for_each(Link::cut);
            wait_for("the replica to say that it stores nothing", || {
                replicas.all[2].get("/-/ready").status == 503
            });
        },
        |replicas, ()| {
            links[2].iter().for_each(Link::mend);
            wait_for("the replica to be ready again", || {
                replicas.all[2].get("/-/ready").status == 200
            });
        },
    );
    parts.send(
        "the leader of etcd is cut off from the other members",
        &mut replicas,
        |_| {
            let leader = shared.borrow().leader();
            shared.borrow_mut().isolate(leader);
            leader
        },
        |_, leader| shared.borrow_mut().mend(leader),
    );
    shared.borrow_mut().wait_until_healthy();
    parts.send(
        "etcd is compacted while a replica stands still",
        &mut replicas,
        |replicas| {
            replicas.leave_out(0);
            replicas.all[0].signal("STOP");
        },
        |replicas, ()| {
            shared.borrow().compact();
            replicas.all[0].signal("CONT");
            replicas.take_in(0);
        },
    );
    parts.end();
}

#[test]
fn replicas_put_back_what_a_restored_cluster_has_lost() {
    let mut cluster = Cluster::start(3);
    let mut replicas = Replicas::start(3, &cluster.endpoints());
    let mut parts = Parts::default();
    parts.send("nothing", &mut replicas, |_| {}, |_, ()| {});
    let folder = tempfile::tempdir().unwrap();
    let snapshot = folder.path().join("snapshot");
    cluster.save(&snapshot);
    parts.send("nothing", &mut replicas, |_| {}, |_, ()| {});
    cluster.restore(&snapshot);
    // The next part is taken while they still find out.
    parts.send(
        "an older state was restored",
        &mut replicas,
        |_| {},
        |_, ()| {},
    );
    // One that begins now knows only what etcd has.
    let new = Replicas::start(1, &cluster.endpoints());
    assert_eq!(new.wait_until_they_show(parts.sent), [0, 0]);
    parts.end();
}

#[test]
fn one_number_that_all_replicas_fight_for_counts_each_event_once() {
    let cluster = Cluster::start(3);
    let replicas = Replicas::start(3, &cluster.endpoints());
    let body = |event: usize| {
        let value = json!({"display_phone_number": "15550783881", "event": "DOWNGRADE",
            "current_limit": "TIER_1K"});
        let changes = json!([{"field": "phone_number_quality_update", "value": value}]);
        let entry = json!([{"id": "1", "time": BEGINNING + event as i64, "changes": changes}]);
        json!({"object": "whatsapp_business_account", "entry": entry}).to_string()
    };
    const EVENTS: usize = 300;
    let rounds = EVENTS / 10;
    for round in 0..rounds {
        // Ten at a time, each at all replicas at once, so that all are within the window.
        thread::scope(|scope| {
            for replica in &replicas.all {
                for event in 0..10 {
                    let body = body(round * 10 + event);
                    scope.spawn(move || {
                        let mut connection = Connection::open(replica.webhook).unwrap();
                        wait_for("an event to be taken", || {
                            connection.send_body(&body).unwrap().status == 200
                        });
                    });
                }
            }
        });
    }
    replicas.wait_until_they_agree();
    for replica in &replicas.all {
        let labels = [("phone_number", "15550783881"), ("event", "DOWNGRADE")];
        let name = "whatsapp_phone_number_quality_events_total";
        assert_eq!(replica.value(name, &labels), Some(EVENTS as f64));
    }
}

#[test]
fn new_number_never_keeps_the_limit_from_before_its_accounts_fall() {
    let cluster = Cluster::start(3);
    let replicas = Replicas::start(3, &cluster.endpoints());
    const RACES: usize = 1_000;
    let capability = |account: usize, limit: &str, second: i64| {
        let value = json!({"max_daily_conversations_per_business": limit});
        let changes = json!([{"field": "business_capability_update", "value": value}]);
        let entry =
            json!([{"id": format!("9{account}"), "time": BEGINNING + second, "changes": changes}]);
        json!({"object": "whatsapp_business_account", "entry": entry}).to_string()
    };
    let number = |account: usize| {
        let value =
            json!({"display_phone_number": format!("1555{account:07}"), "event": "UNFLAGGED"});
        let changes = json!([{"field": "phone_number_quality_update", "value": value}]);
        let entry = json!([{"id": format!("9{account}"), "time": BEGINNING, "changes": changes}]);
        json!({"object": "whatsapp_business_account", "entry": entry}).to_string()
    };
    let send = |connection: &mut Connection, body: &str| {
        wait_for("a webhook to be taken", || {
            connection.send_body(body).unwrap().status == 200
        });
    };
    let [first, second, _] = &replicas.all[..] else {
        unreachable!()
    };
    let mut connection = Connection::open(first.webhook).unwrap();
    for account in 0..RACES {
        send(&mut connection, &capability(account, "TIER_10K", 1));
    }
    replicas.wait_until_they_agree();
    // Both go through the accounts in the same order, and wait for each other at each.
    let barrier = std::sync::Barrier::new(2);
    let go = |address, body: &(dyn Fn(usize) -> String + Sync)| {
        let mut connection = Connection::open(address).unwrap();
        for account in 0..RACES {
            barrier.wait();
            send(&mut connection, &body(account));
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| go(first.webhook, &|account| capability(account, "TIER_1K", 2)));
        scope.spawn(|| go(second.webhook, &number));
    });
    replicas.wait_until_they_agree();
    for replica in &replicas.all {
        let samples = replica.samples();
        let limits: Vec<_> = samples
            .iter()
            .filter(|sample| sample.name == "whatsapp_phone_number_messaging_limit")
            .collect();
        assert_eq!(limits.len(), RACES);
        let kept: Vec<_> = limits
            .iter()
            .filter(|sample| sample.value != 1_000.0)
            .collect();
        assert!(kept.is_empty(), "{kept:?}");
    }
}

#[test]
fn document_of_a_newer_version_is_left_as_it_is() {
    let cluster = Cluster::start(1);
    let endpoints = cluster.endpoints();
    let replicas = Replicas::start(2, &endpoints);
    let event = |number: &str, second: i64| {
        let value = json!({"display_phone_number": number, "event": "DOWNGRADE", "current_limit": "TIER_1K"});
        let changes = json!([{"field": "phone_number_quality_update", "value": value}]);
        let entry = json!([{"id": "1", "time": BEGINNING + second, "changes": changes}]);
        json!({"object": "whatsapp_business_account", "entry": entry}).to_string()
    };
    let [first, second] = &replicas.all[..] else {
        unreachable!()
    };
    let status = |replica: &Exporter, body: &str| {
        let mut connection = Connection::open(replica.webhook).unwrap();
        connection.send_body(body).unwrap().status
    };
    assert_eq!(status(first, &event("15550000001", 1)), 200);
    assert_eq!(status(first, &event("15550000002", 1)), 200);
    replicas.wait_until_they_agree();
    let before = page(second);

    let key = format!("{PREFIX}[\"number\",\"meta\",\"1\",\"15550000001\"]");
    let newer = r#"{"version":2,"record":{"limit":"of another form"}}"#;
    etcdctl(&endpoints, &["put", &key, newer]).unwrap();
    for replica in [first, second] {
        wait_for("a replica to meet the document", || {
            replica.log().contains("cannot be read")
        });
        assert_eq!(status(replica, &event("15550000001", 2)), 503);
        assert_eq!(status(replica, &event("15550000002", 1)), 200);
        assert_eq!(page(replica), before);
    }
    let stored = etcdctl(&endpoints, &["get", &key, "--print-value-only"]).unwrap();
    assert_eq!(stored.trim_end(), newer);
    // A replica that begins now has never known the number.
    let new = start(&endpoints);
    assert_eq!(status(&new, &event("15550000001", 2)), 503);
    assert_eq!(status(&new, &event("15550000002", 1)), 200);
}

#[test]
fn numbers_are_imported_beside_replicas_and_copied_between_storages() {
    let cluster = Cluster::start(3);
    let endpoints = cluster.endpoints();
    let replicas = Replicas::start(2, &endpoints);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let flag = format!("--storage.etcd.endpoints={}", endpoints.join(","));
    let run = |arguments: &[&str]| {
        let mut command = command();
        command.args(arguments);
        let output = finish(command);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code(),
            text(&output.stdout) + &text(&output.stderr),
        )
    };
    let mut rows = String::from("provider,waba_id,phone_number,name,messaging_limit\n");
    for number in 0..500 {
        rows.push_str(&format!("meta,1,1555{number:07},Number {number},10000\n"));
    }
    std::fs::write(path("numbers.csv"), &rows).unwrap();
    let imported = run(&["import", &flag, &path("numbers.csv")]);
    assert_eq!(imported, (Some(0), "500 numbers imported\n".into()));
    wait_for("the replicas to show the names", || {
        let has_names = |page: &Vec<String>| {
            page.iter()
                .filter(|line| line.contains("name=\"Number "))
                .count()
                == 500
        };
        replicas.all.iter().map(page).all(|page| has_names(&page))
    });
    let exported = run(&["export", &flag, &path("exported.csv")]);
    assert_eq!(exported.0, Some(0), "{exported:?}");
    assert_eq!(std::fs::read_to_string(path("exported.csv")).unwrap(), rows);

    let members = endpoints.join(",").replace("http://", "");
    let copy = |from: &str, to: &str| run(&["storage", "copy", "--from", from, "--to", to]);
    let etcd = format!("etcd://{members}");
    let other = format!("etcd://{members}/other/");
    let database = format!("sqlite:{}", path("data"));
    let copied = (Some(0), "500 records copied\n".into());
    assert_eq!(copy(&etcd, &database), copied);
    assert_eq!(copy(&database, &other), copied);
    let again = format!("--storage.path={}", path("data"));
    let exported = run(&["export", &again, &path("of-database.csv")]);
    assert_eq!(exported.0, Some(0), "{exported:?}");
    assert_eq!(
        std::fs::read_to_string(path("of-database.csv")).unwrap(),
        rows
    );
    // Neither is empty now.
    for (from, to) in [(&etcd, &database), (&database, &other)] {
        let (code, said) = copy(from, to);
        assert_eq!(code, Some(1));
        assert!(
            said.contains("not empty") || said.contains("below the prefix"),
            "{said}"
        );
    }
    let (code, said) = copy("sqlite:", &etcd);
    assert_eq!(code, Some(2), "{said}");
}

#[test]
fn replica_begins_before_etcd_and_goes_on_when_it_is_there() {
    let mut cluster = Cluster::start(1);
    let link = Link::start(own_address(), cluster.link(0).address);
    cluster.kill(0);
    let variables = [
        ("ENDPOINTS", format!("http://{}", link.address)),
        ("REQUEST_TIMEOUT", "1s".into()),
    ];
    let variables =
        variables.map(|(name, value)| (format!("WHATSAPP_EXPORTER_STORAGE_ETCD_{name}"), value));
    let replica = Exporter::begin(Path::new("/nonexistent"), variables.to_vec());
    wait_for("the log to say that etcd is not there", || {
        replica.log().contains("etcd cannot be followed")
    });
    assert_eq!(replica.get("/-/ready").status, 503);
    assert_eq!(replica.get("/metrics").status, 503);
    assert_eq!(replica.get("/-/healthy").status, 200);
    cluster.restart(0);
    wait_for("the replica to be ready", || {
        replica.get("/-/ready").status == 200
    });
}

#[test]
fn replica_reaches_etcd_by_tls_with_a_certificate_and_as_a_user() {
    let files = Certificates::new();
    let own = own_address();
    let port = || TcpListener::bind((own, 0)).unwrap();
    let ports = [port(), port()];
    let [client, peer] = ports.each_ref().map(|port| port.local_addr().unwrap());
    drop(ports);
    files.issue("etcd", |params| {
        let address = SanType::IpAddress(IpAddr::V4(own));
        params.subject_alt_names.push(address);
    });
    files.issue("exporter", |_| {});
    let path = |name: &str| files.path(name).display().to_string();
    let url = format!("https://{client}");
    let mut server = bare_command("setpriv");
    server
        .args([
            "--pdeathsig=KILL",
            "etcd",
            "--logger=zap",
            "--client-cert-auth",
        ])
        .arg(format!("--data-dir={}", path("data")))
        .arg(format!("--listen-client-urls={url}"))
        .arg(format!("--advertise-client-urls={url}"))
        .arg(format!("--listen-peer-urls=http://{peer}"))
        .arg(format!("--initial-advertise-peer-urls=http://{peer}"))
        .arg(format!("--initial-cluster=default=http://{peer}"))
        .arg(format!("--trusted-ca-file={}", path("ca.pem")))
        .arg(format!("--cert-file={}", path("etcd.pem")))
        .arg(format!("--key-file={}", path("etcd.key")))
        .stderr(Stdio::null());
    let server = Ended(spawn(server));
    let authority = format!("--cacert={}", path("ca.pem"));
    let certificate = format!("--cert={}", path("exporter.pem"));
    let key = format!("--key={}", path("exporter.key"));
    let control = |arguments: &[&str]| {
        let tls = [authority.as_str(), &certificate, &key];
        etcdctl(std::slice::from_ref(&url), &[&tls[..], arguments].concat())
    };
    wait_for("etcd to answer", || {
        control(&["endpoint", "health"]).is_ok()
    });
    for arguments in [
        &["user", "add", "root:the password of root"][..],
        &["user", "grant-role", "root", "root"],
        &["role", "add", "exporter"],
        &[
            "role",
            "grant-permission",
            "exporter",
            "readwrite",
            PREFIX,
            "--prefix=true",
        ],
        &["user", "add", "exporter:its password"],
        &["user", "grant-role", "exporter", "exporter"],
        &["auth", "enable"],
    ] {
        if let Err(error) = control(arguments) {
            // The role of root is there only once authentication is on.
            assert!(error.contains("role"), "{arguments:?}: {error}");
        }
    }
    files.write("username", "exporter\n");
    files.write("password", "its password\n");
    files.write("wrong", "another password\n");
    let flags = |password: &str| {
        [
            ("endpoints", url.clone()),
            ("ca-file", path("ca.pem")),
            ("cert-file", path("exporter.pem")),
            ("key-file", path("exporter.key")),
            ("username-file", path("username")),
            ("password-file", path(password)),
        ]
        .map(|(name, value)| format!("--storage.etcd.{name}={value}"))
    };
    let start = |password: &str| {
        let flags = flags(password);
        let flags: Vec<_> = flags.iter().map(String::as_str).collect();
        let secret = ("WHATSAPP_EXPORTER_META_APP_SECRET", SECRET);
        Exporter::start_with(Path::new("/nonexistent"), &flags, &[secret])
    };
    let replica = start("password");
    let mut connection = Connection::open(replica.webhook).unwrap();
    assert_eq!(connection.send_body(&body_of(1)).unwrap().status, 200);
    let other = start("password");
    assert_eq!(page(&other), page(&replica));

    let mut check = command();
    check
        .args(["check", "--webhook.allow-unauthenticated=meta"])
        .args([
            "--web.listen-address=127.0.0.1:0",
            "--webhook.listen-address=127.0.0.1:0",
        ])
        .args(flags("wrong"));
    let output = finish(check);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("etcd"), "{said}");
    assert!(!said.contains("another password"), "{said}");
    drop(server);
}

/// A process that ends with this value.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
