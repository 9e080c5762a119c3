//! A bridge whose disk is full while its receivers are down loses no count, and its queue continues once the disk has space.

use std::collections::BTreeMap;
use std::fs::{File, remove_file};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Signal, geteuid};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::http_client::try_get;
use crate::support::model::{Invocation, invocation_event};
use crate::support::peers::skip;
use crate::support::program::{Program, run};
use crate::support::scrape::{Scrape, Series};
use crate::support::scripted_feed::{Gate, ScriptedFeed, Step};
use crate::support::scripted_receiver::{Action, ScriptedReceiver, Stored};
use crate::support::{eventually_async, holds};

/// The first is counted while the disk has space, the others while it is full. Each is of another skill, so that their rows
/// need more space than the file has left within it.
const INVOCATIONS: usize = 500;

const OWN: &str = "session_buddy_bridge_";

/// A bridge with its state on a file system of 32 MiB that only it sees.
struct Confined {
    program: Program,
    mounted: PathBuf,
    _directory: TempDir,
}

impl Confined {
    /// Returns why there can be no such file system, if there can be none.
    fn obstacle() -> Option<String> {
        let ended = run(Command::new("unshare").args(Self::unshare()).arg("true"), "");
        (!ended.is_success()).then(|| format!("unshare is refused: {}", ended.stderr))
    }

