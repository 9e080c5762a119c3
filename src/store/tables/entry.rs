//! What a commit writes: statements with their parameters, as bytes.
//!
//! The table modules write to an [`Entry`] and to nothing else. Whether its statements are executed at once or were read from the
//! journal, they are the same.
//!
//! A statement is its number, the number of its parameters, and these. A parameter is a tag and its value: integers as
//! variable-length integers of 7 bits a byte, the lowest first, with the sign in the lowest bit; reals as 8 bytes, little-endian;
//! texts and blobs behind their length.

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ToSql};

use super::record::invalid;
use super::statement::Statement;

const NULL: u8 = 0;
const INTEGER: u8 = 1;
const REAL: u8 = 2;
const TEXT: u8 = 3;
const BLOB: u8 = 4;

/// Bytes of statements from which on [`Entry::executing`] executes them: some hundred rows.
const UNEXECUTED_BYTES_MAX: usize = 64 << 10;

/// Statements in the order in which they are executed.
#[derive(Debug, Default)]
pub(in crate::store) struct Entry<'c> {
    bytes: Vec<u8>,
    /// Where statements are executed while others are added; `None` if they all stay.
    connection: Option<&'c Connection>,
}

impl<'c> Entry<'c> {
    /// An entry of any length, of which 64 KiB and one statement are in memory at most: beyond that, statements are executed and removed
    /// while others are added. [`Entry::execute`] executes the last of them.
    pub fn executing(connection: &'c Connection) -> Self {
        Self { bytes: Vec::new(), connection: Some(connection) }
    }

    /// Adds a statement.
    ///
    /// # Errors
    /// A parameter that SQLite has no value for, such as an integer of more than 63 bits. Of [`Entry::executing`], whatever SQLite
    /// answers.
    pub fn push(&mut self, statement: Statement, parameters: &[&dyn ToSql]) -> rusqlite::Result<()> {
        let count = u8::try_from(parameters.len()).expect("no statement has so many parameters");
        self.bytes.extend([statement as u8, count]);
        parameters.iter().try_for_each(|parameter| match parameter.to_sql()? {
            ToSqlOutput::Borrowed(value) => self.push_value(value),
            ToSqlOutput::Owned(value) => self.push_value((&value).into()),
            other => Err(rusqlite::Error::ToSqlConversionFailure(format!("{other:?} is not a value").into())),
        })?;
        if let Some(connection) = self.connection.filter(|_| self.bytes.len() >= UNEXECUTED_BYTES_MAX) {
            self.execute(connection)?;
            self.bytes.clear();
        }
        Ok(())
    }

    fn push_value(&mut self, value: ValueRef<'_>) -> rusqlite::Result<()> {
        match value {
            ValueRef::Null => self.bytes.push(NULL),
            ValueRef::Integer(integer) => {
                self.bytes.push(INTEGER);
                self.push_number(((integer << 1) ^ (integer >> 63)) as u64);
            }
            ValueRef::Real(real) => {
                self.bytes.push(REAL);
                self.bytes.extend(real.to_bits().to_le_bytes());
            }
            ValueRef::Text(bytes) => self.push_bytes(TEXT, bytes),
            ValueRef::Blob(bytes) => self.push_bytes(BLOB, bytes),
        }
        Ok(())
    }

    fn push_bytes(&mut self, tag: u8, bytes: &[u8]) {
        self.bytes.push(tag);
        self.push_number(bytes.len() as u64);
        self.bytes.extend(bytes);
    }

    fn push_number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }

    /// Returns the statements as bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Adds bytes of another entry.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// Executes the statements.
    ///
    /// # Errors
    /// Whatever SQLite answers; bytes that this program does not write.
    pub fn execute(&self, connection: &Connection) -> rusqlite::Result<()> {
        let unreadable = || invalid("an entry of the journal that this program does not write".to_owned());
        let mut rest = &self.bytes[..];
        let mut parameters = Vec::new();
        while let [number, count, behind @ ..] = rest {
            rest = behind;
            let statement = Statement::from_number(*number).ok_or_else(unreadable)?;
            parameters.clear();
            for _ in 0..*count {
                parameters.push(take_value(&mut rest).ok_or_else(unreadable)?);
            }
            statement.execute(connection, &parameters)?;
        }
        if rest.is_empty() { Ok(()) } else { Err(unreadable()) }
    }
}

fn take_value<'b>(rest: &mut &'b [u8]) -> Option<ValueRef<'b>> {
    Some(match *rest.split_off_first()? {
        NULL => ValueRef::Null,
        INTEGER => {
            let number = take_number(rest)?;
            ValueRef::Integer((number >> 1) as i64 ^ -((number & 1) as i64))
        }
        REAL => {
            let (bits, behind) = rest.split_first_chunk()?;
            *rest = behind;
            ValueRef::Real(f64::from_bits(u64::from_le_bytes(*bits)))
        }
        TEXT => ValueRef::Text(take_bytes(rest)?),
        BLOB => ValueRef::Blob(take_bytes(rest)?),
        _ => return None,
    })
}

fn take_bytes<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let length = usize::try_from(take_number(rest)?).ok()?;
    rest.split_off(..length)
}

fn take_number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let byte = *rest.split_off_first()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use rusqlite::params;

    use super::*;

    #[test]
    fn statements_are_executed_in_order_while_others_are_added() {
        const ROWS: i64 = 8_000;
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE skill (place INTEGER PRIMARY KEY, last_listed_micros INTEGER)").unwrap();
        let insert = |place: i64| connection.execute("INSERT INTO skill VALUES (?, 0)", [place]).map(drop);
        (0..ROWS).try_for_each(insert).unwrap();
        let mut entry = Entry::executing(&connection);
        let mut whole = Entry::default();
        for micros in [1_i64, 2] {
            for place in 0..ROWS {
                for entry in [&mut entry, &mut whole] {
                    entry.push(Statement::ListSkill, params![micros << 40, place]).unwrap();
                }
                assert!(entry.bytes().len() < UNEXECUTED_BYTES_MAX);
            }
        }
        assert!(whole.bytes().len() > 2 * UNEXECUTED_BYTES_MAX, "there are enough of them");
        assert!(
            whole.bytes().ends_with(entry.bytes()) && !entry.bytes().is_empty(),
            "the last are still to be executed"
        );
        entry.execute(&connection).unwrap();
        let count = "SELECT count(*) FROM skill WHERE last_listed_micros = ?";
        let count: i64 = connection.query_row(count, [2_i64 << 40], |row| row.get(0)).unwrap();
        assert_eq!(count, ROWS);
    }
}
