//! The pure parts, each beside a yardstick: `cargo bench -p benches --bench parts`.
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::borrow::Cow;
use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use prometheus::Registry;
use serde::Deserialize;
use session_buddy_bridge::internals::exposition::{Encoding, Format, RegistryText, ViewProvider, render};
use session_buddy_bridge::internals::ledger::{self, ConnectionId};
use session_buddy_bridge::internals::protocol::{Limits, read};
use session_buddy_bridge::internals::push::{
    EncodedLabels, HostHash, LabelSets, PushLabels, QueueHandle, QueueServer, QueueSettings, ReceiverName,
    RequestEncoder, SeriesId, TickKind, TickTime,
};
use session_buddy_bridge::internals::shared_ledger::SharedLedger;
use session_buddy_bridge::internals::store::Store;

criterion_main!(parts);
criterion_group!(parts, protocol, exposition, push);

/// Beside each reading stands a typed parse of the same text by serde, which checks nothing.
fn protocol(criterion: &mut Criterion) {
    let event = event(0);
    let batch = format!("[{}]", (0..100).map(self::event).collect::<Vec<_>>().join(", "));
    for (name, text) in [("event", event), ("batch of 100", batch), ("snapshot", snapshot())] {
        let mut group = criterion.benchmark_group(format!("protocol/{name}"));
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function("read", |bencher| {
            bencher.iter(|| {
                read(black_box(&text), &Limits::default(), &mut |message| {
                    black_box(message).expect("a message that is well formed");
                });
            });
        });
        group.bench_function("serde", |bencher| {
            bencher.iter(|| {
                if text.starts_with('[') {
                    black_box(serde_json::from_str::<Vec<Typed<'_>>>(black_box(&text)).expect("messages"));
                } else {
                    black_box(serde_json::from_str::<Typed<'_>>(black_box(&text)).expect("a message"));
                }
            });
        });
        group.finish();
    }
}

fn event(number: usize) -> String {
    format!(
        r#"{{"type": "skill_invocation", "data": {{"skill_name": "skill-{:05}", "workflow_phase": "execution", "completed": true, "duration_seconds": 12.345, "session_id": "0000000000000000042"}}, "timestamp": "2026-11-24T04:05:06.123456"}}"#,
        number + 1
    )
}

/// Ten skills and ten anomalies, written as Python writes them.
fn snapshot() -> String {
    let skill = |number: usize| {
        let (name, average) = (format!("skill-{number:05}"), 12_345.678 / (900 + number) as f64);
        format!(
            r#"{{"skill_name": "{name}", "total_invocations": {}, "completion_rate": {:?}, "avg_duration_seconds": {average:?}}}"#,
            1_000 + number,
            90_000.0 / (1_000 + number) as f64,
        )
    };
    let anomaly = |number: usize| {
        let score = 2.5 + number as f64 / 7.0;
        format!(
            r#"{{"skill_name": "skill-{number:05}", "anomaly_type": "drop", "detected_at": "2026-11-24 04:05:{number:02}", "deviation_score": {score:?}}}"#
        )
    };
    let list = |entry: &dyn Fn(usize) -> String| (0..10).map(entry).collect::<Vec<_>>().join(", ");
    format!(
        r#"{{"type": "metrics_update", "timestamp": "2026-11-24T04:05:06.123456", "data": {{"top_skills": [{}], "anomalies": [{}]}}}}"#,
        list(&skill),
        list(&anomaly)
    )
}

/// A frame as the fastest typed parse reads it: adjacently tagged, strings borrowed.
#[allow(dead_code, reason = "parsing them is the work")]
#[derive(Debug, Deserialize)]
#[serde(tag = "type", content = "data", rename_all = "snake_case")]
enum Typed<'a> {
    SkillInvocation {
        #[serde(borrow)]
        skill_name: Cow<'a, str>,
        #[serde(borrow)]
        workflow_phase: Option<Cow<'a, str>>,
        completed: bool,
        duration_seconds: Option<f64>,
        #[serde(borrow)]
        session_id: Option<Cow<'a, str>>,
    },
    MetricsUpdate {
        #[serde(borrow)]
        top_skills: Vec<Skill<'a>>,
        #[serde(borrow)]
        anomalies: Vec<Anomaly<'a>>,
    },
}

#[derive(Debug, Deserialize)]
#[allow(dead_code, reason = "parsing them is the work")]
struct Skill<'a> {
    #[serde(borrow)]
    skill_name: Cow<'a, str>,
    total_invocations: u64,
    completion_rate: f64,
    avg_duration_seconds: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[allow(dead_code, reason = "parsing them is the work")]
struct Anomaly<'a> {
    #[serde(borrow)]
    skill_name: Cow<'a, str>,
    #[serde(borrow)]
    anomaly_type: Cow<'a, str>,
    #[serde(borrow)]
    detected_at: Option<Cow<'a, str>>,
    deviation_score: Option<f64>,
}

