-- Commits that are not in the tables yet. The rows are written when the table is created, and updated ever since.
CREATE TABLE journal (slot INTEGER PRIMARY KEY, content BLOB NOT NULL) STRICT;
