//! One bridge, one fault of its feed after another. After each it is connected again, its families are those of the
//! server's database, and its own counters rose by what the fault was and by nothing else.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::support::expected_families::expected_families;
use crate::support::model::{Anomaly, Database, Invocation, SECOND, sql_time};
use crate::support::running_bridge::{RunningBridge, counted, families};
use crate::support::scrape::{Scrape, Series};
use crate::support::scripted_feed::{Gate, Reserved, ScriptedFeed, Step};
use session_buddy_bridge::internals::feed::Timing;
use session_buddy_bridge::settings::{FeedTarget, Settings};

/// Quick to come back, and quick to notice silence. What a healthy feed owes comes much sooner than any alarm, so that
/// only a fault raises one.
fn timing() -> Timing {
    Timing {
        handshake_timeout: Duration::from_secs(2),
        ping_interval: Duration::from_millis(500),
        pong_timeout: Duration::from_secs(2),
        silence_timeout: Duration::from_secs(4),
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(20),
        refused_backoff_min: Duration::from_millis(1),
        refused_backoff_max: Duration::from_millis(20),
        ..Timing::default()
    }
}

const ROUND_INTERVAL: Duration = Duration::from_millis(20);

/// So many rounds are heard between two faults: they show that nothing is counted twice, and they teach the bridge how
/// often to expect one.
const ROUNDS_BETWEEN: u64 = 5;
const HUNDRED_MEGABYTES: u64 = 100 * 1024 * 1024;
const THOUSANDS: u64 = 5_000;

const UNKNOWN: &str = r#"{"type":"weather","data":{"skill_name":"pytest-run","completed":true}}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_each_fault_it_is_connected_again_and_counts_on() {
    let elsewhere = ScriptedFeed::start(vec![vec![]]);
    let Play { servers, acts, .. } = play(&format!("ws://{}/", elsewhere.address()));
    let mut reserved = Reserved::new();
    let bridge = RunningBridge::start(Settings {
        timing: timing(),
        ..Settings::new(vec![FeedTarget::new(reserved.url().as_str()).unwrap()])
    });

    let mut acts = acts.into_iter();
    let mut shown = BTreeMap::new();
    for scripts in servers {
        let refused = refusals(&bridge.scrape().await);
        bridge.until("a refused connection", &true, |scrape| refusals(scrape) > refused).await;
        shown.insert(Series::new("active_sessions_total", &[]), 0.0);
        bridge.until("what was counted, and no session", &shown, families).await;
        let server = reserved.start(scripts);
        for Act { name, gate, expected } in acts.by_ref() {
            bridge.until(name, &expected, Seen::of).await;
            let heard = rounds(&bridge.scrape().await);
            bridge.until("more rounds", &true, |scrape| rounds(scrape) >= heard + ROUNDS_BETWEEN).await;
            assert_eq!(Seen::of(&bridge.scrape().await), expected, "{name}, some rounds later");
            shown = expected.families;
            match gate {
                Some(gate) => gate.open(),
                None => break,
            }
        }
        reserved = server.leave().await;
    }
    assert!(elsewhere.visits().is_empty(), "a redirect was followed");
    bridge.stop().await;
}

