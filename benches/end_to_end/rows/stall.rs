//! Whether one side stalls the other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::Running;
use crate::Outcome;
use crate::frames::{Frames, event};
use crate::report::{Goal, Report};
use crate::sample::{median, quantile};
use crate::scraper::Scraper;

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
        Goal::Guard,
        &detail,
    );
    let detail = format!("{}; alone: {}", words(&scrapes, " ms"), words(&scrapes_alone, " ms"));
    let ratio = median(&scrapes) / median(&scrapes_alone);
    report.add(
        "scrapes of 10,000 skills while ingesting at full rate",
        "scrapes alone",
        ratio,
        " x",
        Goal::Guard,
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
        Goal::Guard,
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
const PAGE_REQUESTS: [&str; 3] = ["/api/v1/status", "/api/v1/skills?sort=last_changed_seconds", "/api/v1/history"];

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
                for path in PAGE_REQUESTS {
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

/// Scrapes of a laptop with 500 skills, under 1,000 events a second and two open live pages, beside alone.
pub fn laptop(report: &mut Report) -> Outcome<()> {
    const SKILLS: usize = 500;
    const PAGES: usize = 2;
    const EVENT_EVERY: Duration = Duration::from_millis(1);
    const SCRAPE_EVERY: Duration = Duration::from_millis(20);
    const LASTS: Duration = Duration::from_secs(8);
    let folder = tempfile::tempdir()?;
    let running = Running::with_skills(SKILLS, Some(&folder.path().join("state.db")))?;
    let Running { program: _program, mut subscriber, mut scraper } = running;
    let address = scraper.address();
    let mut scrapes = || -> Outcome<Vec<f64>> {
        let (begin, mut times) = (Instant::now(), Vec::new());
        while begin.elapsed() < LASTS {
            times.push(scraper.millis(false)?);
            thread::sleep(SCRAPE_EVERY);
        }
        Ok(times)
    };
    let frames: Vec<_> = (0..SKILLS).map(|number| Frames::of([event(number, SKILLS)])).collect();
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        subscriber.sync()?;
        alone.extend(scrapes()?);
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| -> Outcome<()> {
            let sender = scope.spawn(|| {
                let begin = Instant::now();
                for number in 1.. {
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    thread::sleep((EVENT_EVERY * number).saturating_sub(begin.elapsed()));
                    let frame = &frames[number as usize % SKILLS];
                    subscriber.send(&frame.bytes).map_err(|error| error.to_string())?;
                }
                Ok::<_, String>(())
            });
            let page = || {
                let mut page = Scraper::new(address);
                while !is_over.load(Ordering::Relaxed) {
                    for path in PAGE_REQUESTS {
                        page.ask(path, false).map_err(|error| error.to_string())?;
                    }
                    let looked = Instant::now();
                    while looked.elapsed() < PAGE_LOOKS_EVERY && !is_over.load(Ordering::Relaxed) {
                        thread::sleep(Duration::from_millis(20));
                    }
                }
                Ok::<_, String>(())
            };
            let pages: Vec<_> = (0..PAGES).map(|_| scope.spawn(page)).collect();
            let times = scrapes();
            is_over.store(true, Ordering::Relaxed);
            for thread in pages.into_iter().chain([sender]) {
                thread.join().map_err(|_| "a thread beside the scraper panicked")??;
            }
            beside.extend(times?);
            Ok(())
        })?;
    }
    let (of_beside, of_alone) = (quantile(&beside, 0.99), quantile(&alone, 0.99));
    let detail = format!(
        "{of_beside:.2} to {of_alone:.2} ms, medians {:.2} and {:.2} ms, {} scrapes each, with a state file",
        median(&beside),
        median(&alone),
        alone.len()
    );
    let what = "p99 of a scrape of 500 skills, 1,000 events/s and two live pages";
    report.add(what, "the same alone", of_beside / of_alone, " x", Goal::AtMost(2.0), &detail);
    Ok(())
}
