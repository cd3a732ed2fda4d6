use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;

use super::server::Busy;

/// A body in pieces, sent as they are; its length is known.
#[derive(Debug, Default)]
pub struct Pieces {
    first: Option<Bytes>,
    rest: VecDeque<Bytes>,
    left: u64,
    /// Held until the peer has it all, or is gone.
    _place: Option<OwnedSemaphorePermit>,
    _busy: Option<Busy>,
}

impl Pieces {
    /// A body that keeps a place until it is sent.
    pub(super) fn with_place(pieces: Vec<Bytes>, place: OwnedSemaphorePermit) -> Self {
        Self { _place: Some(place), ..Self::from(pieces) }
    }

    /// This body, while which is sent its connection is busy.
    pub(super) fn keeps_busy(self, busy: Busy) -> Self {
        Self { _busy: Some(busy), ..self }
    }
}

impl From<Vec<Bytes>> for Pieces {
    fn from(pieces: Vec<Bytes>) -> Self {
        Self { left: pieces.iter().map(|piece| piece.len() as u64).sum(), rest: pieces.into(), ..Self::default() }
    }
}

impl From<Bytes> for Pieces {
    fn from(body: Bytes) -> Self {
        Self { left: body.len() as u64, first: Some(body), ..Self::default() }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.first.take().or_else(|| self.rest.pop_front());
        self.left -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
