//! Work that a signal ends.

use std::io;
use std::process;
use std::thread;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::CommandError;

/// Feeds are one thread's work at most; the other answers scrapes meanwhile.
const WORKER_THREADS: usize = 2;

const STUCK_THREADS_TIMEOUT: Duration = Duration::from_millis(500);

/// A signal within this time of the first is the same request: `timeout` sends its signal to the process and again to
/// the process group.
const SAME_REQUEST: Duration = Duration::from_millis(100);

/// Runs `work` on threads of its own, with a token that the first SIGINT or SIGTERM cancels. The second one ends the
/// process at once, with 128 and the signal's number as its exit code.
///
/// # Errors
/// No threads, or no way to listen for signals.
pub(super) fn until_signal<W>(work: impl FnOnce(CancellationToken) -> W) -> Result<W::Output, CommandError>
where
    W: Future,
{
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()
        .map_err(CommandError::Threads)?;
    let shutdown = CancellationToken::new();
    let first_signal = watch_signals(shutdown.clone())?;
    let ended = runtime.block_on(async {
        let reporter = tokio::spawn(async {
            if let Ok(signal) = first_signal.await {
                tracing::info!(signal, "shutting down; a second signal ends the process at once");
            }
        });
        let ended = work(shutdown).await;
        reporter.abort();
        ended
    });
    // A thread that is stuck in a system call, as in the resolution of a name, must not hold up the end.
    runtime.shutdown_timeout(STUCK_THREADS_TIMEOUT);
    Ok(ended)
}

/// Listens for signals on a thread of its own, so that whatever the others are stuck in, a second one ends the process.
/// Returns the name of the first one.
fn watch_signals(shutdown: CancellationToken) -> Result<oneshot::Receiver<&'static str>, CommandError> {
    let runtime =
        runtime::Builder::new_current_thread().enable_io().enable_time().build().map_err(CommandError::Threads)?;
    let mut signals = {
        let _context = runtime.enter();
        Signals::listen().map_err(CommandError::Signals)?
    };
    let (first, received) = oneshot::channel();
    let watch = async move {
        let (name, _) = signals.next().await;
        shutdown.cancel();
        // Without a receiver the work has ended already.
        let _ = first.send(name);
        tokio::time::sleep(SAME_REQUEST).await;
        while signals.next().now_or_never().is_some() {}
        let (_, exit_code) = signals.next().await;
        process::exit(exit_code);
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || runtime.block_on(watch))
        .map_err(CommandError::Threads)?;
    Ok(received)
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
    async fn next(&mut self) -> (&'static str, i32) {
        let exit_code = |kind: SignalKind| 128 + kind.as_raw_value();
        tokio::select! {
            _ = self.interrupt.recv() => ("SIGINT", exit_code(SignalKind::interrupt())),
            _ = self.terminate.recv() => ("SIGTERM", exit_code(SignalKind::terminate())),
        }
    }
}
