//! A recording to the metrics that it leads to.

use crate::exposition::{self, Format, OwnText};
use crate::ledger::Limits;
use crate::recording::{self, RecordingError};
use crate::telemetry::{LedgerCounters, log_notices, write_rule_families};

/// The identity of a recorded feed: the same for every file, so that the same frames give the same bytes.
const IDENTITY: &str = "replay";

/// Counts a recording as a bridge would have counted the feed, and returns the five families, and the counters that belong to
/// the counting rules, in the Prometheus text format 0.0.4. The same recording gives the same bytes: time is that of the
/// recording, and nothing is read from the system. What the bridge would have warned of is logged.
///
/// A recording has one JSON object a line, with the seconds since it began: a frame that was received, or the beginning or
/// the end of a connection. `skill` is the one skill that the recorded connection was subscribed to, `None` for all of them.
///
/// ```
/// use session_buddy_bridge::settings::Limits;
///
/// let snapshot = r#"{"type":"metrics_update","data":{"top_skills":[
///     {"skill_name":"pytest-run","total_invocations":3,"completion_rate":100.0,"avg_duration_seconds":2.0}]}}"#;
/// let line = serde_json::json!({ "at_seconds": 1.0, "frame": snapshot });
/// let metrics = session_buddy_bridge::replay(line.to_string().as_bytes(), None, Limits::default())?;
/// let completed = r#"skill_invocations_total{skill_name="pytest-run",workflow_phase="unknown",completed="true"} 3"#;
/// assert!(metrics.lines().any(|line| line == completed), "{metrics}");
/// # Ok::<(), session_buddy_bridge::RecordingError>(())
/// ```
///
/// # Errors
/// The first line that is invalid or earlier than the one before; a recording without lines.
pub fn replay(recording: &[u8], skill: Option<&str>, limits: Limits) -> Result<String, RecordingError> {
    let mut replay = recording::replay(recording::text(recording)?, IDENTITY, skill, limits)?;
    log_notices(IDENTITY, &replay.notices);
    let mut out = String::new();
    exposition::encode_families(&mut replay.view, replay.active_sessions, &mut out);
    let counters = LedgerCounters { feeds: replay.view.feeds().cloned().collect(), rules: replay.view.rules() };
    let mut rules = OwnText::new(Format::Text);
    write_rule_families(&counters, &mut rules);
    out.push_str(&rules.into_text());
    Ok(out)
}
