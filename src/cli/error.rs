//! Why a command failed.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::check_feed::CheckProblem;
use super::explanation::MissingSkill;
use super::healthcheck::HealthcheckError;
use super::record::SilentFeed;
use crate::backfill::BackfillError;
use crate::bridge::BridgeError;
use crate::installed::SkillsDirError;
use crate::recording::RecordingError;
use crate::report::ReportError;
use crate::settings::{FeedUrlError, SettingsError};
use crate::store::StoreError;

/// Why a command failed; nothing is wrong with its settings.
#[derive(Debug, Error)]
pub enum CommandError {
    /// The bridge failed.
    #[error(transparent)]
    Bridge(#[from] BridgeError),
    /// No threads for the event loop.
    #[error("cannot start threads: {0}")]
    Threads(#[source] io::Error),
    /// Fewer file descriptors than the event loop needs.
    #[error("too few file descriptors ({0}): raise the limit, for example with `ulimit -n 1024`")]
    Descriptors(#[source] io::Error),
    /// The clock is before 1970 or beyond the year 9999.
    #[error("the system's clock is not within the years 1970 to 9999: set it")]
    Clock,
    /// No handlers of signals.
    #[error("cannot listen for signals: {0}")]
    Signals(#[source] io::Error),
    /// Standard output takes nothing more.
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
    /// The simulated server has no port.
    #[error("the demo's feed cannot listen on 127.0.0.1: {0}")]
    DemoFeed(#[source] io::Error),
    /// The simulated server has an invalid URL.
    #[error("the demo's feed {0}")]
    DemoUrl(#[from] FeedUrlError),
    /// A file cannot be read or written.
    #[error("{}: {source}", .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file is not a recording.
    #[error("{}: {source}", .file.display())]
    Recording {
        /// The file.
        file: PathBuf,
        /// Its first fault.
        source: RecordingError,
    },
    /// A file would be overwritten.
    #[error("{}: the file exists already: choose another name or delete it", .file.display())]
    FileExists {
        /// The file.
        file: PathBuf,
    },
    /// The feed sent no frame while it was recorded.
    #[error("nothing was received from the feed {identity}, so there is no recording: {source}")]
    NothingReceived {
        /// The feed.
        identity: String,
        /// How the latest attempt to connect went.
        source: SilentFeed,
    },
    /// The bridge could not count the feed.
    #[error("the feed {identity}: {source}")]
    CheckFailed {
        /// The feed.
        identity: String,
        /// Why not.
        source: CheckProblem,
    },
    /// A bridge could not push to the receiver, or would not know whether it does.
    #[error("the receiver {receiver}: {problem}")]
    ReceiverFailed {
        /// The receiver.
        receiver: String,
        /// Why not, and what to do.
        problem: String,
    },
    /// A check found several problems; each is reported by itself.
    #[error("{}", .0.iter().map(CommandError::to_string).collect::<Vec<_>>().join("; "))]
    SeveralProblems(Vec<CommandError>),
    /// A check found a setting, or a file or database that it names, that cannot be used: exit code 2.
    #[error(transparent)]
    Refused(#[from] SettingsError),
    /// The one skill to explain was not counted.
    #[error(transparent)]
    MissingSkill(#[from] MissingSkill),
    /// The state file cannot be used.
    #[error(transparent)]
    State(#[from] StoreError),
    /// The state has no such feed.
    #[error("the state file {} has no feed {name:?}: `state show` lists its feeds", path.display())]
    NoSuchFeed {
        /// The state file.
        path: PathBuf,
        /// The name that was given.
        name: String,
    },
    /// The state has no such source, and no such feed.
    #[error("the state file {} has no source and no feed {named:?}: `state show` lists both", path.display())]
    NoSuchSource {
        /// The state file.
        path: PathBuf,
        /// The number or name that was given.
        named: String,
    },
    /// Another feed of the state has the name.
    #[error("the state file {} has a feed {name:?} already: choose another name, or forget its source", path.display())]
    NameIsTaken {
        /// The state file.
        path: PathBuf,
        /// The name that was given.
        name: String,
    },
    /// The report has no answer.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The history is not written.
    #[error(transparent)]
    Backfill(#[from] BackfillError),
    /// A signal ended the command before its work was done.
    #[error("interrupted: the receiver has a part of the history; push it again, the same samples do no harm")]
    Interrupted,
    /// A signal ended the command before its file was whole.
    #[error("{}: interrupted, no file was written", .file.display())]
    NotWritten {
        /// The file.
        file: PathBuf,
    },
    /// The series of a state are of fewer skills.
    #[error(
        "the feeds of the state file {} are subscribed to single skills, which alone have series: give {}",
        path.display(),
        subscribed.iter().map(|skill| format!("--feed.skill={skill:?}")).collect::<Vec<_>>().join(" ")
    )]
    OtherSkills {
        /// The state file.
        path: PathBuf,
        /// The skills.
        subscribed: Vec<String>,
    },
    /// A state whose series are sums over several databases.
    #[error(
        "the state file {} counts {} sources ({}), and its series are their sums: the history of one database is not that of these \
         series. Give --until, and a --label that the live series do not have, such as feed=NAME, for the history of one database as \
         series of its own",
        path.display(),
        sources.len(),
        sources.join(", ")
    )]
    SeveralSources {
        /// The state file.
        path: PathBuf,
        /// The sources that have counted something, by their feeds.
        sources: Vec<String>,
    },
    /// A state without the time of its first series.
    #[error(
        "the state file {} does not contain the time at which its series began: give the time of their first sample with --until, for example \
         from `min_over_time(timestamp(skill_invocations_total)[90d:])`",
        path.display()
    )]
    NoFirstSeries {
        /// The state file.
        path: PathBuf,
    },
    /// A directory of installed skills cannot be read.
    #[error(transparent)]
    SkillsDir(#[from] SkillsDirError),
    /// The bridge is not healthy.
    #[error(transparent)]
    Healthcheck(#[from] HealthcheckError),
}
