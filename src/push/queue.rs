//! The tables of the queue. Nobody else knows them; `store` creates them and copies them to a new file.
//!
//! Every function is for a connection that is in a transaction, unless it runs a single statement. Rows that this program
//! cannot have written are `FromSqlConversionFailure`, which the store takes for corruption.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};
use thiserror::Error;

use super::identity::{HostHash, Identity, LabelSets};
use super::samples;
use super::series::{
    Backlog, Labels, Origin, ReceiverName, STALE, Series, SeriesId, SeriesKind, SeriesName, Texts, Tick, TickTime,
    is_stale,
};

/// What a tick takes beside its samples: its time and its row.
const TICK_BYTES: u64 = 16;

/// So many values of a backlog are read at once: 4 MiB in memory.
const BACKLOG_VALUES_MAX: usize = 262_144;

/// Ticks that every receiver has behind it are folded into the base once there are so many. Most of them change the same series, of
/// which each is written once then.
const FOLD_TICKS: u64 = 64;

/// They are folded earlier if they take so much.
const FOLD_BYTES: u64 = 4 * 1024 * 1024;

/// How much is queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueSize {
    /// Number of ticks.
    pub ticks: u64,
    /// What they take in the database.
    pub bytes: u64,
    /// The time of the oldest; `None` without ticks.
    pub oldest: Option<TickTime>,
}

/// The queue, for people.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueSummary {
    /// Whose queue it is.
    pub identity: Identity,
    /// The label sets that it was last pushed under.
    pub label_sets: LabelSets,
    /// Number of series in the catalog.
    pub series: u64,
    /// The newest tick; `None` if there never was one.
    pub newest: Option<TickTime>,
    /// What at least one receiver has not answered for; without receivers, every tick.
    pub size: QueueSize,
    /// By name: each receiver's position, [`TickTime::NEVER`] if it has answered for nothing, and what it has not answered for.
    pub receivers: Vec<(ReceiverName, TickTime, QueueSize)>,
}

/// Whose queue it is, as stored.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Owner {
    pub identity: Identity,
    pub host: HostHash,
    pub label_sets: LabelSets,
}

#[derive(Debug, Error)]
#[error("a row of the push queue is invalid: {0}")]
struct InvalidRow(&'static str);

fn invalid(what: &'static str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Blob, Box::new(InvalidRow(what)))
}

/// Returns what is queued at any time; `None` if this state was never pushed.
///
/// # Errors
/// Whatever SQLite answers; rows that this program did not write.
pub fn summary(connection: &Connection) -> rusqlite::Result<Option<QueueSummary>> {
    let Some(Owner { identity, label_sets, .. }) = owner(connection)? else { return Ok(None) };
    let mut query = connection.prepare_cached("SELECT name, position_millis FROM push_receiver ORDER BY name")?;
    let receivers = query.query_map([], |row| Ok((receiver_name(row)?, TickTime::from_millis(row.get(1)?))))?;
    let receivers = receivers
        .map(|row| row.and_then(|(name, position)| Ok((name, position, size_behind(connection, position)?))))
        .collect::<Result<_, _>>()?;
    let series = connection.query_row("SELECT count(*) FROM push_series", [], |row| row.get(0))?;
    let answered = match oldest_position(connection)? {
        Some(oldest) => oldest,
        None => base(connection)?,
    };
    let size = size_behind(connection, answered)?;
    Ok(Some(QueueSummary { identity, label_sets, series, newest: newest(connection)?, size, receivers }))
}

fn receiver_name(row: &Row<'_>) -> rusqlite::Result<ReceiverName> {
    Ok(ReceiverName::new(row.get_ref(0)?.as_str()?))
}

/// Returns whose queue it is; `None` before [`set_owner`].
pub(super) fn owner(connection: &Connection) -> rusqlite::Result<Option<Owner>> {
    let mut query = connection.prepare_cached("SELECT id, host_hash, label_sets FROM push_identity")?;
    let row = query.query_row([], |row| Ok((row.get::<_, [u8; 16]>(0)?, row.get(1)?, row.get::<_, String>(2)?)));
    let Some((id, host, label_sets)) = row.optional()? else { return Ok(None) };
    let label_sets = serde_json::from_str(&label_sets).map_err(|_| invalid("label sets that are not JSON"))?;
    Ok(Some(Owner { identity: Identity::from_bytes(id), host: HostHash(host), label_sets }))
}

/// Replaces the owner. Ticks and positions stay.
pub(super) fn set_owner(connection: &Connection, owner: &Owner) -> rusqlite::Result<()> {
    let label_sets = serde_json::to_string(&owner.label_sets).expect("texts are JSON");
    let mut upsert = connection.prepare_cached(
        "INSERT INTO push_identity (slot, id, host_hash, label_sets, base_millis) VALUES (0, ?1, ?2, ?3, 0) \
         ON CONFLICT (slot) DO UPDATE SET id = ?1, host_hash = ?2, label_sets = ?3",
    )?;
    upsert.execute(params![owner.identity.bytes(), owner.host.0, label_sets]).map(drop)
}

/// Deletes series, ticks, base and positions.
pub(super) fn clear(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "DELETE FROM push_series; DELETE FROM push_base; DELETE FROM push_tick; DELETE FROM push_receiver; \
         UPDATE push_identity SET base_millis = 0;",
    )
}

