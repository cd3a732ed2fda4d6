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

/// A body in pieces, sent as they are.
pub struct PageBody {
    piece: Bytes,
    pieces: Pieces,
    /// Released when hyper has taken the last frame, or the connection has ended.
    _permit: Option<OwnedSemaphorePermit>,
    _busy: Option<Busy>,
}

/// Makes pieces as they are sent; an empty one where nothing was found yet.
pub(super) type PieceMaker = Box<dyn Iterator<Item = Bytes> + Send + Sync>;

enum Pieces {
    /// All of them are there, with so many bytes that are not sent yet.
    Made(smallvec::IntoIter<[Bytes; 1]>, u64),
    /// Each is made when the one before is sent.
    ToMake(PieceMaker),
}

impl PageBody {
    fn new(pieces: Pieces) -> Self {
        Self {
            piece: Bytes::new(),
            pieces,
            _permit: None,
            _busy: None,
        }
    }

    fn made(pieces: SmallVec<[Bytes; 1]>) -> Self {
        let left = pieces.iter().map(|piece| piece.len() as u64).sum();
        Self::new(Pieces::Made(pieces.into_iter(), left))
    }

    /// Holds a permit until hyper has taken all of the body.
    pub(super) fn with_permit(self, permit: OwnedSemaphorePermit) -> Self {
        Self {
            _permit: Some(permit),
            ..self
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
        Self::made(pieces.into())
    }
}

impl From<Bytes> for PageBody {
    fn from(body: Bytes) -> Self {
        Self::made(smallvec![body])
    }
}

impl From<PieceMaker> for PageBody {
    fn from(pieces: PieceMaker) -> Self {
        Self::new(Pieces::ToMake(pieces))
    }
}

impl Body for PageBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.piece.is_empty() {
            let piece = match &mut self.pieces {
                Pieces::Made(pieces, _) => pieces.next(),
                Pieces::ToMake(pieces) => pieces.next(),
            };
            let Some(piece) = piece else {
                return Poll::Ready(None);
            };
            if piece.is_empty() {
                // Other connections have a turn in between.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.piece = piece;
        }
        let length = self.piece.len().min(MAX_FRAME);
        if let Pieces::Made(_, left) = &mut self.pieces {
            *left -= length as u64;
        }
        Poll::Ready(Some(Ok(Frame::data(self.piece.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.pieces, Pieces::Made(_, 0))
    }

    fn size_hint(&self) -> SizeHint {
        match self.pieces {
            Pieces::Made(_, left) => SizeHint::with_exact(left),
            Pieces::ToMake(_) => SizeHint::default(),
        }
    }
}
