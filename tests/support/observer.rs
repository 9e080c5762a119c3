//! A ledger that is told frames, and what a scrape of it would show.

use std::time::Duration;

use session_buddy_bridge::internals::ledger::{ConnectionId, FeedId, FeedSpec, Ledger, Limits, Notice, Now};
use session_buddy_bridge::internals::protocol::{self, RejectionReason};

use session_buddy_bridge::internals::store::Store;

use super::memory_state::MemoryState;
use super::model::START_MICROS;
use super::shown::Shown;

/// Both clocks, `at_micros` after the start of the history.
pub fn moment(at_micros: i64) -> Now {
    let elapsed = Duration::from_micros(at_micros.try_into().expect("no history goes back before its start"));
    Now { wall_micros: START_MICROS + at_micros, elapsed }
}

/// A ledger whose changes are taken after every step, so that none can fall unseen.
pub struct Observer {
    ledger: Ledger,
    feeds: Vec<FeedId>,
    connections: Vec<Option<ConnectionId>>,
    pub notices: Vec<Notice>,
    pub shown: Shown,
    /// Where every step is persisted, if anywhere.
    store: Option<Store>,
}

impl Observer {
    /// Feeds by identity and skill.
    pub fn of(feeds: &[(&str, Option<&str>)]) -> Self {
        Self::with(Ledger::new(Limits::default()), None, feeds)
    }

    /// The same, of a bridge that goes on from `state` and persists every step there.
    pub fn on(state: &MemoryState, feeds: &[(&str, Option<&str>)]) -> Self {
        let (store, whole) = state.open();
        let ledger = Ledger::restore(Limits::default(), whole, moment(0)).expect("what was persisted fits");
        Self::with(ledger, Some(store), feeds)
    }

    fn with(mut ledger: Ledger, store: Option<Store>, feeds: &[(&str, Option<&str>)]) -> Self {
        let add = |(identity, skill): &(&str, Option<&str>)| {
            ledger.add_feed(FeedSpec {
                identity: (*identity).to_owned(),
                skill: skill.map(str::to_owned),
                ..FeedSpec::default()
            })
        };
        let feeds: Vec<_> = feeds.iter().map(add).collect();
        let connections = vec![None; feeds.len()];
        Self { ledger, feeds, connections, notices: Vec::new(), shown: Shown::default(), store }
    }

    /// One feed of all skills, connected at the start.
    pub fn connected() -> Self {
        let mut observer = Self::of(&[("feed", None)]);
        observer.open(0, 0);
        observer
    }

    /// The entry of a feed gets another name, in one change of the configuration; it is not connected.
    pub fn rename(&mut self, feed: usize, address: &str, identity: &str, at_micros: i64) {
        self.connections[feed] = None;
        self.ledger.begin_configuration();
        self.ledger.remove_feed(self.feeds[feed], moment(at_micros));
        let (identity, address) = (identity.to_owned(), Some(address.to_owned()));
        self.feeds[feed] = self.ledger.add_feed(FeedSpec { identity, address, skill: None });
        self.ledger.end_configuration(moment(at_micros));
        self.look(at_micros);
    }

    pub fn open(&mut self, feed: usize, at_micros: i64) {
        self.connections[feed] = Some(self.ledger.open(self.feeds[feed], moment(at_micros)));
        self.look(at_micros);
    }

    pub fn close(&mut self, feed: usize, at_micros: i64) {
        let connection = self.connections[feed].take().expect("only an open connection closes");
        self.ledger.close(connection, moment(at_micros));
        self.look(at_micros);
    }

    pub fn reopen(&mut self, feed: usize, at_micros: i64) {
        self.close(feed, at_micros);
        self.open(feed, at_micros);
    }

    /// Applies what the frame holds; what cannot be read becomes a notice, as the ledger's own rejections do.
    pub fn hear(&mut self, feed: usize, text: &str, at_micros: i64) {
        let connection = self.connections[feed].expect("only an open connection hears");
        self.hear_on(connection, text, at_micros);
    }

    /// [`Observer::hear`] on a connection that may be an older one.
    pub fn hear_on(&mut self, connection: ConnectionId, text: &str, at_micros: i64) {
        let Self { ledger, notices, .. } = self;
        protocol::read(text, &protocol::Limits::default(), &mut |item| match item {
            Ok(message) => ledger.apply(connection, &message, moment(at_micros), notices),
            Err(rejection) => notices.push(Notice::Rejected(rejection)),
        });
        self.look(at_micros);
    }

    pub fn connection(&self, feed: usize) -> Option<ConnectionId> {
        self.connections[feed]
    }

    pub fn tick(&mut self, at_micros: i64) {
        self.ledger.tick(moment(at_micros), &mut self.notices);
        self.look(at_micros);
    }

    pub fn active_sessions(&self, at_micros: i64) -> u64 {
        self.ledger.active_sessions(moment(at_micros))
    }

    pub fn rejections(&self, reason: RejectionReason) -> usize {
        self.notices.iter().filter(|notice| matches!(notice, Notice::Rejected(it) if it.reason == reason)).count()
    }

    fn look(&mut self, at_micros: i64) {
        let changes = self.ledger.drain(moment(at_micros));
        if let Some(store) = &mut self.store {
            store.commit(&changes).expect("nobody holds up a state in memory");
        }
        self.ledger.acknowledge(changes.sequence);
        self.shown.fold(changes);
    }
}
