//! A state that holds impossible numbers, as a flipped bit or a hostile hand leaves them, is refused as corrupt or works: it never
//! panics, and a bridge that starts on it can persist what it counts.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, params_from_iter};
use serde_json::Value as Json;
use session_buddy_bridge::internals::ledger::records::UncoveredRows;
use session_buddy_bridge::internals::ledger::{Changes, ConnectionId, FeedSpec, Ledger, LedgerState, Limits, Now};
use session_buddy_bridge::internals::protocol;
use session_buddy_bridge::internals::store::{Store, StoreError};

use crate::support::histories::{Class, Databases, History, LedgerProduct, Persistence, play};
use crate::support::memory_state::MemoryState;

/// Around the bounds of what the program's types, SQLite and doubles hold.
const IMPOSSIBLE: [i64; 4] = [-1, i64::MIN, i64::MAX, 1 << 32];

/// What only numbers in JSON can be.
const IMPOSSIBLE_IN_JSON: [u64; 2] = [1 << 63, u64::MAX];

/// Of a history that leaves rows in each table.
const SEED: u64 = 1;

/// The last state of the history, after events and sessions were streamed.
fn everything() -> LedgerState {
    let history = History::draw_with(Class::HardAll, Databases::All, SEED);
    let mut product = LedgerProduct::new(Persistence::AtTheEnd, SEED);
    let mut end_seconds = 0;
    play(&history, &mut product, |at_seconds, _, _| end_seconds = at_seconds);
    let mut whole = product.states(end_seconds).1;
    let mut ledger = Ledger::restore(Limits::default(), whole.clone(), at(0)).unwrap();
    let identity = "ws://streams/".to_owned();
    let feed = ledger.add_feed(FeedSpec { identity, ..FeedSpec::default() });
    let connection = ledger.open(feed, at(0));
    let text = r#"[{"type":"event","event":"skill.invoked","id":"1","timestamp":"2026-11-22T10:24:24+00:00",
                    "data":{"skill_name":"streamed","completed":true,"duration_seconds":0.3}},
                   {"type":"event","event":"session.created","id":"2","timestamp":"2026-11-22T10:24:24+00:00",
                    "data":{"session_id":"s"}}]"#;
    apply(&mut ledger, connection, text, 1);
    whole.fold(&ledger.drain(at(2)));
    ledger.tick(at(20), &mut Vec::new());
    // Of another one nobody knows yet whose its events are.
    let feed = ledger.add_feed(FeedSpec { identity: "ws://held/".to_owned(), ..FeedSpec::default() });
    let connection = ledger.open(feed, at(20));
    apply(&mut ledger, connection, &text.replace("22T", "23T"), 21);
    whole.fold(&ledger.drain(at(22)));
    // Rows that told of skills while no feed was subscribed to them.
    for skill in &mut whole.memory.skills {
        let failures = vec![("timeout".into(), 2), ("unknown".into(), 1)];
        let rows = skill.rows.get_or_insert_default();
        rows.uncovered.1 += 3;
        rows.uncovered_rows = Some(Box::new(UncoveredRows { failures, last_invoked_micros: Some(1) }));
    }
    whole
}

fn at(seconds: u64) -> Now {
    Now::at(Duration::from_secs(seconds))
}

fn apply(ledger: &mut Ledger, connection: ConnectionId, text: &str, seconds: u64) {
    protocol::read(text, &protocol::Limits::default(), &mut |message| {
        ledger.apply(connection, &message.unwrap(), at(seconds), &mut Vec::new());
    });
}

/// A state in memory that is changed behind the bridge's back.
struct Stage {
    uri: String,
    hand: Connection,
}

/// One row of a table.
struct Row {
    table: String,
    columns: Vec<String>,
    keys: Vec<usize>,
    values: Vec<Value>,
}

impl Stage {
    fn new(whole: LedgerState) -> Self {
        let uri = "file:impossible-state?mode=memory&cache=shared".to_owned();
        let hand = Connection::open_with_flags(&uri, OpenFlags::default()).unwrap();
        let stage = Self { uri, hand };
        let LedgerState { skills, rules, memory } = whole;
        let changes = Changes { skills, rules, memory, wall_micros: 1, ..Changes::default() };
        stage.store().unwrap().0.commit(&changes).unwrap();
        stage
    }

