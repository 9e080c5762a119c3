//! `state`: the persistent state, for people.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::state_summary::StateSummary;
use super::{Command, CommandError, output};
use crate::ledger::{LedgerState, Limits, SourceId};
use crate::push;
use crate::settings::{Environment, SettingsError, state_path, subscription::checked_name};
use crate::store::{Opened, Renamed, Store};

#[derive(Debug, Subcommand)]
pub(super) enum StateFlags {
    /// Print the state file, feed by feed; a running bridge is not disturbed
    Show(ShowFlags),
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
pub(super) struct ShowFlags {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub state: StatePathFlags,
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
    Show(Format),
    /// Delete what is remembered of the source with this number, or of the one that the feed with this name is bound to.
    Forget(String),
    /// Give the feed with the first name the second.
    Rename(String, String),
}

/// How the state file is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

impl State {
    pub(super) fn new(flags: StateFlags, environment: Environment<'_>) -> Result<Self, SettingsError> {
        let (state, action) = match flags {
            StateFlags::Show(ShowFlags { json, state }) => {
                (state, Action::Show(if json { Format::Json } else { Format::Text }))
            }
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
            Action::Show(format) => {
                let (whole, queue) = Store::look_at(&self.path, push::summary)?;
                let summary = StateSummary::new(&self.path, &whole, queue.as_ref());
                match format {
                    Format::Text => summary.text(),
                    Format::Json => summary.json(),
                }
            }
            Action::Forget(source) => forget(&self.path, source)?,
            Action::Rename(name, new_name) => rename(&self.path, name, new_name)?,
        };
        output::print(text.as_bytes())
    }
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
