//! Bodies of many chunks, sent without concatenation.

use std::convert::Infallible;
use std::fmt;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;

/// The chunks of a scrape. They hold their scrape permit until the last byte has been sent or the connection is gone: were it
/// released earlier, clients that read nothing would hold any number of bodies.
#[derive(Clone)]
pub(super) struct ScrapeChunks(Arc<(Vec<Bytes>, OwnedSemaphorePermit)>);

impl ScrapeChunks {
    pub fn new(chunks: Vec<Bytes>, permit: OwnedSemaphorePermit) -> Self {
        Self(Arc::new((chunks, permit)))
    }

    fn chunks(&self) -> &[Bytes] {
        &self.0.0
    }

    pub fn bytes(&self) -> usize {
        self.chunks().iter().map(Bytes::len).sum()
    }
}

impl fmt::Debug for ScrapeChunks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScrapeChunks").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

/// What is left to send of a scrape.
pub(super) struct ScrapeBody {
    scrape: ScrapeChunks,
    /// The first chunk that is not sent completely, and how many of its bytes are.
    chunk: usize,
    sent: usize,
    remaining: usize,
}

impl From<ScrapeChunks> for ScrapeBody {
    fn from(scrape: ScrapeChunks) -> Self {
        let mut body = Self { remaining: scrape.bytes(), scrape, chunk: 0, sent: 0 };
        body.skip_sent_chunks();
        body
    }
}

impl ScrapeBody {
    /// Advances to the first chunk with bytes left: [`Buf::chunk`] may only be empty at the end.
    fn skip_sent_chunks(&mut self) {
        while self.scrape.chunks().get(self.chunk).is_some_and(|chunk| chunk.len() == self.sent) {
            self.chunk += 1;
            self.sent = 0;
        }
    }
}

impl Buf for ScrapeBody {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        self.scrape.chunks().get(self.chunk).map_or(&[], |chunk| &chunk[self.sent..])
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let chunks = self.scrape.chunks().get(self.chunk..).unwrap_or_default();
        let mut skipped = self.sent;
        let mut filled = 0;
        for (slice, chunk) in slices.iter_mut().zip(chunks) {
            *slice = IoSlice::new(&chunk[std::mem::take(&mut skipped)..]);
            filled += 1;
        }
        filled
    }

    fn advance(&mut self, mut bytes: usize) {
        assert!(bytes <= self.remaining, "advanced beyond the end");
        self.remaining -= bytes;
        while bytes > 0 {
            let of_piece = bytes.min(self.chunk().len());
            self.sent += of_piece;
            bytes -= of_piece;
            self.skip_sent_chunks();
        }
    }
}

/// The body of a response: one of warp's, or a scrape.
pub(super) enum Answer<B> {
    Page(B),
    Scrape(Option<ScrapeBody>),
}

/// The data of an [`Answer`].
pub(super) enum Data {
    Page(Bytes),
    Scrape(ScrapeBody),
}

impl<B: Body<Data = Bytes> + Unpin> Body for Answer<B> {
    type Data = Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match &mut *self {
            Self::Page(page) => Pin::new(page)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map(|frame| frame.map_data(Data::Page)))),
            Self::Scrape(body) => Poll::Ready(body.take().map(|body| Ok(Frame::data(Data::Scrape(body))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Page(page) => page.is_end_stream(),
            Self::Scrape(body) => body.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Page(page) => page.size_hint(),
            Self::Scrape(body) => SizeHint::with_exact(body.as_ref().map_or(0, |body| body.remaining as u64)),
        }
    }
}

impl Buf for Data {
    fn remaining(&self) -> usize {
        match self {
            Self::Page(bytes) => bytes.remaining(),
            Self::Scrape(body) => body.remaining(),
        }
    }

    fn chunk(&self) -> &[u8] {
        match self {
            Self::Page(bytes) => bytes.chunk(),
            Self::Scrape(body) => body.chunk(),
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        match self {
            Self::Page(bytes) => bytes.chunks_vectored(slices),
            Self::Scrape(body) => body.chunks_vectored(slices),
        }
    }

    fn advance(&mut self, bytes: usize) {
        match self {
            Self::Page(page) => page.advance(bytes),
            Self::Scrape(body) => body.advance(bytes),
        }
    }
}

/// Replaces the body of a response by the scrape that a filter stored among its extensions, if it did.
pub(super) fn with_scrape_body<B>(
    answered: Result<hyper::Response<B>, Infallible>,
) -> Result<hyper::Response<Answer<B>>, Infallible> {
    answered.map(|mut response| match response.extensions_mut().remove::<ScrapeChunks>() {
        Some(scrape) => response.map(|_| Answer::Scrape(Some(scrape.into()))),
        None => response.map(Answer::Page),
    })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use tokio::sync::Semaphore;

    use super::*;

    proptest! {
        #[test]
        fn every_piece_is_sent_once(
            chunks in vec(vec(any::<u8>(), 0..20), 0..20),
            takes in vec((1_usize..5, 1_usize..40), 1..60),
        ) {
            let whole = chunks.concat();
            let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
            let scrape = ScrapeChunks::new(chunks.into_iter().map(Bytes::from).collect(), permit);
            let (mut body, mut sent) = (ScrapeBody::from(scrape), Vec::new());
            for (slices, bytes) in takes.into_iter().cycle().take(2_000) {
                prop_assert_eq!(body.chunk().is_empty(), !body.has_remaining());
                let mut vectored = vec![IoSlice::new(&[]); slices];
                let filled = body.chunks_vectored(&mut vectored);
                let seen: Vec<u8> = vectored[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
                let taken = bytes.min(seen.len());
                sent.extend_from_slice(&seen[..taken]);
                body.advance(taken);
            }
            prop_assert_eq!(sent, whole);
            prop_assert_eq!(body.remaining(), 0);
        }
    }
}
