//! A process that is killed again and again while 200 senders are at it: what was answered 200 is
//! there, and counts once.

use std::{
    collections::BTreeMap,
    env,
    hash::{BuildHasher, RandomState},
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    thread,
    time::Instant,
};

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::json;

use crate::support::{Answer, Exporter, Sample, connect, parse_answer, sign, value};

const SENDERS: usize = 200;
pub const WEBHOOKS: usize = 20_000;
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
pub const SECRET: &str = "the secret of the app";
const BEGINNING: usize = 1_700_000_000;

/// The bad news of accounts: the field of the webhook, its value, and the word that it counts under.
const NEWS: [(&str, &str, &str); 4] = [
    ("account_update", "event", "ACCOUNT_VIOLATION"),
    ("account_alerts", "alert_severity", "CRITICAL"),
    ("message_template_status_update", "event", "PAUSED"),
    (
        "message_template_quality_update",
        "new_quality_score",
        "RED",
    ),
];

/// The families that count events, and the label of the event.
const FAMILIES: [(&str, &str); 5] = [
    ("whatsapp_phone_number_quality_events_total", "event"),
    ("whatsapp_business_account_events_total", "event"),
    ("whatsapp_business_account_alerts_total", "severity"),
    ("whatsapp_business_account_template_events_total", "event"),
    (
        "whatsapp_business_account_template_quality_events_total",
        "quality",
    ),
];

/// Events by number, or account, and kind.
pub type Counts = BTreeMap<(String, String), usize>;

#[test]
fn webhook_answered_before_a_kill_is_there_after_it_and_counts_once() {
    let began = Instant::now();
    let rounds = from_environment("CRASH_ROUNDS").unwrap_or(8);
    let seed = from_environment("CRASH_SEED").unwrap_or_else(|| RandomState::new().hash_one(0));
    println!("CRASH_SEED={seed} repeats the moments of the kills, as counts of answers");
    let folder = tempfile::tempdir().unwrap();
    let mut exporter = Exporter::start_with(
        folder.path(),
        &[],
        &[("WHATSAPP_EXPORTER_META_APP_SECRET", SECRET)],
    );
    let sent = Sent::default();
    let mut kills = Vec::new();
    for round in 0..rounds {
        let left = u64::try_from(WEBHOOKS - total(&sent.answered())).unwrap();
        let most = 2 * left / (rounds - round + 1);
        let kill_at = 1 + random(seed, round) % most.max(1);
        sent.send_until_killed(&exporter, usize::try_from(kill_at).unwrap());
        exporter.end("KILL");
        // Every second process is killed again, while it loads what is stored.
        if round % 2 == 1 {
            exporter = exporter.begin_again();
            exporter.end("KILL");
        }
        exporter = exporter.start_again();
        sent.check(&counted(&exporter.samples()));
        kills.push(total(&sent.answered()));
    }
    let survivors = total(&counted(&exporter.samples()));

    // As Meta would; and what was answered once more, as it sometimes does.
    let outcomes = send_all(exporter.webhook);
    let lost: Vec<_> = (0..WEBHOOKS)
        .filter(|webhook| sent.answered[*webhook].load(SeqCst) && !outcomes[*webhook])
        .collect();
    assert!(lost.is_empty(), "answered 200 and lost: {lost:?}");
    let repeated = outcomes.iter().filter(|duplicate| **duplicate).count();
    assert_eq!(repeated, survivors);

    let samples = exporter.samples();
    assert_eq!(counted(&samples), counts(|_| true));
    assert_eq!(
        value(&samples, "whatsapp_exporter_phone_numbers", &[]),
        Some((NUMBERS - NUMBERS / 10) as f64)
    );
    assert_newest(&samples);
    let answered = total(&sent.answered());
    println!(
        "{WEBHOOKS} webhooks of {SENDERS} senders over {NUMBERS} numbers, {rounds} kills after \
         {kills:?} answers: {answered} answered, {survivors} there after the last, {} sent again \
         until answered; 0 lost, 0 counted twice; {:.1?}",
        WEBHOOKS - answered,
        began.elapsed()
    );
}

/// Which webhooks were sent, and which of them were answered 200.
struct Sent {
    begun: Vec<AtomicBool>,
    answered: Vec<AtomicBool>,
}

impl Default for Sent {
    fn default() -> Self {
        let none = || (0..WEBHOOKS).map(|_| AtomicBool::new(false)).collect();
        Self {
            begun: none(),
            answered: none(),
        }
    }
}

