//! A disk that does not finish a write, such as a network file system whose server is gone: a signal ends the bridge all the
//! same.
//!
//! The bridge runs with an `fsync` and an `fdatasync` that never return, from a library that is loaded before the C library.
//! A disk whose driver holds the thread in the kernel is not simulated: such a process ends for the others, and its entry in
//! the table of processes remains until the driver lets go, whatever a program does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::http_client;
use crate::support::model::{Database, Invocation};
use crate::support::program::{Ended, Program};
use crate::support::scripted_feed::{Gate, ScriptedFeed, Step};
use crate::support::{eventually, holds};
use rustix::process::Signal;

/// Hangs once `$DISK_HANGS` exists, and creates `$DISK_HANGS.hung` then. Otherwise nothing is synced, which no test of a disk
/// that hangs can notice.
const LIBRARY: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int sync_or_hang(void) {
    const char *hangs = getenv("DISK_HANGS");
    if (hangs == NULL || access(hangs, F_OK) != 0)
        return 0;
    char hung[4096];
    snprintf(hung, sizeof hung, "%s.hung", hangs);
    close(open(hung, O_CREAT | O_WRONLY, 0600));
    for (;;)
        pause();
}

int fsync(int file) { return sync_or_hang(); }
int fdatasync(int file) { return sync_or_hang(); }
"#;

/// A disk in a folder of its own.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("disk.c");
        fs::write(&source, LIBRARY).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-o"]).arg(folder.path().join("disk.so")).arg(&source);
        // Rust links with it, so that it is wherever this test is.
        let compiled = compiler.output().expect("a C compiler");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        Self(folder)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// From now on.
    fn hang(&self) {
        fs::write(self.file("hangs"), "").unwrap();
    }

    fn until_it_hangs(&self) {
        let hung = self.file("hangs.hung");
        eventually("a write that hangs", || holds(hung.exists(), "no write has begun"));
    }

    /// A bridge with its state on this disk.
    fn bridge(&self, feed_url: &str) -> Program {
        let mut command = Command::new(env!("CARGO_BIN_EXE_session-buddy-bridge"));
        command.args(["--feed.url", feed_url, "--web.listen-address", "127.0.0.1:0", "--state.path"]);
        command.arg(self.file("state.db")).env_clear();
        command.env("LD_PRELOAD", self.file("disk.so")).env("DISK_HANGS", self.file("hangs"));
        Program::spawn("the bridge", &mut command)
    }
}

/// That it ends at all is the promise here: what hangs never returns. How soon is that of `process_manners`.
fn assert_cut_off(ended: &Ended) {
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("level=error"), "the log says why: {}", ended.stderr);
}

fn is_uncommitted(state: &Path) -> bool {
    // What was written and not synced is in the log of the database.
    fs::metadata(state.with_file_name("state.db-wal")).is_ok_and(|log| log.len() > 0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_ends_the_bridge_while_a_commit_hangs_and_scrapes_are_answered_until_then() {
    let disk = Disk::new();
    let gate = Gate::default();
    let mut database = Database::default();
    let mut snapshot = |at_micros| {
        database.invocations.push(Invocation {
            skill_name: "pytest-run".to_owned(),
            workflow_phase: None,
            completed: true,
            duration_seconds: Some(1.0),
        });
        Step::send(database.snapshot(at_micros))
    };
    let connected = Step::send(r#"{"type": "connected", "authenticated": false}"#);
    let script = vec![connected, snapshot(1), Step::Await(gate.clone()), snapshot(2), Step::Await(Gate::default())];
    let feed = ScriptedFeed::start(vec![script]);
    let mut bridge = disk.bridge(feed.url().as_str());
    let address = bridge.address();
    eventually("the first snapshot", || {
        let scrape = http_client::get(address, "/metrics");
        holds(scrape.text().contains("skill_invocations_total{"), "no skill")
    });
    disk.hang();
    gate.open();
    disk.until_it_hangs();
    assert!(is_uncommitted(&disk.file("state.db")));
    assert_eq!(http_client::get(address, "/-/healthy").status, 200);
    assert!(http_client::get(address, "/metrics").text().contains("skill_invocations_total{"));
    bridge.signal(Signal::TERM);
    assert_cut_off(&bridge.end());
}

#[test]
fn a_signal_ends_a_bridge_that_cannot_open_its_state() {
    let disk = Disk::new();
    disk.hang();
    let bridge = disk.bridge("ws://127.0.0.1:1");
    disk.until_it_hangs();
    bridge.signal(Signal::TERM);
    assert_cut_off(&bridge.end());
}
