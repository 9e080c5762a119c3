//! A bridge that was stopped (SIGSTOP, a paused container) reads what arrived meanwhile before it believes in silence.

use std::time::Duration;

use rustix::process::Signal;

use crate::support::http_client;
use crate::support::model::{Database, Invocation, SECOND, invocation_event};
use crate::support::program::Program;
use crate::support::scrape::Scrape;
use crate::support::scripted_feed::{Clock, Gate, ScriptedFeed, Step};
use crate::support::{equal, eventually, eventually_async, holds};

const EVENTS: usize = 62;

const ROUND: Duration = Duration::from_millis(100);

/// Several times the timeout for silence that the bridge is given.
const STANDSTILL: Duration = Duration::from_secs(8);

fn invocation() -> Invocation {
    Invocation {
        skill_name: "pytest-run".to_owned(),
        workflow_phase: Some("execution".to_owned()),
        completed: true,
        duration_seconds: Some(0.25),
    }
}

/// A snapshot a round, with a timestamp of its own.
fn rounds(until: &Gate, clock: Clock, database: &Database) -> Step {
    let database = database.clone();
    Step::Clocked(until.clone(), clock, Box::new(move |round| database.snapshot(round as i64 * SECOND)))
}

/// A bridge that takes 2 s without a message for silence, and keeps no state.
fn bridge_of(server: &ScriptedFeed) -> Program {
    let url = server.url();
    let feed = ["--feed.url", url.as_str(), "--feed.silence-timeout", "2s"];
    Program::start(feed.into_iter().chain(["--web.listen-address", "127.0.0.1:0", "--state.disabled"]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_arrive_while_it_is_stopped_are_counted_with_their_phase() {
    let mut before = Database::default();
    before.invocations.push(invocation());
    let mut after = before.clone();
    after.invocations.extend(vec![invocation(); EVENTS]);
    let (is_stopped, never, clock) = (Gate::default(), Gate::default(), Clock::new(ROUND));
    let mut script = vec![rounds(&is_stopped, clock, &before)];
    let event = |index: usize| Step::send(invocation_event(Some(&format!("event-{index}")), 0, &invocation()));
    script.extend((0..EVENTS).map(event));
    script.push(rounds(&never, clock, &after));
    // A bridge that gave the connection up would learn of the invocations, and of no phase.
    let server = ScriptedFeed::start(vec![script, vec![rounds(&never, clock, &after)]]);

    let mut program = bridge_of(&server);
    let address = program.address();
    let executed = |scrape: &Scrape| {
        let labels = [("skill_name", "pytest-run"), ("workflow_phase", "execution"), ("completed", "true")];
        scrape.value("skill_invocations_total", &labels)
    };
    let total = |scrape: &Scrape| scrape.sum("skill_invocations_total");
    eventually("the first snapshot", || equal(&total(&Scrape::try_fetch(address)?), &1.0));

    program.signal(Signal::STOP);
    is_stopped.open();
    server.reached(1, 1 + EVENTS).await;
    tokio::time::sleep(STANDSTILL).await;
    program.signal(Signal::CONT);

    let all = 1.0 + EVENTS as f64;
    let scrape = eventually_async("every invocation", async || {
        let scrape = Scrape::try_fetch(address)?;
        holds(total(&scrape) == all, total(&scrape)).map(|()| scrape)
    })
    .await;
    assert_eq!(executed(&scrape), Some(EVENTS as f64), "with the phase that its event has");
    assert_eq!(http_client::get(address, "/-/ready").status, 200);
    assert_eq!(server.visits().len(), 1, "it never left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_says_nothing_after_a_standstill_is_silent_all_the_same() {
    let (is_stopped, never, clock) = (Gate::default(), Gate::default(), Clock::new(ROUND));
    let database = Database { invocations: vec![invocation()], ..Database::default() };
    let server = ScriptedFeed::start(vec![
        vec![rounds(&is_stopped, clock, &database), Step::Await(never.clone())],
        vec![rounds(&never, clock, &database)],
    ]);
    let mut program = bridge_of(&server);
    let address = program.address();
    eventually("a live feed", || holds(http_client::get(address, "/-/ready").status == 200, "not yet"));

    program.signal(Signal::STOP);
    is_stopped.open();
    server.reached(1, 1).await;
    tokio::time::sleep(STANDSTILL).await;
    program.signal(Signal::CONT);
    server.connected(2).await;
    program.until_stderr("the reason", |log| log.contains("code=silent"));
}
