//! Where the state file is.

use std::ffi::OsString;
use std::path::PathBuf;

use super::tasks::StateTask;
use super::{SettingsError, flags};

/// Returns `$XDG_STATE_HOME/session-buddy-bridge/state.db`, or the same below `~/.local/state`. Source: XDG Base Directory
/// Specification 0.8, by which relative paths are ignored.
pub(super) fn default(environment: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = |variable| environment(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let states = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")))?;
    Some(states.join("session-buddy-bridge/state.db"))
}

pub(super) fn task(
    command: flags::StateCommands,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<StateTask, SettingsError> {
    let (state, forget) = match command {
        flags::StateCommands::Show(state) => (state, None),
        flags::StateCommands::Forget(flags::ForgetFlags { feed, state }) => (state, Some(feed)),
    };
    let path = state.path.or_else(|| default(environment)).ok_or(SettingsError::NoStatePath)?;
    Ok(StateTask { path, forget })
}
