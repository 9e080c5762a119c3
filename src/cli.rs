//! From the command line to an exit code.

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use session_buddy_bridge::internals::bridge;
use session_buddy_bridge::internals::healthcheck;
use session_buddy_bridge::internals::settings::{self, Task};
use session_buddy_bridge::settings::SettingsError;
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::logging;

const FAILED: u8 = 1;
const REFUSED: u8 = 2;

/// What clap says below its own complaints.
const HELP_HINT: &str = "\n\nFor more information, try '--help'.";

/// Feeds are one thread's work at most; the other answers scrapes meanwhile.
const WORKER_THREADS: usize = 2;

const STUCK_THREADS_TIMEOUT: Duration = Duration::from_millis(500);

pub fn run() -> ExitCode {
    let task = match Task::from_args(env::args_os(), |name| env::var_os(name)) {
        Ok(task) => task,
        Err(SettingsError::CommandLine(answer)) => {
            // Help and version are such answers too, and succeed. Nobody is left to tell if printing fails.
            let _ = answer.print();
            return ExitCode::from(if answer.use_stderr() { REFUSED } else { 0 });
        }
        Err(refusal) => return refuse(&refusal),
    };
    logging::start(task.log());
    // Names alone: a value may be a token under a name that is almost right.
    for variable in settings::unknown_variables(env::vars_os().map(|(name, _)| name)) {
        tracing::warn!(variable, "there is no such variable, it is ignored; --help names those that there are");
    }
    match perform(task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!("{failure}");
            ExitCode::from(FAILED)
        }
    }
}

fn refuse(refusal: &SettingsError) -> ExitCode {
    let complaint = refusal.to_string();
    let complaint = complaint.trim_end();
    let hint = if complaint.ends_with(HELP_HINT) { "" } else { HELP_HINT };
    let _ = writeln!(io::stderr(), "error: {complaint}{hint}");
    ExitCode::from(REFUSED)
}

fn perform(task: Task) -> Result<(), String> {
    let ended = match task {
        Task::Run(settings) => until_signal(|shutdown| bridge::run(settings, shutdown))?,
        Task::Demo(task) => until_signal(|shutdown| bridge::demo(task, print, shutdown))?,
        Task::Check(task) => until_signal(|shutdown| bridge::check(task, shutdown))?,
        Task::Explain(task) => until_signal(|shutdown| bridge::explain(task, shutdown))?,
        Task::Record(task) => until_signal(|shutdown| bridge::record(task, shutdown))?,
        // Waits for nothing, so a signal may end it as it ends any program.
        Task::Replay(task) => bridge::replay(task),
        Task::Healthcheck(task) => {
            return healthcheck::check(&task.url, task.timeout).map_err(|failure| failure.to_string());
        }
        Task::State(task) => bridge::state(task),
        Task::Print(text) => {
            let written = io::stdout().lock().write_all(&text);
            return written.map_err(|error| format!("cannot write to standard output: {error}"));
        }
    };
    ended.map_err(|failure| failure.to_string())
}

/// Runs `work` on threads of its own, with a token that a signal to end cancels.
fn until_signal<W>(work: impl FnOnce(CancellationToken) -> W) -> Result<W::Output, String>
where
    W: Future,
{
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start threads: {error}"))?;
    let ended = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let signals = Signals::catch().map_err(|error| format!("cannot listen for signals: {error}"))?;
        let listener = tokio::spawn(signals.forward(shutdown.clone()));
        let ended = work(shutdown).await;
        listener.abort();
        Ok(ended)
    });
    // A thread that is stuck in a system call, as in the resolution of a name, must not hold up the end.
    runtime.shutdown_timeout(STUCK_THREADS_TIMEOUT);
    ended
}

/// The demo goes on even where nobody reads what it says.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// The two ways to ask a program to end.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn catch() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn forward(mut self, shutdown: CancellationToken) {
        let name = tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        };
        tracing::info!(signal = name, "ending");
        shutdown.cancel();
    }
}
