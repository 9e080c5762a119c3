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
    let (alone, _) = run(&frames, true, Beside::Nobody)?;
    let (_, scrapes_alone) = run(&frames, false, Beside::Scraper)?;
    let (both, scrapes) = run(&frames, true, Beside::Scraper)?;
    let (looked_at, looks) = run(&frames, true, Beside::Page)?;
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
    let detail = format!(
        "a turn of 10,000 events: {}; alone: {}; an answer to the page: {}",
        words(&looked_at, " ms"),
        words(&alone, " ms"),
        words(&looks, " ms")
    );
    let ratio = median(&looked_at) / median(&alone);
    report.add(
        "ingest of 10,000 skills while the live page is open",
        "ingest alone",
        ratio,
        " x",
        Wanted::Anything,
        &detail,
    );
    Ok(())
}

/// Who looks meanwhile.
#[derive(Clone, Copy, PartialEq)]
enum Beside {
    Nobody,
    /// Without pause.
    Scraper,
    /// As often as a browser that shows the page.
    Page,
}

const PAGE_LOOKS_EVERY: Duration = Duration::from_secs(2);

/// Milliseconds of each turn of events, and of each scrape or answer.
fn run(frames: &Frames, ingests: bool, beside: Beside) -> Outcome<(Vec<f64>, Vec<f64>)> {
    let Running { program: _program, mut subscriber, mut scraper } = Running::with_skills(SKILLS, None)?;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let scraped = scope.spawn(|| {
            let mut times = Vec::new();
            let mut looked: Option<Instant> = None;
            while beside != Beside::Nobody && !is_over.load(Ordering::Relaxed) {
                if beside == Beside::Scraper {
                    times.push(scraper.millis(false).map_err(|error| error.to_string())?);
                    continue;
                }
                if looked.is_some_and(|looked| looked.elapsed() < PAGE_LOOKS_EVERY) {
                    thread::sleep(Duration::from_millis(20));
                    continue;
                }
                looked = Some(Instant::now());
                for path in ["/api/v1/status", "/api/v1/skills?sort=last_changed_seconds", "/api/v1/history"] {
                    let took = scraper.ask(path, false).map_err(|error| error.to_string())?.took;
                    times.push(took.as_secs_f64() * 1e3);
                }
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
