//! `replay`: the metrics that a recording leads to.

use std::path::PathBuf;

use clap::Args;

use super::output::print;
use super::recording_file::RecordingFile;
use super::{Command, CommandError};
use crate::ledger::Limits;
use crate::settings::flags::{LimitFlags, LogFlags};
use crate::settings::subscription::checked_name;
use crate::settings::{LogSettings, SettingsError, limits};

#[derive(Debug, Args)]
pub(super) struct ReplayFlags {
    /// The recording to read; - for standard input
    pub file: PathBuf,
    /// The skill that the recorded feed was subscribed to, if it was only one
    #[arg(long = "feed.skill", value_name = "SKILL", help_heading = "Feed")]
    pub skill: Option<String>,
    #[command(flatten)]
    pub limits: LimitFlags,
    #[command(flatten)]
    pub log: LogFlags,
}

/// Prints the metrics that a recording leads to: the five families, and the counters that the rules define.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// The recording to read.
    pub file: RecordingFile,
    /// The skill that the recorded feed was subscribed to; `None` for all.
    pub skill: Option<String>,
    /// How much is counted and remembered.
    pub ledger_limits: Limits,
    /// What is logged, and how.
    pub log: LogSettings,
}

impl Replay {
    pub(super) fn new(flags: ReplayFlags) -> Result<Self, SettingsError> {
        let ledger_limits = limits::from_flags(&flags.limits)?;
        let checked = |skill| checked_name("--feed.skill", skill, ledger_limits.label_chars_max);
        Ok(Self {
            file: flags.file.into(),
            skill: flags.skill.map(checked).transpose()?,
            ledger_limits,
            log: flags.log.settings(),
        })
    }
}

impl Command for Replay {
    fn log(&self) -> LogSettings {
        self.log
    }

    // Waits for nothing, so a signal ends it as it ends any program.
    fn execute(self: Box<Self>) -> Result<(), CommandError> {
        let Self { file, skill, ledger_limits, .. } = *self;
        let recording = file.read()?;
        let metrics = crate::replay(&recording, skill.as_deref(), ledger_limits).map_err(|error| file.error(error))?;
        print(metrics.as_bytes())
    }
}
