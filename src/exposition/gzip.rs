//! A gzip member of chunks that are compressed independently, so that an unchanged chunk is compressed only once.
//!
//! Each chunk is a run of deflate blocks that refers to nothing before it and ends at a byte, as after a full flush (RFC 1951,
//! 3.2.4). Runs can be concatenated, and the checksum of the whole is combined from theirs.

use bytes::Bytes;
use flate2::{Compress, Compression, Crc, FlushCompress};

/// Method deflate, no flags, no modification time, unknown operating system: RFC 1952, 2.3.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// The final block of the deflate stream: fixed codes, empty.
const LAST_BLOCK: [u8; 2] = [0x03, 0x00];

/// A compressed chunk.
#[derive(Debug)]
pub(super) struct CompressedChunk {
    deflate: Bytes,
    crc: Crc,
}

impl CompressedChunk {
    /// Returns the size of the compressed chunk.
    pub fn bytes(&self) -> usize {
        self.deflate.len()
    }
}

/// Compresses chunks. Its tables take some hundred KiB, so that a view has only one.
///
/// Invariant: between two calls the tables are as new, because a full flush clears them. To reset them as well would clear
/// another 128 KiB a chunk.
#[derive(Debug)]
pub(super) struct GzipEncoder {
    deflate: Compress,
    buffer: Vec<u8>,
}

impl GzipEncoder {
    pub fn new() -> Self {
        // Level 1: the text is so repetitive that higher levels gain little.
        Self { deflate: Compress::new(Compression::new(1), false), buffer: Vec::new() }
    }

    pub fn compress(&mut self, text: &[u8]) -> CompressedChunk {
        self.buffer.clear();
        let begin = self.deflate.total_in();
        loop {
            // Incompressible text grows a little; with this capacity one call is enough.
            self.buffer.reserve(text.len() + text.len() / 64 + 256);
            let done = usize::try_from(self.deflate.total_in() - begin).unwrap_or(text.len());
            let compressed = self.deflate.compress_vec(&text[done..], &mut self.buffer, FlushCompress::Full);
            compressed.expect("deflating what is in memory cannot fail");
            // The flush is complete if capacity is left.
            if self.buffer.len() < self.buffer.capacity() {
                break;
            }
        }
        let mut crc = Crc::new();
        crc.update(text);
        CompressedChunk { deflate: Bytes::copy_from_slice(&self.buffer), crc }
    }
}

/// A gzip member under construction.
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
        // One member and nothing behind it: clients would ignore a second one.
        let mut decoder = GzDecoder::new(&member[..]);
        let mut text = Vec::new();
        decoder.read_to_end(&mut text).expect("a member with the right checksum");
        assert!(decoder.into_inner().is_empty());
        text
    }

    proptest! {
        #[test]
        fn chunks_make_one_member(chunks in vec(vec(prop_oneof![any::<u8>(), Just(b'a')], 0..3_000), 0..12)) {
            let mut encoder = GzipEncoder::new();
            let compressed: Vec<_> = chunks.iter().map(|chunk| encoder.compress(chunk)).collect();
            let mut member = GzipMember::new();
            compressed.iter().for_each(|chunk| member.push(chunk));
            prop_assert_eq!(unpacked(&member.finish()), chunks.concat());
        }
    }

    #[test]
    fn a_chunk_is_compressed_alike_whatever_was_compressed_before() {
        let mut rng = fastrand::Rng::with_seed(11);
        let mut encoder = GzipEncoder::new();
        for bytes in [1, 300, 8_000, 70_000, 8_000, 300, 1] {
            let noise: Vec<u8> = (0..bytes).map(|_| rng.u8(..)).collect();
            for text in [vec![b'a'; bytes], noise] {
                let chunk = encoder.compress(&text);
                assert_eq!(chunk.deflate, GzipEncoder::new().compress(&text).deflate, "{bytes} bytes");
            }
        }
    }

    #[test]
    fn incompressible_text_is_complete() {
        let mut rng = fastrand::Rng::with_seed(7);
        let noise: Vec<u8> = (0..1_000_000).map(|_| rng.u8(..)).collect();
        let mut member = GzipMember::new();
        member.push(&GzipEncoder::new().compress(&noise));
        assert_eq!(unpacked(&member.finish()), noise);
    }
}
