//! `state`: the persistent state, for people.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use jiff::Timestamp;

use super::{Command, CommandError, output};
use crate::ledger::{LedgerState, Limits, SourceId};
use crate::push::{self, QueueSize, QueueSummary, TickTime};
use crate::settings::{Environment, SettingsError, state_path, subscription::checked_name};
use crate::store::{Opened, Renamed, Store};
use crate::text::terminal_line;

#[derive(Debug, Subcommand)]
pub(super) enum StateFlags {
    /// Print the state file, feed by feed; a running bridge is not disturbed
    Show(StatePathFlags),
    /// Delete what is remembered of a source, so that all its totals are counted again once a feed lists them; the bridge
    /// must not run
    Forget(ForgetFlags),
    /// Give a remembered feed another name, so that it continues where it was under that name; the bridge must not run
    Rename(RenameFlags),
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
    /// The source's number in `state show`, or the name of a feed that is bound to it
    pub source: String,
    #[command(flatten)]
    pub state: StatePathFlags,
}

#[derive(Debug, Args)]
pub(super) struct RenameFlags {
    /// The feed's present name, as in `state show` and the label `feed`
    pub name: String,
    /// Its new name; no other remembered feed may have it
    pub new_name: String,
    #[command(flatten)]
    pub state: StatePathFlags,
}

/// Prints the persistent state, deletes a source from it, or renames a feed in it.
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
    /// Delete what is remembered of the source with this number, or of the one that the feed with this name is bound to.
    Forget(String),
    /// Give the feed with the first name the second.
    Rename(String, String),
}

impl State {
    pub(super) fn new(flags: StateFlags, environment: Environment<'_>) -> Result<Self, SettingsError> {
        let (state, action) = match flags {
            StateFlags::Show(state) => (state, Action::Show),
            StateFlags::Forget(ForgetFlags { source, state }) => (state, Action::Forget(source)),
            StateFlags::Rename(RenameFlags { name, new_name, state }) => {
                (state, Action::Rename(name, checked_name("NEW_NAME", new_name, Limits::default().label_chars_max)?))
            }
        };
        let path = state.path.or_else(|| state_path::default(environment)).ok_or(SettingsError::NoStatePath)?;
        Ok(Self { path, action })
    }
}

impl Command for State {
    fn execute(self: Box<Self>) -> Result<(), CommandError> {
        let text = match &self.action {
            Action::Show => {
                let (whole, queue) = Store::look_at(&self.path, push::summary)?;
                show(&self.path, &whole) + &queue.as_ref().map(show_queue).unwrap_or_default()
            }
            Action::Forget(source) => forget(&self.path, source)?,
            Action::Rename(name, new_name) => rename(&self.path, name, new_name)?,
        };
        output::print(text.as_bytes())
    }
}

fn show(path: &Path, whole: &LedgerState) -> String {
    let memory = &whole.memory;
    let mut text = String::new();
    let mut line = |line: String| writeln!(text, "{line}").expect("writing to a String does not fail");
    line(format!("{}: {} skills with series", path.display(), whole.skills.len()));
    let remembered = |line: &mut dyn FnMut(String), source: SourceId| {
        let skills: Vec<_> = memory.skills.iter().filter(|skill| skill.source == source).collect();
        let totals = skills.iter().filter_map(|skill| skill.remembered);
        let invocations: u128 = totals.map(|totals| u128::from(totals.total)).sum();
        let tallies = memory.tallies.iter().filter(|tally| tally.source == source);
        let anomalies: u128 = tallies.map(|tally| u128::from(tally.listed.max(tally.streamed))).sum();
        line(format!("  skills remembered        {}", skills.len()));
        line(format!("  invocations remembered   {invocations}"));
        line(format!("  anomalies counted        {anomalies}"));
    };
    for (feed, standing) in memory.feeds.iter().zip(whole.standings()) {
        line(format!("{}", feed.counters.identity));
        // Entries that differ in nothing else share a name.
        line(format!("  address                  {}", feed.entry.address));
        if let Some(skill) = &feed.entry.filter {
            line(format!("  skill                    {skill}"));
        }
        line(format!("  configured               {}", if feed.is_configured { "yes" } else { "no longer" }));
        match feed.source.filter(|_| !feed.is_configured) {
            Some(source) => line(format!("  standing                 remembered for source {}", source.0)),
            None => line(format!("  standing                 {standing}")),
        }
        if let Some(source) = feed.source {
            remembered(&mut line, source);
        }
        line(format!("  database resets          {}", feed.counters.resets));
        line(format!("  database rollbacks       {}", feed.counters.rollbacks));
    }
    for source in memory.sources.iter().filter(|known| memory.feeds.iter().all(|feed| feed.source != Some(known.id))) {
        line(format!("source {} without a feed", source.id.0));
        remembered(&mut line, source.id);
    }
    text
}

