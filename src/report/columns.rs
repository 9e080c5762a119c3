//! Which columns a report has, and the cells of each group.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{By, Group, LeftOut, Report, Trend};

/// A column of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    Name,
    Invocations,
    Completed,
    Success,
    P50,
    P95,
    Mean,
    Former,
    Trend,
    LastUsed,
    Anomalies,
    Failures,
    Installed,
}

/// What a group has in a column; `None` where it has nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Cell<'r> {
    Text(&'r str),
    Count(u64),
    /// 0 to 1.
    Share(Option<f64>),
    Seconds(Option<f64>),
    Time(Option<Timestamp>),
    Trend(Option<Trend>),
    Counts(&'r BTreeMap<Box<str>, u64>),
    Flag(bool),
}

/// Returns the columns of `report` that programs get.
pub(super) fn for_programs(report: &Report) -> Vec<Column> {
    use Column::{
        Anomalies, Completed, Failures, Former, Installed, Invocations, LastUsed, Mean, Name, P50, P95, Success, Trend,
    };
    let mut columns = match report.by {
        By::Skill | By::Phase => {
            vec![Name, Invocations, Completed, Success, P50, P95, Mean, Former, Trend, LastUsed, Anomalies, Failures]
        }
        By::Error => vec![Name, Invocations, Former, Trend, LastUsed, Failures],
    };
    columns.retain(|column| *column != Anomalies || (report.by == By::Skill && report.has_anomalies));
    if report.has_installed {
        columns.push(Installed);
    }
    columns
}

/// Returns the columns of `report` that people get.
pub(super) fn for_people(report: &Report) -> Vec<Column> {
    let mut columns = for_programs(report);
    columns.retain(|column| ![Column::Completed, Column::Installed].contains(column));
    columns
}

impl Column {
    /// Returns its name for programs.
    pub fn key(self, by: By) -> &'static str {
        self.names(by).0
    }

    /// Returns its heading for people.
    pub fn heading(self, by: By) -> &'static str {
        self.names(by).1
    }

    /// Returns its name for programs and its heading for people.
    fn names(self, by: By) -> (&'static str, &'static str) {
        match (self, by) {
            (Self::Name, By::Skill) => ("skill_name", "Skill"),
            (Self::Name, By::Phase) => ("workflow_phase", "Phase"),
            (Self::Name, By::Error) => ("error_type", "Error type"),
            (Self::Invocations, By::Error) => ("failures", "Failures"),
            (Self::Invocations, _) => ("invocations", "Invoked"),
            (Self::Completed, _) => ("completed", "Completed"),
            (Self::Success, _) => ("success", "Success"),
            (Self::P50, _) => ("p50_seconds", "p50 (s)"),
            (Self::P95, _) => ("p95_seconds", "p95 (s)"),
            (Self::Mean, _) => ("mean_seconds", "Mean (s)"),
            (Self::Former, By::Error) => ("former_failures", "Before"),
            (Self::Former, _) => ("former_invocations", "Before"),
            (Self::Trend, _) => ("trend", "Trend"),
            (Self::LastUsed, By::Error) => ("last_failed", "Last failed (UTC)"),
            (Self::LastUsed, _) => ("last_used", "Last used (UTC)"),
            (Self::Anomalies, _) => ("anomalies", "Anomalies"),
            (Self::Failures, By::Error) => ("skills", "Skills"),
            (Self::Failures, _) => ("failures", "Failures"),
            (Self::Installed, _) => ("installed", "Installed"),
        }
    }

    /// Returns whether people read its cells from the left.
    pub fn is_text(self) -> bool {
        matches!(self, Self::Name | Self::Trend | Self::LastUsed | Self::Failures)
    }

    /// Returns the cell of a group.
    pub fn cell<'r>(self, report: &Report, group: &'r Group) -> Cell<'r> {
        match self {
            Self::Name => Cell::Text(&group.name),
            Self::Invocations => Cell::Count(group.invocations),
            Self::Completed => Cell::Count(group.completed),
            Self::Success => Cell::Share(group.success()),
            Self::P50 => Cell::Seconds(group.durations.map(|durations| durations.p50)),
            Self::P95 => Cell::Seconds(group.durations.map(|durations| durations.p95)),
            Self::Mean => Cell::Seconds(group.durations.map(|durations| durations.mean)),
            Self::Former => Cell::Count(group.former_invocations),
            Self::Trend => Cell::Trend(report.trend(group)),
            Self::LastUsed => Cell::Time(group.last_used),
            Self::Anomalies => Cell::Count(group.anomalies),
            Self::Failures => Cell::Counts(&group.failures),
            Self::Installed => Cell::Flag(group.is_installed),
        }
    }
}

