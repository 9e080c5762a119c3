-- Times are microseconds since the Unix epoch, durations seconds. An absent detected_at or score is the empty text, which
-- no anomaly has, since a key column cannot compare absent values.
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
