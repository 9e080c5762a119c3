//! A hundred thousand mutated frames and ten thousand mutated HTTP requests: no panic, and nothing valid is lost.
//!
//! What a mutated frame means nobody can say: bits of it may well be a valid message. So what is valid beside it is told of
//! skills that no mutated frame can name, by events on the same connection; and beside frames that are refused whole, by
//! snapshots too, which any message that slipped through would disturb.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::panic;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::support::alone::alone;
use crate::support::http_client::{self, Connection};
use crate::support::model::{Database, Invocation, START_MICROS, invocation_event};
use crate::support::running_bridge::{RunningBridge, counted};
use crate::support::scrape::Scrape;
use crate::support::scripted_feed::{Gate, ScriptedFeed, Step};
use crate::support::shown::Shown;
use crate::support::{equal, eventually};
use session_buddy_bridge::internals::ledger::{ConnectionId, FeedSpec, Ledger, Limits, Now};
use session_buddy_bridge::internals::protocol;
use session_buddy_bridge::settings::FeedTarget;
use session_buddy_bridge::{Bridge, Settings};
use tokio_util::sync::CancellationToken;

const FRAMES: usize = 100_000;

/// One valid message for so many mutated ones.
const VALID_EVERY: usize = 20;

const FRAMES_OVER_A_SOCKET: usize = 3_000;

const REQUESTS: usize = 10_000;
const CLIENTS: usize = 8;

/// Of any thread of this process, since requests are sent.
static PANICS: AtomicUsize = AtomicUsize::new(0);

/// What no mutation comes upon by itself.
const VALID_SKILL: &str = "valid-0b9f6c1e";

/// Real frames, and one of each kind of event.
fn frames() -> Vec<Vec<u8>> {
    let recorded = include_str!("../recordings/busy.ndjson").lines().filter_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).expect("a line of a recording");
        Some(line["frame"].as_str()?.as_bytes().to_vec())
    });
    let events = [
        r#"{"type":"skill_invocation","data":{"skill_name":"a","workflow_phase":"setup","completed":true,"duration_seconds":1.5}}"#,
        r#"{"id":"7","type":"event","event":"skill.invoked","data":{"skill_name":"a","completed":false},"timestamp":"2026-11-22T10:24:23+00:00"}"#,
        r#"{"type":"completion_rate","data":{"skill_name":"b","rate":0.5}}"#,
        r#"{"id":"8","type":"event","event":"anomaly.detected","data":{"skill_name":"a","anomaly_type":"drop","deviation_score":2.5}}"#,
        r#"{"type":"active_sessions","data":{"count":3}}"#,
        r#"[{"type":"pong"},{"type":"event","event":"session.created","data":{"session_id":"s"}}]"#,
    ];
    let events = events.into_iter().map(|event| event.as_bytes().to_vec());
    recorded.step_by(7).take(10).chain(events).collect()
}

const SPLINTERS: [&[u8]; 16] = [
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"-1",
    b"9007199254740993",
    b"\\ud800",
    b"\\u0000",
    b"\0",
    b"\xff\xfe",
    b"[[[[[[[[",
    b"}}}}",
    b"null",
    b"\"type\":\"event\",",
    b",",
    b"\xf0\x9f\x98\x80",
    b"\"skill_name\":\"\",",
];

/// `bytes` with one to four things done to it, `others` being what it can be crossed with.
fn mutate(bytes: &[u8], others: &[Vec<u8>], splinters: &[&[u8]], chance: &mut fastrand::Rng) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for _ in 0..chance.usize(1..5) {
        let place = chance.usize(0..=out.len());
        let end = (place + chance.usize(1..20)).min(out.len());
        match chance.u8(0..8) {
            0 if place < out.len() => out[place] ^= 1 << chance.u8(0..8),
            1 => out.insert(place, chance.u8(..)),
            2 => drop(out.drain(place..end)),
            3 => out.truncate(place),
            4 => drop(out.splice(place..place, splinters[chance.usize(0..splinters.len())].iter().copied())),
            5 => drop(out.splice(place..end, splinters[chance.usize(0..splinters.len())].iter().copied())),
            6 => {
                let other = &others[chance.usize(0..others.len())];
                let from = chance.usize(0..=other.len());
                out.truncate(place);
                out.extend_from_slice(&other[from..]);
            }
            _ => {
                let again = out[place..end].to_vec();
                drop(out.splice(place..place, again));
            }
        }
    }
    if chance.u32(0..500) == 0 {
        let place = chance.usize(0..=out.len());
        let long = vec![b"[{\"a"[chance.usize(0..4)]; 20_000];
        drop(out.splice(place..place, long));
    }
    out
}

