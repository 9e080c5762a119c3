//! From a frame's departure to the end of the first scrape that shows it.

use std::io::Write as _;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::Running;
use crate::Outcome;
use crate::frames::{Frames, event};
use crate::report::{Goal, Report};
use crate::sample::{median, millis, quantile};

/// Events at full speed, which share commits.
const MANY: Pace = Pace { events: 5_000, every: Duration::from_millis(1) };
/// Events of which each has a commit of its own.
const SINGLE: Pace = Pace { events: 1_000, every: Duration::from_millis(10) };

/// How many events arrive, and how far apart.
#[derive(Clone, Copy)]
struct Pace {
    events: usize,
    every: Duration,
}

pub fn measure(report: &mut Report) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let state = folder.path().join("single.db");
    let mut flushes = flushes(folder.path())?;
    let single = latencies(Running::start(Some(&state))?, SINGLE)?;
    flushes.extend(self::flushes(folder.path())?);
    let (ours, bare) = (quantile(&single, 0.99), quantile(&flushes, 0.99));
    let detail = format!(
        "{ours:.2} to {bare:.2} ms, medians {:.2} and {:.2} ms, an event each 10 ms, scraped without pause",
        median(&single),
        median(&flushes)
    );
    let what = "an event's visibility, with a state file, p99";
    report.add(what, "a bare flush of that disk", ours / bare, " x", Goal::AtMost(2.0), &detail);

    for keeps in [false, true] {
        let state = folder.path().join("many.db");
        let latencies = latencies(Running::start(keeps.then_some(state.as_path()))?, MANY)?;
        let detail = format!("median {:.2} ms, an event each ms, scraped without pause", median(&latencies));
        let state = if keeps { ", with a state file" } else { "" };
        let what = format!("an event's visibility at 1,000 events/s{state}, p99");
        report.add(&what, "", quantile(&latencies, 0.99), " ms", Goal::Guard, &detail);
    }
    Ok(())
}

/// Milliseconds of each of many flushes: a page is appended to a file, and on disk when the call returns.
fn flushes(folder: &Path) -> Outcome<Vec<f64>> {
    let mut file = tempfile::tempfile_in(folder)?;
    let mut flush = || -> Outcome<f64> {
        thread::sleep(SINGLE.every);
        let begin = Instant::now();
        file.write_all(&[7; 1024])?;
        file.sync_data()?;
        Ok(millis(begin.elapsed()))
    };
    (0..SINGLE.events / 2).map(|_| flush()).collect()
}

/// Milliseconds of each event. Each is the first of its own skill's count, so that a scrape tells which have arrived.
fn latencies(running: Running, Pace { events, every }: Pace) -> Outcome<Vec<f64>> {
    let Running { program: _program, mut subscriber, mut scraper } = running;
    let frame = Frames::of([event(0, 1)]);
    subscriber.send(&frame.bytes)?;
    subscriber.sync()?;
    // A process without a past shows nothing for its first 5 s on a feed without snapshots.
    while scraper.scrape(false)?.value("skill_invocations_total{").is_none() {
        thread::sleep(Duration::from_millis(50));
    }
    let (sent, departures) = mpsc::channel();
    let sender = thread::spawn(move || {
        let begin = Instant::now();
        for number in 1..=events {
            thread::sleep((every * u32::try_from(number).unwrap_or(0)).saturating_sub(begin.elapsed()));
            if sent.send(Instant::now()).is_err() || subscriber.send(&frame.bytes).is_err() {
                break;
            }
        }
        subscriber
    });
    let mut waiting = std::collections::VecDeque::new();
    let (mut seen, mut latencies) = (0, Vec::new());
    while seen < events {
        let shown = scraper.scrape(false)?.value(r#"skill_duration_seconds_count{"#).unwrap_or(0.0) as usize;
        let now = Instant::now();
        waiting.extend(departures.try_iter());
        while seen + 1 < shown {
            let departed: Instant = match waiting.pop_front() {
                Some(departed) => departed,
                None => departures.recv()?,
            };
            latencies.push(now.saturating_duration_since(departed).as_secs_f64() * 1e3);
            seen += 1;
        }
    }
    drop(sender.join());
    Ok(latencies)
}
