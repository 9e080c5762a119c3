//! The scanner reads what serde reads, or gives up.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::read::serde_front_end;
use super::scan::{plain_length, scan};
use super::{Limits, Message, Rejection};

const TIGHT: Limits = Limits { snapshot_entries_max: 3, frame_messages_max: 3 };

/// What a front-end hands over. Numbers compare by their shortest text, which tells the two zeros apart.
fn scanned(text: &str, limits: &Limits) -> Option<Vec<String>> {
    let mut messages = Vec::new();
    scan(text, limits, &mut |message| messages.push(words(&message))).map(|()| messages)
}

fn parsed(text: &str, limits: &Limits) -> Option<Vec<String>> {
    let mut messages = Vec::new();
    serde_front_end(text, limits, &mut |message| messages.push(words(&message))).ok().map(|()| messages)
}

fn words(message: &Result<Message<'_>, Rejection>) -> String {
    format!("{message:?}")
}

fn agrees(text: &str) -> Result<(), TestCaseError> {
    for limits in [Limits::default(), TIGHT] {
        if let Some(messages) = scanned(text, &limits) {
            prop_assert_eq!(Some(messages), parsed(text, &limits), "{}", text);
        }
    }
    Ok(())
}

fn space() -> impl Strategy<Value = &'static str> {
    prop_oneof![6 => Just(""), 3 => Just(" "), 1 => select(vec!["\n", "\t\r ", "\u{a0}", "\u{c}"])]
}

fn string() -> impl Strategy<Value = String> {
    let text = prop_oneof![
        6 => "[a-z ]{0,20}",
        1 => select(vec!["execution", "2026-11-24T04:05:06.123456", "skill.invoked", "é\u{1f600}ß", "\u{7f}", "''"]).prop_map(str::to_owned),
        1 => select(vec!["\\\"", "\\u00e9", "\\ud800", "a\\\\", "\\x", "a\nb", "\u{1}", "\\"]).prop_map(str::to_owned),
    ];
    text.prop_map(|text| format!("\"{text}\""))
}

fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i32>().prop_map(|number| number.to_string()),
        any::<u64>().prop_map(|number| number.to_string()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| format!("{number:?}")),
        (0.0..1000.0_f64).prop_map(|number| format!("{number:?}")),
        (any::<u64>(), 0_usize..24).prop_map(|(number, point)| {
            let mut digits = number.to_string();
            digits.insert(point.min(digits.len()), '.');
            digits
        }),
        "-?(0|[1-9][0-9]{0,25})(\\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?",
        "-?[0-9]{0,3}\\.?[0-9]{0,3}[eE+-]?[0-9]{0,2}",
        select(vec![
            "-0",
            "-0.0",
            "0",
            "00",
            "1.",
            ".5",
            "+1",
            "1e400",
            "-1e400",
            "5e-324",
            "1e-400",
            "9007199254740992",
            "9007199254740993",
            "-9007199254740993",
            "1497549923779084289",
            "18446744073709551615",
            "18446744073709551616",
            "-9223372036854775808",
            "-9223372036854775809",
            "NaN",
            "Infinity",
            "-Infinity",
            "-",
            "1e",
            "123456789012345678901234567890"
        ])
        .prop_map(str::to_owned),
    ]
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        5 => string(),
        5 => number(),
        3 => select(vec!["true", "false", "null", "{}", "[]", "[1, {\"a\": 2}]", "tru", "nullx"]).prop_map(str::to_owned),
    ]
}

fn object(keys: &'static [&'static str], nested: BoxedStrategy<(String, String)>) -> BoxedStrategy<String> {
    let key = prop_oneof![20 => select(keys).prop_map(|key| format!("\"{key}\"")), 1 => string()];
    let field = prop_oneof![4 => (key, value()), 1 => nested];
    let field = (field, space(), space(), space())
        .prop_map(|((key, value), before, between, after)| format!("{before}{key}{between}:{after}{value}"));
    vec(field, 0..8).prop_map(|fields| format!("{{{}}}", fields.join(","))).boxed()
}

fn nothing() -> BoxedStrategy<(String, String)> {
    (string(), value()).boxed()
}

fn list(item: BoxedStrategy<String>) -> impl Strategy<Value = String> {
    (vec(prop_oneof![9 => item, 1 => value()], 0..6), space())
        .prop_map(|(items, end)| format!("[{}{end}]", items.join(", ")))
}

fn message() -> BoxedStrategy<String> {
    const ENTRY: &[&str] = &[
        "skill_name",
        "total_invocations",
        "completion_rate",
        "avg_duration_seconds",
        "anomaly_type",
        "detected_at",
        "deviation_score",
    ];
    const DATA: &[&str] = &[
        "skill_name",
        "workflow_phase",
        "completed",
        "duration_seconds",
        "session_id",
        "rate",
        "count",
        "anomaly_type",
        "detected_at",
        "deviation_score",
    ];
    const ENVELOPE: &[&str] = &["event", "id", "timestamp", "skill", "authenticated", "room"];
    let lists = (select(vec!["\"top_skills\"", "\"anomalies\""]), list(object(ENTRY, nothing())));
    let lists = lists.prop_map(|(key, list)| (key.to_owned(), list)).boxed();
    let data = object(DATA, lists).prop_map(|data| ("\"data\"".to_owned(), data));
    let kind = select(vec![
        "connected",
        "subscription_confirmed",
        "pong",
        "metrics_update",
        "skill_invocation",
        "completion_rate",
        "anomaly",
        "active_sessions",
        "event",
        "other",
    ]);
    let event = select(vec!["skill.invoked", "anomaly.detected", "skill.completion_rate", "session.created"]);
    let kind = kind.prop_map(|kind| ("\"type\"".to_owned(), format!("\"{kind}\"")));
    let event = event.prop_map(|event| ("\"event\"".to_owned(), format!("\"{event}\"")));
    object(ENVELOPE, prop_oneof![3 => kind, 1 => event, 3 => data].boxed())
}