impl Cell<'_> {
    /// Returns the text for people, not escaped.
    pub fn for_people(self) -> String {
        match self {
            Self::Text(text) => text.to_owned(),
            Self::Count(count) => count.to_string(),
            Self::Share(share) => share.map(|share| format!("{:.1} %", share * 100.0)).unwrap_or_default(),
            Self::Seconds(seconds) => seconds.map(|seconds| format!("{seconds:.3}")).unwrap_or_default(),
            Self::Time(None) => "never".to_owned(),
            Self::Time(Some(time)) => minute(time),
            Self::Trend(trend) => trend.map(Trend::arrow).unwrap_or_default().to_owned(),
            Self::Counts(counts) => {
                let mut counts: Vec<_> = counts.iter().collect();
                counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
                counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
            }
            Self::Flag(flag) => if flag { "yes" } else { "no" }.to_owned(),
        }
    }
}

/// Returns a time of UTC to the minute.
pub(super) fn minute(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M").to_string()
}

/// Returns what the report is about, in one line.
pub(super) fn summary(report: &Report) -> String {
    let invocations: u64 = report.groups.iter().map(|group| group.invocations).sum();
    let used = report.groups.iter().filter(|group| group.invocations > 0).count();
    let (what, groups) = match report.by {
        By::Skill => ("invocation", "skill"),
        By::Phase => ("invocation", "phase"),
        By::Error => ("failed invocation", "type of errors"),
    };
    let groups = match (report.by, used) {
        (_, 1) => groups.to_owned(),
        (By::Error, _) => "types of errors".to_owned(),
        _ => format!("{groups}s"),
    };
    let plural = if invocations == 1 { "" } else { "s" };
    let (start, end) = (minute(report.period.start), minute(report.period.end));
    format!("{start} to {end} UTC: {invocations} {what}{plural}, {used} {groups}")
}

/// Returns what else people have to know, one line each, not escaped.
pub(super) fn notes(report: &Report) -> Vec<String> {
    let mut notes = Vec::new();
    let never: Vec<&str> = report.never_invoked().map(|group| &*group.name).collect();
    match (report.has_installed, never.is_empty()) {
        (false, _) => {}
        (true, true) => notes.push("Every installed skill was invoked.".to_owned()),
        (true, false) => notes.push(format!("Installed and never invoked ({}): {}", never.len(), never.join(", "))),
    }
    if let Some(oldest) = report.oldest.filter(|_| !report.covers_former_period()) {
        notes.push(format!(
            "No trend: the rows begin at {} UTC, and the period before at {}.",
            minute(oldest),
            minute(report.period.former_start)
        ));
    }
    if report.by == By::Skill && !report.has_anomalies {
        notes.push("No anomalies: the database has no table of them.".to_owned());
    }
    if !report.has_error_types {
        notes.push("No types of errors: the database has no column for them.".to_owned());
    }
    let LeftOut { invalid, without_time, later } = report.left_out;
    let left_out = [
        (invalid, "invalid"),
        (without_time, "without a time that can be read"),
        (later, "later than the end of the period"),
    ];
    for (count, what) in left_out {
        match count {
            0 => {}
            1 => notes.push(format!("1 row is left out: {what}.")),
            _ => notes.push(format!("{count} rows are left out: {what}.")),
        }
    }
    notes
}
