//! The commands of the README lead from a clone to the query of a panel and to a pushed sample, beside the real server and a real
//! Prometheus: each one prints what the README shows.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use crate::support::peers::prometheus::PrometheusTools;
use crate::support::peers::session_buddy::SessionBuddy;
use crate::support::program::{Program, run};
use crate::support::{eventually, in_repository};
use rustix::process::Signal;
use tempfile::TempDir;

/// What the README leads its reader to do.
enum Step {
    /// To run a command, which is shown to print lines with these beginnings.
    Command { command: String, printed: Vec<String> },
    /// To write a file.
    File { name: String, text: String },
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
    /// The ports of the README, each with the one that its program has taken here.
    ports: BTreeMap<&'static str, String>,
    /// What runs. One that starts replaces the one before.
    running: BTreeMap<Service, Program>,
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
        Self { home, ports: BTreeMap::new(), running: BTreeMap::new() }
    }

    /// A text of the README on the ports of this machine.
    fn on_own_ports(&self, text: &str) -> String {
        self.ports
            .iter()
            .fold(text.to_owned(), |text, (named, free)| text.replace(&format!(":{named}"), &format!(":{free}")))
    }

    fn shell(&self, command: &str) -> Command {
        let path = [self.home.path().join("bin").display().to_string(), env::var("PATH").unwrap_or_default()].join(":");
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec {}", self.on_own_ports(command))]);
        shell
            .current_dir(self.home.path())
            .env("PATH", path)
            .env("HOME", self.home.path())
            .env_remove("XDG_STATE_HOME");
        if let Some(port) = self.ports.get("8765") {
            shell.env("SESSION_BUDDY_BRIDGE_FEED_URL", format!("ws://localhost:{port}"));
        }
        shell
    }

    /// Starts a program that runs until it is stopped, on a port that it takes itself, and waits for what it is shown to print.
    fn start(&mut self, service: Service, command: &str, printed: &[String]) {
        if let Some(before) = self.running.remove(&service) {
            before.signal(Signal::TERM);
            before.end();
        }
        let (named, command) = match service {
            Service::Server => ("8765", format!("{command} --host 127.0.0.1 --port 0")),
            Service::Bridge => ("9101", command.replace("localhost:9101", "127.0.0.1:0")),
            // Debian's stores in /var/lib without this flag.
            Service::Prometheus => {
                ("9090", format!("{command} --web.listen-address=127.0.0.1:0 --storage.tsdb.path=data"))
            }
        };
        let mut started = Program::spawn(named, &mut self.shell(&command));
        let port = match service {
            Service::Server => started.until_line("ready PORT", |line| line.strip_prefix("ready ").map(str::to_owned)),
            Service::Bridge => started.address().port().to_string(),
            Service::Prometheus => started.until_line("its address", |line| {
                let (_, address) = line.split_once("msg=\"Listening on\" address=")?;
                address.split_once(':').map(|(_, port)| port.to_owned())
            }),
        };
        let shown: Vec<String> = printed.iter().map(|line| line.replace(named, &port)).collect();
        let mut shown = shown.iter();
        if let Some(line) = shown.next() {
            started.until_line(line, |printed| (printed == line).then_some(()));
        }
        assert_eq!(shown.len(), 0, "one line is compared");
        self.ports.insert(named, port);
        self.running.insert(service, started);
    }

    /// Runs a command, a query or a check until it prints what it should: the next snapshot, scrape or tick is some seconds away.
    fn run(&self, command: &str, printed: &[String]) {
        let attempt = || {
            let ended = run(&mut self.shell(command), "");
            let is_printed = |wanted: &&String| ended.stdout.lines().any(|line| line.starts_with(wanted.as_str()));
            match printed.iter().find(|wanted| !is_printed(wanted)) {
                None if ended.is_success() => Ok(()),
                missing => Err(format!("{missing:?} is not in {}", ended.printed())),
            }
        };
        if command.starts_with("promtool query") || command.starts_with("session-buddy-bridge check") {
            eventually(command, attempt);
        } else {
            attempt().unwrap_or_else(|error| panic!("{command}: {error}"));
        }
    }
}

/// A program of the README that runs until it is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Service {
    Server,
    Bridge,
    Prometheus,
}

impl Service {
    /// The program of a command; `None` if the command ends by itself.
    fn of(command: &str) -> Option<Self> {
        if command.starts_with("session-buddy-bridge --") {
            Some(Self::Bridge)
        } else if command.starts_with("prometheus ") {
            Some(Self::Prometheus)
        } else if command.ends_with("metrics_server.py serve") {
            Some(Self::Server)
        } else {
            None
        }
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
                steps.extend(commands.map(|command| Step::Command { command, printed: Vec::new() }));
            }
            "text" => match steps.last_mut() {
                Some(Step::Command { printed, .. }) => printed.extend(text.lines().map(str::to_owned)),
                _ => panic!("no command prints {text:?}"),
            },
            "yaml" => {
                let (name, text) = text.strip_prefix("# ").and_then(|text| text.split_once('\n')).expect("a name");
                // As often as the queries are repeated.
                let text = text.replace("scrape_interval: 15s", "scrape_interval: 1s");
                steps.push(Step::File { name: name.to_owned(), text });
            }
            other => panic!("a block of {other}"),
        }
    }
    let is_shown_query = |step: &&Step| matches!(step, Step::Command { command, printed } if command.starts_with("promtool query") && !printed.is_empty());
    assert_eq!((steps.len(), steps.iter().filter(is_shown_query).count()), (10, 3), "the steps of the README");
    for step in &steps {
        match step {
            Step::Command { command, printed } => match Service::of(command) {
                Some(service) => machine.start(service, command, printed),
                None => machine.run(command, printed),
            },
            Step::File { name, text } => fs::write(machine.home.path().join(name), machine.on_own_ports(text)).unwrap(),
        }
    }
}

/// As a reader who does not wait until the server is ready.
#[test]
fn commands_that_create_one_database_at_the_same_time_wait_for_each_other() {
    let Some(server) = SessionBuddy::find_or_skip() else { return };
    let home = TempDir::new().unwrap();
    let sample = || {
        let command = format!("exec {} sample --count 5 --database skills.db", server.peer_command());
        Program::spawn("sample", Command::new("sh").args(["-c", &command]).current_dir(home.path()))
    };
    let samples = [(); 4].map(|()| sample());
    for ended in samples.map(Program::end) {
        assert!(ended.is_success(), "{}", ended.printed());
    }
    let database = rusqlite::Connection::open(home.path().join("skills.db")).unwrap();
    let stored = database.query_row("SELECT count(*) FROM skill_invocation", [], |row| row.get::<_, u64>(0));
    assert_eq!(stored.unwrap(), 20);
}
