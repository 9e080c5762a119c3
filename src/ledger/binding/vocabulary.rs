//! What goes in and out of [`super::Sources`]: entries and snapshots in, outcomes and events out.

use std::sync::Arc;
use std::time::Duration;

use crate::protocol::{AnomalyEntry, Rejection};

use crate::ledger::continuity::{Continuity, Doubt, Room};
use crate::ledger::dirty::Persistence;
use crate::ledger::evidence::Listings;
use crate::ledger::limits::Limits;
use crate::ledger::server_time::Stamp;
use crate::ledger::slots::{FeedSlot, SourceId};

/// One subscription as it is configured.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Entry {
    /// Its name, or what stands for one.
    pub name: Box<str>,
    /// Where it connects to.
    pub address: Box<str>,
    /// The one skill that is subscribed to; `None` for all.
    pub filter: Option<Box<str>>,
}

/// What a source carries to count with.
pub trait Counts: Sized {
    /// What a source carries that begins.
    fn new(persistence: Persistence) -> Self;
    /// Bits of evidence that a list of anomalies is of this source.
    fn anomaly_bits(&self, anomalies: &[Result<AnomalyEntry<'_>, Rejection>]) -> f64;
    /// Whether rows of its database move the counters, or are about to: then no snapshot does.
    fn is_read(&self) -> bool;
    /// Which feed moved the counters last has to be persisted.
    fn mark_changed(&mut self);
    /// The states before damages have to be persisted.
    fn mark_damages_changed(&mut self);
    /// The rows of its database are about to be read.
    fn expect_rows(&mut self);
    /// Adds what `younger` carries, which turned out to be the same source, within `limits`. Returns the skills that did not
    /// fit and are forgotten.
    fn join(&mut self, younger: Self, limits: &Limits) -> Vec<Arc<str>>;
    /// What a source of its own carries that has diverged from this one.
    fn fork(&self) -> Self;
}

/// A snapshot as evidence.
#[derive(Debug, Clone)]
pub struct Observation<'a> {
    /// When it arrived.
    pub now: Duration,
    /// The server's timestamp; `None` if it sends none.
    pub stamp: Option<Stamp>,
    /// What it lists of the skills that the feed is subscribed to.
    pub listings: Arc<Listings>,
    /// What the list proves about the skills that it does not name.
    pub room: Room,
    /// The anomalies that it lists.
    pub anomalies: &'a [Result<AnomalyEntry<'a>, Rejection>],
}

impl Observation<'static> {
    /// What a database holds at the time `now`.
    pub fn of_database(held: Listings, room: Room, now: Duration) -> Self {
        Self { now, stamp: None, listings: Arc::new(held), room, anomalies: &[] }
    }
}

/// What became of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing of it is counted, until it is known whose it is.
    Pending,
    /// Another feed moves the counters of this source.
    Standby {
        /// The source.
        source: SourceId,
        /// Whether both list the same database, so that anomalies which only this one lists count.
        agrees: bool,
    },
    /// It is behind what is remembered of the source that it takes over: nothing moves.
    Behind {
        /// The source.
        source: SourceId,
    },
    /// The rows of the source's database move the counters: the snapshot is to be compared with them.
    Read {
        /// The source.
        source: SourceId,
    },
    /// The steps of each skill count.
    Counted {
        /// The source.
        source: SourceId,
        /// What the snapshot was to it.
        continuity: Continuity,
        /// Whether the source began with it, and whether that was observed: a database that took the place of another.
        beginning: Option<Beginning>,
    },
}

/// How a source began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// What it holds had happened before.
    History,
    /// It took the place of another database while that was observed: what it holds happened since.
    Observed,
}

/// What happened to sources.
#[derive(Debug, Clone, PartialEq)]
pub enum SourceEvent {
    /// A feed was bound to a source.
    Bound {
        /// The feed.
        feed: FeedSlot,
        /// The source.
        source: SourceId,
    },
    /// A feed was bound to a source, perhaps to the one that it was bound to before.
    Settled {
        /// The feed.
        feed: FeedSlot,
        /// The source.
        source: SourceId,
    },
    /// Two feeds turned out to be of one server.
    OneServer {
        /// One of them.
        feed: FeedSlot,
        /// The other one.
        other: FeedSlot,
    },
    /// The feed lists another database than before. It is bound again.
    Another {
        /// The feed.
        feed: FeedSlot,
        /// The skills that show it, with the remembered total and the present one.
        fell: Vec<(Arc<str>, u64, u64)>,
    },
    /// The source came back with less, or with other numbers.
    Damaged {
        /// The feed that lists it.
        feed: FeedSlot,
        /// The skills that fell, with the remembered total and the present one.
        fell: Vec<(Arc<str>, u64, u64)>,
    },
    /// The source is again as it was before a damage.
    Returned {
        /// The feed that lists it.
        feed: FeedSlot,
    },
    /// Two sources turned out to be one.
    Joined {
        /// The feed that showed it.
        feed: FeedSlot,
        /// The one that goes on.
        older: SourceId,
        /// The one that does not.
        younger: SourceId,
        /// Invocations that both had counted.
        counted_twice: u64,
    },
    /// A feed on standby turned out to list another database, which diverged from the common one.
    Forked {
        /// The feed.
        feed: FeedSlot,
        /// The common source.
        from: SourceId,
        /// Its own.
        into: SourceId,
    },
    /// A doubt was settled by counting less.
    Undecided {
        /// The feed.
        feed: FeedSlot,
        /// What was in doubt.
        doubt: Doubt,
    },
    /// A source without a feed was forgotten; its counts stay.
    Forgotten {
        /// The source.
        source: SourceId,
    },
}
