//! The journal: commits that are not in the tables yet.
//!
//! A commit of one snapshot changes rows of six tables, each a B-tree of its own, for the sake of some hundred bytes. It writes
//! these bytes to one page of the journal instead, and every sixty commits or so the tables take them all at once.
//!
//! # Model
//!
//! - The table `journal` has [`SLOTS`] rows, which are as old as the table. Each has a page of its own and always the same length, so
//!   that writing to one writes this page and no other.
//! - Every slot holds a sequence number, a part of an entry, and a checksum of all that. Slot 0 is the *head*: its sequence number
//!   is that of the last slot whose part is in the tables, `applied`. It holds no part.
//! - An [`Entry`], which is one commit, lies in consecutive slots with consecutive sequence numbers, of which the last one is
//!   marked. The slot `n` is *pending* if its sequence number is `applied + n` and every slot before it is pending. Others are
//!   *stale*: what they hold is in the tables.
//! - What the state file contains is what the tables hold after the statements of all pending entries, in their order.
//!
//! Three transitions, each a single transaction of SQLite:
//!
//! | transition | slots | head | tables |
//! | --- | --- | --- | --- |
//! | [`Journal::append`] | the entry, behind the pending ones | as it was | as they were |
//! | [`Journal::apply`] | as they were, all stale by the new head | the last pending slot | the statements of all pending entries |
//! | a direct commit: `apply`, and a commit that fits no more | as `apply` | as `apply` | as `apply`, then those of the commit |
//!
//! Whatever reads or writes the tables of the ledger does so behind [`Journal::apply`], or on a copy to which the pending entries
//! were applied. The first commit with a series is a direct one, so that the time of it is in no entry. The tables of the push queue
//! are not journaled: a transaction of theirs is in the log of SQLite behind the commits before it, as each transaction is.
//!
//! # Damage
//!
//! A transaction is on disk as a whole or not at all, so that a process that is killed leaves nothing to detect here. A disk that
//! changes a byte does. Nothing pending is skipped for it: the first slot that is not pending has to be intact as well, because a
//! damaged one can be a pending one, and none behind it may have a later sequence number. A single changed byte is always
//! detected: each step of the checksum is a bijection of the one before. What is damaged further behind was applied.
//!
//! Another program may write while the store is open: the shell restores a backup. Each transition checks that the file has the
//! journal that is in memory, so that no commit lands behind a head or entries that are not its own.

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Row};

use super::tables::Entry;

pub(super) const TABLE: &str = "journal";

/// The head, and one for each part of an entry.
const SLOTS: usize = 64;

/// What a row can hold so that it fills a page of 1,024 bytes and does not overflow to a second: a leaf page has a header of
/// 8 bytes and 2 for its only cell, which begins with 7 bytes for the row. SQLite lets 989 bytes of a row, 985 of its value,
/// remain on the page. In pages of another size, of a file of an earlier version, slots share pages or take more than one.
const SLOT_BYTES: usize = 985;

/// Checksum, sequence number, length of the part, and whether it is the last of its entry.
const HEADER_BYTES: usize = 8 + 8 + 2 + 1;

const PART_BYTES_MAX: usize = SLOT_BYTES - HEADER_BYTES;

/// Why a journal cannot be read or applied.
#[derive(Debug)]
pub(super) enum JournalError {
    /// SQLite failed.
    Sqlite(rusqlite::Error),
    /// A slot that is missing or does not hold what was written, or whose entry cannot be applied to the tables.
    Damaged {
        /// Which.
        slot: usize,
    },
}

impl From<rusqlite::Error> for JournalError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Where the next entry goes. It follows the transactions: a transition returns the journal as it is once the transaction is
/// committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Journal {
    /// The sequence number of the head.
    applied: u64,
    /// How many slots are pending.
    pending: usize,
}

