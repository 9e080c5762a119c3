//! Frames as the server writes them: with the spacing, number format and escapes of Python's `json.dumps`.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::model::{Anomaly, Database, SkillRow};

pub(super) const PONG: &str = r#"{"type": "pong"}"#;

/// The snapshots of one round, for every subscription.
#[derive(Debug, Default)]
pub(super) struct Round {
    timestamp: String,
    /// By skill name, in listed order.
    skills: Vec<(&'static str, String)>,
    anomalies: String,
}

impl Round {
    pub fn new(database: &Database, now: Timestamp) -> Self {
        Self {
            timestamp: iso(now),
            skills: database.top_skills().iter().map(|row| (row.skill_name, skill(row))).collect(),
            anomalies: joined(database.recent_anomalies(now.as_second()).iter().map(anomaly)),
        }
    }

    /// Returns the snapshot for a client subscribed to `skill`, or to all; `None` if that skill is not listed.
    pub fn frame(&self, skill: Option<&str>) -> Option<String> {
        let (skills, anomalies) = match skill {
            None => (joined(self.skills.iter().map(|(_, entry)| entry)), self.anomalies.as_str()),
            Some(skill) => (self.skills.iter().find(|(name, _)| *name == skill)?.1.clone(), ""),
        };
        let timestamp = &self.timestamp;
        Some(format!(
            r#"{{"type": "metrics_update", "timestamp": "{timestamp}", "data": {{"top_skills": [{skills}], "anomalies": [{anomalies}]}}}}"#
        ))
    }
}

pub(super) fn connected(now: Timestamp) -> String {
    format!(
        r#"{{"type": "connected", "message": "Connected to Session-Buddy real-time metrics", "authenticated": false, "timestamp": "{}"}}"#,
        iso(now)
    )
}

pub(super) fn subscription_confirmed(skill: Option<&str>, now: Timestamp) -> String {
    let skill = skill.map_or_else(|| "null".to_owned(), string);
    format!(r#"{{"type": "subscription_confirmed", "skill": {skill}, "timestamp": "{}"}}"#, iso(now))
}

fn skill(row: &SkillRow) -> String {
    let average = row.average_duration_seconds.map_or_else(|| "null".to_owned(), |average| format!("{average:?}"));
    format!(
        r#"{{"skill_name": {}, "total_invocations": {}, "completion_rate": {:?}, "avg_duration_seconds": {average}}}"#,
        string(row.skill_name),
        row.total_invocations,
        row.completion_rate_percent,
    )
}

fn anomaly(anomaly: &Anomaly) -> String {
    let detected_at = Timestamp::from_second(anomaly.detected_at_seconds).unwrap_or_default();
    format!(
        r#"{{"skill_name": {}, "detected_at": "{}", "anomaly_type": {}, "deviation_score": {:?}}}"#,
        string(anomaly.skill_name),
        detected_at.strftime("%Y-%m-%d %H:%M:%S"),
        string(anomaly.anomaly_type),
        anomaly.deviation_score,
    )
}

fn iso(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%S%.6f+00:00").to_string()
}

fn joined(entries: impl Iterator<Item = impl AsRef<str>>) -> String {
    let mut all = String::new();
    for entry in entries {
        if !all.is_empty() {
            all.push_str(", ");
        }
        all.push_str(entry.as_ref());
    }
    all
}

/// Returns a JSON string in ASCII; characters beyond the basic plane are surrogate pairs.
fn string(text: &str) -> String {
    let mut quoted = String::from("\"");
    for unit in text.encode_utf16() {
        match u8::try_from(unit).map(char::from) {
            Ok(c @ ('"' | '\\')) => quoted.extend(['\\', c]),
            Ok(c @ ' '..='~') => quoted.push(c),
            _ => write!(quoted, "\\u{unit:04x}").expect("a String takes everything"),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> Database {
        let mut database = Database::default();
        (0..31).for_each(|n| database.invoke("pytest-run", true, (n < 3).then_some(1.25)));
        database.invoke("pytest-run", false, None);
        database.invoke("ruff-check", false, None);
        database.detect(Anomaly {
            skill_name: "pytest-run",
            detected_at_seconds: 1_795_343_063,
            anomaly_type: "pattern_shift",
            deviation_score: 2.233,
        });
        database
    }

    const NOW: &str = "2026-11-22T10:24:23.500602Z";

    #[test]
    fn a_snapshot_is_written_as_the_server_writes_it() {
        let round = Round::new(&database(), NOW.parse().unwrap());
        assert_eq!(
            round.frame(None).unwrap(),
            concat!(
                r#"{"type": "metrics_update", "timestamp": "2026-11-22T10:24:23.500602+00:00", "data": {"top_skills": ["#,
                r#"{"skill_name": "pytest-run", "total_invocations": 32, "completion_rate": 96.875, "#,
                r#""avg_duration_seconds": 0.12096774193548387}, "#,
                r#"{"skill_name": "ruff-check", "total_invocations": 1, "completion_rate": 0.0, "#,
                r#""avg_duration_seconds": null}], "anomalies": ["#,
                r#"{"skill_name": "pytest-run", "detected_at": "2026-11-22 10:24:23", "#,
                r#""anomaly_type": "pattern_shift", "deviation_score": 2.233}]}}"#,
            )
        );
    }

    #[test]
    fn one_skill_comes_without_anomalies_and_an_unlisted_one_not_at_all() {
        let round = Round::new(&database(), NOW.parse().unwrap());
        let frame: serde_json::Value = serde_json::from_str(&round.frame(Some("ruff-check")).unwrap()).unwrap();
        assert_eq!(frame["data"]["top_skills"].as_array().unwrap().len(), 1);
        assert_eq!(frame["data"]["top_skills"][0]["skill_name"], "ruff-check");
        assert_eq!(frame["data"]["anomalies"], serde_json::json!([]));
        assert_eq!(round.frame(Some("mypy-check")), None);
    }

    #[test]
    fn strings_are_ascii() {
        assert_eq!(string("a\"\\\né😀\u{7f}"), r#""a\"\\\u000a\u00e9\ud83d\ude00\u007f""#);
        assert_eq!(serde_json::from_str::<String>(&string("a\"\\\né😀")).unwrap(), "a\"\\\né😀");
    }
}
