//! Whatever happens to the database of the real server while its feed is connected and its rows are read, every invocation
//! and every anomaly counts once: by skill and `completed`, and by type. Two bridges look on, one of which receives the feed
//! alone, and the other one of which reads the database too: both modes count the same.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::peers::maintained_server::{MaintainedServer, Mode, detected, invoked, invoked_for, planned};
use crate::support::server_database::copy;

/// The history of each database here.
const INVOCATIONS: u64 = 300;

/// What a server makes of the rows, as its owner can have it made again: the formulas are those of the package's trigger.
const REBUILD_METRICS: &str = "
    UPDATE skill_metrics SET
        total_invocations = (SELECT count(*) FROM skill_invocation AS i WHERE i.skill_name = skill_metrics.skill_name),
        completed_invocations =
            (SELECT count(*) FROM skill_invocation AS i WHERE i.skill_name = skill_metrics.skill_name AND completed),
        total_duration_seconds = (SELECT coalesce(sum(duration_seconds), 0) FROM skill_invocation AS i
                                  WHERE i.skill_name = skill_metrics.skill_name AND completed);
    UPDATE skill_metrics SET
        abandoned_invocations = total_invocations - completed_invocations,
        completion_rate = CAST(completed_invocations AS REAL) / NULLIF(total_invocations, 0) * 100.0,
        avg_duration_seconds = total_duration_seconds / NULLIF(completed_invocations, 0);
";

impl MaintainedServer {
    /// A history with four anomalies, which the bridges have counted: one in each of these modes.
    fn watched(modes: &[Mode]) -> Option<Self> {
        let mut server = Self::with(INVOCATIONS)?;
        server.store(&detected(4, 2.0));
        modes.iter().for_each(|mode| server.start_in(*mode));
        server.until_counted("the history");
        Some(server)
    }

    fn watched_in_both_modes() -> Option<Self> {
        Self::watched(&[Mode::Snapshots, Mode::Rows])
    }

    /// Stores eight invocations and two anomalies, of their own for each `number`.
    fn go_on(&mut self, number: u32) {
        // Durations like those before could bring a skill back to a listing from before it fell, bit for bit.
        self.store(&invoked_for(0.5 + 0.0137 * f64::from(number), 8));
        self.store(&detected(2, 10.0 * f64::from(number)));
    }

    /// A database that nobody has open, with so many invocations and two anomalies.
    fn other_database(&self, invocations: u64) -> PathBuf {
        let other = self.path("other.db");
        self.session_buddy.store(&other, &invoked(invocations));
        self.session_buddy.store(&other, &detected(2, 50.0));
        other
    }

    /// Gives the database the content of another one while the server and the readers have it open, as SQLite's `.restore`
    /// does.
    fn restore(&self, from: &Path) {
        let tables = ["skill_invocation", "skill_metrics", "skill_anomalies", "sqlite_sequence"];
        let copied = |table| format!("DELETE FROM main.{table}; INSERT INTO main.{table} SELECT * FROM other.{table};");
        // The metrics come after the rows, whose trigger makes some.
        let content: String = tables.map(copied).concat();
        let from = from.display();
        self.execute(&format!("ATTACH '{from}' AS other; BEGIN IMMEDIATE; {content} COMMIT; DETACH other;"));
    }
}

#[test]
fn emptying_the_table_of_invocations_takes_nothing_back() {
    let Some(mut server) = MaintainedServer::watched_in_both_modes() else { return };
    server.execute("DELETE FROM skill_invocation");
    server.after_messages(5.0);
    server.go_on(1);
    server.settles_at(308, "what was stored after the deletion");
}

fn everything_deleted(and: &str) {
    let Some(mut server) = MaintainedServer::watched_in_both_modes() else { return };
    server.execute(&format!(
        "DELETE FROM skill_invocation; DELETE FROM skill_metrics; DELETE FROM skill_anomalies; {and}"
    ));
    server.after_messages(5.0);
    server.go_on(1);
    server.settles_at(308, "what was stored after the deletion");
}

#[test]
fn emptying_every_table_takes_nothing_back() {
    everything_deleted("");
}

/// The keys begin at 1 again, as those of a new database do.
#[test]
fn emptying_every_table_with_its_sequence_takes_nothing_back() {
    everything_deleted("DELETE FROM sqlite_sequence");
}

/// What was stored under the former name is what the new name lists, and counts as that.
#[test]
fn a_renamed_skill_counts_once_under_each_name() {
    let Some(mut server) = MaintainedServer::watched_in_both_modes() else { return };
    server.execute(
        "BEGIN;
         UPDATE skill_invocation SET skill_name = 'ruff-lint' WHERE skill_name = 'ruff-check';
         UPDATE skill_metrics SET skill_name = 'ruff-lint' WHERE skill_name = 'ruff-check'; COMMIT;",
    );
    // A quarter of all, all of them completed.
    server.due.add_invocations("ruff-lint", true, INVOCATIONS / 4);
    server.until_counted("the renamed skill");
    server.go_on(1);
    server.settles_at(383, "what was stored after the renaming");
}

