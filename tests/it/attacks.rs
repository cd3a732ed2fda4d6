//! Strangers who hold connections: a provider's webhook is still answered at once.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::support::{Exporter, connect};

/// How an attacker begins each of its connections, and what it sends on them again and again.
struct Attack {
    name: &'static str,
    connections: usize,
    begin: &'static [u8],
    drip: &'static [u8],
}

const HEAD: &[u8] = b"POST /webhooks/meta HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{";

const ATTACKS: [Attack; 4] = [
    Attack {
        name: "600 idle connections",
        connections: 600,
        begin: b"",
        drip: b"",
    },
    Attack {
        name: "1,500 idle connections",
        connections: 1500,
        begin: b"",
        drip: b"",
    },
    Attack {
        name: "600 heads that drip",
        connections: 600,
        begin: b"POST /webhooks",
        drip: b"/",
    },
    Attack {
        name: "1,500 bodies that drip",
        connections: 1500,
        begin: HEAD,
        drip: b"          ",
    },
];

/// Rounds of each attack, in which an honest sender sends a webhook.
const ROUNDS: usize = 5;

#[test]
fn honest_webhook_is_answered_while_strangers_hold_connections() {
    let folder = tempfile::tempdir().unwrap();
    // As many as the usual limit of 1024 file descriptors leaves, so that each attack fills them.
    let arguments = ["--webhook.max-connections=500", "--web.max-connections=100"];
    let exporter = Exporter::start(folder.path(), &arguments);
    let mut sent = 0;
    for attack in &ATTACKS {
        let mut strangers: Vec<TcpStream> = Vec::new();
        for _ in 0..attack.connections {
            let Ok(mut stream) = TcpStream::connect(exporter.webhook) else {
                continue;
            };
            let _ = stream.write_all(attack.begin);
            strangers.push(stream);
        }
        for round in 0..ROUNDS {
            for stream in &mut strangers {
                let _ = stream.write_all(attack.drip);
            }
            // An attacker opens again what was closed.
            strangers.retain_mut(is_open);
            while strangers.len() < attack.connections {
                let Ok(mut stream) = TcpStream::connect(exporter.webhook) else {
                    break;
                };
                let _ = stream.write_all(attack.begin);
                strangers.push(stream);
            }
            sent += 1;
            let webhook = event(sent);
            let began = Instant::now();
            let answer = exporter.post("/webhooks/meta", &webhook);
            assert!(
                answer.text().contains("\"applied\":1"),
                "{}: {}",
                attack.name,
                answer.text()
            );
            let page = exporter.get("/metrics");
            assert_eq!(page.status, 200, "{}", attack.name);
            println!(
                "{}, round {round}: answered after {:?}",
                attack.name,
                began.elapsed()
            );
        }
    }
}

#[test]
fn connections_wait_in_the_system_while_the_process_is_busy() {
    let folder = tempfile::tempdir().unwrap();
    let exporter = Exporter::start(folder.path(), &[]);
    let allowed = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    let waiting = allowed.trim().parse::<usize>().unwrap().min(400);
    exporter.signal("STOP");
    // A stopped process accepts nothing: where the queue is full, a connection is not established.
    for listener in [exporter.webhook, exporter.web] {
        let mut held = Vec::new();
        for number in 0..waiting {
            let stream = TcpStream::connect_timeout(&listener, Duration::from_secs(10));
            held.push(stream.unwrap_or_else(|error| panic!("connection {number}: {error}")));
        }
    }
    exporter.signal("CONT");
    assert_eq!(exporter.post("/webhooks/meta", &event(0)).status, 200);
}

#[test]
fn few_file_descriptors_leave_room_for_both_listeners_and_the_storage() {
    for (descriptors, strangers) in [(48, 60), (256, 600)] {
        let folder = tempfile::tempdir().unwrap();
        let exporter = Exporter::start_under(limited(descriptors), folder.path());
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| crowd(exporter.webhook, strangers, &is_over));
            for time in 0..20 {
                let answer = exporter.post("/webhooks/meta", &event(time));
                assert!(answer.text().contains("\"applied\":1"), "{}", answer.text());
                assert_eq!(exporter.get("/metrics").status, 200);
            }
            is_over.store(true, Ordering::Relaxed);
        });
        let log = exporter.log();
        assert!(!log.contains("cannot accept a connection"), "{log}");
    }
}

