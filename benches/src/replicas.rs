//! Three replicas on three members of etcd, and what etcd alone takes: members, replicas and senders
//! share the machine, and what is compared alternates in one run.

use std::{
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use etcd_client::{Client, Txn, TxnOp};
use serde_json::json;
use tokio::runtime::{self, Runtime};
use whatsapp_quality_exporter::{
    config::EtcdOptions,
    domain::Timestamp,
    providers::{self, Delivery},
    state::{Fold, Record, Table},
    store::Etcd,
};

use crate::{
    load::{self, EPOCH, Requests},
    process::{EXPORTER, Server, get},
    scrape::GZIP,
    table::{Figure, Page},
};

const NUMBERS: usize = 100_000;
const ROUNDS: usize = 5;
const TIME: Duration = Duration::from_secs(3);
const CONNECTIONS: usize = 128;
/// In a transaction of etcd alone.
const DOCUMENTS: usize = 120;
const PREFIX: &str = "/bench/";

/// A cluster on loopback, ended with this value.
struct Members {
    processes: Vec<Child>,
    endpoints: Vec<String>,
}

impl Members {
    fn start(folder: &Path) -> Self {
        let free = || {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = listener.local_addr().expect("an address");
            (listener, format!("http://{address}"))
        };
        let ports: Vec<_> = (0..3).map(|_| [free(), free()]).collect();
        let urls: Vec<[String; 2]> = ports
            .iter()
            .map(|[client, peer]| [client.1.clone(), peer.1.clone()])
            .collect();
        drop(ports);
        let all = urls.iter().enumerate();
        let all: Vec<_> = all.map(|(n, [_, peer])| format!("m{n}={peer}")).collect();
        let start = |(number, [client, peer]): (usize, &[String; 2])| {
            Command::new("etcd")
                .arg(format!("--name=m{number}"))
                .arg(format!(
                    "--data-dir={}",
                    folder.join(number.to_string()).display()
                ))
                .arg(format!("--listen-client-urls={client}"))
                .arg(format!("--advertise-client-urls={client}"))
                .arg(format!("--listen-peer-urls={peer}"))
                .arg(format!("--initial-advertise-peer-urls={peer}"))
                .arg(format!("--initial-cluster={}", all.join(",")))
                .arg("--quota-backend-bytes=8589934592")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("etcd")
        };
        let processes = urls.iter().enumerate().map(start).collect();
        let endpoints = urls.into_iter().map(|[client, _]| client).collect();
        Self {
            processes,
            endpoints,
        }
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Measures, and prints the tables.
pub fn measure(page: &mut Page) {
    let folder = tempfile::tempdir_in("../target").expect("a folder");
    let members = Members::start(folder.path());
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let client = runtime.block_on(connect(&members.endpoints[0]));
    let records = records();
    let options = EtcdOptions {
        endpoints: members.endpoints.clone(),
        prefix: PREFIX.into(),
        ca_file: None,
        cert_file: None,
        key_file: None,
        username_file: None,
        password_file: None,
        request_timeout: Duration::from_secs(3),
    };
    runtime
        .block_on(Etcd::fill(options, &records, &|| {}))
        .expect("an empty cluster");
    let status = runtime.block_on(async { client.maintenance_client().status().await });
    let filled = status.expect("a status").db_size();
    let replicas: Vec<_> = (0..3)
        .map(|_| {
            let mut command = Command::new(EXPORTER);
            command
                .arg(format!(
                    "--storage.etcd.endpoints={}",
                    members.endpoints.join(",")
                ))
                .arg(format!("--storage.etcd.prefix={PREFIX}"));
            Server::run(command, folder.path(), None)
        })
        .collect();

    sizes(page, filled, &replicas[0]);
    throughput(page, &runtime, &client, &replicas);
    moments(page, &replicas);
}

async fn connect(endpoint: &str) -> Client {
    let began = Instant::now();
    loop {
        let client = Client::connect([endpoint], None).await;
        if let Ok(mut client) = client
            && client.put("/ready", "", None).await.is_ok()
        {
            return client;
        }
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "etcd is not ready"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Numbers as their first webhook makes them.
fn records() -> Vec<Record> {
    let mut fold = Fold::new(Arc::new(Table::default()), usize::MAX);
    let meta = providers::by_name("meta").expect("Meta");
    let mut draft = fold.draft();
    for number in 0..NUMBERS {
        let body = load::webhook(number, EPOCH);
        let delivery = Delivery {
            method: &hyper::Method::POST,
            query: "",
            content_type: b"",
            body: body.as_bytes(),
        };
        let time = Timestamp::from_unix_seconds(EPOCH as i64).expect("a time");
        for change in meta.parse(&delivery).expect("a webhook").changes {
            draft.apply(&change, time);
        }
    }
    draft.batch().records().to_vec()
}

fn throughput(page: &mut Page, runtime: &Runtime, client: &Client, replicas: &[Server]) {
    let mut pages = Figure::default();
    let mut single = Figure::default();
    let mut durable = Figure::default();
    let value = "x".repeat(600);
    let mut sent = 1;
    for _ in 0..ROUNDS {
        pages.add(runtime.block_on(in_pages(client, &value)));
        single.add(runtime.block_on(one_by_one(client, &value)));
        let loads: Vec<_> = replicas
            .iter()
            .map(|replica| {
                sent += 60_000;
                let requests = Requests::webhooks(60_000, NUMBERS, EPOCH + sent);
                let address = replica.address;
                thread::spawn(move || requests.send(address, CONNECTIONS, TIME).per_second)
            })
            .collect();
        let rates = loads.into_iter().map(|load| load.join().expect("a load"));
        durable.add(rates.sum());
    }
    page.table(
        &format!(
            "Three replicas on three members of etcd, {NUMBERS} numbers, {ROUNDS} alternating rounds"
        ),
        &["", "a second, median", "by the first", "by the second"],
    );
    let mut row = |what: &str, figure: &Figure| {
        let [by_pages, by_single] = [figure.by(&pages), figure.by(&single)];
        page.row(&[
            what,
            &format!("{:.0}", figure.median()),
            &by_pages.spread(),
            &by_single.spread(),
        ]);
    };
    row(
        &format!("etcd alone, {DOCUMENTS} documents a transaction, one client, nothing compared"),
        &pages,
    );
    row(
        "etcd alone, one document a transaction, 64 in flight",
        &single,
    );
    row("durable webhooks of the three replicas together", &durable);
}

async fn in_pages(client: &Client, value: &str) -> f64 {
    let mut client = client.clone();
    let began = Instant::now();
    let mut documents = 0;
    while began.elapsed() < TIME {
        let puts: Vec<_> = (0..DOCUMENTS)
            .map(|n| TxnOp::put(format!("/raw/{}", (documents + n) % NUMBERS), value, None))
            .collect();
        let stored = client.txn(Txn::new().and_then(puts)).await;
        stored.expect("a transaction");
        documents += DOCUMENTS;
    }
    documents as f64 / began.elapsed().as_secs_f64()
}

async fn one_by_one(client: &Client, value: &str) -> f64 {
    let began = Instant::now();
    let senders = (0..64).map(|sender| {
        let mut client = client.clone();
        let value = value.to_owned();
        async move {
            let mut documents = 0;
            while began.elapsed() < TIME {
                let key = format!("/raw/{}", (documents * 64 + sender) % NUMBERS);
                let put = TxnOp::put(key, value.clone(), None);
                client
                    .txn(Txn::new().and_then([put]))
                    .await
                    .expect("a transaction");
                documents += 1;
            }
            documents
        }
    });
    let mut running = tokio::task::JoinSet::new();
    senders.for_each(|sender| {
        running.spawn(sender);
    });
    let all: usize = running.join_all().await.into_iter().sum();
    all as f64 / began.elapsed().as_secs_f64()
}

/// What a person waits for.
fn moments(page: &mut Page, replicas: &[Server]) {
    let mut ready = Figure::default();
    replicas
        .iter()
        .for_each(|replica| ready.add(replica.ready.as_secs_f64()));
    let [first, second, _] = replicas else {
        unreachable!()
    };
    let meta = |account: &str, time: u64, changes: serde_json::Value| {
        let entry = json!([{"id": account, "time": time, "changes": changes}]);
        json!({"object": "whatsapp_business_account", "entry": entry}).to_string()
    };
    let change = |number: usize| {
        let value = json!({"display_phone_number": format!("1666{number:07}"), "event": "UPGRADE",
            "current_limit": "TIER_10K"});
        json!({"field": "phone_number_quality_update", "value": value})
    };
    let mut batch = Figure::default();
    let mut portfolio = Figure::default();
    let mut seen = Figure::default();
    for round in 0..ROUNDS {
        let account = format!("77{round}");
        // Ten batches, so that the account has 10,000 numbers.
        for part in 0..10 {
            let changes = (part * 1000..(part + 1) * 1000).map(change).collect();
            let body = meta(&account, EPOCH + 1, changes);
            batch.add(timed(first, body));
        }
        let value = json!({"max_daily_conversations_per_business": "TIER_1K"});
        let changes = json!([{"field": "business_capability_update", "value": value}]);
        portfolio.add(timed(first, meta(&account, EPOCH + 2, changes)));
        let body = meta(&format!("88{round}"), EPOCH + 1, json!([change(round)]));
        let began = Instant::now();
        timed(first, body);
        let path = format!("/numbers/meta/88{round}/1666{round:07}");
        let is_there = |answer: Vec<u8>| answer.starts_with(b"HTTP/1.1 200");
        while !get(second.web, &path, "").is_some_and(is_there) {}
        seen.add(began.elapsed().as_secs_f64());
    }
    page.table("Moments, in seconds", &["", "median", "of all"]);
    let mut row = |what: &str, figure: &Figure| {
        page.row(&[what, &format!("{:.3}", figure.median()), &figure.spread()]);
    };
    row(
        &format!("from start to ready with {NUMBERS} records"),
        &ready,
    );
    row("an answer to 1,000 changes of 1,000 new numbers", &batch);
    row(
        "an answer to a portfolio's limit over 10,000 numbers",
        &portfolio,
    );
    row(
        "from sending a webhook to one replica until its number has a page on another",
        &seen,
    );
}

/// Sends a webhook, and says how long the answer took, in seconds.
fn timed(replica: &Server, body: String) -> f64 {
    let began = Instant::now();
    Requests::signed([body].into_iter()).send(replica.address, 1, Duration::from_secs(60));
    began.elapsed().as_secs_f64()
}

/// What a number with one event takes, in etcd, in a replica and on a page.
fn sizes(page: &mut Page, filled: i64, replica: &Server) {
    let memory = replica.memory("VmRSS");
    let bytes = |headers: &str| get(replica.web, "/metrics", headers).map_or(0, |page| page.len());
    let [compressed, plain] = [GZIP, ""].map(bytes);
    page.table(
        &format!("Sizes, with {NUMBERS} numbers of one event each"),
        &["", "bytes a number"],
    );
    let mut row = |what: &str, bytes: f64| {
        page.row(&[what, &format!("{:.0}", bytes / NUMBERS as f64)]);
    };
    row("etcd's database", filled as f64);
    row(
        "memory of a replica before the first scrape",
        memory * 1024.0,
    );
    row("a scrape, gzip", compressed as f64);
    row("a scrape, plain", plain as f64);
}
