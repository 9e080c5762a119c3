//! What is kept over restarts, for people.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;

use crate::ledger::{Ledger, Limits, Moment, Whole};
use crate::persister::PersistError;
use crate::settings::StateTask;
use crate::store::Store;

use super::CommandError;

/// Prints what the state keeps, or forgets a feed.
///
/// # Errors
/// A state that cannot be used; a feed that it does not know; standard output that takes nothing.
pub fn state(task: StateTask) -> Result<(), CommandError> {
    let text = match &task.forget {
        None => show(&task.path, &Store::look(&task.path).map_err(PersistError::from)?),
        Some(identity) => forget(&task.path, identity)?,
    };
    io::stdout().lock().write_all(text.as_bytes()).map_err(CommandError::Output)
}

fn show(path: &Path, whole: &Whole) -> String {
    let memory = &whole.memory;
    let mut text = String::new();
    let mut line = |words: String| writeln!(text, "{words}").expect("a String takes everything");
    line(format!("{}: {} skills with series", path.display(), whole.skills.len()));
    for feed in &memory.feeds {
        let skills: Vec<_> = memory.feed_skills.iter().filter(|skill| skill.feed == feed.place).collect();
        let invocations: u64 = skills.iter().filter_map(|skill| skill.remembered).map(|numbers| numbers.total).sum();
        let anomalies: u64 = memory
            .tallies
            .iter()
            .filter(|tally| tally.feed == feed.place)
            .map(|tally| tally.listed.max(tally.streamed))
            .sum();
        line(format!("{}", feed.counters.identity));
        line(format!("  skills remembered        {}", skills.len()));
        line(format!("  invocations remembered   {invocations}"));
        line(format!("  anomalies counted        {anomalies}"));
        line(format!("  new databases            {}", feed.counters.resets));
        line(format!("  databases rolled back    {}", feed.counters.rollbacks));
        if let Some(other) = feed.alias_of.and_then(|place| memory.feeds.get(place)) {
            line(format!("  same server as           {}", other.counters.identity));
        }
    }
    text
}

fn forget(path: &Path, identity: &str) -> Result<String, CommandError> {
    let fits = |whole: &Whole| Ledger::restore(Limits::default(), whole.clone(), Moment::default()).map(drop);
    // Opening a state begins one where there is none, which is not what was asked for.
    Store::look(path).map_err(PersistError::from)?;
    let mut opened = Store::open(path, fits).map_err(PersistError::from)?;
    if opened.store.forget_feed(identity).map_err(PersistError::from)? {
        Ok(format!("forgot {identity}\n"))
    } else {
        Err(CommandError::NoSuchFeed { path: path.to_owned(), identity: identity.to_owned() })
    }
}