/// The pending entries of a journal, oldest first, each with its first slot.
#[derive(Debug)]
pub(super) struct Pending(Vec<(usize, Entry<'static>)>);

impl Pending {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Executes the statements of all entries.
    ///
    /// # Errors
    /// Whatever SQLite answers; statements that were not written by this program, or that the tables refuse.
    pub fn execute(&self, connection: &Connection) -> Result<(), JournalError> {
        for (slot, entry) in &self.0 {
            entry.execute(connection).map_err(|error| match error.sqlite_error_code() {
                Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch) | None => {
                    JournalError::Damaged { slot: *slot }
                }
                Some(_) => JournalError::Sqlite(error),
            })?;
        }
        Ok(())
    }
}

/// Fills the empty table `journal`.
pub(super) fn create(connection: &Connection) -> rusqlite::Result<()> {
    let mut insert = connection.prepare("INSERT INTO journal (slot, content) VALUES (?, ?)")?;
    let unused = Slot::without_part(0).encode();
    (0..SLOTS).try_for_each(|slot| insert.execute((slot, unused)).map(drop))
}

impl Journal {
    /// Reads the journal, with the entries that are pending.
    ///
    /// # Errors
    /// Whatever SQLite answers; a journal that is damaged.
    pub fn read(connection: &Connection) -> Result<(Self, Pending), JournalError> {
        let mut slots = connection.prepare_cached("SELECT slot, content FROM journal ORDER BY slot")?;
        let mut rows = slots.query([])?;
        let mut journal = None;
        let mut entries: Vec<(usize, Entry<'static>)> = Vec::new();
        let (mut is_entry_over, mut is_pending) = (true, true);
        for number in 0..SLOTS {
            let damaged = JournalError::Damaged { slot: number };
            let Some(row) = rows.next()?.filter(|row| row.get(0) == Ok(number)) else { return Err(damaged) };
            let slot = Slot::decode(row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?);
            let Some(Self { applied, pending }) = &mut journal else {
                let Some(head) = slot else { return Err(damaged) };
                journal = Some(Self { applied: head.sequence, pending: 0 });
                continue;
            };
            let Some(slot) = slot else {
                if is_pending {
                    return Err(damaged);
                }
                continue;
            };
            is_pending &= slot.sequence.checked_sub(*applied) == Some(number as u64);
            if !is_pending {
                if slot.sequence > *applied {
                    return Err(damaged);
                }
                continue;
            }
            *pending = number;
            if is_entry_over {
                entries.push((number, Entry::default()));
            }
            if let Some((_, entry)) = entries.last_mut() {
                entry.extend(slot.part);
            }
            is_entry_over = slot.is_last;
        }
        if rows.next()?.is_some() {
            return Err(JournalError::Damaged { slot: SLOTS });
        }
        match journal {
            Some(journal) if is_entry_over => Ok((journal, Pending(entries))),
            _ => Err(JournalError::Damaged { slot: journal.map_or(0, |journal| journal.pending + 1) }),
        }
    }

    /// Whether no entry is pending.
    pub fn is_empty(self) -> bool {
        self.pending == 0
    }

    /// Whether there is a slot for each part of `entry`.
    pub fn has_room(self, entry: &Entry) -> bool {
        entry.bytes().len().div_ceil(PART_BYTES_MAX) < SLOTS - self.pending
    }

    /// Checks that the file has this journal, by the slots that show it: the head, the last one that is pending, and the one behind it.
    ///
    /// # Errors
    /// Whatever SQLite answers; a journal that is damaged, or is another one.
    fn verify(self, connection: &Connection) -> Result<(), JournalError> {
        let mut select = connection.prepare_cached("SELECT content FROM journal WHERE slot = ?")?;
        let next = self.pending + 1;
        for number in [0, self.pending, next].into_iter().filter(|number| *number < SLOTS) {
            let sequence = |row: &Row<'_>| Ok(Slot::decode(row.get_ref(0)?.as_blob()?).map(|slot| slot.sequence));
            let sequence = select.query_row([number], sequence).optional()?.flatten();
            let is_as_expected = if number == next {
                sequence.is_some_and(|sequence| sequence <= self.applied)
            } else {
                sequence == Some(self.applied + number as u64)
            };
            if !is_as_expected {
                return Err(JournalError::Damaged { slot: number });
            }
        }
        Ok(())
    }

    /// Writes `entry`, for which there has to be room, behind the pending ones.
    ///
    /// # Errors
    /// Whatever SQLite answers; a journal that is damaged.
    pub fn append(self, connection: &Connection, entry: &Entry) -> Result<Self, JournalError> {
        self.verify(connection)?;
        let Self { applied, mut pending } = self;
        let mut parts = entry.bytes().chunks(PART_BYTES_MAX).peekable();
        while let Some(part) = parts.next() {
            pending += 1;
            let slot = Slot { sequence: applied + pending as u64, part, is_last: parts.peek().is_none() };
            slot.write(connection, pending)?;
        }
        Ok(Self { applied, pending })
    }

    /// Writes the pending entries to the tables.
    ///
    /// # Errors
    /// Whatever SQLite answers; a journal that is damaged.
    pub fn apply(self, connection: &Connection) -> Result<Self, JournalError> {
        if self.is_empty() {
            self.verify(connection)?;
            return Ok(self);
        }
        let (journal, pending) = Self::read(connection)?;
        if journal != self {
            return Err(JournalError::Damaged { slot: 0 });
        }
        pending.execute(connection)?;
        let applied = self.applied + self.pending as u64;
        Slot::without_part(applied).write(connection, 0)?;
        Ok(Self { applied, pending: 0 })
    }
}

/// The content of a row.
#[derive(Debug, PartialEq, Eq)]
struct Slot<'b> {
    sequence: u64,
    /// At most [`PART_BYTES_MAX`] bytes of an entry.
    part: &'b [u8],
    /// Whether the entry ends with it.
    is_last: bool,
}

impl<'b> Slot<'b> {
    /// Returns the head, or a slot that was never written to.
    fn without_part(sequence: u64) -> Self {
        Self { sequence, part: &[], is_last: true }
    }

    fn encode(&self) -> [u8; SLOT_BYTES] {
        let Self { sequence, part, is_last } = self;
        let length = u16::try_from(part.len()).expect("a part is shorter than a page");
        let mut bytes = [0; SLOT_BYTES];
        bytes[8..16].copy_from_slice(&sequence.to_le_bytes());
        bytes[16..18].copy_from_slice(&length.to_le_bytes());
        bytes[18] = (*is_last).into();
        bytes[HEADER_BYTES..HEADER_BYTES + part.len()].copy_from_slice(part);
        let checksum = checksum(&bytes[8..]);
        bytes[..8].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// `None` for anything that [`Slot::encode`] did not return.
    fn decode(bytes: &'b [u8]) -> Option<Self> {
        let bytes: &[u8; SLOT_BYTES] = bytes.try_into().ok()?;
        let (stored, rest) = bytes.split_first_chunk()?;
        if u64::from_le_bytes(*stored) != checksum(rest) {
            return None;
        }
        let (sequence, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (is_last, rest) = rest.split_first()?;
        let part = rest.get(..u16::from_le_bytes(*length).into())?;
        Some(Self { sequence: u64::from_le_bytes(*sequence), part, is_last: *is_last == 1 })
    }

    fn write(&self, connection: &Connection, slot: usize) -> Result<(), JournalError> {
        let mut update = connection.prepare_cached("UPDATE journal SET content = ?2 WHERE slot = ?1 RETURNING slot")?;
        let updated: Option<usize> = update.query_row((slot, self.encode()), |row| row.get(0)).optional()?;
        updated.map(drop).ok_or(JournalError::Damaged { slot })
    }
}

/// FNV-1a, 64 bits.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