/// Deletes series, ticks and base, which have rows that this program did not write. Receivers may have samples up to the newest tick: that is
/// the time of the base, which has no value then, and everybody's position. Where the name of a receiver is not text, all receivers are
/// deleted too: those of the settings are new then. Returns how many ticks that a receiver had not answered for are deleted.
pub(super) fn empty(connection: &Connection) -> rusqlite::Result<u64> {
    let unanswered = size_behind(connection, oldest_position(connection)?.unwrap_or(TickTime::NEVER))?.ticks;
    let newest = newest(connection)?.max(Some(answered(connection)?));
    connection.execute_batch("DELETE FROM push_series; DELETE FROM push_base; DELETE FROM push_tick;")?;
    for update in ["UPDATE push_identity SET base_millis = ?", "UPDATE push_receiver SET position_millis = ?"] {
        connection.execute(update, [newest.unwrap_or(TickTime::NEVER).millis()])?;
    }
    let mut query = connection.prepare("SELECT name FROM push_receiver")?;
    if query.query_map([], receiver_name)?.any(|name| name.is_err()) {
        connection.execute("DELETE FROM push_receiver", [])?;
    }
    Ok(unanswered)
}

/// Returns every series, in the order of their numbers.
pub(super) fn catalog(connection: &Connection) -> rusqlite::Result<Vec<Arc<Series>>> {
    let mut query = connection
        .prepare("SELECT id, metric, labels, is_counter, is_own, zero_millis FROM push_series ORDER BY id")?;
    let mut rows = query.query([])?;
    let mut catalog = Vec::new();
    let mut texts = Texts::default();
    while let Some(row) = rows.next()? {
        if row.get::<_, i64>(0)? != catalog.len() as i64 {
            return Err(invalid("the numbers of series have a gap"));
        }
        let labels: Vec<(&str, std::borrow::Cow<'_, str>)> =
            serde_json::from_str(row.get_ref(2)?.as_str()?).map_err(|_| invalid("labels that are not JSON"))?;
        let labels: Labels = labels.iter().map(|(name, value)| (texts.shared(name), texts.shared(value))).collect();
        let name = SeriesName { metric: texts.shared(row.get_ref(1)?.as_str()?), labels };
        let kind = if row.get(3)? { SeriesKind::Counter } else { SeriesKind::Gauge };
        let origin = if row.get(4)? { Origin::Bridge } else { Origin::Families };
        let zero_at = row.get::<_, Option<i64>>(5)?.map(TickTime::from_millis);
        catalog.push(Arc::new(Series { name, kind, origin, zero_at }));
    }
    Ok(catalog)
}

/// Returns the newest tick that was ever taken; `None` if there is none.
pub(super) fn newest(connection: &Connection) -> rusqlite::Result<Option<TickTime>> {
    let mut query = connection.prepare_cached(
        "SELECT coalesce((SELECT max(millis) FROM push_tick), (SELECT base_millis FROM push_identity), 0)",
    )?;
    let millis: i64 = query.query_row([], |row| row.get(0))?;
    Ok((millis != 0).then(|| TickTime::from_millis(millis)))
}

/// Returns the size of what comes after `position`.
pub(super) fn size_behind(connection: &Connection, position: TickTime) -> rusqlite::Result<QueueSize> {
    let mut query = connection.prepare_cached(
        "SELECT count(*), coalesce(sum(length(samples)), 0), min(millis) FROM push_tick WHERE millis > ?",
    )?;
    query.query_row([position.millis()], |row| {
        let (ticks, bytes): (u64, u64) = (row.get(0)?, row.get(1)?);
        let oldest = row.get::<_, Option<i64>>(2)?.map(TickTime::from_millis);
        Ok(QueueSize { ticks, bytes: bytes + ticks * TICK_BYTES, oldest })
    })
}

fn tick(row: &Row<'_>) -> rusqlite::Result<Tick> {
    let values = samples::decode(row.get_ref(1)?.as_blob()?).ok_or_else(|| invalid("samples of a tick"))?;
    Ok(Tick { time: TickTime::from_millis(row.get(0)?), values })
}

/// Returns ticks later than `after`, and how many come behind them: at least one, if there is one, up to `ticks_max`, and up to
/// the one with which they have [`BACKLOG_VALUES_MAX`] values.
pub(super) fn backlog(connection: &Connection, after: TickTime, ticks_max: usize) -> rusqlite::Result<Backlog> {
    // Read as far as it is wanted: a limit that is bound has SQLite prepare the statement again each time.
    let mut query =
        connection.prepare_cached("SELECT millis, samples FROM push_tick WHERE millis > ? ORDER BY millis")?;
    let mut rows = query.query([after.millis()])?;
    let mut ticks: Vec<Tick> = Vec::new();
    let (mut values, mut bytes) = (0, 0);
    let is_all = loop {
        let Some(row) = rows.next()? else { break true };
        if ticks.len() >= ticks_max.max(1) || values >= BACKLOG_VALUES_MAX {
            break false;
        }
        let tick = tick(row)?;
        values += tick.values.len();
        bytes += row.get_ref(1)?.as_blob()?.len() as u64 + TICK_BYTES;
        ticks.push(tick);
    };
    let (oldest, newest) = (ticks.first().map(|tick| tick.time), ticks.last().map_or(after, |tick| tick.time));
    let remaining = if is_all { QueueSize::default() } else { size_behind(connection, newest)? };
    let size = QueueSize { ticks: ticks.len() as u64 + remaining.ticks, bytes: bytes + remaining.bytes, oldest };
    Ok(Backlog { ticks, remaining, size })
}

/// Returns the time of the base, the tick into which every earlier one was folded; [`TickTime::NEVER`] if there is none. A position is
/// before it only if its receiver is new.
fn base(connection: &Connection) -> rusqlite::Result<TickTime> {
    let mut query = connection.prepare_cached("SELECT coalesce((SELECT base_millis FROM push_identity), 0)")?;
    query.query_row([], |row| row.get(0).map(TickTime::from_millis))
}

/// Makes a tick of a base that an earlier version of the program wrote, which has a row for each series.
pub(super) fn convert_base(connection: &Connection) -> rusqlite::Result<()> {
    let value = |row: &Row<'_>| {
        Ok((SeriesId::at(row.get::<_, u32>(0)? as usize), f64::from_bits(row.get::<_, i64>(1)? as u64)))
    };
    let mut query = connection.prepare("SELECT series, bits FROM push_base ORDER BY series")?;
    let values = query.query_map([], value)?.collect::<Result<Vec<_>, _>>()?;
    if values.is_empty() {
        return Ok(());
    }
    put_base(connection, base(connection)?, values)?;
    connection.execute("DELETE FROM push_base", []).map(drop)
}

