//! What happens to one receiver of remote write, counted and logged.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use prometheus::core::Desc;
use tracing::{debug, info, warn};

use super::log_throttle::LogThrottle;
use super::logged;
use crate::exposition::family::Family;
use crate::exposition::own::FamilySink;
use crate::push::{QueueSize, ReceiverListener, RefusalReason};
use crate::sync::lock;

const UP: Family<1> = Family::gauge(
    "session_buddy_bridge_push_up",
    "1 if the receiver accepted the last request and ticks are queued for it, 0 otherwise.",
    ["receiver"],
);
const SAMPLES: Family<1> = Family::counter(
    "session_buddy_bridge_push_samples_total",
    "Number of samples that the receiver accepted.",
    ["receiver"],
);
const REQUESTS: Family<2> = Family::counter(
    "session_buddy_bridge_push_requests_total",
    "Number of requests to the receiver, by status code; \"none\" without an answer.",
    ["code", "receiver"],
);
const REFUSED_SAMPLES: Family<2> = Family::counter(
    "session_buddy_bridge_push_refused_samples_total",
    "Number of samples that the receiver refused, that were too old to send, or whose series it refused before, by reason; newer samples contain their counts.",
    ["reason", "receiver"],
);
const RETRIES: Family<1> = Family::counter(
    "session_buddy_bridge_push_retries_total",
    "Number of requests to be retried because the receiver failed to process them.",
    ["receiver"],
);
const QUEUE_TICKS: Family<1> = Family::gauge(
    "session_buddy_bridge_push_queue_ticks",
    "Number of queued ticks that the receiver has not acknowledged.",
    ["receiver"],
);
const QUEUE_BYTES: Family<1> = Family::gauge(
    "session_buddy_bridge_push_queue_bytes",
    "Size in bytes of the queued ticks that the receiver has not acknowledged.",
    ["receiver"],
);
const QUEUE_OLDEST: Family<1> = Family::gauge(
    "session_buddy_bridge_push_queue_oldest_timestamp_seconds",
    "Unix timestamp of the oldest tick that the receiver has not acknowledged, or of the last one if it acknowledged all.",
    ["receiver"],
);
const LAST_SUCCESS: Family<1> = Family::gauge(
    "session_buddy_bridge_push_last_success_timestamp_seconds",
    "Unix timestamp of the last request that the receiver accepted; absent before the first.",
    ["receiver"],
);
const THINNED_TICKS: Family<1> = Family::counter(
    "session_buddy_bridge_push_thinned_ticks_total",
    "Number of queued ticks that were merged into their successors because the queue was full.",
    ["receiver"],
);
const CLOCK_SKEW: Family<1> = Family::gauge(
    "session_buddy_bridge_push_clock_skew_seconds",
    "Number of seconds by which this machine's clock is ahead of the receiver's; absent if unknown.",
    ["receiver"],
);

/// Returns the description of every family of this module.
pub(super) fn descs() -> impl Iterator<Item = Desc> {
    let by_receiver =
        [UP, SAMPLES, RETRIES, QUEUE_TICKS, QUEUE_BYTES, QUEUE_OLDEST, LAST_SUCCESS, THINNED_TICKS, CLOCK_SKEW];
    by_receiver.into_iter().map(|family| family.desc()).chain([REQUESTS, REFUSED_SAMPLES].map(|family| family.desc()))
}

/// Status codes of requests for one receiver. A receiver that invents more is counted as `other`.
const CODES_MAX: usize = 32;
const NO_ANSWER: &str = "none";
const OTHER_CODE: &str = "other";

/// Counts and logs what happens to one receiver.
#[derive(Debug)]
pub struct ReceiverTelemetry {
    name: Arc<str>,
    state: Mutex<State>,
}

