//! The environment as the defaults of the command line.
//!
//! Every flag with a dot in its name can also be set by a variable. The variable becomes the flag's default before the
//! line is parsed, so both go through the same checks, and the line wins.

use std::collections::BTreeSet;
use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, Command};

use crate::settings::Environment;
use crate::settings::flags::{JWT_SECRET_VARIABLE, TOKEN_VARIABLE};

const PREFIX: &str = "SESSION_BUDDY_BRIDGE_";

/// Returns `command` with the environment as its defaults.
pub(super) fn with_defaults_from(command: Command, environment: Environment<'_>) -> Command {
    let with_default = |arg| with_default_from(arg, environment);
    command.mut_args(with_default).mut_subcommands(|subcommand| {
        let subcommand = subcommand.mut_args(with_default);
        subcommand.mut_subcommands(|inner| inner.mut_args(with_default))
    })
}

fn with_default_from(arg: Arg, environment: Environment<'_>) -> Arg {
    let variable = variable_of(&arg);
    let arg = with_origins(arg, variable.as_deref());
    match variable.and_then(|variable| environment(&variable)).filter(|value| !value.is_empty()) {
        None => arg,
        Some(value) if matches!(arg.get_action(), ArgAction::Append) => arg.default_values(list(&value)),
        Some(value) => arg.default_value(value),
    }
}

/// Adds default and variable to the help, on the line of the flag: clap gives the default a paragraph of its own.
fn with_origins(arg: Arg, variable: Option<&str>) -> Arg {
    let mut help = arg.get_help().cloned().unwrap_or_default().to_string();
    if let [default] = arg.get_default_values() {
        help.push_str(&format!(" [default: {}]", default.to_string_lossy()));
    }
    if let Some(variable) = variable {
        help.push_str(&format!("\n[env: {variable}]"));
    }
    // clap refuses to hide the default of a flag without a value.
    let takes_values = arg.get_action().takes_values();
    arg.help(help).hide_default_value(takes_values)
}

/// Returns the parts between commas. What is not UTF-8 stays whole, for the parser to refuse.
fn list(value: &OsString) -> Vec<OsString> {
    match value.to_str() {
        Some(text) => text.split(',').map(|part| OsString::from(part.trim())).collect(),
        None => vec![value.clone()],
    }
}

/// Returns the variable that sets `arg`, if one does.
fn variable_of(arg: &Arg) -> Option<String> {
    variable_named(arg.get_long().unwrap_or(arg.get_id().as_str()))
}

fn variable_named(flag: &str) -> Option<String> {
    flag.contains('.').then(|| format!("{PREFIX}{}", flag.to_uppercase().replace(['.', '-'], "_")))
}

/// Returns those of `names`, an environment's, that have the prefix of this program's variables and set nothing: most likely
/// misspelt.
pub(super) fn unknown_variables(command: &Command, names: impl IntoIterator<Item = OsString>) -> Vec<String> {
    let mut known = BTreeSet::from([TOKEN_VARIABLE, JWT_SECRET_VARIABLE].map(ToOwned::to_owned));
    collect_variables(command, &mut known);
    let names = names.into_iter().map(|name| name.to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(PREFIX) && !known.contains(name)).collect()
}

fn collect_variables(command: &Command, variables: &mut BTreeSet<String>) {
    variables.extend(command.get_arguments().filter_map(variable_of));
    command.get_subcommands().for_each(|subcommand| collect_variables(subcommand, variables));
}

/// Returns the variable that holds the invalid value of `error`.
pub(super) fn variable_at_fault(error: &clap::Error, environment: Environment<'_>) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text),
        _ => None,
    };
    let flag = text(ContextKind::InvalidArg)?.split(' ').next()?.strip_prefix("--")?;
    let variable = variable_named(flag)?;
    let value = text(ContextKind::InvalidValue)?;
    environment(&variable).is_some_and(|found| found.to_str() == Some(value)).then_some(variable)
}
