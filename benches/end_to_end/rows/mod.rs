//! What is measured.

mod costs;
mod growth;
mod history;
mod ingest;
mod latency;
mod push;
mod scrape;
mod sizes;
mod stall;
mod written;

use std::thread;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::feed::{Feed, Subscriber};
use crate::frames::{Frames, whole_skill};
use crate::program::{Program, free_address};
use crate::report::Report;
use crate::scraper::Scraper;

/// Longer than it takes until 100,000 skills are shown.
const PATIENCE: Duration = Duration::from_secs(120);

type Measurement = fn(&mut Report) -> Outcome<()>;

pub fn measure(report: &mut Report) -> Outcome<()> {
    let rows: [(&str, Measurement); 14] = [
        ("scrape", scrape::measure),
        ("body", scrape::in_memory),
        ("events", ingest::measure),
        ("earlier", ingest::beside_earlier),
        ("latency", latency::measure),
        ("stall", stall::measure),
        ("laptop", stall::laptop),
        ("written", written::measure),
        ("push", push::measure),
        ("sizes", sizes::measure),
        ("costs", costs::measure),
        ("largest", costs::largest_scrape),
        ("report", history::measure),
        ("growth", growth::measure),
    ];
    for (name, row) in rows {
        if report.asks_for(name) {
            row(report)?;
        }
    }
    Ok(())
}

/// What a bridge waits for before it counts.
const EMPTY_SNAPSHOT: &str = r#"{"type": "metrics_update", "data": {"top_skills": [], "anomalies": []}}"#;

/// A bridge that is subscribed, and both of its sides.
pub struct Running {
    pub program: Program,
    pub subscriber: Subscriber,
    pub scraper: Scraper,
}

impl Running {
    /// A bridge, with a state in a new folder if `keeps`.
    pub fn start(keeps: Option<&std::path::Path>) -> Outcome<Self> {
        Self::start_with(keeps, &[])
    }

    /// The same with `more` arguments.
    pub fn start_with(keeps: Option<&std::path::Path>, more: &[String]) -> Outcome<Self> {
        let (feed, address) = (Feed::bind()?, free_address()?);
        let program = Program::bridge_with(&feed.url()?, address, keeps, more)?;
        let subscriber = feed.accept()?;
        let mut scraper = Scraper::new(address);
        scraper.connect()?;
        Ok(Self { program, subscriber, scraper })
    }

    /// The same with all series of so many skills, and a snapshot behind them: a bridge waits for its first.
    pub fn with_skills(skills: usize, keeps: Option<&std::path::Path>) -> Outcome<Self> {
        Self::start(keeps)?.fill(skills)
    }

    /// Sends all series of so many skills, and waits until they are shown.
    pub fn fill(mut self, skills: usize) -> Outcome<Self> {
        let running = &mut self;
        running.subscriber.send(&Frames::of([EMPTY_SNAPSHOT.to_owned()]).bytes)?;
        let texts = (0..skills).flat_map(whole_skill);
        running.subscriber.send(&Frames::of(texts).bytes)?;
        running.subscriber.sync()?;
        running.wait_for_skills(skills)?;
        Ok(self)
    }

    /// Waits until the last of `skills` is shown.
    fn wait_for_skills(&mut self, skills: usize) -> Outcome<()> {
        let last = format!("skill_completion_rate{{skill_name=\"{}\"}}", crate::frames::skill_name(skills - 1));
        let begin = Instant::now();
        while self.scraper.scrape(false)?.value(&last).is_none() {
            if begin.elapsed() > PATIENCE {
                return Err(format!("not shown: {last}").into());
            }
            // A bridge disconnects from a server that does not answer its pings.
            self.subscriber.sync()?;
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}