    fn store(&self) -> Result<(Store, LedgerState), StoreError> {
        let connection = Connection::open_with_flags(&self.uri, OpenFlags::default()).unwrap();
        Store::on(connection, Path::new(&self.uri), LedgerState::validated)
    }

    /// The first row of each table, one from its middle, and the last.
    fn rows(&self) -> Vec<Row> {
        let mut tables = self.hand.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").unwrap();
        let tables: Vec<String> = tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        let rows = |table: String| {
            let mut info = self.hand.prepare("SELECT name, pk FROM pragma_table_info(?)").unwrap();
            let info = info.query_map([&table], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?))).unwrap();
            let info: Vec<(String, i64)> = info.map(Result::unwrap).collect();
            let keys: Vec<_> = (0..info.len()).filter(|at| info[*at].1 > 0).collect();
            let columns: Vec<_> = info.into_iter().map(|(name, _)| name).collect();
            let mut all = self.hand.prepare(&format!("SELECT * FROM {table}")).unwrap();
            let all = all.query_map([], |row| (0..columns.len()).map(|at| row.get(at)).collect()).unwrap();
            let all: Vec<Vec<Value>> = all.map(Result::unwrap).collect();
            assert!(!all.is_empty(), "{table} has no row");
            let chosen = BTreeSet::from([0, all.len() / 2, all.len() - 1]);
            let row = |at: usize| Row {
                table: table.clone(),
                columns: columns.clone(),
                keys: keys.clone(),
                values: all[at].clone(),
            };
            chosen.into_iter().map(row).collect::<Vec<_>>()
        };
        // What is wrong in the queue of remote write empties the queue: `push_queue` tests that.
        let is_of_ledger = |table: &String| table != "location" && !table.starts_with("push_");
        tables.into_iter().filter(is_of_ledger).flat_map(rows).collect()
    }

    fn write(&self, Row { table, columns, keys, values }: &Row, replaced: &[Value]) -> rusqlite::Result<()> {
        let condition: Vec<_> = keys.iter().map(|at| format!("{} = ?", columns[*at])).collect();
        let condition = condition.join(" AND ");
        let marks = vec!["?"; columns.len()].join(", ");
        let tx = self.hand.unchecked_transaction()?;
        let key = keys.iter().map(|at| replaced[*at].clone());
        tx.execute(&format!("DELETE FROM {table} WHERE {condition}"), params_from_iter(key))?;
        tx.execute(&format!("INSERT INTO {table} VALUES ({marks})"), params_from_iter(values.iter()))?;
        tx.commit()
    }
}

/// Starts on the state, applies snapshots and events of each feed, and persists everything to another one.
fn use_state(stage: &Stage, other: &mut Store) -> Result<(), StoreError> {
    let (_, whole) = stage.store()?;
    let names: Vec<_> = whole.skills.iter().take(3).map(|row| row.series.skill_name.clone()).collect();
    let feeds: Vec<_> = whole.memory.feeds.iter().map(|feed| feed.entry.clone()).collect();
    let mut ledger = Ledger::restore(Limits::default(), whole, at(30)).expect("it was validated");
    let listed: Vec<_> = names
        .iter()
        .map(|name| {
            serde_json::json!({"skill_name": **name, "total_invocations": 50, "completion_rate": 100.0,
                               "avg_duration_seconds": 0.5})
        })
        .collect();
    let anomaly = serde_json::json!({"skill_name": names[0].to_string(), "anomaly_type": "drop",
                                     "detected_at": "2026-11-22 10:24:23", "deviation_score": 2.5});
    let connections: Vec<_> = feeds
        .iter()
        .map(|entry| {
            let spec = FeedSpec {
                identity: entry.name.to_string(),
                address: Some(entry.address.to_string()),
                skill: entry.filter.as_deref().map(str::to_owned),
            };
            let feed = ledger.add_feed(spec);
            ledger.open(feed, at(30))
        })
        .collect();
    for seconds in [31, 50] {
        let data = serde_json::json!({"top_skills": listed, "anomalies": [anomaly]});
        let timestamp = format!("2026-11-25T10:24:{seconds}.585602+00:00");
        let snapshot = serde_json::json!({"type": "metrics_update", "timestamp": timestamp, "data": data});
        let event = serde_json::json!({"type": "event", "event": "skill.invoked", "id": seconds.to_string(),
                                       "timestamp": timestamp,
                                       "data": {"skill_name": "streamed", "completed": true}});
        let session = serde_json::json!({"type": "event", "event": "session.closed", "data": {"session_id": "s"}});
        for connection in &connections {
            for message in [&snapshot, &event, &session] {
                apply(&mut ledger, *connection, &message.to_string(), seconds);
            }
        }
        ledger.tick(at(seconds), &mut Vec::new());
    }
    ledger.mark_all();
    other.commit(&ledger.drain(at(60)))
}

