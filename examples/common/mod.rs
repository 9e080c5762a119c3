//! What the examples share: their command line.
#![allow(dead_code, reason = "each example uses its own part of this")]

use std::env;
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What an example returns: any error, printed.
pub type Outcome = Result<(), Box<dyn Error>>;

/// `[WORD] [--port N] [--seconds N]`.
pub struct Args {
    /// The one word, for examples that make use of one.
    pub word: Option<String>,
    /// When to end.
    pub end: End,
    port: Option<u16>,
}

/// Ctrl-C, heard from the beginning, or `--seconds`.
pub struct End {
    interrupt: Signal,
    after: Option<Duration>,
}

impl Args {
    /// Reads the command line of this process. To be called in a tokio runtime.
    pub fn read() -> Result<Self, Box<dyn Error>> {
        let end = End { interrupt: signal(SignalKind::interrupt())?, after: None };
        let mut read = Self { word: None, end, port: None };
        let mut args = env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} should be followed by a number"));
            match arg.as_str() {
                "--port" => read.port = Some(value()?.parse().map_err(|error| format!("--port: {error}"))?),
                "--seconds" => {
                    let seconds = value()?.parse().map_err(|error| format!("--seconds: {error}"))?;
                    let after = Duration::try_from_secs_f64(seconds).map_err(|error| format!("--seconds: {error}"))?;
                    read.end.after = Some(after);
                }
                _ => {
                    if let Some(earlier) = read.word.replace(arg) {
                        return Err(format!("one word too many beside \"{earlier}\"").into());
                    }
                }
            }
        }
        Ok(read)
    }

    /// Where to serve: on this machine alone, at `--port` (0 is any that is free) or else at `usual_port`.
    pub fn address(&self, usual_port: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port.unwrap_or(usual_port)).into()
    }
}

impl End {
    /// Returns when it has come.
    pub async fn wait(&mut self) {
        let time_is_up = async {
            match self.after {
                Some(after) => tokio::time::sleep(after).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = time_is_up => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
