//! Two feeds that are one server.

use std::collections::VecDeque;

use crate::protocol::Snapshot;

/// How many of a feed's latest timestamps others are compared with: the snapshots of one round reach its clients within
/// less than that many intervals of each other.
const TIMESTAMPS_KEPT: usize = 16;

/// A longer timestamp is none: it would be kept without need.
const TIMESTAMP_BYTES_MAX: usize = 64;

/// So many timestamps in a row must be shared. One can agree by chance: two servers that send once a second meet in the
/// same microsecond about once in twelve days.
const SHARED_NEEDED: u32 = 2;

/// So many timestamps in a row must differ, while both feeds are heard, before an alias is taken for a server of its own.
const DISTINCT_NEEDED: u32 = 3;

/// What is watched of one feed to tell whether an earlier one is the same server.
///
/// The server gives one timestamp, in microseconds, to all clients of a round. Each snapshot is judged when the next one
/// comes: only then has the other feed surely had the time to receive its copy.
#[derive(Debug, Default)]
pub(super) struct AliasWatch {
    recent: VecDeque<Box<str>>,
    received: u64,
    previous: Option<Box<str>>,
    /// `received` of the suspected feed when this feed's previous snapshot came.
    other_received: u64,
    shared: u32,
    distinct: u32,
    alias_of: Option<usize>,
    /// Whether this process was told of the alias.
    announced: bool,
    /// The very first snapshot, held until it is known whose it is.
    held: Option<Snapshot<'static>>,
}

/// What to do with a snapshot.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// Apply it; before it the one that was held, if any.
    Apply(Option<Box<Snapshot<'static>>>),
    /// Do not apply it: snapshots are cumulative, so a later one tells the same.
    Hold,
    /// The feed has turned out to be the same server as an earlier one: it counts no longer.
    AliasFound(usize),
    /// The feed counts no longer.
    Alias,
    /// The feed has turned out to be a server of its own after all.
    AliasCleared,
}

impl AliasWatch {
    /// The watch of a feed that was known to be an alias, or not to be.
    pub fn restore(alias_of: Option<usize>) -> Self {
        Self { alias_of, ..Self::default() }
    }

    pub fn is_alias(&self) -> bool {
        self.alias_of.is_some()
    }

    pub fn alias_of(&self) -> Option<usize> {
        self.alias_of
    }

    /// The alias is told once in each process: whoever starts one should hear of it.
    fn still_alias(&mut self, rival: usize) -> Verdict {
        if std::mem::replace(&mut self.announced, true) { Verdict::Alias } else { Verdict::AliasFound(rival) }
    }

    /// Judges a snapshot of the feed that `watches[own]` belongs to. `rivals` are the earlier feeds whose skills overlap
    /// with its own; `hold_first` asks to hold its very first snapshot.
    pub fn judge(
        watches: &mut [AliasWatch],
        own: usize,
        rivals: &[usize],
        hold_first: bool,
        snapshot: &Snapshot<'_>,
    ) -> Verdict {
        let Some(timestamp) = snapshot.timestamp.as_deref().filter(|text| text.len() <= TIMESTAMP_BYTES_MAX) else {
            return if watches[own].is_alias() { Verdict::Alias } else { Verdict::Apply(None) };
        };
        let previous = watches[own].previous.replace(timestamp.into());
        let sharer = previous
            .as_ref()
            .and_then(|previous| rivals.iter().copied().find(|&rival| watches[rival].recent.contains(previous)));
        let suspect = sharer.or(watches[own].alias_of).or(rivals.first().copied());
        let suspect_received = suspect.map_or(0, |rival| watches[rival].received);
        let watch = &mut watches[own];
        let suspect_was_heard = std::mem::replace(&mut watch.other_received, suspect_received) != suspect_received;
        if watch.recent.back().is_none_or(|latest| **latest != *timestamp) {
            watch.recent.push_back(timestamp.into());
            watch.received += 1;
            if watch.recent.len() > TIMESTAMPS_KEPT {
                watch.recent.pop_front();
            }
        }
        match (sharer, watch.alias_of) {
            (Some(_), Some(rival)) => {
                watch.distinct = 0;
                watch.still_alias(rival)
            }
            (Some(rival), None) => {
                watch.shared += 1;
                if watch.shared < SHARED_NEEDED {
                    return Verdict::Hold;
                }
                watch.alias_of = Some(rival);
                watch.distinct = 0;
                watch.held = None;
                watch.still_alias(rival)
            }
            (None, Some(rival)) => {
                watch.distinct += u32::from(suspect_was_heard && previous.is_some());
                if watch.distinct < DISTINCT_NEEDED {
                    return watch.still_alias(rival);
                }
                watch.announced = false;
                watch.alias_of = None;
                watch.shared = 0;
                Verdict::AliasCleared
            }
            (None, None) => {
                watch.shared = 0;
                if previous.is_none() && hold_first && !rivals.is_empty() {
                    watch.held = Some(snapshot.clone().into_owned());
                    return Verdict::Hold;
                }
                Verdict::Apply(watch.held.take().map(Box::new))
            }
        }
    }
}
