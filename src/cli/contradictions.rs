//! Flags of one command line that contradict each other.
//!
//! Only flags that are written on the line count: one of them may well overrule the variable of the other, as a drop-in of
//! systemd overrules its unit.

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Command};

use crate::settings::listen_address::unix_path;

/// Pairs that cannot both be meant, by their long names; arguments without one by their identifier.
const PAIRS: [(&str, &str); 9] = [
    ("state.disabled", "state.path"),
    ("web.systemd-socket", "web.listen-address"),
    // What explains a recording connects to nothing.
    ("recording", "feed.url"),
    ("recording", "seconds"),
    // The URLs of a check stand in place of the flag.
    ("url", "feed.url"),
    ("offline", "seconds"),
    // A health check has one target.
    ("healthcheck.url", "healthcheck.pid"),
    ("healthcheck.url", "web.listen-address"),
    ("healthcheck.pid", "web.listen-address"),
];

/// Returns the first contradiction of a command line, as clap reports its own.
pub(super) fn check(command: &mut Command, matches: &ArgMatches) -> Result<(), clap::Error> {
    if let Some((name, matches)) = matches.subcommand() {
        let command = command.find_subcommand_mut(name).expect("clap has matched it");
        return check(command, matches);
    }
    for (one, other) in PAIRS {
        if let (Some(one), Some(other)) = (given(command, matches, one), given(command, matches, other)) {
            let message = format!("{one} and {other} contradict each other: leave one of them out");
            return Err(command.error(ErrorKind::ArgumentConflict, message));
        }
    }
    Ok(())
}

/// Returns the argument as a person writes it, if the command line has it and it is not switched off.
fn given(command: &Command, matches: &ArgMatches, name: &str) -> Option<String> {
    let argument =
        command.get_arguments().find(|argument| argument.get_long().unwrap_or(argument.get_id().as_str()) == name)?;
    let id = argument.get_id().as_str();
    if matches.value_source(id) != Some(ValueSource::CommandLine) {
        return None;
    }
    let mut values = matches.get_raw(id)?;
    let is_meant = match argument.get_action() {
        ArgAction::Set if matches.try_get_one::<bool>(id).is_ok() => values.all(|value| value != "false"),
        // Unix sockets are listened on beside those of systemd.
        _ if name == "web.listen-address" => {
            values.any(|value| value.to_str().is_none_or(|value| unix_path(value).is_none()))
        }
        _ => true,
    };
    let value_name = || argument.get_value_names().and_then(<[_]>::first).map_or(id, |name| name.as_str());
    is_meant.then(|| argument.get_long().map_or_else(|| value_name().to_owned(), |long| format!("--{long}")))
}
