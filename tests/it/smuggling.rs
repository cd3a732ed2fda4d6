//! Requests in shapes with which one request is smuggled inside another, and paths that seek the
//! other listener: each request has one answer, and nothing that it hides is answered.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr},
};

use crate::support::{Exporter, connect, parse_answer};

/// A webhook that would add a number if it were read as a request of its own.
const HIDDEN: &str =
    "GET /webhooks/kaleyra?phone_no=15559999999&event=FLAGGED HTTP/1.1\r\nHost: x\r\n\r\n";

/// The rest of a request after `POST /webhooks/meta HTTP/1.1` and its `Host`.
struct Shape {
    /// Further headers, each with its end of line.
    headers: &'static str,
    /// Before the hidden request.
    body: &'static str,
    status: u16,
    /// Whether the exporter counts it; hyper itself answers what is no request.
    is_counted: bool,
}

/// A shape that hyper refuses.
const fn no_request(headers: &'static str) -> Shape {
    Shape {
        headers,
        body: "{}",
        status: 400,
        is_counted: false,
    }
}

/// A body in chunks.
const fn chunked(body: &'static str, status: u16) -> Shape {
    Shape {
        headers: "Transfer-Encoding: chunked\r\n",
        body,
        status,
        is_counted: true,
    }
}

/// A body that has both lengths: it ends where its chunks end, and the connection with it.
const fn both(headers: &'static str) -> Shape {
    Shape {
        headers,
        body: "2\r\n{}\r\n0\r\n\r\n",
        status: 200,
        is_counted: true,
    }
}

const SHAPES: &[Shape] = &[
    both("Content-Length: 12\r\nTransfer-Encoding: chunked\r\n"),
    both("Transfer-Encoding: chunked\r\nContent-Length: 12\r\n"),
    both("Transfer-Encoding: chunked\r\nContent-Length: 4\r\nContent-Length: 5\r\n"),
    both("Content-Length: 12\r\nTransfer-Encoding: Chunked\r\n"),
    no_request("Content-Length: 2\r\nContent-Length: 3\r\n"),
    no_request("Content-Length: 2, 2\r\n"),
    no_request("Content-Length: +2\r\n"),
    no_request("Content-Length: -2\r\n"),
    no_request("Content-Length: 0x2\r\n"),
    no_request("Content-Length: 2 0\r\n"),
    no_request("Content-Length: 99999999999999999999\r\n"),
    no_request("Content-Length : 2\r\n"),
    no_request("Content-Length\r\n"),
    no_request("Transfer-Encoding: xchunked\r\n"),
    no_request("Transfer-Encoding: identity\r\n"),
    no_request("Transfer-Encoding: chunked, identity\r\n"),
    no_request("Transfer-Encoding : chunked\r\n"),
    no_request("Transfer-Encoding:\u{b}chunked\r\n"),
    no_request("X: y\r\n Content-Length: 2\r\n"),
    no_request("X: y\r\n\tTransfer-Encoding: chunked\r\n"),
    no_request("X: y\rContent-Length: 2\r\n"),
    no_request("X: y\0\r\n"),
    chunked("2\n{}\r\n0\r\n\r\n", 400),
    chunked("2\r\n{}\n0\r\n\r\n", 400),
    chunked("2\r\n{}0\r\n\r\n", 400),
    chunked("2;a\n{}\r\n0\r\n\r\n", 400),
    chunked("0x2\r\n{}\r\n0\r\n\r\n", 400),
    chunked("-2\r\n{}\r\n0\r\n\r\n", 400),
    chunked("10000000000000002\r\n{}\r\n0\r\n\r\n", 400),
];

#[test]
fn request_of_two_readings_has_one_answer_and_its_connection_ends() {
    let folder = tempfile::tempdir().unwrap();
    let exporter = Exporter::start(folder.path(), &[]);
    let mut counted = 0.0;
    for shape in SHAPES {
        let Shape { headers, body, .. } = shape;
        let request = format!("POST /webhooks/meta HTTP/1.1\r\nHost: x\r\n{headers}\r\n{body}");
        let statuses = statuses(exporter.webhook, &(request.clone() + HIDDEN));
        assert_eq!(statuses, [shape.status], "{request:?}");
        counted += if shape.is_counted { 1.0 } else { 0.0 };
        assert_eq!(requests(&exporter), counted, "{request:?}");
    }
    // In HTTP/1.0 there are no chunks.
    let old = "POST /webhooks/meta HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(statuses(exporter.webhook, &format!("{old}{HIDDEN}")), [400]);
    assert_eq!(requests(&exporter), counted);
    assert_eq!(phone_numbers(&exporter), 0.0);
}

