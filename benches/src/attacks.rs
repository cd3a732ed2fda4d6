//! Attacks on the listeners, with an honest sender and a scraper beside each.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::{
    load::{EPOCH, signed, webhook},
    process::{EXPORTER, Server, get},
    scrape::{FLEET, GZIP, fill},
    table::Page,
    tls::{PASSWORD, Tls},
};

/// Between two honest webhooks.
const PAUSE: Duration = Duration::from_millis(50);
/// The largest body that the exporter takes.
const LARGEST_BODY: usize = 4 << 20;
const HANDSHAKES: usize = 10_000;

struct Attack {
    name: &'static str,
    /// What runs the exporter, and what the exporter is told beside its usual flags.
    command: Command,
    /// The certificate and the users of the web listener, where it has TLS.
    tls: Option<Tls>,
    /// Numbers that are known when the attack begins.
    known: usize,
    /// MiB above the memory before that the attack may take.
    memory: f64,
    /// How often the attacker does its part, at least.
    at_least: usize,
    attacker: Attacker,
}

enum Attacker {
    /// Connections that send the beginning of a request and then a few bytes a second. They are
    /// opened again where they are closed.
    Hold {
        connections: usize,
        begin: Vec<u8>,
        drip: &'static [u8],
    },
    /// Clients that each do the n-th of a thing, one after the other.
    Repeat {
        clients: usize,
        act: Box<dyn Fn(&Server, usize) + Sync>,
    },
}

/// What the honest sender and the scraper saw.
#[derive(Default)]
struct Seen {
    webhooks: usize,
    in_time: usize,
    slowest_webhook: Duration,
    slowest_scrape: Duration,
    /// In which a webhook and a scrape are to be answered.
    allowed: Duration,
}

/// A connection of an attacker, and what of its beginning is not sent yet.
struct Held<'a> {
    stream: TcpStream,
    unsent: &'a [u8],
}

/// Attacks for this time each, prints the table, writes it into `SECURITY.md`, and fails where an
/// honest webhook or a scrape takes longer than `allowed`, or the attack more memory than it may.
pub fn measure(time: Duration, allowed: Duration) {
    let folder = tempfile::tempdir_in("../target").expect("a folder");
    let tls = Tls::new(folder.path());
    let mut page = Page::default();
    let columns = [
        "attack",
        "times",
        &format!(
            "honest webhooks answered 200 within {} s",
            allowed.as_secs()
        ),
        "slowest webhook",
        "slowest scrape",
        "memory above that before",
    ];
    page.table(&format!("Attacks of {} s each", time.as_secs()), &columns);
    let mut broken = Vec::new();
    let attacks = held().into_iter().chain(repeated(&tls));
    for (index, attack) in attacks.enumerate() {
        let storage = folder.path().join(index.to_string());
        let name = attack.name;
        if !attack.is_withstood(&mut page, &storage, time, allowed) {
            broken.push(name);
        }
    }
    stop_with_half_a_body(&mut page, &folder.path().join("stop"));
    page.write("../SECURITY.md", "attacks");
    assert!(broken.is_empty(), "not withstood: {broken:?}");
}

/// Connections that are held. They come from loopback, to which the share of a peer does not apply,
/// and most of them are more than the exporter has.
fn held() -> Vec<Attack> {
    let hold = |name, connections, begin: &[u8], drip| {
        let begin = begin.to_vec();
        let attacker = Attacker::Hold {
            connections,
            begin,
            drip,
        };
        Attack::new(name, &["--webhook.max-connections=500"], attacker)
    };
    let head = format!(
        "POST /webhooks/meta HTTP/1.1\r\nHost: x\r\nContent-Length: {LARGEST_BODY}\r\n\r\n"
    );
    let head = head.as_bytes();
    let part = [head, &vec![b' '; LARGEST_BODY / 40 * 39]].concat();
    let mut few_descriptors = hold("60 connections under `prlimit --nofile=48`", 60, b"", b"");
    few_descriptors.command = Command::new("prlimit");
    few_descriptors.command.args(["--nofile=48", EXPORTER]);
    vec![
        hold("600 idle connections", 600, b"", b""),
        hold("1,500 idle connections", 1500, b"", b""),
        hold("600 heads of a byte a second", 600, b"POST /webhooks", b"/"),
        hold(
            "1,500 bodies of ten bytes a second",
            1500,
            head,
            b"          ",
        ),
        hold("200 bodies of 3.9 MiB that stop", 200, &part, b""),
        few_descriptors,
    ]
}

