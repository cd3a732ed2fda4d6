//! Minutes of load in which everything goes wrong now and then: `make soak`.

use std::{
    collections::BTreeMap,
    fs, io,
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use tempfile::TempDir;

use crate::{
    crash::{Connection, SECRET, from_environment, random},
    support::{Exporter, preloaded, request, wait_for},
};

const SENDERS: usize = 4;
/// Numbers of a sender, to which its webhooks go in turn.
const NUMBERS: u64 = 500;
/// Between two webhooks of a sender.
const PAUSE: Duration = Duration::from_millis(5);
/// Every so many-th webhook is sent twice.
const REPEATED: u64 = 10;
/// More MiB than this at the end than after the last start is a leak.
const GROWTH: f64 = 8.0;

/// What the senders, the scraper and the one that makes trouble share.
struct Soak {
    /// Where the process that runs now listens.
    addresses: Mutex<[SocketAddr; 2]>,
    is_over: AtomicBool,
    requests: AtomicU64,
    /// Requests that were answered 503, or not at all.
    put_off: AtomicU64,
    /// Of each webhook that was acknowledged, from its last request on.
    latencies: Mutex<Vec<Duration>>,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
    Reload,
    FullDisk,
    Kill,
    Stop,
    FailedSync,
}

#[test]
#[ignore = "it takes minutes: make soak"]
fn nothing_is_lost_or_counted_twice_in_minutes_of_trouble() {
    let seconds = from_environment("SOAK_SECONDS").unwrap_or(600);
    let seed = from_environment("SOAK_SEED").unwrap_or(1);
    let folder = tempfile::tempdir().unwrap();
    let mut exporter = start(&folder);
    let soak = Soak::new(&exporter);
    let mut troubles = Vec::new();
    let mut memory = Vec::new();
    let acknowledged: Vec<u64> = thread::scope(|scope| {
        let soak = &soak;
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| scope.spawn(move || soak.send(sender)))
            .collect();
        scope.spawn(|| soak.scrape());
        soak.wait_for_acknowledged(SENDERS as u64 * NUMBERS);
        memory.push(resident(&exporter));
        let began = Instant::now();
        for round in 0.. {
            let elapsed = began.elapsed().as_secs();
            if elapsed >= seconds {
                break;
            }
            // The last process runs for a third of the time, so that its memory tells something.
            let trouble = Trouble::random(random(seed, round), elapsed < seconds * 2 / 3);
            troubles.push(trouble);
            trouble.make(&mut exporter, &folder, soak);
            soak.wait_for_acknowledged(2000);
            if trouble.ends_the_process() {
                memory.truncate(1);
                memory.push(resident(&exporter));
            }
        }
        memory.push(resident(&exporter));
        soak.is_over.store(true, Relaxed);
        let counts = senders.into_iter().map(|sender| sender.join().unwrap());
        counts.collect()
    });
    let errors = lost_and_counted_twice(&exporter, &acknowledged);
    let [first, last_start, end] = memory[..] else {
        panic!("no process was ended in {seconds} s: give more SOAK_SECONDS");
    };
    println!("SOAK_SECONDS={seconds} SOAK_SEED={seed}\n\n| | |\n|---|---|");
    soak.print(acknowledged.iter().sum(), errors, &troubles);
    for (when, memory) in [
        ("of the first process", first),
        ("after the last start", last_start),
        ("at the end", end),
    ] {
        println!("| memory {when} | {memory:.1} MiB |");
    }
    assert_eq!(errors, (0, 0), "lost, and counted twice");
    assert!(end - last_start <= GROWTH, "the memory grows");
}

/// Starts the exporter with a disk that fails when it is told to.
fn start(folder: &TempDir) -> Exporter {
    let library = preloaded("disk", folder.path());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let storage = folder.path().join("storage");
    fs::create_dir(&storage).unwrap();
    let (library, fails, full) = (library.display().to_string(), path("fails"), path("full"));
    let environment = [
        ("WHATSAPP_EXPORTER_META_APP_SECRET", SECRET),
        ("LD_PRELOAD", &library),
        ("FSYNC_FAILS", &fails),
        ("WRITE_FAILS", &full),
        ("FSYNC_LOG", "/dev/null"),
    ];
    Exporter::start_with(&storage, &[], &environment)
}

impl Soak {
    fn new(exporter: &Exporter) -> Self {
        Self {
            addresses: Mutex::new([exporter.web, exporter.webhook]),
            is_over: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            put_off: AtomicU64::new(0),
            latencies: Mutex::default(),
        }
    }

    /// Sends webhooks, each until it is acknowledged, and gives how many those are.
    fn send(&self, sender: usize) -> u64 {
        let mut connection = None;
        let mut sent = 0;
        while !self.is_over.load(Relaxed) {
            let times = 1 + u64::from(sent % REPEATED == 0);
            for _ in 0..times {
                self.send_until_acknowledged(sender, sent, &mut connection);
            }
            sent += 1;
            thread::sleep(PAUSE);
        }
        sent
    }

    fn send_until_acknowledged(
        &self,
        sender: usize,
        index: u64,
        connection: &mut Option<Connection>,
    ) {
        let body = webhook(sender, index);
        loop {
            let began = Instant::now();
            self.requests.fetch_add(1, Relaxed);
            let answer = self.exchange(connection, &body);
            match answer {
                Ok(200) => {
                    self.latencies.lock().unwrap().push(began.elapsed());
                    return;
                }
                Ok(status) => assert_eq!(status, 503),
                // The process has ended, or ends.
                Err(_) => *connection = None,
            }
            self.put_off.fetch_add(1, Relaxed);
            thread::sleep(PAUSE);
        }
    }

