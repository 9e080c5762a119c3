//! The manual page: one for all commands, so that it refers to no other.

use std::fmt::Write;

use clap::{Arg, Command};
use clap_mangen::Man;

/// Sections that neither the flags nor the text after the help has.
const FILES: [(&str, &str); 4] = [
    (
        "$XDG_STATE_HOME/session-buddy-bridge/state.db, ~/.local/state/session-buddy-bridge/state.db",
        "State file, unless --state.path names another. While the bridge runs, files that end in -wal and -shm are beside it.",
    ),
    ("/var/lib/session-buddy-bridge/state.db", "State file of the systemd service and of the container image."),
    ("/etc/default/session-buddy-bridge", "Environment of the systemd service of the Debian package."),
    (
        ".session-buddy/skills.db",
        "Database of a Session-Buddy server, in its working directory, for --feed.skills-db. Only read.",
    ),
];

/// Returns the manual page of the whole command line, in the language of man(7).
pub(super) fn man_page(command: Command) -> Vec<u8> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let manual = Man::new(command.clone()).manual("User Commands");
    let mut page = rendered(|page| manual.render_title(page));
    page += &rendered(|page| manual.render_name_section(page));
    page += ".SH SYNOPSIS\n.nf\n";
    for usage in ["[OPTIONS]", "COMMAND [OPTIONS]"] {
        let _ = writeln!(page, "\\fB{}\\fR {usage}", escaped(command.get_name()));
    }
    page += ".fi\n";
    page += &rendered(|page| manual.render_description_section(page));
    page += &rendered(|page| manual.render_options_section(page));
    page += ".SH COMMANDS\n";
    for subcommand in command.get_subcommands() {
        add_command(&mut page, subcommand, &command);
    }
    add_texts(&mut page, &command.get_after_help().map(ToString::to_string).unwrap_or_default());
    page += ".SH FILES\n";
    for (path, text) in FILES {
        let _ = write!(page, ".TP\n{}\n{}\n", escaped(path), escaped(text));
    }
    page += &rendered(|page| manual.render_version_section(page));
    page.into_bytes()
}

/// Returns what `render` writes, without the lines that every such part starts with; the title keeps them.
fn rendered(render: impl FnOnce(&mut dyn std::io::Write) -> std::io::Result<()>) -> String {
    let mut part = Vec::new();
    render(&mut part).expect("writing to a Vec does not fail");
    let part = String::from_utf8(part).expect("a manual page is text");
    let is_definition = |line: &&str| line.starts_with(".ie ") || line.starts_with(".el ");
    if part.contains("\n.TH ") {
        return part;
    }
    part.lines().filter(|line| !is_definition(line)).map(|line| line.to_owned() + "\n").collect()
}

/// Adds `command`, with each of its flags: those that mean the same without a command by name alone.
fn add_command(page: &mut String, command: &Command, bridge: &Command) {
    let usage = command.clone().render_usage().to_string();
    let _ = writeln!(page, ".SS {}", escaped(usage.trim_start_matches("Usage: ").lines().next().unwrap_or_default()));
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let _ = writeln!(page, "{}.", escaped(&about));
    let is_shared =
        |arg: &Arg| bridge.get_arguments().any(|known| known.get_id() == arg.get_id() && help(known) == help(arg));
    let (shared, own): (Vec<&Arg>, Vec<&Arg>) = command.get_arguments().partition(|arg| is_shared(arg));
    let shared: Vec<_> = shared.iter().filter_map(|arg| arg.get_long()).filter(|flag| flag.contains('.')).collect();
    let own: Vec<_> = own.into_iter().map(|arg| arg.get_id().clone()).collect();
    let own = command.clone().mut_args(|arg| {
        let hidden = !own.contains(arg.get_id());
        arg.hide(hidden)
    });
    for line in rendered(|page| Man::new(own).render_options_section(page)).lines() {
        if !line.starts_with(".SH ") {
            let _ = writeln!(page, "{line}");
        }
    }
    if !shared.is_empty() {
        let flags: Vec<_> = shared.iter().map(|flag| escaped(&format!("--{flag}"))).collect();
        let _ = write!(page, ".PP\nAlso, as described above: {}.\n", flags.join(", "));
    }
    for inner in command.get_subcommands() {
        add_command(page, inner, bridge);
    }
}

fn help(arg: &Arg) -> String {
    arg.get_help().map(ToString::to_string).unwrap_or_default()
}

/// Adds the blocks of a text after the help as sections: a heading that ends in a colon, then indented lines.
fn add_texts(page: &mut String, text: &str) {
    for block in text.split("\n\n") {
        let (heading, lines) = block.split_once(":\n").expect("a heading");
        let heading = if heading == "Exit codes" { "EXIT STATUS" } else { &heading.to_uppercase() };
        let _ = write!(page, ".SH {heading}\n.nf\n");
        for line in lines.lines() {
            let _ = writeln!(page, "{}", escaped(line.strip_prefix("  ").unwrap_or(line)));
        }
        *page += ".fi\n";
    }
}

/// Returns a line of text as man(7) has it.
fn escaped(line: &str) -> String {
    let line = line.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    if line.starts_with('.') { format!("\\&{line}") } else { line }
}
