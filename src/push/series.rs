//! The terms of the queue.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use super::queue::QueueSize;

/// A series' number in the queue. Numbers are given in order, from 0, and never again while the queue lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesId(u32);

impl SeriesId {
    /// The first number.
    pub const FIRST: Self = Self(0);

    /// Returns the number at `index` of the catalog.
    pub fn at(index: usize) -> Self {
        Self(u32::try_from(index).expect("fewer series than 2^32: each has a row in memory"))
    }

    /// Returns the place in the catalog.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The time of a tick, in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TickTime(i64);

impl TickTime {
    /// Before every tick: the position of a receiver that has answered for nothing.
    pub const NEVER: Self = Self(0);

    /// The time so many milliseconds after the Unix epoch.
    pub fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Returns milliseconds since the Unix epoch.
    pub fn millis(self) -> i64 {
        self.0
    }
}

/// How often ticks have disappeared from the queue while the process runs: because the clock was set back behind them, or
/// because it was emptied. What a sender has read before is not what is queued now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Generation(u64);

impl Generation {
    pub(super) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A place in the queue of a generation: behind the tick at this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Of which ticks it is a place.
    pub generation: Generation,
    /// The time of the last tick before it; [`TickTime::NEVER`] before every tick.
    pub time: TickTime,
}

impl Position {
    /// Returns the place behind the tick at `time` of the same generation.
    pub fn at(self, time: TickTime) -> Self {
        Self { time, ..self }
    }
}

/// Prometheus' stale marker: a NaN of its own (`model/value/value.go`, `StaleNaN`).
pub const STALE: f64 = f64::from_bits(0x7ff0_0000_0000_0002);

/// Returns whether `value` is [`STALE`]. NaNs are not equal to themselves, and other NaNs are ordinary values.
pub fn is_stale(value: f64) -> bool {
    value.to_bits() == STALE.to_bits()
}

/// Whether the value of a series only increases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SeriesKind {
    /// Counters, and the samples of histograms and summaries that count.
    Counter,
    /// Everything else.
    Gauge,
}

/// Which metrics a series is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// The five families.
    Families,
    /// The bridge's own metrics.
    Bridge,
}

/// Labels with their values, sorted by name.
pub type Labels = Box<[(Arc<str>, Arc<str>)]>;

/// Name and labels of a series, without those that are configured for a receiver.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesName {
    /// Name of the metric, with the suffix of the sample.
    pub metric: Arc<str>,
    /// Sorted by name.
    pub labels: Labels,
}

/// One copy of each text: most series share theirs.
#[derive(Debug, Default)]
pub(super) struct Texts(HashSet<Arc<str>>);

impl Texts {
    /// Returns the one copy of `text`.
    pub(super) fn shared(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return Arc::clone(known);
        }
        let text: Arc<str> = text.into();
        self.0.insert(Arc::clone(&text));
        text
    }
}

/// A series of the catalog.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Name and labels.
    pub name: SeriesName,
    /// Whether its value only increases.
    pub kind: SeriesKind,
    /// Which metrics it is of.
    pub origin: Origin,
    /// When its value was 0, if it began to count while it was observed and its first sample was not 0: one tick before that
    /// sample.
    pub zero_at: Option<TickTime>,
}

/// What the registry gathered: a sample beside those of the ledger's skills.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnSample {
    /// Name and labels. The same allocation as that of an earlier sample means the same series.
    pub name: Arc<SeriesName>,
    /// Whether its value only increases.
    pub kind: SeriesKind,
    /// Its value.
    pub value: f64,
}

/// The values that changed at a time.
#[derive(Debug, Clone)]
pub struct Tick {
    /// The time of every sample.
    pub time: TickTime,
    /// By ascending series; [`STALE`] for a series that vanished.
    pub values: Vec<(SeriesId, f64)>,
}

/// Which tick is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TickKind {
    /// One of the grid.
    Regular,
    /// The last one of this process: gauges become [`STALE`].
    Final,
}

/// What a receiver has not answered for.
#[derive(Debug, Clone)]
pub struct Backlog {
    /// Oldest first.
    pub ticks: Vec<Tick>,
    /// The ticks behind these.
    pub remaining: QueueSize,
    /// These ticks and those behind them.
    pub size: QueueSize,
}

/// A receiver, as the label `receiver` names it.
///
/// ```
/// use session_buddy_bridge::settings::ReceiverName;
///
/// assert_eq!(ReceiverName::new("lab").as_str(), "lab");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReceiverName(Arc<str>);

impl ReceiverName {
    /// The receiver of this name.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ReceiverName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