/// How a receiver stands, for people.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PushStanding {
    /// Whether the last request was accepted.
    pub is_up: bool,
    /// Why it was not; empty before the first.
    pub problem: String,
    /// What is still to be sent.
    pub queue: QueueSize,
    /// Unix timestamp of the last success.
    pub last_success_seconds: Option<f64>,
}

#[derive(Debug, Default)]
struct State {
    standing: PushStanding,
    samples: u64,
    requests: BTreeMap<String, u64>,
    refused: BTreeMap<&'static str, u64>,
    retries: u64,
    thinned_ticks: u64,
    clock_skew_seconds: Option<f64>,
    retry_throttle: LogThrottle,
    hold_throttle: LogThrottle,
    /// Since samples were last accepted.
    has_refused_all: bool,
    refused_throttle: BTreeMap<&'static str, LogThrottle>,
    queue_throttle: LogThrottle,
    is_ahead: bool,
    has_explained_window: bool,
}

/// The receivers of remote write.
#[derive(Debug, Default)]
pub struct PushTelemetry(Mutex<BTreeMap<Arc<str>, Arc<ReceiverTelemetry>>>);

impl PushTelemetry {
    /// Returns the receiver `name`, with the counts that it has.
    pub fn receiver(&self, name: &str) -> Arc<ReceiverTelemetry> {
        let mut receivers = lock(&self.0);
        let new = || Arc::new(ReceiverTelemetry { name: name.into(), state: Mutex::new(State::new()) });
        Arc::clone(receivers.entry(name.into()).or_insert_with(new))
    }

    /// The receivers of other names are not configured any more.
    pub fn retain(&self, names: &[&str]) {
        lock(&self.0).retain(|name, _| names.contains(&&**name));
    }

    /// Returns how each receiver stands, by name.
    pub fn standings(&self) -> Vec<(Arc<str>, PushStanding)> {
        let receivers = lock(&self.0).clone();
        receivers.into_iter().map(|(name, receiver)| (name, lock(&receiver.state).standing.clone())).collect()
    }

    /// Passes the families of this module to `sink`.
    pub(super) fn write(&self, sink: &mut dyn FamilySink) {
        let receivers = lock(&self.0).clone();
        let states: Vec<_> = receivers.iter().map(|(name, receiver)| (&**name, lock(&receiver.state))).collect();
        let each = |read: fn(&State) -> Option<f64>| {
            states.iter().filter_map(move |(name, state)| Some(([*name], read(state)?)))
        };
        UP.write(each(|state| Some(f64::from(u8::from(state.standing.is_up)))), sink);
        SAMPLES.write(each(|state| Some(state.samples as f64)), sink);
        let requests = states
            .iter()
            .flat_map(|(name, state)| state.requests.iter().map(|(code, count)| ([&**code, *name], *count as f64)));
        REQUESTS.write(requests, sink);
        let refused = states
            .iter()
            .flat_map(|(name, state)| state.refused.iter().map(|(reason, count)| ([*reason, *name], *count as f64)));
        REFUSED_SAMPLES.write(refused, sink);
        RETRIES.write(each(|state| Some(state.retries as f64)), sink);
        QUEUE_TICKS.write(each(|state| Some(state.standing.queue.ticks as f64)), sink);
        QUEUE_BYTES.write(each(|state| Some(state.standing.queue.bytes as f64)), sink);
        QUEUE_OLDEST.write(each(|state| Some(state.standing.queue.oldest?.millis() as f64 / 1e3)), sink);
        LAST_SUCCESS.write(each(|state| state.standing.last_success_seconds), sink);
        THINNED_TICKS.write(each(|state| Some(state.thinned_ticks as f64)), sink);
        CLOCK_SKEW.write(each(|state| state.clock_skew_seconds), sink);
    }
}

impl State {
    fn new() -> Self {
        let requests = ["200", "204", NO_ANSWER].map(|code| (code.to_owned(), 0)).into();
        let refused = RefusalReason::ALL.map(|reason| (reason.code(), 0)).into();
        Self { requests, refused, ..Self::default() }
    }
}