fn frame() -> impl Strategy<Value = String> {
    let frame = prop_oneof![6 => message(), 2 => list(message()), 1 => value()];
    (space(), frame, space()).prop_map(|(before, frame, after)| format!("{before}{frame}{after}"))
}

/// A frame with something cut out of it, put in, or doubled.
fn mutated() -> impl Strategy<Value = String> {
    let put = select(vec!["", "{", "}", "[", "]", ",", ":", "\"", "\\", "0", "-", ".", "e9", "null", "\u{e9}"]);
    (frame(), any::<Index>(), 0_usize..4, put).prop_map(|(frame, at, length, put)| {
        let characters: Vec<char> = frame.chars().collect();
        let at = at.index(characters.len() + 1);
        let (before, rest) = characters.split_at(at);
        let after = &rest[length.min(rest.len())..];
        before.iter().copied().chain(put.chars()).chain(after.iter().copied()).collect()
    })
}

proptest! {
    #[test]
    fn what_is_scanned_is_what_is_parsed(frame in frame()) {
        agrees(&frame)?;
    }

    #[test]
    fn so_is_what_became_of_a_mutation(frame in mutated()) {
        agrees(&frame)?;
    }

    #[test]
    fn every_number_is_read_alike(number in number()) {
        agrees(&format!(r#"{{"type": "completion_rate", "data": {{"skill_name": "a", "rate": {number}}}}}"#))?;
        agrees(&format!(r#"{{"type": "metrics_update", "data": {{"top_skills": [{{"skill_name": "a", "total_invocations": {number}}}]}}}}"#))?;
    }
}

#[test]
fn ordinary_frames_are_not_given_up() {
    for frame in [
        r#"{"type": "connected", "authenticated": false, "message": "hello"}"#,
        r#"{"type": "skill_invocation", "data": {"skill_name": "skill-00001", "workflow_phase": "execution", "completed": true, "duration_seconds": 12.345, "session_id": "42"}, "timestamp": "2026-11-24T04:05:06.123456"}"#,
        r#"{"id": "5f0c", "type": "event", "event": "session.created", "data": {"session_id": "s"}, "timestamp": "2026-11-24T04:05:06", "room": null}"#,
        r#"{"type": "metrics_update", "timestamp": "2026-11-24T04:05:06.123456+00:00", "data": {"top_skills": [{"skill_name": "a", "total_invocations": 32, "completion_rate": 96.875, "avg_duration_seconds": 13.717419999999999}, {"skill_name": "b", "total_invocations": 1, "completion_rate": 0.0, "avg_duration_seconds": null}], "anomalies": [{"skill_name": "a", "anomaly_type": "drop", "detected_at": "2026-11-24 04:05:06", "deviation_score": 3.5}]}}"#,
        r#"{"type": "metrics_update", "data": {"top_skills": [{"skill_name": "é!#", "total_invocations": 1}, {"skill_name": "!#é#!é!#", "total_invocations": 1}]}}"#,
        r#"[{"type": "pong"}, {"type": "skill_invocation", "data": {"skill_name": "a", "completed": false}}]"#,
        r#" { } "#,
        "[]",
    ] {
        let messages = scanned(frame, &Limits::default());
        assert!(messages.is_some(), "{frame}");
        assert_eq!(messages, parsed(frame, &Limits::default()));
    }
}

#[test]
fn a_string_is_plain_up_to_its_first_quote_backslash_or_control_character() {
    // Bytes before and after those that end a string, and those whose subtraction borrows from the next.
    for others in [0x00, 0x01, 0x1f, 0x20, b'!', b'"', b'#', b'a', b'[', b'\\', b']', 0x7f, 0x80, 0xa2, 0xff] {
        for length in 0..=17 {
            let mut bytes = vec![others; length];
            for place in 0..length {
                for byte in 0..=u8::MAX {
                    bytes[place] = byte;
                    let expected = bytes.iter().take_while(|byte| !matches!(byte, b'"' | b'\\' | ..0x20)).count();
                    assert_eq!(plain_length(&bytes), expected, "{bytes:?}");
                }
                bytes[place] = others;
            }
            assert_eq!(plain_length(&bytes[length..]), 0);
        }
    }
}

#[test]
fn short_lists_of_a_frame_of_many_messages_take_no_memory_for_long_ones() {
    let message = r#"{"type": "metrics_update", "data": {"top_skills": [{}], "anomalies": [{}]}}"#;
    let frame = format!("[{}]", vec![message; 100].join(","));
    let mut snapshots = 0;
    scan(&frame, &Limits::default(), &mut |message| {
        let Ok(Message::Snapshot(snapshot)) = message else { panic!("{message:?}") };
        assert!(snapshot.skills.capacity() < 10 && snapshot.anomalies.capacity() < 10, "{snapshot:?}");
        snapshots += 1;
    })
    .unwrap();
    assert_eq!(snapshots, 100);
}
