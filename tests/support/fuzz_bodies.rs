//! What the fuzz targets do with their bytes; `tests/promises/fuzz_corpora.rs` does the same with the corpora.
#![allow(dead_code, reason = "each fuzz target has its own body here")]

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use session_buddy_bridge::internals::ledger::{
    Changes, ConnectionId, FeedId, FeedSpec, Ledger, LedgerState, Limits, Now,
};
use session_buddy_bridge::internals::protocol::{
    self, Event, EventKind, Message, MessageType, Number, Rejection, RejectionReason, Snapshot,
};
use session_buddy_bridge::internals::store::{Quarantine, Store, StoreError};

use super::shown::Shown;

/// More than any rejection has to say: a longer one could fill a log.
const DETAIL_CHARS_MAX: usize = 1000;

/// A frame is read without a panic, within its limits, to messages whose every value is one that the ledger may be told.
pub fn frame_to_message(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    for limits in [protocol::Limits::default(), protocol::Limits { snapshot_entries_max: 2, frame_messages_max: 3 }] {
        let (mut messages, mut malformed) = (0, 0);
        protocol::read(text, &limits, &mut |message| {
            messages += 1;
            match message {
                Ok(message) => assert_tellable(&message, &limits),
                Err(rejection) => {
                    malformed += usize::from(rejection.reason == RejectionReason::MalformedFrame);
                    assert_short(&rejection);
                }
            }
        });
        // One more says how many are beyond the limit.
        assert!(messages <= limits.frame_messages_max + 1, "{messages} messages");
        assert!(malformed == 0 || messages == 1, "of a malformed frame, something was applied");
        assert_eq!(malformed == 1, !is_readable(text), "what is JSON is judged otherwise by a general parser");
    }
}

/// Whether a general JSON parser takes the text for JSON, once Python's numbers are gone.
fn is_readable(text: &str) -> bool {
    let is_frame = |text: &str| serde_json::from_str::<serde_json::Value>(text).is_ok();
    is_frame(text) || is_frame(&without_python_numbers(text))
}

fn without_python_numbers(text: &str) -> String {
    let (mut out, mut rest, mut in_string) = (String::new(), text, false);
    while let Some(next) = rest.chars().next() {
        let token = ["NaN", "Infinity", "-Infinity"].into_iter().find(|token| !in_string && rest.starts_with(token));
        let width = match (token, next) {
            (Some(token), _) => {
                out.push_str("null");
                rest = &rest[token.len()..];
                continue;
            }
            (None, '\\') if in_string => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            _ => next.len_utf8(),
        };
        in_string ^= next == '"';
        out.push_str(&rest[..width]);
        rest = &rest[width..];
    }
    out
}

fn assert_tellable(message: &Message<'_>, limits: &protocol::Limits) {
    assert!(MessageType::ALL.contains(&message.message_type()));
    match message {
        Message::Connection(_) | Message::Unknown => {}
        Message::Snapshot(snapshot) => assert_tellable_snapshot(snapshot, limits),
        Message::Event(Event { id, timestamp, kind }) => {
            let texts = [id.as_deref(), timestamp.as_deref()];
            assert!(texts.into_iter().flatten().all(|text| !text.is_empty()));
            match kind {
                EventKind::Invocation { skill_name, workflow_phase, duration_seconds, .. } => {
                    assert!(!skill_name.is_empty() && workflow_phase.as_deref() != Some(""));
                    assert!(duration_seconds.is_none_or(|seconds| seconds.is_finite() && seconds >= 0.0));
                }
                EventKind::CompletionRate { skill_name, rate } => {
                    assert!(!skill_name.is_empty() && (0.0..=1.0).contains(rate));
                }
                EventKind::Anomaly(entry) => {
                    assert!(!entry.skill_name.is_empty() && !entry.anomaly_type.is_empty());
                    assert!(entry.deviation_score.is_none_or(f64::is_finite));
                }
                EventKind::ActiveSessions { count } => assert!(*count <= 1 << 53),
                EventKind::SessionCreated { session_id } | EventKind::SessionClosed { session_id } => {
                    assert!(!session_id.is_empty());
                }
            }
        }
    }
}

