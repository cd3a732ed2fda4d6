//! A process that is killed while 200 senders are at it: what was answered 200 is there, and counts
//! once.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    thread,
    time::Instant,
};

use serde_json::json;

use crate::support::{Answer, Exporter, Sample, connect, parse_answer, sign, value};

const SENDERS: usize = 200;
const WEBHOOKS: usize = 20_000;
/// So that each is the subject of 20 webhooks: fewer than the 32 deliveries that a number
/// remembers.
const NUMBERS: usize = 1_000;
const EVENTS: [&str; 7] = [
    "DOWNGRADE",
    "FLAGGED",
    "ONBOARDING",
    "THROUGHPUT_UPGRADE",
    "UNFLAGGED",
    "UPGRADE",
    "UNKNOWN",
];
const SECRET: &str = "the secret of the app";
const BEGINNING: usize = 1_700_000_000;

/// Events by number and kind.
type Counts = BTreeMap<(String, String), usize>;

#[test]
fn webhook_answered_before_a_kill_is_there_after_it_and_counts_once() {
    let began = Instant::now();
    let folder = tempfile::tempdir().unwrap();
    let exporter = Exporter::start_with(
        folder.path(),
        &[],
        &[("WHATSAPP_EXPORTER_META_APP_SECRET", SECRET)],
    );
    let (begun, answered) = send_until_killed(&exporter);
    let exporter = exporter.kill_and_restart();
    let there = counted(&exporter.samples());

    let total = |counts: &Counts| counts.values().sum::<usize>();
    let answered_of = counts(|webhook| answered[webhook].load(SeqCst));
    let begun_of = counts(|webhook| begun[webhook].load(SeqCst));
    let (answers, survivors) = (total(&answered_of), total(&there));
    assert!(
        (WEBHOOKS / 2..WEBHOOKS).contains(&answers),
        "{answers} answers are no middle"
    );
    for (of, least) in &answered_of {
        let count = there.get(of).copied().unwrap_or_default();
        assert!(
            count >= *least,
            "{of:?}: {count} of {least} that were answered"
        );
    }
    for (of, count) in &there {
        let most = begun_of[of];
        assert!(*count <= most, "{of:?}: {count} of {most} that were sent");
    }

    // As Meta would; and what was answered once more, as it sometimes does.
    let outcomes = send_all(exporter.webhook);
    let lost: Vec<_> = (0..WEBHOOKS)
        .filter(|webhook| answered[*webhook].load(SeqCst) && !outcomes[*webhook])
        .collect();
    assert!(lost.is_empty(), "answered 200 and lost: {lost:?}");
    let repeated = outcomes.iter().filter(|duplicate| **duplicate).count();
    assert_eq!(repeated, survivors);

    let samples = exporter.samples();
    assert_eq!(counted(&samples), counts(|_| true));
    assert_eq!(
        value(&samples, "whatsapp_exporter_phone_numbers", &[]),
        Some(NUMBERS as f64)
    );
    assert_newest(&samples);
    println!(
        "{WEBHOOKS} webhooks of {SENDERS} senders over {NUMBERS} numbers: {answers} answered before the kill, \
         {survivors} there after it, {} sent again until answered; each counts once; {:.1?}",
        WEBHOOKS - answers,
        began.elapsed()
    );
}

/// Which were sent, and which of them were answered 200, when half of all are.
fn send_until_killed(exporter: &Exporter) -> (Vec<AtomicBool>, Vec<AtomicBool>) {
    let none = || {
        (0..WEBHOOKS)
            .map(|_| AtomicBool::new(false))
            .collect::<Vec<_>>()
    };
    let (begun, answered) = (none(), none());
    let answers = AtomicUsize::new(0);
    thread::scope(|scope| {
        for sender in 0..SENDERS {
            let (begun, answered, answers) = (&begun, &answered, &answers);
            scope.spawn(move || {
                let Ok(mut connection) = Connection::open(exporter.webhook) else {
                    return;
                };
                for webhook in webhooks_of(sender) {
                    begun[webhook].store(true, SeqCst);
                    let Ok(answer) = connection.send(webhook) else {
                        return;
                    };
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    answered[webhook].store(true, SeqCst);
                    if answers.fetch_add(1, SeqCst) + 1 == WEBHOOKS / 2 {
                        exporter.signal("KILL");
                    }
                }
            });
        }
    });
    (begun, answered)
}

