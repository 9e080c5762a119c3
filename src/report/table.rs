//! A report as a table for people.

use super::Report;
use super::columns::{Column, for_people, notes, summary};
use crate::text::{columns_of, visible};

/// What separates two columns.
const GAP: &str = "  ";

/// Columns of a terminal that a cell of many names keeps at least.
const NAMES_COLUMNS_MIN: usize = 16;

/// The columns that a narrow terminal has no room for, in the order in which they are left out.
const LEFT_OUT_FIRST: [Column; 7] =
    [Column::Failures, Column::Former, Column::Mean, Column::Anomalies, Column::P95, Column::P50, Column::LastUsed];

/// Writes the report, with lines of at most `width` columns.
pub(super) fn write(report: &Report, width: Option<usize>) -> String {
    let mut text = String::new();
    let mut line = |line: &str| {
        text.push_str(&cut(line.trim_end(), width));
        text.push('\n');
    };
    line(&summary(report));
    let mut notes: Vec<String> = notes(report).iter().map(|note| visible(note).into_owned()).collect();
    if !report.groups.is_empty() {
        line("");
        let mut columns = for_people(report);
        let mut table: Vec<Vec<String>> = Vec::with_capacity(report.groups.len() + 1);
        table.push(columns.iter().map(|column| column.heading(report.by).to_owned()).collect());
        for group in &report.groups {
            let cells = columns.iter().map(|column| column.cell(report, group).for_people());
            table.push(cells.map(|cell| visible(&cell).into_owned()).collect());
        }
        let mut widths: Vec<usize> = (0..columns.len())
            .map(|at| table.iter().map(|row| columns_of(&row[at])).max().unwrap_or_default())
            .collect();
        let is_complete = fit(&mut columns, &mut widths, &mut table, width);
        for row in &table {
            let cells = row.iter().zip(&columns).zip(&widths).map(|((cell, column), width)| {
                let cell = cut(cell, Some(*width));
                let padding = " ".repeat(width - columns_of(&cell));
                if column.is_text() { format!("{cell}{padding}") } else { format!("{padding}{cell}") }
            });
            line(&cells.collect::<Vec<_>>().join(GAP));
        }
        if !is_complete {
            notes.push("The terminal is too narrow for every column: widen it, or give --format json.".to_owned());
        }
        if !notes.is_empty() {
            line("");
        }
    }
    notes.iter().for_each(|note| text.push_str(&wrapped(note, width)));
    text
}

/// Narrows columns of names, and leaves columns out, until a line fits into `width`. Returns whether none is left out.
fn fit(columns: &mut Vec<Column>, widths: &mut Vec<usize>, table: &mut [Vec<String>], width: Option<usize>) -> bool {
    let Some(width) = width else { return true };
    let excess = |widths: &[usize]| {
        let line = widths.iter().sum::<usize>() + GAP.len() * widths.len().saturating_sub(1);
        line.saturating_sub(width)
    };
    let narrow = |columns: &[Column], widths: &mut [usize]| {
        for narrowed in [Column::Failures, Column::Name] {
            if let Some(at) = columns.iter().position(|column| *column == narrowed) {
                let spare = widths[at].saturating_sub(NAMES_COLUMNS_MIN);
                widths[at] -= spare.min(excess(widths));
            }
        }
    };
    let all = columns.len();
    let natural = widths.clone();
    let mut left_out = LEFT_OUT_FIRST.iter();
    narrow(columns, widths);
    while excess(widths) > 0
        && let Some(next) = left_out.next()
    {
        if let Some(at) = columns.iter().position(|column| column == next) {
            columns.remove(at);
            widths.remove(at);
            table.iter_mut().for_each(|row| drop(row.remove(at)));
            // The name gets back what is free now.
            if let Some(name) = columns.iter().position(|column| *column == Column::Name) {
                widths[name] = natural[name];
            }
            narrow(columns, widths);
        }
    }
    columns.len() == all
}

/// Returns the beginning of `text` that fits into `width`, with `…` where something was cut off.
fn cut(text: &str, width: Option<usize>) -> String {
    let Some(width) = width.filter(|width| columns_of(text) > *width) else { return text.to_owned() };
    let mut out = String::new();
    let mut left = width.saturating_sub(1);
    for character in text.chars() {
        let taken = columns_of(character.encode_utf8(&mut [0; 4]));
        if taken > left {
            break;
        }
        left -= taken;
        out.push(character);
    }
    if width > 0 {
        out.push('…');
    }
    out
}

/// Returns `text` in lines of at most `width` columns, broken at spaces where there is one.
fn wrapped(text: &str, width: Option<usize>) -> String {
    let mut out = String::new();
    let mut taken = 0;
    for word in text.split(' ') {
        let columns = columns_of(word);
        if taken > 0 && width.is_some_and(|width| taken + 1 + columns > width) {
            out.push('\n');
            taken = 0;
        }
        if taken > 0 {
            out.push(' ');
            taken += 1;
        }
        let word = cut(word, width);
        taken += columns_of(&word);
        out.push_str(&word);
    }
    out + "\n"
}