const SKILLS: usize = 10_000;

struct KnownSkills {
    ledger: Arc<SharedLedger>,
    connection: ConnectionId,
}

impl KnownSkills {
    fn new(skills: usize) -> Self {
        let ledger = Arc::new(SharedLedger::new(ledger::Limits::default()));
        let connection = ledger.open(ledger.add_local_feed("bench"));
        let known = Self { ledger, connection };
        for number in 0..skills {
            known.event(number, true);
            known.event(number, false);
            known.apply(&format!(
                r#"{{"type": "completion_rate", "data": {{"skill_name": "skill-{number:05}", "rate": 0.875}}}}"#
            ));
            known.apply(&format!(
                r#"{{"type": "anomaly", "data": {{"skill_name": "skill-{number:05}", "anomaly_type": "drop"}}}}"#
            ));
        }
        known
    }

    fn apply(&self, text: &str) {
        read(text, &Limits::default(), &mut |message| {
            self.ledger.apply(self.connection, &message.expect("a message"));
        });
    }

    fn event(&self, number: usize, completed: bool) {
        self.apply(&format!(
            r#"{{"type": "skill_invocation", "data": {{"skill_name": "skill-{number:05}", "workflow_phase": "execution", "completed": {completed}, "duration_seconds": {}.375}}}}"#,
            number % 97
        ));
    }

    /// Brings the view up to date, without writing anything.
    fn show(&self) {
        self.ledger.read(&mut |view, _| {
            black_box(view.rules());
        });
    }
}

fn exposition(criterion: &mut Criterion) {
    let known = KnownSkills::new(SKILLS);
    let registry = RegistryText::new(Registry::new());
    let text = render(&*known.ledger, &registry, Format::Text, Encoding::Identity).concat();
    let mut group = criterion.benchmark_group("exposition, 10,000 skills");
    group.sample_size(20).throughput(Throughput::Bytes(text.len() as u64));
    let change = |every: usize| (0..SKILLS).step_by(every).for_each(|number| known.event(number, true));
    group.bench_function("changes to the view, all changed", |bencher| {
        bencher.iter_batched(|| change(1), |()| known.show(), BatchSize::PerIteration);
    });
    for (name, every) in [("all changed", 1), ("1 % changed", 100)] {
        for (encoding, words) in [(Encoding::Identity, "text"), (Encoding::Gzip, "gzip")] {
            group.bench_function(format!("{words}, {name}"), |bencher| {
                let setup = || {
                    change(every);
                    known.show();
                };
                bencher.iter_batched(
                    setup,
                    |()| render(&*known.ledger, &registry, Format::Text, encoding),
                    BatchSize::PerIteration,
                );
            });
        }
    }
    group.bench_function("the copy of such a body", |bencher| {
        bencher.iter_custom(|times| {
            let mut into = text.clone();
            let begin = Instant::now();
            for _ in 0..times {
                into.copy_from_slice(black_box(&text));
                black_box(&into);
            }
            begin.elapsed().max(Duration::from_nanos(1))
        });
    });
    group.finish();
}

