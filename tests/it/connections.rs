//! How long a connection may stay, by a clock that jumps to the next thing due when nothing else is
//! to be done.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::{Request, body::Body};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{Instant, sleep},
};
use whatsapp_quality_exporter::{
    config::Role,
    http::{Answer, Connections, Handler, Limits, PageBody, Protection, serve},
};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
/// More than the sockets' buffers hold.
const LARGE: usize = 64 << 20;

#[tokio::test(start_paused = true)]
async fn half_a_head_is_waited_for_no_longer_than_ten_seconds() {
    for sent in [&b""[..], b"G", b"GET / HTTP/1.1\r\nHost: x\r\n"] {
        let mut stream = connected(start().await).await;
        let began = Instant::now();
        stream.write_all(sent).await.unwrap();
        assert_eq!(rest(&mut stream).await, 0);
        assert_cut(began);
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_drips_is_cut_all_the_same() {
    let mut stream = connected(start().await).await;
    let began = Instant::now();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: ").await.unwrap();
    while stream.write_all(b"x").await.is_ok() && began.elapsed() < Duration::from_secs(60) {
        sleep(Duration::from_secs(1)).await;
    }
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "cut after {:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn next_request_is_waited_for_longer_than_proxies_keep_a_connection() {
    let mut stream = connected(start().await).await;
    for _ in 0..3 {
        exchange(&mut stream).await.unwrap();
        sleep(Duration::from_secs(80)).await;
    }
    exchange(&mut stream).await.unwrap();
    let began = Instant::now();
    assert_eq!(rest(&mut stream).await, 0);
    let waited = began.elapsed();
    assert!(
        (85..=95).contains(&waited.as_secs()),
        "cut after {waited:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn connection_that_waited_longest_gives_its_place_to_a_new_one() {
    let address = start_with(3).await;
    let mut answered = connected(address).await;
    answered
        .write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    sleep(Duration::from_millis(100)).await;
    let mut half = connected(address).await;
    half.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        .await
        .unwrap();
    sleep(Duration::from_millis(100)).await;
    let mut idle = connected(address).await;
    sleep(Duration::from_millis(100)).await;
    // The half of a body has waited longest, then the idle one; what is being answered stays.
    for waiting in [&mut half, &mut idle] {
        let mut new = connected(address).await;
        assert!(exchange(&mut new).await.is_some());
        let _ = rest(waiting).await;
    }
    assert!(answer(&mut answered).await.unwrap().ends_with("done"));
}

#[tokio::test(start_paused = true)]
async fn new_connection_waits_where_all_are_being_answered() {
    let address = start_with(2).await;
    let mut answered = Vec::new();
    for _ in 0..2 {
        let mut stream = connected(address).await;
        stream
            .write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        answered.push(stream);
    }
    sleep(Duration::from_millis(100)).await;
    let began = Instant::now();
    let mut new = connected(address).await;
    assert!(exchange(&mut new).await.is_some());
    assert!(
        began.elapsed() >= Duration::from_secs(59),
        "{:?}",
        began.elapsed()
    );
    for stream in &mut answered {
        assert!(answer(stream).await.unwrap().ends_with("done"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_in_work_is_waited_for() {
    let mut stream = connected(start().await).await;
    let began = Instant::now();
    stream
        .write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    assert!(answer(&mut stream).await.unwrap().ends_with("done"));
    assert!(began.elapsed() >= Duration::from_secs(60));
}

#[tokio::test(start_paused = true)]
async fn connection_that_was_accepted_before_a_stop_is_answered() {
    // Where there are two places the new connection has one, otherwise it waits for one.
    for places in [2, 1] {
        let (address, stop) = start_until_stop(places).await;
        let mut slow = connected(address).await;
        slow.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        sleep(Duration::from_millis(100)).await;
        let mut new = connected(address).await;
        sleep(Duration::from_millis(100)).await;
        stop.send_replace(true);
        sleep(Duration::from_millis(100)).await;
        assert!(exchange(&mut new).await.is_some(), "{places}");
        assert_eq!(rest(&mut new).await, 0, "{places}");
    }
}

#[tokio::test(start_paused = true)]
async fn connection_that_has_waited_is_closed_by_a_stop() {
    let (address, stop) = start_until_stop(10).await;
    let mut idle = connected(address).await;
    exchange(&mut idle).await.unwrap();
    let mut half = connected(address).await;
    half.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        .await
        .unwrap();
    sleep(Duration::from_secs(2)).await;
    let began = Instant::now();
    stop.send_replace(true);
    for stream in [&mut idle, &mut half] {
        // What was not read is lost, with or without an error.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_read_slowly_arrives_whole() {
    for path in ["/large", "/large-in-one-piece"] {
        let mut stream = connected(start().await).await;
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        sleep(Duration::from_secs(60)).await;
        assert!(rest(&mut stream).await > LARGE, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn half_closed_client_is_answered() {
    let mut stream = connected(start().await).await;
    stream
        .write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    stream.shutdown().await.unwrap();
    assert!(answer(&mut stream).await.unwrap().ends_with("done"));
    assert_eq!(rest(&mut stream).await, 0);
}

#[tokio::test(start_paused = true)]
async fn an_old_connection_ends_with_an_answer_that_says_so() {
    let mut stream = connected(start().await).await;
    let began = Instant::now();
    loop {
        let answer = exchange(&mut stream)
            .await
            .expect("an answer to each request");
        if answer
            .to_ascii_lowercase()
            .contains("\r\nconnection: close\r\n")
        {
            break;
        }
        assert!(
            began.elapsed() < Duration::from_secs(330),
            "still open after {:?}",
            began.elapsed()
        );
        sleep(Duration::from_secs(1)).await;
    }
    assert!(
        began.elapsed() >= Duration::from_secs(300),
        "closed after {:?}",
        began.elapsed()
    );
    assert_eq!(rest(&mut stream).await, 0);
}

#[tokio::test(start_paused = true)]
async fn an_old_connection_has_time_for_its_last_answer() {
    let mut stream = connected(start().await).await;
    for _ in 0..60 {
        exchange(&mut stream).await.unwrap();
        sleep(Duration::from_secs(5)).await;
    }
    sleep(Duration::from_secs(3)).await;
    stream
        .write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    sleep(Duration::from_secs(60)).await;
    assert!(rest(&mut stream).await > LARGE);
}

#[tokio::test(start_paused = true)]
async fn no_connection_keeps_its_place_for_ever() {
    let mut stream = connected(start().await).await;
    let began = Instant::now();
    stream
        .write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    sleep(Duration::from_secs(620)).await;
    let mut bytes = Vec::new();
    // What was not read is lost, with or without an error.
    let _ = stream.read_to_end(&mut bytes).await;
    assert!(
        bytes.len() < LARGE && began.elapsed() < Duration::from_secs(621),
        "{} bytes",
        bytes.len()
    );
}

/// Answers at once, after a minute, or much.
struct Answers(Protection);

impl Handler for Answers {
    const VECTORED_WRITES: bool = true;

    fn protection(&self) -> &Protection {
        &self.0
    }

    async fn handle<B: Body<Data = Bytes> + Send>(self: Arc<Self>, request: Request<B>) -> Answer {
        match request.uri().path() {
            "/slow" => sleep(Duration::from_secs(60)).await,
            "/large" => {
                return Answer::new(PageBody::from(vec![
                    Bytes::from(vec![b'x'; 1 << 20]);
                    LARGE >> 20
                ]));
            }
            "/large-in-one-piece" => {
                return Answer::new(PageBody::from(Bytes::from(vec![b'x'; LARGE])));
            }
            _ => {}
        }
        Answer::new(PageBody::from(Bytes::from_static(b"done")))
    }
}

async fn start() -> SocketAddr {
    start_with(100).await
}

async fn start_with(max_connections: usize) -> SocketAddr {
    let (address, stop) = start_until_stop(max_connections).await;
    // It goes on as long as the test.
    std::mem::forget(stop);
    address
}

async fn start_until_stop(max_connections: usize) -> (SocketAddr, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let max_idle = Duration::from_secs(90);
    let limits = Limits {
        max_connections,
        max_idle,
        trusted_proxies: vec![],
    };
    let (stop, stopped) = watch::channel(false);
    let connections = Connections::new(limits);
    let answers = Answers(Protection::new(Role::Web, Arc::default()));
    tokio::spawn(serve(listener, Arc::new(answers), connections, stopped));
    (address, stop)
}

async fn connected(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

/// Asks and reads the answer; `None` where the connection was closed between two requests.
async fn exchange(stream: &mut TcpStream) -> Option<String> {
    stream.write_all(REQUEST).await.ok()?;
    answer(stream).await
}

async fn answer(stream: &mut TcpStream) -> Option<String> {
    let mut read = Vec::new();
    while !read.ends_with(b"done") {
        if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
            assert!(read.is_empty(), "cut in an answer");
            return None;
        }
    }
    Some(String::from_utf8(read).unwrap())
}

/// How many bytes come until the end.
async fn rest(stream: &mut TcpStream) -> usize {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap()
}

#[track_caller]
fn assert_cut(began: Instant) {
    let waited = began.elapsed();
    assert!(
        waited >= Duration::from_secs(7) && waited <= Duration::from_secs(15),
        "cut after {waited:?}"
    );
}
