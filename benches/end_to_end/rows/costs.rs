//! What it costs to have it: memory, processor time, the time to start.

use std::iter;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::{EMPTY_SNAPSHOT, Running};
use crate::Outcome;
use crate::feed::Feed;
use crate::frames::{Frames, event, event_of_phase, snapshots};
use crate::program::{Program, free_address};
use crate::report::{Report, Wanted};
use crate::sample::{ROUNDS, median, millis};
use crate::scraper::Scraper;

const SKILLS: usize = 10_000;

pub fn measure(report: &mut Report) -> Outcome<()> {
    memory(report)?;
    quiet(report)?;
    start(report)
}

fn memory(report: &mut Report) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let mut idle = Running::start(Some(&folder.path().join("state.db")))?;
    idle.scraper.scrape(false)?;
    thread::sleep(Duration::from_secs(1));
    let resident = idle.program.resident_kib()? / 1024.0;
    report.add("resident memory, idle, with a state file", "", resident, " MiB", Wanted::AtMost(12.0), "one scrape");
    drop(idle);

    let folder = tempfile::tempdir()?;
    let mut full = Running::with_skills(SKILLS, Some(&folder.path().join("state.db")))?;
    let frames = Frames::of((0..SKILLS).map(|number| event(number, SKILLS)));
    let mut scrape = |times: usize, changed: usize| -> Outcome<f64> {
        for number in 0..times {
            full.subscriber.send(frames.first(changed))?;
            // Also answers the pings of the bridge, which would take a silent server for a dead one.
            full.subscriber.sync()?;
            full.scraper.scrape(number % 2 == 0)?;
        }
        Ok(full.program.resident_kib()? / 1024.0)
    };
    let after_hundred = scrape(100, SKILLS)?;
    let detail = "after a hundred scrapes, half of them gzip, everything changed between two";
    report.add(
        "resident memory, 10,000 skills, with a state file",
        "",
        after_hundred,
        " MiB",
        Wanted::AtMost(45.0),
        detail,
    );
    let after_many = scrape(10_000, SKILLS / 100)?;
    let detail = format!("{after_hundred:.1} MiB after a hundred, {after_many:.1} MiB after 10,100");
    let growth = after_many / after_hundred;
    report.add(
        "resident memory after 10,000 scrapes more",
        "after a hundred",
        growth,
        " x",
        Wanted::AtMost(1.1),
        &detail,
    );
    Ok(())
}

/// What a scrape of the largest allowed body leaves behind: as many series as `--limit.series` allows, few skills with many
/// phases, because each skill sets room for series aside.
pub fn largest_scrape(report: &mut Report) -> Outcome<()> {
    const PHASES: usize = 52;
    const SKILLS: usize = 1_500;
    const EVENTS_A_FRAME: usize = 1_000;
    const PAUSE: Duration = Duration::from_secs(10);
    let folder = tempfile::tempdir()?;
    let mut running = Running::start(Some(&folder.path().join("state.db")))?;
    let texts = (0..SKILLS * PHASES).map(|number| event_of_phase(number % SKILLS, number / SKILLS));
    let texts: Vec<String> = texts.collect();
    let batches = texts.chunks(EVENTS_A_FRAME).map(|batch| format!("[{}]", batch.join(", ")));
    running.subscriber.send(&Frames::of(iter::once(EMPTY_SNAPSHOT.to_owned()).chain(batches)).bytes)?;
    let settled_mib = |running: &mut Running| -> Outcome<f64> {
        let end = Instant::now() + PAUSE;
        while Instant::now() < end {
            running.subscriber.sync()?;
            thread::sleep(Duration::from_millis(100));
        }
        Ok(running.program.anonymous_kib()? / 1024.0)
    };
    let before = settled_mib(&mut running)?;
    let mut bodies = Vec::new();
    let mut after = Vec::new();
    for gzip in [false, true] {
        bodies.push(running.scraper.scrape(gzip)?.body.len() as f64 / 1e6);
        after.push(settled_mib(&mut running)?);
    }
    let detail = format!(
        "{before:.1} MiB before, {:.1} after {:.0} MB of text, {:.1} after {:.1} MB of gzip more",
        after[0], bodies[0], after[1], bodies[1]
    );
    let growth = after[0].max(after[1]) / before;
    let name = "anonymous memory 10 s after the largest scrape";
    report.add(name, "before it", growth, " x", Wanted::AtMost(1.2), &detail);
    Ok(())
}

fn quiet(report: &mut Report) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let mut running = Running::start(Some(&folder.path().join("state.db")))?;
    let mut costs = Vec::new();
    let mut listed = snapshots(10 + 20 * ROUNDS);
    for text in listed.by_ref().take(10) {
        running.subscriber.send(&Frames::of([text]).bytes)?;
    }
    running.subscriber.sync()?;
    running.scraper.scrape(false)?;
    thread::sleep(Duration::from_secs(1));
    for _ in 0..ROUNDS {
        let before = running.program.cpu_millis()?;
        for text in listed.by_ref().take(20) {
            running.subscriber.send(&Frames::of([text]).bytes)?;
            thread::sleep(Duration::from_secs(1));
        }
        costs.push(running.program.cpu_millis()? - before);
    }
    let detail = "each snapshot changes something, and is committed";
    report.add("processor time in 20 s of a snapshot a second", "", median(&costs), " ms", Wanted::AtMost(8.0), detail);
    Ok(())
}

fn start(report: &mut Report) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let mut empty = Vec::new();
    for round in 0..ROUNDS {
        empty.push(time_to_first_scrape(&folder.path().join(format!("{round}.db")))?);
    }
    report.add(
        "start to the first scrape, empty state",
        "",
        median(&empty),
        " ms",
        Wanted::AtMost(50.0),
        "median of 5",
    );
    let kept = folder.path().join("kept.db");
    keep(SKILLS, &kept)?;
    let restored = (0..ROUNDS).map(|_| time_to_first_scrape(&kept)).collect::<Outcome<Vec<_>>>()?;
    let detail = "median of 5";
    report.add("start to the first scrape, 10,000 skills", "", median(&restored), " ms", Wanted::AtMost(300.0), detail);
    Ok(())
}

/// Leaves a state with so many skills.
pub fn keep(skills: usize, state: &Path) -> Outcome<()> {
    // What is shown is kept.
    drop(Running::with_skills(skills, Some(state))?);
    Ok(())
}

/// Milliseconds from the start of the process to the last byte of its first scrape.
pub fn time_to_first_scrape(state: &Path) -> Outcome<f64> {
    let (feed, address) = (Feed::bind()?, free_address()?);
    let mut scraper = Scraper::new(address);
    let begin = Instant::now();
    let _program = Program::bridge(&feed.url()?, address, Some(state))?;
    scraper.connect()?;
    scraper.scrape(false)?;
    Ok(millis(begin.elapsed()))
}