/// Sends every webhook and tells of each whether it was a duplicate.
fn send_all(address: SocketAddr) -> Vec<bool> {
    let duplicate = |answer: Answer| {
        assert_eq!(answer.status, 200, "{}", answer.text());
        let counts = answer.json();
        let count = |outcome| counts[outcome].as_u64().unwrap();
        assert_eq!(
            count("applied") + count("stale") + count("duplicate"),
            1,
            "{counts}"
        );
        count("duplicate") == 1
    };
    thread::scope(|scope| {
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| {
                scope.spawn(move || {
                    let mut connection = Connection::open(address).unwrap();
                    webhooks_of(sender)
                        .map(|webhook| duplicate(connection.send(webhook).unwrap()))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        senders
            .into_iter()
            .flat_map(|sender| sender.join().unwrap())
            .collect()
    })
}

/// A block of webhooks about as many numbers, so that each number is the subject of many senders at
/// a time.
fn webhooks_of(sender: usize) -> std::ops::Range<usize> {
    let each = WEBHOOKS / SENDERS;
    sender * each..(sender + 1) * each
}

fn number_of(webhook: usize) -> String {
    format!("1555{:07}", webhook % NUMBERS)
}

fn event_of(webhook: usize) -> &'static str {
    EVENTS[webhook / NUMBERS % EVENTS.len()]
}

fn limit_of(webhook: usize) -> usize {
    1 + webhook
}

fn body_of(webhook: usize) -> String {
    let value = json!({"display_phone_number": number_of(webhook), "event": event_of(webhook),
        "current_limit": limit_of(webhook)});
    let changes = json!([{"field": "phone_number_quality_update", "value": value}]);
    let entry = json!([{"id": "102290129340398", "time": BEGINNING + webhook, "changes": changes}]);
    json!({"object": "whatsapp_business_account", "entry": entry}).to_string()
}

/// What some of the webhooks come to.
fn counts(is_one: impl Fn(usize) -> bool) -> Counts {
    let mut counts = Counts::new();
    for webhook in (0..WEBHOOKS).filter(|webhook| is_one(*webhook)) {
        *counts
            .entry((number_of(webhook), event_of(webhook).into()))
            .or_default() += 1;
    }
    counts
}

/// What the page shows, without zeros.
fn counted(samples: &[Sample]) -> Counts {
    let events = samples
        .iter()
        .filter(|sample| sample.name == "whatsapp_phone_number_quality_events_total");
    events
        .filter(|sample| sample.value > 0.0)
        .map(|sample| {
            (
                (
                    sample.labels["phone_number"].clone(),
                    sample.labels["event"].clone(),
                ),
                sample.value as usize,
            )
        })
        .collect()
}

/// In whatever order they came, the newest webhook of a number is the one that is shown.
fn assert_newest(samples: &[Sample]) {
    let shown = |name| -> BTreeMap<&str, f64> {
        let samples = samples.iter().filter(|sample| sample.name == name);
        samples
            .map(|sample| (sample.labels["phone_number"].as_str(), sample.value))
            .collect()
    };
    let limits = shown("whatsapp_phone_number_messaging_limit");
    let times = shown("whatsapp_phone_number_last_event_timestamp_seconds");
    for newest in WEBHOOKS - NUMBERS..WEBHOOKS {
        let number = number_of(newest);
        assert_eq!(limits[number.as_str()], limit_of(newest) as f64, "{number}");
        assert_eq!(
            times[number.as_str()],
            (BEGINNING + newest) as f64,
            "{number}"
        );
    }
}

/// A connection that is used for many requests.
struct Connection(BufReader<TcpStream>);

impl Connection {
    fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    fn send(&mut self, webhook: usize) -> io::Result<Answer> {
        let body = body_of(webhook);
        let request = format!(
            "POST /webhooks/meta HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             X-Hub-Signature-256: {}\r\nContent-Length: {}\r\n\r\n{body}",
            sign(SECRET, body.as_bytes()),
            body.len()
        );
        self.0.get_mut().write_all(request.as_bytes())?;
        self.receive()
    }

    fn receive(&mut self) -> io::Result<Answer> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if self.0.read_until(b'\n', &mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let mut answer = parse_answer(&head)?;
        answer.body = vec![0; answer.headers["content-length"].parse().unwrap()];
        self.0.read_exact(&mut answer.body)?;
        Ok(answer)
    }
}