impl ReceiverListener for ReceiverTelemetry {
    fn request(&self, code: Option<u16>) {
        let requests = &mut lock(&self.state).requests;
        let code = code.map_or_else(|| NO_ANSWER.to_owned(), |code| code.to_string());
        let known = requests.contains_key(&code) || requests.len() < CODES_MAX;
        *requests.entry(if known { code } else { OTHER_CODE.to_owned() }).or_default() += 1;
    }

    fn accepted(&self, samples: u64, wall_seconds: f64) {
        let was_up = {
            let mut state = lock(&self.state);
            state.samples += samples;
            state.standing.last_success_seconds = Some(wall_seconds);
            state.standing.problem.clear();
            state.has_refused_all = false;
            std::mem::replace(&mut state.standing.is_up, true)
        };
        match was_up {
            true => debug!(receiver = %self.name, samples, "pushed"),
            false => info!(receiver = %self.name, samples, "push receiver accepts samples"),
        }
    }

    fn retry(&self, problem: &str, retry_in_seconds: f64) {
        let passed = {
            let mut state = lock(&self.state);
            state.retries += 1;
            state.failed(problem);
            state.retry_throttle.pass(Instant::now())
        };
        let problem = logged(problem);
        if let Some(suppressed) = passed {
            warn!(receiver = %self.name, error = problem, retry_in_seconds, suppressed, "push failed; retrying");
        }
    }

    fn held(&self, problem: &str, retry_in_seconds: f64) {
        let passed = {
            let mut state = lock(&self.state);
            state.failed(problem);
            state.hold_throttle.pass(Instant::now())
        };
        let problem = logged(problem);
        if let Some(suppressed) = passed {
            warn!(receiver = %self.name, error = problem, retry_in_seconds, suppressed, "push refused; samples stay queued");
        }
    }

    fn stalled(&self, problem: &str) {
        lock(&self.state).failed(problem);
    }

    fn refused(&self, samples: u64, reason: RefusalReason, answer: &str) {
        let (passed, explains_window) = {
            let mut state = lock(&self.state);
            *state.refused.entry(reason.code()).or_default() += samples;
            let is_of_window =
                matches!(reason, RefusalReason::OutOfOrder | RefusalReason::OutOfBounds | RefusalReason::TooOld);
            let explains = is_of_window && !state.has_explained_window;
            state.has_explained_window |= explains;
            (state.refused_throttle.entry(reason.code()).or_default().pass(Instant::now()), explains)
        };
        let answer = logged(answer);
        if let Some(suppressed) = passed {
            warn!(receiver = %self.name, samples, reason = reason.code(), answer, suppressed, "push receiver refused samples; newer ones contain their counts");
        }
        if explains_window {
            info!(
                receiver = %self.name,
                "a receiver with storage.tsdb.out_of_order_time_window, such as 7d, would keep samples from before an outage"
            );
        }
    }

    fn all_refused(&self, answer: &str) {
        let was_so = {
            let mut state = lock(&self.state);
            state.failed(&format!("every sample is refused: {answer}"));
            std::mem::replace(&mut state.has_refused_all, true)
        };
        if !was_so {
            warn!(receiver = %self.name, answer = logged(answer), "push receiver refuses every sample");
        }
    }

    fn queue_failed(&self, error: &dyn std::error::Error) {
        let passed = {
            let mut state = lock(&self.state);
            state.failed(&format!("the push queue cannot be used: {error}"));
            state.queue_throttle.pass(Instant::now())
        };
        if let Some(suppressed) = passed {
            warn!(receiver = %self.name, %error, suppressed, "push queue failed; retrying");
        }
    }

    fn queue(&self, queue: QueueSize, thinned_ticks: u64) {
        let mut state = lock(&self.state);
        state.standing.queue = queue;
        state.thinned_ticks = thinned_ticks;
    }

