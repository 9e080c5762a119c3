//! `completions` and `man`: a text that is known once the command line is parsed.

use clap_complete::Shell;

use super::man_page::man_page;
use super::{Command, CommandError, output};

/// Prints a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Print(pub Vec<u8>);

impl Print {
    /// Returns a script that completes the `command` line in `shell`.
    pub(super) fn completions(mut command: clap::Command, shell: Shell) -> Self {
        let (name, mut script) = (command.get_name().to_owned(), Vec::new());
        clap_complete::generate(shell, &mut command, name, &mut script);
        Self(script)
    }

    /// Returns the manual page of the `command` line, in the language of man(7).
    pub(super) fn man_page(command: clap::Command) -> Self {
        Self(man_page(command))
    }
}

impl Command for Print {
    fn execute(self: Box<Self>) -> Result<(), CommandError> {
        output::print(&self.0)
    }
}
