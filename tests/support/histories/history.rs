//! One history: drawn from a seed, then played to whatever counts.

use super::database::Style;
use super::operations::{self, Operation};
use super::verdict::Counted;
use super::world::{Databases, Entry, Event, FeedKey, Frame, Pace, Streamed, World, Written};

/// Which histories are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Configurations change and databases do not, at the pace that people have.
    CalmConfiguration,
    /// The same, with an invocation or more in each round.
    HardConfiguration,
    /// Databases change and configurations do not.
    CalmMaintenance,
    /// Everything.
    CalmAll,
    /// Everything, with an invocation or more in each round.
    HardAll,
}

impl Class {
    pub const ALL: [Self; 5] =
        [Self::CalmConfiguration, Self::HardConfiguration, Self::CalmMaintenance, Self::CalmAll, Self::HardAll];

    pub fn name(self) -> &'static str {
        match self {
            Self::CalmConfiguration => "calm-configuration",
            Self::HardConfiguration => "hard-configuration",
            Self::CalmMaintenance => "calm-maintenance",
            Self::CalmAll => "calm-all",
            Self::HardAll => "hard-all",
        }
    }

    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.name() == name)
    }

    fn pace(self) -> Pace {
        match self {
            Self::HardConfiguration | Self::HardAll => Pace::Hard,
            Self::CalmConfiguration | Self::CalmMaintenance | Self::CalmAll => Pace::Calm,
        }
    }

    fn operations(self) -> Vec<Operation> {
        let among = |names: &'static [&'static str]| {
            operations::ALL.iter().filter(|operation| names.contains(&operation.name)).copied().collect()
        };
        match self {
            Self::CalmConfiguration | Self::HardConfiguration => among(operations::OF_CONFIGURATION),
            Self::CalmMaintenance => among(operations::OF_MAINTENANCE),
            Self::CalmAll | Self::HardAll => operations::ALL.to_vec(),
        }
    }
}

/// Operations of one history.
const OPERATIONS: usize = 12;

/// A history that was drawn.
pub struct History {
    /// With seconds since the start, never falling.
    pub events: Vec<(i64, Event)>,
    /// Whether a bridge can know everything that it has to count: each database that was read was that of the server, and had,
    /// whenever it changed, still a row that was counted; and each broadcast of which no database was read was of a source
    /// that numbers and timestamps show without any doubt.
    pub is_beyond_doubt: bool,
}

impl History {
    pub fn draw(class: Class, seed: u64) -> Self {
        Self::draw_with(class, Databases::None, seed)
    }

    /// The same history, with databases that are read beside feeds.
    pub fn draw_with(class: Class, databases: Databases, seed: u64) -> Self {
        let operations = class.operations();
        let mut world = World::new(seed, Style::Mix, class.pace());
        world.read_databases(databases);
        let path = world.new_file(None);
        let mut server = world.new_server(&path, 0);
        let mut feeds = vec![FeedKey::unnamed(&server.urls[0].0)];
        if world.random.happens(0.3) {
            server.urls.push(("ws://two".to_owned(), true));
            feeds.push(FeedKey::unnamed("ws://two"));
        }
        world.servers.push(server);
        world.configure(feeds);
        world.run(4);
        world.record_truth();
        for _ in 0..OPERATIONS {
            let operation = operations[world.random.weighted(operations.iter().map(|operation| operation.weight))];
            let before = world.events.len();
            world.record(Event::Operation(operation.name));
            if !(operation.perform)(&mut world) {
                assert_eq!(world.events.len(), before + 1, "{} does not apply and changed something", operation.name);
                world.events.pop();
                continue;
            }
            let rounds = world.random.choice(&[1, 5, 9, 9]);
            world.run(rounds);
            world.record_truth();
        }
        world.record(Event::Operation("end"));
        world.run(6);
        world.files.values_mut().for_each(|database| database.rate = 0.0);
        world.run(8);
        world.record_truth();
        world.into_history()
    }

    /// Seconds from its start to its end.
    pub fn seconds(&self) -> i64 {
        self.events.last().map_or(0, |(at_seconds, _)| *at_seconds)
    }
}

/// What counts. It starts with an empty configuration and no past.
pub trait Product {
    /// The bridge runs with these feeds from now on.
    fn configure(&mut self, at_seconds: i64, entries: &[Entry]);
    fn open(&mut self, at_seconds: i64, feed: &FeedKey);
    fn close(&mut self, at_seconds: i64, feed: &FeedKey);
    fn receive(&mut self, at_seconds: i64, feed: &FeedKey, frame: &Frame);
    /// A streamed invocation.
    fn stream(&mut self, at_seconds: i64, feed: &FeedKey, streamed: &Streamed);
    fn tick(&mut self, at_seconds: i64);
    /// It ends in order.
    fn stop(&mut self, at_seconds: i64);
    /// It ends at once: what was not persisted is lost.
    fn kill(&mut self, at_seconds: i64);
    fn start(&mut self, at_seconds: i64, entries: &[Entry]);
    /// A database that is read beside some feed has changed. It is read before the next frame of that feed.
    fn write(&mut self, written: &Written);
    /// What it exposes.
    fn counted(&mut self, at_seconds: i64) -> Counted;
}

/// Plays `history` to `product`. `look` is called after each event with what happened.
pub fn play<P: Product>(history: &History, product: &mut P, mut look: impl FnMut(i64, &Event, &mut P)) {
    for (at_seconds, event) in &history.events {
        match event {
            Event::Configure(entries) => product.configure(*at_seconds, entries),
            Event::Open(feed) => product.open(*at_seconds, feed),
            Event::Close(feed) => product.close(*at_seconds, feed),
            Event::Receive(feed, frame) => product.receive(*at_seconds, feed, frame),
            Event::Stream(feed, streamed) => product.stream(*at_seconds, feed, streamed),
            Event::Tick => product.tick(*at_seconds),
            Event::Stop => product.stop(*at_seconds),
            Event::Kill => product.kill(*at_seconds),
            Event::Start(entries) => product.start(*at_seconds, entries),
            Event::Write(written) => product.write(written),
            Event::Operation(_) | Event::Truth(_) => {}
        }
        look(*at_seconds, event, product);
    }
}
