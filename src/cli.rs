//! From the command line to an exit code.

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;

use session_buddy_bridge::bridge::{self, BridgeError};
use session_buddy_bridge::settings::{SettingsError, Task};
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

pub fn run() -> ExitCode {
    let task = match Task::from_args(env::args_os(), |name| env::var_os(name)) {
        Ok(task) => task,
        Err(SettingsError::CommandLine(answer)) => {
            // Help and version are such answers too, and succeed. Nobody is left to tell if printing fails.
            let _ = answer.print();
            return ExitCode::from(if answer.use_stderr() { REFUSED } else { 0 });
        }
        Err(refusal) => return complain(&refusal.to_string(), REFUSED),
    };
    logging::start(task.log());
    match start(task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => complain(&failure, FAILED),
    }
}

fn start(task: Task) -> Result<(), String> {
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start threads: {error}"))?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let signals = Signals::catch().map_err(|error| format!("cannot listen for signals: {error}"))?;
        let listener = tokio::spawn(signals.forward(shutdown.clone()));
        let ended = perform(task, shutdown).await;
        listener.abort();
        ended.map_err(|failure| failure.to_string())
    })
}

async fn perform(task: Task, shutdown: CancellationToken) -> Result<(), BridgeError> {
    match task {
        Task::Run(settings) => bridge::run(settings, shutdown).await,
        Task::Demo(task) => bridge::demo(task, print, shutdown).await,
        Task::Record(task) => bridge::record(task, shutdown).await,
        Task::Replay(task) => bridge::replay(task).await,
    }
}

/// The demo goes on even where nobody reads what it says.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn complain(what: &str, exit_code: u8) -> ExitCode {
    let what = what.trim_end();
    let hint = if exit_code == REFUSED && !what.ends_with(HELP_HINT) { HELP_HINT } else { "" };
    let _ = writeln!(io::stderr(), "error: {what}{hint}");
    ExitCode::from(exit_code)
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
