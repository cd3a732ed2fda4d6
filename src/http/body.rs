//! Reads request bodies of unknown senders: bounded in size, in time, and in how many large ones
//! are read at once.

use std::{
    future::{Future, poll_fn},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::{sync::Semaphore, time::timeout};

/// Meta sends up to 3 MiB, 1000 changes.
const MAX_BODY: usize = 4 << 20;
/// How much is read and dropped, so that a sender gets to see the answer.
const MAX_DRAINED: usize = 16 << 20;
/// For the whole body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Bodies larger than this share the permits of [`LARGE_AT_A_TIME`].
const SMALL: usize = 64 << 10;
/// How many large bodies are read at a time.
const LARGE_AT_A_TIME: usize = 16;

/// Reads bodies.
#[derive(Clone, Debug)]
pub(super) struct BodyReader {
    large: Arc<Semaphore>,
}

/// Why there is no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the body is larger than 4 MiB")]
    TooLarge,
    #[error("the body did not arrive within 10 seconds")]
    Slow,
    #[error("the connection broke before the body was whole")]
    Broken,
    #[error("too many large webhooks are being read")]
    Busy,
}

impl Default for BodyReader {
    fn default() -> Self {
        Self {
            large: Arc::new(Semaphore::new(LARGE_AT_A_TIME)),
        }
    }
}

impl BodyReader {
    /// Reads a body to its end.
    pub(super) async fn read(
        &self,
        body: impl Body<Data = Bytes> + Send,
    ) -> Result<Bytes, BodyError> {
        let mut body = std::pin::pin!(body);
        let whole = async {
            let mut first = Bytes::new();
            let mut rest = BytesMut::new();
            let mut large = None;
            while let Some(frame) = body.as_mut().frame().await {
                let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else {
                    continue;
                };
                let length = first.len() + rest.len() + data.len();
                if length > MAX_BODY {
                    return Err(BodyError::TooLarge);
                }
                if length > SMALL && large.is_none() {
                    large = Some(self.large.try_acquire().map_err(|_| BodyError::Busy)?);
                }
                // A body of one frame, as most are, is never copied.
                if first.is_empty() && rest.is_empty() {
                    first = data;
                } else {
                    rest.extend_from_slice(&std::mem::take(&mut first));
                    rest.extend_from_slice(&data);
                }
            }
            Ok(if rest.is_empty() {
                first
            } else {
                rest.freeze()
            })
        };
        let result = {
            let mut whole = std::pin::pin!(whole);
            // Nearly always the body is there with the head, and needs no timer.
            match poll_fn(|context| Poll::Ready(whole.as_mut().poll(context))).await {
                Poll::Ready(result) => result,
                Poll::Pending => Box::pin(timeout(BODY_TIMEOUT, whole))
                    .await
                    .unwrap_or(Err(BodyError::Slow)),
            }
        };
        if matches!(result, Err(BodyError::TooLarge | BodyError::Busy)) {
            drain_body(body).await;
        }
        result
    }
}

/// Reads and drops what is left, within bounds, because closing the connection while a sender still
/// writes would hide the answer.
pub(super) async fn drain_body(body: impl Body<Data = Bytes> + Send) {
    let mut body = std::pin::pin!(body);
    let rest = async {
        let mut read = 0;
        while let Some(Ok(frame)) = body.frame().await {
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > MAX_DRAINED {
                break;
            }
        }
    };
    let _ = Box::pin(timeout(BODY_TIMEOUT, rest)).await;
}
