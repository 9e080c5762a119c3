//! Output of commands.
//!
//! A command without an event loop uses [`print`], which blocks. One with an event loop uses [`Output`], which has a
//! thread of its own: neither a pipe that nobody reads nor a slow disk holds up a feed, a timer or a signal.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::CommandError;

/// Chunks that are queued and not yet written, of at most [`CHUNK_BYTES_MAX`] each. At the bound [`Output::write`] waits.
const CHUNKS_MAX: usize = 16;

const CHUNK_BYTES_MAX: usize = 64 * 1024;

/// How long standard output may still take what is queued once a signal has ended the command.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Writes to standard output. A reader that closes the pipe, as `head` does, has read all that it wants.
///
/// # Errors
/// Standard output takes nothing more.
pub(super) fn print(bytes: &[u8]) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    unless_broken_pipe(out.write_all(bytes).and_then(|()| out.flush()))
}

pub(super) fn unless_broken_pipe(written: io::Result<()>) -> Result<(), CommandError> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(CommandError::Output),
    }
}

/// A thread that writes chunks in the order in which they are queued, each with a call of its own: what is written
/// survives whatever ends the process.
pub(super) struct Output {
    chunks: mpsc::Sender<Bytes>,
    written: oneshot::Receiver<io::Result<()>>,
}

/// The thread has ended because a write failed; [`Output::finish`] returns the error.
#[derive(Debug)]
pub(super) struct WriteFailed;

impl Output {
    /// # Errors
    /// No thread, or no descriptor for it.
    pub(super) fn to_stdout() -> io::Result<Self> {
        // A descriptor of its own: a thread that is stuck in a write must not hold the lock of `io::stdout`.
        Self::to_file(File::from(io::stdout().as_fd().try_clone_to_owned()?))
    }

    /// # Errors
    /// No thread.
    pub(super) fn to_file(mut file: File) -> io::Result<Self> {
        let (chunks, mut queue) = mpsc::channel::<Bytes>(CHUNKS_MAX);
        let (done, written) = oneshot::channel();
        thread::Builder::new().name("output".to_owned()).spawn(move || {
            let mut result = Ok(());
            while result.is_ok()
                && let Some(chunk) = queue.blocking_recv()
            {
                result = file.write_all(&chunk);
            }
            // Without a receiver nobody waits for the end.
            let _ = done.send(result);
        })?;
        Ok(Self { chunks, written })
    }

    /// Queues `bytes`. Waits while the queue is full.
    ///
    /// # Errors
    /// An earlier write has failed.
    pub(super) async fn write(&self, bytes: impl Into<Bytes>) -> Result<(), WriteFailed> {
        let mut bytes = bytes.into();
        while !bytes.is_empty() {
            let chunk = bytes.split_to(bytes.len().min(CHUNK_BYTES_MAX));
            self.chunks.send(chunk).await.map_err(|_| WriteFailed)?;
        }
        Ok(())
    }

    /// Waits until everything is written.
    ///
    /// # Errors
    /// A write has failed; nothing was written after it.
    pub(super) async fn finish(self) -> io::Result<()> {
        let Self { chunks, written } = self;
        drop(chunks);
        written.await.unwrap_or_else(|_| Err(io::Error::other("the output thread panicked")))
    }

    /// The end of standard output: [`Output::finish`], but what is not read within [`DRAIN_TIMEOUT`] of `shutdown` is
    /// discarded with a warning, and a closed pipe is no error.
    ///
    /// # Errors
    /// Standard output takes nothing more.
    pub(super) async fn finish_unless(self, shutdown: &CancellationToken) -> Result<(), CommandError> {
        let given_up = async {
            shutdown.cancelled().await;
            tokio::time::sleep(DRAIN_TIMEOUT).await;
        };
        tokio::select! {
            written = self.finish() => unless_broken_pipe(written),
            () = given_up => {
                tracing::warn!("standard output is not read; the rest of the output is discarded");
                Ok(())
            }
        }
    }
}
