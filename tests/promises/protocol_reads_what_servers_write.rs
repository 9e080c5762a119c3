//! What every form of frame is read as, what is rejected and for which reason, and what stands beside a rejection.

use std::borrow::Cow;

use crate::support::model::{Anomaly, Database, Invocation, SECOND, anomaly_event, invocation_event};
use crate::support::observer::Observer;
use crate::support::property;
use ConnectionMessage::{Connected, Pong, SubscriptionConfirmed};
use RejectionReason::{
    InvalidField, InvalidNumber, MalformedFrame, MalformedMessage, MissingField, NumberOutOfRange, TooManyEntries,
};
use proptest::prelude::*;
use session_buddy_bridge::internals::protocol::{
    self, AnomalyEntry, ConnectionMessage, Event, EventKind, Limits, Message, Number, Rejection, RejectionReason,
    SkillEntry, Snapshot,
};

/// Reads the frame and compares each item; a rejection by its reason.
#[track_caller]
fn assert_reads(text: &str, expected: &[Result<Message<'_>, RejectionReason>]) {
    let mut read = 0;
    protocol::read(text, &Limits::default(), &mut |item| {
        let expected = expected.get(read).unwrap_or_else(|| panic!("{text}: not expected: {item:?}"));
        match (&item, expected) {
            (Ok(item), Ok(expected)) => assert_eq!(item, expected, "{text}"),
            (Err(item), Err(expected)) => assert_eq!(item.reason, *expected, "{text}: {item:?}"),
            _ => panic!("{text}: expected {expected:?}, found {item:?}"),
        }
        read += 1;
    });
    assert_eq!(read, expected.len(), "{text}");
}

#[track_caller]
fn assert_rejected(text: &str, reason: RejectionReason) {
    assert_reads(text, &[Err(reason)]);
}

/// The entries of the one snapshot in `text`, a rejected one as its reason.
#[track_caller]
fn skills(text: &str) -> Vec<Result<SkillEntry<'static>, RejectionReason>> {
    let mut skills = None;
    protocol::read(text, &Limits::default(), &mut |item| match item {
        Ok(Message::Snapshot(snapshot)) => {
            assert_eq!(snapshot.listed, snapshot.skills.len(), "every entry is listed, rejected ones too");
            let entries = snapshot.skills.into_iter().map(|entry| entry.map(owned).map_err(|it| it.reason));
            assert!(skills.replace(entries.collect()).is_none(), "{text}: more than one snapshot");
        }
        other => panic!("{text}: no snapshot: {other:?}"),
    });
    skills.unwrap_or_else(|| panic!("{text}: nothing was read"))
}