fn valid(number: usize) -> Invocation {
    Invocation {
        skill_name: VALID_SKILL.to_owned(),
        workflow_phase: Some("setup".to_owned()),
        completed: !number.is_multiple_of(3),
        duration_seconds: (!number.is_multiple_of(3)).then_some(0.25),
    }
}

struct Fed {
    ledger: Ledger,
    connection: ConnectionId,
    at_micros: i64,
}

impl Fed {
    fn new() -> Self {
        // Room for every name that a mutation makes up: what lies beyond a limit is refused, whoever tells it.
        let limits = Limits { skills_max: 1 << 20, remembered_skills_max: 1 << 20, ..Limits::default() };
        let mut ledger = Ledger::new(limits);
        let feed = ledger.add_feed(FeedSpec { identity: "feed".to_owned(), ..FeedSpec::default() });
        let connection = ledger.open(feed, Now { wall_micros: START_MICROS, elapsed: Duration::ZERO });
        Self { ledger, connection, at_micros: 0 }
    }

    fn now(&self) -> Now {
        Now {
            wall_micros: START_MICROS + self.at_micros,
            elapsed: Duration::from_micros(self.at_micros.unsigned_abs()),
        }
    }

    /// How many messages and how many refusals the frame was.
    fn hear(&mut self, frame: &str) -> (usize, usize) {
        self.at_micros += 10_000;
        let (now, mut heard) = (self.now(), (0, 0));
        protocol::read(frame, &protocol::Limits::default(), &mut |message| match message {
            Ok(message) => {
                heard.0 += 1;
                self.ledger.apply(self.connection, &message, now, &mut Vec::new());
            }
            Err(_) => heard.1 += 1,
        });
        heard
    }

    fn show(&mut self, shown: &mut Shown) {
        let now = self.now();
        self.ledger.tick(now, &mut Vec::new());
        let changes = self.ledger.drain(now);
        self.ledger.acknowledge(changes.sequence);
        shown.fold(changes);
    }
}

fn refused_whole(frame: &str) -> bool {
    let mut messages = 0;
    protocol::read(frame, &protocol::Limits::default(), &mut |message| messages += usize::from(message.is_ok()));
    messages == 0
}

