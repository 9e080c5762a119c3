//! Session-Buddy's own server and storage, from the published packages.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{found_or_skip, peers_directory};
use crate::support::in_repository;
use crate::support::program::{Ended, Program, run};

/// The installed packages.
pub struct SessionBuddy {
    python: PathBuf,
}

/// A running server. Dropping it kills it as a power cut would: its database and its clients get no goodbye.
pub struct RealServer {
    /// The port that it listens on, on 127.0.0.1.
    pub port: u16,
    _program: Program,
}

/// What to store, and how fast.
pub struct Pace {
    pub invocations: u32,
    pub invocations_per_second: f64,
    /// Invocations from one anomaly to the next.
    pub anomaly_every: u32,
    pub skills: u32,
    pub seed: u64,
}

/// What a database holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Truth {
    /// By skill.
    pub skills: BTreeMap<String, SkillTruth>,
    /// How many, by type and skill.
    pub anomalies: BTreeMap<(String, String), u64>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct SkillTruth {
    pub total: u64,
    pub completed: u64,
    /// Of completed invocations.
    pub duration_sum_seconds: f64,
}

impl SessionBuddy {
    pub fn find_or_skip() -> Option<Self> {
        let directory = peers_directory().join("session-buddy");
        let found = match directory.join("installed").exists() {
            true => Ok(Self { python: directory.join("venv/bin/python") }),
            false => Err(format!("no Session-Buddy in {}: run .ci/install-peers", directory.display())),
        };
        found_or_skip(found)
    }

    /// The Python that has the packages' libraries, and the validator of compose files.
    pub fn python(&self) -> Command {
        Command::new(&self.python)
    }

    /// The command, for a shell, that does with `serve`, `check`, `token` or `sample` what the deployed script does.
    pub fn peer_command(&self) -> String {
        format!("'{}' '{}'", self.python.display(), in_repository("tests/programs/peer.py").display())
    }

    fn peer(&self, command: &str) -> Command {
        let mut peer = self.python();
        peer.arg(in_repository("tests/programs/peer.py")).arg(command);
        peer
    }

    /// Starts the server as deployed, on the database, with its interval of one second. Port 0 takes a free one.
    pub fn serve(&self, database: &Path, port: u16, environment: &[(&str, &str)]) -> RealServer {
        self.serve_every(1.0, database, port, environment)
    }

    /// [`SessionBuddy::serve`] with another interval.
    pub fn serve_every(
        &self,
        interval_seconds: f64,
        database: &Path,
        port: u16,
        environment: &[(&str, &str)],
    ) -> RealServer {
        let mut command = self.peer("serve");
        command.args(["--interval", &interval_seconds.to_string(), "--port", &port.to_string(), "--database"]);
        command.arg(database).envs(environment.iter().copied());
        let mut program = Program::spawn("the real server", &mut command);
        let port = program.until_line("ready PORT", |line| line.strip_prefix("ready ")?.parse().ok());
        RealServer { port, _program: program }
    }

    /// The end of a server that refuses to start.
    pub fn try_serve(&self, database: &Path, environment: &[(&str, &str)]) -> Ended {
        let mut command = self.peer("serve");
        run(command.args(["--port", "0", "--database"]).arg(database).envs(environment.iter().copied()), "")
    }

    /// Whether the deployment's health check finds the server well.
    pub fn check(&self, server: &RealServer, environment: &[(&str, &str)]) -> bool {
        let mut command = self.peer("check");
        command.args(["--port", &server.port.to_string()]).envs(environment.iter().copied());
        run(&mut command, "").is_success()
    }

    /// A token that a server with this secret accepts for an hour.
    pub fn token(&self, secret: &str) -> String {
        self.print(self.peer("token").env("SESSION_BUDDY_JWT_SECRET", secret)).trim_end().to_owned()
    }

    /// A token that this server would have accepted until a minute ago.
    pub fn expired_token(&self, secret: &str) -> String {
        let environment = [("SESSION_BUDDY_JWT_SECRET", secret), ("SESSION_BUDDY_TOKEN_EXPIRY", "-60")];
        self.print(self.peer("token").envs(environment)).trim_end().to_owned()
    }

    /// Starts storing; the process ends when all is stored.
    pub fn drive(&self, database: &Path, pace: &Pace) -> Program {
        let mut command = self.peer("drive");
        command
            .arg(database)
            .args(["--invocations", &pace.invocations.to_string()])
            .args(["--per-second", &pace.invocations_per_second.to_string()])
            .args(["--anomaly-every", &pace.anomaly_every.to_string()])
            .args(["--skills", &pace.skills.to_string()])
            .args(["--seed", &pace.seed.to_string()]);
        Program::spawn("the driver", &mut command)
    }

    /// Stores `{"invocations": [...], "anomalies": [...]}`; an invocation's `times` repeats it.
    pub fn store(&self, database: &Path, plan: &Value) {
        self.print(self.peer("store").arg(database).arg(plan.to_string()));
    }

    pub fn truth(&self, database: &Path) -> Truth {
        let printed = self.print(self.peer("truth").arg(database));
        let truth: Value = serde_json::from_str(&printed).expect("the truth is JSON");
        let text = |value: &Value| value.as_str().expect("a string").to_owned();
        let count = |value: &Value| value.as_u64().expect("a count");
        let skill = |row: &Value| SkillTruth {
            total: count(&row["total"]),
            completed: count(&row["completed"]),
            duration_sum_seconds: row["duration_sum_seconds"].as_f64().expect("seconds"),
        };
        let rows = |table: &str| truth[table].as_array().expect("a table").clone();
        Truth {
            skills: rows("skills").iter().map(|row| (text(&row["skill_name"]), skill(row))).collect(),
            anomalies: rows("anomalies")
                .iter()
                .map(|row| ((text(&row["anomaly_type"]), text(&row["skill_name"])), count(&row["count"])))
                .collect(),
        }
    }

    fn print(&self, command: &mut Command) -> String {
        let ended = run(command, "");
        assert!(ended.is_success(), "{command:?} failed: {}", ended.stderr);
        ended.stdout
    }
}

impl Truth {
    pub fn invocations(&self) -> u64 {
        self.skills.values().map(|skill| skill.total).sum()
    }
}
