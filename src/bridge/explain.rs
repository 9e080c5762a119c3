//! Why the numbers are what they are.

use std::fs;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::explanation::Explainer;
use crate::recording::{self, ConnectionEvent};
use crate::settings::{ExplainTask, Explained};

use super::ear::{Ear, Said};
use super::{CommandError, subscription};

/// How often a silent feed is asked whether something has waited long enough.
const PASS_EVERY: Duration = Duration::from_secs(1);

/// Prints on standard output what each message changes, and by which rule: of a recording, or of a feed for as long as the
/// task says or until `shutdown`.
///
/// # Errors
/// A file that cannot be read or is no recording; standard output that takes nothing.
pub async fn explain(task: ExplainTask, shutdown: CancellationToken) -> Result<(), CommandError> {
    let print = |text: &str| match io::stdout().lock().write_all(text.as_bytes()) {
        // Whoever read as much as they wanted, as `head` does, is served.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true).map_err(CommandError::Output),
    };
    match task.what {
        Explained::Recording { file, subscribed } => {
            let explainer = Explainer::new(subscribed.as_deref(), task.skill, task.ledger_limits);
            let bytes = fs::read(&file).map_err(|error| CommandError::File { file: file.clone(), error })?;
            recording::text(&bytes)
                .and_then(|text| explained(text, explainer))
                .map_err(|error| CommandError::Recording { file, error })
                .and_then(|text| print(&text).map(drop))
        }
        Explained::Feed { target, frame_bytes_max, timing, duration } => {
            let mut explainer = Explainer::new(target.skill.as_deref(), task.skill, task.ledger_limits);
            let began = Instant::now();
            let mut ear = Ear::open(subscription(&target, frame_bytes_max, &timing), &shutdown);
            let over = tokio::time::sleep(duration);
            let mut over = std::pin::pin!(over);
            loop {
                let heard = tokio::select! {
                    () = &mut over => break,
                    () = shutdown.cancelled() => break,
                    heard = tokio::time::timeout(PASS_EVERY, ear.said.recv()) => heard,
                };
                let text = match heard {
                    Ok(None) => break,
                    Ok(Some((at, said))) => told(&mut explainer, at.saturating_duration_since(began), said),
                    Err(_) => explainer.pass(began.elapsed()),
                };
                if !print(&text)? {
                    break;
                }
            }
            ear.close().await
        }
    }
}

fn told(explainer: &mut Explainer, at: Duration, said: Said) -> String {
    match said {
        Said::Opened => explainer.open(at),
        Said::Text(frame) => explainer.frame(at, &frame),
        Said::Binary(bytes) => {
            format!("{:>10.3} s  a binary frame of {bytes} bytes: ignored, the feed speaks text\n", at.as_secs_f64())
        }
        Said::Closed(reason) => explainer.close(at, &format!(": {reason}")),
        Said::State(state) => {
            tracing::debug!("{state}");
            String::new()
        }
    }
}

/// What [`explain`] prints of a recording.
fn explained(text: &str, mut explainer: Explainer) -> Result<String, recording::RecordingError> {
    let mut out = String::new();
    let mut end = Duration::ZERO;
    for line in recording::lines(text) {
        let line = line?;
        end = Duration::from_secs_f64(line.at_seconds);
        let said = match (line.event, line.frame) {
            (Some(ConnectionEvent::Open), _) => explainer.open(end),
            (Some(ConnectionEvent::Close), _) => {
                let code = line.code.map(|code| format!(", code {code}")).unwrap_or_default();
                explainer.close(end, &code)
            }
            (None, Some(frame)) => explainer.frame(end, &frame),
            (None, None) => String::new(),
        };
        out.push_str(&said);
    }
    out.push_str(&explainer.pass(end + recording::REST));
    Ok(out)
}
