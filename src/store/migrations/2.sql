-- Each feed becomes a source with a feed that is bound to it. Where a feed was the same server as an earlier one, it is bound
-- to the earlier one's source, and its own numbers, which stood still, are dropped: they would look like a backup.
--
-- Which feeds were configured last is not known, so that none leaves the configuration at the first start: a feed that joins it
-- there is not the heir of one that may have left long before.
--
-- An entry's address is known where its name was made of its URL; the others take it from the configuration, by their name.
-- An alias can be one of an alias. Where a chain has no end, its lowest place counts.
CREATE TEMP TABLE merged AS
    WITH RECURSIVE chain (place, link, is_end) AS (
        SELECT place, place, alias_of IS NULL OR alias_of NOT IN (SELECT place FROM main.feed) FROM main.feed
        UNION
        SELECT chain.place, next.place, next.alias_of IS NULL OR next.alias_of NOT IN (SELECT place FROM main.feed)
        FROM chain JOIN main.feed ON feed.place = chain.link JOIN main.feed AS next ON next.place = feed.alias_of
    ), counted AS (
        SELECT place, coalesce(min(link) FILTER (WHERE is_end), min(link)) AS target FROM chain GROUP BY place
    )
    SELECT place, target + 1 AS source, target <> place AS is_alias FROM counted;
CREATE TABLE source (
    id INTEGER PRIMARY KEY,
    is_observed INTEGER NOT NULL,
    has_begun INTEGER NOT NULL,
    counted_by INTEGER,
    active_micros INTEGER NOT NULL,
    previous_was_complete INTEGER NOT NULL,
    previous_micros INTEGER,
    streams_invocations INTEGER NOT NULL,
    first_event_id INTEGER NOT NULL,
    newest_forgotten_micros INTEGER,
    unread TEXT NOT NULL,
    unread_overflowed INTEGER NOT NULL
) STRICT;
INSERT INTO source
    SELECT place + 1, 0, had_snapshot, place, coalesce(previous_micros, 0), previous_was_complete, previous_micros,
           streams_invocations, first_event_id, newest_forgotten_micros, unread, 0
    FROM feed WHERE place IN (SELECT place FROM merged WHERE NOT is_alias);
CREATE TABLE entry (
    slot INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    address TEXT NOT NULL,
    filter TEXT,
    is_configured INTEGER NOT NULL,
    tenth_skill_invocations INTEGER,
    rollbacks INTEGER NOT NULL,
    resets INTEGER NOT NULL,
    detail_mismatches INTEGER NOT NULL,
    double_counted INTEGER NOT NULL,
    undecided TEXT NOT NULL,
    source INTEGER,
    heir_of TEXT NOT NULL,
    hold_rounds INTEGER NOT NULL,
    is_observed INTEGER NOT NULL,
    held_events TEXT NOT NULL,
    apart TEXT NOT NULL,
    sessions_reported_micros INTEGER,
    sessions_count INTEGER NOT NULL
) STRICT;
INSERT INTO entry
    SELECT feed.place, identity,
           CASE WHEN identity NOT LIKE 'ws://%' AND identity NOT LIKE 'wss://%' THEN ''
                WHEN instr(identity, ' skill=') > 0 THEN substr(identity, 1, instr(identity, ' skill=') - 1)
                ELSE identity END,
           CASE WHEN (identity LIKE 'ws://%' OR identity LIKE 'wss://%') AND instr(identity, ' skill=') > 0
                THEN substr(identity, instr(identity, ' skill=') + length(' skill=')) END,
           0, tenth_skill_invocations, rollbacks, resets, detail_mismatches, 0, '[0,0,0,0]', merged.source, '[]', 0, 0, '[]',
           '[]', CASE WHEN sessions_reported AND NOT merged.is_alias THEN coalesce(previous_micros, 0) END,
           CASE WHEN merged.is_alias THEN 0 ELSE sessions_count END
    FROM feed JOIN merged ON merged.place = feed.place;
