//! What the exporter is measured against: hyper with nothing behind it, and steps of the way
//! without the disk.

use std::{
    convert::Infallible,
    future::Future,
    net::TcpListener,
    sync::{Arc, Mutex},
    time::SystemTime,
};

use aws_lc_rs::hmac;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, body::Incoming, header::HeaderValue, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    runtime,
};
use tokio_rustls::TlsAcceptor;
use whatsapp_quality_exporter::{
    domain::Timestamp,
    providers::{self, Delivery},
    state::{Fold, Table},
};

use crate::load::SECRET;

const ANSWER: &[u8] = br#"{"applied":1,"duplicate":0,"stale":0,"ignored":0,"invalid":0,"test":0}"#;

/// The body read, 200, nothing else.
pub fn bare(listener: TcpListener) {
    serve(listener, |request: Request<Incoming>| async move {
        let _ = request.into_body().collect().await;
        Response::new(Full::new(Bytes::from_static(ANSWER)))
    });
}

/// A step of a webhook's way through the exporter; each comes after those before it.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
pub enum Stage {
    Verify,
    Parse,
    Fold,
}

/// As the exporter does, in memory alone, up to the last stage.
pub fn memory(listener: TcpListener, last: Stage) {
    let key = Arc::new(hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()));
    let fold = Arc::new(Mutex::new(Fold::new(
        Arc::new(Table::default()),
        usize::MAX,
    )));
    let meta = providers::by_name("meta").expect("Meta");
    serve(listener, move |request: Request<Incoming>| {
        let (key, fold) = (Arc::clone(&key), Arc::clone(&fold));
        async move {
            let answer = || Response::new(Full::new(Bytes::from_static(ANSWER)));
            let (head, body) = request.into_parts();
            let body = body.collect().await.expect("a body").to_bytes();
            // Asked whether it is ready.
            let Some(signature) = head
                .headers
                .get("x-hub-signature-256")
                .map(HeaderValue::as_bytes)
            else {
                return answer();
            };
            let mut decoded = [0; 32];
            base16ct::mixed::decode(&signature["sha256=".len()..], &mut decoded).expect("digits");
            hmac::verify(&key, &body, &decoded).expect("a signature");
            if last < Stage::Parse {
                return answer();
            }
            let parsed = meta
                .parse(&Delivery {
                    method: &Method::POST,
                    query: "",
                    content_type: b"",
                    body: &body,
                })
                .expect("a webhook");
            assert_eq!(parsed.changes.len(), 1);
            if last < Stage::Fold {
                return answer();
            }
            let mut fold = fold.lock().expect("the fold");
            let mut draft = fold.draft();
            for change in &parsed.changes {
                draft.apply(change, Timestamp::from(SystemTime::now()));
            }
            let batch = draft.batch();
            draft.publish(&batch);
            answer()
        }
    });
}

/// The same bytes for everyone; what they are encoded in does not matter to the sender.
pub fn fixed(
    listener: TcpListener,
    bytes: Vec<u8>,
    gzip: bool,
    tls: Option<Arc<rustls::ServerConfig>>,
) {
    let bytes = Bytes::from(bytes);
    serve_over(listener, tls, move |_| {
        let mut answer = Response::new(Full::new(bytes.clone()));
        if gzip {
            answer
                .headers_mut()
                .insert("content-encoding", HeaderValue::from_static("gzip"));
        }
        async move { answer }
    });
}

fn serve<F: Future<Output = Response<Full<Bytes>>> + Send + 'static>(
    listener: TcpListener,
    answer: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static,
) {
    serve_over(listener, None, answer);
}

fn serve_over<F: Future<Output = Response<Full<Bytes>>> + Send + 'static>(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    answer: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static,
) {
    let answer = Arc::new(answer);
    let tls = tls.map(TlsAcceptor::from);
    listener
        .set_nonblocking(true)
        .expect("a socket that does not block");
    runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).expect("no delay");
                let (answer, tls) = (Arc::clone(&answer), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve_connection(stream, answer).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve_connection(stream, answer).await;
                            }
                        }
                    }
                });
            }
        });
}

async fn serve_connection<F: Future<Output = Response<Full<Bytes>>> + Send + 'static>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: Arc<impl Fn(Request<Incoming>) -> F>,
) {
    let service = service_fn(move |request| {
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let http = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
    drop(http);
}