fn owned(entry: SkillEntry<'_>) -> SkillEntry<'static> {
    SkillEntry { skill_name: Cow::Owned(entry.skill_name.into_owned()), ..entry }
}

/// A snapshot of the given entries, in JSON.
fn listing(entries: &str) -> String {
    format!(r#"{{"type": "metrics_update", "timestamp": "t", "data": {{"top_skills": [{entries}], "anomalies": []}}}}"#)
}

/// An event without an identity.
fn event(kind: EventKind<'static>) -> Result<Message<'static>, RejectionReason> {
    Ok(Message::Event(Event { id: None, timestamp: None, kind }))
}

fn invocation(skill_name: &'static str, completed: bool) -> EventKind<'static> {
    EventKind::Invocation {
        skill_name: skill_name.into(),
        workflow_phase: None,
        completed,
        duration_seconds: None,
        session_id: None,
    }
}

const CONNECTED: Message<'static> = Message::Connection(Connected { authenticated: Some(false) });
const PONG: Message<'static> = Message::Connection(Pong);

#[test]
fn the_connections_own_business() {
    assert_reads(
        r#"{"type": "connected", "message": "Hi", "authenticated": false, "timestamp": "t"}"#,
        &[Ok(CONNECTED)],
    );
    let silent = Message::Connection(Connected { authenticated: None });
    assert_reads(r#"{"type": "connected"}"#, &[Ok(silent)]);
    assert_reads(r#"{"type": "pong", "timestamp": "t"}"#, &[Ok(PONG)]);
    for (skill, read) in [(r#""x""#, Some("x")), ("null", None)] {
        let expected = Message::Connection(SubscriptionConfirmed { skill: read.map(Cow::Borrowed) });
        assert_reads(&format!(r#"{{"type": "subscription_confirmed", "skill": {skill}}}"#), &[Ok(expected)]);
    }
}

#[test]
fn a_snapshot_as_the_server_writes_it() {
    let text = concat!(
        r#"{"type": "metrics_update", "timestamp": "2026-11-22T10:24:23.585602+00:00", "data": {"top_skills": ["#,
        r#"{"skill_name": "pytest-run", "total_invocations": 32, "completion_rate": 96.875, "#,
        r#""avg_duration_seconds": 4.332177419354839}, "#,
        r#"{"skill_name": "\u00fc\ud83d\ude00", "total_invocations": 1, "completion_rate": 0.0, "#,
        r#""avg_duration_seconds": null}], "anomalies": [{"skill_name": "skill-007", "#,
        r#""detected_at": "2026-11-22 10:24:23", "anomaly_type": "pattern_shift", "deviation_score": 2.233}]}}"#,
    );
    let entry = |name: &'static str, total, rate, average| SkillEntry {
        skill_name: name.into(),
        total_invocations: Number::Finite(total),
        completion_rate_percent: Number::Finite(rate),
        average_duration_seconds: average,
    };
    let expected = Snapshot {
        timestamp: Some("2026-11-22T10:24:23.585602+00:00".into()),
        listed: 2,
        skills: vec![
            Ok(entry("pytest-run", 32.0, 96.875, Number::Finite(4.332177419354839))),
            Ok(entry("ü😀", 1.0, 0.0, Number::Missing)),
        ],
        anomalies_listed: 1,
        anomalies: vec![Ok(AnomalyEntry {
            skill_name: "skill-007".into(),
            anomaly_type: "pattern_shift".into(),
            detected_at: Some("2026-11-22 10:24:23".into()),
            deviation_score: Some(2.233),
        })],
    };
    assert_reads(text, &[Ok(Message::Snapshot(expected))]);
}

#[test]
fn keys_come_in_any_order_and_unknown_ones_are_passed_over() {
    let entry = r#"{"avg_duration_seconds": 2.0, "new": {"a": [1]}, "completion_rate": 50.0, "total_invocations": 4,
                    "skill_name": "x"}"#;
    let text =
        format!(r#"{{"data": {{"new": [], "anomalies": [], "top_skills": [{entry}]}}, "type": "metrics_update"}}"#);
    let expected = SkillEntry {
        skill_name: "x".into(),
        total_invocations: Number::Finite(4.0),
        completion_rate_percent: Number::Finite(50.0),
        average_duration_seconds: Number::Finite(2.0),
    };
    assert_eq!(skills(&text), [Ok(expected)]);
    assert_reads(
        r#"{"data": {"completed": true, "skill_name": "x"}, "event": "skill.invoked", "type": "event"}"#,
        &[event(invocation("x", true))],
    );
}

#[test]
fn both_spellings_of_every_event() {
    let anomaly = |detected_at: Option<&'static str>, deviation_score| {
        EventKind::Anomaly(AnomalyEntry {
            skill_name: "x".into(),
            anomaly_type: "drop".into(),
            detected_at: detected_at.map(Cow::Borrowed),
            deviation_score,
        })
    };
    let whole = EventKind::Invocation {
        skill_name: "x".into(),
        workflow_phase: Some("setup".into()),
        completed: false,
        duration_seconds: Some(1.5),
        session_id: Some("s1".into()),
    };
    let rate = |rate| EventKind::CompletionRate { skill_name: "x".into(), rate };
    for (bare, wrapped, data, kind) in [
        ("skill_invocation", "skill.invoked", r#"{"skill_name": "x", "completed": true}"#, invocation("x", true)),
        (
            "skill_invocation",
            "skill.invoked",
            r#"{"skill_name": "x", "workflow_phase": "", "completed": false, "duration_seconds": null, "session_id": null}"#,
            invocation("x", false),
        ),
        (
            "skill_invocation",
            "skill.invoked",
            r#"{"skill_name": "x", "workflow_phase": "setup", "completed": false, "duration_seconds": 1.5, "session_id": "s1"}"#,
            whole,
        ),
        ("completion_rate", "skill.completion_rate", r#"{"skill_name": "x", "rate": 1}"#, rate(1.0)),
        ("completion_rate", "skill.completion_rate", r#"{"skill_name": "x", "rate": 0.25}"#, rate(0.25)),
        ("anomaly", "anomaly.detected", r#"{"skill_name": "x", "anomaly_type": "drop"}"#, anomaly(None, None)),
        (
            "anomaly",
            "anomaly.detected",
            r#"{"skill_name": "x", "anomaly_type": "drop", "detected_at": "d", "deviation_score": -2}"#,
            anomaly(Some("d"), Some(-2.0)),
        ),
        (
            "anomaly",
            "anomaly.detected",
            r#"{"skill_name": "x", "anomaly_type": "drop", "detected_at": null, "deviation_score": null}"#,
            anomaly(None, None),
        ),
    ] {
        assert_reads(&format!(r#"{{"type": "{bare}", "data": {data}}}"#), &[event(kind.clone())]);
        let identified = Event { id: Some("i".into()), timestamp: Some("t".into()), kind };
        let text = format!(
            r#"{{"id": "i", "type": "event", "event": "{wrapped}", "data": {data}, "timestamp": "t", "room": null}}"#
        );
        assert_reads(&text, &[Ok(Message::Event(identified))]);
    }
}

#[test]
fn identifiers_keep_their_digits() {
    let of = |id: &str| {
        format!(r#"{{"id": {id}, "type": "skill_invocation", "data": {{"skill_name": "x", "completed": true}}}}"#)
    };
    let identified = |id: &'static str| {
        let kind = EventKind::Invocation {
            skill_name: "x".into(),
            workflow_phase: None,
            completed: true,
            duration_seconds: None,
            session_id: None,
        };
        Ok(Message::Event(Event { id: Some(id.into()), timestamp: None, kind }))
    };
    for (id, read) in [
        ("1497549923779084288", "1497549923779084288"),
        ("1497549923779084289", "1497549923779084289"),
        (r#""1497549923779084289""#, "1497549923779084289"),
        ("9007199254740991", "9007199254740991"),
        ("9007199254740992", "9007199254740992"),
        ("9007199254740993", "9007199254740993"),
        ("18446744073709551615", "18446744073709551615"),
        ("-9223372036854775807", "-9223372036854775807"),
        ("7", "7"),
        // A number is what it means, however it is written.
        ("7.0", "7"),
        ("1e3", "1000"),
        ("0.5", "0.5"),
    ] {
        assert_reads(&of(id), &[identified(read)]);
        // What makes a frame not plain takes the other of two ways through the parser.
        assert_reads(&of(id).replacen(r#""x""#, r#""\u0078""#, 1), &[identified(read)]);
    }
    // Of these, digits would be lost, and two events could be taken for one.
    for id in ["18446744073709551616", "-9223372036854775809", "1.5e19", "9007199254740993.0"] {
        assert_rejected(&of(id), RejectionReason::NumberOutOfRange);
    }
}

#[test]
fn two_events_whose_identifiers_differ_in_the_last_digit_are_two() {
    let mut observer = Observer::connected();
    for id in ["1497549923779084288", "1497549923779084289", "1497549923779084289"] {
        let event =
            format!(r#"{{"id": {id}, "type": "skill_invocation", "data": {{"skill_name": "x", "completed": true}}}}"#);
        observer.hear(0, &event, 10 * SECOND);
    }
    let invocations: u64 = observer.shown.counts().values().sum();
    assert_eq!(invocations, 2);
}

#[test]
fn sessions_come_as_a_number_or_one_by_one() {
    assert_reads(
        r#"{"type": "active_sessions", "data": {"count": 3}}"#,
        &[event(EventKind::ActiveSessions { count: 3 })],
    );
    let of = |name: &str| format!(r#"{{"type": "event", "event": "session.{name}", "data": {{"session_id": "s"}}}}"#);
    assert_reads(&of("created"), &[event(EventKind::SessionCreated { session_id: "s".into() })]);
    assert_reads(&of("closed"), &[event(EventKind::SessionClosed { session_id: "s".into() })]);
    assert_reads(&of("renamed"), &[Ok(Message::Unknown)]);
}

#[test]
fn unknown_types_and_events_are_no_errors() {
    for text in [
        r#"{"type": "metrics_update_v2"}"#,
        r#"{"type": ""}"#,
        r#"{"type": "skill.invoked", "data": {"skill_name": "x", "completed": true}}"#,
        r#"{"type": "event", "event": "skill_invocation", "data": {"skill_name": "x", "completed": true}}"#,
        r#"{"type": "event", "event": "room.joined", "data": null}"#,
        r#"{"type": "error", "data": [[], {}]}"#,
    ] {
        assert_reads(text, &[Ok(Message::Unknown)]);
    }
}

#[test]
fn an_array_is_each_in_turn() {
    assert_reads("[]", &[]);
    assert_reads(
        r#"[{"type": "pong"}, 5, {"type": "skill_invocation", "data": {}}, [{"type": "pong"}], null, {"type": "new"},
            {"type": "connected", "authenticated": false}]"#,
        &[
            Ok(PONG),
            Err(MalformedMessage),
            Err(MissingField),
            Err(MalformedMessage),
            Err(MalformedMessage),
            Ok(Message::Unknown),
            Ok(CONNECTED),
        ],
    );
}

#[test]
fn what_is_no_message() {
    for text in [
        "NaN",
        " -Infinity ",
        "null",
        "5",
        "true",
        r#""pong""#,
        "{}",
        r#"{"type": null}"#,
        r#"{"type": 5}"#,
        r#"{"event": "x"}"#,
    ] {
        assert_rejected(text, MalformedMessage);
    }
    assert_rejected(r#"{"type": "event", "data": {}}"#, MalformedMessage);
}

#[test]
fn what_is_no_frame() {
    let deep = 10_000;
    let in_message = |value: &str| format!(r#"{{"type": "pong", "new": {value}}}"#);
    let mut frames = vec![
        "[".repeat(deep) + &"]".repeat(deep),
        "[".repeat(deep),
        r#"{"type":"#.repeat(deep),
        in_message(&("[".repeat(deep) + &"]".repeat(deep))),
        in_message(&(r#"{"a":"#.repeat(deep) + "1" + &"}".repeat(deep))),
        listing(&("[".repeat(deep) + &"]".repeat(deep))),
    ];
    for value in [r#""\ud800""#, r#""\udc00\ud800""#, r#""\ud800x""#, "1e999", "-1e999", "[1e999]", r#"{"\udfff": 1}"#]
    {
        frames.push(in_message(value));
        frames.push(format!(r#"[{{"type": "pong"}}, {}]"#, in_message(value)));
    }
    for text in [
        "",
        " ",
        "pong",
        "{",
        r#"{"type": "pong""#,
        r#"{"type": "pong"} x"#,
        r#"{"type": "pong"}{"type": "pong"}"#,
        r#"{"type": "pong",}"#,
        r#"{'type': 'pong'}"#,
        "{\"type\": \"po\nng\"}",
        r#"{"type": "\x"}"#,
        r#"{"type": "pong", "new": 01}"#,
        r#"{"type": "pong", "new": NaNa}"#,
        r#"{"type": "pong", "new": 1NaN}"#,
        r#"{"type": "pong", "new": +Infinity}"#,
        r#"{"type": "pong", "new": nan}"#,
        r#"{"type": "pong", "new": --Infinity}"#,
        r#"{"type": "pong", "new": NaNInfinity}"#,
        r#"{NaN: "pong"}"#,
    ] {
        frames.push(text.to_owned());
    }
    for frame in frames {
        assert_rejected(&frame, MalformedFrame);
    }
}

#[test]
fn pythons_numbers_spoil_their_field_and_not_the_frame() {
    for spoilt in ["NaN", "Infinity", "-Infinity"] {
        let text = listing(&format!(
            r#"{{"skill_name": "NaN, \"-Infinity\" \\", "total_invocations": {spoilt}, "completion_rate":{spoilt},
                "avg_duration_seconds": {spoilt}}}, {{"skill_name": "x", "total_invocations": 1, "new": [{spoilt}]}}"#,
        ));
        let of_spoilt = SkillEntry {
            skill_name: r#"NaN, "-Infinity" \"#.into(),
            total_invocations: Number::Invalid,
            completion_rate_percent: Number::Invalid,
            average_duration_seconds: Number::Invalid,
        };
        let beside = SkillEntry {
            skill_name: "x".into(),
            total_invocations: Number::Finite(1.0),
            completion_rate_percent: Number::Missing,
            average_duration_seconds: Number::Missing,
        };
        assert_eq!(skills(&text), [Ok(of_spoilt), Ok(beside)]);

        let data = format!(r#"{{"skill_name": "x", "completed": true, "duration_seconds": {spoilt}}}"#);
        assert_rejected(&format!(r#"{{"type": "skill_invocation", "data": {data}}}"#), InvalidNumber);
        let snapshot = |data: &str| format!(r#"{{"type": "metrics_update", "data": {{{data}}}}}"#);
        assert_rejected(&snapshot(&format!(r#""top_skills": {spoilt}, "anomalies": []"#)), InvalidField);
        assert_rejected(&snapshot(&format!(r#""top_skills": [], "anomalies": {spoilt}"#)), InvalidField);
        let data = format!(r#"{{"skill_name": "x", "completed": {spoilt}}}"#);
        assert_rejected(&format!(r#"{{"type": "skill_invocation", "data": {data}}}"#), InvalidField);
        assert_rejected(&format!(r#"{{"type": {spoilt}}}"#), MalformedMessage);
        assert_rejected(spoilt, MalformedMessage);
        assert_reads(&format!(r#"[{spoilt},{{"type": "pong"}}]"#), &[Err(MalformedMessage), Ok(PONG)]);
    }
}

#[test]
fn a_field_that_an_event_needs() {
    for (bare, data, reason) in [
        ("skill_invocation", r#"{"completed": true}"#, MissingField),
        ("skill_invocation", r#"{"skill_name": null, "completed": true}"#, MissingField),
        ("skill_invocation", r#"{"skill_name": "", "completed": true}"#, MissingField),
        ("skill_invocation", r#"{"skill_name": 5, "completed": true}"#, InvalidField),
        ("skill_invocation", r#"{"skill_name": ["x"], "completed": true}"#, InvalidField),
        ("skill_invocation", r#"{"skill_name": "x"}"#, MissingField),
        ("skill_invocation", r#"{"skill_name": "x", "completed": null}"#, MissingField),
        ("skill_invocation", r#"{"skill_name": "x", "completed": "true"}"#, InvalidField),
        ("skill_invocation", r#"{"skill_name": "x", "completed": true, "workflow_phase": 5}"#, InvalidField),
        ("skill_invocation", r#"{"skill_name": "x", "completed": true, "duration_seconds": "1"}"#, InvalidNumber),
        ("skill_invocation", r#"{"skill_name": "x", "completed": true, "duration_seconds": true}"#, InvalidNumber),
        ("skill_invocation", r#"{"skill_name": "x", "completed": true, "duration_seconds": -0.1}"#, NumberOutOfRange),
        ("skill_invocation", "null", MissingField),
        ("skill_invocation", "[]", InvalidField),
        ("skill_invocation", "5", InvalidField),
        ("completion_rate", r#"{"rate": 0.5}"#, MissingField),
        ("completion_rate", r#"{"skill_name": "x"}"#, MissingField),
        ("completion_rate", r#"{"skill_name": "x", "rate": "0.5"}"#, InvalidNumber),
        ("completion_rate", r#"{"skill_name": "x", "rate": 1.01}"#, NumberOutOfRange),
        ("completion_rate", r#"{"skill_name": "x", "rate": -0.01}"#, NumberOutOfRange),
        ("anomaly", r#"{"anomaly_type": "drop"}"#, MissingField),
        ("anomaly", r#"{"skill_name": "x", "anomaly_type": ""}"#, MissingField),
        ("anomaly", r#"{"skill_name": "x", "anomaly_type": {}}"#, InvalidField),
        ("anomaly", r#"{"skill_name": "x", "anomaly_type": "drop", "detected_at": 5}"#, InvalidField),
        ("anomaly", r#"{"skill_name": "x", "anomaly_type": "drop", "deviation_score": "2"}"#, InvalidNumber),
        ("active_sessions", "{}", MissingField),
        ("active_sessions", r#"{"count": "3"}"#, InvalidNumber),
        ("active_sessions", r#"{"count": -1}"#, NumberOutOfRange),
        ("active_sessions", r#"{"count": 9007199254740994}"#, NumberOutOfRange),
    ] {
        assert_rejected(&format!(r#"{{"type": "{bare}", "data": {data}}}"#), reason);
    }
    assert_rejected(r#"{"type": "skill_invocation"}"#, MissingField);
    assert_rejected(r#"{"type": "event", "event": "session.created", "data": {}}"#, MissingField);
    assert_rejected(r#"{"type": "event", "event": "session.closed", "data": {"session_id": ""}}"#, MissingField);
}

#[test]
fn a_snapshot_needs_its_list_of_skills() {
    for (rest, reason) in [
        ("", MissingField),
        (r#", "data": null"#, MissingField),
        (r#", "data": []"#, InvalidField),
        (r#", "data": {"anomalies": []}"#, MissingField),
        (r#", "data": {"top_skills": {}, "anomalies": []}"#, InvalidField),
        (r#", "data": {"top_skills": "x", "anomalies": []}"#, InvalidField),
        (r#", "data": {"top_skills": [], "anomalies": 5}"#, InvalidField),
    ] {
        assert_rejected(&format!(r#"{{"type": "metrics_update"{rest}}}"#), reason);
    }
}

#[test]
fn a_bad_entry_of_a_snapshot_is_rejected_alone() {
    let good = r#"{"skill_name": "x", "total_invocations": true, "completion_rate": "50", "avg_duration_seconds": []}"#;
    let entries = skills(&listing(&format!(r#"{{}}, 5, {{"skill_name": 5}}, {{"skill_name": ""}}, null, {good}"#)));
    let of_good = SkillEntry {
        skill_name: "x".into(),
        total_invocations: Number::Invalid,
        completion_rate_percent: Number::Invalid,
        average_duration_seconds: Number::Invalid,
    };
    assert!(entries[..5].iter().all(Result::is_err), "{entries:?}");
    assert_eq!(entries[0], Err(MissingField));
    assert_eq!(entries[2], Err(InvalidField));
    assert_eq!(entries[5], Ok(of_good), "it proves that its skill is listed, whatever its numbers");
}

#[test]
fn entries_and_messages_beyond_the_limit_are_rejected_together() {
    let limits = Limits { snapshot_entries_max: 2, frame_messages_max: 2 };
    let mut items = Vec::new();
    protocol::read(r#"[{"type": "pong"}, {"type": "pong"}, {"type": "pong"}, 5]"#, &limits, &mut |item| {
        items.push(item.map(|message| message.message_type().label()).map_err(|it| it.reason));
    });
    assert_eq!(items, [Ok("pong"), Ok("pong"), Err(TooManyEntries)]);

    let entry = r#"{"skill_name": "x"}"#;
    protocol::read(&listing(&[entry; 5].join(",")), &limits, &mut |item| {
        let Ok(Message::Snapshot(Snapshot { listed, skills, .. })) = item else { panic!("no snapshot: {item:?}") };
        assert_eq!((listed, skills.len()), (5, 3));
        assert_eq!(skills[2].as_ref().map_err(|it| it.reason), Err(TooManyEntries));
    });
}

/// Python writes no key twice. Where another server does, the last one stands, as Python itself reads it.
#[test]
fn of_a_repeated_key_the_last_value_stands() {
    assert_reads(r#"{"type": "connected", "type": "pong"}"#, &[Ok(PONG)]);
    assert_reads(
        r#"{"type": "skill_invocation", "data": {"skill_name": "x", "completed": false, "skill_name": "y", "completed": true}}"#,
        &[event(invocation("y", true))],
    );
}

#[test]
fn a_rejection_names_the_field_and_cuts_the_value_short() {
    let text = format!(
        r#"{{"type": "skill_invocation", "data": {{"skill_name": "x", "completed": "{}"}}}}"#,
        "long ".repeat(10_000)
    );
    let mut details = Vec::new();
    for text in [text.as_str(), &"x".repeat(100_000)] {
        protocol::read(text, &Limits::default(), &mut |item| {
            details.extend(item.err().map(|Rejection { detail, .. }| detail));
        });
    }
    assert!(details[0].contains("completed") && details[0].contains("long"), "{}", details[0]);
    assert!(details.iter().all(|detail| detail.len() < 300), "{details:?}");
}

/// Frames of every kind, to be mutated.
fn frames() -> Vec<String> {
    let invocation = Invocation {
        skill_name: "ü \"x\"".to_owned(),
        workflow_phase: Some("setup".to_owned()),
        completed: true,
        duration_seconds: Some(1.5),
    };
    let anomaly = Anomaly {
        skill_name: "x".to_owned(),
        anomaly_type: "drop".to_owned(),
        detected_at: "2026-11-22 10:00:00".to_owned(),
        deviation_score: Some(f64::NAN),
    };
    let database = Database { invocations: vec![invocation.clone(); 3], anomalies: vec![anomaly.clone(); 2] };
    let event = invocation_event(Some("i"), SECOND, &invocation);
    vec![
        database.snapshot(SECOND),
        anomaly_event(Some("j"), SECOND, &anomaly),
        r#"{"type": "active_sessions", "data": {"count": 3}}"#.to_owned(),
        r#"{"type": "completion_rate", "data": {"skill_name": "x", "rate": 0.5}}"#.to_owned(),
        format!("[{event}, {event}]"),
        event,
    ]
}

/// One change of a frame: `width` characters at a place, as a share of its length, give way to `by`.
#[derive(Debug, Clone)]
struct Mutation {
    place: prop::sample::Index,
    width: usize,
    by: String,
}

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let token = prop::sample::select(vec![
        "",
        "\"",
        "\\",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "null",
        "true",
        "NaN",
        "-Infinity",
        "-1",
        "1e308",
        "1e999",
        "0.1",
        "9007199254740993",
        "\\ud800",
        "\\u0000",
        "\u{0}",
        "😀",
        "\"type\"",
        "\"event\"",
    ]);
    let by = prop_oneof![3 => token.prop_map(str::to_owned), 1 => ".{0,4}"];
    let mutation =
        (any::<prop::sample::Index>(), 0_usize..6, by).prop_map(|(place, width, by)| Mutation { place, width, by });
    prop::collection::vec(mutation, 0..4)
}

fn mutated(frame: &str, mutations: &[Mutation]) -> String {
    let mut characters: Vec<char> = frame.chars().collect();
    for Mutation { place, width, by } in mutations {
        let from = place.index(characters.len() + 1);
        let to = characters.len().min(from + width);
        characters.splice(from..to, by.chars());
    }
    characters.into_iter().collect()
}

proptest! {
    #![proptest_config(property())]

    /// Nor does a counter fall, or a value reach a series that is none: the observer looks after every frame.
    #[test]
    fn no_mutated_frame_panics(
        changes in prop::collection::vec((prop::sample::select(frames()), mutations()), 1..12),
    ) {
        let mut observer = Observer::connected();
        for (second, (frame, mutations)) in (1..).zip(&changes) {
            observer.hear(0, &mutated(frame, mutations), second * SECOND);
            observer.tick(second * SECOND);
        }
        observer.tick(60 * SECOND);
    }
}

#[test]
fn a_label_that_is_too_long_is_rejected_and_never_cut() {
    let mut observer = Observer::connected();
    let invoked = |chars: usize| {
        let skill_name = "ü".repeat(chars);
        Invocation { skill_name, workflow_phase: None, completed: true, duration_seconds: None }
    };
    let database = Database { invocations: vec![invoked(256), invoked(257)], ..Database::default() };
    observer.hear(0, &database.snapshot(SECOND), SECOND);
    observer.hear(0, &invocation_event(None, SECOND, &invoked(300)), 6 * SECOND);
    let shown: Vec<_> = observer.shown.counts().into_keys().map(|(name, _)| name.chars().count()).collect();
    assert_eq!(shown, [256]);
    assert_eq!(observer.rejections(RejectionReason::LabelTooLong), 2);
}
