//! A load of webhooks on keep-alive connections, from one thread.

use std::{
    cell::Cell,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use aws_lc_rs::hmac;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime,
    task::{LocalSet, spawn_local},
    time::sleep_until,
};

pub const SECRET: &str = "benchmark";
/// When what is sent happened, at the earliest.
pub const EPOCH: u64 = 1_700_000_000;

/// What a load came to.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub per_second: f64,
    pub requests: usize,
    /// In seconds.
    pub p99: f64,
}

/// Requests that were made before they are sent, so that sending is all that is measured.
pub struct Requests(Vec<Vec<u8>>);

impl Requests {
    /// Signed webhooks of 350 bytes over `numbers` phone numbers, each with a time of its own from
    /// `time` on.
    pub fn webhooks(count: usize, numbers: usize, time: u64) -> Self {
        // Numbers in no order: neighbours would share a page of the database.
        let number = |index: usize| index.wrapping_mul(7_919_177) % numbers;
        Self::signed((0..count).map(|index| webhook(number(index), time + index as u64)))
    }

    /// These bodies, as Meta signs them.
    pub fn signed(bodies: impl Iterator<Item = String>) -> Self {
        Self(bodies.map(|body| signed(&body)).collect())
    }

    /// What Pushgateway takes for the same: three gauges in a group of the number, described as
    /// client libraries do, in about 350 bytes.
    pub fn pushes(count: usize, numbers: usize) -> Self {
        let gauge = |name, value| {
            let name = format!("whatsapp_number_{name}");
            format!("# HELP {name} Of its webhook.\n# TYPE {name} gauge\n{name} {value}\n")
        };
        let request = |index: usize| {
            let time = EPOCH + index as u64;
            let body =
                gauge("flagged", time % 2) + &gauge("limit", 10_000) + &gauge("event_time", time);
            let number = index % numbers;
            format!("PUT /metrics/job/whatsapp/phone_number/{number} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len())
                .into_bytes()
        };
        Self((0..count).map(request).collect())
    }

    /// Sends them on so many connections, until all are sent or the time is up.
    pub fn send(self, address: SocketAddr, connections: usize, time: Duration) -> Load {
        self.paced(address, connections, time, None)
    }

    /// Sends all of them, so many a second.
    pub fn send_at(self, address: SocketAddr, connections: usize, per_second: f64) -> Load {
        self.paced(
            address,
            connections,
            Duration::from_secs(600),
            Some(per_second),
        )
    }

    fn paced(
        self,
        address: SocketAddr,
        connections: usize,
        time: Duration,
        per_second: Option<f64>,
    ) -> Load {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let requests = Rc::new(self.0);
        LocalSet::new().block_on(&runtime, async {
            let next = Rc::new(Cell::new(0));
            let mut streams = Vec::new();
            for _ in 0..connections {
                let stream = TcpStream::connect(address).await.expect("a connection");
                stream.set_nodelay(true).expect("no delay");
                streams.push(stream);
            }
            let began = Instant::now();
            let mut senders = Vec::new();
            for mut stream in streams {
                let (requests, next) = (Rc::clone(&requests), Rc::clone(&next));
                senders.push(spawn_local(async move {
                    let mut latencies = Vec::new();
                    let mut buffer = vec![0; 4096];
                    while began.elapsed() < time {
                        let index = next.replace(next.get() + 1);
                        let Some(request) = requests.get(index) else {
                            break;
                        };
                        let mut sent = Instant::now();
                        if let Some(per_second) = per_second {
                            // Counted from when it was due: who is late waits for everyone.
                            let due = began + Duration::from_secs_f64(index as f64 / per_second);
                            sleep_until(due.into()).await;
                            sent = due;
                        }
                        stream.write_all(request).await.expect("to send");
                        assert!(
                            read_answer(&mut stream, &mut buffer).await,
                            "an answer other than 200 or 202"
                        );
                        latencies.push(sent.elapsed());
                    }
                    latencies
                }));
            }
            let mut all = Vec::new();
            for sender in senders {
                all.extend(sender.await.expect("a sender"));
            }
            let elapsed = began.elapsed().as_secs_f64();
            all.sort_unstable();
            Load {
                per_second: all.len() as f64 / elapsed,
                requests: all.len(),
                p99: all[all.len() * 99 / 100].as_secs_f64(),
            }
        })
    }
}

/// A request with this body, as Meta signs it.
pub fn signed(body: &str) -> Vec<u8> {
    let head = format!(
        "POST /webhooks/meta HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         X-Hub-Signature-256: {}\r\nContent-Length: {}\r\n\r\n",
        signature(body),
        body.len()
    );
    [head.as_bytes(), body.as_bytes()].concat()
}

/// The header with which Meta signs a body.
pub fn signature(body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = hmac::sign(&key, body.as_bytes());
    signature
        .as_ref()
        .iter()
        .fold("sha256=".to_owned(), |text, byte| {
            text + &format!("{byte:02x}")
        })
}

/// A webhook as Meta sends it, with what else it has in it, to 350 bytes.
pub fn webhook(number: usize, time: u64) -> String {
    let event = if time.is_multiple_of(2) {
        "FLAGGED"
    } else {
        "UNFLAGGED"
    };
    let mut body = format!(
        r#"{{"object":"whatsapp_business_account","entry":[{{"id":"10229013{:07}","time":{time},"changes":[{{"value":{{"display_phone_number":"1555{number:07}","event":"{event}","current_limit":"TIER_10K","old_limit":"TIER_10K","more":""#,
        number / 20
    );
    const END: &str = r#""},"field":"phone_number_quality_update"}]}]}"#;
    while body.len() + END.len() < 350 {
        body.push('x');
    }
    body + END
}

/// Whether it is 200 or 202, once all of it is read.
async fn read_answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> bool {
    let mut read = 0;
    loop {
        if read == buffer.len() {
            buffer.resize(buffer.len() * 2, 0);
        }
        let more = stream.read(&mut buffer[read..]).await.expect("to read");
        assert_ne!(more, 0, "the server hung up");
        read += more;
        let Some(head) = buffer[..read]
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
        else {
            continue;
        };
        let mut lines = buffer[..head]
            .split(|byte| *byte == b'\n')
            .map(<[u8]>::trim_ascii);
        let is_ok = lines.next().is_some_and(|line| {
            line.starts_with(b"HTTP/1.1 200") || line.starts_with(b"HTTP/1.1 202")
        });
        let length = lines.find_map(|line| {
            let (name, value) = line.split_at_checked("content-length:".len())?;
            let value = name
                .eq_ignore_ascii_case(b"content-length:")
                .then_some(value.trim_ascii())?;
            std::str::from_utf8(value).ok()?.parse().ok()
        });
        if read >= head + 4 + length.unwrap_or(0) {
            return is_ok;
        }
    }
}
