//! The pure parts, each beside a yardstick.
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use prometheus::Registry;
use session_buddy_bridge::board::Board;
use session_buddy_bridge::exposition::{Encoding, Source, render};
use session_buddy_bridge::ledger::{ConnectionId, Limits};
use session_buddy_bridge::protocol;

const SKILLS: usize = 10_000;

struct Told {
    board: Board,
    connection: ConnectionId,
}

impl Told {
    fn new(skills: usize) -> Self {
        let board = Board::new(Limits::default());
        let connection = board.open(board.add_local_feed("bench"));
        let told = Self { board, connection };
        for number in 0..skills {
            told.event(number, true);
            told.event(number, false);
            told.tell(&format!(
                r#"{{"type": "completion_rate", "data": {{"skill_name": "skill-{number:05}", "rate": 0.875}}}}"#
            ));
            told.tell(&format!(
                r#"{{"type": "anomaly", "data": {{"skill_name": "skill-{number:05}", "anomaly_type": "drop"}}}}"#
            ));
        }
        told
    }

    fn tell(&self, text: &str) {
        protocol::read(text, &protocol::Limits::default(), &mut |message| {
            self.board.apply(self.connection, &message.expect("a message"));
        });
    }

    fn event(&self, number: usize, completed: bool) {
        self.tell(&format!(
            r#"{{"type": "skill_invocation", "data": {{"skill_name": "skill-{number:05}", "workflow_phase": "execution", "completed": {completed}, "duration_seconds": {}.375}}}}"#,
            number % 97
        ));
    }

    /// Brings the view up to date, without writing anything.
    fn show(&self) {
        self.board.read(&mut |view, _| {
            black_box(view.rules());
        });
    }
}

fn exposition(criterion: &mut Criterion) {
    let told = Told::new(SKILLS);
    let registry = Registry::new();
    let text = render(&told.board, &registry, Encoding::Identity).concat();
    let mut group = criterion.benchmark_group("exposition, 10,000 skills");
    group.sample_size(20).throughput(Throughput::Bytes(text.len() as u64));
    let change = |every: usize| (0..SKILLS).step_by(every).for_each(|number| told.event(number, true));
    group.bench_function("changes to the view, all changed", |bencher| {
        bencher.iter_batched(|| change(1), |()| told.show(), BatchSize::PerIteration);
    });
    for (name, every) in [("all changed", 1), ("1 % changed", 100)] {
        for (encoding, words) in [(Encoding::Identity, "text"), (Encoding::Gzip, "gzip")] {
            group.bench_function(format!("{words}, {name}"), |bencher| {
                let setup = || {
                    change(every);
                    told.show();
                };
                bencher.iter_batched(setup, |()| render(&told.board, &registry, encoding), BatchSize::PerIteration);
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

criterion_group!(benches, exposition);
criterion_main!(benches);
