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

/// A stream whose writes fail once the client has been behind for `write_timeout`: from the first write that found
/// the socket full to the moment at which everything is out. Progress in between does not extend the time, so that a
/// client that takes a byte a second is no better off than one that takes none.
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

    fn limited(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            return written;
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
        if self.phase == Phase::Behind {
            self.phase = Phase::Even;
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.phase != Phase::Lingering {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
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
