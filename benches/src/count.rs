//! Instructions of one webhook and of one scrape, without sockets: counted by callgrind, they do
//! not wobble.
//!
//! What a program does before and after is the same however often it repeats, and so falls out of a
//! difference.

use std::{env, process::Command, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode};
use secrecy::SecretString;
use tokio::{
    runtime,
    task::{LocalSet, spawn_local},
};
use whatsapp_quality_exporter::{
    config::{Role, Secret, Secrets},
    domain::Timestamp,
    http::{Authenticator, Endpoint, Handler, Operations, Protection, Web, WebOptions, Webhooks},
    ingest,
    providers::{self, Delivery, SecretKind},
    readiness::Readiness,
    state::{Batch, Fold, Table, Update},
    store::{Commit, Sqlite, Store, StoreError},
    telemetry::Telemetry,
};

use crate::{
    load::{self, EPOCH, SECRET},
    table::Page,
};

const NUMBERS: usize = 1000;
const BATCH: usize = 32;

pub fn measure(page: &mut Page) {
    page.table("Instructions, without the kernel's", &["", "thousands"]);
    let one =
        |what, times| (instructions(what, 2 * times) - instructions(what, times)) / times as f64;
    let request = one("request", 2000);
    for (name, instructions) in [
        (
            "a webhook that is alone in its commit",
            one("webhook", 2000) - request,
        ),
        ("a webhook of 32 in a commit", one("batch", 6400) - request),
        (
            "a scrape of 1000 numbers with gzip, nothing changed",
            one("scrape", 200),
        ),
    ] {
        page.row(&[name, &format!("{:.0}", instructions / 1e3)]);
    }
}

fn instructions(what: &str, times: usize) -> f64 {
    let program = env::current_exe().expect("this program");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(["count", what, &times.to_string()])
        .output()
        .expect("valgrind");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    let collected = log
        .lines()
        .find_map(|line| line.split("Collected : ").nth(1))
        .expect("a count");
    collected.trim().parse().expect("a number")
}

/// What is counted: `times` webhooks one after the other or in batches, or scrapes.
pub fn run(what: &str, times: usize) {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        match what {
            "request" => (0..times).map(webhook).for_each(drop),
            "webhook" => webhooks(times, 1).await,
            "batch" => webhooks(times, BATCH).await,
            "scrape" => scrapes(times).await,
            other => panic!("{other} cannot be counted"),
        }
    });
}

async fn webhooks(times: usize, batch: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let telemetry = Arc::new(Telemetry::new().expect("telemetry"));
    let fold = Fold::new(Arc::new(Table::default()), usize::MAX);
    let path = folder.path().to_owned();
    let open = move || Sqlite::open(&path);
    let readiness = Arc::new(Readiness::default());
    let (queue, jobs) = ingest::queue();
    let writer = ingest::start(jobs, fold, open, &readiness, Arc::clone(&telemetry), false);
    let loaded = writer.expect("a thread").loaded().await;
    let writer = loaded.expect("a writer").expect("an empty storage");
    let provider = providers::by_name("meta").expect("Meta");
    let secret = Secret {
        provider: provider.name,
        kind: SecretKind::AppSecret,
        value: SecretString::from(SECRET),
    };
    let secrets = Secrets::from_iter([secret]);
    let authenticator = Authenticator::new(provider, &secrets, &[], &telemetry);
    let endpoints = vec![Endpoint {
        provider,
        authenticator,
    }];
    let protection = Arc::new(Protection::new(Role::Webhook, Arc::default()));
    let webhooks = Webhooks::new(Arc::new(endpoints.into()), queue, telemetry, protection);
    let webhooks = Arc::new(webhooks);
    for begin in (0..times).step_by(batch) {
        let senders: Vec<_> = (begin..begin + batch)
            .map(|index| {
                let webhooks = Arc::clone(&webhooks);
                spawn_local(async move { webhooks.handle(webhook(index)).await.status() })
            })
            .collect();
        for sender in senders {
            assert_eq!(sender.await.expect("an answer"), StatusCode::OK);
        }
    }
    writer.stop().await;
}

fn webhook(index: usize) -> Request<Full<Bytes>> {
    let body = load::webhook(index % NUMBERS, EPOCH + index as u64);
    Request::post("/webhooks/meta")
        .header("host", "x")
        .header("content-type", "application/json")
        .header("x-hub-signature-256", load::signature(&body))
        .body(Full::new(Bytes::from(body)))
        .expect("a request")
}

async fn scrapes(times: usize) {
    let table = Arc::new(Table::default());
    let mut fold = Fold::new(Arc::clone(&table), usize::MAX);
    let meta = providers::by_name("meta").expect("Meta");
    for number in 0..NUMBERS {
        let body = load::webhook(number, EPOCH);
        let delivery = Delivery {
            method: &hyper::Method::POST,
            query: "",
            content_type: b"",
            body: body.as_bytes(),
        };
        let mut draft = fold.draft();
        for change in meta.parse(&delivery).expect("a webhook").changes {
            draft.apply(
                &change,
                Timestamp::from_unix_seconds(EPOCH as i64).expect("a time"),
            );
        }
        let batch = draft.batch();
        draft.publish(&batch);
    }
    let telemetry = Arc::new(Telemetry::new().expect("telemetry"));
    let readiness = Arc::new(Readiness::default());
    let (_queue, jobs) = ingest::queue();
    let writer = ingest::start(
        jobs,
        fold,
        || Ok(Nowhere),
        &readiness,
        Arc::clone(&telemetry),
        false,
    );
    let loaded = writer.expect("a thread").loaded().await;
    let _writer = loaded.expect("a writer").expect("no storage");
    let web = Arc::new(Web::new(
        WebOptions {
            telemetry_path: "/metrics".into(),
            max_requests: 40,
            external_url: None,
        },
        table,
        readiness,
        telemetry,
        Arc::default(),
        Arc::new(Protection::new(Role::Web, Arc::default())),
        Operations::default(),
    ));
    for _ in 0..times {
        let request = Request::get("/metrics")
            .header("host", "x")
            .header("accept-encoding", "gzip")
            .header(
                "accept",
                "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5",
            )
            .body(Full::new(Bytes::new()))
            .expect("a request");
        let answer = Arc::clone(&web).handle(request).await;
        assert_eq!(answer.status(), StatusCode::OK);
        answer.into_body().collect().await.expect("a page");
    }
}

/// For scrapes, which store nothing.
struct Nowhere;

impl Store for Nowhere {
    const MAX_DOCUMENTS: usize = usize::MAX;

    async fn load(&mut self, _: &mut dyn FnMut(Update)) -> Result<(), StoreError> {
        Ok(())
    }

    async fn commit(&mut self, _: &Batch) -> Result<Commit, StoreError> {
        Ok(Commit::Stored)
    }

    async fn updates(&mut self) -> Vec<Update> {
        std::future::pending().await
    }

    async fn probe(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    fn maintain(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn size_bytes(&mut self) -> Result<u64, StoreError> {
        Ok(0)
    }
}
