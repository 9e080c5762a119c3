//! What a product counted beside what it was to count.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::rc::Rc;

use super::history::{Class, History, Product, play};
use super::world::{Entry, Event, FeedKey, Frame, Split, Truth};
use crate::support::exposed::AnomalyCounts;
use crate::support::model::python_float;

/// What a product exposes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Counted {
    /// By skill, over all phases.
    pub invocations: BTreeMap<Rc<str>, Split>,
    pub anomalies: AnomalyCounts,
}

/// Where a product's counts differ from the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Errors {
    /// Invocations counted too often, summed over the skills that have too many.
    pub over: u64,
    /// Invocations missing, summed over the skills that have too few.
    pub under: u64,
    /// The same of anomalies, by type and skill.
    pub anomalies_over: u64,
    pub anomalies_under: u64,
    /// Invocations counted under the wrong value of `completed`, where the totals are right.
    pub split: u64,
}

impl Errors {
    pub fn between(truth: &Truth, counted: &Counted) -> Self {
        let mut errors = Self::default();
        let kinds: BTreeSet<_> = truth.anomalies.keys().chain(counted.anomalies.keys()).collect();
        for kind in kinds {
            let of = |anomalies: &AnomalyCounts| anomalies.get(kind).copied().unwrap_or(0);
            let (due, found) = (of(&truth.anomalies), of(&counted.anomalies));
            errors.anomalies_over += found.saturating_sub(due);
            errors.anomalies_under += due.saturating_sub(found);
        }
        let names: BTreeSet<_> = truth.invocations.keys().chain(counted.invocations.keys()).collect();
        for name in names {
            let of = |splits: &BTreeMap<Rc<str>, Split>| splits.get(name).copied().unwrap_or_default();
            let (due, found) = (of(&truth.invocations), of(&counted.invocations));
            errors.over += found.total().saturating_sub(due.total());
            errors.under += due.total().saturating_sub(found.total());
            if due.total() == found.total() {
                errors.split += due.completed.abs_diff(found.completed);
            }
        }
        errors
    }

    /// Whether the total of each skill is right, which is what the Python model counts.
    pub fn is_exact(self) -> bool {
        self.over == 0 && self.under == 0
    }
}

/// How one history went, operation by operation.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    pub errors: Errors,
    /// By operation, in order: how `over` and `under` changed.
    pub blame: Vec<(&'static str, i64, i64)>,
}

impl Verdict {
    /// Plays `history` to `product` and compares at its end alone, so that nothing is persisted for the sake of a comparison.
    pub fn at_the_end<P: Product>(history: &History, product: &mut P) -> Errors {
        play(history, product, |_, _, _| {});
        let Some((at_seconds, Event::Truth(truth))) = history.events.last() else {
            panic!("a history ends with the truth")
        };
        Errors::between(truth, &product.counted(*at_seconds))
    }

    /// Plays `history` to `product` and compares after each operation.
    pub fn of<P: Product>(history: &History, product: &mut P) -> Self {
        let mut verdict = Self::default();
        let mut operation = "start";
        play(history, product, |at_seconds, event, product| match event {
            Event::Operation(name) => operation = name,
            Event::Truth(truth) => {
                let errors = Errors::between(truth, &product.counted(at_seconds));
                let change = |now: u64, before: u64| now as i64 - before as i64;
                let (over, under) =
                    (change(errors.over, verdict.errors.over), change(errors.under, verdict.errors.under));
                verdict.blame.push((operation, over, under));
                verdict.errors = errors;
            }
            _ => {}
        });
        verdict
    }
}

/// The errors that the model makes with one history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelVerdict {
    pub class: Class,
    pub seed: u64,
    pub errors: Errors,
    /// See [`digest`].
    pub digest: u32,
}