    fn clock(&self, skew_seconds: f64, is_wrong: bool, is_ahead: bool) {
        let was_wrong = {
            let mut state = lock(&self.state);
            state.clock_skew_seconds = Some(skew_seconds);
            std::mem::replace(&mut state.is_ahead, is_wrong)
        };
        match (was_wrong, is_wrong) {
            (false, true) if is_ahead => warn!(
                receiver = %self.name, skew_seconds,
                "clock is ahead of the receiver's; samples are held until they agree"
            ),
            (false, true) => {
                warn!(receiver = %self.name, skew_seconds, "clock is behind the receiver's")
            }
            (true, false) => {
                info!(receiver = %self.name, skew_seconds, "clock agrees with the receiver's")
            }
            _ => {}
        }
    }
}

impl State {
    fn failed(&mut self, problem: &str) {
        self.standing.is_up = false;
        self.standing.problem = logged(problem);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};

    use super::*;
    use crate::exposition::own::{FamilyInfo, HistogramValue};
    use crate::push::TickTime;

    /// What is logged by a thread.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            lock(&self.0).write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The value of each series of one receiver, by metric and the label beside `receiver`.
    fn values(telemetry: &PushTelemetry) -> BTreeMap<String, f64> {
        #[derive(Default)]
        struct Values(BTreeMap<String, f64>);

        impl FamilySink for Values {
            fn begin(&mut self, _: &FamilyInfo<'_>) {}

            fn number(&mut self, family: &FamilyInfo<'_>, labels: &[&str], value: f64) {
                let name = family.name.strip_prefix("session_buddy_bridge_push_").unwrap();
                let others = family.labels.iter().zip(labels).filter(|(label, _)| **label != "receiver");
                let texts: Vec<_> = [name].into_iter().chain(others.map(|(_, value)| *value)).collect();
                self.0.insert(texts.join(" "), value);
            }

            fn histogram(&mut self, family: &FamilyInfo<'_>, _: &[&str], _: &HistogramValue<'_>) {
                panic!("{} is a histogram", family.name);
            }
        }

        let mut values = Values::default();
        telemetry.write(&mut values);
        values.0
    }

    #[test]
    fn each_report_of_a_sender_is_in_one_metric() {
        let telemetry = PushTelemetry::default();
        let receiver = telemetry.receiver("r");
        let mut before = values(&telemetry);
        assert_eq!(
            (before["up"], before["requests_total none"], before["refused_samples_total max_age"]),
            (0.0, 0.0, 0.0)
        );
        assert!(!before.contains_key("last_success_timestamp_seconds") && !before.contains_key("clock_skew_seconds"));
        let size = QueueSize { ticks: 3, bytes: 70, oldest: Some(TickTime::from_millis(1_500)) };
        let changed = |before: &mut BTreeMap<String, f64>| -> Vec<(String, f64)> {
            let now = values(&telemetry);
            let changed = now.iter().filter(|(name, value)| before.get(*name) != Some(value));
            let changed = changed.map(|(name, value)| (name.clone(), *value)).collect();
            *before = now;
            changed
        };
        /// A report, and what changes by it.
        type Step<'a> = (&'a dyn Fn(), &'a [(&'a str, f64)]);
        let steps: [Step<'_>; 17] = [
            (&|| receiver.request(Some(204)), &[("requests_total 204", 1.0)]),
            (&|| receiver.request(None), &[("requests_total none", 1.0)]),
            (&|| receiver.request(Some(418)), &[("requests_total 418", 1.0)]),
            (
                &|| receiver.accepted(276, 17.5),
                &[("last_success_timestamp_seconds", 17.5), ("samples_total", 276.0), ("up", 1.0)],
            ),
            (&|| receiver.retry("no answer", 1.0), &[("retries_total", 1.0), ("up", 0.0)]),
            (&|| receiver.accepted(4, 17.5), &[("samples_total", 280.0), ("up", 1.0)]),
            (&|| receiver.held("status 401", 30.0), &[("up", 0.0)]),
            (&|| receiver.accepted(1, 17.5), &[("samples_total", 281.0), ("up", 1.0)]),
            (&|| receiver.stalled("the state file is another machine's"), &[("up", 0.0)]),
            (&|| receiver.accepted(1, 17.5), &[("samples_total", 282.0), ("up", 1.0)]),
            (&|| receiver.queue_failed(&io::Error::other("disk I/O error")), &[("up", 0.0)]),
            (&|| receiver.accepted(1, 17.5), &[("samples_total", 283.0), ("up", 1.0)]),
            (&|| receiver.all_refused("out of order"), &[("up", 0.0)]),
            (&|| receiver.refused(9, RefusalReason::TooOld, "too old"), &[("refused_samples_total too_old", 9.0)]),
            (&|| receiver.refused(1, RefusalReason::MaxAge, ""), &[("refused_samples_total max_age", 1.0)]),
            (
                &|| receiver.queue(size, 2),
                &[
                    ("queue_bytes", 70.0),
                    ("queue_oldest_timestamp_seconds", 1.5),
                    ("queue_ticks", 3.0),
                    ("thinned_ticks_total", 2.0),
                ],
            ),
            (&|| receiver.clock(7_200.0, true, true), &[("clock_skew_seconds", 7_200.0)]),
        ];
        for (number, (report, expected)) in steps.into_iter().enumerate() {
            report();
            let expected: Vec<_> = expected.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
            assert_eq!(changed(&mut before), expected, "step {number}");
        }
        (0..100).for_each(|code| receiver.request(Some(600 + code)));
        let codes = values(&telemetry).keys().filter(|name| name.starts_with("requests_total ")).count();
        assert_eq!(codes, CODES_MAX + 1, "what a receiver invents is counted as other");
    }

    #[test]
    fn a_receiver_that_refuses_every_sample_is_logged_once_until_it_accepts_one_and_its_answer_is_shown() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            let telemetry = PushTelemetry::default();
            let receiver = telemetry.receiver("r");
            let problem = || telemetry.standings()[0].1.problem.clone();
            for _ in 0..2 {
                (0..3).for_each(|_| receiver.all_refused("status 400: out of order sample"));
                assert_eq!(problem(), "every sample is refused: status 400: out of order sample");
                receiver.accepted(1, 17.5);
                assert_eq!(problem(), "");
            }
        });
        let text = String::from_utf8(lock(&log.0).clone()).unwrap();
        assert_eq!(text.matches("push receiver refuses every sample").count(), 2, "{text}");
    }

    /// The samples of a request that fails can be dropped by a later answer, and so can those that are queued.
    #[test]
    fn no_line_about_a_request_promises_what_later_answers_decide() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            let receiver = PushTelemetry::default().receiver("r");
            receiver.retry("status 500", 1.0);
            receiver.held("status 401", 30.0);
            receiver.refused(1, RefusalReason::ServerError, "status 500");
        });
        let text = String::from_utf8(lock(&log.0).clone()).unwrap();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(!text.contains("lost"), "{text}");
    }

    #[test]
    fn the_setting_that_would_keep_a_backlog_is_named_once_and_so_is_a_wrong_clock() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            let receiver = PushTelemetry::default().receiver("r");
            receiver.refused(1, RefusalReason::Duplicate, "duplicate sample for timestamp");
            for reason in [RefusalReason::OutOfBounds, RefusalReason::TooOld, RefusalReason::OutOfOrder] {
                receiver.refused(1, reason, "refused");
            }
            (0..3).for_each(|_| receiver.clock(7_200.0, true, true));
        });
        let text = String::from_utf8(lock(&log.0).clone()).unwrap();
        assert_eq!(text.matches("out_of_order_time_window").count(), 1, "{text}");
        assert_eq!(text.matches("clock is ahead of the receiver's").count(), 1, "{text}");
    }
}
