//! The command `replay`.

use std::fs;
use std::io::{self, Write};

use crate::settings::ReplayTask;

use super::CommandError;

/// Prints the metrics that a recording leads to on standard output. See [`crate::replay`].
///
/// # Errors
/// A file that cannot be read or is not a recording; standard output that cannot be written to.
pub fn replay(task: ReplayTask) -> Result<(), CommandError> {
    let recording = fs::read(&task.file).map_err(|error| CommandError::File { file: task.file.clone(), error })?;
    let text = crate::replay(&recording, task.skill.as_deref(), task.ledger_limits)
        .map_err(|error| CommandError::Recording { file: task.file, error })?;
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(CommandError::Output)
}
