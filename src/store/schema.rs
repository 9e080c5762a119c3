//! The tables, for this program and for whoever reads along with the sqlite3 shell.

use std::path::Path;

use rusqlite::Connection;

use super::StoreError;

/// Says in the file's header whose it is: "SBBr".
const APPLICATION_ID: i64 = 0x5342_4272;

const VERSION: i64 = 1;

/// Times are microseconds since the Unix epoch, durations seconds. An absent `detected_at` or `score` is the empty text,
/// which no anomaly has, since a key column cannot tell two absent values to be the same.
const TABLES: &str = "
BEGIN;
CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE skill (
    place INTEGER PRIMARY KEY,
    skill_name TEXT NOT NULL UNIQUE,
    completion_rate REAL,
    last_listed_micros INTEGER NOT NULL
) STRICT;
CREATE TABLE phase (
    skill INTEGER NOT NULL,
    position INTEGER NOT NULL,
    workflow_phase TEXT NOT NULL,
    completed INTEGER NOT NULL,
    abandoned INTEGER NOT NULL,
    duration_buckets TEXT NOT NULL,
    duration_sum REAL NOT NULL,
    born_micros INTEGER,
    PRIMARY KEY (skill, position)
) STRICT, WITHOUT ROWID;
CREATE TABLE anomaly_count (
    skill INTEGER NOT NULL,
    position INTEGER NOT NULL,
    anomaly_type TEXT NOT NULL,
    count INTEGER NOT NULL,
    born_micros INTEGER,
    PRIMARY KEY (skill, position)
) STRICT, WITHOUT ROWID;
CREATE TABLE feed (
    place INTEGER PRIMARY KEY,
    identity TEXT NOT NULL UNIQUE,
    tenth_skill_invocations INTEGER,
    rollbacks INTEGER NOT NULL,
    resets INTEGER NOT NULL,
    detail_mismatches INTEGER NOT NULL,
    had_snapshot INTEGER NOT NULL,
    previous_was_complete INTEGER NOT NULL,
    previous_micros INTEGER,
    streams_invocations INTEGER NOT NULL,
    alias_of INTEGER,
    sessions_reported INTEGER NOT NULL,
    sessions_count INTEGER NOT NULL,
    first_event_id INTEGER NOT NULL,
    newest_forgotten_micros INTEGER,
    unread TEXT NOT NULL
) STRICT;
CREATE TABLE feed_skill (
    feed INTEGER NOT NULL,
    skill_name TEXT NOT NULL,
    skill INTEGER NOT NULL,
    listed INTEGER NOT NULL,
    total INTEGER,
    completed INTEGER,
    split_is_exact INTEGER,
    duration_sum REAL,
    gauge_total REAL,
    gauge_completed REAL,
    gauge_rate_percent REAL,
    streamed_rate REAL,
    credit_completed INTEGER NOT NULL,
    credit_abandoned INTEGER NOT NULL,
    credit_duration_sum REAL,
    waiting TEXT NOT NULL,
    rows_counted_completed INTEGER NOT NULL,
    rows_counted_abandoned INTEGER NOT NULL,
    disagrees INTEGER NOT NULL,
    PRIMARY KEY (feed, skill_name)
) STRICT, WITHOUT ROWID;
CREATE TABLE anomaly_tally (
    feed INTEGER NOT NULL,
    skill_name TEXT NOT NULL,
    anomaly_type TEXT NOT NULL,
    listed INTEGER NOT NULL,
    streamed INTEGER NOT NULL,
    before INTEGER NOT NULL,
    PRIMARY KEY (feed, skill_name, anomaly_type)
) STRICT, WITHOUT ROWID;
CREATE TABLE anomaly (
    feed INTEGER NOT NULL,
    skill_name TEXT NOT NULL,
    anomaly_type TEXT NOT NULL,
    detected_at TEXT NOT NULL,
    score TEXT NOT NULL,
    multiplicity INTEGER NOT NULL,
    streamed INTEGER NOT NULL,
    seen_micros INTEGER NOT NULL,
    PRIMARY KEY (feed, skill_name, anomaly_type, detected_at, score)
) STRICT, WITHOUT ROWID;
CREATE TABLE event_id (
    feed INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    id TEXT NOT NULL,
    sent_micros INTEGER,
    PRIMARY KEY (feed, sequence)
) STRICT, WITHOUT ROWID;
CREATE TABLE detail (
    feed INTEGER PRIMARY KEY,
    moved_alone INTEGER NOT NULL,
    told_until INTEGER NOT NULL,
    history_until INTEGER NOT NULL,
    invocations_cursor INTEGER NOT NULL,
    anomalies_cursor INTEGER NOT NULL
) STRICT;
CREATE TABLE detail_row (
    feed INTEGER NOT NULL,
    source TEXT NOT NULL,
    lost INTEGER NOT NULL,
    id INTEGER NOT NULL,
    digest INTEGER NOT NULL,
    PRIMARY KEY (feed, source, lost, id)
) STRICT, WITHOUT ROWID;
CREATE TABLE session (
    feed INTEGER NOT NULL,
    id TEXT NOT NULL,
    open INTEGER NOT NULL,
    seen_micros INTEGER NOT NULL,
    PRIMARY KEY (feed, id)
) STRICT, WITHOUT ROWID;
";

/// Refuses a file that is not a state of this version or the beginning of one.
pub(super) fn check(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |error| StoreError::sqlite(path, error);
    let number = |query: &str| connection.query_row(query, [], |row| row.get::<_, i64>(0)).map_err(failed);
    let application = number("PRAGMA application_id")?;
    let version = number("PRAGMA user_version")?;
    let is_empty = number("SELECT count(*) FROM sqlite_schema")? == 0;
    match (application, version) {
        (0, 0) if is_empty => Ok(()),
        (APPLICATION_ID, VERSION) => Ok(()),
        (APPLICATION_ID, found) if found > VERSION => {
            Err(StoreError::Newer { path: path.to_owned(), found, known: VERSION })
        }
        _ => Err(StoreError::Foreign { path: path.to_owned() }),
    }
}

/// Makes the tables of a new state; an old one has them. In one transaction with the version, so that a state is begun
/// whole or not at all.
pub(super) fn create(connection: &Connection) -> rusqlite::Result<()> {
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version == VERSION {
        return Ok(());
    }
    connection.execute_batch(&format!(
        "{TABLES} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; COMMIT;"
    ))
}

/// Whether the tables are those that this version makes, to the letter. A bit that turned in the text of one may leave a
/// state that reads well and refuses every commit.
pub(super) fn is_whole(connection: &Connection) -> rusqlite::Result<bool> {
    let model = Connection::open_in_memory()?;
    create(&model)?;
    Ok(tables(connection)? == tables(&model)?)
}

/// Type, name, table and text of something in the schema.
type SchemaEntry = (String, String, String, Option<String>);

fn tables(connection: &Connection) -> rusqlite::Result<Vec<SchemaEntry>> {
    let mut query = connection.prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name")?;
    let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
    rows.collect()
}