    fn exchange(&self, connection: &mut Option<Connection>, body: &str) -> io::Result<u16> {
        let connection = match connection {
            Some(connection) => connection,
            None => {
                let [_, webhook] = *self.addresses.lock().unwrap();
                connection.insert(Connection::open(webhook)?)
            }
        };
        Ok(connection.send_body(body)?.status)
    }

    fn scrape(&self) {
        while !self.is_over.load(Relaxed) {
            let [web, _] = *self.addresses.lock().unwrap();
            // There may be no process now.
            let _ = request(web, "GET", "/metrics", &[("Accept-Encoding", "gzip")], b"");
            thread::sleep(Duration::from_secs(1));
        }
    }

    /// Waits until so many more webhooks are acknowledged.
    fn wait_for_acknowledged(&self, more: u64) {
        let acknowledged = || self.latencies.lock().unwrap().len() as u64;
        let wanted = acknowledged() + more;
        wait_for("webhooks to be acknowledged", || acknowledged() >= wanted);
    }

    fn print(&self, acknowledged: u64, errors: (u64, u64), troubles: &[Trouble]) {
        let row = |name: &str, value: String| println!("| {name} | {value} |");
        row("requests", self.requests.load(Relaxed).to_string());
        row("webhooks that were acknowledged", acknowledged.to_string());
        let put_off = self.put_off.load(Relaxed);
        row("requests answered 503 or not at all", put_off.to_string());
        row("lost", errors.0.to_string());
        row("counted twice", errors.1.to_string());
        for kind in Trouble::ALL {
            let times = troubles.iter().filter(|trouble| **trouble == kind).count();
            row(kind.name(), times.to_string());
        }
        let mut latencies = self.latencies.lock().unwrap();
        latencies.sort_unstable();
        for percent in [50, 99] {
            let latency = latencies[(latencies.len() - 1) * percent / 100];
            let milliseconds = latency.as_secs_f64() * 1e3;
            row(
                &format!("p{percent} of an answer 200"),
                format!("{milliseconds:.2} ms"),
            );
        }
    }
}

impl Trouble {
    const ALL: [Self; 5] = [
        Self::Reload,
        Self::FullDisk,
        Self::Kill,
        Self::Stop,
        Self::FailedSync,
    ];

    fn random(random: u64, may_end_the_process: bool) -> Self {
        let choices = match may_end_the_process {
            true => &Self::ALL[..],
            false => &Self::ALL[..2],
        };
        choices[(random % choices.len() as u64) as usize]
    }

    fn name(self) -> &'static str {
        match self {
            Self::Reload => "reloads",
            Self::FullDisk => "full disks",
            Self::Kill => "kills",
            Self::Stop => "stops",
            Self::FailedSync => "failed syncs",
        }
    }

    fn ends_the_process(self) -> bool {
        matches!(self, Self::Kill | Self::Stop | Self::FailedSync)
    }

    /// Lets it happen, and starts the exporter again where that ended it.
    fn make(self, exporter: &mut Exporter, folder: &TempDir, soak: &Soak) {
        let tell = |name: &str| {
            let path = folder.path().join(name);
            fs::write(&path, "-wal").unwrap();
            path
        };
        match self {
            Self::Reload => exporter.signal("HUP"),
            Self::FullDisk => {
                let full = tell("full");
                let wanted = soak.put_off.load(Relaxed) + 20;
                wait_for("webhooks to be put off", || {
                    soak.put_off.load(Relaxed) >= wanted
                });
                fs::remove_file(full).unwrap();
            }
            Self::Kill => drop(exporter.end("KILL")),
            Self::Stop => assert!(exporter.end("TERM").success()),
            Self::FailedSync => {
                tell("fails");
                assert!(!exporter.wait().success());
            }
        }
        if self.ends_the_process() {
            *exporter = exporter.start_again();
            *soak.addresses.lock().unwrap() = [exporter.web, exporter.webhook];
        }
    }
}

/// A webhook of its own about a number of the sender's.
fn webhook(sender: usize, index: u64) -> String {
    let number = format!("15{sender:02}{:07}", index % NUMBERS);
    let value = json!({"display_phone_number": number, "event": "FLAGGED"});
    let changes = json!([{"field": "phone_number_quality_update", "value": value}]);
    let entry = json!([{"id": "1", "time": 1_700_000_000 + index, "changes": changes}]);
    json!({"object": "whatsapp_business_account", "entry": entry}).to_string()
}

/// How many webhooks that were acknowledged are not counted, and how many are counted more than
/// once.
fn lost_and_counted_twice(exporter: &Exporter, acknowledged: &[u64]) -> (u64, u64) {
    let (mut lost, mut twice) = (0, 0);
    let samples = exporter.samples();
    let events = samples.iter().filter(|sample| {
        sample.name == "whatsapp_phone_number_quality_events_total"
            && sample.labels["event"] == "FLAGGED"
    });
    let mut counted: BTreeMap<&str, u64> = events
        .map(|sample| (sample.labels["phone_number"].as_str(), sample.value as u64))
        .collect();
    for (sender, sent) in acknowledged.iter().enumerate() {
        for number in 0..NUMBERS {
            let wanted = (sent + NUMBERS - 1 - number) / NUMBERS;
            let name = format!("15{sender:02}{number:07}");
            let there = counted.remove(name.as_str()).unwrap_or(0);
            lost += wanted.saturating_sub(there);
            twice += there.saturating_sub(wanted);
        }
    }
    assert!(counted.is_empty(), "numbers that nobody sent: {counted:?}");
    (lost, twice)
}

/// The resident memory of the process in MiB.
fn resident(exporter: &Exporter) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", exporter.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.unwrap().trim().trim_end_matches(" kB");
    kibibytes.parse::<f64>().unwrap() / 1024.0
}
