//! Whether one side stalls the other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::Running;
use crate::Outcome;
use crate::frames::{Frames, event};
use crate::report::{Report, Wanted};
use crate::sample::{median, quantile};

const SKILLS: usize = 10_000;
const LASTS: Duration = Duration::from_secs(8);

pub fn measure(report: &mut Report) -> Outcome<()> {
    let frames = Frames::of((0..SKILLS).map(|number| event(number, SKILLS)));
    let (alone, _) = run(&frames, true, false)?;
    let (_, scrapes_alone) = run(&frames, false, true)?;
    let (both, scrapes) = run(&frames, true, true)?;
    let words = |samples: &[f64], unit: &str| {
        format!("median {:.2}{unit}, p99 {:.2}{unit}", median(samples), quantile(samples, 0.99))
    };
    let detail = format!("a turn of 10,000 events: {}; alone: {}", words(&both, " ms"), words(&alone, " ms"));
    let ratio = median(&both) / median(&alone);
    report.add(
        "ingest of 10,000 skills while scraped without pause",
        "ingest alone",
        ratio,
        " x",
        Wanted::Anything,
        &detail,
    );
    let detail = format!("{}; alone: {}", words(&scrapes, " ms"), words(&scrapes_alone, " ms"));
    let ratio = median(&scrapes) / median(&scrapes_alone);
    report.add(
        "scrapes of 10,000 skills while ingesting at full rate",
        "scrapes alone",
        ratio,
        " x",
        Wanted::Anything,
        &detail,
    );
    Ok(())
}

/// Milliseconds of each turn of events, and of each scrape.
fn run(frames: &Frames, ingests: bool, scrapes: bool) -> Outcome<(Vec<f64>, Vec<f64>)> {
    let Running { program: _program, mut subscriber, mut scraper } = Running::with_skills(SKILLS, None)?;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let scraped = scope.spawn(|| {
            let mut times = Vec::new();
            while scrapes && !is_over.load(Ordering::Relaxed) {
                times.push(scraper.millis(false).map_err(|error| error.to_string())?);
            }
            Ok::<_, String>(times)
        });
        let (begin, mut turns) = (Instant::now(), Vec::new());
        while begin.elapsed() < LASTS {
            if ingests {
                turns.push(subscriber.time(frames, 1)? * 1e3);
            } else {
                thread::sleep(Duration::from_millis(50));
            }
        }
        is_over.store(true, Ordering::Relaxed);
        let scraped = scraped.join().map_err(|_| "the scraper panicked")??;
        Ok((turns, scraped))
    })
}
