//! The help tells a stranger everything: each flag, its variable, its default, the exit codes.

use std::collections::BTreeSet;

use crate::support::program::{Ended, Program};

pub const COMMANDS: [&str; 13] = [
    "",
    "run",
    "demo",
    "check",
    "explain",
    "record",
    "replay",
    "backfill",
    "report",
    "healthcheck",
    "state show",
    "state forget",
    "state rename",
];

fn bridge(args: &[&str]) -> Ended {
    Program::start_in(&[("COLUMNS", "100")], args.iter().copied()).end()
}

pub fn help(args: &[&str]) -> String {
    let Ended { code, stdout, stderr } = bridge(args);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    stdout
}

/// Each flag with what is said of it.
fn flags(help: &str) -> Vec<(&str, String)> {
    let mut flags: Vec<(&str, String)> = Vec::new();
    for line in help.lines().take_while(|line| !line.starts_with("Environment:")) {
        let (indent, line) = (line.len() - line.trim_start().len(), line.trim());
        if let (1..=6, Some((_, flag))) = (indent, line.split_once("--")) {
            let (flag, rest) = flag.split_at(flag.find([' ', '[']).unwrap_or(flag.len()));
            // The short form of a help has the words on the line of the flag, behind its value.
            let said = rest.rsplit_once('>').map_or(rest, |(_, said)| said);
            flags.push((flag, format!("{said} ")));
        } else if let Some((_, said)) = flags.last_mut() {
            said.push_str(line);
            said.push(' ');
        }
    }
    flags
}

#[test]
fn every_flag_names_its_variable() {
    for command in COMMANDS {
        let args: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        let help = help(&args);
        let flags = flags(&help);
        assert!(flags.len() > 1, "{args:?}: {flags:?}");
        for (flag, said) in flags {
            assert!(said.len() > 10, "--{flag} is not explained: {said:?}");
            let variable = format!("[env: SESSION_BUDDY_BRIDGE_{}]", flag.to_uppercase().replace(['.', '-'], "_"));
            assert_eq!(said.contains(&variable), flag.contains('.'), "--{flag}: {said}");
        }
    }
}

#[test]
fn the_bare_help_tells_of_everything() {
    let help = help(&["--help"]);
    let told: BTreeSet<&str> = flags(&help).into_iter().map(|(flag, _)| flag).collect();
    let expected = BTreeSet::from([
        "config.check",
        "config.file",
        "feed.ca-file",
        "feed.cert-file",
        "feed.headers-file",
        "feed.jwt-secret-file",
        "feed.key-file",
        "feed.max-frame-bytes",
        "feed.name",
        "feed.silence-timeout",
        "feed.skill",
        "feed.skills-db",
        "feed.token-file",
        "feed.url",
        "help",
        "limit.label-chars",
        "limit.remembered-skills",
        "limit.series",
        "limit.skills",
        "log.format",
        "log.level",
        "push.basic-auth-file",
        "push.bearer-token-file",
        "push.ca-file",
        "push.cert-file",
        "push.headers-file",
        "push.insecure",
        "push.interval",
        "push.key-file",
        "push.label",
        "push.max-age",
        "push.max-queue-bytes",
        "push.name",
        "push.series",
        "push.timeout",
        "push.url",
        "skills.dir",
        "state.disabled",
        "state.path",
        "version",
        "web.allowed-hosts",
        "web.config.file",
        "web.created-timestamps",
        "web.disable-exporter-metrics",
        "web.enable-lifecycle",
        "web.listen-address",
        "web.socket-mode",
        "web.systemd-socket",
        "web.telemetry-path",
        "web.zero-first",
    ]);
    assert_eq!(told, expected);
    let in_one_line = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for said in [
        "[default: ws://localhost:8765]",
        "[default: localhost:9090]",
        "[default: /metrics]",
        "[default: 15s]",
        "[default: 1048576]",
        "[default: 20000]",
        "[default: 50000]",
        "[default: 1000000]",
        "[default: 256]",
        "[default: info]",
        "[default: logfmt]",
        "SESSION_BUDDY_BRIDGE_FEED_TOKEN ",
        "SESSION_BUDDY_BRIDGE_FEED_JWT_SECRET ",
        "each file is read again at each connect",
        "Exit codes: 0 ended as requested",
        " 1 failed while running",
        " 2 a flag or a variable was refused",
        "Examples: session-buddy-bridge ",
    ] {
        assert!(in_one_line.contains(said), "{said:?} is not in the help:\n{help}");
    }
    for command in ["run", "demo", "check", "explain", "record", "replay", "backfill", "report", "healthcheck", "state"]
    {
        assert!(help.contains(&format!("\n  {command} ")), "{command}");
    }
}

#[test]
fn the_configuration_page_tells_of_every_flag_and_of_no_other() {
    let readme = include_str!("../../docs/reference/configuration.md");
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| `--")?.split(" |").next());
    let name = |flag: &str| flag.split([' ', '`']).next().unwrap_or_default().to_owned();
    let in_readme: BTreeSet<_> = rows.flat_map(|cell| cell.split("`--")).map(name).collect();
    let mut in_help = BTreeSet::new();
    for command in COMMANDS {
        let args: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        in_help.extend(flags(&help(&args)).into_iter().map(|(flag, _)| flag.to_owned()));
    }
    assert_eq!(in_readme, in_help);
}

#[test]
fn the_version_is_the_package_s() {
    for flag in ["-V", "--version"] {
        let Ended { code, stdout: printed, .. } = bridge(&[flag]);
        assert_eq!(code, Some(0));
        assert_eq!(printed.lines().next(), Some(concat!("session-buddy-bridge ", env!("CARGO_PKG_VERSION"))));
        // What the program was built from follows in the long form.
        assert_eq!(printed.lines().count(), if flag == "-V" { 1 } else { 4 }, "{printed}");
    }
}

#[test]
fn a_refused_setting_is_exit_code_2_with_a_word_of_help() {
    for args in [&["--feed.url", "http://localhost"][..], &["--log.level", "loud"], &["replay"], &["no-such-command"]] {
        let Ended { code, stdout, stderr: complaint } = bridge(args);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{args:?}");
        assert!(complaint.starts_with("error: "), "{complaint}");
        assert!(complaint.ends_with("For more information, try '--help'.\n"), "{complaint}");
    }
}

#[test]
fn a_variable_of_the_process_is_heard() {
    let environment = [("SESSION_BUDDY_BRIDGE_LOG_LEVEL", "loud")];
    let Ended { code, stderr: complaint, .. } = Program::start_in(&environment, []).end();
    assert_eq!(code, Some(2));
    assert!(
        complaint.starts_with("error: in the environment variable SESSION_BUDDY_BRIDGE_LOG_LEVEL: "),
        "{complaint}"
    );
}