/// Makes `values` the tick at `time`, and the base.
fn put_base(connection: &Connection, time: TickTime, mut values: Vec<(SeriesId, f64)>) -> rusqlite::Result<()> {
    // There is no earlier tick with a value of a series that has ended.
    values.retain(|(_, value)| !is_stale(*value));
    let samples = samples::encode(&values);
    connection.prepare_cached("DELETE FROM push_tick WHERE millis <= ?")?.execute([time.millis()])?;
    connection.prepare_cached("INSERT INTO push_tick VALUES (?, ?)")?.execute(params![time.millis(), samples])?;
    let mut update = connection.prepare_cached("UPDATE push_identity SET base_millis = ?")?;
    update.execute([time.millis()]).map(drop)
}

/// Returns the values of every series at `time`, in the order of the catalog: those of the ticks up to then, the base first. A series
/// without a value is [`STALE`].
pub(super) fn values_at(connection: &Connection, series: usize, time: TickTime) -> rusqlite::Result<Vec<f64>> {
    let mut values = vec![STALE; series];
    let mut set = |id: SeriesId, value| {
        values.get_mut(id.index()).map(|slot| *slot = value).ok_or_else(|| invalid("a value of an unknown series"))
    };
    let mut query = connection.prepare("SELECT millis, samples FROM push_tick WHERE millis <= ? ORDER BY millis")?;
    for tick in query.query_map([time.millis()], tick)? {
        tick?.values.into_iter().try_for_each(|(id, value)| set(id, value))?;
    }
    Ok(values)
}

