//! The bridge as a program, with a configuration file that changes while it runs, while it is stopped and when it is
//! killed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::PATIENCE;
use crate::support::exposed::Exposed;
use crate::support::http_client;
use crate::support::program::Program;
use crate::support::scrape::Scrape;

/// Rounds that every live feed delivers before a count is taken for settled.
const SETTLED_AFTER: u64 = 8;

/// Longer than any wait of a feed that is bound, or of a skill's counts that another feed takes over.
const COUNTED_WITHIN: Duration = Duration::from_secs(15);

/// One entry of the configuration file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Entry {
    pub url: String,
    pub name: Option<String>,
    pub skill: Option<String>,
    pub skills_db: Option<PathBuf>,
}

impl Entry {
    pub fn at(url: impl Into<String>) -> Self {
        Self { url: url.into(), ..Self::default() }
    }

    pub fn named(self, name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..self }
    }

    pub fn only(self, skill: &str) -> Self {
        Self { skill: Some(skill.to_owned()), ..self }
    }

    pub fn with_database(self, path: impl AsRef<Path>) -> Self {
        Self { skills_db: Some(path.as_ref().to_owned()), ..self }
    }
}

/// A bridge, its state and its configuration.
pub struct Stage {
    folder: tempfile::TempDir,
    program: Option<Program>,
    entries: Vec<Entry>,
}

impl Stage {
    /// Not started yet.
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder"), program: None, entries: Vec::new() }
    }

    /// A path beside the state.
    pub fn path(&self, file_name: &str) -> PathBuf {
        self.folder.path().join(file_name)
    }

    /// Writes the configuration, to be read at the next start.
    pub fn write(&mut self, entries: &[Entry]) {
        let mut text = String::from("feeds:\n");
        for Entry { url, name, skill, skills_db } in entries {
            writeln!(text, "  - url: \"{url}\"").expect("a string takes everything");
            let fields = [
                ("name", name.clone()),
                ("skill", skill.clone()),
                ("skills_db", skills_db.as_ref().map(|path| path.display().to_string())),
            ];
            for (field, value) in fields {
                if let Some(value) = value {
                    writeln!(text, "    {field}: \"{value}\"").expect("a string takes everything");
                }
            }
        }
        fs::write(self.path("bridge.yml"), text).expect("a configuration");
        self.entries = entries.to_vec();
    }

    pub fn start(&mut self) {
        let (file, state) = (self.path("bridge.yml"), self.path("state.db"));
        let (file, state) = (file.display().to_string(), state.display().to_string());
        let arguments = ["--config.file", &file, "--state.path", &state, "--web.listen-address", "127.0.0.1:0"];
        let mut program = Program::start(arguments);
        program.address();
        self.program = Some(program);
    }

    /// Writes the configuration and starts.
    pub fn start_with(&mut self, entries: &[Entry]) {
        self.write(entries);
        self.start();
    }

    /// Writes the configuration and has it read by SIGHUP; returns when it has been.
    pub fn reload(&mut self, entries: &[Entry]) {
        self.write(entries);
        let program = self.program.as_mut().expect("it runs");
        let reloads = |log: &str| log.matches("configuration reloaded").count();
        let before = reloads(program.stderr());
        program.signal(Signal::HUP);
        program.until_stderr("the configuration to be reloaded", |log| reloads(log) > before);
    }

    /// Ends it by SIGTERM.
    pub fn stop(&mut self) {
        let program = self.program.take().expect("it runs");
        program.signal(Signal::TERM);
        let ended = program.end();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    }

    /// Ends it by SIGKILL.
    pub fn kill(&mut self) {
        self.program = None;
    }

    /// Stops it, and starts it with another configuration.
    pub fn restart_with(&mut self, entries: &[Entry]) {
        self.stop();
        self.start_with(entries);
    }

    pub fn scrape(&mut self) -> Scrape {
        let address = self.program.as_mut().expect("it runs").address();
        Scrape::parse(http_client::get(address, "/metrics").text()).unwrap_or_else(|why| panic!("{why}"))
    }

    pub fn log(&mut self) -> String {
        self.program.as_mut().expect("it runs").stderr().to_owned()
    }

    /// Waits until every feed of the configuration but so many is live, and each live one has delivered some more rounds
    /// since. Returns the last scrape.
    pub async fn settled_without(&mut self, dead: usize) -> Scrape {
        let deadline = Instant::now() + PATIENCE;
        let mut begun: Option<BTreeMap<String, u64>> = None;
        loop {
            let scrape = self.scrape();
            let live: Vec<_> = scrape
                .series("session_buddy_bridge_feed_up")
                .into_iter()
                .filter(|(_, up)| *up == 1.0)
                .map(|(labels, _)| labels["feed"].clone())
                .collect();
            if live.len() + dead >= self.entries.len() {
                let rounds = rounds(&scrape);
                let begun = begun.get_or_insert_with(|| rounds.clone());
                let since =
                    |feed: &String| rounds.get(feed).copied().unwrap_or(0) - begun.get(feed).copied().unwrap_or(0);
                if live.iter().all(|feed| since(feed) >= SETTLED_AFTER) {
                    return scrape;
                }
            } else {
                begun = None;
            }
            if Instant::now() > deadline {
                panic!("not settled: {live:?} live of {:?}\n{}", self.entries.clone(), self.log());
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// [`Stage::settled_without`] with every feed live.
    pub async fn settled(&mut self) -> Scrape {
        self.settled_without(0).await
    }

    /// Asserts that the counts come to be these, and are still these some rounds later. Counters never fall, so that what is
    /// counted twice is found here or at the next look.
    pub async fn counts(&mut self, what: &str, expected: &Exposed) {
        self.counts_without(what, expected, 0).await;
    }

    /// The same where so many feeds are not live.
    pub async fn counts_without(&mut self, what: &str, expected: &Exposed, dead: usize) {
        let deadline = Instant::now() + COUNTED_WITHIN;
        loop {
            let found = Exposed::of(&self.settled_without(dead).await);
            if found == *expected {
                break;
            }
            if found.exceeds(expected) || Instant::now() > deadline {
                panic!("{what}: expected {expected:?}\n   found {found:?}\n{}", self.log());
            }
        }
        let found = Exposed::of(&self.settled_without(dead).await);
        assert_eq!(found, *expected, "{what}, some rounds later");
    }
}

fn rounds(scrape: &Scrape) -> BTreeMap<String, u64> {
    let messages = scrape.series("session_buddy_bridge_feed_messages_total");
    messages
        .into_iter()
        .filter(|(labels, _)| labels["type"] == "metrics_update")
        .map(|(labels, count)| (labels["feed"].clone(), count as u64))
        .collect()
}
