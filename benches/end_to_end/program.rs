//! Processes that are measured.

use std::collections::HashMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::Outcome;
use crate::children::CHILD;

const SENDER_CORE: usize = 0;
const MEASURED_CORE: &str = "1";

/// Names another build of the bridge that is to be measured, such as that of an earlier commit.
const BRIDGE: &str = "BENCH_BRIDGE";

/// Names an earlier build of the bridge that is measured in turns with this one.
const EARLIER_BRIDGE: &str = "BENCH_EARLIER_BRIDGE";

/// The unit of the package, whose environment the bridge is measured in.
const UNIT: &str = include_str!("../../deploy/systemd/session-buddy-bridge.service");

/// A process on the second core, killed when dropped.
pub struct Program {
    child: Child,
    /// Nanoseconds of processor time of each thread, as last read.
    thread_nanos: Mutex<HashMap<OsString, f64>>,
}

/// Keeps this process, which sends and scrapes, on the first core. Where there is only one, everything shares it.
pub fn pin_this_process() {
    let mut cores = CpuSet::new();
    cores.set(SENDER_CORE);
    if let Err(error) = sched_setaffinity(None::<Pid>, &cores) {
        eprintln!("not pinned to a core: {error}");
    }
}

/// The build of the bridge that is measured.
pub fn measured_bridge() -> PathBuf {
    env::var_os(BRIDGE).unwrap_or_else(|| env!("CARGO_BIN_EXE_measured-bridge").into()).into()
}

/// The earlier build, if one is named.
pub fn earlier_bridge() -> Option<PathBuf> {
    env::var_os(EARLIER_BRIDGE).map(PathBuf::from)
}

/// An address that was free a moment ago.
pub fn free_address() -> Outcome<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Returns the environment that the unit sets, without settings of the bridge: those of the C library's heap.
fn unit_environment() -> impl Iterator<Item = (&'static str, &'static str)> {
    let variables = UNIT.lines().filter_map(|line| line.strip_prefix("Environment=")?.split_once('='));
    variables.filter(|(name, _)| !name.starts_with("SESSION_BUDDY_BRIDGE_"))
}

/// Returns the bytes that write calls took, of a file `io` of `/proc`.
pub fn written_bytes(io: &Path) -> Outcome<f64> {
    let counters = fs::read_to_string(io)?;
    let line = counters.lines().find_map(|line| line.strip_prefix("wchar:")).ok_or("no wchar")?;
    Ok(line.trim().parse()?)
}

impl Program {
    pub fn start<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: impl IntoIterator<Item = S>) -> Outcome<Self> {
        Self::start_in([], program, arguments)
    }

    fn start_in<S: AsRef<OsStr>>(
        environment: impl IntoIterator<Item = (&'static str, &'static str)>,
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = S>,
    ) -> Outcome<Self> {
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", MEASURED_CORE]).arg(program).args(arguments).envs(environment);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        if env::var_os("BENCH_LOG").is_none() {
            command.stderr(Stdio::null());
        }
        Ok(Self { child: command.spawn()?, thread_nanos: Mutex::default() })
    }

    /// This very program as a ceiling.
    pub fn ceiling(arguments: &[&str]) -> Outcome<Self> {
        let arguments = [CHILD].iter().chain(arguments);
        Self::start(env::current_exe()?, arguments)
    }

    /// The build of the bridge at `path`, in memory, with arguments that each build has.
    pub fn bridge_at(path: &Path, feed_url: &str, listen: SocketAddr) -> Outcome<Self> {
        let listen = format!("--web.listen-address={listen}");
        let arguments = ["--feed.url", feed_url, "--feed.silence-timeout=1h", &listen, "--state.disabled"];
        Self::start_in(unit_environment(), path, arguments)
    }

    /// The bridge in the environment of its unit, in memory unless there is a place for its state.
    pub fn bridge(feed_url: &str, listen: SocketAddr, state: Option<&Path>) -> Outcome<Self> {
        Self::bridge_with(feed_url, listen, state, &[])
    }

    /// The same with `more` arguments.
    pub fn bridge_with(feed_url: &str, listen: SocketAddr, state: Option<&Path>, more: &[String]) -> Outcome<Self> {
        let listen = format!("--web.listen-address={listen}");
        let state = match state {
            Some(path) => format!("--state.path={}", path.display()),
            None => "--state.disabled".to_owned(),
        };
        let limits = ["--limit.skills=1000000", "--limit.remembered-skills=1000000", "--limit.series=10000000"];
        // Feeds here send events for longer than a server may go without a snapshot.
        let arguments = ["--feed.url", feed_url, "--feed.silence-timeout=1h", &listen, &state];
        let more = more.iter().map(String::as_str);
        Self::start_in(unit_environment(), measured_bridge(), arguments.into_iter().chain(limits).chain(more))
    }

    /// The id of the process: `taskset` becomes what it starts.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Bytes that its write calls took since the start.
    pub fn written_bytes(&self) -> Outcome<f64> {
        written_bytes(Path::new(&format!("/proc/{}/io", self.child.id())))
    }

    /// KiB resident now.
    pub fn resident_kib(&self) -> Outcome<f64> {
        self.status_kib("VmRSS:")
    }

    /// KiB resident now that no file holds.
    pub fn anonymous_kib(&self) -> Outcome<f64> {
        self.status_kib("RssAnon:")
    }

    fn status_kib(&self, key: &str) -> Outcome<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(key)).ok_or_else(|| format!("no {key}"))?;
        Ok(line.trim_end_matches("kB").trim().parse()?)
    }

    /// Milliseconds of processor time since the start. That of a thread that has ended, as those that write a body do once they are
    /// idle for 10 s, is what it was at the last call: between two calls there may be no more than that.
    pub fn cpu_millis(&self) -> Outcome<f64> {
        let mut thread_nanos = self.thread_nanos.lock().map_err(|_| "a reading that panicked")?;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let task = task?;
            let schedstat = match fs::read_to_string(task.path().join("schedstat")) {
                Ok(schedstat) => schedstat,
                // It ended just now.
                Err(_) => continue,
            };
            let nanos = schedstat.split(' ').next().ok_or("an empty schedstat")?.parse()?;
            thread_nanos.insert(task.file_name(), nanos);
        }
        Ok(thread_nanos.values().sum::<f64>() / 1e6)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