/// Returns the latest tick that a receiver has answered for; [`TickTime::NEVER`] if there is none.
pub(super) fn answered(connection: &Connection) -> rusqlite::Result<TickTime> {
    let mut query = connection.prepare_cached(
        "SELECT max(coalesce((SELECT max(position_millis) FROM push_receiver), 0), \
         coalesce((SELECT base_millis FROM push_identity), 0))",
    )?;
    query.query_row([], |row| row.get(0).map(TickTime::from_millis))
}

/// What became of a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Appended {
    /// It is queued.
    Queued {
        /// What it takes.
        bytes: u64,
        /// Whether later ticks, of a clock that was ahead, were merged into it.
        is_merged: bool,
    },
    /// Its time is not later than this tick, which a receiver has answered for: the clock was set back. Nothing was changed.
    TooEarly(TickTime),
}

/// Queues a tick at `time`, with the series `new`, of which the first has the number `first`.
///
/// Ticks at `time` or later, of a clock that was ahead, are merged into it, unless a receiver has answered for one.
pub(super) fn append(
    connection: &Connection,
    time: TickTime,
    first: SeriesId,
    new: &[Arc<Series>],
    values: &[(SeriesId, f64)],
) -> rusqlite::Result<Appended> {
    let answered = answered(connection)?;
    if time <= answered {
        return Ok(Appended::TooEarly(answered));
    }
    let mut insert = connection.prepare_cached("INSERT INTO push_series VALUES (?, ?, ?, ?, ?, ?)")?;
    for (offset, series) in new.iter().enumerate() {
        let Series { name, kind, origin, zero_at } = &**series;
        let labels: Vec<_> = name.labels.iter().map(|(name, value)| (&**name, &**value)).collect();
        let labels = serde_json::to_string(&labels).expect("texts are JSON");
        insert.execute(params![
            first.index() + offset,
            &*name.metric,
            labels,
            *kind == SeriesKind::Counter,
            *origin == Origin::Bridge,
            zero_at.map(TickTime::millis),
        ])?;
    }
    let mut query =
        connection.prepare_cached("SELECT millis, samples FROM push_tick WHERE millis >= ? ORDER BY millis")?;
    let mut ahead = Vec::new();
    for tick in query.query_map([time.millis()], tick)? {
        ahead = samples::merge(&ahead, &tick?.values);
    }
    let merged = connection.prepare_cached("DELETE FROM push_tick WHERE millis >= ?")?.execute([time.millis()])?;
    let samples = samples::encode(&samples::merge(&ahead, values));
    connection.prepare_cached("INSERT INTO push_tick VALUES (?, ?)")?.execute(params![time.millis(), &samples])?;
    Ok(Appended::Queued { bytes: samples.len() as u64 + TICK_BYTES, is_merged: merged > 0 })
}

/// Returns the position of a receiver; `None` if it is not one of the queue's.
pub(super) fn position(connection: &Connection, receiver: &ReceiverName) -> rusqlite::Result<Option<TickTime>> {
    let mut query = connection.prepare_cached("SELECT position_millis FROM push_receiver WHERE name = ?")?;
    query.query_row([receiver.as_str()], |row| row.get(0).map(TickTime::from_millis)).optional()
}

/// A receiver that is not configured any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemovedReceiver {
    /// Its name.
    pub name: ReceiverName,
    /// How many queued ticks it had not answered for.
    pub ticks: u64,
    /// The receiver that has its position and these ticks now, or why there is none.
    pub successor: Result<ReceiverName, NoSuccessor>,
}

