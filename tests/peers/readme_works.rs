//! The commands of the README lead from a clone to the query of a panel and to a pushed sample, beside the real server and a real
//! Prometheus: each one prints what the README shows.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use crate::support::peers::prometheus::PrometheusTools;
use crate::support::peers::session_buddy::SessionBuddy;
use crate::support::program::{Program, run};
use crate::support::{eventually, in_repository};
use rustix::process::Signal;
use tempfile::TempDir;

/// A command of the README, and the beginnings of lines that it is shown to print.
struct Step {
    command: String,
    printed: Vec<String>,
}

/// The blocks of code of the README from the heading `first` to the heading `last`: language and text.
fn blocks(first: &str, last: &str) -> Vec<(String, String)> {
    let readme = fs::read_to_string(in_repository("README.md")).unwrap();
    let (_, from) = readme.split_once(first).unwrap_or_else(|| panic!("no {first:?} in the README"));
    let (section, _) = from.split_once(last).unwrap_or_else(|| panic!("no {last:?} in the README"));
    let blocks = section.split("\n```").skip(1).step_by(2).map(|block| block.split_once('\n').expect("a language"));
    blocks.map(|(language, text)| (language.to_owned(), text.to_owned())).collect()
}

/// The programs that the README calls by their names, in one folder, and the directory of its user.
struct Machine {
    home: TempDir,
    /// The ports of the README, each with a free one.
    ports: BTreeMap<&'static str, String>,
    /// What runs, by its program. One that starts replaces the one before.
    running: BTreeMap<&'static str, Program>,
}

impl Machine {
    fn new(tools: &PrometheusTools, server: &SessionBuddy) -> Self {
        let home = TempDir::new().unwrap();
        let bin = home.path().join("bin");
        fs::create_dir(&bin).unwrap();
        let bridge = PathBuf::from(env!("CARGO_BIN_EXE_session-buddy-bridge"));
        let [prometheus, promtool] = tools.programs();
        for (name, program) in [("session-buddy-bridge", &*bridge), ("prometheus", prometheus), ("promtool", promtool)]
        {
            symlink(program, bin.join(name)).unwrap();
        }
        // The deployed script, in the Python that has the packages.
        let python = server.peer_command();
        let script = format!(
            "#!/bin/sh -e\ntest \"$1\" = deploy/session-buddy/metrics_server.py\nshift\nexec {python} \"$@\"\n"
        );
        fs::write(bin.join("python3"), script).unwrap();
        fs::set_permissions(bin.join("python3"), Permissions::from_mode(0o755)).unwrap();
        symlink(in_repository("deploy"), home.path().join("deploy")).unwrap();
        // All are bound at once, so that no two are the same.
        let listeners = ["8765", "9090", "9101"].map(|port| (port, TcpListener::bind("127.0.0.1:0").unwrap()));
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port().to_string();
        let ports = listeners.iter().map(|(named, listener)| (*named, port(listener))).collect();
        Self { home, ports, running: BTreeMap::new() }
    }

    /// A text of the README on the ports of this machine.
    fn on_free_ports(&self, text: &str) -> String {
        self.ports
            .iter()
            .fold(text.to_owned(), |text, (named, free)| text.replace(&format!(":{named}"), &format!(":{free}")))
    }

    fn shell(&self, command: &str) -> Command {
        let path = [self.home.path().join("bin").display().to_string(), env::var("PATH").unwrap_or_default()].join(":");
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec {}", self.on_free_ports(command))]);
        shell
            .current_dir(self.home.path())
            .env("PATH", path)
            .env("HOME", self.home.path())
            .env_remove("XDG_STATE_HOME");
        shell.env("SESSION_BUDDY_BRIDGE_FEED_URL", format!("ws://localhost:{}", self.ports["8765"]));
        shell
    }

    /// Starts a program that runs until it is stopped, on its own port where the README leaves it at its default.
    fn start(&mut self, program: &'static str, command: &str) {
        if let Some(before) = self.running.remove(program) {
            before.signal(Signal::TERM);
            before.end();
        }
        let command = match program {
            // Debian's stores in /var/lib unless it is told where.
            "prometheus" => format!("{command} --web.listen-address=localhost:9090 --storage.tsdb.path=data"),
            "python3" => format!("{command} --port {}", self.ports["8765"]),
            _ => command.to_owned(),
        };
        let mut started = Program::spawn(program, &mut self.shell(&command));
        if program == "python3" {
            // It has made its database: two processes that migrate one at the same time spoil it.
            started.until_line("ready PORT", |line| line.starts_with("ready ").then_some(()));
        }
        self.running.insert(program, started);
    }

    /// Runs a command, a query or a check until it prints what it should: the next snapshot, scrape or tick is some seconds away.
    fn run(&self, step: &Step) {
        let attempt = || {
            let ended = run(&mut self.shell(&step.command), "");
            let is_printed = |wanted: &&String| ended.stdout.lines().any(|line| line.starts_with(wanted.as_str()));
            match step.printed.iter().find(|wanted| !is_printed(wanted)) {
                None if ended.is_success() => Ok(()),
                missing => Err(format!("{missing:?} is not in {}", ended.printed())),
            }
        };
        if step.command.starts_with("promtool query") || step.command.starts_with("session-buddy-bridge check") {
            eventually(&step.command, attempt);
        } else {
            attempt().unwrap_or_else(|error| panic!("{}: {error}", step.command));
        }
    }
}

/// The program of a command that runs until it is stopped.
fn service(command: &str) -> Option<&'static str> {
    if command.starts_with("session-buddy-bridge --") {
        Some("session-buddy-bridge")
    } else if command.starts_with("prometheus ") {
        Some("prometheus")
    } else if command.ends_with("metrics_server.py serve") {
        Some("python3")
    } else {
        None
    }
}

#[test]
fn the_readme_leads_to_a_panels_query_and_a_pushed_sample() {
    let Some(tools) = PrometheusTools::find_or_skip() else { return };
    let Some(server) = SessionBuddy::find_or_skip() else { return };
    let mut machine = Machine::new(&tools, &server);
    let mut steps: Vec<Step> = Vec::new();
    for (language, text) in blocks("\n## Run it beside your server\n", "\n## See it in Grafana\n") {
        match &*language {
            "console" => {
                let commands = text.lines().map(|line| line.strip_prefix("$ ").expect("a prompt").to_owned());
                // The package is installed already.
                let commands = commands.filter(|command| !command.starts_with("pip "));
                steps.extend(commands.map(|command| Step { command, printed: Vec::new() }));
            }
            "text" => steps.last_mut().expect("a command").printed.extend(text.lines().map(str::to_owned)),
            "yaml" => {
                let (name, _) = text.strip_prefix("# ").and_then(|text| text.split_once('\n')).expect("a name");
                // As often as the queries are repeated.
                let text = machine.on_free_ports(&text).replace("scrape_interval: 15s", "scrape_interval: 1s");
                fs::write(machine.home.path().join(name), text).unwrap();
            }
            other => panic!("a block of {other}"),
        }
    }
    let queries = steps.iter().filter(|step| step.command.starts_with("promtool query") && !step.printed.is_empty());
    assert_eq!((steps.len(), queries.count()), (9, 3), "the commands of the README");
    for step in &steps {
        match service(&step.command) {
            Some(program) => machine.start(program, &step.command),
            None => machine.run(step),
        }
    }
}
