//! Measures the exporter against limits and peers, alternating in one run, and writes the tables of
//! `docs/performance.md`: medians as ratios, with the spread.

mod attacks;
mod builds;
mod count;
mod limit;
mod load;
mod process;
mod replicas;
mod scrape;
mod table;
mod tls;
mod webhooks;

use std::{env, fs, net::TcpListener, path::Path, time::Duration};

use limit::Stage;

/// As in the exporter.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["serve", "bare", address] => limit::bare(bind(address)),
        ["serve", "verify", address] => limit::memory(bind(address), Stage::Verify),
        ["serve", "parse", address] => limit::memory(bind(address), Stage::Parse),
        ["serve", "fold", address] => limit::memory(bind(address), Stage::Fold),
        [
            "serve",
            kind @ ("fixed" | "fixed-gzip"),
            address,
            file,
            tls @ ..,
        ] => limit::fixed(
            bind(address),
            fs::read(file).expect("a file"),
            *kind == "fixed-gzip",
            tls.first().map(|folder| tls::server(Path::new(folder))),
        ),
        [] => {
            let mut page = table::Page::default();
            webhooks::measure(&mut page);
            scrape::measure(&mut page);
            count::measure(&mut page);
            page.write("../docs/performance.md", "bench");
        }
        ["attacks", time, allowed] => {
            let seconds = |text: &str| Duration::from_secs(text.parse().expect("seconds"));
            attacks::measure(seconds(time), seconds(allowed));
        }
        ["builds", before, rounds] => {
            builds::measure(Path::new(before), rounds.parse().expect("how many rounds"))
        }
        ["replicas"] => {
            let mut page = table::Page::default();
            replicas::measure(&mut page);
            page.write("../docs/performance.md", "bench-replicas");
        }
        ["webhooks"] => webhooks::measure(&mut table::Page::default()),
        ["count"] => count::measure(&mut table::Page::default()),
        ["count", what, times] => count::run(what, times.parse().expect("how often")),
        ["pages"] => scrape::measure_pages(&mut table::Page::default()),
        ["scrape"] => scrape::measure(&mut table::Page::default()),
        other => panic!("unknown arguments {other:?}"),
    }
}

fn bind(address: &str) -> TcpListener {
    TcpListener::bind(address).expect("an address")
}