#[test]
fn mutated_frames_cost_no_valid_one() {
    let bases = frames();
    let mut chance = fastrand::Rng::with_seed(20_261_122);
    let (mut noisy, mut noisy_shown) = (Fed::new(), Shown::default());
    let (mut strict, mut strict_shown, mut database) = (Fed::new(), Shown::default(), Database::default());
    let (mut sent, mut not_text, mut refused, mut applied) = (0_u64, 0, 0, 0);
    strict.hear(&database.snapshot(0));
    for number in 0..FRAMES {
        let base = &bases[chance.usize(0..bases.len())];
        let mutated = mutate(base, &bases, &SPLINTERS, &mut chance);
        match str::from_utf8(&mutated) {
            // The WebSocket library ends the connection: no room further in ever sees it.
            Err(_) => not_text += 1,
            Ok(frame) => {
                let heard = noisy.hear(frame);
                let is_empty_array = serde_json::from_str::<Vec<()>>(frame).is_ok_and(|array| array.is_empty());
                assert!(heard != (0, 0) || is_empty_array, "frame {number} vanished: {frame:?}");
                if refused_whole(frame) {
                    refused += 1;
                    strict.hear(frame);
                } else {
                    applied += 1;
                }
            }
        }
        if number % VALID_EVERY == 0 {
            let invocation = valid(number);
            let event = invocation_event(Some(&format!("{VALID_SKILL}-{number}")), noisy.at_micros, &invocation);
            assert_eq!(noisy.hear(&event), (1, 0));
            sent += 1;
            database.invocations.push(Invocation { skill_name: format!("skill-{}", number % 7), ..invocation });
            assert_eq!(strict.hear(&database.snapshot(strict.at_micros)), (1, 0));
        }
        if number % 1_000 == 0 {
            noisy.show(&mut noisy_shown);
            strict.show(&mut strict_shown);
        }
    }
    noisy.show(&mut noisy_shown);
    strict.show(&mut strict_shown);

    let counts = noisy_shown.counts();
    let of_valid: u64 = counts.iter().filter(|((skill, _), _)| skill == VALID_SKILL).map(|(_, count)| count).sum();
    assert_eq!(of_valid, sent, "every valid event counts once");
    let completed = counts[&(VALID_SKILL.to_owned(), true)];
    assert_eq!(noisy_shown.durations(VALID_SKILL).sum, 0.25 * completed as f64);
    assert_eq!(strict_shown.counts(), database.counts(), "frames that are refused change nothing");
    assert_eq!(strict_shown.feed(0).resets, 0);
    assert!([not_text, refused, applied].iter().all(|frames| *frames > FRAMES / 50), "{not_text} {refused} {applied}");
    println!(
        "{FRAMES} frames: {not_text} were no text, {refused} refused whole, {applied} understood in part or whole"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn mutated_frames_over_a_socket_cost_no_valid_one() {
    let bases = frames();
    let mut chance = fastrand::Rng::with_seed(7);
    let (done, mut steps, mut sent) = (Gate::default(), Vec::new(), 0);
    for number in 0..FRAMES_OVER_A_SOCKET {
        let base = &bases[chance.usize(0..bases.len())];
        if let Ok(frame) = String::from_utf8(mutate(base, &bases, &SPLINTERS, &mut chance)) {
            steps.push(Step::send(frame));
        }
        if number % VALID_EVERY == 0 {
            let id = format!("{VALID_SKILL}-{number}");
            steps.push(Step::send(invocation_event(Some(&id), 0, &valid(number))));
            sent += 1;
        }
    }
    steps.push(Step::Await(done.clone()));
    let feed = ScriptedFeed::start(vec![steps]);
    let bridge = RunningBridge::start(Settings::new(vec![FeedTarget::new(feed.url().as_str()).unwrap()]));
    let of_valid = |scrape: &Scrape| {
        let series = scrape.series("skill_invocations_total");
        series
            .into_iter()
            .filter(|(labels, _)| labels["skill_name"] == VALID_SKILL)
            .map(|(_, count)| count as u64)
            .sum()
    };
    bridge.until("every valid event to count once", &(sent as u64), of_valid).await;
    assert_eq!(
        counted(&bridge.scrape().await, "feed_connects_total", "feed").values().sum::<u64>(),
        1,
        "one connection"
    );
    done.open();
    bridge.stop().await;
}

fn requests() -> Vec<Vec<u8>> {
    [
        "GET /metrics HTTP/1.1\r\nHost: test\r\nAccept: text/plain;version=0.0.4\r\n\r\n",
        "HEAD /metrics HTTP/1.1\r\nHost: test\r\nAccept-Encoding: gzip\r\n\r\n",
        "POST /metrics HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "GET /-/ready HTTP/1.0\r\n\r\nGET / HTTP/1.1\r\nHost: test\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: test\r\nConnection: keep-alive, upgrade\r\nUpgrade: websocket\r\n\r\n",
    ]
    .map(|request| request.as_bytes().to_vec())
    .to_vec()
}

const REQUEST_SPLINTERS: [&[u8]; 14] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b":",
    b"Content-Length: 99999999999999999999\r\n",
    b"Content-Length: -1\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"HTTP/9.9",
    b"\xff",
    b"%00%2e%2e%2f",
    b"Host: a\r\nHost: b\r\n",
    b"Expect: 100-continue\r\n",
];

/// The statuses of the responses in `answer`, each of which is whole.
///
/// # Errors
/// What is not, of a head, a body or a scrape.
fn statuses(mut answer: &[u8], may_be_to_head: bool) -> Result<Vec<u16>, String> {
    let mut statuses = Vec::new();
    while !answer.is_empty() {
        let head_bytes = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").ok_or("its head is not whole")? + 4;
        let head = str::from_utf8(&answer[..head_bytes]).map_err(|error| error.to_string())?;
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.")?.get(2..5)?.parse::<u16>().ok());
        let status = status.ok_or_else(|| format!("it begins with {head:?}"))?;
        let value = |name: &str| {
            let mut headers = lines.clone().filter_map(|line| line.split_once(": "));
            headers.find(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| value)
        };
        let rest = &answer[head_bytes..];
        let body_bytes = match value("content-length") {
            _ if status < 200 => 0,
            // The response to a HEAD has the length of the body that it lacks.
            Some(_) if may_be_to_head && (rest.is_empty() || rest.starts_with(b"HTTP/1.")) => 0,
            Some(length) => length.parse().map_err(|_| format!("{status} has the length {length:?}"))?,
            None => return Err(format!("{status} has no length")),
        };
        if body_bytes > rest.len() {
            return Err(format!("{status} has {} of {body_bytes} bytes", rest.len()));
        }
        let (body, rest) = rest.split_at(body_bytes);
        let is_scrape = value("content-type").is_some_and(|media_type| media_type.starts_with("text/plain; version="));
        if is_scrape && body_bytes > 0 && value("content-encoding").is_none() {
            let text = str::from_utf8(body).map_err(|error| error.to_string())?;
            Scrape::parse(text)?;
        }
        statuses.push(status);
        answer = rest;
    }
    Ok(statuses)
}

#[test]
fn a_response_that_is_cut_short_is_not_whole() {
    let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(statuses(whole, false), Ok(vec![200, 404]));
    assert_eq!(statuses(b"", false), Ok(vec![]));
    let between = whole.windows(4).position(|bytes| bytes == b"okHT").unwrap() + 2;
    for end in (1..whole.len()).filter(|end| *end != between) {
        assert!(statuses(&whole[..end], false).is_err(), "{end}");
    }
    assert_eq!(statuses(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", true), Ok(vec![200]));
}

/// Sends a mutated request, and returns what came back until the server closed, and whether it reset the connection, which
/// may overtake a part of its answer.
fn answered(address: SocketAddr, request: &[u8]) -> (Vec<u8>, bool) {
    let mut connection = Connection::open(address);
    // The server may have hung up before it has read it all.
    let _ = connection.try_send(request);
    let _ = connection.end_sending();
    connection.rest_or_reset()
}

/// A server that sends a snapshot with one more invocation each 20 ms, until the gate opens, and how many there are.
fn speaking(until: &Gate) -> (ScriptedFeed, Arc<AtomicUsize>) {
    let (database, sent) = (Mutex::new(Database::default()), Arc::new(AtomicUsize::new(0)));
    let counter = Arc::clone(&sent);
    let snapshot = move || {
        let number = counter.fetch_add(1, Ordering::SeqCst);
        let mut database = database.lock().unwrap();
        database.invocations.push(valid(number));
        database.snapshot(20_000 * number as i64)
    };
    let rounds = Step::rounds(until, Duration::from_millis(20), snapshot);
    (ScriptedFeed::start(vec![vec![rounds, Step::Await(Gate::default())]]), sent)
}

fn invocations(scrape: &Scrape) -> f64 {
    scrape.series("skill_invocations_total").into_values().sum()
}

#[test]
fn mutated_requests_cost_no_valid_one() {
    alone(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let shutdown = CancellationToken::new();
        let listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
        let (quiet, context) = (Gate::default(), runtime.enter());
        let (feed, sent) = speaking(&quiet);
        drop(context);
        let feeds = vec![FeedTarget::new(feed.url().as_str()).unwrap()];
        let bridge = Bridge::bind(Settings { listen, ..Settings::new(feeds) }).unwrap();
        let address = bridge.local_addrs()[0];
        let serving = runtime.spawn(bridge.run(shutdown.clone().cancelled_owned()));

        eventually("a feed that speaks", || equal(&http_client::get(address, "/-/ready").status, &200));

        // A connection whose task panics is closed like one that the server is done with: only a hook tells the two apart.
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            PANICS.fetch_add(1, Ordering::Relaxed);
            usual(panic);
        }));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                thread::spawn(move || {
                    let bases = requests();
                    let mut chance = fastrand::Rng::with_seed(client as u64);
                    let mut counts = BTreeMap::<Option<u16>, usize>::new();
                    let mut shown = 0.0;
                    for number in 0..REQUESTS / CLIENTS {
                        let base = &bases[chance.usize(0..bases.len())];
                        let mut request = mutate(base, &bases, &REQUEST_SPLINTERS, &mut chance);
                        if chance.u32(0..200) == 0 {
                            let place = request.len().min(10);
                            request.splice(place..place, vec![b'x'; 100_000]);
                        }
                        let (answer, is_reset) = answered(address, &request);
                        let may_be_to_head = request.windows(4).any(|bytes| bytes == b"HEAD");
                        let first = match statuses(&answer, may_be_to_head) {
                            Ok(statuses) => {
                                let is_possible = |status: &u16| (100..500).contains(status);
                                assert!(statuses.iter().all(is_possible), "{statuses:?} to {request:?}");
                                statuses.first().copied()
                            }
                            Err(_) if is_reset => None,
                            Err(problem) => panic!("{problem}: {answer:?} to {request:?}"),
                        };
                        *counts.entry(first).or_default() += 1;
                        if number % VALID_EVERY == 0 {
                            let valid = http_client::get(address, "/metrics");
                            assert_eq!(valid.status, 200);
                            let before = shown;
                            shown = invocations(&Scrape::parse(valid.text()).expect("a scrape"));
                            assert!(shown >= before, "{shown} after {before}");
                        }
                    }
                    counts
                })
            })
            .collect();
        let mut counts = BTreeMap::<Option<u16>, usize>::new();
        for client in clients {
            for (status, times) in client.join().expect("no client fails") {
                *counts.entry(status).or_default() += times;
            }
        }
        println!("{REQUESTS} requests, by status (none: the connection was closed): {counts:?}");
        assert!([200, 400].iter().all(|status| counts.contains_key(&Some(*status))), "{counts:?}");
        quiet.open();
        eventually("every invocation to count once", || {
            let shown = invocations(&Scrape::parse(http_client::get(address, "/metrics").text()).expect("a scrape"));
            equal(&shown, &(sent.load(Ordering::SeqCst) as f64))
        });
        shutdown.cancel();
        runtime.block_on(serving).expect("no panic").expect("it ends as asked");
        assert_eq!(PANICS.load(Ordering::Relaxed), 0, "something panicked while requests were answered");
    });
}