/// Holds idle connections, and opens again what is closed, without a pause.
fn crowd(address: SocketAddr, connections: usize, is_over: &AtomicBool) {
    let mut held = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        held.retain_mut(is_open);
        while held.len() < connections {
            held.extend(connect(address));
        }
    }
}

#[test]
fn api_answers_a_part_of_a_large_list_and_takes_part_in_the_limit_of_requests() {
    let folder = tempfile::tempdir().unwrap();
    let exporter = Exporter::start(folder.path(), &["--web.max-requests=1"]);
    fill(&exporter, 11);
    let page = exporter.get("/api/v1/phone_numbers?limit=100000").json();
    assert_eq!(page["phone_numbers"].as_array().unwrap().len(), 10_000);
    let next = page["next"].as_str().unwrap();
    let rest = exporter
        .get(&format!("/api/v1/phone_numbers?limit=100000&after={next}"))
        .json();
    assert_eq!(rest["phone_numbers"].as_array().unwrap().len(), 1000);
    assert!(rest["next"].is_null());

    // A client that does not read its large page holds the only permit.
    let mut slow = connect(exporter.web).unwrap();
    slow.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    slow.read_exact(&mut [0; 16]).unwrap();
    let list = exporter.get("/api/v1/phone_numbers?limit=1");
    assert_eq!(list.status, 503, "{}", list.text());
}

#[test]
fn slow_readers_of_a_large_page_keep_neither_scrapes_nor_webhooks_out() {
    let folder = tempfile::tempdir().unwrap();
    let exporter = Exporter::start(folder.path(), &["--web.max-requests=20"]);
    fill(&exporter, 10);
    let readers: Vec<_> = (0..19)
        .map(|_| {
            let mut reader = connect(exporter.web).unwrap();
            reader
                .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
                .unwrap();
            // The page has begun, and is larger than the buffers of both sides.
            reader.read_exact(&mut [0; 16]).unwrap();
            reader
        })
        .collect();
    for time in 0..3 {
        assert_eq!(
            exporter.post("/webhooks/meta", &event(time)).json()["applied"],
            1
        );
        assert_eq!(exporter.get("/metrics").status, 200);
    }
    drop(readers);
}

/// Makes so many thousand numbers known.
fn fill(exporter: &Exporter, thousands: usize) {
    for batch in 0..thousands {
        let changes: Vec<_> = (0..1000)
            .map(|number| {
                serde_json::json!({"field": "phone_number_quality_update", "value": {
                    "display_phone_number": format!("15{batch:02}{number:07}"), "event": "FLAGGED"}})
            })
            .collect();
        let body = serde_json::json!({"entry": [{"id": "1", "time": 1, "changes": changes}]});
        assert_eq!(
            exporter.post("/webhooks/meta", &body.to_string()).json()["applied"],
            1000
        );
    }
}

fn event(time: usize) -> String {
    let time = 1_748_454_394 + time;
    format!(
        r#"{{"entry":[{{"id":"1","time":{time},"changes":[{{"field":"phone_number_quality_update","value":{{"display_phone_number":"15550783881","event":"FLAGGED"}}}}]}}]}}"#
    )
}

/// Whether the other side has not closed.
fn is_open(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut byte = [0];
    let is_open = match stream.read(&mut byte) {
        Ok(read) => read > 0,
        Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
    };
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_write_timeout(Some(Duration::from_secs(1)));
    is_open
}

/// The binary with at most so many file descriptors.
fn limited(descriptors: usize) -> Command {
    let program = crate::support::command();
    let mut shell = Command::new("sh");
    shell
        .args([
            "-c",
            &format!("ulimit -n {descriptors}; exec \"$0\" \"$@\""),
        ])
        .arg(program.get_program());
    for (name, _) in program.get_envs() {
        shell.env_remove(name);
    }
    shell
}
