//! From a frame's departure to the end of the first scrape that shows it.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::Running;
use crate::Outcome;
use crate::frames::{Frames, event};
use crate::report::{Report, Wanted};
use crate::sample::{median, quantile};

const EVENTS: usize = 5_000;
const EVERY: Duration = Duration::from_millis(1);

pub fn measure(report: &mut Report) -> Outcome<()> {
    for (keeps, most) in [(false, 1.0), (true, 20.0)] {
        let folder = tempfile::tempdir()?;
        let state = folder.path().join("state.db");
        let latencies = latencies(Running::start(keeps.then_some(state.as_path()))?)?;
        let detail = format!("median {:.2} ms, {} events, scraped without pause", median(&latencies), latencies.len());
        let what = if keeps { "an event's visibility, with a state file, p99" } else { "an event's visibility, p99" };
        report.add(what, "", quantile(&latencies, 0.99), " ms", Wanted::AtMost(most), &detail);
    }
    Ok(())
}

/// Milliseconds of each event. Each is the first of its own skill's count, so that a scrape tells which have arrived.
fn latencies(running: Running) -> Outcome<Vec<f64>> {
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
        for number in 1..=EVENTS {
            thread::sleep((EVERY * u32::try_from(number).unwrap_or(0)).saturating_sub(begin.elapsed()));
            if sent.send(Instant::now()).is_err() || subscriber.send(&frame.bytes).is_err() {
                break;
            }
        }
        subscriber
    });
    let mut waiting = std::collections::VecDeque::new();
    let (mut seen, mut latencies) = (0, Vec::new());
    while seen < EVENTS {
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