    fn unshare() -> Vec<&'static str> {
        if geteuid().is_root() { vec!["--mount"] } else { vec!["--mount", "--map-root-user"] }
    }

    fn start(arguments: &[String]) -> Self {
        let directory = TempDir::new().unwrap();
        let mut command = Command::new("unshare");
        command
            .args(Self::unshare())
            .args(["sh", "-c", r#"mount -t tmpfs -o size=32m tmpfs "$0" && exec "$@""#])
            .arg(directory.path())
            .arg(env!("CARGO_BIN_EXE_session-buddy-bridge"))
            .arg(format!("--state.path={}", directory.path().join("state.db").display()))
            .args(arguments);
        let program = Program::spawn("the bridge", &mut command);
        let root = Path::new("/proc").join(program.id().to_string()).join("root");
        let mounted = root.join(directory.path().strip_prefix("/").unwrap());
        Self { program, mounted, _directory: directory }
    }

    /// Takes all the space that is left.
    fn fill(&self) {
        let mut filler = File::create(self.mounted.join("filler")).unwrap();
        loop {
            match filler.write_all(&[0; 4096]) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn free(&self) {
        remove_file(self.mounted.join("filler")).unwrap();
    }
}

/// A receiver that is down until it is not.
async fn receiver() -> (ScriptedReceiver, Arc<AtomicBool>) {
    let is_up = Arc::new(AtomicBool::new(false));
    let rule = {
        let is_up = Arc::clone(&is_up);
        move |_: &_, _: &_| match is_up.load(Ordering::Relaxed) {
            true => Action::store(),
            false => Action::status("503 Service Unavailable", "", ""),
        }
    };
    (ScriptedReceiver::start(rule).await, is_up)
}

/// The five families of a scrape that count.
fn counters(scrape: &Scrape) -> BTreeMap<Series, f64> {
    let is_counter = |series: &&Series| series.name.starts_with("skill_") && series.name != "skill_completion_rate";
    let counters = scrape.samples.keys().filter(is_counter);
    counters.map(|series| (series.clone(), scrape.samples[series])).collect()
}

/// `Ok` if the last value of each series is the one shown, to the bit, and none has fallen.
fn agrees(stored: &Stored, shown: &BTreeMap<Series, f64>) -> Result<(), String> {
    for (series, value) in shown {
        let mut labels = series.labels.clone();
        let added = [("__name__", &*series.name), ("instance", "confined"), ("job", "session-buddy")];
        labels.extend(added.map(|(label, value)| (label.to_owned(), value.to_owned())));
        let samples = stored.get(&labels.into_iter().collect::<Vec<_>>()).ok_or_else(|| format!("no {series:?}"))?;
        let values: Vec<_> = samples.values().map(|bits| f64::from_bits(*bits)).collect();
        assert!(values.is_sorted(), "{series:?} falls: {values:?}");
        holds(values.last().map(|last| last.to_bits()) == Some(value.to_bits()), format!("{series:?}: {values:?}"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_while_receivers_are_down_costs_no_count() {
    if let Some(obstacle) = Confined::obstacle() {
        // Which file systems this machine mounts is found out by whoever sets it.
        let is_required = std::env::var("SESSION_BUDDY_BRIDGE_REQUIRE_MOUNTS").is_ok_and(|value| value == "1");
        assert!(!is_required, "{obstacle}, and SESSION_BUDDY_BRIDGE_REQUIRE_MOUNTS=1");
        return skip(&obstacle);
    }
    let gate = Gate::default();
    let event = |number: usize| {
        let skill_name = format!("skill-{number}");
        let invocation = Invocation { skill_name, workflow_phase: None, completed: true, duration_seconds: Some(0.75) };
        Step::send(invocation_event(Some(&number.to_string()), 0, &invocation))
    };
    let script = [event(0), Step::Await(gate.clone())].into_iter().chain((1..INVOCATIONS).map(event));
    let feed = ScriptedFeed::start(vec![script.chain([Step::Await(Gate::default())]).collect()]);
    let (first, second) = (receiver().await, receiver().await);
    let mut bridge = Confined::start(&[
        format!("--feed.url={}", feed.url()),
        format!("--push.url={}", first.0.url()),
        format!("--push.url={}", second.0.url()),
        "--push.label=instance=confined".to_owned(),
        "--push.interval=5s".to_owned(),
        "--web.listen-address=127.0.0.1:0".to_owned(),
    ]);
    let address = bridge.program.address();
    let own = |scrape: &Scrape, name: &str| scrape.sum(&format!("{OWN}{name}"));
    let until = async |what: &str, is_so: &dyn Fn(&Scrape) -> bool| {
        eventually_async(what, async || {
            let scrape = Scrape::try_fetch(address)?;
            if is_so(&scrape) { Ok(scrape) } else { Err("it is not so".to_owned()) }
        })
        .await
    };
    until("the first count to be queued", &|scrape| {
        scrape.sum("skill_duration_seconds_count") == 1.0 && own(scrape, "push_queue_ticks") >= 4.0
    })
    .await;

    bridge.fill();
    gate.open();
    bridge.program.until_stderr("what is wrong", |log| log.contains("database or disk is full"));
    bridge.program.until_stderr("what that means for the queue", |log| log.contains("tick not queued"));
    // What is queued arrives at a receiver that is up, and its answers cannot be committed.
    first.1.store(true, Ordering::Relaxed);
    first.0.until("a tick", |stored| !stored.is_empty()).await;
    // Whoever looks sees why nothing more comes, also of the receiver that is up.
    eventually_async("both receivers to be stalled", async || {
        let answer = try_get(address, "/api/v1/status").map_err(|error| error.to_string())?;
        let status: Value = serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
        let is_stalled = |receiver: &Value| {
            receiver["is_up"] == false
                && receiver["problem"].as_str().is_some_and(|text| text.contains("no tick is queued"))
        };
        let receivers = status["receivers"].as_array().ok_or("no receivers")?;
        holds(receivers.len() == 2 && receivers.iter().all(is_stalled), status["receivers"].to_string())
    })
    .await;

    bridge.free();
    let all = INVOCATIONS as f64;
    let is_durable =
        |scrape: &Scrape| scrape.sum("skill_duration_seconds_count") == all && own(scrape, "state_durable") == 1.0;
    let shown = counters(&until("the disk to take everything", &is_durable).await);
    second.1.store(true, Ordering::Relaxed);
    for (receiver, _) in [&first, &second] {
        eventually_async("the receivers to agree", async || agrees(&receiver.stored(), &shown)).await;
    }
    until("an empty queue", &|scrape| own(scrape, "push_queue_ticks") == 0.0).await;
    bridge.program.until_stderr("that the queue continues", |log| log.contains("push queue takes ticks again"));
    bridge.program.signal(Signal::TERM);
    assert!(bridge.program.end().is_success());
}