impl Sent {
    /// Sends what was not answered yet, and kills the process after so many answers.
    fn send_until_killed(&self, exporter: &Exporter, kill_at: usize) {
        let answers = AtomicUsize::new(0);
        thread::scope(|scope| {
            for sender in 0..SENDERS {
                let answers = &answers;
                scope.spawn(move || {
                    let Ok(mut connection) = Connection::open(exporter.webhook) else {
                        return;
                    };
                    for webhook in webhooks_of(sender) {
                        if self.answered[webhook].load(SeqCst) {
                            continue;
                        }
                        self.begun[webhook].store(true, SeqCst);
                        let Ok(answer) = connection.send(webhook) else {
                            return;
                        };
                        assert_eq!(answer.status, 200, "{}", answer.text());
                        self.answered[webhook].store(true, SeqCst);
                        if answers.fetch_add(1, SeqCst) + 1 == kill_at {
                            exporter.signal("KILL");
                        }
                    }
                });
            }
        });
    }

    fn answered(&self) -> Counts {
        counts(|webhook| self.answered[webhook].load(SeqCst))
    }

    /// All that was answered is there, and no more than was sent.
    fn check(&self, there: &Counts) {
        for (of, least) in &self.answered() {
            let count = there.get(of).copied().unwrap_or_default();
            assert!(
                count >= *least,
                "{of:?}: {count} of {least} that were answered"
            );
        }
        let begun = counts(|webhook| self.begun[webhook].load(SeqCst));
        for (of, count) in there {
            let most = begun[of];
            assert!(*count <= most, "{of:?}: {count} of {most} that were sent");
        }
    }
}

fn total(counts: &Counts) -> usize {
    counts.values().sum()
}

/// The number in a variable of the environment.
pub fn from_environment(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {text}")),
    )
}

/// A number that only the seed and the round decide.
pub fn random(seed: u64, round: u64) -> u64 {
    let digest = digest(&SHA256, &[seed.to_le_bytes(), round.to_le_bytes()].concat());
    u64::from_le_bytes(digest.as_ref()[..8].try_into().unwrap())
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

/// The number, or the account, that a webhook is about.
fn number_of(webhook: usize) -> String {
    format!("1555{:07}", webhook % NUMBERS)
}

/// Whether a webhook is about an account: one in ten is.
fn is_about_an_account(webhook: usize) -> bool {
    webhook.is_multiple_of(10)
}

fn news_of(webhook: usize) -> (&'static str, &'static str, &'static str) {
    NEWS[webhook / NUMBERS % NEWS.len()]
}

fn event_of(webhook: usize) -> &'static str {
    match is_about_an_account(webhook) {
        true => news_of(webhook).2,
        false => EVENTS[webhook / NUMBERS % EVENTS.len()],
    }
}

fn limit_of(webhook: usize) -> usize {
    1 + webhook
}

pub fn body_of(webhook: usize) -> String {
    if is_about_an_account(webhook) {
        let (field, name, word) = news_of(webhook);
        let value = json!({name: word, "message_template_id": webhook});
        let changes = json!([{"field": field, "value": value}]);
        let entry =
            json!([{"id": number_of(webhook), "time": BEGINNING + webhook, "changes": changes}]);
        return json!({"object": "whatsapp_business_account", "entry": entry}).to_string();
    }
    let value = json!({"display_phone_number": number_of(webhook), "event": event_of(webhook),
        "current_limit": limit_of(webhook)});
    let changes = json!([{"field": "phone_number_quality_update", "value": value}]);
    let entry = json!([{"id": "102290129340398", "time": BEGINNING + webhook, "changes": changes}]);
    json!({"object": "whatsapp_business_account", "entry": entry}).to_string()
}

/// What some of the webhooks come to.
pub fn counts(is_one: impl Fn(usize) -> bool) -> Counts {
    let mut counts = Counts::new();
    for webhook in (0..WEBHOOKS).filter(|webhook| is_one(*webhook)) {
        *counts
            .entry((number_of(webhook), event_of(webhook).into()))
            .or_default() += 1;
    }
    counts
}

/// What the page shows, without zeros.
pub fn counted(samples: &[Sample]) -> Counts {
    let mut counts = Counts::new();
    for sample in samples.iter().filter(|sample| sample.value > 0.0) {
        let mut families = FAMILIES.iter();
        if let Some((_, label)) = families.find(|(name, _)| *name == sample.name) {
            let number = sample.labels.get("phone_number");
            let about = number.unwrap_or_else(|| &sample.labels["waba_id"]);
            let of = (about.clone(), sample.labels[*label].clone());
            counts.insert(of, sample.value as usize);
        }
    }
    counts
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
    let newest = WEBHOOKS - NUMBERS..WEBHOOKS;
    for newest in newest.filter(|webhook| !is_about_an_account(*webhook)) {
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
pub struct Connection(BufReader<TcpStream>);

impl Connection {
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    fn send(&mut self, webhook: usize) -> io::Result<Answer> {
        self.send_body(&body_of(webhook))
    }

    /// Sends a webhook of Meta's, signed with [`SECRET`].
    pub fn send_body(&mut self, body: &str) -> io::Result<Answer> {
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
