//! A report as a table of GitHub Flavored Markdown.

use super::Report;
use super::columns::{for_people, notes, summary};
use crate::text::visible;

/// Characters that mean something within a line of Markdown, or end a cell.
const SPECIAL: &str = "\\`*_[]<>|~&$";

/// Writes the report.
pub(super) fn write(report: &Report) -> String {
    let columns = for_people(report);
    let mut text = format!("{}\n", escaped(&summary(report)));
    if !report.groups.is_empty() {
        text.push('\n');
        line(&mut text, columns.iter().map(|column| escaped(column.heading(report.by))));
        line(&mut text, columns.iter().map(|column| if column.is_text() { "---" } else { "---:" }.to_owned()));
        for group in &report.groups {
            line(&mut text, columns.iter().map(|column| escaped(&column.cell(report, group).for_people())));
        }
    }
    for note in notes(report) {
        text.push_str(&format!("\n{}\n", escaped(&note)));
    }
    text
}

fn line(text: &mut String, cells: impl Iterator<Item = String>) {
    cells.for_each(|cell| text.push_str(&format!("| {cell} ")));
    text.push_str("|\n");
}

/// Returns `text` so that it is shown as it is.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in visible(text).chars() {
        if SPECIAL.contains(character) {
            out.push('\\');
        }
        out.push(character);
    }
    out
}
