//! The stages of a webhook and of a scrape, one by one.

use std::{hint::black_box, sync::Arc};

use aws_lc_rs::hmac;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use hyper::Method;
use whatsapp_quality_exporter::{
    domain::Timestamp,
    exposition::{Ask, Encoding, Exposition},
    providers::{self, Delivery},
    state::{Fold, Table},
};

#[path = "src/load.rs"]
#[allow(dead_code, reason = "of the load only the webhook is used here")]
mod load;

const NUMBERS: usize = 10_000;

fn stages(criterion: &mut Criterion) {
    let meta = providers::ALL.iter().find(|provider| provider.name() == "meta").expect("Meta");
    let body = load::webhook(1, 1_700_000_000);
    let key = hmac::Key::new(hmac::HMAC_SHA256, load::SECRET.as_bytes());
    let signature = hmac::sign(&key, body.as_bytes());
    criterion.bench_function("verify", |bencher| {
        bencher.iter(|| hmac::verify(&key, black_box(body.as_bytes()), signature.as_ref()));
    });
    let parse = |body: &str| {
        meta.parse(&Delivery { method: &Method::POST, query: "", body: body.as_bytes() }).expect("a webhook")
    };
    criterion.bench_function("parse", |bencher| bencher.iter(|| parse(black_box(&body))));

    let table = Arc::new(Table::default());
    let mut fold = Fold::new(Arc::clone(&table), usize::MAX);
    let mut time = 1_700_000_000;
    let mut apply = |number: usize| {
        time += 1;
        let parsed = parse(&load::webhook(number, time));
        let mut draft = fold.draft();
        for change in &parsed.changes {
            draft.apply(change, Timestamp::from_unix_seconds(1_800_000_000).expect("a time"));
        }
        let records = draft.records();
        draft.publish(&records);
    };
    (0..NUMBERS).for_each(&mut apply);
    criterion.bench_function("parse and fold", |bencher| bencher.iter(|| apply(black_box(1))));

    for (name, encoding) in [("render", Encoding::Plain), ("render and deflate", Encoding::Gzip)] {
        let ask = Ask { encoding, ..Ask::default() };
        criterion.bench_function(&format!("{name} {NUMBERS} numbers"), |bencher| {
            bencher.iter_batched(
                || Exposition::new(Arc::clone(&table)),
                |mut exposition| exposition.page(ask, &[]),
                BatchSize::LargeInput,
            );
        });
        let mut kept = Exposition::new(Arc::clone(&table));
        kept.page(ask, &[]);
        criterion.bench_function(&format!("a page of what is kept, {encoding:?}"), |bencher| {
            bencher.iter(|| kept.page(ask, &[]))
        });
    }
}

criterion_group!(benches, stages);
criterion_main!(benches);
