//! Events to samples, metric after metric.

use super::collect::{Catalog, Event, Events, reread};
use super::{BackfillError, Progress, Sink, Span, Summary};
use crate::exposition::{RowFamily, SamplesAtTimes};
use crate::ledger::{OVERFLOW, SkillIndex, SkillSeries};
use crate::skills_db::History;

/// An instant query looks so far back: Prometheus' `--query.lookback-delta`.
const LOOKBACK_MILLIS: i64 = 300_000;

/// Where events come from.
pub(super) enum Source<'h> {
    /// All of them are here.
    Memory(Events),
    /// They are read again, for some skills at a time.
    Database(History<'h>),
}

/// Writes every family.
///
/// # Errors
/// The database cannot be read, or `sink` takes nothing more.
pub(super) fn write(
    mut source: Source<'_>,
    span: Span,
    catalog: Catalog,
    events_max: usize,
    sink: &mut impl Sink,
    progress: &mut dyn Progress,
) -> Result<Summary, BackfillError> {
    let Catalog { series_table, mut summary } = catalog;
    let mut skills: Vec<Skill<'_>> =
        series_table.series().zip(0..).map(|(totals, index)| Skill { index: SkillIndex(index), totals }).collect();
    skills.sort_unstable_by_key(|skill| &skill.totals.skill_name);
    let mut rank = vec![0; skills.len()];
    skills.iter().enumerate().for_each(|(at, skill)| rank[skill.index.0 as usize] = at);
    let all = (RowFamily::ALL.len() * skills.len()) as u64;
    let mut done = 0;
    for family in RowFamily::ALL {
        sink.begin_family(family)?;
        let of_anomalies = family == RowFamily::Anomalies;
        let mut first = 0;
        while first < skills.len() {
            // As many skills as fit, and one at least.
            let (mut last, mut rows) = (first + 1, skills[first].rows(of_anomalies));
            let is_in_memory = matches!(source, Source::Memory(_));
            while last < skills.len() && (is_in_memory || rows + skills[last].rows(of_anomalies) <= events_max as u64) {
                rows += skills[last].rows(of_anomalies);
                last += 1;
            }
            let mut read;
            let events = match &mut source {
                Source::Memory(events) => events,
                Source::Database(history) => {
                    let is_read = |skill: SkillIndex| (first..last).contains(&rank[skill.0 as usize]);
                    read = reread(history, span, &series_table, is_read, of_anomalies)?;
                    &mut read
                }
            };
            let events = if of_anomalies { &mut events.anomalies } else { &mut events.invocations };
            // Every field takes part, so that the order does not depend on that of the rows.
            events.sort_unstable_by_key(|event| {
                let rank = rank[event.skill as usize];
                (rank, part(family, event), event.micros, event.completed, event.seconds.to_bits())
            });
            let mut rest = events.as_slice();
            for skill in &skills[first..last] {
                let own = rest.partition_point(|event| rank[event.skill as usize] <= rank[skill.index.0 as usize]);
                let (own, others) = rest.split_at(own);
                rest = others;
                skill.write(family, own, span, sink, &mut summary)?;
                done += 1;
                progress.report("writing", done, all);
            }
            first = last;
        }
    }
    Ok(summary)
}

/// A skill, with its totals at the end.
struct Skill<'b> {
    index: SkillIndex,
    totals: &'b SkillSeries,
}

impl Skill<'_> {
    fn rows(&self, of_anomalies: bool) -> u64 {
        if of_anomalies {
            self.totals.anomalies.iter().map(|series| series.count).sum()
        } else {
            self.totals.phases.iter().map(|phase| phase.completed + phase.abandoned).sum()
        }
    }

    /// Writes the samples of a family from the skill's events, which are sorted by [`part`] and time.
    fn write(
        &self,
        family: RowFamily,
        events: &[Event],
        span: Span,
        sink: &mut impl Sink,
        summary: &mut Summary,
    ) -> Result<(), BackfillError> {
        if events.is_empty() {
            return Ok(());
        }
        let empty = SkillSeries::new(self.totals.skill_name.clone());
        let mut writer = Writer { span, sink, summary };
        match family {
            RowFamily::CompletionRates => {
                if *self.totals.skill_name == *OVERFLOW {
                    return Ok(());
                }
                let (mut completed, mut total) = (0_u64, 0_u64);
                let samples = SamplesAtTimes::all(family, SkillSeries { completion_rate: Some(0.0), ..empty });
                writer.write(samples, events, Beginning::Value, |series, event| {
                    total += 1;
                    completed += u64::from(event.completed);
                    series.completion_rate = Some(completed as f64 / total as f64);
                })
            }
            RowFamily::Invocations | RowFamily::Durations => {
                // By name, as a scrape has them.
                let mut places: Vec<usize> = (0..self.totals.phases.len()).collect();
                places.sort_unstable_by_key(|place| &self.totals.phases[*place].workflow_phase);
                for place in places {
                    let total = &self.totals.phases[place];
                    let mut phase = total.clone();
                    (phase.completed, phase.abandoned, phase.durations) = Default::default();
                    let zero = SkillSeries { phases: vec![phase], ..empty.clone() };
                    let metrics = match family {
                        RowFamily::Durations => vec![SamplesAtTimes::all(family, zero)],
                        // By `completed`.
                        _ => [0, 1].map(|place| SamplesAtTimes::only(family, zero.clone(), place)).into(),
                    };
                    for samples in metrics {
                        writer.write(samples, part_of(family, events, place), Beginning::Zero, |series, event| {
                            let phase = &mut series.phases[0];
                            *(if event.completed { &mut phase.completed } else { &mut phase.abandoned }) += 1;
                            if !event.seconds.is_nan() {
                                phase.durations.observe(event.seconds, 1, event.seconds);
                                // The live sum was added up in the order of the rows, which can round to less.
                                phase.durations.sum = phase.durations.sum.min(total.durations.sum);
                            }
                        })?;
                    }
                }
                Ok(())
            }
            RowFamily::Anomalies => {
                let mut places: Vec<usize> = (0..self.totals.anomalies.len()).collect();
                places.sort_unstable_by_key(|place| &self.totals.anomalies[*place].anomaly_type);
                for place in places {
                    let mut series = self.totals.anomalies[place].clone();
                    series.count = 0;
                    let samples = SamplesAtTimes::all(family, SkillSeries { anomalies: vec![series], ..empty.clone() });
                    writer.write(samples, part_of(family, events, place), Beginning::Zero, |series, _| {
                        series.anomalies[0].count += 1;
                    })?;
                }
                Ok(())
            }
            RowFamily::Failures => {
                let mut places: Vec<usize> = (0..self.totals.failures.len()).collect();
                places.sort_unstable_by_key(|place| &self.totals.failures[*place].error_type);
                for place in places {
                    let mut series = self.totals.failures[place].clone();
                    series.count = 0;
                    let samples = SamplesAtTimes::all(family, SkillSeries { failures: vec![series], ..empty.clone() });
                    writer.write(samples, part_of(family, events, place + 1), Beginning::Zero, |series, _| {
                        series.failures[0].count += 1;
                    })?;
                }
                Ok(())
            }
            RowFamily::LastInvoked => {
                if *self.totals.skill_name == *OVERFLOW {
                    return Ok(());
                }
                let samples = SamplesAtTimes::all(family, SkillSeries { last_invoked_micros: Some(0), ..empty });
                writer.write(samples, events, Beginning::Value, |series, event| {
                    series.last_invoked_micros = Some(event.micros);
                })
            }
        }
    }
}

