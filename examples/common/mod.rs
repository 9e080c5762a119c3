//! What the examples share: when they end, and how they print.
#![allow(dead_code, reason = "each example uses its own part of this")]

use std::error::Error;
use std::fmt::Display;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What an example returns: any error, printed.
pub type Outcome = Result<(), Box<dyn Error>>;

/// When an example ends.
#[derive(Debug, Args)]
pub struct EndFlags {
    /// End after this many seconds, instead of on Ctrl-C alone
    #[arg(long, value_name = "NUMBER", value_parser = seconds, overrides_with = "seconds")]
    pub seconds: Option<Duration>,
}

/// Where an example serves.
#[derive(Debug, Args)]
pub struct PortFlags<const DEFAULT: u16> {
    /// Port on 127.0.0.1; 0 is any that is free
    #[arg(long, value_name = "NUMBER", default_value_t = DEFAULT)]
    port: u16,
}

/// Ctrl-C from now on, or the time.
pub struct End {
    interrupt: Signal,
    after: Duration,
}

impl<const DEFAULT: u16> PortFlags<DEFAULT> {
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }
}

impl EndFlags {
    /// To be called in a tokio runtime.
    pub fn listen(&self) -> io::Result<End> {
        Ok(End { interrupt: signal(SignalKind::interrupt())?, after: self.seconds.unwrap_or(Duration::MAX) })
    }
}

impl End {
    /// Returns when it has come.
    pub async fn wait(&mut self) {
        let _ = tokio::time::timeout(self.after, self.interrupt.recv()).await;
    }
}

fn seconds(text: &str) -> Result<Duration, Box<dyn Error + Send + Sync>> {
    Ok(Duration::try_from_secs_f64(text.parse()?)?)
}

/// Prints a line. `println!` would panic once the reader has closed the pipe, as `head` does.
pub fn print(line: impl Display) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

/// Prints a line of a program that serves, whether or not anybody reads it.
pub fn announce(line: impl Display) {
    let _ = print(line);
}

/// A reader that has closed the pipe has read all that it wants.
pub fn unless_broken_pipe(printed: io::Result<()>) -> io::Result<()> {
    printed.or_else(|error| if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })
}