CREATE TABLE address (address TEXT PRIMARY KEY, sources TEXT NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO address SELECT address, json_array(max(source)) FROM entry WHERE address <> '' GROUP BY address;
CREATE TABLE agreed (
    feed INTEGER NOT NULL,
    skill_name TEXT NOT NULL,
    total INTEGER NOT NULL,
    completed INTEGER NOT NULL,
    split_is_exact INTEGER NOT NULL,
    duration_sum REAL,
    PRIMARY KEY (feed, skill_name)
) STRICT, WITHOUT ROWID;
CREATE TABLE source_skill (
    source INTEGER NOT NULL,
    skill_name TEXT NOT NULL,
    skill INTEGER NOT NULL,
    listed INTEGER NOT NULL,
    total INTEGER,
    completed INTEGER,
    split_is_exact INTEGER,
    duration_sum REAL,
    counted INTEGER NOT NULL,
    gauge_total REAL,
    gauge_completed REAL,
    gauge_rate_percent REAL,
    streamed_rate REAL,
    credit_completed INTEGER NOT NULL,
    credit_abandoned INTEGER NOT NULL,
    credit_duration_sum REAL,
    pending TEXT NOT NULL,
    rows_counted_completed INTEGER NOT NULL,
    rows_counted_abandoned INTEGER NOT NULL,
    rows_uncounted_completed INTEGER NOT NULL,
    rows_uncounted_abandoned INTEGER NOT NULL,
    rows_are_history INTEGER NOT NULL,
    uncovered_completed INTEGER NOT NULL,
    uncovered_abandoned INTEGER NOT NULL,
    row_seconds REAL,
    disagrees INTEGER NOT NULL,
    PRIMARY KEY (source, skill_name)
) STRICT, WITHOUT ROWID;
INSERT INTO source_skill
    SELECT feed + 1, skill_name, skill, listed, total, completed, split_is_exact, duration_sum, coalesce(total, 0),
           gauge_total, gauge_completed, gauge_rate_percent, streamed_rate,
           credit_completed, credit_abandoned, credit_duration_sum, waiting,
           rows_counted_completed, rows_counted_abandoned, 0, 0, 0, 0, 0, duration_sum, disagrees
    FROM feed_skill WHERE feed IN (SELECT place FROM merged WHERE NOT is_alias);
CREATE TABLE listing_history (
    source INTEGER NOT NULL,
    skill_name TEXT NOT NULL,
    words BLOB NOT NULL,
    PRIMARY KEY (source, skill_name)
) STRICT, WITHOUT ROWID;
CREATE TABLE damage (
    source INTEGER NOT NULL,
    damage INTEGER NOT NULL,
    skill_name TEXT NOT NULL,
    total INTEGER NOT NULL,
    completed INTEGER NOT NULL,
    split_is_exact INTEGER NOT NULL,
    duration_sum REAL,
    PRIMARY KEY (source, damage, skill_name)
) STRICT, WITHOUT ROWID;
CREATE TABLE source_anomaly_tally (
    source INTEGER NOT NULL,
    skill_name TEXT NOT NULL,
    anomaly_type TEXT NOT NULL,
    listed INTEGER NOT NULL,
    streamed INTEGER NOT NULL,
    hidden INTEGER NOT NULL,
    PRIMARY KEY (source, skill_name, anomaly_type)
) STRICT, WITHOUT ROWID;
-- What was counted of earlier databases is not of this source. Both numbers are moved by the same, so that neither gains on
-- the other.
INSERT INTO source_anomaly_tally
    SELECT feed + 1, skill_name, anomaly_type,
           listed - min(before, listed, streamed), streamed - min(before, listed, streamed), 0
    FROM anomaly_tally WHERE feed IN (SELECT place FROM merged WHERE NOT is_alias);
CREATE TABLE source_anomaly (
    source INTEGER NOT NULL,
    skill_name TEXT NOT NULL,
    anomaly_type TEXT NOT NULL,
    detected_at TEXT NOT NULL,
    score TEXT NOT NULL,
    multiplicity INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    streamed INTEGER NOT NULL,
    seen_micros INTEGER NOT NULL,
    PRIMARY KEY (source, skill_name, anomaly_type, detected_at, score)
) STRICT, WITHOUT ROWID;
INSERT INTO source_anomaly
    SELECT feed + 1, skill_name, anomaly_type, detected_at, score, multiplicity, 0, streamed, seen_micros
    FROM anomaly WHERE feed IN (SELECT place FROM merged WHERE NOT is_alias);
CREATE TABLE source_event_id (
    source INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    id TEXT NOT NULL,
    sender INTEGER NOT NULL,
    sent_micros INTEGER,
    PRIMARY KEY (source, sequence)
) STRICT, WITHOUT ROWID;
INSERT INTO source_event_id
    SELECT feed + 1, sequence, id, feed, sent_micros FROM event_id WHERE feed IN (SELECT place FROM merged WHERE NOT is_alias);
CREATE TABLE feed_session (
    feed INTEGER NOT NULL,
    id TEXT NOT NULL,
    open INTEGER NOT NULL,
    seen_micros INTEGER NOT NULL,
    PRIMARY KEY (feed, id)
) STRICT, WITHOUT ROWID;
INSERT INTO feed_session
    SELECT feed, id, open, seen_micros FROM session WHERE feed IN (SELECT place FROM merged WHERE NOT is_alias);
-- The fingerprints of version 1 cover columns that can be corrected: the rows are read again, and the numbers of the
-- database say how many of them are counted.
CREATE TABLE database (
    source INTEGER PRIMARY KEY,
    moved_alone INTEGER NOT NULL,
    remembered_until INTEGER NOT NULL,
    newest_micros INTEGER,
    invocations_cursor INTEGER NOT NULL,
    anomalies_cursor INTEGER NOT NULL
) STRICT;
INSERT INTO database
    SELECT feed + 1, 1, 0, NULL, 0, 0 FROM detail WHERE feed IN (SELECT place FROM merged WHERE NOT is_alias);
CREATE TABLE fingerprint (
    source INTEGER NOT NULL,
    table_name TEXT NOT NULL,
    branch INTEGER NOT NULL,
    key INTEGER NOT NULL,
    digest INTEGER NOT NULL,
    PRIMARY KEY (source, table_name, branch, key)
) STRICT, WITHOUT ROWID;
-- The absolute path by which the state was last open, without symbolic links.
CREATE TABLE location (only INTEGER PRIMARY KEY CHECK (only = 0), path BLOB NOT NULL) STRICT;
DROP TABLE temp.merged;
DROP TABLE feed_skill;
DROP TABLE anomaly_tally;
DROP TABLE anomaly;
DROP TABLE event_id;
DROP TABLE session;
DROP TABLE detail;
DROP TABLE detail_row;
DROP TABLE feed;
ALTER TABLE entry RENAME TO feed;
ALTER TABLE source_anomaly_tally RENAME TO anomaly_tally;
ALTER TABLE source_anomaly RENAME TO anomaly;
ALTER TABLE source_event_id RENAME TO event_id;
ALTER TABLE feed_session RENAME TO session;
-- When the first series was committed, in microseconds since the Unix epoch; null if that was before version 2.
CREATE TABLE first_series (only INTEGER PRIMARY KEY CHECK (only = 0), micros INTEGER) STRICT;
INSERT INTO first_series SELECT 0, NULL WHERE EXISTS (SELECT 1 FROM skill);
-- The queue of remote write. Times of ticks are milliseconds since the Unix epoch, 0 for never. One row, if the bridge has
-- pushed: whose queue it is, and the time of the base.
CREATE TABLE push_identity (
    slot INTEGER PRIMARY KEY CHECK (slot = 0),
    id BLOB NOT NULL,
    host_hash INTEGER NOT NULL,
    label_sets TEXT NOT NULL,
    base_millis INTEGER NOT NULL
) STRICT;
CREATE TABLE push_series (
    id INTEGER PRIMARY KEY,
    metric TEXT NOT NULL,
    labels TEXT NOT NULL,
    is_counter INTEGER NOT NULL,
    is_own INTEGER NOT NULL,
    zero_millis INTEGER
) STRICT;
-- The bits of the values: SQLite has no NaN, which stale markers are.
CREATE TABLE push_base (series INTEGER PRIMARY KEY, bits INTEGER NOT NULL) STRICT;
CREATE TABLE push_tick (millis INTEGER PRIMARY KEY, samples BLOB NOT NULL) STRICT;
CREATE TABLE push_receiver (name TEXT PRIMARY KEY, position_millis INTEGER NOT NULL) STRICT, WITHOUT ROWID;
