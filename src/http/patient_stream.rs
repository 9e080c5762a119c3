//! Write timeouts of a connection.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::standstill::Sleep;

/// How long a client may take to close its side after the last response.
const LINGER: Duration = Duration::from_millis(500);

/// A stream whose writes fail once the client has been behind for `write_timeout`: from the first write, flush or shutdown that found
/// the socket full to the moment at which everything is out. Progress in between does not extend the time, so that a
/// client that takes a byte a second is no better off than one that takes none. A TLS stream accepts what is written into a
/// buffer of its own, and is full when it is flushed.
///
/// Closing it drains what the client still sends, for a while. A socket closed over unread bytes is reset, and a reset
/// can overtake the response: a client whose headers were too large would never read the 431.
pub(super) struct PatientStream<S> {
    stream: S,
    write_timeout: Duration,
    deadline: Sleep,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Even,
    Behind,
    Lingering,
}

impl<S> PatientStream<S> {
    pub(super) fn new(stream: S, write_timeout: Duration) -> Self {
        Self { stream, write_timeout, deadline: Sleep::new(Duration::ZERO), phase: Phase::Even }
    }

    fn begin(&mut self, phase: Phase, timeout: Duration) {
        if self.phase != phase {
            self.phase = phase;
            self.deadline.reset(timeout);
        }
    }

    fn limited<T>(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            return done;
        }
        self.begin(Phase::Behind, self.write_timeout);
        ready!(Pin::new(&mut self.deadline).poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client did not take in the response in time")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PatientStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for PatientStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.limited(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.limited(cx, written)
    }

    /// Without vectored writes hyper would copy each body behind its headers.
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes when it has nothing left to write, and again before each attempt to shut down.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if flushed.is_ready() && self.phase == Phase::Behind {
            self.phase = Phase::Even;
        }
        self.limited(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.phase != Phase::Lingering {
            let shut_down = Pin::new(&mut self.stream).poll_shutdown(cx);
            ready!(self.limited(cx, shut_down))?;
            self.begin(Phase::Lingering, LINGER);
        }
        let mut discarded = [0; 4096];
        while Pin::new(&mut self.deadline).poll(cx).is_pending() {
            let mut buf = ReadBuf::new(&mut discarded);
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf));
            if read.is_err() || buf.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// A stream like that of TLS over a full socket: it accepts what is written into a buffer, and gets nothing out.
    struct Full;

    impl AsyncRead for Full {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Full {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    /// How it ends, if it ends at all.
    async fn end(done: impl Future<Output = io::Result<()>>) -> Option<io::ErrorKind> {
        let done = tokio::time::timeout(Duration::from_secs(30), done).await.expect("an end");
        done.err().map(|error| error.kind())
    }

    #[tokio::test]
    async fn a_flush_and_a_shutdown_that_get_nothing_out_end_by_the_write_timeout() {
        let timeout = Duration::from_millis(20);
        let mut stream = PatientStream::new(Full, timeout);
        stream.write_all(b"buffered").await.unwrap();
        assert_eq!(end(stream.flush()).await, Some(io::ErrorKind::TimedOut));
        assert_eq!(end(stream.shutdown()).await, Some(io::ErrorKind::TimedOut));
        let mut stream = PatientStream::new(Full, timeout);
        assert_eq!(end(stream.shutdown()).await, Some(io::ErrorKind::TimedOut));
    }
}
