use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use smallvec::{SmallVec, smallvec};
use tokio::sync::OwnedSemaphorePermit;

use super::server::Busy;

/// What hyper is given at a time: what it has taken counts as sent, and a slow peer needs time for it.
const PIECE: usize = 256 << 10;

/// A body in pieces, sent as they are; its length is known.
#[derive(Debug)]
pub struct Pieces {
    piece: Bytes,
    pieces: smallvec::IntoIter<[Bytes; 1]>,
    left: u64,
    /// Held until the peer has it all, or is gone.
    _place: Option<OwnedSemaphorePermit>,
    _busy: Option<Busy>,
}

impl Pieces {
    fn new(pieces: SmallVec<[Bytes; 1]>) -> Self {
        let left = pieces.iter().map(|piece| piece.len() as u64).sum();
        Self {
            piece: Bytes::new(),
            pieces: pieces.into_iter(),
            left,
            _place: None,
            _busy: None,
        }
    }

    /// A body that keeps a place until it is sent.
    pub(super) fn with_place(pieces: Vec<Bytes>, place: OwnedSemaphorePermit) -> Self {
        Self {
            _place: Some(place),
            ..Self::from(pieces)
        }
    }

    /// This body, while which is sent its connection is busy.
    pub(super) fn keeps_busy(self, busy: Busy) -> Self {
        Self {
            _busy: Some(busy),
            ..self
        }
    }
}

impl From<Vec<Bytes>> for Pieces {
    fn from(pieces: Vec<Bytes>) -> Self {
        Self::new(pieces.into())
    }
}

impl From<Bytes> for Pieces {
    fn from(body: Bytes) -> Self {
        Self::new(smallvec![body])
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.piece.is_empty() {
            let Some(piece) = self.pieces.next() else {
                return Poll::Ready(None);
            };
            self.piece = piece;
        }
        let length = self.piece.len().min(PIECE);
        self.left -= length as u64;
        Poll::Ready(Some(Ok(Frame::data(self.piece.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
