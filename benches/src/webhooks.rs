//! Durable webhooks against bare hyper, against the same without the disk, and against Pushgateway.

use std::time::Duration;

use crate::{
    load::{EPOCH, Requests},
    process::Server,
    table::{Figure, Page},
};

const ROUNDS: usize = 25;
const TIME: Duration = Duration::from_millis(500);
const NUMBERS: usize = 1000;
/// More than any of them answers in that time.
const REQUESTS: usize = 120_000;

pub fn measure(page: &mut Page) {
    let folder = tempfile::tempdir_in("../target").expect("a folder");
    let servers = [
        (
            "bare hyper, body read, 200, nothing else",
            Server::limit("bare", None),
        ),
        ("verify, in memory", Server::limit("verify", None)),
        ("verify and parse, in memory", Server::limit("parse", None)),
        (
            "verify, parse and fold, in memory",
            Server::limit("fold", None),
        ),
        (
            "**the exporter: the same, and on disk before the 200**",
            Server::exporter(folder.path()),
        ),
        (
            "Pushgateway, no consistency check, nothing on disk",
            Server::pushgateway(),
        ),
    ];
    let mut sent = 0;
    for connections in [64, 256] {
        let mut rates = vec![Figure::default(); servers.len()];
        let mut p99s = vec![Figure::default(); servers.len()];
        for _ in 0..ROUNDS {
            for (index, (name, server)) in servers.iter().enumerate() {
                let requests = if name.starts_with("Pushgateway") {
                    Requests::pushes(REQUESTS, NUMBERS)
                } else {
                    sent += REQUESTS as u64;
                    Requests::webhooks(REQUESTS, NUMBERS, EPOCH + sent)
                };
                let load = requests.send(server.address, connections, TIME);
                rates[index].add(load.per_second);
                p99s[index].add(load.p99);
            }
        }
        page.table(
            &format!("Webhooks of 350 bytes on {connections} connections"),
            &[
                "",
                "a second, median",
                "by bare hyper",
                "by Pushgateway",
                "p99 by bare hyper's",
            ],
        );
        let [bare, .., push] = rates.as_slice() else {
            unreachable!("several servers")
        };
        for ((name, _), (rate, p99)) in servers.iter().zip(rates.iter().zip(&p99s)) {
            page.row(&[
                name,
                &format!("{:.0}", rate.median()),
                &rate.by(bare).spread(),
                &rate.by(push).spread(),
                &p99.by(&p99s[0]).spread(),
            ]);
        }
    }
}