/// `json` with each of its numbers replaced.
fn with_numbers(json: &Json, number: &Json) -> Json {
    match json {
        Json::Number(_) => number.clone(),
        Json::Array(items) => Json::Array(items.iter().map(|item| with_numbers(item, number)).collect()),
        Json::Object(fields) => {
            Json::Object(fields.iter().map(|(name, value)| (name.clone(), with_numbers(value, number))).collect())
        }
        other => other.clone(),
    }
}

/// What a value can be replaced by.
fn replacements(value: &Value) -> Vec<Value> {
    match value {
        Value::Integer(_) | Value::Null => IMPOSSIBLE.map(Value::Integer).to_vec(),
        Value::Blob(words) => [0x00, 0x7f, 0xff].map(|byte| Value::Blob(vec![byte; words.len()])).to_vec(),
        Value::Text(text) => {
            let Ok(json) = serde_json::from_str::<Json>(text) else { return Vec::new() };
            let numbers = IMPOSSIBLE.map(Json::from).into_iter().chain(IMPOSSIBLE_IN_JSON.map(Json::from));
            let replaced = numbers.map(|number| match &json {
                // An empty list of identifiers.
                Json::Array(items) if items.is_empty() => Json::Array(vec![number]),
                json => with_numbers(json, &number),
            });
            replaced.filter(|replaced| *replaced != json).map(|replaced| Value::Text(replaced.to_string())).collect()
        }
        Value::Real(_) => [f64::MAX, -1.0, f64::INFINITY, f64::NEG_INFINITY].map(Value::Real).to_vec(),
    }
}

#[test]
fn whatever_numbers_a_state_holds_it_is_refused_as_corrupt_or_works() {
    let stage = Stage::new(everything());
    let other = MemoryState::new();
    let (mut other_store, _) = other.open();
    use_state(&stage, &mut other_store).unwrap_or_else(|error| panic!("the sound state: {error}"));
    let (mut wrong, mut tried) = (Vec::new(), 0);
    for mut row in stage.rows() {
        let sound = row.values.clone();
        for at in 0..row.columns.len() {
            for replacement in replacements(&sound[at]) {
                row.values = sound.clone();
                row.values[at] = replacement.clone();
                if stage.write(&row, &sound).is_err() {
                    // Not even SQLite takes it.
                    continue;
                }
                tried += 1;
                let place = format!("{}.{} = {replacement:?}", row.table, row.columns[at]);
                match catch_unwind(AssertUnwindSafe(|| use_state(&stage, &mut other_store))) {
                    Ok(Ok(()) | Err(StoreError::Corrupt { .. })) => {}
                    Ok(Err(error)) => wrong.push(format!("{place}: {error}")),
                    Err(_) => wrong.push(format!("{place}: a panic")),
                }
                let changed = std::mem::replace(&mut row.values, sound.clone());
                stage.write(&row, &changed).unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {tried}: {wrong:#?}", wrong.len());
    assert!(tried > 900, "{tried} values were tried");
}
