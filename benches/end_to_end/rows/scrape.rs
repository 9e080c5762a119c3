//! What a scrape takes.

use std::fs;
use std::hint::black_box;
use std::time::Instant;

use prometheus::core::Collector;
use prometheus::{CounterVec, Encoder as _, GaugeVec, HistogramOpts, HistogramVec, Opts, Registry, TextEncoder};
use session_buddy_bridge::internals::exposition::{self, Encoding, Format, RegistryText};
use session_buddy_bridge::internals::ledger::{DURATION_BUCKETS_SECONDS, Limits};
use session_buddy_bridge::internals::protocol;
use session_buddy_bridge::internals::shared_ledger::SharedLedger;

use super::Running;
use crate::Outcome;
use crate::frames::{Frames, event, skill_name, whole_skill};
use crate::program::{Program, free_address};
use crate::report::{Goal, Report};
use crate::sample::{ROUNDS, in_turns, median, millis};
use crate::scraper::Scraper;

/// Scrapes of one round.
const SCRAPES: usize = 9;

pub fn measure(report: &mut Report) -> Outcome<()> {
    for (skills, most) in [(10, 2.0), (100, 2.5), (1_000, 2.5), (10_000, 2.2)] {
        over_http(report, skills, most)?;
    }
    Ok(())
}

/// A bridge and a server of the same bytes. The scrapes of a round have no more in common than they must: before each one
/// an event of every skill changes everything.
fn over_http(report: &mut Report, skills: usize, most: f64) -> Outcome<()> {
    let mut running = Running::with_skills(skills, None)?;
    let body = running.scraper.scrape(false)?.body.to_vec();
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("body");
    fs::write(&file, &body)?;
    let address = free_address()?;
    let _static = Program::ceiling(&["static", &address.to_string(), file.to_str().ok_or("a path of bytes")?])?;
    let mut of_static = Scraper::new(address);
    of_static.scrape(false)?;

    let Running { program: _program, mut subscriber, mut scraper } = running;
    let everything = Frames::of((0..skills).map(|number| event(number, skills)));
    // One skill in a hundred, another each time, scattered over all.
    let some: Vec<_> = (0..100)
        .map(|shift| {
            let of_them = (0..skills.div_ceil(100)).map(|number| (number * 100 + number * 37 % 100 + shift) % skills);
            Frames::of(of_them.map(|number| event(number, skills)))
        })
        .collect();
    let mut round = |frames: Option<&[Frames]>, gzip: bool| -> Outcome<f64> {
        let mut times = Vec::new();
        for scrape in 0..SCRAPES {
            if let Some(frames) = frames {
                subscriber.send(&frames[scrape * 7 % frames.len()].bytes)?;
                subscriber.sync()?;
            }
            times.push(scraper.millis(gzip)?);
        }
        Ok(median(&times))
    };
    let mut static_round = || -> Outcome<f64> {
        let times = (0..SCRAPES).map(|_| of_static.millis(false)).collect::<Outcome<Vec<_>>>()?;
        Ok(median(&times))
    };
    let size = format!("{:.1} KB", body.len() as f64 / 1e3);
    let everything = std::slice::from_ref(&everything);
    for (words, frames, gzip, goal) in [
        ("all changed", Some(everything), false, Goal::AtMost(most)),
        ("1 % changed", Some(&some[..]), false, Goal::Guard),
        ("gzip, 1 % changed", Some(&some[..]), true, Goal::Guard),
        ("gzip, all changed", Some(everything), true, Goal::Guard),
    ] {
        let (ceiling, ours) = in_turns(ROUNDS, &mut static_round, || round(frames, gzip))?;
        let detail = format!("{ours:.3} to {ceiling:.3} ms, {size}");
        let what = format!("scrape, {skills} skills, {words}");
        report.add(&what, "warp serving these bytes", ours / ceiling, " x", goal, &detail);
    }
    Ok(())
}

/// The body alone, in this process.
pub fn in_memory(report: &mut Report) -> Outcome<()> {
    const SKILLS: usize = 10_000;
    let ledger = SharedLedger::new(Limits::default());
    let feed = ledger.add_local_feed("bench");
    let connection = ledger.open(feed);
    let tell = |text: &str| {
        protocol::read(text, &protocol::Limits::default(), &mut |message| {
            if let Ok(message) = message {
                ledger.apply(connection, &message);
            }
        });
    };
    (0..SKILLS).flat_map(whole_skill).for_each(|text| tell(&text));
    let registry = crate_registry(SKILLS)?;
    let nothing_else = RegistryText::new(Registry::new());
    let mut number = 0;
    let (theirs, ours) = in_turns(
        ROUNDS,
        || {
            let begin = Instant::now();
            let mut body = Vec::new();
            TextEncoder::new().encode(&registry.gather(), &mut body)?;
            black_box(body);
            Ok::<_, prometheus::Error>(millis(begin.elapsed()))
        },
        || {
            (0..SKILLS).for_each(|_| {
                tell(&event(number, SKILLS));
                number += 1;
            });
            let begin = Instant::now();
            black_box(exposition::render(&ledger, &nothing_else, Format::Text, Encoding::Identity));
            Ok(millis(begin.elapsed()))
        },
    )?;
    let detail = format!("{ours:.2} to {theirs:.1} ms, all changed");
    let what = "the body in memory, 10,000 skills";
    report.add(what, "`gather()` and `TextEncoder` of the crate", theirs / ours, " x", Goal::Guard, &detail);
    Ok(())
}

/// The same series as the crate's own vectors.
fn crate_registry(skills: usize) -> Outcome<Registry> {
    let registry = Registry::new();
    let invocations = CounterVec::new(
        Opts::new("skill_invocations_total", "Total number of skill invocations"),
        &["skill_name", "workflow_phase", "completed"],
    )?;
    let durations = HistogramVec::new(
        HistogramOpts::new("skill_duration_seconds", "Skill execution duration in seconds")
            .buckets(DURATION_BUCKETS_SECONDS.to_vec()),
        &["skill_name", "workflow_phase"],
    )?;
    let rates = GaugeVec::new(Opts::new("skill_completion_rate", "Current skill completion rate"), &["skill_name"])?;
    let anomalies = CounterVec::new(
        Opts::new("anomalies_detected_total", "Total number of anomalies detected"),
        &["anomaly_type", "skill_name"],
    )?;
    for number in 0..skills {
        let name = skill_name(number);
        for completed in ["true", "false"] {
            invocations.with_label_values(&[name.as_str(), "execution", completed]).inc();
        }
        durations.with_label_values(&[name.as_str(), "execution"]).observe(number as f64 / 8.0);
        rates.with_label_values(&[name.as_str()]).set(0.5 + (number % 499) as f64 / 1000.0);
        anomalies.with_label_values(&["drop", name.as_str()]).inc();
    }
    let all: [Box<dyn Collector>; 4] =
        [Box::new(invocations), Box::new(durations), Box::new(rates), Box::new(anomalies)];
    for collector in all {
        registry.register(collector)?;
    }
    Ok(registry)
}
