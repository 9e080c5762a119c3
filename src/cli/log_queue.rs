//! Log lines on their way to standard error, and the thread that writes them.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

use crate::sync::lock;
use crate::telemetry::log_lines_dropped;

/// Bytes of lines that may be queued. At the bound lines are dropped and counted: a log that nobody reads must hold up
/// neither a feed nor a scrape.
const QUEUE_BYTES_MAX: usize = 1024 * 1024;

/// Dropped lines are reported once the queue holds no more than this, so that the report itself finds room.
const REPORT_BYTES: usize = QUEUE_BYTES_MAX / 2;

/// Delay before a write is tried again where standard error is a pipe that does not block, and full.
const RETRY_AFTER: Duration = Duration::from_millis(20);

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

impl Pending {
    fn drop_line(&mut self) {
        self.dropped += 1;
        log_lines_dropped(1);
    }
}

impl LogQueue {
    /// A queue of lines that are written to `out`.
    pub(super) fn new(out: impl Write + Send + 'static) -> Self {
        let pending =
            Pending { out: Some(Box::new(out)), has_thread: false, lines: VecDeque::new(), bytes: 0, dropped: 0 };
        Self(Arc::new(Shared { pending: Mutex::new(pending), changed: Condvar::new() }))
    }

    /// Waits until everything is written, for at most `limit`: the program ends, whether or not it is.
    pub(super) fn flush(&self, limit: Duration) {
        let Shared { pending, changed } = &*self.0;
        drop(changed.wait_timeout_while(lock(pending), limit, |pending| pending.bytes > 0));
    }

    fn push(&self, line: &[u8]) {
        let mut pending = lock(&self.0.pending);
        if pending.bytes + line.len() > QUEUE_BYTES_MAX {
            return pending.drop_line();
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
            let line = self.next();
            let written = write_line(&mut out, &line);
            let dropped = {
                let mut pending = lock(&self.0.pending);
                pending.bytes -= line.len();
                self.0.changed.notify_all();
                match written {
                    Err(_) => {
                        pending.drop_line();
                        0
                    }
                    Ok(()) if pending.bytes > REPORT_BYTES => 0,
                    Ok(()) => std::mem::take(&mut pending.dropped),
                }
            };
            if dropped > 0 {
                tracing::warn!(
                    lines = dropped,
                    "log lines dropped; standard error was not read or could not be written"
                );
            }
        }
    }

    fn next(&self) -> Vec<u8> {
        let mut pending = lock(&self.0.pending);
        loop {
            match pending.lines.pop_front() {
                Some(line) => return line,
                None => pending = self.0.changed.wait(pending).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// Writes the whole line, also where `out` does not block: another process that shares the pipe may have changed that.
fn write_line(out: &mut dyn Write, mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        match out.write(line) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(bytes) => line = &line[bytes..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY_AFTER),
            Err(error) => return Err(error),
        }
    }
    Ok(())
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

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn a_stuck_log_takes_no_time_and_bounded_memory_and_counts_what_it_drops() {
        let (mut reader, writer) = pipe().unwrap();
        let queue = LogQueue::new(writer);
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
        queue.flush(PATIENCE);
        let pending = lock(&queue.0.pending);
        assert_eq!((pending.bytes, pending.dropped), (0, 0), "the report is made once");
    }

    /// Takes a few bytes at a time, and none at every other call.
    struct Reluctant {
        is_full: bool,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Reluctant {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.is_full = !self.is_full;
            if self.is_full {
                return Err(ErrorKind::WouldBlock.into());
            }
            let taken = bytes.len().min(5);
            lock(&self.taken).extend(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_pipe_that_does_not_block_loses_nothing() {
        let taken = Arc::default();
        let queue = LogQueue::new(Reluctant { is_full: false, taken: Arc::clone(&taken) });
        for line in ["the first line\n", "the second line\n"] {
            (&queue).write_all(line.as_bytes()).unwrap();
        }
        queue.flush(PATIENCE);
        assert_eq!(*lock(&taken), b"the first line\nthe second line\n");
        assert_eq!(lock(&queue.0.pending).dropped, 0);
    }

    #[test]
    fn lines_that_cannot_be_written_are_dropped_lines() {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let queue = LogQueue::new(writer);
        for _ in 0..3 {
            (&queue).write_all(b"nobody reads this\n").unwrap();
        }
        queue.flush(PATIENCE);
        assert_eq!(lock(&queue.0.pending).dropped, 3);
    }
}
