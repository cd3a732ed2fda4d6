//! The bodies of answers.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use smallvec::{SmallVec, smallvec};
use tokio::sync::OwnedSemaphorePermit;

use super::connection::Busy;

/// Upper bound of one frame. A frame counts as sent when hyper takes it, so a large one would let
/// the idle clock run while a slow client still reads.
const MAX_FRAME: usize = 256 << 10;

/// A body in pieces, sent as they are; its length is known.
#[derive(Debug)]
pub struct PageBody {
    piece: Bytes,
    pieces: smallvec::IntoIter<[Bytes; 1]>,
    left: u64,
    /// Released when hyper has taken the last frame, or the connection has ended.
    _permit: Option<OwnedSemaphorePermit>,
    _busy: Option<Busy>,
}

impl PageBody {
    fn new(pieces: SmallVec<[Bytes; 1]>) -> Self {
        let left = pieces.iter().map(|piece| piece.len() as u64).sum();
        Self {
            piece: Bytes::new(),
            pieces: pieces.into_iter(),
            left,
            _permit: None,
            _busy: None,
        }
    }

    /// A body that holds a permit until hyper has taken all of it.
    pub(super) fn with_permit(pieces: Vec<Bytes>, permit: OwnedSemaphorePermit) -> Self {
        Self {
            _permit: Some(permit),
            ..Self::from(pieces)
        }
    }

    /// Marks the connection busy until this body has been handed to hyper.
    pub(super) fn holding(self, busy: Busy) -> Self {
        Self {
            _busy: Some(busy),
            ..self
        }
    }
}

impl From<Vec<Bytes>> for PageBody {
    fn from(pieces: Vec<Bytes>) -> Self {
        Self::new(pieces.into())
    }
}

impl From<Bytes> for PageBody {
    fn from(body: Bytes) -> Self {
        Self::new(smallvec![body])
    }
}

impl Body for PageBody {
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
        let length = self.piece.len().min(MAX_FRAME);
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
