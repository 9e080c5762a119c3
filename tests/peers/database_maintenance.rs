//! Whatever its owner does to the database of the real server, made by the real storage, every invocation and every anomaly
//! counts once: beside a feed alone, and beside its database.

use std::fs;
use std::os::unix::fs::symlink;

use crate::support::peers::maintained_server::{
    MaintainedServer, Mode, SNAPSHOT_INTERVAL_SECONDS, detected, invoked, planned,
};
use crate::support::scrape::Scrape;
use crate::support::server_database::copy;

fn in_phase(scrape: &Scrape, phase: &str) -> f64 {
    let series = scrape.series("skill_invocations_total");
    series.into_iter().filter(|(labels, _)| labels["workflow_phase"] == phase).map(|(_, value)| value).sum()
}

/// A backup 1,500 rows back is recognised by older fingerprints than those of the last 1,024 rows.
fn a_backup(mode: Mode) {
    let Some(mut stage) = MaintainedServer::with(500) else { return };
    let backup = stage.path("backup.db");
    stage.start_in(mode);
    stage.until_counted("the first rows");
    copy(&stage.database(), &backup);
    stage.invoke(1_500);
    stage.until_counted("all rows");
    stage.replace_database(&backup);
    stage.after_messages(5.0);
    stage.invoke(8);
    stage.settles_at(2_008, "what happened after the backup");
}

#[test]
fn a_backup_far_back_is_counted_on_beside_the_feed() {
    a_backup(Mode::Snapshots);
}

#[test]
fn a_backup_far_back_is_counted_on_beside_the_database() {
    a_backup(Mode::Rows);
}

#[test]
fn a_backup_that_went_on_while_nobody_read_it_is_counted_on() {
    let Some(mut stage) = MaintainedServer::with(500) else { return };
    let backup = stage.path("backup.db");
    stage.start_in(Mode::Rows);
    stage.until_counted("the first rows");
    copy(&stage.database(), &backup);
    stage.invoke(1_500);
    stage.until_counted("all rows");
    stage.stop();
    stage.replace_database(&backup);
    stage.invoke(8);
    stage.start_in(Mode::Rows);
    stage.settles_at(2_008, "what happened after the backup");
}

/// The server dies and is started again after its `-wal` and `-shm` were removed. A reader that keeps the former ones open
/// shows five rows for ever.
#[test]
fn replaced_companions_are_noticed() {
    let Some(mut stage) = MaintainedServer::with(5) else { return };
    stage.start_in(Mode::Rows);
    stage.until_counted("the first rows");
    stage.kill_server();
    stage.checkpoint();
    for companion in ["-wal", "-shm"] {
        fs::remove_file(format!("{}{companion}", stage.database().display())).unwrap();
    }
    stage.serve();
    stage.invoke(20);
    stage.settles_at(25, "all rows");
    assert_eq!(stage.scrape().sum("session_buddy_bridge_detail_up"), 1.0);
}

#[test]
fn a_column_rewritten_in_every_row_changes_nothing() {
    let Some(mut stage) = MaintainedServer::with(300) else { return };
    stage.start_in(Mode::Rows);
    stage.until_counted("all rows");
    stage.execute(
        "UPDATE skill_invocation SET workflow_phase = 'cleanup', duration_seconds = duration_seconds * 1.5,
             session_id = 'merged', error_type = 'none'",
    );
    stage.invoke(5);
    stage.settles_at(305, "new rows alone");
    assert_eq!(stage.scrape().sum("session_buddy_bridge_feed_resets_total"), 0.0);
}

fn newest_deleted(mode: Mode) {
    let Some(mut stage) = MaintainedServer::with(300) else { return };
    stage.start_in(mode);
    stage.until_counted("all rows");
    stage.execute("DELETE FROM skill_invocation WHERE id > 290");
    stage.after_messages(5.0);
    stage.invoke(4);
    stage.settles_at(304, "new rows alone");
    assert_eq!(stage.scrape().sum("session_buddy_bridge_feed_resets_total"), 0.0);
    assert_eq!(stage.scrape().sum("session_buddy_bridge_feed_rollbacks_total"), 0.0);
}

#[test]
fn deleting_the_newest_rows_takes_nothing_back_beside_the_feed() {
    newest_deleted(Mode::Snapshots);
}