/// What clients do again and again.
fn repeated(tls: &Tls) -> Vec<Attack> {
    let repeat = |clients, act| Attacker::Repeat { clients, act };
    let lists = signed(&"[".repeat(LARGEST_BODY));
    let send_lists = move |server: &Server, _| {
        send(server.address, &lists);
    };
    let invent = |server: &Server, index| {
        send(server.address, &signed(&invented(index)));
    };
    let client = tls.clone();
    let shake_hands = move |server: &Server, _| {
        let connection = client.connect(server.web);
        let done = connection.and_then(|mut connection| connection.handshake());
        done.expect("a handshake");
    };
    let read_all = |server: &Server, _| assert_eq!(count_numbers(server), FLEET);
    let mut handshakes = Attack::new(
        "8 clients that make TLS connections to the web listener",
        &[],
        repeat(8, Box::new(shake_hands)),
    );
    handshakes.tls = Some(tls.clone());
    handshakes.at_least = HANDSHAKES;
    let mut lists = Attack::new(
        "4 clients that read `/api/v1/phone_numbers?limit=100000` to its end, 100,000 numbers",
        &[],
        repeat(4, Box::new(read_all)),
    );
    lists.known = FLEET;
    lists.memory = 64.0;
    vec![
        Attack::new(
            "8 senders of 4 MiB of nested lists, signed",
            &[],
            repeat(8, Box::new(send_lists)),
        ),
        Attack::new(
            "8 senders of invented numbers, signed, where 20,000 numbers are the maximum",
            &["--limits.max-phone-numbers=20000"],
            repeat(8, Box::new(invent)),
        ),
        handshakes,
        lists,
    ]
}

impl Attack {
    fn new(name: &'static str, arguments: &[&str], attacker: Attacker) -> Self {
        let mut command = Command::new(EXPORTER);
        command.args(arguments);
        Self {
            name,
            command,
            tls: None,
            known: 10_000,
            memory: 200.0,
            at_least: 0,
            attacker,
        }
    }

    /// Attacks for this time, and says whether every bound held.
    fn is_withstood(
        self,
        page: &mut Page,
        storage: &Path,
        time: Duration,
        allowed: Duration,
    ) -> bool {
        let server = Server::run(self.command, storage, self.tls.as_ref());
        fill(&server, self.known, 0);
        assert!(scrape(&server, self.tls.as_ref()));
        server.reset_peak();
        let before = server.memory("VmRSS");
        let (stop, times) = (AtomicBool::new(false), AtomicUsize::new(0));
        let seen = thread::scope(|scope| {
            self.attacker.start(scope, &server, &stop, &times);
            let began = Instant::now();
            let mut seen = Seen {
                allowed,
                ..Seen::default()
            };
            while began.elapsed() < time || times.load(Ordering::Relaxed) < self.at_least {
                seen.look(&server, self.tls.as_ref());
                thread::sleep(PAUSE);
            }
            stop.store(true, Ordering::Relaxed);
            seen
        });
        let memory = (server.memory("VmHWM") - before).max(0.0) / 1024.0;
        page.row(&[
            self.name,
            &times.into_inner().to_string(),
            &format!("{} of {}", seen.in_time, seen.webhooks),
            &format!("{:.3} s", seen.slowest_webhook.as_secs_f64()),
            &format!("{:.3} s", seen.slowest_scrape.as_secs_f64()),
            &format!("{memory:.0} MiB, allowed {:.0}", self.memory),
        ]);
        seen.in_time == seen.webhooks && seen.slowest_scrape <= allowed && memory <= self.memory
    }
}

impl Attacker {
    fn start<'scope>(
        &'scope self,
        scope: &'scope thread::Scope<'scope, '_>,
        server: &'scope Server,
        stop: &'scope AtomicBool,
        times: &'scope AtomicUsize,
    ) {
        match self {
            Self::Hold {
                connections,
                begin,
                drip,
            } => {
                let begin = begin.as_slice();
                scope.spawn(move || hold(server.address, *connections, begin, drip, stop, times));
            }
            Self::Repeat { clients, act } => {
                for _ in 0..*clients {
                    scope.spawn(move || {
                        while !stop.load(Ordering::Relaxed) {
                            act(server, times.fetch_add(1, Ordering::Relaxed));
                        }
                    });
                }
            }
        }
    }
}