fn assert_tellable_snapshot(snapshot: &Snapshot<'_>, limits: &protocol::Limits) {
    let Snapshot { timestamp, listed, skills, anomalies_listed, anomalies } = snapshot;
    assert!(timestamp.as_deref() != Some(""));
    for (listed, entries) in [(listed, skills.len()), (anomalies_listed, anomalies.len())] {
        assert!(entries <= limits.snapshot_entries_max + 1 && entries <= *listed, "{entries} entries of {listed}");
    }
    for skill in skills {
        match skill {
            Ok(skill) => {
                let numbers = [skill.total_invocations, skill.completion_rate_percent, skill.average_duration_seconds];
                let is_number = |number| !matches!(number, Number::Finite(value) if !value.is_finite());
                assert!(!skill.skill_name.is_empty() && numbers.into_iter().all(is_number));
            }
            Err(rejection) => assert_short(rejection),
        }
    }
    for anomaly in anomalies {
        match anomaly {
            Ok(entry) => {
                assert!(!entry.skill_name.is_empty() && !entry.anomaly_type.is_empty());
                assert!(entry.detected_at.as_deref() != Some(""));
                assert!(entry.deviation_score.is_none_or(f64::is_finite));
            }
            Err(rejection) => assert_short(rejection),
        }
    }
}

fn assert_short(rejection: &Rejection) {
    assert!(!rejection.detail.is_empty());
    assert!(rejection.detail.chars().count() <= DETAIL_CHARS_MAX, "{} characters", rejection.detail.chars().count());
}

/// Limits that a few lines reach.
const NARROW: Limits = Limits {
    skills_max: 4,
    series_max: 100,
    remembered_skills_max: 6,
    label_chars_max: 24,
    phases_per_skill_max: 2,
    anomaly_types_per_skill_max: 2,
    error_types_per_skill_max: 2,
    anomaly_keys_max: 5,
    event_ids_max: 4,
    session_ids_max: 3,
    waiting_events_max: 3,
};

/// Whatever two feeds say, one line a frame, nothing shown falls, everything stays within its limit, and what is kept is
/// the whole ledger.
///
/// A line that is no frame moves the history instead: `+N` lets N tenths of a second pass, `!` connects anew, `@` turns to
/// the other feed, `$` does what a restart does.
pub fn messages_to_ledger(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let mut history = History::begin();
    for line in text.lines() {
        match (line.as_bytes().first(), line.get(1..)) {
            (Some(b'+'), Some(tenths)) => {
                let tenths: u16 = tenths.trim().parse().unwrap_or(1);
                history.pass(Duration::from_millis(u64::from(tenths) * 100));
            }
            (Some(b'!'), _) => history.connect(),
            (Some(b'@'), _) => history.feed = 1 - history.feed,
            (Some(b'$'), _) => history.restart(),
            _ => history.hear(line),
        }
        history.look();
    }
    history.pass(Duration::from_secs(12));
    history.look();
    history.restart();
}

struct History {
    ledger: Ledger,
    connections: Vec<ConnectionId>,
    feeds: Vec<FeedId>,
    feed: usize,
    elapsed: Duration,
    shown: Shown,
    kept: Kept,
}

impl History {
    fn begin() -> Self {
        let ledger = Ledger::restore(NARROW, LedgerState::default(), Now::default()).expect("nothing fits");
        let mut history = Self {
            ledger,
            connections: Vec::new(),
            feeds: Vec::new(),
            feed: 0,
            elapsed: Duration::ZERO,
            shown: Shown::default(),
            kept: Kept::default(),
        };
        history.configure();
        history
    }

    fn configure(&mut self) {
        let feeds = ["one", "other"].map(|identity| FeedSpec { identity: identity.to_owned(), ..FeedSpec::default() });
        let now = self.now();
        let feeds = feeds.map(|spec| self.ledger.add_feed(spec));
        self.connections = feeds.into_iter().map(|id| self.ledger.open(id, now)).collect();
        self.feeds = feeds.to_vec();
    }