/// All faults, in the order of their occurrence.
fn play(elsewhere: &str) -> Play {
    use Count::{Disconnected, Heard, Rejected};
    let location: &'static str = elsewhere.to_owned().leak();
    let instead = |step| (vec![Step::Drop], vec![vec![step]]);
    let mut play = Play::new();

    // What replaces the handshake.
    for (name, (live, then), code) in [
        ("accepts and closes at once", instead(Step::Refuse), "handshake"),
        ("is no feed", instead(Step::Answer(b"220 mail.example ESMTP\r\n\r\n")), "handshake"),
        ("stalls in the handshake", instead(Step::StallHandshake), "timeout"),
        ("HTTP 401", instead(Step::HttpStatus(401, vec![])), "http_401"),
        ("HTTP 503", instead(Step::HttpStatus(503, vec![("retry-after", "0")])), "http_503"),
        ("a redirect", instead(Step::HttpStatus(307, vec![("location", location)])), "http_307"),
    ] {
        play.fault(name, |_| live, then, &[Disconnected("1006"), Disconnected(code)]);
    }

    // What ends the connection.
    for (name, live, code) in [
        ("closes without a word", vec![Step::Drop], "1006"),
        ("closes mid-frame", vec![Step::CloseMidFrame], "1006"),
        ("ends", vec![Step::close(1000)], "1000"),
        ("restarts", vec![Step::close(1012)], "1012"),
        ("refuses the token", vec![Step::Close(4001, "Authentication failed".to_owned())], "4001"),
        ("invalid UTF-8", vec![Step::InvalidUtf8], "invalid_utf8"),
        ("breaks the protocol", vec![Step::SendRaw(vec![0xff; 100])], "protocol"),
        ("a frame of 100 MB", vec![Step::HugeFrame(HUNDRED_MEGABYTES)], "oversized"),
        ("a frame of 100 MB, only declared", vec![Step::SendRaw(huge_header())], "oversized"),
        ("fragments of 100 MB", vec![Step::HugeMessage(HUNDRED_MEGABYTES)], "oversized"),
        ("stalls mid-frame", vec![Step::IgnorePings, Step::SendRaw(vec![0x81, 100, b'{'])], "dead"),
        ("answers no ping", vec![Step::IgnorePings], "dead"),
        ("says nothing", vec![], "silent"),
    ] {
        play.fault(name, |_| live, vec![], &[Disconnected(code)]);
    }
    let frozen = |server: &Server| vec![Step::Repeat(server.snapshot(0), ROUND_INTERVAL)];
    play.fault("a frozen timestamp", frozen, vec![], &[Disconnected("frozen")]);

    play.leave();

    // What is not applied, on a connection that stays.
    let nested = |depth| ["[".repeat(depth), "]".repeat(depth)].concat();
    let unknown_field = format!(r#"{{"type":"pong","later":{}}}"#, nested(10_000));
    for (name, live, counts) in [
        ("garbage", vec![Step::send("garbage")], [Rejected("malformed_frame", 1)].as_slice()),
        ("binary", vec![Step::SendBinary(vec![0; 1000])], &[Rejected("binary_frame", 1)]),
        ("deep nesting", vec![Step::send(nested(10_000))], &[Rejected("malformed_frame", 1)]),
        ("deep nesting without an end", vec![Step::send("[".repeat(10_000))], &[Rejected("malformed_frame", 1)]),
        ("deep nesting in an unknown field", vec![Step::send(unknown_field)], &[Rejected("malformed_frame", 1)]),
        ("unknown types", vec![Step::send(UNKNOWN)], &[Heard("unknown", 1)]),
        (
            "a flood of unknown types",
            vec![Step::Flood(THOUSANDS as usize, UNKNOWN.to_owned())],
            &[Heard("unknown", THOUSANDS)],
        ),
        (
            "a flood of garbage",
            vec![Step::Flood(THOUSANDS as usize, "{".to_owned())],
            &[Rejected("malformed_frame", THOUSANDS)],
        ),
        ("a flood of pings", vec![Step::PingFlood(20_000)], &[]),
    ] {
        play.fault(name, |_| live, vec![], counts);
    }
    let flood = |server: &Server| (-2_000..0).map(|micros| Step::send(server.snapshot(micros))).collect();
    play.fault("a flood of snapshots", flood, vec![], &[]);
    let array = |server: &Server| vec![Step::send(format!("[{}, {UNKNOWN}, 5]", server.snapshot(0)))];
    play.fault("an array", array, vec![], &[Heard("unknown", 1), Rejected("malformed_message", 1)]);
    let no_numbers = |server: &Server| {
        let spoiled = spoiled(&server.snapshot(0), "pytest-run", "completion_rate", "NaN");
        let spoiled = self::spoiled(&spoiled, "lint", "total_invocations", "Infinity");
        vec![Step::send(self::spoiled(&spoiled, "idle", "avg_duration_seconds", "-Infinity"))]
    };
    play.fault("NaN and infinities", no_numbers, vec![], &[Rejected("invalid_number", 2)]);
    play
}

/// A text frame that says how long it is, and nothing else.
fn huge_header() -> Vec<u8> {
    [&[0x81, 127][..], &HUNDRED_MEGABYTES.to_be_bytes()].concat()
}

/// A snapshot with another value in one field of one skill.
fn spoiled(snapshot: &str, skill_name: &str, field: &str, value: &str) -> String {
    let (before, entry) = snapshot.split_once(&format!(r#"{{"skill_name": "{skill_name}""#)).expect("a listed skill");
    let (within, after) = entry.split_once(&format!(r#""{field}": "#)).expect("the field");
    let end = after.find([',', '}']).expect("the end of its value");
    format!(r#"{before}{{"skill_name": "{skill_name}"{within}"{field}": {value}{}"#, &after[end..])
}

/// What a fault is counted as.
enum Count {
    /// An ending, by its code. Without one the connection stays.
    Disconnected(&'static str),
    Rejected(&'static str, u64),
    Heard(&'static str, u64),
}

/// The state that a fault leaves behind, and the gate to the next one.
struct Act {
    name: &'static str,
    expected: Seen,
    /// `None` where the server leaves.
    gate: Option<Gate>,
}

/// A server's database and its clock.
struct Server {
    database: Database,
    at_micros: i64,
}

impl Server {
    fn snapshot(&self, after_micros: i64) -> String {
        self.database.snapshot(self.at_micros + after_micros)
    }
}

/// What servers do and what is seen of it.
struct Play {
    /// The scripts of one server after the other. The last script is that of the connection which is open.
    servers: Vec<Vec<Vec<Step>>>,
    acts: Vec<Act>,
    database: Database,
    /// So many invocations happened before the bridge heard of any.
    history: usize,
    expected: Seen,
}

impl Play {
    fn new() -> Self {
        let mut play = Self {
            servers: vec![vec![]],
            acts: vec![],
            database: Database::default(),
            history: 0,
            expected: Seen { up: true, ..Seen::default() },
        };
        for (skill_name, times) in [("pytest-run", 5), ("lint", 3), ("idle", 2)] {
            (0..times).for_each(|_| play.invoke(skill_name, Some(1.0)));
        }
        play.invoke("pytest-run", None);
        play.history = play.database.invocations.len();
        play.connect();
        play.rest("the beginning");
        play
    }

    fn server(&self) -> Server {
        Server { database: self.database.clone(), at_micros: self.acts.len() as i64 * 60 * SECOND }
    }

    fn script(&mut self) -> &mut Vec<Step> {
        self.servers.last_mut().and_then(|scripts| scripts.last_mut()).expect("a connection is open")
    }

    fn connect(&mut self) {
        let greeting = vec![Step::send(r#"{"type": "connected", "authenticated": false}"#)];
        self.servers.last_mut().expect("there is a server").push(greeting);
        self.expected.connects += 1;
        *self.expected.heard.entry("connected".to_owned()).or_default() += 1;
    }

    /// The connection that is open tells of the database again and again, as servers do.
    fn rest(&mut self, name: &'static str) {
        self.expected.families = expected_families(&[&self.database], &self.database.invocations[self.history..]);
        let (gate, server, round) = (Gate::default(), self.server(), AtomicI64::new(0));
        let next_round = move || server.snapshot(round.fetch_add(1_000, Ordering::Relaxed) + 1_000);
        self.script().push(Step::rounds(&gate, ROUND_INTERVAL, next_round));
        self.acts.push(Act { name, expected: self.expected.clone(), gate: Some(gate) });
    }

    /// `live` happens to the connection that is open, `then` to those after it; meanwhile the database goes on.
    fn fault(
        &mut self,
        name: &'static str,
        live: impl FnOnce(&Server) -> Vec<Step>,
        then: Vec<Vec<Step>>,
        counts: &[Count],
    ) {
        self.go_on();
        let server = self.server();
        self.script().extend(live(&server));
        self.servers.last_mut().expect("there is a server").extend(then);
        let mut ends = false;
        for count in counts {
            let (counted, name, times) = match *count {
                Count::Disconnected(code) => (&mut self.expected.disconnects, code, 1),
                Count::Rejected(reason, times) => (&mut self.expected.rejected, reason, times),
                Count::Heard(kind, times) => (&mut self.expected.heard, kind, times),
            };
            *counted.entry(name.to_owned()).or_default() += times;
            ends |= matches!(count, Count::Disconnected(_));
        }
        if ends {
            self.connect();
        }
        self.rest(name);
    }

    /// The server leaves, and another comes to its place.
    fn leave(&mut self) {
        self.acts.last_mut().expect("the play has begun").gate = None;
        *self.expected.disconnects.entry("1006".to_owned()).or_default() += 1;
        self.servers.push(vec![]);
        self.go_on();
        self.connect();
        self.rest("refuses TCP");
    }

    /// One completion alone, several in a row, an abandoned one, an anomaly, and now and then a skill that is new.
    fn go_on(&mut self) {
        let act = self.acts.len();
        self.invoke("pytest-run", Some(0.25 * act as f64));
        self.invoke("idle", None);
        (0..3).for_each(|_| self.invoke("lint", Some(2.0)));
        let mut exact = 1;
        if act.is_multiple_of(6) {
            self.invoke(&format!("new-{act}"), Some(0.5));
            exact += 1;
        }
        assert!(self.database.metrics().len() < 10, "the list is full, so that a new skill is not provably new");
        self.database.anomalies.push(Anomaly {
            skill_name: "pytest-run".to_owned(),
            anomaly_type: ["drop", "spike"][act % 2].to_owned(),
            detected_at: sql_time(self.server().at_micros),
            deviation_score: Some(act as f64),
        });
        for (rule, times) in [("exact_observations_total", exact), ("estimated_observations_total", 3)] {
            *self.expected.rules.entry(rule).or_default() += times;
        }
    }

    /// A completed one has a duration.
    fn invoke(&mut self, skill_name: &str, duration_seconds: Option<f64>) {
        self.database.invocations.push(Invocation {
            skill_name: skill_name.to_owned(),
            workflow_phase: None,
            completed: duration_seconds.is_some(),
            duration_seconds,
        });
    }
}

/// What a scrape shows, without what depends on the time that something took.
#[derive(Debug, Clone, PartialEq, Default)]
struct Seen {
    up: bool,
    families: BTreeMap<Series, f64>,
    connects: u64,
    disconnects: BTreeMap<String, u64>,
    rejected: BTreeMap<String, u64>,
    heard: BTreeMap<String, u64>,
    rules: BTreeMap<&'static str, u64>,
}

const REFUSED: &str = "refused";
const ROUND: &str = "metrics_update";

const RULES: [&str; 10] = [
    "anomaly_window_overflows_total",
    "backfilled_invocations_total",
    "estimated_observations_total",
    "exact_observations_total",
    "feed_resets_total",
    "feed_rollbacks_total",
    "inexact_rates_total",
    "late_events_total",
    "overflowed_anomalies_total",
    "overflowed_invocations_total",
];

impl Seen {
    fn of(scrape: &Scrape) -> Self {
        let sum = |name: &str| scrape.sum(&format!("session_buddy_bridge_{name}")) as u64;
        let mut disconnects = counted(scrape, "feed_disconnects_total", "code");
        let mut heard = counted(scrape, "feed_messages_total", "type");
        // How often a port refuses and how many rounds there are is a question of time.
        disconnects.remove(REFUSED);
        heard.remove(ROUND);
        Self {
            up: sum("feed_up") == 1,
            families: families(scrape),
            connects: sum("feed_connects_total"),
            disconnects,
            rejected: counted(scrape, "feed_rejected_total", "reason"),
            heard,
            rules: RULES.map(|rule| (rule, sum(rule))).into_iter().filter(|(_, times)| *times > 0).collect(),
        }
    }
}

fn refusals(scrape: &Scrape) -> u64 {
    counted(scrape, "feed_disconnects_total", "code").remove(REFUSED).unwrap_or_default()
}

fn rounds(scrape: &Scrape) -> u64 {
    counted(scrape, "feed_messages_total", "type").remove(ROUND).unwrap_or_default()
}
