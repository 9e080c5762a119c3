//! From a hundred skills to a hundred thousand.

use super::{Running, costs, ingest};
use crate::Outcome;
use crate::plot::Plot;
use crate::report::{Goal, Report};
use crate::sample::median;

const SIZES: [usize; 4] = [100, 1_000, 10_000, 100_000];
const ROUNDS: usize = 3;

pub fn measure(report: &mut Report) -> Outcome<()> {
    let (mut scrapes, mut gzips, mut starts, mut memory, mut ingests) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for skills in SIZES {
        let folder = tempfile::tempdir()?;
        let state = folder.path().join("state.db");
        costs::keep(skills, &state)?;
        let times = (0..ROUNDS).map(|_| costs::time_to_first_scrape(&state)).collect::<Outcome<Vec<_>>>()?;
        let mut running = Running::with_skills(skills, None)?;
        let (mut plain, mut gzip) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            plain.push(running.scraper.millis(false)?);
            gzip.push(running.scraper.millis(true)?);
        }
        let at = skills as f64;
        starts.push((at, median(&times)));
        scrapes.push((at, median(&plain)));
        gzips.push((at, median(&gzip)));
        memory.push((at, running.program.resident_kib()? / 1024.0));
        drop(running);
        ingests.push((at, ingest::rate_by_skills(skills, ROUNDS)?));
    }
    let line = |points: &[(f64, f64)]| {
        let values = points.iter().map(|(skills, value)| format!("{skills}: {value:.2}"));
        values.collect::<Vec<_>>().join(", ")
    };
    for (what, unit, points) in [
        ("growth of a scrape", " ms", &scrapes),
        ("growth of the start", " ms", &starts),
        ("growth of resident memory", " MiB", &memory),
        ("growth of ingest", " events/s", &ingests),
    ] {
        let ratio = points[SIZES.len() - 1].1 / points[SIZES.len() - 2].1;
        let detail = format!("by skills, in{unit}: {}", line(points));
        report.add(what, "10,000 skills, at 100,000", ratio, " x", Goal::Guard, &detail);
    }
    let named = |name: &str, points: Vec<(f64, f64)>| (name.to_owned(), points);
    report.add_plot(Plot {
        name: "growth-time",
        title: "Time by number of skills",
        unit: "ms",
        lines: vec![named("scrape", scrapes), named("scrape, gzip", gzips), named("start to first scrape", starts)],
    });
    report.add_plot(Plot {
        name: "growth-memory",
        title: "Resident memory by number of skills",
        unit: "MiB",
        lines: vec![named("resident", memory)],
    });
    report.add_plot(Plot {
        name: "growth-ingest",
        title: "Ingest by number of skills",
        unit: "events/s",
        lines: vec![named("events, one a frame", ingests)],
    });
    Ok(())
}
