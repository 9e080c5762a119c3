//! One configured feed: its connection, its own metrics, and what it has said while it is not known whose it is.

use std::time::Duration;

use crate::protocol::{Event, Snapshot};
use crate::skills_db::FileIdentity;

use super::confirmation::Confirmation;
use super::dirty::{DirtyFlag, Persistence};
use super::series::FeedCounters;
use super::sessions::Sessions;
use super::slots::SourceId;

/// Events of a feed that is not bound yet that are held. Further ones are dropped as late.
pub(super) const HELD_EVENTS_MAX: usize = 1_000;

/// A feed and everything that is known of it alone.
#[derive(Debug, Default)]
pub(super) struct Feed {
    pub counters: FeedCounters,
    /// Whether `counters` changed since they were last exposed, and since they were last persisted.
    pub exposed: DirtyFlag,
    pub persisted: DirtyFlag,
    /// Whether it is subscribed to. A feed that left the configuration leaves the gauges.
    pub is_configured: bool,
    /// Counts connections: what an older one still delivers is discarded.
    pub generation: u64,
    /// Whether its connection delivered a message.
    pub is_live: bool,
    pub opened_at: Option<Duration>,
    /// The same, in microseconds since the Unix epoch.
    pub opened_micros: i64,
    /// The sessions that its server reported to it.
    pub sessions: Sessions,
    /// Whether a snapshot of it was bound to a source, in this process or before.
    pub has_begun: bool,
    /// Whether it was reported to be on standby.
    pub is_on_standby: bool,
    /// The database that is configured for it.
    pub database: Option<FeedDatabase>,
    /// The position of each entry of its latest snapshot in its latest list, see [`super::snapshot::accept`].
    pub positions: Vec<Option<usize>>,
    /// Its latest snapshot, and events, while it is not known whose they are.
    pub held: Option<Box<Snapshot<'static>>>,
    held_events: Vec<Event<'static>>,
}

/// The database beside a feed.
#[derive(Debug, Default)]
pub(super) struct FeedDatabase {
    pub trust: Trust,
    pub confirmation: Confirmation,
    /// What was last open, since when, and when it was last found to be what is there.
    pub file: Option<OpenFile>,
    /// A connection that a list contradicted: once per file, it is opened again.
    pub distrusted: Option<u64>,
    pub search: Search,
    /// Whether it holds more skills than there is room for, which is reported once.
    pub is_truncated: bool,
    /// Whether it does not tell why invocations failed, which is reported once.
    pub lacks_error_types: bool,
}

/// Whether the rows of a database count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Trust {
    /// It is not known yet whether it is that of the feed.
    #[default]
    Awaited,
    /// Its rows are of this source.
    Confirmed(SourceId),
    /// It is that of another feed's source, which reads it.
    ReadByAnother,
    /// The feed lists other numbers.
    Contradicted,
    /// It cannot be read.
    Unreadable,
}

/// A file that a reader has open.
#[derive(Debug, Clone, Copy)]
pub(super) struct OpenFile {
    pub identity: FileIdentity,
    pub since: Duration,
    pub seen_at: Duration,
}

/// A search for the source whose rows a database has. Databases with a common past have rows of several sources: it is the
/// one whose newest row that is still there is newest. Each step needs the facts of another request.
#[derive(Debug, Default)]
pub(super) enum Search {
    /// Begins with the feed's own source.
    #[default]
    Own,
    /// Goes on with these sources, the last one next.
    Others { left: Vec<SourceId>, best: Option<CommonRow> },
    /// It is this source, of which the facts are needed once more.
    Found(SourceId),
    /// It is none.
    Over {
        /// The connection by which it was looked for, and among how many sources.
        connection: u64,
        among: usize,
    },
}

/// The newest row of a database that was read of a source.
#[derive(Debug, Clone, Copy)]
pub(super) struct CommonRow {
    pub source: SourceId,
    /// Its primary key; 0 where only anomalies are left.
    pub key: i64,
}

impl FeedDatabase {
    /// The source that its rows are read into.
    pub fn source(&self) -> Option<SourceId> {
        match self.trust {
            Trust::Confirmed(source) => Some(source),
            Trust::Awaited | Trust::ReadByAnother | Trust::Contradicted | Trust::Unreadable => None,
        }
    }

    /// Notes the file that is open.
    pub fn note_file(&mut self, identity: FileIdentity, now: Duration) {
        match &mut self.file {
            Some(file) if file.identity == identity => file.seen_at = now,
            file => {
                *file = Some(OpenFile { identity, since: now, seen_at: now });
                self.search = Search::Own;
                self.distrusted = None;
            }
        }
    }
}

impl Feed {
    pub fn new(identity: &str, persistence: Persistence) -> Self {
        Self {
            sessions: Sessions::new(persistence),
            counters: FeedCounters { identity: identity.into(), ..FeedCounters::default() },
            exposed: DirtyFlag::NEW,
            persisted: DirtyFlag::NEW,
            ..Self::default()
        }
    }

    /// One that was persisted.
    pub fn restore(
        counters: FeedCounters,
        has_begun: bool,
        held_events: Vec<Event<'static>>,
        sessions: Sessions,
    ) -> Self {
        Self { exposed: DirtyFlag::NEW, counters, has_begun, held_events, sessions, ..Self::default() }
    }

    /// Events that it streamed while it was not known whose they are.
    pub fn held_events(&self) -> &[Event<'static>] {
        &self.held_events
    }

    /// Holds an event until it is known whose it is. Whether there is room for it.
    pub fn hold_event(&mut self, event: &Event<'_>) -> bool {
        let has_room = self.held_events.len() < HELD_EVENTS_MAX;
        if has_room {
            self.held_events.push(event.clone().into_owned());
            self.persisted.mark();
        }
        has_room
    }

    /// Takes the events that were held.
    pub fn release_events(&mut self) -> Vec<Event<'static>> {
        if !self.held_events.is_empty() {
            self.persisted.mark();
        }
        std::mem::take(&mut self.held_events)
    }

    /// Goes on with the sessions that the same server reported to another feed.
    pub fn copy_sessions(&mut self, other: &Sessions) {
        self.sessions.copy_from(other);
        self.persisted.mark();
    }

    /// Forgets what its server reported.
    pub fn forget_sessions(&mut self) {
        self.sessions.clear();
        self.persisted.mark();
    }

    /// Its counters changed.
    pub fn touch(&mut self) {
        self.exposed.mark();
        self.persisted.mark();
    }
}
