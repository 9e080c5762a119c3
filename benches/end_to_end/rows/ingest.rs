//! From the socket to the series.

use std::path::Path;

use tempfile::TempDir;

use crate::Outcome;
use crate::feed::Feed;
use crate::frames::{Frames, batch, event, identified_event, snapshots};
use crate::program::{Program, earlier_bridge, free_address, measured_bridge};
use crate::python::Python;
use crate::report::{Goal, Report};
use crate::sample::{ROUNDS, in_turns, median};

/// What a client is sent: `warm` once, then `timed` so many times.
pub struct Load {
    pub name: &'static str,
    pub warm: Frames,
    pub timed: Frames,
    pub times: usize,
}

pub enum Subject<'p> {
    Drop,
    Parse,
    Bridge,
    KeepingBridge,
    /// A build at this path.
    Build(&'p Path),
    Python(&'p Python),
}

/// Frames a second that `subject` takes in.
pub fn rate(subject: &Subject<'_>, load: &Load) -> Outcome<f64> {
    let feed = Feed::bind()?;
    let url = feed.url()?;
    let mut _state: Option<TempDir> = None;
    let _program = match subject {
        Subject::Drop => Program::ceiling(&["drop", &url])?,
        Subject::Parse => Program::ceiling(&["parse", &url])?,
        Subject::Bridge => Program::bridge(&url, free_address()?, None)?,
        Subject::KeepingBridge => {
            let folder = _state.insert(tempfile::tempdir()?);
            Program::bridge(&url, free_address()?, Some(&folder.path().join("state.db")))?
        }
        Subject::Build(path) => Program::bridge_at(path, &url, free_address()?)?,
        Subject::Python(python) => Program::start(&python.interpreter, [python.script.as_os_str(), url.as_ref()])?,
    };
    let mut subscriber = feed.accept()?;
    subscriber.send(&load.warm.bytes)?;
    subscriber.sync()?;
    let (frames, times) = match subject {
        // A fraction, so that the peer is done before the machine has changed its mood.
        Subject::Python(_) => (
            Frames { bytes: load.timed.first(6_000).to_vec(), count: load.timed.count.min(6_000), ends: Vec::new() },
            1,
        ),
        _ => return Ok((load.timed.count * load.times) as f64 / subscriber.time(&load.timed, load.times)?),
    };
    Ok((frames.count * times) as f64 / subscriber.time(&frames, times)?)
}

fn events(skills: usize) -> Load {
    let texts = |count: usize| Frames::of((0..count).map(|number| event(number, skills)));
    Load {
        name: "events, one a frame",
        warm: texts(skills * 8),
        timed: texts(20_000.max(skills * 8)),
        times: 1_600_000 / 80_000.min(20_000.max(skills * 8)),
    }
}

fn listed() -> Load {
    let mut listed = snapshots(110_000);
    Load { name: "snapshots", warm: Frames::of(listed.by_ref().take(10_000)), timed: Frames::of(listed), times: 1 }
}

/// This build beside an earlier one, in turns: unlike a ratio to a ceiling, theirs does not move with the machine. Nothing without an
/// earlier build.
pub fn beside_earlier(report: &mut Report) -> Outcome<()> {
    let Some(earlier) = earlier_bridge() else { return Ok(()) };
    let this = measured_bridge();
    for load in [events(10), listed()] {
        let of = |build| rate(&Subject::Build(build), &load);
        let (before, ours) = in_turns(ROUNDS, || of(&earlier), || of(&this))?;
        let detail = format!("{ours:.0} to {before:.0} frames/s");
        report.add(load.name, "an earlier build", ours / before, " x", Goal::AtLeast(1.0), &detail);
    }
    Ok(())
}

pub fn measure(report: &mut Report) -> Outcome<()> {
    let singles = events(10);
    let identified = Load {
        name: "events with identifiers, one a frame",
        warm: Frames::of((0..100_000).map(|number| identified_event(number, 10))),
        timed: Frames::of((100_000..900_000).map(|number| identified_event(number, 10))),
        times: 1,
    };
    let batches = Load {
        name: "100 events a frame",
        warm: Frames::of((0..100).map(|number| batch(number, 100, 10))),
        timed: Frames::of((0..1_000).map(|number| batch(number, 100, 10))),
        times: 20,
    };
    let snapshots = listed();
    for (load, ceiling, beside, goal) in [
        // Ratios of the commit 623211a.
        (&singles, Subject::Drop, "reading the frames and dropping them", Goal::AtLeast(0.285)),
        (&batches, Subject::Parse, "reading and a typed parse", Goal::Guard),
        (&snapshots, Subject::Parse, "reading and a typed parse", Goal::AtLeast(0.73)),
    ] {
        let (most, ours) = in_turns(ROUNDS, || rate(&ceiling, load), || rate(&Subject::Bridge, load))?;
        let detail = format!("{ours:.0} of {most:.0} frames/s");
        report.add(load.name, beside, ours / most, " x", goal, &detail);
    }
    let (most, ours) = in_turns(ROUNDS, || rate(&Subject::Drop, &identified), || rate(&Subject::Bridge, &identified))?;
    let detail = format!("{ours:.0} of {most:.0} frames/s; each is remembered");
    report.add(identified.name, "reading the frames and dropping them", ours / most, " x", Goal::Guard, &detail);

    for load in [&singles, &batches, &snapshots] {
        let (memory, kept) = in_turns(ROUNDS, || rate(&Subject::Bridge, load), || rate(&Subject::KeepingBridge, load))?;
        let detail = format!("{kept:.0} of {memory:.0} frames/s");
        let what = format!("{}, with a state file", load.name);
        report.add(&what, "the same in memory", kept / memory, " x", Goal::Guard, &detail);
    }

    let many = events(10_000);
    let (few, ours) = in_turns(ROUNDS, || rate(&Subject::Bridge, &singles), || rate(&Subject::Bridge, &many))?;
    let detail = format!("{ours:.0} of {few:.0} frames/s");
    report.add("events of 10,000 skills", "events of 10 skills", ours / few, " x", Goal::Guard, &detail);

    match Python::install() {
        Ok(python) => {
            for (load, goal) in [(&singles, Goal::AtLeast(20.0)), (&batches, Goal::Guard), (&snapshots, Goal::Guard)] {
                let subject = Subject::Python(&python);
                let (peer, ours) = in_turns(ROUNDS, || rate(&subject, load), || rate(&Subject::KeepingBridge, load))?;
                let detail = format!("{ours:.0} to {peer:.0} frames/s");
                report.add(load.name, "a Python client", ours / peer, " x", goal, &detail);
            }
        }
        Err(error) => report.add_missing("all of these beside a Python client", &error.to_string()),
    }
    Ok(())
}

/// Frames a second of events over `skills` skills, for the plots.
pub fn rate_by_skills(skills: usize, rounds: usize) -> Outcome<f64> {
    let load = events(skills);
    let rates = (0..rounds).map(|_| rate(&Subject::Bridge, &load)).collect::<Outcome<Vec<_>>>()?;
    Ok(median(&rates))
}
