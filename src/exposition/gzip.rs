//! A gzip member out of chunks that were compressed apart, so that a chunk that stays as it is needs to be compressed only once.
//!
//! Each chunk is a run of deflate blocks that looks back at nothing before it and ends at a byte, as a full flush leaves it
//! (RFC 1951, 3.2.4). Runs can be put one behind the other, and what is left is the checksum of them all, which is made of
//! theirs.

use bytes::Bytes;
use flate2::{Compress, Compression, Crc, FlushCompress};

/// Method deflate, no flags, no time, no hint, and a system that is not told: RFC 1952, 2.3.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// The last block of a deflate stream, which is empty: fixed codes, and the end at once.
const LAST_BLOCK: [u8; 2] = [0x03, 0x00];

/// A chunk.
#[derive(Debug)]
pub(super) struct CompressedChunk {
    deflate: Bytes,
    crc: Crc,
}

/// Packs chunks. Its tables are some hundred KiB: one is enough.
#[derive(Debug)]
pub(super) struct GzipEncoder {
    deflate: Compress,
    buffer: Vec<u8>,
}

impl GzipEncoder {
    pub fn new() -> Self {
        // The first level: the text repeats itself so much that the others gain little.
        Self { deflate: Compress::new(Compression::new(1), false), buffer: Vec::new() }
    }

    pub fn compress(&mut self, text: &[u8]) -> CompressedChunk {
        self.deflate.reset();
        self.buffer.clear();
        loop {
            // What cannot be compressed grows by little; room for it lets one call do.
            self.buffer.reserve(text.len() + text.len() / 64 + 256);
            let done = usize::try_from(self.deflate.total_in()).unwrap_or(text.len());
            let compressed = self.deflate.compress_vec(&text[done..], &mut self.buffer, FlushCompress::Full);
            compressed.expect("deflating what is in memory cannot fail");
            // Room that is left over says that the flush is complete.
            if self.buffer.len() < self.buffer.capacity() {
                break;
            }
        }
        let mut crc = Crc::new();
        crc.update(text);
        CompressedChunk { deflate: Bytes::copy_from_slice(&self.buffer), crc }
    }
}

/// A member that is being put together.
#[derive(Debug)]
pub(super) struct GzipMember {
    chunks: Vec<Bytes>,
    crc: Crc,
}

impl GzipMember {
    pub fn new() -> Self {
        Self { chunks: vec![Bytes::from_static(&HEADER)], crc: Crc::new() }
    }

    pub fn push(&mut self, chunk: &CompressedChunk) {
        self.crc.combine(&chunk.crc);
        self.chunks.push(chunk.deflate.clone());
    }

    pub fn finish(mut self) -> Vec<Bytes> {
        let mut end = LAST_BLOCK.to_vec();
        end.extend_from_slice(&self.crc.sum().to_le_bytes());
        end.extend_from_slice(&self.crc.amount().to_le_bytes());
        self.chunks.push(end.into());
        self.chunks
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn unpacked(chunks: &[Bytes]) -> Vec<u8> {
        let member = chunks.concat();
        // One member, and nothing behind it: what is left over would be lost.
        let mut decoder = GzDecoder::new(&member[..]);
        let mut text = Vec::new();
        decoder.read_to_end(&mut text).expect("a member with the right checksum");
        assert!(decoder.into_inner().is_empty());
        text
    }

    proptest! {
        #[test]
        fn pieces_make_one_member(chunks in vec(vec(prop_oneof![any::<u8>(), Just(b'a')], 0..3_000), 0..12)) {
            let mut encoder = GzipEncoder::new();
            let compressed: Vec<_> = chunks.iter().map(|chunk| encoder.compress(chunk)).collect();
            let mut member = GzipMember::new();
            compressed.iter().for_each(|chunk| member.push(chunk));
            prop_assert_eq!(unpacked(&member.finish()), chunks.concat());
        }
    }

    #[test]
    fn what_cannot_be_packed_is_whole() {
        let mut rng = fastrand::Rng::with_seed(7);
        let noise: Vec<u8> = (0..1_000_000).map(|_| rng.u8(..)).collect();
        let mut member = GzipMember::new();
        member.push(&GzipEncoder::new().compress(&noise));
        assert_eq!(unpacked(&member.finish()), noise);
    }
}