fn show_queue(queue: &QueueSummary) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        writeln!(text, "  {name:<24} {value}").expect("writing to a String does not fail");
    };
    line("identity", queue.identity.to_string());
    queue.label_sets.iter().for_each(|labels| line("labels", terminal_line(labels).into_owned()));
    line("series", queue.series.to_string());
    line("newest tick", time(queue.newest));
    line("queued", size(&queue.size));
    for (receiver, position, behind) in &queue.receivers {
        line("receiver", terminal_line(receiver.as_str()).into_owned());
        line("  answered for", time(Some(*position).filter(|position| *position != TickTime::NEVER)));
        line("  queued", size(behind));
    }
    format!("remote write\n{text}")
}

fn time(time: Option<TickTime>) -> String {
    let Some(time) = time else { return "nothing yet".to_owned() };
    // A state that somebody else wrote may hold any number.
    Timestamp::from_millisecond(time.millis()).map_or_else(|_| format!("{} ms", time.millis()), |time| time.to_string())
}

fn size(size: &QueueSize) -> String {
    let (ticks, bytes) = (size.ticks, size.bytes);
    let plural = if ticks == 1 { "" } else { "s" };
    let oldest = size.oldest.map(|oldest| format!(" since {}", time(Some(oldest)))).unwrap_or_default();
    format!("{ticks} tick{plural}, {bytes} bytes{oldest}")
}

fn forget(path: &Path, named: &str) -> Result<String, CommandError> {
    let Opened { mut store, restored: whole, .. } = open(path)?;
    // A name comes first: whoever calls a feed "3" means that one.
    let of_feed = whole.memory.feeds.iter().find(|feed| &*feed.counters.identity == named);
    let source = match of_feed {
        Some(feed) => feed.source,
        None => named.parse().ok().map(SourceId),
    };
    match source {
        Some(source) if store.forget_source(source)? => Ok(format!("forgot source {}\n", source.0)),
        _ if of_feed.is_some() => Ok(format!("nothing to forget: {named} is bound to no source\n")),
        _ => Err(CommandError::NoSuchSource { path: path.to_owned(), named: named.to_owned() }),
    }
}

fn rename(path: &Path, name: &str, new_name: &str) -> Result<String, CommandError> {
    match open(path)?.store.rename_feed(name, new_name)? {
        Renamed::Done => Ok(format!("renamed {name} to {new_name}\n")),
        Renamed::NoSuchFeed => Err(CommandError::NoSuchFeed { path: path.to_owned(), name: name.to_owned() }),
        Renamed::NameIsTaken => Err(CommandError::NameIsTaken { path: path.to_owned(), name: new_name.to_owned() }),
    }
}

fn open(path: &Path) -> Result<Opened<LedgerState>, CommandError> {
    // Opening a state file creates one where there is none, which was not requested.
    Store::look(path)?;
    Ok(Store::open(path, LedgerState::validated)?)
}
