//! `check --push.url`: receivers of remote write, reported without sending a sample.

use std::fmt::Write as _;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::output::Output;
use super::{Command, CommandError, until_signal};
use crate::push::{Probe, PushReceiver, Verification, probe};
use crate::settings::flags::{CheckedReceivers, ReceiverFlags};
use crate::settings::{LogSettings, SettingsError};
use crate::text::terminal_line;

/// Beyond this difference of clocks, in seconds, a bridge sends nothing, or reports it.
const SKEW_SECONDS_MAX: f64 = 60.0;

const TENANT_HEADER: &str = "X-Scope-OrgID";

#[derive(Debug, Args)]
pub(super) struct CheckPushFlags {
    /// Check this receiver of remote write instead of a feed, without sending a sample (may be repeated, at most 4)
    #[arg(id = "push.url", long = "push.url", value_name = "URL", help_heading = "Push")]
    pub urls: Vec<String>,
    #[command(flatten)]
    pub receiver: ReceiverFlags,
}

/// Reports of each receiver whether it is reachable, authorizes, agrees on the time and reads write requests.
#[derive(Debug)]
pub struct CheckPush {
    receivers: Vec<PushReceiver>,
    log: LogSettings,
}

impl CheckPush {
    pub(super) fn new(flags: CheckPushFlags, label_chars_max: usize, log: LogSettings) -> Result<Self, SettingsError> {
        let CheckPushFlags { urls, receiver } = flags;
        Ok(Self { receivers: CheckedReceivers { urls, receiver }.receivers(label_chars_max)?, log })
    }

    async fn run(self, shutdown: CancellationToken) -> Result<(), CommandError> {
        let mut text = String::new();
        let mut failed = None;
        for receiver in self.receivers {
            let Some(probe) = shutdown.run_until_cancelled(probe(receiver.clone())).await else { break };
            text.push_str(&report(&receiver, &probe));
            if let Some(problem) = problem(&probe) {
                failed.get_or_insert((receiver.name.to_string(), problem));
            }
        }
        let output = Output::to_stdout().map_err(CommandError::Threads)?;
        // If a write failed, the end of the output says why.
        let _ = shutdown.run_until_cancelled(output.write(text)).await;
        output.finish_unless(&shutdown).await?;
        match failed {
            None => Ok(()),
            Some((receiver, problem)) => Err(CommandError::ReceiverFailed { receiver, problem }),
        }
    }
}

impl Command for CheckPush {
    fn log(&self) -> LogSettings {
        self.log
    }

    fn execute(self: Box<Self>) -> Result<(), CommandError> {
        until_signal(|shutdown| self.run(shutdown))?
    }
}

/// Returns why a bridge could not push to the receiver, or would not know whether it does.
fn problem(probe: &Probe) -> Option<String> {
    let by_clock = probe.skew_seconds.filter(|(ahead_by, _)| *ahead_by > SKEW_SECONDS_MAX);
    if let Some(problem) = &probe.problem {
        return Some(problem.clone());
    }
    match probe.verification {
        Verification::WebPage => {
            return Some(
                "a web page answers: remote write is not verified by this; check the path of the URL".to_owned(),
            );
        }
        Verification::AcceptsEverything => {
            return Some(
                "it accepts malformed requests too: remote write is not verified by this; check the path of the URL"
                    .to_owned(),
            );
        }
        Verification::Verified { .. } | Verification::Unknown => {}
    }
    by_clock
        .map(|(ahead_by, _)| format!("this machine's clock is {ahead_by:.0} s ahead: set it; nothing is sent before"))
}

fn report(receiver: &PushReceiver, probe: &Probe) -> String {
    let credentials = &receiver.credentials;
    let presented = match (&credentials.bearer_token_file, &credentials.basic_auth_file) {
        (Some(_), _) => "with a bearer token",
        (_, Some(_)) => "with a user and a password",
        _ if credentials.tls.identity.is_some() => "with a client certificate",
        _ if credentials.headers_file.is_some() => "with the headers of the file",
        _ => "without credentials",
    };
    let reachable = match &probe.answer {
        Ok(status) => format!("yes, it answers a request without samples with status {status}"),
        Err(error) => format!("no: {error}"),
    };
    let authorized = match probe.answer {
        Ok(200..300) => format!("yes, {presented}"),
        Ok(status @ (401 | 403)) => format!("no, {presented}: status {status}"),
        Ok(_) | Err(_) => "not known".to_owned(),
    };
    let clock = match probe.skew_seconds {
        None => "not known: the receiver does not tell the time".to_owned(),
        Some((ahead, _)) if ahead > 1.0 => format!("this machine is {ahead:.0} s ahead of the receiver"),
        Some((_, ahead)) if ahead < -1.0 => format!("this machine is {:.0} s behind the receiver", -ahead),
        Some(_) => "this machine and the receiver agree".to_owned(),
    };
    let tenant = match (&credentials.headers_file, receiver.sends_header(TENANT_HEADER)) {
        (Some(file), true) => format!("the header {TENANT_HEADER} of \"{}\" names it", file.display()),
        _ => format!("none is sent (header {TENANT_HEADER})"),
    };
    let remote_write = match probe.verification {
        Verification::Verified { refused_with } => {
            format!("yes, a malformed request is refused with status {refused_with}")
        }
        Verification::AcceptsEverything => "not verified: a malformed request is accepted too".to_owned(),
        Verification::WebPage => "not verified: a web page answers".to_owned(),
        Verification::Unknown => "not known".to_owned(),
    };
    let mut text = format!("{}\n", terminal_line(receiver.name.as_str()));
    for (what, found) in [
        ("reachable", reachable),
        ("authorized", authorized),
        ("clock", clock),
        ("tenant", tenant),
        ("remote write", remote_write),
    ] {
        let _ = writeln!(text, "  {what}: {}", terminal_line(&found));
    }
    text
}