/// Returns the part of its skill's samples of a family that an event belongs to. A failure without a cause is of part 0.
fn part(family: RowFamily, event: &Event) -> usize {
    match family {
        RowFamily::Invocations | RowFamily::Durations | RowFamily::Anomalies => event.part.into(),
        RowFamily::Failures => event.failure.map_or(0, |failure| failure.get().into()),
        RowFamily::CompletionRates | RowFamily::LastInvoked => 0,
    }
}

/// Returns the events of a part, of events that are sorted by part.
fn part_of(family: RowFamily, events: &[Event], wanted: usize) -> &[Event] {
    let begin = events.partition_point(|event| part(family, event) < wanted);
    let end = events.partition_point(|event| part(family, event) <= wanted);
    &events[begin..end]
}

/// How a series begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beginning {
    /// At 0, one step before its first change, so that `increase()` includes that.
    Zero,
    /// With its first value.
    Value,
}

struct Writer<'w, S> {
    span: Span,
    sink: &'w mut S,
    summary: &'w mut Summary,
}

impl<S: Sink> Writer<'_, S> {
    /// Writes a sample wherever something changed, and as many between that an instant query always finds one.
    fn write(
        &mut self,
        mut samples: SamplesAtTimes,
        events: &[Event],
        beginning: Beginning,
        mut apply: impl FnMut(&mut SkillSeries, &Event),
    ) -> Result<(), BackfillError> {
        let Some(first) = events.first() else { return Ok(()) };
        let series = self.sink.begin_metric(&samples)?;
        self.summary.series += series;
        let mut before = None;
        // What happened until the earliest sample is a value that the series begins with, added up in the same order as ever.
        let earliest = self.span.first_millis();
        let span = self.span;
        let at = |event: &Event| span.sample_millis(event.micros);
        let (earlier, events) = events.split_at(events.partition_point(|event| at(event) <= earliest));
        if !earlier.is_empty() {
            earlier.iter().for_each(|event| apply(samples.series(), event));
            self.take(&samples, earliest, series)?;
            before = Some(earliest);
        } else if beginning == Beginning::Zero {
            let millis = self.span.grid_before(at(first));
            self.take(&samples, millis, series)?;
            before = Some(millis);
        }
        for events in events.chunk_by(|a, b| at(a) == at(b)) {
            let millis = at(&events[0]);
            self.fill(&samples, &mut before, millis, series)?;
            events.iter().for_each(|event| apply(samples.series(), event));
            self.take(&samples, millis, series)?;
            before = Some(millis);
        }
        let last = self.span.last_millis();
        if before < Some(last) {
            self.fill(&samples, &mut before, last, series)?;
            self.take(&samples, last, series)?;
        }
        Ok(())
    }

    /// Repeats the value behind `before` until the next sample, at `until`.
    fn fill(
        &mut self,
        samples: &SamplesAtTimes,
        before: &mut Option<i64>,
        until: i64,
        series: u64,
    ) -> Result<(), BackfillError> {
        let distance = (LOOKBACK_MILLIS / self.span.step_millis).max(1) * self.span.step_millis;
        while let Some(millis) = before.map(|before| before + distance).filter(|millis| *millis < until) {
            self.take(samples, millis, series)?;
            *before = Some(millis);
        }
        Ok(())
    }

    fn take(&mut self, samples: &SamplesAtTimes, millis: i64, series: u64) -> Result<(), BackfillError> {
        self.summary.samples += series;
        self.sink.take(samples, millis)
    }
}
