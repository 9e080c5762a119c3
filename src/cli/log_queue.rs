//! Log lines on their way to standard error, and the thread that writes them.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

use crate::sync::lock;

/// Bytes of lines that may be queued. At the bound lines are dropped and counted: a log that nobody reads must hold up
/// neither a feed nor a scrape.
const QUEUE_BYTES_MAX: usize = 1024 * 1024;

/// How long the end of the program waits for lines that are queued.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// Bounded, and shared by whoever logs and the thread that writes. The thread starts with the first line, so that a command
/// that logs nothing has none, and lives as long as the process.
#[derive(Clone)]
pub(super) struct LogQueue(Arc<Shared>);

struct Shared {
    pending: Mutex<Pending>,
    changed: Condvar,
}

struct Pending {
    /// Taken by the thread.
    out: Option<Box<dyn Write + Send>>,
    has_thread: bool,
    lines: VecDeque<Vec<u8>>,
    /// Of `lines`, and of the line that is being written.
    bytes: usize,
    /// Lines that were dropped since they were last reported.
    dropped: u64,
}

/// Writes what is queued when it is dropped, within [`FLUSH_TIMEOUT`].
pub(super) struct FlushOnDrop(LogQueue);

impl LogQueue {
    /// A queue of lines that are written to `out`.
    pub(super) fn new(out: impl Write + Send + 'static) -> (Self, FlushOnDrop) {
        let pending =
            Pending { out: Some(Box::new(out)), has_thread: false, lines: VecDeque::new(), bytes: 0, dropped: 0 };
        let queue = Self(Arc::new(Shared { pending: Mutex::new(pending), changed: Condvar::new() }));
        (queue.clone(), FlushOnDrop(queue))
    }

    fn push(&self, line: &[u8]) {
        let mut pending = lock(&self.0.pending);
        if pending.bytes + line.len() > QUEUE_BYTES_MAX {
            pending.dropped += 1;
            return;
        }
        pending.bytes += line.len();
        pending.lines.push_back(line.to_vec());
        self.0.changed.notify_all();
        if !pending.has_thread {
            let queue = self.clone();
            // If the system starts no thread now, the next line tries again.
            pending.has_thread = thread::Builder::new().name("log".to_owned()).spawn(move || queue.write()).is_ok();
        }
    }

    fn write(&self) {
        let Some(mut out) = lock(&self.0.pending).out.take() else { return };
        loop {
            // If this fails, nobody is left to report it to.
            let line = self.next();
            let _ = out.write_all(&line);
            let dropped = {
                let mut pending = lock(&self.0.pending);
                pending.bytes -= line.len();
                self.0.changed.notify_all();
                if pending.bytes == 0 { std::mem::take(&mut pending.dropped) } else { 0 }
            };
            if dropped > 0 {
                tracing::warn!(lines = dropped, "log lines were dropped: standard error was not read");
            }
        }
    }

    fn next(&self) -> Vec<u8> {
        let mut pending = lock(&self.0.pending);
        loop {
            match pending.lines.pop_front() {
                Some(line) => return line,
                None => pending = self.0.changed.wait(pending).unwrap_or_else(std::sync::PoisonError::into_inner),
            }
        }
    }
}

impl Drop for FlushOnDrop {
    fn drop(&mut self) {
        let Shared { pending, changed } = &*self.0.0;
        let is_written = changed.wait_timeout_while(lock(pending), FLUSH_TIMEOUT, |pending| pending.bytes > 0);
        // Whether or not it is: the program ends.
        drop(is_written);
    }
}

impl<'a> MakeWriter<'a> for LogQueue {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

/// Each call is one line.
impl Write for &LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, pipe};

    use super::*;

    #[test]
    fn a_stuck_log_takes_no_time_and_bounded_memory_and_counts_what_it_drops() {
        let (mut reader, writer) = pipe().unwrap();
        let (queue, flush) = LogQueue::new(writer);
        let line = [b'x'; 1024];
        for _ in 0..4096 {
            (&queue).write_all(&line).unwrap();
        }
        let (bytes, dropped) = {
            let pending = lock(&queue.0.pending);
            (pending.bytes, pending.dropped)
        };
        assert!(bytes <= QUEUE_BYTES_MAX, "{bytes}");
        let written = 4096 - dropped as usize;
        assert!((1024..4096).contains(&written), "{written}");
        // What was not dropped is written, in whole lines, to a reader that comes late.
        let mut read = vec![0; written * line.len()];
        reader.read_exact(&mut read).unwrap();
        assert!(read.iter().all(|byte| *byte == b'x'));
        drop(flush);
        assert_eq!(lock(&queue.0.pending).bytes, 0);
    }
}
