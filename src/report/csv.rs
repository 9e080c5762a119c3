//! A report as comma-separated values (RFC 4180).

use super::Report;
use super::columns::{Cell, Column, for_programs};
use crate::text::visible;

/// Writes the report.
pub(super) fn write(report: &Report) -> String {
    let columns = for_programs(report);
    let mut text = String::new();
    line(&mut text, columns.iter().map(|column| column.key(report.by).to_owned()));
    for group in &report.groups {
        line(&mut text, columns.iter().map(|column: &Column| field(column.cell(report, group))));
    }
    text
}

fn line(text: &mut String, fields: impl Iterator<Item = String>) {
    for (at, field) in fields.enumerate() {
        if at > 0 {
            text.push(',');
        }
        let field = visible(&field);
        if field.contains([',', '"']) || field.trim() != field {
            text.push_str(&format!("\"{}\"", field.replace('"', "\"\"")));
        } else {
            text.push_str(&field);
        }
    }
    text.push_str("\r\n");
}

/// Numbers and times have all of their digits.
fn field(cell: Cell<'_>) -> String {
    match cell {
        Cell::Share(number) | Cell::Seconds(number) => number.map(|number| number.to_string()).unwrap_or_default(),
        Cell::Time(time) => time.map(|time| time.to_string()).unwrap_or_default(),
        Cell::Trend(trend) => trend.map(|trend| trend.code().to_owned()).unwrap_or_default(),
        Cell::Flag(flag) => flag.to_string(),
        Cell::Counts(counts) => {
            counts.iter().map(|(name, count)| format!("{name}={count}")).collect::<Vec<_>>().join(";")
        }
        Cell::Text(_) | Cell::Count(_) => cell.for_people(),
    }
}
