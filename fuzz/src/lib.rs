//! What holds for every input. Each target is a file that calls one of these functions.

use std::{fs, sync::Arc};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{Method, Request, Uri};
use tempfile::TempDir;
use tokio::runtime::{self, Runtime};
use whatsapp_quality_exporter::{
    config::{Role, WebConfig},
    domain::{ChangeKind, PhoneNumber, Timestamp, WabaId},
    http::{Handler, Operations, Protection, Web, WebOptions},
    ingest,
    providers::{self, Delivery},
    readiness::Readiness,
    state::{Fold, Record, Table},
    store::{Sqlite, document},
    telemetry::Telemetry,
};

/// A delivery: its first byte says how it came, as a query (`q`), a form (`f`) or a body.
///
/// What a parser takes is in its normal form, can be folded, and is read from the storage as it was
/// written.
pub fn webhook(provider: &str, data: &[u8]) {
    let Some((how, content)) = data.split_first() else {
        return;
    };
    let query = match how {
        b'q' => str::from_utf8(content).unwrap_or_default(),
        _ => "",
    };
    let delivery = Delivery {
        method: if *how == b'q' {
            &Method::GET
        } else {
            &Method::POST
        },
        query,
        content_type: if *how == b'f' {
            b"application/x-www-form-urlencoded"
        } else {
            b""
        },
        body: if *how == b'q' { b"" } else { content },
    };
    let provider = providers::by_name(provider).expect("a provider");
    let Ok(parsed) = provider.parse(&delivery) else {
        return;
    };
    let again = provider.parse(&delivery).expect("the same delivery");
    assert_eq!(format!("{parsed:?}"), format!("{again:?}"));

    let now = Timestamp::from_unix_seconds(1_767_225_600).expect("a time");
    let mut fold = Fold::new(Arc::new(Table::default()), usize::MAX);
    let mut draft = fold.draft();
    for change in &parsed.changes {
        let waba_id = &change.account.waba_id;
        assert_eq!(WabaId::parse(waba_id.as_str()).as_ref(), Ok(waba_id));
        if let ChangeKind::PhoneNumberQuality { phone_number, .. } = &change.kind {
            let parsed = PhoneNumber::parse(phone_number.as_str());
            assert_eq!(parsed.as_ref(), Ok(phone_number));
        }
        draft.apply(change, now);
    }
    draft.batch().records().iter().for_each(round_trip);
}

/// A line with a key, and the document that stands under it.
pub fn document(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    let (key, value) = text.split_once('\n').unwrap_or((text, ""));
    if let Ok(Some(record)) = document::read(key, value) {
        round_trip(&record);
    }
}

/// A record that is written is read as it was.
fn round_trip(record: &Record) {
    let key = document::key_of(record).expect("a key");
    let mut value = Vec::new();
    document::write(record, &mut value).expect("a document");
    let [key, value] = [&key, &value].map(|text| str::from_utf8(text).expect("text"));
    let read = document::read(key, value);
    let read = read.unwrap_or_else(|error| panic!("{error:?}: {key} {value}"));
    let read = read.expect("a record");
    assert_eq!(format!("{read:?}"), format!("{record:?}"));
}

/// A path and a query of the private listener: no request is answered by a failure of the program.
pub fn query(data: &[u8]) {
    thread_local!(static WEB: (Arc<Web>, Runtime, TempDir) = web());
    let Ok(uri) = Uri::try_from(data) else {
        return;
    };
    WEB.with(|(web, runtime, _)| {
        for method in [Method::GET, Method::DELETE] {
            let mut request = Request::new(Empty::<Bytes>::new());
            *request.method_mut() = method;
            *request.uri_mut() = uri.clone();
            let host = hyper::header::HeaderValue::from_static("localhost");
            request.headers_mut().insert(hyper::header::HOST, host);
            let answer = runtime.block_on(Arc::clone(web).handle(request));
            let status = answer.status().as_u16();
            assert!([200, 400, 404, 405].contains(&status), "{uri}: {status}");
        }
    });
}

/// A private listener that knows nothing yet.
fn web() -> (Arc<Web>, Runtime, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_owned();
    let open = move || Sqlite::open(&path);
    let table = Arc::new(Table::default());
    let fold = Fold::new(Arc::clone(&table), usize::MAX);
    let telemetry = Arc::new(Telemetry::new().expect("telemetry"));
    let status = Arc::new(Readiness::default());
    let (queue, jobs) = ingest::queue();
    let runtime = runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime");
    let entered = runtime.enter();
    let writer = ingest::start(jobs, fold, open, &status, Arc::clone(&telemetry), false);
    let loaded = runtime.block_on(writer.expect("a thread").loaded());
    // It runs until the end of the process.
    std::mem::forget(loaded.expect("a writer").expect("an empty storage"));
    drop(entered);
    let operations = Operations {
        removals: Some(queue),
        ..Operations::default()
    };
    let protection = Arc::new(Protection::new(Role::Web, Arc::default()));
    let options = WebOptions {
        telemetry_path: "/metrics".to_owned(),
        ..WebOptions::default()
    };
    let endpoints = Arc::default();
    let web = Web::new(
        options, table, status, telemetry, endpoints, protection, operations,
    );
    (Arc::new(web), runtime, folder)
}

/// A web configuration of both listeners: what is taken is taken again, and what is refused is
/// refused with a sentence.
pub fn web_config(data: &[u8]) {
    thread_local!(static FOLDER: TempDir = tempfile::tempdir().expect("a folder"));
    FOLDER.with(|folder| {
        let file = folder.path().join("web.yml");
        fs::write(&file, data).expect("to write");
        for role in [Role::Web, Role::Webhook] {
            match WebConfig::read(role, &file, &WebConfig::default()) {
                Ok(config) => {
                    let again = WebConfig::read(role, &file, &config);
                    assert!(again.is_ok_and(|again| again.is_same(&config)));
                }
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    });
}
