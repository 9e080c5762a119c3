//! `report`: what the server's database says about each skill, without Prometheus.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::builder::ValueParser;
use clap::{Args, ValueEnum};
use jiff::{SignedDuration, Timestamp};

use super::output::print;
use super::{Command, CommandError};
use crate::installed::installed_skills;
use crate::report::{By, DURATIONS_MAX, Format, LeftOut, Period, Report as Answer};
use crate::settings::duration::{DurationError, parse};
use crate::settings::flags::SkillsDirFlags;
use crate::settings::path::check_path;
use crate::settings::{Environment, SettingsError};
use crate::skills_db::with_history;

/// Longest period: with the one before it, it begins after 1800.
const PERIOD_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

#[derive(Debug, Args)]
#[command(next_help_heading = "Feed")]
pub(super) struct SkillsDbFlags {
    /// Database of the server, .session-buddy/skills.db where it runs; it is read and never changed, whether the server runs
    /// or not
    #[arg(long = "feed.skills-db", value_name = "FILE")]
    pub path: Option<PathBuf>,
}

impl SkillsDbFlags {
    /// Returns the path.
    ///
    /// # Errors
    /// There is none, or it starts with `~`.
    pub fn path(self) -> Result<PathBuf, SettingsError> {
        let path = self.path.ok_or(SettingsError::NoSkillsDb)?;
        check_path("--feed.skills-db", &path)?;
        Ok(path)
    }
}

#[derive(Debug, Args)]
pub(super) struct ReportFlags {
    #[command(flatten)]
    pub database: SkillsDbFlags,
    /// Length of the period that ends now, and of the one before it [range: 1m to 36500d]
    #[arg(long, value_name = "DURATION", default_value = "30d", value_parser = ValueParser::new(period))]
    pub since: Duration,
    /// What each line is about
    #[arg(long, value_name = "GROUP", default_value = "skill")]
    pub by: ByChoice,
    /// Format of the report
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: FormatChoice,
    #[command(flatten)]
    pub skills: SkillsDirFlags,
}

/// What the groups of a report are, as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ByChoice {
    /// Skills
    Skill,
    /// Phases of the workflow
    Phase,
    /// Types of errors of failed invocations
    Error,
}

/// How a report is written, as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum FormatChoice {
    /// A table for people, as wide as the terminal
    Table,
    /// One JSON object
    Json,
    /// Comma-separated values
    Csv,
    /// A table of Markdown
    Markdown,
}

fn period(text: &str) -> Result<Duration, DurationError> {
    parse(text, Duration::from_secs(60), PERIOD_MAX)
}

/// Prints a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The database.
    pub database: PathBuf,
    /// Length of the period.
    pub period: Duration,
    /// What the groups are.
    pub by: By,
    /// How it is written.
    pub format: Format,
    /// Directories of installed skills.
    pub skills_dirs: Vec<PathBuf>,
}

impl Report {
    pub(super) fn new(flags: ReportFlags, environment: Environment<'_>) -> Result<Self, SettingsError> {
        let by = match flags.by {
            ByChoice::Skill => By::Skill,
            ByChoice::Phase => By::Phase,
            ByChoice::Error => By::Error,
        };
        let skills_dirs = flags.skills.directories()?;
        if by != By::Skill && !skills_dirs.is_empty() {
            return Err(SettingsError::SkillsDirNeedsSkills);
        }
        let format = match flags.format {
            FormatChoice::Table => Format::Table { width: terminal_width(environment) },
            FormatChoice::Json => Format::Json,
            FormatChoice::Csv => Format::Csv,
            FormatChoice::Markdown => Format::Markdown,
        };
        Ok(Self { database: flags.database.path()?, period: flags.since, by, format, skills_dirs })
    }
}

impl Command for Report {
    // Waits for nothing, so a signal ends it as it ends any program.
    fn execute(self: Box<Self>) -> Result<(), CommandError> {
        let installed: Option<BTreeSet<String>> = match &*self.skills_dirs {
            [] => None,
            directories => Some(installed_skills(directories)?),
        };
        let period = Period::ending_at(SystemTime::now(), self.period)?;
        let report = with_history(&self.database, |history| {
            Answer::read(history, self.by, period, installed.as_ref(), DURATIONS_MAX)
        })?;
        let LeftOut { invalid, without_time, later } = report.left_out;
        // The other formats have a place for it.
        if self.format == Format::Csv && report.left_out != LeftOut::default() {
            tracing::warn!(
                invalid,
                without_time,
                later,
                "rows omitted; they are invalid, have no valid time, or are later"
            );
        }
        print(report.write(self.format).as_bytes())
    }
}

impl Period {
    /// Returns the period of this length that ends with the second of `now`, which it includes.
    fn ending_at(now: SystemTime, length: Duration) -> Result<Self, CommandError> {
        let end = Timestamp::try_from(now).and_then(|now| Timestamp::from_second(now.as_second() + 1));
        let end = end.map_err(|_| CommandError::Clock)?;
        let length = SignedDuration::try_from(length).map_err(|_| CommandError::Clock)?;
        let start = end.checked_sub(length).map_err(|_| CommandError::Clock)?;
        let former_start = start.checked_sub(length).map_err(|_| CommandError::Clock)?;
        Ok(Self { former_start, start, end })
    }
}

/// Returns the width of the terminal that the report is printed to; `None` if it is printed to something else.
fn terminal_width(environment: Environment<'_>) -> Option<usize> {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let of_variable = || environment("COLUMNS")?.to_str()?.parse().ok();
    let of_terminal = || rustix::termios::tcgetwinsize(&stdout).ok().map(|size| usize::from(size.ws_col));
    of_variable().or_else(of_terminal).filter(|columns| *columns > 0)
}
