//! A recording into the families.

use std::fs;
use std::io::{self, Write};

use crate::exposition::{self, Format};
use crate::recording;
use crate::settings::ReplayTask;
use crate::telemetry::{LedgerCounters, log_notices, rule_families};

use super::BridgeError;

/// What a recorded feed is called: the same for every file, so that the same frames give the same bytes.
const IDENTITY: &str = "replay";

/// Prints what a recording leads to on standard output: the five families and the counters that the rules name.
///
/// # Errors
/// A file that cannot be read or is no recording; standard output that takes nothing.
pub fn replay(task: ReplayTask) -> Result<(), BridgeError> {
    let text = replayed(&task)?;
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(BridgeError::Output)
}

/// What [`replay`] prints.
///
/// # Errors
/// A file that cannot be read or is no recording.
pub fn replayed(task: &ReplayTask) -> Result<String, BridgeError> {
    let file = || task.file.clone();
    let recorded = fs::read(&task.file).map_err(|error| BridgeError::File { file: file(), error })?;
    let mut replay = recording::text(&recorded)
        .and_then(|text| recording::replay(text, IDENTITY, task.skill.as_deref(), task.ledger_limits))
        .map_err(|error| BridgeError::Recording { file: file(), error })?;
    log_notices(IDENTITY, &replay.notices);
    let mut out = String::new();
    exposition::encode_families(&mut replay.view, replay.active_sessions, &mut out);
    let numbers = LedgerCounters { feeds: replay.view.feeds().cloned().collect(), rules: replay.view.rules() };
    // Every one of these families has a series, which is all that the encoder asks for.
    let families: Vec<_> =
        rule_families(&numbers).into_iter().filter(|family| !family.get_metric().is_empty()).collect();
    exposition::encode_others(&families, Format::Text, &mut out);
    Ok(out)
}
