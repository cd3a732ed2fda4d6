//! Scrapes against the same bytes from hyper, memory, start, growth, and what a scrape costs
//! webhooks.

use std::{
    fs,
    io::Read,
    net::SocketAddr,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use flate2::read::GzDecoder;

use crate::{
    load::{Requests, webhook},
    process::{EXPORTER, Server, get},
    table::{Figure, Page},
    tls::{Connection, PASSWORD, Tls},
};

const ROUNDS: usize = 9;
pub const FLEET: usize = 100_000;
const LARGE_FLEET: usize = 1_000_000;
const EPOCH: u64 = 1_600_000_000;
pub const GZIP: &str = "Accept-Encoding: gzip\r\n";

pub fn measure(page: &mut Page) {
    let folder = tempfile::tempdir_in("../target").expect("a folder");
    let storage = folder.path().join("fleet");
    let empty = Server::exporter(&folder.path().join("empty"));
    let bare = Server::limit("bare", None);
    let fleet = Server::exporter(&storage);
    for event in 0..3 {
        fill(&fleet, FLEET, event);
    }
    let mut changes = Changes(0);

    get(fleet.web, "/metrics", GZIP).expect("a page");
    memory(page, &empty, &fleet, &mut changes);
    for (encoding, headers) in [("gzip", GZIP), ("plain", "")] {
        against_fixed(page, folder.path(), &fleet, encoding, headers, &mut changes);
    }
    status_pages(page, &fleet);
    webhooks_beside_scrapes(page, &fleet);
    drop(fleet);
    over_tls(page, folder.path(), &storage);
    start(page, &storage, &folder.path().join("empty"), &bare, empty);
    growth(page, folder.path());
}

/// The status page alone.
pub fn measure_pages(page: &mut Page) {
    let folder = tempfile::tempdir_in("../target").expect("a folder");
    let fleet = Server::exporter(&folder.path().join("fleet"));
    for event in 0..3 {
        fill(&fleet, FLEET, event);
    }
    status_pages(page, &fleet);
}

/// Each view of the status page against a gzip scrape of the same numbers, in turn.
fn status_pages(page: &mut Page, fleet: &Server) {
    let page_at = |share: usize| format!("/?page={}", FLEET / 50 / share);
    let [last, middle] = [1, 2].map(page_at);
    let views = [
        ("the first page", "/"),
        ("the last page", last.as_str()),
        ("a search", "/?q=155500"),
        ("a search that finds nothing", "/?q=nobody"),
        ("a page in the middle", middle.as_str()),
        ("a filter", "/?state=limited&provider=meta"),
    ];
    let mut scrape = Figure::default();
    let mut figures = views.map(|_| Figure::default());
    seconds_of(fleet.web, "/metrics", GZIP);
    for _ in 0..ROUNDS {
        scrape.add(seconds_of(fleet.web, "/metrics", GZIP));
        for ((_, path), figure) in views.iter().zip(&mut figures) {
            figure.add(seconds_of(fleet.web, path, ""));
        }
    }
    page.table(
        &format!("The status page of {FLEET} numbers"),
        &["", "ms, median", "by a gzip scrape"],
    );
    for ((name, _), figure) in [("a gzip scrape", "")]
        .iter()
        .chain(&views)
        .zip([&scrape].into_iter().chain(&figures))
    {
        page.row(&[
            name,
            &format!("{:.1}", figure.median() * 1e3),
            &figure.by(&scrape).spread(),
        ]);
    }
}

/// Three events of each number, as batches of 1000 changes.
pub fn fill(server: &Server, numbers: usize, event: u64) {
    let batches = numbers / 1000;
    let bodies = (0..batches).map(|batch| {
        let entries = (batch * 1000..(batch + 1) * 1000).map(|number| {
            let body = webhook(number, EPOCH + event);
            let at = body.find("\"entry\":[").expect("entries") + 9;
            body[at..body.len() - 2].to_owned()
        });
        format!("{{\"entry\":[{}]}}", entries.collect::<Vec<_>>().join(","))
    });
    Requests::signed(bodies).send(server.address, 4, Duration::from_secs(300));
}

/// Makes a few numbers stale.
pub struct Changes(pub u64);

impl Changes {
    pub fn send(&mut self, server: &Server, numbers: usize) {
        self.0 += 1;
        let bodies =
            (0..numbers).map(|number| webhook(number * (FLEET / numbers), EPOCH + 1000 + self.0));
        Requests::signed(bodies).send(server.address, 1, Duration::from_secs(60));
    }
}

fn against_fixed(
    page: &mut Page,
    folder: &Path,
    fleet: &Server,
    encoding: &str,
    headers: &str,
    changes: &mut Changes,
) {
    let answer = get(fleet.web, "/metrics", headers).expect("a page");
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .expect("a head")
        + 4;
    let body = &answer[end..];
    if encoding == "gzip" {
        let mut plain = String::new();
        GzDecoder::new(body)
            .read_to_string(&mut plain)
            .expect("one member");
        assert!(
            plain
                .lines()
                .filter(|line| line.starts_with("whatsapp_phone_number_"))
                .count()
                >= FLEET * 13
        );
    }
    let file = folder.join(encoding);
    fs::write(&file, body).expect("to keep the page");
    let fixed = Server::limit(
        if encoding == "gzip" {
            "fixed-gzip"
        } else {
            "fixed"
        },
        Some(&file),
    );
    let [mut limit, mut idle, mut changed] = [(); 3].map(|()| Figure::default());
    for _ in 0..ROUNDS {
        limit.add(time(fixed.address, headers));
        idle.add(time(fleet.web, headers));
        changes.send(fleet, 20);
        changed.add(time(fleet.web, headers));
    }
    by_static_bytes(
        page,
        encoding,
        body.len(),
        &limit,
        &[
            ("static bytes of the same size from hyper", &limit),
            ("**the exporter**, nothing changed", &idle),
            ("**the exporter**, 20 numbers changed", &changed),
        ],
    );
}

/// The table of a scrape.
fn by_static_bytes(
    page: &mut Page,
    how: &str,
    bytes: usize,
    limit: &Figure,
    figures: &[(&str, &Figure)],
) {
    page.table(
        &format!(
            "One scrape of {FLEET} numbers, {how}, {:.1} MB",
            bytes as f64 / 1e6
        ),
        &["", "ms, median", "by static bytes"],
    );
    for (name, figure) in figures {
        page.row(&[
            name,
            &format!("{:.1}", figure.median() * 1e3),
            &figure.by(limit).spread(),
        ]);
    }
}

/// Scrapes with a password, each side on a connection that is kept.
fn over_tls(page: &mut Page, folder: &Path, storage: &Path) {
    let tls = Tls::new(folder);
    let fleet = Server::run(Command::new(EXPORTER), storage, Some(&tls));
    let headers = format!("{GZIP}{PASSWORD}");
    let mut scraped = tls.connect(fleet.web).expect("a connection");
    let body = scraped.get("/metrics", &headers).expect("a page");
    let file = folder.join("gzip-over-tls");
    fs::write(&file, &body).expect("to keep the page");
    let fixed = Server::limit_with_tls("fixed-gzip", &file, &tls);
    let mut fetched = tls.connect(fixed.address).expect("a connection");
    let seconds = |connection: &mut Connection| {
        let began = Instant::now();
        let got = connection.get("/metrics", &headers).expect("a page");
        // The exporter's own families differ from page to page.
        assert!(got.len().abs_diff(body.len()) < body.len() / 1000);
        began.elapsed().as_secs_f64()
    };
    let [mut limit, mut idle] = [(); 2].map(|()| Figure::default());
    seconds(&mut fetched);
    for _ in 0..2 * ROUNDS + 1 {
        limit.add(seconds(&mut fetched));
        idle.add(seconds(&mut scraped));
    }
    by_static_bytes(
        page,
        "gzip over TLS with a password on a kept connection",
        body.len(),
        &limit,
        &[
            (
                "static bytes of the same size from hyper over the same TLS",
                &limit,
            ),
            ("**the exporter**, nothing changed", &idle),
        ],
    );
}

/// Seconds of a scrape.
pub fn time(address: SocketAddr, headers: &str) -> f64 {
    seconds_of(address, "/metrics", headers)
}

fn seconds_of(address: SocketAddr, path: &str, headers: &str) -> f64 {
    let began = Instant::now();
    get(address, path, headers).expect("a page");
    began.elapsed().as_secs_f64()
}

fn memory(page: &mut Page, empty: &Server, fleet: &Server, changes: &mut Changes) {
    let (before, resident) = (empty.memory("VmRSS"), fleet.memory("VmRSS"));
    fleet.reset_peak();
    changes.send(fleet, 20);
    get(fleet.web, "/metrics", GZIP).expect("a page");
    let peak = fleet.memory("VmHWM");
    page.table(
        &format!("Resident memory, {FLEET} numbers with three events each, after gzip scrapes"),
        &["", ""],
    );
    page.row(&["the empty process", &format!("{:.1} MiB", before / 1024.0)]);
    page.row(&[
        "a number above it",
        &format!("{:.0} bytes", (resident - before) * 1024.0 / FLEET as f64),
    ]);
    page.row(&[
        "more at most during a scrape with 20 numbers changed",
        &format!("{:.2} MiB", (peak - resident) / 1024.0),
    ]);
}

fn start(page: &mut Page, storage: &Path, empty_storage: &Path, bare: &Server, empty: Server) {
    let bare_ready = bare.ready;
    drop(empty);
    let [mut limit, mut none, mut fleet] = [(); 3].map(|()| Figure::default());
    for _ in 0..5 {
        limit.add(Server::limit("bare", None).ready.as_secs_f64());
        none.add(Server::exporter(empty_storage).ready.as_secs_f64());
        fleet.add(Server::exporter(storage).ready.as_secs_f64());
    }
    assert!(bare_ready > Duration::ZERO);
    page.table("From start to ready", &["", "ms, median", "by bare hyper"]);
    for (name, figure) in [
        ("bare hyper", &limit),
        ("the exporter, empty", &none),
        (&format!("the exporter, {FLEET} numbers"), &fleet),
    ] {
        page.row(&[
            name,
            &format!("{:.1}", figure.median() * 1e3),
            &figure.by(&limit).spread(),
        ]);
    }
}

fn webhooks_beside_scrapes(page: &mut Page, fleet: &Server) {
    let [mut alone, mut beside] = [(); 2].map(|()| Figure::default());
    for round in 0..5 {
        let load = |half: u64| {
            Requests::webhooks(6000, 1000, EPOCH + 100_000 + (round * 2 + half) * 10_000)
        };
        // As many as come when a fleet is busy, not as many as go in.
        alone.add(load(0).send_at(fleet.address, 16, 2000.0).p99);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    get(fleet.web, "/metrics", GZIP).expect("a page");
                }
            });
            beside.add(load(1).send_at(fleet.address, 16, 2000.0).p99);
            stop.store(true, Ordering::Relaxed);
        });
    }
    page.table(
        &format!("p99 of webhooks while {FLEET} numbers are scraped without a pause, 2000 webhooks a second"),
        &["", "ms, median", "by without"],
    );
    for (name, figure) in [("without scrapes", &alone), ("beside scrapes", &beside)] {
        page.row(&[
            name,
            &format!("{:.2}", figure.median() * 1e3),
            &figure.by(&alone).spread(),
        ]);
    }
}

fn growth(page: &mut Page, folder: &Path) {
    page.table(
        "Growth",
        &[
            "numbers",
            "webhooks a second on 64 connections",
            "ready after",
            "shard 0 of 8 with gzip",
        ],
    );
    for numbers in [1000, FLEET, LARGE_FLEET] {
        let storage = folder.join(format!("growth-{numbers}"));
        let server = Server::exporter(&storage);
        fill(&server, numbers, 0);
        let load = Requests::webhooks(60_000, numbers, EPOCH + 10).send(
            server.address,
            64,
            Duration::from_secs(4),
        );
        drop(server);
        let server = Server::exporter(&storage);
        let began = Instant::now();
        let shard = get(server.web, "/metrics?shard=0/8", GZIP).expect("a page");
        let shard = format!(
            "{:.1} MB in {:.2} s, cold",
            shard.len() as f64 / 1e6,
            began.elapsed().as_secs_f64()
        );
        page.row(&[
            &numbers.to_string(),
            &format!("{:.0}", load.per_second),
            &format!("{:.2} s", server.ready.as_secs_f64()),
            &shard,
        ]);
        drop(server);
        fs::remove_dir_all(&storage).expect("to remove the storage");
    }
}
