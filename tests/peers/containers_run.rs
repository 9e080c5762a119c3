//! docker-compose.yml and Dockerfile, as they are written, in a real Docker daemon: everything comes up healthy, is published to this
//! machine alone, and each invocation is served once, whatever happens to the containers. Base images are stand-ins.

use std::collections::BTreeMap;
use std::fs::{self, Permissions, read_to_string};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use crate::support::peers::containers::Containers;
use crate::support::{eventually, holds, in_repository};
use serde_json::Value;

/// More skills than a feed lists.
const SKILLS: &str = "14";

/// The project, and what was stored for its server.
struct Project {
    containers: Containers,
    stored: u32,
}

impl Project {
    /// Stores further invocations.
    fn drive(&mut self, count: u32) {
        let sample = ["metrics_server.py", "sample", "--count", &count.to_string(), "--skills", SKILLS];
        self.containers.compose(&[&["exec", "-T", "session-buddy", "python"], &sample[..]].concat());
        self.stored += count;
    }

    /// Starts what is down, and awaits the health of everything.
    fn up(&self) {
        self.containers.compose(&["up", "--build", "--detach", "--wait", "--quiet-pull"]);
    }

    /// Awaits that everything stored is served, and nothing more.
    fn await_served(&self, after: &str) {
        eventually(after, || {
            let scrape = self.containers.scrape()?;
            let served = scrape.sum("skill_invocations_total");
            assert!(served <= f64::from(self.stored), "{after}: {served} of {} are served", self.stored);
            if served == f64::from(self.stored) { Ok(()) } else { Err(format!("{served} of {}", self.stored)) }
        });
    }

    /// The values of a query at VictoriaMetrics, by instance.
    fn received(&self, query: &str) -> Result<BTreeMap<String, f64>, String> {
        let answer = self.containers.get(8428, &format!("/api/v1/query?query={query}"))?;
        let answer: Value = serde_json::from_str(&answer).map_err(|error| error.to_string())?;
        let series = answer["data"]["result"].as_array().ok_or("no result")?;
        let value = |series: &Value| {
            let instance = series["metric"]["instance"].as_str().unwrap_or_default().to_owned();
            (instance, series["value"][1].as_str().unwrap_or_default().parse().unwrap_or(f64::NAN))
        };
        Ok(series.iter().map(value).collect())
    }
}

#[test]
fn every_invocation_is_served_once_whatever_happens_to_the_containers() {
    let Some(mut containers) = Containers::find_or_skip() else { return };
    containers.with_profile("push");
    containers.set("SESSION_BUDDY_PUSH_URL", "http://victoriametrics:8428/api/v1/write");
    let mut project = Project { containers, stored: 0 };

    project.up();
    for service in ["session-buddy", "bridge", "prometheus", "grafana", "victoriametrics"] {
        let container = project.containers.inspect(service);
        assert_eq!(container["State"]["Health"]["Status"], "healthy", "{service}");
        let published = container["HostConfig"]["PortBindings"].as_object().expect("ports").values();
        for port in published.flat_map(|bindings| bindings.as_array().expect("a list")) {
            assert_eq!(port["HostIp"], "127.0.0.1", "{service}: {port}");
        }
    }
    let log = project.containers.compose(&["logs", "--no-color", "bridge"]);
    assert!(log.contains("msg=listening"), "{log}");
    assert!(!log.contains("every machine that can reach"), "the image warns about its own address: {log}");
    project.drive(100);
    project.await_served("the first invocations to be served");

    project.containers.kill("bridge");
    project.drive(50);
    project.await_served("what was stored after a kill to be served");

    let bridge =
        project.containers.inspect("bridge")["Name"].as_str().expect("a name").trim_start_matches('/').to_owned();
    let network = "session-buddy-bridge_default";
    project.containers.docker(&["network", "disconnect", network, &bridge]);
    project.drive(50);
    project.containers.docker(&["network", "connect", "--alias=bridge", network, &bridge]);
    project.await_served("what was stored without a network to be served");

    project.containers.compose(&["pause", "bridge"]);
    project.drive(50);
    project.containers.compose(&["unpause", "bridge"]);
    project.await_served("what was stored during a pause to be served");

    project.containers.compose(&["restart", "session-buddy"]);
    project.drive(50);
    project.await_served("what was stored after a restart of the server to be served");

    // Docker kills what has not ended after 10 s: 137 then.
    project.containers.compose(&["stop"]);
    for service in ["session-buddy", "bridge", "victoriametrics"] {
        assert_eq!(project.containers.inspect(service)["State"]["ExitCode"], 0, "{service}");
    }
    project.containers.compose(&["down"]);
    // The state, the database and what the receiver has stored are in volumes.
    project.containers.set("SESSION_BUDDY_AUTH_ENABLED", "true");
    let secret = tempfile::NamedTempFile::new().unwrap();
    fs::write(secret.path(), "of-the-test-0123456789abcdef\n").unwrap();
    fs::set_permissions(secret.path(), Permissions::from_mode(0o644)).unwrap();
    project.containers.set("SESSION_BUDDY_JWT_SECRET_FILE", &secret.path().display().to_string());
    project.up();
    project.drive(50);
    project.await_served("what was stored behind authentication to be served");
    let scrape = project.containers.scrape().expect("a scrape");
    assert_eq!(scrape.series("session_buddy_bridge_feed_up").values().copied().collect::<Vec<_>>(), [1.0]);

    // The last tick of a bridge that ends is sent at once.
    project.containers.compose(&["stop", "bridge"]);
    let all = BTreeMap::from([("session-buddy-bridge".to_owned(), f64::from(project.stored))]);
    eventually("everything to be at the receiver under one instance", || {
        match project.received("sum(last_over_time(skill_invocations_total[1h]))by(instance)")? {
            received if received == all => Ok(()),
            received => Err(format!("{received:?}")),
        }
    });
    assert_eq!(
        project.received("sum(resets(skill_invocations_total[1h]))").expect("an answer").into_values().sum::<f64>(),
        0.0
    );
}

