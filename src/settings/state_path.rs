//! Where the state file is.

use std::path::PathBuf;

use super::Environment;

/// Returns `$XDG_STATE_HOME/session-buddy-bridge/state.db`, or the same below `~/.local/state`. Source: XDG Base Directory
/// Specification 0.8, by which relative paths are ignored.
pub(crate) fn default(environment: Environment<'_>) -> Option<PathBuf> {
    let folder = |variable| environment(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let states = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")))?;
    Some(states.join("session-buddy-bridge/state.db"))
}