impl Seen {
    /// Sends a webhook, and scrapes.
    fn look(&mut self, server: &Server, tls: Option<&Tls>) {
        let webhook = signed(&webhook(self.webhooks, EPOCH + 1));
        let began = Instant::now();
        let is_ok = send(server.address, &webhook);
        let webhook = began.elapsed();
        let began = Instant::now();
        let scrape = match scrape(server, tls) {
            true => began.elapsed(),
            false => Duration::MAX,
        };
        self.webhooks += 1;
        self.in_time += usize::from(is_ok && webhook <= self.allowed);
        self.slowest_webhook = self.slowest_webhook.max(webhook);
        self.slowest_scrape = self.slowest_scrape.max(scrape);
    }
}

/// Holds connections, and counts how often one was opened.
fn hold(
    address: SocketAddr,
    connections: usize,
    begin: &[u8],
    drip: &[u8],
    stop: &AtomicBool,
    times: &AtomicUsize,
) {
    let mut held: Vec<Held<'_>> = Vec::new();
    let mut dripped = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let is_due = dripped.elapsed() >= Duration::from_secs(1);
        if is_due {
            dripped = Instant::now();
        }
        held.retain_mut(|connection| {
            if is_due && connection.unsent.is_empty() {
                connection.unsent = drip;
            }
            connection.is_open()
        });
        while held.len() < connections {
            // A listener whose queue is full makes a new connection wait.
            let Ok(stream) = TcpStream::connect_timeout(&address, PAUSE) else {
                break;
            };
            stream
                .set_nonblocking(true)
                .expect("a socket that does not block");
            held.push(Held {
                stream,
                unsent: begin,
            });
            times.fetch_add(1, Ordering::Relaxed);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

impl Held<'_> {
    /// Sends what the socket takes, and says whether the other side has not closed.
    fn is_open(&mut self) -> bool {
        while !self.unsent.is_empty() {
            match self.stream.write(self.unsent) {
                Ok(written) => self.unsent = &self.unsent[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
        }
        let read = self.stream.read(&mut [0; 512]);
        read.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

/// Sends a request on a connection of its own; says whether the answer is 200.
fn send(address: SocketAddr, request: &[u8]) -> bool {
    let exchange = || {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(request)?;
        let mut status = [0; 12];
        stream.read_exact(&mut status)?;
        std::io::Result::Ok(status)
    };
    exchange().is_ok_and(|status| status == *b"HTTP/1.1 200")
}

/// Whether a scrape is answered 200.
fn scrape(server: &Server, tls: Option<&Tls>) -> bool {
    match tls {
        Some(tls) => tls.is_ok(server.web, "/metrics", &format!("{GZIP}{PASSWORD}")),
        None => get(server.web, "/metrics", GZIP)
            .is_some_and(|answer| answer.starts_with(b"HTTP/1.1 200")),
    }
}

/// A webhook of a thousand numbers that nobody else names.
fn invented(index: usize) -> String {
    let changes = (0..1000).map(|number| {
        format!(
            r#"{{"field":"phone_number_quality_update","value":{{"display_phone_number":"99{:09}","event":"FLAGGED"}}}}"#,
            index * 1000 + number
        )
    });
    let changes = changes.collect::<Vec<_>>().join(",");
    format!(r#"{{"entry":[{{"id":"1","time":{EPOCH},"changes":[{changes}]}}]}}"#)
}

/// How many phone numbers all pages of the list have. Pieces of an answer end between two objects, so
/// that the lengths of its chunks stand between them.
fn count_numbers(server: &Server) -> usize {
    let mut numbers = 0;
    let mut after = String::new();
    loop {
        let path = format!("/api/v1/phone_numbers?limit=100000{after}");
        let answer = get(server.web, &path, "").expect("an answer");
        let answer = String::from_utf8(answer).expect("JSON");
        numbers += answer.matches("\"phone_number\":").count();
        let (_, next) = answer.rsplit_once("\"next\":").expect("a page");
        let Some((next, _)) = next.trim_matches('"').split_once('"') else {
            return numbers;
        };
        after = format!("&after={next}");
    }
}

/// Tells the exporter to stop while a client has sent half a body.
fn stop_with_half_a_body(page: &mut Page, storage: &Path) {
    let server = Server::exporter(storage);
    let mut stream = TcpStream::connect(server.address).expect("a connection");
    let half = b"POST /webhooks/meta HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{";
    stream.write_all(half).expect("to send");
    // The exporter has taken the connection when it answers a later one.
    assert!(send(server.address, &signed(&webhook(0, EPOCH))));
    let took = server.stop();
    page.table("SIGTERM while a client sends half a body", &["", ""]);
    page.row(&[
        "end of the process after",
        &format!("{:.1} s", took.as_secs_f64()),
    ]);
}
