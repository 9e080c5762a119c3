//! A report as JSON.

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::columns::{Cell, Column, for_programs};
use super::{Group, Report};
use crate::text::json_visible;

/// Writes the report.
pub(super) fn write(report: &Report) -> String {
    let columns = for_programs(report);
    let document = Document {
        period: Period { start: report.period.start.to_string(), end: report.period.end.to_string() },
        former_period: Period { start: report.period.former_start.to_string(), end: report.period.start.to_string() },
        oldest_row: report.oldest.map(|oldest| oldest.to_string()),
        rows_left_out: LeftOut {
            invalid: report.left_out.invalid,
            without_time: report.left_out.without_time,
            later: report.left_out.later,
        },
        by: report.by.code(),
        groups: report.groups.iter().map(|group| Row { report, group, columns: &columns }).collect(),
    };
    let text = serde_json::to_string_pretty(&document).expect("every key is a text, and every number is finite");
    json_visible(&text).into_owned() + "\n"
}

#[derive(Serialize)]
struct Document<'r> {
    period: Period,
    former_period: Period,
    oldest_row: Option<String>,
    rows_left_out: LeftOut,
    by: &'static str,
    groups: Vec<Row<'r>>,
}

#[derive(Serialize)]
struct Period {
    start: String,
    end: String,
}

#[derive(Serialize)]
struct LeftOut {
    invalid: u64,
    without_time: u64,
    later: u64,
}

struct Row<'r> {
    report: &'r Report,
    group: &'r Group,
    columns: &'r [Column],
}

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { report, group, columns } = self;
        serializer.collect_map(columns.iter().map(|column| (column.key(report.by), column.cell(report, group))))
    }
}

impl Serialize for Cell<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Count(count) => serializer.serialize_u64(*count),
            Self::Share(number) | Self::Seconds(number) => number.serialize(serializer),
            Self::Time(time) => time.as_ref().map(Timestamp::to_string).serialize(serializer),
            Self::Trend(trend) => trend.map(super::Trend::code).serialize(serializer),
            Self::Counts(counts) => counts.serialize(serializer),
            Self::Flag(flag) => serializer.serialize_bool(*flag),
        }
    }
}
