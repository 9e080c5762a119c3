//! A receiver of remote write, reported without sending a sample.

use std::fmt::Write as _;

use serde::Serialize;

use crate::push::{Probe, PushReceiver, Verification, probe};
use crate::text::terminal_line;

/// Beyond this difference of clocks, in seconds, a bridge sends nothing, or reports it.
const SKEW_SECONDS_MAX: f64 = 60.0;

const TENANT_HEADER: &str = "X-Scope-OrgID";

/// What requests without samples showed of a receiver.
#[derive(Debug)]
pub(super) struct CheckedReceiver {
    /// For people.
    pub text: String,
    /// For programs.
    pub response: ReceiverResponse,
    /// Why a bridge could not push to it, or would not know whether it does.
    pub problem: Option<String>,
}

/// The responses of a receiver, for programs.
#[derive(Debug, Serialize)]
pub(super) struct ReceiverResponse {
    /// Status of the response to a request without samples; `None` without one.
    status: Option<u16>,
    /// This machine's clock minus the receiver's, at least and at most; `None` if it does not send the time.
    clock_skew_seconds: Option<(f64, f64)>,
    sends_tenant: bool,
    remote_write: RemoteWriteSupport,
}

/// Whether a receiver reads write requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum RemoteWriteSupport {
    Verified,
    AcceptsEverything,
    WebPage,
    Unknown,
}

/// Checks a receiver: whether it is reachable, authorizes, agrees on the time and reads write requests.
pub(super) async fn check_receiver(receiver: &PushReceiver) -> CheckedReceiver {
    let probe = probe(receiver.clone()).await;
    let response = ReceiverResponse {
        status: probe.answer.as_ref().ok().copied(),
        clock_skew_seconds: probe.skew_seconds,
        sends_tenant: receiver.sends_header(TENANT_HEADER),
        remote_write: match probe.verification {
            Verification::Verified { .. } => RemoteWriteSupport::Verified,
            Verification::AcceptsEverything => RemoteWriteSupport::AcceptsEverything,
            Verification::WebPage => RemoteWriteSupport::WebPage,
            Verification::Unknown => RemoteWriteSupport::Unknown,
        },
    };
    CheckedReceiver { text: report(receiver, &probe), response, problem: problem(&probe) }
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
        None if probe.answer.is_err() => "not known".to_owned(),
        None => "not known: the response has no Date".to_owned(),
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