/// A tick from the view to the queue, beside the scrape of the same changes, `text` above: in memory, which is the encoding alone,
/// and on disk, where a commit waits for it.
fn push(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("push, 10,000 skills");
    group.sample_size(20);
    let folder = tempfile::tempdir().expect("a folder");
    for place in ["in memory", "on disk"] {
        let known = KnownSkills::new(SKILLS);
        let mut store = Store::open(&folder.path().join("state.db"), |_| Ok(())).expect("a state").store;
        let (handle, server) = match place {
            "in memory" => (QueueHandle::in_memory(Arc::clone(&known.ledger)).expect("a queue"), None),
            _ => {
                let (handle, server) = QueueHandle::persistent(Arc::clone(&known.ledger));
                (handle, Some(server))
            }
        };
        let receiver = ReceiverName::new("bench");
        let (receivers, interval) = (vec![receiver.clone()], Duration::from_secs(60));
        let mut answers = Answers { store: &mut store, server, ledger: &known.ledger };
        answers.of(handle.identify(HostHash::of_this_machine(), LabelSets::new())).expect("an identity");
        let settings = QueueSettings { receivers, interval, bytes_max: 256 << 20 };
        answers.of(handle.configure(settings)).expect("a queue");
        let mut millis = 1_700_000_000_000;
        for (name, every) in [("all changed", 1), ("1 % changed", 100), ("nothing changed", usize::MAX)] {
            group.bench_function(format!("tick {place}, {name}"), |bencher| {
                bencher.iter_custom(|times| {
                    let mut spent = Duration::ZERO;
                    for _ in 0..times {
                        let changed = (0..SKILLS).step_by(every).filter(|_| every < SKILLS);
                        changed.for_each(|number| known.event(number, true));
                        known.show();
                        millis += 60_000;
                        let time = TickTime::from_millis(millis);
                        let begin = Instant::now();
                        answers.of(handle.take_tick(time, Vec::new(), TickKind::Regular)).expect("a tick");
                        spent += begin.elapsed();
                        let to = handle.watch().borrow().at(time);
                        answers.of(handle.advance(&receiver, to)).expect("an answer");
                    }
                    spent
                });
            });
        }
        if place == "in memory" {
            let catalog = answers.of(handle.series(SeriesId::FIRST)).expect("the series");
            let added = PushLabels::of_host("bench");
            let labels = catalog.iter().map(|series| {
                let own = series.name.labels.iter().map(|(name, value)| (&**name, &**value));
                EncodedLabels::new(&series.name.metric, own.chain(added.iter()))
            });
            requests(&mut group, &labels.collect::<Vec<_>>());
        }
    }
    group.finish();
}

/// Samples of a request.
const REQUEST_SAMPLES: usize = 10_000;

/// The requests of a tick of these series: what writes their messages is measured apart from what compresses them.
fn requests(group: &mut BenchmarkGroup<'_, WallTime>, labels: &[EncodedLabels]) {
    let request = |encoder: &mut RequestEncoder, labels: &[EncodedLabels]| -> [Duration; 2] {
        let begin = Instant::now();
        for (number, labels) in labels.iter().enumerate() {
            encoder.push(labels, [(1_700_000_000_000, (number % 97) as f64)]);
        }
        let written = begin.elapsed();
        black_box(encoder.finish());
        [written, begin.elapsed() - written]
    };
    for (part, name) in ["written", "compressed"].into_iter().enumerate() {
        group.bench_function(format!("requests of a tick, {name}"), |bencher| {
            bencher.iter_custom(|times| {
                let spent = (0..times).map(|_| {
                    let mut encoder = RequestEncoder::new();
                    labels.chunks(REQUEST_SAMPLES).map(|labels| request(&mut encoder, labels)[part]).sum::<Duration>()
                });
                spent.sum()
            });
        });
    }
}

/// Answers requests on the thread that makes them, unless another one does.
struct Answers<'a> {
    store: &'a mut Store,
    server: Option<QueueServer>,
    ledger: &'a SharedLedger,
}

impl Answers<'_> {
    fn of<T>(&mut self, request: impl Future<Output = T>) -> T {
        let mut request = pin!(request);
        loop {
            if let Poll::Ready(answer) = request.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return answer;
            }
            match &mut self.server {
                Some(server) => server.answer(self.store, self.ledger, true),
                None => std::hint::spin_loop(),
            }
        }
    }
}
