-- Why invocations failed, and when skills were last invoked, counted from rows that are read from now on: the state does not hold
-- the rows that were read before.
CREATE TABLE failure_count (
    skill INTEGER NOT NULL,
    position INTEGER NOT NULL,
    error_type TEXT NOT NULL,
    count INTEGER NOT NULL,
    born_micros INTEGER,
    PRIMARY KEY (skill, position)
) STRICT, WITHOUT ROWID;
ALTER TABLE skill ADD COLUMN last_invoked_micros INTEGER;
ALTER TABLE source_skill ADD COLUMN uncovered_rows TEXT;