    fn now(&self) -> Now {
        Now::at(Duration::from_secs(1_795_341_600) + self.elapsed)
    }

    fn pass(&mut self, time: Duration) {
        self.elapsed += time;
        self.ledger.tick(self.now(), &mut Vec::new());
    }

    fn connect(&mut self) {
        let (old, now) = (self.connections[self.feed], self.now());
        self.ledger.close(old, now);
        self.connections[self.feed] = self.ledger.open(self.feeds[self.feed], now);
    }

    fn hear(&mut self, frame: &str) {
        let (connection, now) = (self.connections[self.feed], self.now());
        let mut notices = Vec::new();
        protocol::read(frame, &protocol::Limits::default(), &mut |message| {
            if let Ok(message) = message {
                self.ledger.apply(connection, &message, now, &mut notices);
            }
        });
    }

    /// Shows and keeps what changed.
    fn look(&mut self) {
        let now = self.now();
        // What is reported of sessions is at most 2^53 a feed.
        assert!(self.ledger.active_sessions(now) <= 2 * ((1 << 53) + NARROW.session_ids_max as u64));
        let changes = self.ledger.drain(now);
        self.kept.keep(&changes);
        self.ledger.acknowledge(changes.sequence);
        self.shown.fold(changes);
        let again = self.ledger.drain(now);
        assert!(again.skills.is_empty() && again.memory.is_empty(), "taken twice");
        assert!(self.shown.skills().count() <= NARROW.skills_max + 1);
        for skill in self.shown.skills() {
            // Beside the limit stand `unknown` and `__overflow__`.
            assert!(skill.phases.len() <= NARROW.phases_per_skill_max + 2, "{skill:?}");
            assert!(skill.anomalies.len() <= NARROW.anomaly_types_per_skill_max + 1, "{skill:?}");
        }
        self.kept.assert_within(&NARROW);
    }

    /// What was kept is read back, and shows what was shown.
    fn restart(&mut self) {
        self.look();
        let whole = self.kept.whole();
        let mut shown = Shown::default();
        shown.fold(Changes { skills: whole.skills.clone(), rules: whole.rules, ..Changes::default() });
        assert!(shown.skills().eq(self.shown.skills()) && shown.rules == self.shown.rules, "a series was not kept");
        self.ledger = Ledger::restore(NARROW, whole, self.now()).expect("what was kept fits");
        self.configure();
    }
}

/// What a store would hold.
#[derive(Default)]
struct Kept(LedgerState);

impl Kept {
    fn keep(&mut self, changes: &Changes) {
        self.0.fold(changes);
    }

    fn whole(&self) -> LedgerState {
        self.0.clone()
    }

    fn assert_within(&self, limits: &Limits) {
        let memory = &self.0.memory;
        for source in memory.sources.iter().map(|row| row.id) {
            let skills = memory.skills.iter().filter(|row| row.source == source);
            let pending: usize =
                skills.clone().filter_map(|row| row.pending.as_ref()).map(|pending| pending.events.len()).sum();
            assert!(skills.count() <= limits.remembered_skills_max && pending <= limits.waiting_events_max);
            let anomalies = memory.anomalies.iter().filter(|(key, _)| key.source == source).count();
            assert!(anomalies <= limits.anomaly_keys_max, "{anomalies} anomalies");
            let skills: HashSet<_> =
                memory.tallies.iter().filter(|row| row.source == source).map(|row| &row.skill_name).collect();
            assert!(skills.len() <= limits.anomaly_keys_max, "anomalies of {} skills", skills.len());
            assert!(memory.event_ids.iter().filter(|row| row.source == source).count() <= limits.event_ids_max);
        }
        for feed in memory.feeds.iter().map(|row| row.slot) {
            assert!(memory.sessions.iter().filter(|(of, ..)| *of == feed).count() <= limits.session_ids_max);
        }
    }
}