/// Why no receiver inherits the position of one that was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NoSuccessor {
    /// None was added.
    #[error("no receiver was added")]
    NoneAdded,
    /// More than one was removed or added.
    #[error("more than one receiver was removed or added")]
    Ambiguous,
    /// The one that was added pushes under other labels, which are other series.
    #[error("the labels have changed")]
    Relabelled,
}

/// Makes `receivers` those of the queue. The position of one that is removed is inherited by the one that is added, if there is one of
/// each, which pushes under the same labels unless `is_relabelled`: its URL was corrected, and its name with it. Any other new one begins with the
/// newest tick: what was queued before it was configured is not of it. Returns those that are removed.
pub(super) fn retain(
    connection: &Connection,
    receivers: &[ReceiverName],
    is_relabelled: bool,
) -> rusqlite::Result<Vec<RemovedReceiver>> {
    // What a receiver that is removed now has answered for is not merged into other ticks.
    fold(connection)?;
    let mut query = connection.prepare_cached("SELECT name, position_millis FROM push_receiver")?;
    let known = query.query_map([], |row| Ok((receiver_name(row)?, TickTime::from_millis(row.get(1)?))))?;
    let known = known.collect::<Result<BTreeMap<_, _>, _>>()?;
    let gone: Vec<_> = known.iter().filter(|(known, _)| !receivers.contains(known)).collect();
    let mut new: Vec<_> = receivers.iter().filter(|receiver| !known.contains_key(receiver)).collect();
    let successor = match (&gone[..], &new[..]) {
        (_, []) => Err(NoSuccessor::NoneAdded),
        ([_], [_]) if is_relabelled => Err(NoSuccessor::Relabelled),
        ([_], [new]) => Ok(*new),
        _ => Err(NoSuccessor::Ambiguous),
    };
    let mut delete = connection.prepare_cached("DELETE FROM push_receiver WHERE name = ?")?;
    let mut rename = connection.prepare_cached("UPDATE push_receiver SET name = ?2 WHERE name = ?1")?;
    let mut removed = Vec::new();
    for (name, position) in gone {
        let ticks = size_behind(connection, *position)?.ticks;
        match successor {
            Ok(successor) if ticks > 0 => {
                rename.execute([name.as_str(), successor.as_str()])?;
                new.clear();
            }
            // One that has answered for everything leaves nothing: the new one gets the newest tick.
            Ok(_) | Err(_) => drop(delete.execute([name.as_str()])?),
        }
        removed.push(RemovedReceiver { name: name.clone(), ticks, successor: successor.cloned() });
    }
    if !new.is_empty() {
        let position = before_newest(connection)?;
        let mut insert = connection.prepare_cached("INSERT INTO push_receiver VALUES (?, ?)")?;
        for receiver in new {
            insert.execute(params![receiver.as_str(), position.millis()])?;
        }
    }
    fold(connection)?;
    Ok(removed)
}

/// Returns the position that only the newest tick is behind. Where that is the base, it has every value.
fn before_newest(connection: &Connection) -> rusqlite::Result<TickTime> {
    let base = base(connection)?.millis();
    let mut query = connection.prepare_cached("SELECT millis FROM push_tick ORDER BY millis DESC LIMIT 2")?;
    let newest = query.query_map([], |row| row.get(0))?.collect::<Result<Vec<i64>, _>>()?;
    Ok(match newest[..] {
        [newest, ..] if newest == base => TickTime::from_millis(base - 1),
        [_, before, ..] => TickTime::from_millis(before),
        [_] | [] => TickTime::NEVER,
    })
}

/// A receiver has answered for everything up to `to`. Its position never goes back, and a receiver that was removed meanwhile has
/// none.
pub(super) fn advance(connection: &Connection, receiver: &ReceiverName, to: TickTime) -> rusqlite::Result<()> {
    let mut update = connection
        .prepare_cached("UPDATE push_receiver SET position_millis = ?2 WHERE name = ?1 AND position_millis < ?2")?;
    update.execute(params![receiver.as_str(), to.millis()])?;
    let mut query = connection.prepare_cached(
        "SELECT count(*), coalesce(sum(length(samples)), 0) FROM push_tick \
         WHERE millis > (SELECT base_millis FROM push_identity) \
         AND millis <= (SELECT min(position_millis) FROM push_receiver)",
    )?;
    let (ticks, bytes): (u64, u64) = query.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if ticks >= FOLD_TICKS || bytes >= FOLD_BYTES { fold(connection) } else { Ok(()) }
}

