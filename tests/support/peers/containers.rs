//! A Docker daemon of the tests' own, in which docker-compose.yml and Dockerfile run as they are written: the images that they name
//! are stand-ins, which `.ci/install-containers` has built.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::{found_or_skip, peers_directory, skip};
use crate::support::program::{Ended, Program, run, run_within};
use crate::support::scrape::Scrape;
use crate::support::{eventually, in_repository};

/// The stand-in of each image, by the beginning of its name.
const STAND_INS: [(&str, &str); 6] = [
    ("gcr.io/distroless/cc", "distroless"),
    ("grafana/grafana", "grafana"),
    ("prom/prometheus", "prometheus"),
    ("python", "python"),
    ("rust", "rust"),
    ("victoriametrics/victoria-metrics", "victoriametrics"),
];

/// The container that is a machine under systemd, in the network of docker-compose.yml.
const MACHINE: &str = "session-buddy-bridge-machine";

/// For so long compose may build images and await health: a check each 30 s, on a machine that does other things, too.
const COMPOSE_PATIENCE: Duration = Duration::from_secs(300);

/// The project of docker-compose.yml in a daemon of its own. Daemon and containers end with this.
pub struct Containers {
    directory: PathBuf,
    /// The project: what a clone of the repository holds.
    project: TempDir,
    daemon: Program,
    environment: Vec<(&'static str, String)>,
    profiles: Vec<&'static str>,
    /// One daemon at a time uses the images.
    _lock: File,
}

/// Returns why no daemon can be started here, if none can.
fn obstacle() -> Option<String> {
    if !geteuid().is_root() {
        return Some("a Docker daemon needs root".to_owned());
    }
    let arguments = ["--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup", "--fork", "true"];
    let ended = Command::new("unshare").args(arguments).stderr(Stdio::piped()).output();
    match ended {
        Err(error) => Some(format!("unshare cannot be run: {error}")),
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!("unshare is refused: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

impl Containers {
    /// Starts the daemon.
    pub fn find_or_skip() -> Option<Self> {
        if let Some(obstacle) = obstacle() {
            skip(&obstacle);
            return None;
        }
        let directory = peers_directory().join("containers");
        let installed = directory.join("installed").exists();
        let missing = || format!("no stand-ins in {}: run .ci/install-containers", directory.display());
        found_or_skip(installed.then_some(()).ok_or_else(missing))?;
        Some(Self::start(directory))
    }

    fn start(directory: PathBuf) -> Self {
        let lock = File::create(directory.join("lock")).expect("a lock");
        lock.lock().expect("no other daemon");
        let daemon =
            Program::spawn("the Docker daemon", Command::new(in_repository("tests/containers/daemon")).arg(&directory));
        let project = TempDir::new().expect("a temporary directory");
        copy_repository(project.path());
        let containers =
            Self { directory, project, daemon, environment: Vec::new(), profiles: Vec::new(), _lock: lock };
        let mut containers = containers;
        eventually("the Docker daemon to answer", || {
            assert!(!containers.daemon.has_ended(), "the Docker daemon ended: {}", containers.daemon.printed());
            containers.try_docker(&["version"])
        });
        containers.build_rust();
        containers.name_stand_ins();
        // What an earlier run that was killed has left.
        let _ = containers.try_docker(&["rm", "--force", "--volumes", MACHINE]);
        containers.compose(&["--profile=*", "down", "--volumes", "--timeout=1"]);
        containers
    }

    /// Builds the one stand-in that holds the program to test.
    fn build_rust(&self) {
        let context = TempDir::new().expect("a temporary directory");
        for file in ["Dockerfile", "cargo"] {
            fs::copy(in_repository("tests/containers/rust").join(file), context.path().join(file)).expect("a copy");
        }
        let program = context.path().join("session-buddy-bridge");
        strip_program(&program);
        let context = context.path().display().to_string();
        self.docker(&["buildx", "build", "--quiet", "--load", "--tag=stand-in/rust", &context]);
    }

    /// Gives each stand-in the names that docker-compose.yml and the Dockerfiles have for it.
    fn name_stand_ins(&self) {
        let files = ["docker-compose.yml", "Dockerfile", "deploy/session-buddy/Dockerfile"];
        let text: String = files.map(|file| fs::read_to_string(in_repository(file)).expect("text")).concat();
        let named = text.lines().filter_map(|line| {
            let line = line.trim();
            line.strip_prefix("image: ").or_else(|| line.strip_prefix("FROM "))?.split(' ').next()
        });
        let mut names = 0;
        for image in named {
            let (_, stand_in) = STAND_INS.iter().find(|(name, _)| image.starts_with(name)).expect(image);
            self.docker(&["tag", &format!("stand-in/{stand_in}"), image]);
            names += 1;
        }
        assert!(names >= STAND_INS.len(), "{names} images are named");
    }

    /// Sets a variable of the environment in which compose runs.
    pub fn set(&mut self, name: &'static str, value: &str) {
        self.environment.retain(|(set, _)| *set != name);
        self.environment.push((name, value.to_owned()));
    }

    /// Includes the services of a profile.
    pub fn with_profile(&mut self, profile: &'static str) {
        self.profiles.push(profile);
    }

    fn command(&self) -> Command {
        self.as_user_of_docker(Command::new("docker"))
    }

    /// Gives a command the project's folder, and the daemon as that of its user.
    fn as_user_of_docker(&self, mut command: Command) -> Command {
        command
            .current_dir(self.project.path())
            .env("DOCKER_HOST", format!("unix://{}", self.directory.join("docker.sock").display()))
            .env("DOCKER_CONFIG", self.directory.join("config"))
            .env_remove("DOCKER_CONTEXT")
            .envs(self.environment.iter().map(|(name, value)| (*name, value.as_str())));
        command
    }

    /// Runs a command of docker, and returns its standard output, or all that it printed if it failed.
    pub fn try_docker(&self, arguments: &[&str]) -> Result<String, String> {
        let ended = run(self.command().args(arguments), "");
        if ended.is_success() { Ok(ended.stdout) } else { Err(ended.printed()) }
    }

    /// Runs a command of docker, and returns its standard output.
    pub fn docker(&self, arguments: &[&str]) -> String {
        self.try_docker(arguments).unwrap_or_else(|printed| panic!("docker {arguments:?}: {printed}"))
    }

    /// Runs a command of compose, and returns its standard output.
    pub fn compose(&self, arguments: &[&str]) -> String {
        let profiles = self.profiles.iter().map(|profile| format!("--profile={profile}"));
        let Ended { code, stdout, stderr } =
            run_within(self.command().arg("compose").args(profiles).args(arguments), "", COMPOSE_PATIENCE);
        assert_eq!(code, Some(0), "docker compose {arguments:?}: {stderr}{}", self.logs());
        stdout
    }

    /// The last lines of every service, for a test that fails.
    fn logs(&self) -> String {
        self.try_docker(&["compose", "--profile=*", "logs", "--no-color", "--tail=30"]).unwrap_or_else(|error| error)
    }

    /// What `docker inspect` says of the container of a service.
    pub fn inspect(&self, service: &str) -> Value {
        let id = self.compose(&["ps", "--all", "--quiet", service]);
        let text = self.docker(&["inspect", id.trim()]);
        serde_json::from_str::<Value>(&text).expect("JSON")[0].take()
    }

    /// Kills the process of a service as nobody who asks Docker would: by a signal from outside.
    pub fn kill(&self, service: &str) {
        let process = self.inspect(service)["State"]["Pid"].to_string();
        let ended = run(self.inside().args(["--mount", "--pid", "kill", "-9", &process]), "");
        assert!(ended.is_success(), "{}", ended.stderr);
    }

    /// Returns what a port that is published on the loopback interface answers to a GET; text that is not a 200 is an error.
    pub fn get(&self, port: u16, path: &str) -> Result<String, String> {
        let script = format!(
            "exec 3<>/dev/tcp/127.0.0.1/{port} && printf 'GET {path} HTTP/1.0\\r\\nHost: localhost:{port}\\r\\n\\r\\n' >&3 && cat <&3"
        );
        let Ended { stdout, stderr, .. } = run(self.inside().args(["bash", "-c", &script]), "");
        let (head, body) = stdout.split_once("\r\n\r\n").or_else(|| stdout.split_once("\n\n")).ok_or(stderr)?;
        let is_ok = head.split(' ').nth(1) == Some("200");
        if is_ok { Ok(body.to_owned()) } else { Err(stdout) }
    }

    /// Runs a command line as a person would, in the project's folder and in the daemon's network, and returns what it printed.
    pub fn shell(&self, line: &str) -> Ended {
        run_within(self.as_user_of_docker(self.inside()).args(["bash", "-c", line]), "", COMPOSE_PATIENCE)
    }

    /// What the bridge serves.
    pub fn scrape(&self) -> Result<Scrape, String> {
        self.get(9090, "/metrics").and_then(|text| Scrape::parse(&text))
    }

    /// A command within the daemon's network.
    fn inside(&self) -> Command {
        let mut command = Command::new("nsenter");
        let process = self.daemon_process().expect("the daemon runs").as_raw_nonzero();
        command.args(["--net", "--target", &process.to_string()]);
        command
    }

    /// The daemon's own process, which `unshare` has started.
    fn daemon_process(&self) -> Option<Pid> {
        let id = self.daemon.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
        Pid::from_raw(children.split_whitespace().next()?.parse().ok()?)
    }
}

impl Drop for Containers {
    /// Nothing here panics: a test that fails is unwinding.
    fn drop(&mut self) {
        if self.daemon.has_ended() {
            return;
        }
        let down = self.command().args(["compose", "--profile=*", "down", "--volumes", "--timeout=1"]).output();
        if let Err(error) = down {
            eprintln!("the containers are left to the end of the daemon: {error}");
        }
        // Images and volumes are left whole: `unshare`, which would be killed first, kills its child.
        let Some(process) = self.daemon_process() else { return };
        let _ = kill_process(process, Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.daemon.has_ended() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Writes the program to test without its debugging information, as it is given away.
pub fn strip_program(to: &Path) {
    let stripped = run(Command::new("strip").arg("-o").arg(to).arg(env!("CARGO_BIN_EXE_session-buddy-bridge")), "");
    assert!(stripped.is_success(), "{}", stripped.stderr);
}

/// Copies what a clone holds: everything but what was built and the history.
pub fn copy_repository(to: &Path) {
    let root = in_repository("");
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        let within = to.join(folder.strip_prefix(&root).expect("a folder of the repository"));
        fs::create_dir_all(&within).expect("a folder");
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name");
            match path.is_dir() {
                true if name == "target" || name == ".git" => {}
                true => folders.push(path),
                false if name == "Dockerfile" => {
                    // Its first line names an image that reads the file. No registry can be reached: the daemon reads it.
                    let text = fs::read_to_string(&path).expect("text");
                    let rest = text.strip_prefix("# syntax=docker/dockerfile:1\n").unwrap_or(&text);
                    fs::write(within.join(name), rest).expect("a copy");
                }
                false => drop(fs::copy(&path, within.join(name)).expect("a copy")),
            }
        }
    }
}

/// A minimal Debian machine under systemd, beside the services of docker-compose.yml. It ends with this.
pub struct Machine<'a>(&'a Containers);

impl<'a> Machine<'a> {
    /// Boots it. The network of docker-compose.yml exists once one of its services is up.
    pub fn boot(containers: &'a Containers) -> Self {
        let machine = Self(containers);
        // `--privileged` asks for every capability, which not every machine that runs tests has to give.
        let capabilities = ["--cap-add=ALL", "--cap-drop=SYS_RESOURCE", "--cgroupns=private"];
        let unconfined = ["seccomp", "apparmor", "systempaths"].map(|by| format!("--security-opt={by}=unconfined"));
        let volatile = ["--tmpfs=/run", "--tmpfs=/run/lock", "--tmpfs=/tmp"];
        let name = format!("--name={MACHINE}");
        let mut arguments = vec!["run", "--detach", "--network=session-buddy-bridge_default", &name];
        arguments.extend(capabilities.into_iter().chain(unconfined.iter().map(String::as_str)).chain(volatile));
        arguments.push("stand-in/machine");
        containers.docker(&arguments);
        eventually("systemd to have started everything", || {
            machine.try_shell("systemctl is-system-running").map(|_| ())
        });
        machine
    }

    /// Runs a command line as root, and returns its standard output, or all that it printed if it failed.
    pub fn try_shell(&self, line: &str) -> Result<String, String> {
        self.0.try_docker(&["exec", MACHINE, "sh", "-c", line])
    }

    /// Runs a command line as root, and returns its standard output.
    pub fn shell(&self, line: &str) -> String {
        self.try_shell(line).unwrap_or_else(|printed| panic!("{line}: {printed}"))
    }

    /// Copies a file to a path of the machine.
    pub fn copy(&self, file: &Path, to: &str) {
        self.0.docker(&["cp", &file.display().to_string(), &format!("{MACHINE}:{to}")]);
    }
}

impl Drop for Machine<'_> {
    /// Nothing here panics: a test that fails is unwinding.
    fn drop(&mut self) {
        if let Err(error) = self.0.try_docker(&["rm", "--force", "--volumes", MACHINE]) {
            eprintln!("the machine is left to the end of the daemon: {error}");
        }
    }
}