/// A feed that the states of the corpus know.
pub const STATE_FEED: &str = "ws://a:1/";

/// Bytes in the place of a state are opened, moved aside or refused, and never lost; what was opened counts on.
pub fn state_file(bytes: &[u8]) {
    let folder = tempfile::Builder::new().prefix("state").tempdir_in(memory_or_disk()).expect("a folder");
    let path = folder.path().join("state.db");
    fs::write(&path, bytes).expect("a file");
    let mut opened = match Store::open(&path, LedgerState::validated) {
        Ok(opened) => opened,
        Err(error) => {
            assert!(!matches!(error, StoreError::InUse { .. } | StoreError::Io { .. }), "{error}");
            assert_eq!(fs::read(&path).expect("still there"), bytes, "{error}: it was refused, and changed");
            return;
        }
    };
    if let Some(Quarantine { path: aside, problem }) = &opened.quarantined {
        assert!(!problem.to_string().is_empty());
        assert_eq!(opened.restored, LedgerState::default());
        assert!(aside.exists());
    }
    let mut shown = Shown::default();
    let LedgerState { skills, rules, .. } = opened.restored.clone();
    shown.fold(Changes { skills, rules, ..Changes::default() });
    let now = Now::at(Duration::from_secs(1_795_341_600));
    let mut ledger = Ledger::restore(Limits::default(), opened.restored, now).expect("it was judged to fit");
    let feed = ledger.add_feed(FeedSpec { identity: STATE_FEED.to_owned(), ..FeedSpec::default() });
    let connection = ledger.open(feed, now);
    for (second, frame) in (1..).zip(STATE_FRAMES) {
        let now = Now::at(now.elapsed + Duration::from_secs(second * 4));
        protocol::read(frame, &protocol::Limits::default(), &mut |message| {
            ledger.apply(connection, &message.expect("sound"), now, &mut Vec::new());
        });
        ledger.active_sessions(now);
        let changes = ledger.drain(now);
        opened.store.commit(&changes).unwrap_or_else(|error| panic!("{error}"));
        ledger.acknowledge(changes.sequence);
        shown.fold(changes);
    }
}

/// What a feed goes on to say: rises, falls, and one of everything else.
const STATE_FRAMES: [&str; 4] = [
    r#"[{"type":"skill_invocation","id":"1","data":{"skill_name":"streamed","workflow_phase":"setup","completed":true,"duration_seconds":0.3}},
        {"type":"event","event":"session.created","data":{"session_id":"u"}},
        {"type":"event","event":"session.closed","data":{"session_id":"s"}},
        {"type":"anomaly","id":"2","data":{"skill_name":"x","anomaly_type":"drop"}}]"#,
    r#"{"type":"metrics_update","timestamp":"2026-11-22T10:24:26+00:00","data":{"top_skills":[
        {"skill_name":"a","total_invocations":11,"completion_rate":100.0,"avg_duration_seconds":0.5},
        {"skill_name":"streamed","total_invocations":3,"completion_rate":0.0,"avg_duration_seconds":null}],
        "anomalies":[{"skill_name":"x","anomaly_type":"drop","detected_at":"2026-11-22 10:24:23","deviation_score":2.5}]}}"#,
    r#"{"type":"metrics_update","timestamp":"2026-11-22T10:24:27+00:00","data":{"top_skills":[
        {"skill_name":"a","total_invocations":12,"completion_rate":100.0,"avg_duration_seconds":0.5},
        {"skill_name":"streamed","total_invocations":4,"completion_rate":25.0,"avg_duration_seconds":1.0}],"anomalies":[]}}"#,
    r#"{"type":"metrics_update","timestamp":"2026-11-22T10:24:28+00:00","data":{"top_skills":[
        {"skill_name":"a","total_invocations":1,"completion_rate":100.0,"avg_duration_seconds":0.5}],"anomalies":[]}}"#,
];

/// A fuzzer opens thousands of files a second: where there is a file system in memory, there.
fn memory_or_disk() -> std::path::PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }
}
