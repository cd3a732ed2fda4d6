//! One gzip member (RFC 1952) glued from pieces that were deflated (RFC 1951) each for itself.
//!
//! A piece ends in an empty stored block, and so on a byte's boundary, and refers to nothing before
//! it; the member is the pieces in any order, an empty last block, and the check of them all.
//! Concatenated members would be simpler, and break curl and browsers.

use bytes::Bytes;
use crc32fast::Hasher;
use flate2::{Compress, Compression, FlushCompress, Status};

/// Method 8 (deflate), no flags, no MTIME, XFL 0, OS 255 (unknown).
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// A last block with fixed codes and nothing in it.
const LAST_BLOCK: [u8; 2] = [3, 0];

/// CRC-32 and length of a text, which the end of a gzip member holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Check {
    pub(super) crc: u32,
    pub(super) length: u64,
}

impl Check {
    /// The check of a text.
    pub fn of(text: &[u8]) -> Self {
        Self {
            crc: crc32fast::hash(text),
            length: text.len() as u64,
        }
    }

    /// The check of this text and then the other.
    pub fn followed_by(self, next: Self) -> Self {
        let mut hasher = Hasher::new_with_initial_len(self.crc, self.length);
        hasher.combine(&Hasher::new_with_initial_len(next.crc, next.length));
        Self {
            crc: hasher.finalize(),
            length: self.length + next.length,
        }
    }
}

/// Deflates pieces; its tables are used again.
#[derive(Debug)]
pub struct Deflater(Compress);

impl Default for Deflater {
    fn default() -> Self {
        Self(Compress::new(Compression::fast(), false))
    }
}

impl Deflater {
    /// Appends the piece that inflates to `text`; nothing for nothing.
    pub fn deflate(&mut self, text: &[u8], to: &mut Vec<u8>) {
        if text.is_empty() {
            return;
        }
        self.0.reset();
        let mut rest = text;
        loop {
            to.reserve(rest.len() / 8 + 64);
            let before = self.0.total_in();
            let status = self.0.compress_vec(rest, to, FlushCompress::Sync);
            let read = usize::try_from(self.0.total_in() - before).unwrap_or_default();
            rest = rest.get(read..).unwrap_or_default();
            // When all is read and room was left, the flush has been written, too.
            let done = rest.is_empty() && to.len() < to.capacity();
            if done || !matches!(status, Ok(Status::Ok | Status::BufError)) {
                return;
            }
        }
    }
}

/// A member in the making.
#[derive(Debug)]
pub struct Member {
    pieces: Vec<Bytes>,
    check: Check,
}

impl Default for Member {
    fn default() -> Self {
        Self {
            pieces: vec![Bytes::from_static(&HEADER)],
            check: Check::default(),
        }
    }
}

impl Member {
    /// Adds pieces and the check of their text.
    pub fn push(&mut self, pieces: impl IntoIterator<Item = Bytes>, check: Check) {
        self.pieces.extend(pieces);
        self.check = self.check.followed_by(check);
    }

    /// The whole member, in pieces.
    pub fn finish(mut self) -> Vec<Bytes> {
        let mut end = LAST_BLOCK.to_vec();
        end.extend_from_slice(&self.check.crc.to_le_bytes());
        // The length modulo 2^32.
        end.extend_from_slice(&(self.check.length as u32).to_le_bytes());
        self.pieces.push(end.into());
        self.pieces
    }
}
