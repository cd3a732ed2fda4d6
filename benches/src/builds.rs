//! This build against the one before it, in turn: what a change costs that should cost nothing.

use std::{path::Path, time::Duration};

use crate::{
    load::{EPOCH, Requests},
    process::{Server, get},
    scrape::{Changes, FLEET, GZIP, fill, time},
    table::{Figure, Page},
};

const TIME: Duration = Duration::from_millis(500);
const NUMBERS: usize = 1000;
const REQUESTS: usize = 120_000;

/// Prints the medians of the ratios, this build by `before`; more is better but for the memory.
pub fn measure(before: &Path, rounds: usize) {
    let folder = tempfile::tempdir_in("../target").expect("a folder");
    let mut page = Page::default();
    page.table(
        "This build by the one before it",
        &["", "before, median", "this, median", "ratio"],
    );

    let storage = |name: &str| folder.path().join(name);
    let builds = [
        Server::build(before, &storage("before")),
        Server::exporter(&storage("this")),
    ];
    let mut sent = 0;
    for connections in [64, 256] {
        let mut rates = [Figure::default(), Figure::default()];
        let mut times = [Figure::default(), Figure::default()];
        for round in 0..rounds {
            for index in in_turn(round) {
                sent += REQUESTS as u64;
                let requests = Requests::webhooks(REQUESTS, NUMBERS, EPOCH + sent);
                let before = builds[index].processor_time();
                let load = requests.send(builds[index].address, connections, TIME);
                let time = builds[index].processor_time() - before;
                rates[index].add(load.per_second);
                times[index].add(time * 1e9 / load.requests as f64);
            }
        }
        row(
            &mut page,
            &format!("webhooks a second on {connections} connections"),
            &rates,
            false,
        );
        row(
            &mut page,
            &format!("ns of processor time a webhook on {connections} connections"),
            &times,
            false,
        );
    }
    drop(builds);

    let fleets = [
        Server::build(before, &storage("fleet-before")),
        Server::exporter(&storage("fleet-this")),
    ];
    let empty = [
        Server::build(before, &storage("empty-before")),
        Server::exporter(&storage("empty-this")),
    ];
    for fleet in &fleets {
        (0..3).for_each(|event| fill(fleet, FLEET, event));
        get(fleet.web, "/metrics", GZIP).expect("a page");
    }
    let mut memory = [Figure::default(), Figure::default()];
    for (figure, (fleet, empty)) in memory.iter_mut().zip(fleets.iter().zip(&empty)) {
        figure.add((fleet.memory("VmRSS") - empty.memory("VmRSS")) * 1024.0 / FLEET as f64);
    }
    let mut changes = [Changes(0), Changes(0)];
    let [mut same, mut changed] = [(); 2].map(|()| [Figure::default(), Figure::default()]);
    for round in 0..rounds {
        for index in in_turn(round) {
            same[index].add(1.0 / time(fleets[index].web, GZIP));
            changes[index].send(&fleets[index], 20);
            changed[index].add(1.0 / time(fleets[index].web, GZIP));
        }
    }
    row(
        &mut page,
        &format!("gzip scrapes a second of {FLEET} numbers, nothing changed"),
        &same,
        false,
    );
    row(
        &mut page,
        &format!("gzip scrapes a second of {FLEET} numbers, 20 changed"),
        &changed,
        false,
    );
    row(&mut page, "bytes of memory a number", &memory, true);
}

/// Neither build is always the first of a round.
fn in_turn(round: usize) -> [usize; 2] {
    if round.is_multiple_of(2) {
        [0, 1]
    } else {
        [1, 0]
    }
}

fn row(page: &mut Page, name: &str, [before, this]: &[Figure; 2], whole: bool) {
    let ratio = this.by(before);
    let ratio = if whole {
        format!("{:.3}", ratio.median())
    } else {
        ratio.spread()
    };
    page.row(&[
        name,
        &format!("{:.0}", before.median()),
        &format!("{:.0}", this.median()),
        &ratio,
    ]);
}