#[test]
fn request_hidden_in_a_body_is_part_of_the_body() {
    let folder = tempfile::tempdir().unwrap();
    let exporter = Exporter::start(folder.path(), &[]);
    let length = HIDDEN.len();
    let chunks = format!("{length:x};name=\"{HIDDEN}\"\r\n{HIDDEN}\r\n0;last\r\n\r\n");
    for (request, status) in [
        (
            format!(
                "POST /webhooks/meta HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{HIDDEN}"
            ),
            400,
        ),
        (
            format!(
                "GET /webhooks/nobody HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{HIDDEN}"
            ),
            404,
        ),
        // An extension of a chunk may hold no end of a line.
        (
            format!(
                "POST /webhooks/meta HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"
            ),
            400,
        ),
        (
            "POST /webhooks/meta HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n\
             2;a=\"b\";c\r\n{}\r\n0;d\r\nContent-Length: 9\r\n\r\n"
                .into(),
            200,
        ),
        // Lines that end without CR are read as lines.
        (
            "POST /webhooks/meta HTTP/1.1\nHost: x\nContent-Length: 2\n\n{}".into(),
            200,
        ),
    ] {
        let before = requests(&exporter);
        assert_eq!(
            statuses(exporter.webhook, &request),
            [status],
            "{request:?}"
        );
        assert_eq!(requests(&exporter), before + 1.0, "{request:?}");
    }
    // What comes after the end of a body is the next request, as it should be.
    let two = "POST /webhooks/meta HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
    assert_eq!(
        statuses(exporter.webhook, &format!("{two}{HIDDEN}")),
        [200, 200]
    );
    assert_eq!(phone_numbers(&exporter), 1.0);
}

#[test]
fn path_that_seeks_another_path_finds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let exporter = Exporter::start(folder.path(), &[]);
    let web = exporter.web;
    let mut targets: Vec<String> = [
        "//metrics",
        "/./metrics",
        "/metrics/",
        "/metrics%00",
        "/%00/metrics",
        "/%2fmetrics",
        "/%6detrics",
        "/%2e%2e/metrics",
        "/webhooks/../metrics",
        "/webhooks/%2e%2e/metrics",
        "/webhooks/..%2fmetrics",
        "/webhooks/%2e%2e%2fmetrics",
        "/webhooks/..%5cmetrics",
        "/webhooks/..;/metrics",
        "/webhooks/meta%2f..%2f..%2fmetrics",
        "/webhooks/meta%00/../../metrics",
        "/webhooks/meta%3f/../../metrics",
        "/webhooks/meta;/../metrics",
        "/webhooks/\\..\\metrics",
        "\\metrics",
        "metrics",
        "*",
        "?/metrics",
    ]
    .map(str::to_owned)
    .into();
    targets.extend([
        // The authority form, and the absolute form with the other listener as its host.
        web.to_string(),
        format!("http://{web}/webhooks/../metrics"),
        format!("http://{web}//metrics"),
        format!("http://metrics@{web}/.."),
        format!("ftp://{web}/.."),
        format!("/webhooks/meta{}", "/..".repeat(15_000)),
        format!("/{}", "a".repeat(60_000)),
    ]);
    for target in &targets {
        for method in ["GET", "POST", "OPTIONS", "CONNECT"] {
            for listener in [exporter.webhook, web] {
                let request = format!(
                    "{method} {target} HTTP/1.1\r\nHost: {web}\r\nContent-Length: 0\r\n\r\n"
                );
                let answer = answers(listener, &request);
                let status = parse_answer(&answer).unwrap().status;
                let named = &target[..target.len().min(60)];
                assert!(
                    [400, 404].contains(&status),
                    "{method} {named} to {listener}: {status}"
                );
                let text = String::from_utf8(answer).unwrap();
                assert!(!text.contains("whatsapp_"), "{method} {named}: {text}");
            }
        }
    }
}

/// The status of each answer to these bytes on one connection.
fn statuses(address: SocketAddr, bytes: &str) -> Vec<u16> {
    let answers = String::from_utf8(answers(address, bytes)).unwrap();
    // A body ends without an end of line, and no body has this text.
    let rest = answers.split("HTTP/1.1 ").skip(1);
    rest.map(|answer| answer[..3].parse().unwrap()).collect()
}

/// All that comes until the end of a connection on which these bytes were sent.
fn answers(address: SocketAddr, bytes: &str) -> Vec<u8> {
    let mut stream = connect(address).unwrap();
    // The connection may be closed before all is sent, which takes nothing from what came.
    let _ = stream.write_all(bytes.as_bytes());
    let _ = stream.shutdown(Shutdown::Write);
    let mut answers = Vec::new();
    let _ = stream.read_to_end(&mut answers);
    answers
}

/// Requests that the webhook listener has answered.
fn requests(exporter: &Exporter) -> f64 {
    let samples = exporter.samples();
    let answered = samples
        .iter()
        .filter(|sample| sample.name == "whatsapp_exporter_webhook_requests_total");
    answered.map(|sample| sample.value).sum()
}

fn phone_numbers(exporter: &Exporter) -> f64 {
    exporter
        .value("whatsapp_exporter_phone_numbers", &[])
        .unwrap()
}
