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
/// Snapshots, one a second, after which the increases of those before are no longer pending.
const SETTLE: usize = 2 * SCRAPE_EVERY;
const SECONDS: usize = 60;
/// Below the 20 s after which the bridge closes an idle connection.
const SCRAPE_EVERY: usize = 15;

/// A snapshot a second, in each of which one skill changed, and a gzip scrape each 15 s, as Prometheus makes them. The bridges of all
/// sizes run at the same time.
pub fn measure(report: &mut Report) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let state = |skills: usize| folder.path().join(format!("{skills}.db"));
    let start = |skills: usize| Running::with_skills(skills, Some(&state(skills)));
    let mut bridges = SIZES.into_iter().map(start).collect::<Outcome<Vec<_>>>()?;
    let mut listed = snapshots(WARM + SETTLE + SECONDS).map(|text| Frames::of([text]));
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
    for _ in 0..SETTLE / SCRAPE_EVERY {
        for _ in 0..SCRAPE_EVERY {
            send(&mut bridges, Duration::from_secs(1))?;
        }
        for running in &mut bridges {
            running.scraper.scrape(true)?;
        }
    }
    let cpu = |running: &Running| running.program.cpu_millis();
    let written = |running: &Running| running.program.written_bytes();
    let (cpu_before, mut written_bytes) = (bridges.iter().map(cpu).collect::<Outcome<Vec<_>>>()?, [0.0; SIZES.len()]);
    let mut scrapes = vec![Vec::new(); SIZES.len()];
    for _ in 0..SECONDS / SCRAPE_EVERY {
        // Not around the scrapes: a body is written as well.
        let before = bridges.iter().map(written).collect::<Outcome<Vec<_>>>()?;
        for _ in 0..SCRAPE_EVERY {
            send(&mut bridges, Duration::from_secs(1))?;
        }
        for (((running, before), total), scrapes) in
            bridges.iter_mut().zip(before).zip(&mut written_bytes).zip(&mut scrapes)
        {
            *total += written(running)? - before;
            scrapes.push(running.scraper.millis(true)?);
            // The thread that wrote the body ends before the next scrape.
            cpu(running)?;
        }
    }
    for (index, (skills, running)) in SIZES.into_iter().zip(&bridges).enumerate() {
        let resident = running.program.resident_kib()? / 1024.0;
        let share = (cpu(running)? - cpu_before[index]) / (SECONDS as f64 * 10.0);
        let kilobytes = written_bytes[index] / SECONDS as f64 / 1e3;
        let scrape = median(&scrapes[index]);
        let detail =
            format!("{share:.2} % of a core, {kilobytes:.1} KB/s written to the disk, {scrape:.1} ms a scrape");
        let what = format!("resident memory of a bridge in use, {skills} skills");
        report.add(&what, "", resident, " MiB", Goal::Guard, &detail);
    }
    Ok(())
}
