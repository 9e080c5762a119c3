//! What a user pays by the number of skills: the paragraph of `docs/explanation/cost.md`.

use std::thread;
use std::time::{Duration, Instant};

use super::Running;
use crate::Outcome;
use crate::frames::{Frames, snapshots};
use crate::report::{Goal, Report};
use crate::sample::median;

const SIZES: [usize; 4] = [10, 500, 1_000, 10_000];
const WARM: usize = 400;
const SECONDS: usize = 60;
const SCRAPE_EVERY: usize = 15;

/// A snapshot a second, in each of which one skill changed, and a gzip scrape each 15 s, as Prometheus makes them. The bridges of all
/// sizes run at the same time.
pub fn measure(report: &mut Report) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let state = |skills: usize| folder.path().join(format!("{skills}.db"));
    let start = |skills: usize| Running::with_skills(skills, Some(&state(skills)));
    let mut bridges = SIZES.into_iter().map(start).collect::<Outcome<Vec<_>>>()?;
    let mut listed = snapshots(WARM + SECONDS).map(|text| Frames::of([text]));
    let mut send = |bridges: &mut [Running], pause: Duration| -> Outcome<()> {
        let begin = Instant::now();
        let snapshot = listed.next().ok_or("no snapshot is left")?;
        for running in bridges {
            running.subscriber.send(&snapshot.bytes)?;
            running.subscriber.sync()?;
        }
        thread::sleep(pause.saturating_sub(begin.elapsed()));
        Ok(())
    };
    for _ in 0..WARM {
        send(&mut bridges, Duration::from_millis(20))?;
    }
    for running in &mut bridges {
        running.scraper.scrape(true)?;
    }
    thread::sleep(Duration::from_secs(1));
    let costs = |running: &Running| {
        Ok::<_, Box<dyn std::error::Error>>((running.program.cpu_millis()?, running.program.stored_bytes()?))
    };
    let before = bridges.iter().map(costs).collect::<Outcome<Vec<_>>>()?;
    let mut scrapes = vec![Vec::new(); SIZES.len()];
    for second in 1..=SECONDS {
        send(&mut bridges, Duration::from_secs(1))?;
        if second % SCRAPE_EVERY == 0 {
            for (running, scrapes) in bridges.iter_mut().zip(&mut scrapes) {
                scrapes.push(running.scraper.millis(true)?);
            }
        }
    }
    for (((skills, running), before), scrapes) in SIZES.into_iter().zip(&bridges).zip(before).zip(scrapes) {
        let (cpu, stored) = costs(running)?;
        let resident = running.program.resident_kib()? / 1024.0;
        let share = (cpu - before.0) / (SECONDS as f64 * 10.0);
        let bytes = (stored - before.1) / SECONDS as f64 / 1e3;
        let detail =
            format!("{share:.2} % of a core, {bytes:.1} KB/s to the disk, {:.1} ms a scrape", median(&scrapes));
        let what = format!("resident memory of a bridge in use, {skills} skills");
        report.add(&what, "", resident, " MiB", Goal::Guard, &detail);
    }
    Ok(())
}