/// First of the rows alone, and then of rows and metrics, as an owner does who wants the numbers to match.
fn rows_deleted(of_rows: &str, of_both: &str, anomalies: &str) {
    let Some(mut server) = MaintainedServer::watched_in_both_modes() else { return };
    server.execute(&format!("DELETE FROM skill_invocation WHERE {of_rows}"));
    server.after_messages(5.0);
    server.go_on(1);
    server.until_counted("what was stored after rows were deleted");
    server.execute(&format!(
        "BEGIN; DELETE FROM skill_invocation WHERE {of_both}; DELETE FROM skill_anomalies WHERE {anomalies};
         {REBUILD_METRICS} COMMIT;"
    ));
    server.after_messages(5.0);
    server.go_on(2);
    server.settles_at(316, "what was stored after metrics fell");
    let scrape = server.scrape();
    assert_eq!(scrape.sum("session_buddy_bridge_feed_resets_total"), 0.0, "it is the same database");
    assert_eq!(scrape.sum("session_buddy_bridge_feed_rollbacks_total"), 1.0, "the fall of its metrics");
}

#[test]
fn pruning_old_rows_that_were_counted_takes_nothing_back() {
    rows_deleted("id <= 10", "id <= 30", "id <= 3");
}

#[test]
fn deleting_the_newest_rows_and_their_metrics_takes_nothing_back() {
    rows_deleted("id > 295", "id > 290", "id > 3");
}

/// The database is what it was when it was last written into its file: 40 rows and two anomalies that were counted are gone,
/// and their keys are given to new ones.
fn power_cut(lose: impl Fn(&MaintainedServer, &Path)) {
    let Some(mut server) = MaintainedServer::watched_in_both_modes() else { return };
    server.checkpoint();
    let checkpoint = server.path("checkpoint.db");
    fs::copy(server.database(), &checkpoint).unwrap();
    server.invoke(40);
    server.store(&detected(2, 10.0));
    server.until_counted("what will be lost");
    server.kill_server();
    lose(&server, &checkpoint);
    server.serve();
    assert_eq!(server.session_buddy.truth(&server.database()).invocations(), INVOCATIONS, "the others are lost");
    server.after_messages(5.0);
    server.go_on(2);
    server.settles_at(348, "what was stored after the power cut");
}

#[test]
fn a_power_cut_that_loses_the_write_ahead_log_takes_nothing_back() {
    power_cut(|server, _| {
        for companion in ["-wal", "-shm"] {
            fs::remove_file(format!("{}{companion}", server.database().display())).unwrap();
        }
    });
}

#[test]
fn a_power_cut_that_leaves_a_copy_without_its_log_takes_nothing_back() {
    power_cut(|server, checkpoint| {
        for companion in ["-wal", "-shm"] {
            fs::remove_file(format!("{}{companion}", server.database().display())).unwrap();
        }
        fs::rename(checkpoint, server.database()).unwrap();
    });
}

#[test]
fn a_smaller_new_database_is_added() {
    let Some(mut server) = MaintainedServer::watched_in_both_modes() else { return };
    let other = server.other_database(20);
    server.replace_database(&other);
    server.due += planned(&invoked(20));
    server.due += planned(&detected(2, 50.0));
    server.until_counted("what the new database holds");
    server.go_on(1);
    server.settles_at(328, "what was stored in the new database");
    assert_eq!(server.scrape().sum("session_buddy_bridge_feed_resets_total"), 1.0);
}

/// The connection of the feed stays, and so do the files.
#[test]
fn a_smaller_database_that_is_restored_into_the_open_one_is_added() {
    let Some(mut server) = MaintainedServer::watched_in_both_modes() else { return };
    let other = server.other_database(20);
    server.restore(&other);
    server.due += planned(&invoked(20));
    server.due += planned(&detected(2, 50.0));
    server.until_counted("what the new database holds");
    server.go_on(1);
    server.settles_at(328, "what was stored in the new database");
}

/// Snapshots alone cannot tell a database that exceeds the former one everywhere from one that went on.
#[test]
fn a_larger_database_that_is_restored_into_the_open_one_is_added() {
    let Some(mut server) = MaintainedServer::watched(&[Mode::Rows]) else { return };
    let other = server.other_database(400);
    server.restore(&other);
    server.due += planned(&invoked(400));
    server.due += planned(&detected(2, 50.0));
    server.until_counted("what the new database holds");
    server.go_on(1);
    server.settles_at(708, "what was stored in the new database");
}

#[test]
fn a_backup_that_is_restored_into_the_open_database_is_counted_on() {
    let Some(mut server) = MaintainedServer::watched_in_both_modes() else { return };
    let backup = server.path("backup.db");
    copy(&server.database(), &backup);
    server.invoke(40);
    server.store(&detected(2, 10.0));
    server.until_counted("what the backup does not hold");
    server.restore(&backup);
    server.after_messages(5.0);
    server.go_on(2);
    server.settles_at(348, "what was stored after the backup");
}
