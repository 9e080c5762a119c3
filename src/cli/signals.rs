//! Work that a signal ends.

use std::fs::File;
use std::io;
use std::process;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{CommandError, FAILED, logging};
use crate::standstill::Sleep;
use crate::sync::lock;

/// Feeds are one thread's work at most; the other answers scrapes meanwhile.
const WORKER_THREADS: usize = 2;

const STUCK_THREADS_TIMEOUT: Duration = Duration::from_millis(500);

/// A signal within this time of the first is the same request: `timeout` sends its signal to the process and again to
/// the process group.
const SAME_REQUEST: Duration = Duration::from_millis(100);

/// How long after the first signal the process ends, whatever a thread, a database or a feed does. The time for the log comes on
/// top, and both are less than the 5 s that are promised.
const END_TIMEOUT: Duration = Duration::from_secs(4);

/// Descriptors that the threads and the signals need at least. With fewer tokio panics.
const DESCRIPTORS_MIN: usize = 16;

/// Receives SIGHUP from the start of the process on, as its default would end it.
static HANGUPS: Mutex<Option<Signal>> = Mutex::new(None);

/// Begins to receive SIGHUP, for [`take_hangups`].
///
/// # Errors
/// Too few descriptors, or no way to listen for signals.
pub(super) fn receive_hangups() -> Result<(), CommandError> {
    check_descriptors()?;
    // Only registers: what has arrived is passed on by the first event loop that runs.
    let runtime = runtime::Builder::new_current_thread().enable_io().build().map_err(CommandError::Threads)?;
    let _context = runtime.enter();
    *lock(&HANGUPS) = Some(signal(SignalKind::hangup()).map_err(CommandError::Signals)?);
    Ok(())
}

/// Returns SIGHUP as received since [`receive_hangups`]; `None` if that was not called, or this was.
pub(super) fn take_hangups() -> Option<Signal> {
    lock(&HANGUPS).take()
}

/// Runs `work` on threads of its own, with a token that the first SIGINT or SIGTERM cancels. A second one ends the process at
/// once, with 128 and the signal's number as its exit code. Work that has not ended [`END_TIMEOUT`] after the first one is cut
/// off, with [`FAILED`] as the exit code.
///
/// # Errors
/// Too few descriptors, no threads, or no way to listen for signals.
pub(super) fn until_signal<W>(work: impl FnOnce(CancellationToken) -> W) -> Result<W::Output, CommandError>
where
    W: Future,
{
    check_descriptors()?;
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()
        .map_err(CommandError::Threads)?;
    let shutdown = CancellationToken::new();
    watch_signals(shutdown.clone())?;
    let ended = runtime.block_on(work(shutdown));
    // A thread that is stuck in a system call, as in the resolution of a name, must not hold up the end.
    runtime.shutdown_timeout(STUCK_THREADS_TIMEOUT);
    Ok(ended)
}

/// Opens as many files as the event loops will.
fn check_descriptors() -> Result<(), CommandError> {
    let opened: io::Result<Vec<File>> = (0..DESCRIPTORS_MIN).map(|_| File::open("/")).collect();
    opened.map(drop).map_err(CommandError::Descriptors)
}

/// Listens for signals on a thread of its own, so that whatever the others are stuck in, the process ends.
fn watch_signals(shutdown: CancellationToken) -> Result<(), CommandError> {
    let runtime =
        runtime::Builder::new_current_thread().enable_io().enable_time().build().map_err(CommandError::Threads)?;
    let mut signals = {
        let _context = runtime.enter();
        Signals::listen().map_err(CommandError::Signals)?
    };
    let watch = move || {
        let exit_code = runtime.block_on(watch(async || signals.next().await, &shutdown, END_TIMEOUT));
        logging::flush();
        process::exit(exit_code);
    };
    thread::Builder::new().name("signals".to_owned()).spawn(watch).map_err(CommandError::Threads)?;
    Ok(())
}

/// Cancels `shutdown` at the first signal. Returns the exit code of the process once it must end at once: at the second
/// signal, or `end_timeout` after the first.
async fn watch(
    mut next: impl AsyncFnMut() -> (&'static str, u8),
    shutdown: &CancellationToken,
    end_timeout: Duration,
) -> i32 {
    let (signal, _) = next().await;
    let must_end = Sleep::new(end_timeout);
    tracing::info!(signal, "shutting down; a second signal ends the process at once");
    shutdown.cancel();
    tokio::time::sleep(SAME_REQUEST.min(end_timeout)).await;
    while next().now_or_never().is_some() {}
    let exit_code = tokio::select! {
        (_, exit_code) = next() => exit_code,
        () = must_end => {
            tracing::error!(signal, "shutdown took too long; terminating");
            FAILED
        }
    };
    exit_code.into()
}

/// The two signals that request a program to end.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// The next signal's name, and the exit code of a process that it ends.
    async fn next(&mut self) -> (&'static str, u8) {
        let exit_code = |kind: SignalKind| 128 + kind.as_raw_value() as u8;
        tokio::select! {
            _ = self.interrupt.recv() => ("SIGINT", exit_code(SignalKind::interrupt())),
            _ = self.terminate.recv() => ("SIGTERM", exit_code(SignalKind::terminate())),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);
    const TERMINATE: (&str, u8) = ("SIGTERM", 143);
    const INTERRUPT: (&str, u8) = ("SIGINT", 130);

    #[tokio::test]
    async fn work_that_does_not_end_is_cut_off() {
        let (sender, mut signals) = mpsc::unbounded_channel();
        sender.send(TERMINATE).unwrap();
        let shutdown = CancellationToken::new();
        let exit_code = watch(async || signals.recv().await.unwrap(), &shutdown, Duration::from_millis(1)).await;
        assert_eq!((exit_code, shutdown.is_cancelled()), (1, true));
    }

    #[tokio::test]
    async fn a_second_signal_ends_at_once_and_one_that_comes_twice_is_one() {
        let (sender, mut signals) = mpsc::unbounded_channel();
        sender.send(TERMINATE).unwrap();
        sender.send(TERMINATE).unwrap();
        let shutdown = CancellationToken::new();
        let again = async {
            shutdown.cancelled().await;
            tokio::time::sleep(SAME_REQUEST * 2).await;
            sender.send(INTERRUPT).unwrap();
        };
        let (exit_code, ()) = tokio::join!(watch(async || signals.recv().await.unwrap(), &shutdown, LONG), again);
        assert_eq!(exit_code, 130);
    }
}
