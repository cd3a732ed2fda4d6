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
use whatsapp_quality_exporter::http::{Answer, Handler, PageBody, serve};

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
async fn the_next_request_is_waited_for_as_long() {
    let mut stream = connected(start().await).await;
    for _ in 0..3 {
        exchange(&mut stream).await.unwrap();
        sleep(Duration::from_secs(5)).await;
    }
    exchange(&mut stream).await.unwrap();
    let began = Instant::now();
    assert_eq!(rest(&mut stream).await, 0);
    assert_cut(began);
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
async fn who_has_said_all_is_answered() {
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
async fn nobody_holds_a_place_for_ever() {
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
struct Answers;

impl Handler for Answers {
    const VECTORED_WRITES: bool = true;

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
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (_stop, stopped) = watch::channel(false);
        serve(listener, Arc::new(Answers), stopped).await;
    });
    address
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
