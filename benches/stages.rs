//! The stages of a webhook and of a scrape, one by one.

use std::{hint::black_box, sync::Arc};

use aws_lc_rs::hmac;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use hyper::Method;
use whatsapp_quality_exporter::{
    domain::Timestamp,
    exposition::{
        Encoding, Exposition, ScrapeOptions,
        gzip::{Check, Deflater, Member},
    },
    providers::{self, Delivery, Parsed},
    state::{Fold, Table},
};

#[path = "src/load.rs"]
#[allow(dead_code, reason = "of the load only the webhook is used here")]
mod load;

const NUMBERS: usize = 10_000;

fn stages(criterion: &mut Criterion) {
    let meta = providers::by_name("meta").expect("Meta");
    let body = load::webhook(1, 1_700_000_000);
    let key = hmac::Key::new(hmac::HMAC_SHA256, load::SECRET.as_bytes());
    let signature = hmac::sign(&key, body.as_bytes());
    criterion.bench_function("verify", |bencher| {
        bencher.iter(|| hmac::verify(&key, black_box(body.as_bytes()), signature.as_ref()));
    });
    let parse = |body: &str| {
        meta.parse(&Delivery {
            method: &Method::POST,
            query: "",
            content_type: b"",
            body: body.as_bytes(),
        })
        .expect("a webhook")
    };
    criterion.bench_function("parse", |bencher| bencher.iter(|| parse(black_box(&body))));

    let table = Arc::new(Table::default());
    let mut fold = Fold::new(Arc::clone(&table), usize::MAX);
    let received = Timestamp::from_unix_seconds(1_800_000_000).expect("a time");
    let mut apply = |parsed: Parsed| {
        let mut draft = fold.draft();
        for change in &parsed.changes {
            draft.apply(change, received);
        }
        let batch = draft.batch();
        draft.publish(&batch);
    };
    (0..NUMBERS).for_each(|number| apply(parse(&load::webhook(number, 1_700_000_000))));
    let mut times = 1_700_000_001..;
    let mut next = || parse(&load::webhook(1, times.next().expect("a time")));
    criterion.bench_function("fold", |bencher| {
        bencher.iter_batched(&mut next, &mut apply, BatchSize::SmallInput)
    });

    for (name, encoding) in [
        ("render", Encoding::Plain),
        ("render and deflate", Encoding::Gzip),
    ] {
        let options = ScrapeOptions {
            encoding,
            ..ScrapeOptions::default()
        };
        criterion.bench_function(&format!("{name} {NUMBERS} numbers"), |bencher| {
            bencher.iter_batched(
                || Exposition::new(Arc::clone(&table)),
                |mut exposition| exposition.page(options, &[]),
                BatchSize::LargeInput,
            );
        });
        let mut kept = Exposition::new(Arc::clone(&table));
        kept.page(options, &[]);
        criterion.bench_function(
            &format!("a page of what is kept, {encoding:?}"),
            |bencher| bencher.iter(|| kept.page(options, &[])),
        );
    }
}

/// A piece of a page, as large as those that are kept, and a member of as many as a fleet has.
fn gzip(criterion: &mut Criterion) {
    const PIECES: usize = 256 * 13;
    let line = |number| {
        format!(
            "whatsapp_phone_number_flagged{{provider=\"meta\",waba_id=\"1\",phone_number=\"{number}\"}} 0\n"
        )
    };
    let text: String = (15_550_000_000_u64..15_550_000_040).map(line).collect();
    let mut deflater = Deflater::default();
    criterion.bench_function(&format!("deflate {} bytes", text.len()), |bencher| {
        bencher.iter(|| {
            let mut piece = Vec::new();
            deflater.deflate(black_box(text.as_bytes()), &mut piece);
            piece
        });
    });
    let mut piece = Vec::new();
    deflater.deflate(text.as_bytes(), &mut piece);
    let (piece, check) = (bytes::Bytes::from(piece), Check::of(text.as_bytes()));
    criterion.bench_function(&format!("glue {PIECES} pieces"), |bencher| {
        bencher.iter(|| {
            let mut member = Member::default();
            (0..PIECES).for_each(|_| member.push([piece.clone()], black_box(check)));
            member.finish()
        });
    });
}

criterion_group!(benches, stages, gzip);
criterion_main!(benches);
