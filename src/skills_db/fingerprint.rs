//! Digests of rows.

use ring::digest::{Context, SHA256};
use rusqlite::Row;
use rusqlite::types::ValueRef;

use super::facts::{RowFingerprint, Table};

/// The columns that a fingerprint covers beside the key, in the order in which they are selected after it.
pub(super) const fn fingerprint_columns(table: Table) -> &'static [&'static str] {
    match table {
        Table::Invocations => &["skill_name", "invoked_at"],
        Table::Anomalies => &["skill_name", "anomaly_type", "detected_at", "deviation_score"],
    }
}

/// The columns that a fingerprint covered in version 0.1.0, where they are others. Such fingerprints are in states of that
/// version, and are recognised as long as nobody changes any of these columns.
pub(super) const fn former_fingerprint_columns(table: Table) -> &'static [&'static str] {
    match table {
        Table::Invocations => {
            &["skill_name", "workflow_phase", "completed", "duration_seconds", "session_id", "invoked_at", "error_type"]
        }
        Table::Anomalies => &[],
    }
}

/// The bits of an invocation's digest that are of its time; the others are of its skill.
const TIME_BITS: i64 = 0xffff_ffff;

/// The fingerprint of a row whose key is the first column selected, and whose fingerprint columns are the next.
pub(super) fn fingerprint(row: &Row<'_>, table: Table) -> RowFingerprint {
    let digest = match table {
        Table::Invocations => (digest(row, [1]) & !TIME_BITS) | (digest(row, [2]) & TIME_BITS),
        Table::Anomalies => digest(row, 1..=fingerprint_columns(table).len()),
    };
    RowFingerprint { key: row.get(0).unwrap_or_default(), digest }
}

/// The time of `row`, of which `found` is the fingerprint, if it can be the row that had the fingerprint `sought` under another
/// skill: it has the same key and the same time.
pub(super) fn time_if_renamed<'r>(
    row: &'r Row<'_>,
    found: RowFingerprint,
    sought: RowFingerprint,
    table: Table,
) -> Option<&'r [u8]> {
    let is_same = found.key == sought.key && (found.digest ^ sought.digest) & TIME_BITS == 0;
    match row.get_ref(2) {
        Ok(ValueRef::Text(time)) if table == Table::Invocations && is_same && !time.is_empty() => Some(time),
        _ => None,
    }
}

/// A digest over some columns of a row, each with its type and length.
pub(super) fn digest(row: &Row<'_>, columns: impl IntoIterator<Item = usize>) -> i64 {
    let mut context = Context::new(&SHA256);
    for column in columns {
        let (kind, number, bytes): (u8, u64, &[u8]) = match row.get_ref(column).unwrap_or(ValueRef::Null) {
            ValueRef::Null => (0, 0, &[]),
            ValueRef::Integer(number) => (1, number as u64, &[]),
            ValueRef::Real(number) => (2, number.to_bits(), &[]),
            ValueRef::Text(text) => (3, text.len() as u64, text),
            ValueRef::Blob(blob) => (4, blob.len() as u64, blob),
        };
        context.update(&[kind]);
        context.update(&number.to_le_bytes());
        context.update(bytes);
    }
    let digest = context.finish();
    let first = digest.as_ref().first_chunk().copied().unwrap_or_default();
    i64::from_le_bytes(first)
}
