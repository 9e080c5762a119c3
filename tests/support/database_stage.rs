//! A simulated server that has a database, and the program that reads its feed and its database.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::eventually;
use super::http_client;
use super::model::{Metrics, SECOND, metrics_update};
use super::program::Program;
use super::scrape::Scrape;
use super::scripted_feed::{Gate, ScriptedFeed, Step};

pub const RELOADED: &str = "configuration reloaded";

pub struct DatabaseStage {
    folder: tempfile::TempDir,
    script: Arc<Mutex<Script>>,
    feed: ScriptedFeed,
}

/// What the feed sends, ten times a second.
#[derive(Default)]
struct Script {
    /// Each once, before anything else.
    frames: VecDeque<String>,
    /// By skill, completed invocations of half a second each; `None` where the feed sends nothing of interest.
    listed: Option<Vec<(&'static str, u64)>>,
    round: i64,
}

impl Script {
    fn next(&mut self) -> String {
        self.round += 1;
        if let Some(frame) = self.frames.pop_front() {
            return frame;
        }
        let Some(listed) = &self.listed else { return r#"{"type": "pong"}"#.to_owned() };
        let skill = |(name, total): &(&str, u64)| Metrics {
            total: *total,
            completed: *total,
            duration_seconds: *total as f64 / 2.0,
            ..Metrics::none(name)
        };
        let skills: Vec<_> = listed.iter().filter(|(_, total)| *total > 0).map(skill).collect();
        metrics_update(self.round * SECOND, &skills, &[])
    }
}

impl DatabaseStage {
    /// The feed sends no snapshot before [`DatabaseStage::list`].
    pub fn new() -> Self {
        let script = Arc::new(Mutex::new(Script::default()));
        let sent = script.clone();
        let round = Box::new(move || sent.lock().unwrap().next());
        let round = Step::Rounds(Gate::default(), Duration::from_millis(100), round);
        Self { folder: tempfile::tempdir().unwrap(), script, feed: ScriptedFeed::start(vec![vec![round]]) }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// From now on the feed lists these skills, each with so many completed invocations of half a second.
    pub fn list(&self, listed: &[(&'static str, u64)]) {
        self.script.lock().unwrap().listed = Some(listed.to_vec());
    }

    /// From now on the feed is live and lists nothing.
    pub fn list_nothing(&self) {
        self.script.lock().unwrap().listed = None;
    }

    /// The feed sends this next.
    pub fn send(&self, frame: String) {
        self.script.lock().unwrap().frames.push_back(frame);
    }

    /// Feeds by name and what else is configured of them.
    pub fn configure(&self, feeds: &[(&str, String)]) -> String {
        let entry =
            |(name, more): &(&str, String)| format!("  - {{name: {name}, url: \"{}\"{more}}}\n", self.feed.url());
        let file = self.path("bridge.yml");
        fs::write(&file, format!("feeds:\n{}", feeds.iter().map(entry).collect::<String>())).unwrap();
        file.display().to_string()
    }

    pub fn start(&self, feeds: &[(&str, String)]) -> Program {
        let file = self.configure(feeds);
        let state = self.path("state.db").display().to_string();
        Program::start(["--config.file", &file, "--state.path", &state, "--web.listen-address", "127.0.0.1:0"])
    }
}

/// The database of a feed, in the configuration file.
pub fn skills_db(path: &Path) -> String {
    format!(", skills_db: \"{}\"", path.display())
}

pub fn scrape(program: &mut Program) -> Scrape {
    Scrape::parse(http_client::get(program.address(), "/metrics").text()).unwrap()
}

pub fn invocations(scrape: &Scrape) -> f64 {
    scrape.sum("skill_invocations_total")
}

/// Waits until a value of the scrape is as expected.
pub fn until(program: &mut Program, what: &str, expected: f64, value: impl Fn(&Scrape) -> f64) {
    eventually(what, || {
        let seen = value(&scrape(program));
        (seen == expected).then_some(()).ok_or(format!("{seen} instead of {expected}"))
    });
}

/// Waits until so many more messages of the feeds have been received.
pub fn after_messages(program: &mut Program, messages: f64) {
    let received = |scrape: &Scrape| scrape.sum("session_buddy_bridge_feed_messages_total");
    let before = received(&scrape(program));
    eventually("messages", || {
        let more = received(&scrape(program)) - before;
        (more >= messages).then_some(()).ok_or(format!("{more} of {messages}"))
    });
}
