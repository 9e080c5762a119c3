//! `state`: the persistent state, for people.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::{Command, CommandError, output};
use crate::ledger::{Ledger, Limits, Moment, SourceId, Whole};
use crate::settings::{Environment, SettingsError, state_path};
use crate::store::Store;

#[derive(Debug, Subcommand)]
pub(super) enum StateFlags {
    /// Print the state file, feed by feed; a running bridge is not disturbed
    Show(StatePathFlags),
    /// Delete what is remembered of a feed, so that all its totals are counted again once it is connected; the bridge must
    /// not run
    Forget(ForgetFlags),
}

#[derive(Debug, Args)]
#[command(next_help_heading = "State")]
pub(super) struct StatePathFlags {
    /// State file [default: session-buddy-bridge/state.db in $XDG_STATE_HOME or ~/.local/state]
    #[arg(long = "state.path", value_name = "FILE")]
    pub path: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct ForgetFlags {
    /// The feed's identity, as in `state show` and the label `feed`
    pub feed: String,
    #[command(flatten)]
    pub state: StatePathFlags,
}

/// Prints the persistent state, or deletes a feed from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The state file.
    pub path: PathBuf,
    /// What to do with it.
    pub action: Action,
}

/// What to do with the state file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Print it, feed by feed.
    Show,
    /// Delete what is remembered of the feed with this identity.
    Forget(String),
}

impl State {
    pub(super) fn new(flags: StateFlags, environment: Environment<'_>) -> Result<Self, SettingsError> {
        let (state, action) = match flags {
            StateFlags::Show(state) => (state, Action::Show),
            StateFlags::Forget(ForgetFlags { feed, state }) => (state, Action::Forget(feed)),
        };
        let path = state.path.or_else(|| state_path::default(environment)).ok_or(SettingsError::NoStatePath)?;
        Ok(Self { path, action })
    }
}

impl Command for State {
    fn execute(self: Box<Self>) -> Result<(), CommandError> {
        let text = match &self.action {
            Action::Show => show(&self.path, &Store::look(&self.path)?),
            Action::Forget(identity) => forget(&self.path, identity)?,
        };
        output::print(text.as_bytes())
    }
}

fn show(path: &Path, whole: &Whole) -> String {
    let memory = &whole.memory;
    let mut text = String::new();
    let mut line = |line: String| writeln!(text, "{line}").expect("writing to a String does not fail");
    line(format!("{}: {} skills with series", path.display(), whole.skills.len()));
    let remembered = |line: &mut dyn FnMut(String), source: SourceId| {
        let skills: Vec<_> = memory.skills.iter().filter(|skill| skill.source == source).collect();
        let invocations: u64 = skills.iter().filter_map(|skill| skill.remembered).map(|totals| totals.total).sum();
        let tallies = memory.tallies.iter().filter(|tally| tally.source == source);
        let anomalies: u64 = tallies.map(|tally| tally.listed.max(tally.streamed)).sum();
        line(format!("  skills remembered        {}", skills.len()));
        line(format!("  invocations remembered   {invocations}"));
        line(format!("  anomalies counted        {anomalies}"));
    };
    for feed in &memory.feeds {
        line(format!("{}", feed.counters.identity));
        line(format!("  configured               {}", if feed.is_configured { "yes" } else { "no longer" }));
        match feed.source {
            Some(source) => {
                line(format!("  source                   {}", source.0));
                remembered(&mut line, source);
            }
            None => line("  source                   not bound".to_owned()),
        }
        line(format!("  database resets          {}", feed.counters.resets));
        line(format!("  database rollbacks       {}", feed.counters.rollbacks));
        let active =
            memory.sources.iter().find(|known| Some(known.id) == feed.source).and_then(|known| known.counted_by);
        if let Some(other) =
            active.filter(|active| *active != feed.slot).and_then(|slot| memory.feeds.get(slot.index()))
        {
            line(format!("  counted by               {}", other.counters.identity));
        }
    }
    for source in memory.sources.iter().filter(|known| memory.feeds.iter().all(|feed| feed.source != Some(known.id))) {
        line(format!("source {} without a feed", source.id.0));
        remembered(&mut line, source.id);
    }
    text
}

fn forget(path: &Path, identity: &str) -> Result<String, CommandError> {
    let fits = |whole: &Whole| Ledger::restore(Limits::default(), whole.clone(), Moment::default()).map(drop);
    // Opening a state file creates one where there is none, which was not requested.
    Store::look(path)?;
    let mut opened = Store::open(path, fits)?;
    if opened.store.forget_feed(identity)? {
        Ok(format!("forgot {identity}\n"))
    } else {
        Err(CommandError::NoSuchFeed { path: path.to_owned(), identity: identity.to_owned() })
    }
}
