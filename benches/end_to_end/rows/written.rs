//! What a persisted snapshot writes, beside a single upsert of SQLite.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rustix::process::{Pid, Signal, kill_process};

use super::Running;
use crate::Outcome;
use crate::frames::{Frames, snapshots};
use crate::program::written_bytes;
use crate::report::{Goal, Report};
use crate::sample::{ROUNDS, median};

/// More than the log of the state holds before it is written over from its beginning.
const WARM: usize = 400;
const SNAPSHOTS: usize = 50;
/// Snapshots of a round in which calls are traced.
const TRACED: usize = 10;
/// Longer than a commit and the pause behind it, so that each snapshot has a commit of its own.
const PAUSE: Duration = Duration::from_millis(30);

pub fn measure(report: &mut Report) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let mut running = Running::start(Some(&folder.path().join("state.db")))?;
    let mut listed = snapshots(WARM + SNAPSHOTS + ROUNDS * TRACED).map(|text| Frames::of([text]));
    let mut send = |running: &mut Running, count: usize| -> Outcome<()> {
        for snapshot in listed.by_ref().take(count) {
            running.subscriber.send(&snapshot.bytes)?;
            thread::sleep(PAUSE);
        }
        running.subscriber.sync()
    };
    send(&mut running, WARM)?;
    let commits = running.commits()?;
    let before = running.program.written_bytes()?;
    send(&mut running, SNAPSHOTS)?;
    let written = running.program.written_bytes()? - before;
    let bytes = written / (running.commits()? - commits);
    let bare = bytes_of_an_upsert(&folder.path().join("bare.db"))?;
    let detail = format!("{bytes:.0} to {bare:.0} bytes, one invocation more and ten anomalies as before");
    let what = "bytes written for a persisted snapshot";
    report.add(what, "one bare upsert, same settings of SQLite", bytes / bare, " x", Goal::AtMost(2.0), &detail);

    let what = "calls of fdatasync for a persisted snapshot";
    let mut syncs = Vec::new();
    for _ in 0..ROUNDS {
        let commits = running.commits()?;
        let trace = match Trace::start(running.program.id(), folder.path()) {
            Ok(trace) => trace,
            Err(error) => {
                report.add_missing(what, &format!("strace: {error}"));
                return Ok(());
            }
        };
        send(&mut running, TRACED)?;
        let calls = trace.finish()?;
        syncs.push(calls as f64 / (running.commits()? - commits));
    }
    let detail = "median of 5 rounds of 10 snapshots: a checkpoint, each 170, has three of its own";
    report.add(what, "", median(&syncs), "", Goal::AtMost(1.0), detail);
    Ok(())
}

impl Running {
    /// Returns how many transactions the bridge has written.
    fn commits(&mut self) -> Outcome<f64> {
        let commits = self.scraper.scrape(false)?.value("session_buddy_bridge_state_commits_total ");
        Ok(commits.ok_or("no number of commits")?)
    }
}

/// Bytes that a transaction writes which updates one number of a table with one row.
fn bytes_of_an_upsert(path: &Path) -> Outcome<f64> {
    let connection = Connection::open(path)?;
    connection.execute_batch(
        "PRAGMA page_size = 1024; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         CREATE TABLE bare (key INTEGER PRIMARY KEY, value INTEGER NOT NULL) STRICT;",
    )?;
    let mut upsert =
        connection.prepare("INSERT INTO bare VALUES (0, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value")?;
    upsert.execute([0])?;
    let io = Path::new("/proc/thread-self/io");
    let before = written_bytes(io)?;
    for value in 1..=SNAPSHOTS {
        upsert.execute([value])?;
    }
    Ok((written_bytes(io)? - before) / SNAPSHOTS as f64)
}

/// Counts the calls of a process that wait for the disk.
struct Trace {
    strace: Child,
    file: std::path::PathBuf,
}

impl Trace {
    const PATIENCE: Duration = Duration::from_secs(5);

    /// Returns once the process is traced.
    fn start(process: u32, folder: &Path) -> Outcome<Self> {
        let (file, log) = (folder.join("trace"), folder.join("trace.log"));
        let mut command = Command::new("strace");
        command.args(["-f", "-e", "trace=fdatasync,fsync", "-p", &process.to_string(), "-o"]).arg(&file);
        let strace = command.stdin(Stdio::null()).stderr(fs::File::create(&log)?).spawn()?;
        let mut trace = Self { strace, file };
        let begin = Instant::now();
        while !fs::read_to_string(&log)?.contains("attached") {
            if trace.strace.try_wait()?.is_some() || begin.elapsed() > Self::PATIENCE {
                return Err(fs::read_to_string(&log)?.trim().to_owned().into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(trace)
    }

    /// Returns the number of calls.
    fn finish(mut self) -> Outcome<usize> {
        kill_process(Pid::from_child(&self.strace), Signal::TERM)?;
        self.strace.wait()?;
        let calls = fs::read_to_string(&self.file)?;
        Ok(calls.lines().filter(|line| line.contains("sync(")).count())
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}