/// The model's verdicts as `tests/model/verdicts.py` prints them, one line a history: class, seed, invocations over and
/// under, anomalies over and under, and the digest of the history.
pub fn model_verdicts(text: &str) -> Vec<ModelVerdict> {
    let verdict = |line: &str| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let [class, seed, over, under, anomalies_over, anomalies_under, digest] = fields[..] else { return None };
        let number = |text: &str| text.parse().ok();
        let errors = Errors {
            over: number(over)?,
            under: number(under)?,
            anomalies_over: number(anomalies_over)?,
            anomalies_under: number(anomalies_under)?,
            split: 0,
        };
        let digest = u32::from_str_radix(digest, 16).ok()?;
        Some(ModelVerdict { class: Class::of_name(class)?, seed: number(seed)?, errors, digest })
    };
    text.lines().map(|line| verdict(line).unwrap_or_else(|| panic!("not a verdict of the model: {line:?}"))).collect()
}

/// CRC-32 of what happens, so that two generators can be found to differ: connections and frames with their whole numbers.
/// Durations are left out, because mathematical libraries differ in the last bit.
pub fn digest(history: &History) -> u32 {
    let mut crc = flate2::Crc::new();
    let mut text = String::new();
    for (at_seconds, event) in &history.events {
        text.clear();
        let written = match event {
            Event::Open(feed) => writeln!(text, "{at_seconds} open {}", feed.url),
            Event::Close(feed) => writeln!(text, "{at_seconds} close {}", feed.url),
            Event::Receive(feed, frame) => {
                let mut written = write!(text, "{at_seconds} frame {}", feed.url);
                for listing in &frame.listed {
                    let totals = listing.totals;
                    written = written
                        .and_then(|()| write!(text, " {}={}/{}", listing.skill_name, totals.completed, totals.total));
                }
                written.and_then(|()| writeln!(text, " {}", frame.anomalies.len()))
            }
            _ => continue,
        };
        written.expect("a string takes everything");
        crc.update(text.as_bytes());
    }
    crc.sum()
}

/// One line for people: what happened.
pub fn describe(event: &Event) -> String {
    let entry = |entry: &Entry| match &entry.skills_db {
        Some(path) => format!("{} reading {path}", describe_feed(&entry.feed)),
        None => describe_feed(&entry.feed),
    };
    let feeds = |entries: &[Entry]| entries.iter().map(entry).collect::<Vec<_>>().join(", ");
    match event {
        Event::Operation(name) => format!("== {name}"),
        Event::Configure(configured) => format!("configure [{}]", feeds(configured)),
        Event::Open(feed) => format!("open {}", describe_feed(feed)),
        Event::Close(feed) => format!("close {}", describe_feed(feed)),
        Event::Receive(feed, frame) => format!("{} {}", describe_feed(feed), describe_frame(frame)),
        Event::Stream(feed, streamed) => {
            format!("{} streams {} of {}", describe_feed(feed), streamed.id, streamed.skill_name)
        }
        Event::Write(written) => {
            let total: u64 = written.content.skills.iter().map(|(_, totals)| totals.total).sum();
            format!("write {} (file {}): {total}", written.path, written.file)
        }
        Event::Tick => "tick".to_owned(),
        Event::Stop => "stop".to_owned(),
        Event::Kill => "kill".to_owned(),
        Event::Start(configured) => format!("start [{}]", feeds(configured)),
        Event::Truth(truth) => {
            let total: u64 = truth.invocations.values().map(|split| split.total()).sum();
            format!("-- truth {total}, anomalies {}", truth.anomalies.values().sum::<u64>())
        }
    }
}

fn describe_feed(feed: &FeedKey) -> String {
    let skill = feed.skill.as_ref().map(|skill| format!("?{skill}")).unwrap_or_default();
    let name = if feed.name.is_empty() { String::new() } else { format!("{}@", feed.name) };
    format!("{name}{}{skill}", feed.url.trim_start_matches("ws://"))
}

fn describe_frame(frame: &Frame) -> String {
    let listed = frame.listed.iter().map(|listing| {
        let totals = listing.totals;
        let mean = match totals.completed {
            0 => "-".to_owned(),
            completed => python_float((totals.duration_seconds / completed as f64 * 1e3).round() / 1e3),
        };
        format!("{}={}/{}·{mean}", listing.skill_name, totals.completed, totals.total)
    });
    let anomalies = if frame.anomalies.is_empty() { String::new() } else { format!(" !{}", frame.anomalies.len()) };
    format!(".{:06} {}{anomalies}", frame.sent_micros % 1_000_000, listed.collect::<Vec<_>>().join(" "))
}