/// A user of this host that no image has.
const HOST_USER: u32 = 12_345;

#[test]
fn a_database_of_this_host_is_served_under_its_owner_and_stays_the_owners() {
    let Some(mut containers) = Containers::find_or_skip() else { return };
    let data = tempfile::tempdir().unwrap();
    chown(data.path(), Some(HOST_USER), Some(HOST_USER)).unwrap();
    fs::set_permissions(data.path(), Permissions::from_mode(0o700)).unwrap();
    containers.set("SESSION_BUDDY_DATA", &data.path().display().to_string());
    // As the images' own users, neither may look into the directory.
    containers.compose(&["up", "--build", "--detach", "--quiet-pull", "bridge"]);
    eventually("the bridge to say that it may not read the database", || {
        let log = containers.compose(&["logs", "--no-color", "bridge"]);
        let wanted = [
            "database unavailable",
            "/var/lib/session-buddy/skills.db",
            "run session-buddy-bridge as the owner of the database",
        ];
        holds(wanted.iter().all(|part| log.contains(part)), log)
    });
    containers.compose(&["down", "--volumes"]);

    containers.set("SESSION_BUDDY_USER", &HOST_USER.to_string());
    let mut project = Project { containers, stored: 0 };
    project.containers.compose(&["up", "--detach", "--wait", "session-buddy", "bridge"]);
    project.drive(50);
    project.await_served("the invocations in the database of this host to be served");
    let scrape = project.containers.scrape().expect("a scrape");
    assert_eq!(scrape.series("session_buddy_bridge_detail_up").values().copied().collect::<Vec<_>>(), [1.0]);
    let files: Vec<_> = fs::read_dir(data.path()).unwrap().map(Result::unwrap).collect();
    assert!(files.len() > 1, "the database and its log: {files:?}");
    for file in files {
        assert_eq!(file.metadata().unwrap().uid(), HOST_USER, "{file:?}");
    }
}

/// A command of the tutorial, and the lines that it says are printed, or the beginnings of these.
struct TutorialStep {
    command: String,
    printed: Vec<String>,
}

fn tutorial() -> Vec<TutorialStep> {
    let text = read_to_string(in_repository("docs/tutorial.md")).unwrap();
    let mut steps: Vec<TutorialStep> = Vec::new();
    for block in text.split("\n```").skip(1).step_by(2) {
        let (language, lines) = block.split_once('\n').expect("a language");
        match language {
            "console" => {
                let commands = lines.lines().map(|line| line.strip_prefix("$ ").expect("a prompt").to_owned());
                steps.extend(commands.map(|command| TutorialStep { command, printed: Vec::new() }));
            }
            "text" => steps.last_mut().expect("a command").printed.extend(lines.lines().map(str::to_owned)),
            other => panic!("a block of {other}"),
        }
    }
    steps
}

#[test]
fn the_tutorial_prints_what_it_says() {
    let Some(containers) = Containers::find_or_skip() else { return };
    let steps = tutorial();
    assert!(steps.len() > 8, "only {} commands were found", steps.len());
    for TutorialStep { command, printed } in steps {
        let run = || {
            let ended = containers.shell(&command);
            let is_printed =
                |wanted: &String| ended.stdout.lines().any(|line| line.trim_end().starts_with(wanted.as_str()));
            match printed.iter().find(|line| !is_printed(line)) {
                _ if !ended.is_success() => Err(format!("{}{}", ended.stdout, ended.stderr)),
                Some(missing) => Err(format!("{missing:?} is not in {}", ended.stdout)),
                None => Ok(()),
            }
        };
        // What looks may look too early: the next snapshot or scrape is a second or fifteen away.
        if command.contains("curl ") || command.contains("promtool query") {
            eventually(&command, run);
        } else {
            run().unwrap_or_else(|error| panic!("{command}: {error}"));
        }
    }
}