#[test]
fn deleting_the_newest_rows_takes_nothing_back_beside_the_database() {
    newest_deleted(Mode::Rows);
}

/// The database is emptied of 300 rows that nobody has read, and 10 come after them.
fn pruned_unread(mode: Mode) -> Option<Scrape> {
    let mut stage = MaintainedServer::with(400)?;
    stage.start_in(mode);
    stage.until_counted("all rows");
    stage.stop();
    stage.invoke(300);
    stage.execute("DELETE FROM skill_invocation");
    stage.invoke(10);
    stage.start_in(mode);
    stage.settles_at(710, "pruned rows too");
    Some(stage.scrape())
}

#[test]
fn rows_pruned_before_they_were_read_count_beside_the_feed() {
    pruned_unread(Mode::Snapshots);
}

#[test]
fn rows_pruned_before_they_were_read_count_without_a_phase_beside_the_database() {
    let Some(scrape) = pruned_unread(Mode::Rows) else { return };
    assert_eq!((in_phase(&scrape, "setup"), in_phase(&scrape, "unknown")), (410.0, 300.0));
}

#[test]
fn a_wrong_database_counts_nothing_and_the_right_one_once() {
    let Some(mut stage) = MaintainedServer::with(496) else { return };
    let (wrong, link) = (stage.path("wrong.db"), stage.path("link.db"));
    let session = stage.session_buddy.serve_every(SNAPSHOT_INTERVAL_SECONDS, &wrong, 0, &[]);
    stage.session_buddy.store(&wrong, &invoked(112));
    symlink(&wrong, &link).unwrap();
    stage.start(Some(link.as_path()));
    stage.settles_at(496, "what the feed lists");
    symlink(stage.database(), stage.path("next.db")).unwrap();
    fs::rename(stage.path("next.db"), &link).unwrap();
    stage.settles_at(496, "the same rows");
    stage.invoke(4);
    stage.settles_at(500, "new rows");
    assert_eq!(stage.scrape().sum("session_buddy_bridge_detail_up"), 1.0);
    drop(session);
}

/// What the bridge does between two readings of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meanwhile {
    /// It does not run.
    Stopped,
    /// It counts snapshots before it is stopped.
    CountsSnapshots,
}

impl MaintainedServer {
    /// All rows are read, and then none for a while, at the end of which the bridge does not run.
    fn stop_reading(&mut self, meanwhile: Meanwhile) {
        self.stop();
        if meanwhile == Meanwhile::CountsSnapshots {
            self.start_in(Mode::Snapshots);
            self.after_messages(5.0);
            self.stop();
        }
    }
}

fn larger_database(meanwhile: Meanwhile) {
    let Some(mut stage) = MaintainedServer::with(100) else { return };
    let larger = stage.path("larger.db");
    stage.session_buddy.store(&larger, &invoked(400));
    stage.start_in(Mode::Rows);
    stage.until_counted("all rows");
    stage.stop_reading(meanwhile);
    stage.replace_database(&larger);
    stage.due += planned(&invoked(400));
    stage.start_in(Mode::Rows);
    stage.settles_at(500, "the rows of both");
}

#[test]
fn a_larger_database_in_place_of_one_that_was_read_is_another() {
    larger_database(Meanwhile::Stopped);
}

#[test]
fn a_larger_database_in_place_of_one_that_was_listed_is_another() {
    larger_database(Meanwhile::CountsSnapshots);
}

fn anomalies_pruned(meanwhile: Meanwhile) {
    let Some(mut stage) = MaintainedServer::with(4) else { return };
    stage.store(&detected(70, 2.0));
    stage.start_in(Mode::Rows);
    stage.until_counted("all anomalies");
    stage.stop_reading(meanwhile);
    stage.execute("DELETE FROM skill_anomalies WHERE id <= 30");
    stage.store(&detected(33, 100.0));
    stage.start_in(Mode::Rows);
    stage.settles_at(4, "and new anomalies");
}

#[test]
fn anomalies_pruned_while_nobody_read_them_stay_counted() {
    anomalies_pruned(Meanwhile::Stopped);
}

#[test]
fn anomalies_pruned_while_snapshots_listed_them_stay_counted() {
    anomalies_pruned(Meanwhile::CountsSnapshots);
}
