//! Counting changes over from snapshots to rows and back, and each invocation stays counted once: what was counted of a
//! source is one number, whatever counted it.

use std::fs;
use std::os::unix::fs::symlink;

use crate::support::database_stage::{DatabaseStage, RELOADED, after_messages, invocations, scrape, skills_db, until};
use crate::support::model::{Invocation, SECOND, invocation_event};
use crate::support::program::Program;
use crate::support::server_database::ServerDatabase;
use rustix::process::Signal;

fn reload(stage: &DatabaseStage, program: &mut Program, feeds: &[(&str, String)]) {
    stage.configure(feeds);
    program.signal(Signal::HUP);
    program.until_stderr("the reload", |log| log.contains(RELOADED));
}

fn without_database() -> [(&'static str, String); 1] {
    [("one", String::new())]
}

fn database_mode(program: &mut Program) {
    until(program, "database mode", 1.0, |scrape| scrape.sum("session_buddy_bridge_detail_up"));
}

/// Two events are counted before any snapshot lists the skill; the first snapshot that does lists one of them. What is
/// left of their credit is still counted when rows take over: 2, not 3.
#[tokio::test(flavor = "multi_thread")]
async fn credit_left_of_streamed_events_is_not_counted_again_by_rows() {
    let stage = DatabaseStage::new();
    let server = ServerDatabase::create(&stage.path("skills.db"));
    stage.list(&[]);
    let mut program = stage.start(&without_database());
    after_messages(&mut program, 3.0);
    for id in ["e1", "e2"] {
        let invocation = Invocation {
            skill_name: "a".to_owned(),
            workflow_phase: None,
            completed: true,
            duration_seconds: Some(0.5),
        };
        stage.send(invocation_event(Some(id), SECOND, &invocation));
    }
    until(&mut program, "both events", 2.0, invocations);
    server.invoke("a", 2);
    stage.list(&[("a", 1)]);
    after_messages(&mut program, 5.0);
    stage.list_nothing();
    reload(&stage, &mut program, &[("one", skills_db(&server.path))]);
    // The database counts once the feed lists what it holds; until then nothing moves.
    stage.list(&[("a", 2)]);
    database_mode(&mut program);
    after_messages(&mut program, 20.0);
    assert_eq!(invocations(&scrape(&mut program)), 2.0);
    server.invoke("a", 1);
    stage.list(&[("a", 3)]);
    until(&mut program, "another row", 3.0, invocations);
}

/// Invocations of the time under watch are no history, also if rows tell of them first.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_the_time_under_watch_are_not_backfilled() {
    let stage = DatabaseStage::new();
    let server = ServerDatabase::create(&stage.path("skills.db"));
    server.invoke("a", 10);
    stage.list(&[("a", 10)]);
    let mut program = stage.start(&without_database());
    until(&mut program, "what snapshots list", 10.0, invocations);
    stage.list_nothing();
    server.invoke("a", 5);
    reload(&stage, &mut program, &[("one", skills_db(&server.path))]);
    stage.list(&[("a", 15)]);
    database_mode(&mut program);
    until(&mut program, "what happened meanwhile", 15.0, invocations);
    let backfilled = scrape(&mut program).sum("session_buddy_bridge_backfilled_invocations_total");
    assert_eq!(backfilled, 0.0);
}

/// Snapshots count what they list, rows go on from there, and snapshots from where rows were.
#[tokio::test(flavor = "multi_thread")]
async fn counts_pass_from_snapshots_to_rows_and_back_within_a_reload() {
    let stage = DatabaseStage::new();
    let server = ServerDatabase::create(&stage.path("skills.db"));
    server.invoke("a", 300);
    stage.list(&[("a", 300)]);
    let mut program = stage.start(&without_database());
    until(&mut program, "snapshots", 300.0, invocations);
    for total in (302..=312).step_by(2) {
        let feeds = match total % 4 {
            0 => without_database(),
            _ => [("one", skills_db(&server.path))],
        };
        reload(&stage, &mut program, &feeds);
        server.invoke("a", 2);
        stage.list(&[("a", total)]);
        until(&mut program, "two more", total as f64, invocations);
    }
    after_messages(&mut program, 20.0);
    assert_eq!(invocations(&scrape(&mut program)), 312.0);
}

/// A path to the database of another server, and then to the right one: 496, not 608.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_the_feed_contradicts_counts_nothing_and_the_right_one_counts_once() {
    let stage = DatabaseStage::new();
    let (server, wrong) =
        (ServerDatabase::create(&stage.path("skills.db")), ServerDatabase::create(&stage.path("wrong.db")));
    for (skill, times, times_wrong) in [("a", 400, 90), ("b", 96, 22)] {
        server.invoke(skill, times);
        wrong.invoke(skill, times_wrong);
    }
    let link = stage.path("link.db");
    symlink(&wrong.path, &link).unwrap();
    stage.list(&[("a", 400), ("b", 96)]);
    let mut program = stage.start(&[("one", skills_db(&link))]);
    until(&mut program, "what the feed lists", 496.0, invocations);
    program.until_stderr("the contradiction", |log| log.contains("database belongs to another server"));
    let seen = scrape(&mut program);
    assert_eq!(seen.sum("session_buddy_bridge_detail_up"), 0.0);
    assert_eq!(seen.sum("session_buddy_bridge_detail_mismatches_total"), 1.0);
    wrong.invoke("a", 5);
    after_messages(&mut program, 20.0);
    assert_eq!(invocations(&scrape(&mut program)), 496.0, "nothing of the wrong one counts");

    symlink(&server.path, stage.path("next.db")).unwrap();
    fs::rename(stage.path("next.db"), &link).unwrap();
    database_mode(&mut program);
    after_messages(&mut program, 20.0);
    assert_eq!(invocations(&scrape(&mut program)), 496.0, "the rows of what was listed");
    server.invoke("b", 4);
    stage.list(&[("a", 400), ("b", 100)]);
    until(&mut program, "new rows", 500.0, invocations);
}

/// Nothing says yet that the database is that of the feed.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_nobody_knows_wait_for_the_first_list() {
    let stage = DatabaseStage::new();
    let server = ServerDatabase::create(&stage.path("skills.db"));
    server.invoke("a", 30);
    stage.list_nothing();
    let mut program = stage.start(&[("one", skills_db(&server.path))]);
    after_messages(&mut program, 20.0);
    assert_eq!(invocations(&scrape(&mut program)), 0.0);
    stage.list(&[("a", 30)]);
    database_mode(&mut program);
    until(&mut program, "the rows", 30.0, invocations);
    // Rows that were read before vouch for the database.
    stage.list_nothing();
    program.signal(Signal::TERM);
    assert_eq!(program.end().code, Some(0));
    server.invoke("a", 1);
    let mut program = stage.start(&[("one", skills_db(&server.path))]);
    until(&mut program, "a row after known ones", 31.0, invocations);
}
