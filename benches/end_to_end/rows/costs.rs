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
use crate::report::{Goal, Report};
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
    report.add("resident memory, idle, with a state file", "", resident, " MiB", Goal::Guard, "one scrape");
    drop(idle);

    let folder = tempfile::tempdir()?;
    let mut full = Running::with_skills(SKILLS, Some(&folder.path().join("state.db")))?;
    let frames = Frames::of((0..SKILLS).map(|number| event(number, SKILLS)));
    let mut scrape = |times: usize, changed: usize| -> Outcome<(f64, f64)> {
        for number in 0..times {
            full.subscriber.send(frames.first(changed))?;
            // Also answers the pings of the bridge, which would take a silent server for a dead one.
            full.subscriber.sync()?;
            full.scraper.scrape(number % 2 == 0)?;
        }
        let mib = |kib: Outcome<f64>| kib.map(|kib| kib / 1024.0);
        Ok((mib(full.program.resident_kib())?, mib(full.program.anonymous_kib())?))
    };
    let (resident, anonymous) = scrape(100, SKILLS)?;
    let detail = "after a hundred scrapes, half of them gzip, everything changed between two";
    report.add("resident memory, 10,000 skills, with a state file", "", resident, " MiB", Goal::Guard, detail);
    let (resident_then, anonymous_then) = scrape(10_000, SKILLS / 100)?;
    let body = full.scraper.scrape(false)?.body.len() as f64 / f64::from(1 << 20);
    report.add(
        "anonymous memory, 10,000 skills, with a state file",
        "the body of a scrape",
        anonymous / body,
        " x",
        Goal::AtMost(3.2),
        &format!("{anonymous:.1} to {body:.1} MiB, after a hundred scrapes of which half are gzip"),
    );
    report.add(
        "anonymous memory after 10,100 scrapes",
        "after a hundred",
        anonymous_then / anonymous,
        " x",
        Goal::AtMost(1.05),
        &format!("{anonymous_then:.1} to {anonymous:.1} MiB; resident {resident_then:.1} to {resident:.1} MiB"),
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
    report.add(name, "before it", growth, " x", Goal::Guard, &detail);
    Ok(())
}

/// A snapshot a second to two bridges, with and without a state file. The log of the state has been through a checkpoint, as it has
/// been three minutes after a start: from then on it does not grow.
fn quiet(report: &mut Report) -> Outcome<()> {
    const WARM: usize = 400;
    const SECONDS: usize = 20;
    let folder = tempfile::tempdir()?;
    let mut both = [Running::start(None)?, Running::start(Some(&folder.path().join("state.db")))?];
    let mut listed = snapshots(WARM + SECONDS * ROUNDS).map(|text| Frames::of([text]));
    for snapshot in listed.by_ref().take(WARM) {
        both.iter_mut().try_for_each(|running| running.subscriber.send(&snapshot.bytes))?;
        thread::sleep(Duration::from_millis(10));
    }
    for running in &mut both {
        running.subscriber.sync()?;
        running.scraper.scrape(false)?;
    }
    thread::sleep(Duration::from_secs(1));
    let mut costs = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        let before = both.iter().map(|running| running.program.cpu_millis()).collect::<Outcome<Vec<_>>>()?;
        for snapshot in listed.by_ref().take(SECONDS) {
            both.iter_mut().try_for_each(|running| running.subscriber.send(&snapshot.bytes))?;
            thread::sleep(Duration::from_secs(1));
        }
        for ((running, costs), before) in both.iter().zip(&mut costs).zip(before) {
            costs.push(running.program.cpu_millis()? - before);
        }
    }
    let [without, with] = costs.map(|costs| median(&costs));
    report.add(
        "processor time of a quiet feed, with a state file",
        "without",
        with / without,
        " x",
        Goal::AtMost(2.5),
        &format!("{with:.1} to {without:.1} ms in 20 s of a snapshot a second, each with a change that is committed"),
    );
    Ok(())
}

fn start(report: &mut Report) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let mut empty = Vec::new();
    for round in 0..ROUNDS {
        empty.push(time_to_first_scrape(&folder.path().join(format!("{round}.db")))?);
    }
    report.add("start to the first scrape, empty state", "", median(&empty), " ms", Goal::Guard, "median of 5");
    let kept = folder.path().join("kept.db");
    keep(SKILLS, &kept)?;
    let restored = (0..ROUNDS).map(|_| time_to_first_scrape(&kept)).collect::<Outcome<Vec<_>>>()?;
    let detail = "median of 5";
    report.add("start to the first scrape, 10,000 skills", "", median(&restored), " ms", Goal::Guard, detail);
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