/// Returns the time up to which every receiver has answered; `None` without receivers.
fn oldest_position(connection: &Connection) -> rusqlite::Result<Option<TickTime>> {
    let mut query = connection.prepare_cached("SELECT min(position_millis) FROM push_receiver")?;
    query.query_row([], |row| Ok(row.get::<_, Option<i64>>(0)?.map(TickTime::from_millis)))
}

/// Folds the ticks that every receiver has behind it into the newest of them, which is the base then.
fn fold(connection: &Connection) -> rusqlite::Result<()> {
    let Some(oldest) = oldest_position(connection)? else { return Ok(()) };
    let mut query =
        connection.prepare_cached("SELECT millis, samples FROM push_tick WHERE millis <= ? ORDER BY millis")?;
    let mut folded: Option<Tick> = None;
    for tick in query.query_map([oldest.millis()], tick)? {
        let mut tick = tick?;
        if let Some(earlier) = folded {
            tick.values = samples::merge(&earlier.values, &tick.values);
        }
        folded = Some(tick);
    }
    match folded {
        Some(Tick { time, values }) if time != base(connection)? => put_base(connection, time, values),
        Some(_) | None => Ok(()),
    }
}

/// What is remembered from one call of [`thin`] to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Thinning {
    /// Where the pass over the oldest half of the queue has got to.
    pass: TickTime,
    /// The size of the queue, unless it has shrunk since; `None` if it is not known.
    bytes_at_most: Option<u64>,
}

impl Default for Thinning {
    fn default() -> Self {
        Self { pass: TickTime::NEVER, bytes_at_most: None }
    }
}

/// Merges ticks until no more than `bytes_max` are queued, or a single tick: every second tick of the oldest half into its
/// successor, pass after pass. A pass continues from call to call, so that no part of the queue is thinned more often than
/// others. `appended` bytes were queued since the last call. Returns how many ticks were merged.
pub(super) fn thin(
    connection: &Connection,
    bytes_max: u64,
    appended: u64,
    Thinning { pass, bytes_at_most }: &mut Thinning,
) -> rusqlite::Result<u64> {
    *bytes_at_most = bytes_at_most.map(|bytes| bytes + appended);
    if bytes_at_most.is_some_and(|bytes| bytes <= bytes_max) {
        return Ok(0);
    }
    // What is answered takes no room of what is not.
    fold(connection)?;
    let base = base(connection)?;
    let mut size = size_behind(connection, base)?;
    *pass = base.max(*pass);
    let mut thinned = 0;
    let mut pair = connection.prepare_cached(
        "SELECT millis, samples, length(samples) FROM push_tick WHERE millis > ? ORDER BY millis LIMIT 2",
    )?;
    while size.bytes > bytes_max && size.ticks >= 2 {
        let mut end = connection
            .prepare_cached("SELECT millis FROM push_tick WHERE millis > ? ORDER BY millis LIMIT 1 OFFSET ?")?;
        let end: i64 = end.query_row(params![base.millis(), size.ticks / 2], |row| row.get(0))?;
        while size.bytes > bytes_max {
            let ticks = pair.query_map([pass.millis()], |row| Ok((tick(row)?, row.get::<_, u64>(2)?)))?;
            let ticks = ticks.collect::<Result<Vec<_>, _>>()?;
            let [(earlier, earlier_bytes), (later, later_bytes)] = &ticks[..] else { break };
            if earlier.time.millis() >= end {
                break;
            }
            let samples = samples::encode(&samples::merge(&earlier.values, &later.values));
            size.bytes = size.bytes + samples.len() as u64 - earlier_bytes - later_bytes - TICK_BYTES;
            size.ticks -= 1;
            let mut delete = connection.prepare_cached("DELETE FROM push_tick WHERE millis = ?")?;
            delete.execute([earlier.time.millis()])?;
            let mut update = connection.prepare_cached("UPDATE push_tick SET samples = ? WHERE millis = ?")?;
            update.execute(params![samples, later.time.millis()])?;
            *pass = later.time;
            thinned += 1;
        }
        if size.bytes > bytes_max {
            *pass = base;
        }
    }
    *bytes_at_most = Some(size.bytes);
    Ok(thinned)
}
