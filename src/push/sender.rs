//! Sends the queue to one receiver: one request at a time, oldest ticks first.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::age::RefusedAge;
use super::answer::{RefusalReason, RetryCause, Verdict};
use super::batch::{Batch, CurrentValues, ticks_within};
use super::client::{Client, ClientError, Exchange, Reply};
use super::clock::{ClockGuard, ClockVerdict, ClockWitness, WallClock, WallMoment};
use super::doubt::{Check, Doubt, Greeting, Refusal, Ruling, SampleAnswer, Void};
use super::encoder::{EMPTY_REQUEST, EncodedLabels, LabelEncoder};
use super::handle::{QueueError, QueueHandle};
use super::limit::RequestLimit;
use super::listener::ReceiverListener;
use super::pause::PausedSeries;
use super::queue::QueueSize;
use super::receiver::PushReceiver;
use super::series::{Position, Series, SeriesId, Tick, TickTime};
use super::suspicion::Suspicion;
use super::window::{Request, StoredSample, Window};
use crate::feed::Backoff;

/// Most samples that are prepared at a time, unless a single tick has more: a search for the bound in time covers them.
const WINDOW_SAMPLES_MAX: usize = 500_000;

/// Most ticks that are loaded at a time: 68 h of one a minute.
const WINDOW_TICKS_MAX: usize = 4_096;

/// The queue is tried again after this time.
const QUEUE_RETRY: Duration = Duration::from_secs(5);

/// A stored sample that fails is sent so often before it shows nothing.
const SAMPLE_ATTEMPTS: usize = 4;

/// Beyond this difference of clocks nothing is sent to a receiver: a sample from the future makes some receivers refuse
/// everybody's present.
const SKEW_SECONDS_MAX: f64 = 60.0;

/// A tick that is later than the wall clock by no more than this is not of the future: a clock that is kept right is set by fractions
/// of a second.
const PRESENT_MILLIS: i64 = 1_000;

/// The wall clock is read this often while a sender waits.
const CLOCK_INTERVAL: Duration = Duration::from_secs(1);

/// How long a sender waits, and by which clock it notices a sleep of the machine.
#[derive(Debug, Clone)]
pub struct SendTiming {
    /// Shortest delay before the same request is sent again. 1 s.
    pub retry_min: Duration,
    /// Longest delay before the same request is sent again. 5 min.
    pub retry_max: Duration,
    /// Shortest delay after a refusal that needs somebody's action. 30 s.
    pub hold_min: Duration,
    /// Longest delay after such a refusal. 5 min.
    pub hold_max: Duration,
    /// Time for which the same request fails, though the receiver is up, before it is divided. 10 min.
    pub suspect_after: Duration,
    /// Time for which a series that was refused alone is not sent. 10 min.
    pub refused_series_pause: Duration,
    /// The wall clock. The system's.
    pub wall_clock: WallClock,
}

impl Default for SendTiming {
    fn default() -> Self {
        Self {
            retry_min: Duration::from_secs(1),
            retry_max: Duration::from_secs(300),
            hold_min: Duration::from_secs(30),
            hold_max: Duration::from_secs(300),
            suspect_after: Duration::from_secs(600),
            refused_series_pause: Duration::from_secs(600),
            wall_clock: WallClock::default(),
        }
    }
}

/// Sends the queue to one receiver. Ends with the future of [`Sender::run`]; what the receiver has not answered for stays
/// queued.
pub struct Sender {
    receiver: PushReceiver,
    handle: QueueHandle,
    /// The place of the queue's newest tick.
    newest: watch::Receiver<Position>,
    clock_witness: ClockWitness,
    listener: Arc<dyn ReceiverListener>,
    timing: SendTiming,
    client: Client,
    retries: Backoff,
    holds: Backoff,
    /// By series; `None` for one that the receiver does not get.
    labels: Vec<Option<EncodedLabels>>,
    label_encoder: LabelEncoder,
    catalog: Vec<Arc<Series>>,
    /// Behind the last tick that the receiver has answered for.
    position: Position,
    limit: RequestLimit,
    /// Series that the receiver refuses.
    paused_series: PausedSeries,
    refused_age: RefusedAge,
    doubt: Doubt,
    /// The latest of all samples that were stored.
    stored_sample: Option<StoredSample>,
    /// The latest time of the samples that were stored since the queue was opened.
    stored_until: TickTime,
    /// Whether a request without samples was answered since the last one with samples.
    was_greeted: bool,
    /// Whether one failed since.
    has_greeting_failed: bool,
    /// When the receiver last accepted the sender, unless a request was without an answer since, or the sender is in doubt.
    accepted_at: Option<WallMoment>,
    /// Cancelled when no tick will be taken any more.
    finish: CancellationToken,
}

/// What a request led to.
enum Sent {
    Stored,
    Divide {
        reason: RefusalReason,
        answer: String,
    },
    /// The same samples are sent again, now or after others.
    Again {
        cause: RetryCause,
        problem: String,
        /// When the answer came.
        at: Instant,
    },
    /// What is not settled of the batch is to be sent again.
    Void,
}

impl Sender {
    /// Creates a sender of the receiver's part of `handle`, which knows the receiver.
    pub fn new(
        receiver: PushReceiver,
        handle: QueueHandle,
        clock_guard: ClockGuard,
        listener: Arc<dyn ReceiverListener>,
        timing: SendTiming,
    ) -> Self {
        let backoff = |min, max| Backoff::new(min, max, fastrand::Rng::new());
        let newest = handle.watch();
        // Until the queue is opened.
        let position = newest.borrow().at(TickTime::NEVER);
        Self {
            client: Client::new(receiver.clone(), timing.wall_clock.clone()),
            retries: backoff(timing.retry_min, timing.retry_max),
            holds: backoff(timing.hold_min, timing.hold_max),
            labels: Vec::new(),
            label_encoder: LabelEncoder::default(),
            catalog: Vec::new(),
            position,
            newest,
            limit: RequestLimit::default(),
            paused_series: PausedSeries::default(),
            refused_age: RefusedAge::default(),
            doubt: Doubt::default(),
            stored_sample: None,
            stored_until: TickTime::NEVER,
            was_greeted: false,
            has_greeting_failed: false,
            accepted_at: None,
            finish: CancellationToken::new(),
            receiver,
            handle,
            clock_witness: clock_guard.witness(),
            listener,
            timing,
        }
    }

    /// Sends until `stop`, or, after `finish`, until the receiver has answered for everything.
    pub async fn run(mut self, finish: CancellationToken, stop: CancellationToken) {
        self.finish = finish;
        stop.run_until_cancelled(async {
            loop {
                match self.send_queue().await {
                    // The receiver is not configured any more, or the queue ends with the bridge.
                    Ok(()) | Err(QueueError::NoSuchReceiver(_) | QueueError::Ended) => return,
                    Err(QueueError::Overtaken(_) | QueueError::Emptied) => continue,
                    Err(error) => self.listener.queue_failed(&error),
                }
                self.rest(QUEUE_RETRY).await;
            }
        })
        .await;
    }

    /// Sends the queue from the receiver's position on. Returns when everything is sent and nothing follows.
    async fn send_queue(&mut self) -> Result<(), QueueError> {
        let mut current = self.open().await?;
        loop {
            let until = *self.newest.borrow_and_update();
            self.check_generation()?;
            if until.time <= self.position.time {
                if !self.next_tick().await {
                    return Ok(());
                }
                continue;
            }
            let per_tick = current.len().max(1);
            let ticks_max = (WINDOW_SAMPLES_MAX / per_tick).clamp(1, WINDOW_TICKS_MAX);
            let known = SeriesId::at(self.catalog.len());
            let (series, backlog) = match self.handle.newest_tick(self.position, known) {
                Some(newest) => newest,
                None => self.handle.backlog(&self.receiver.name, self.position, ticks_max, known).await?,
            };
            self.add_series(series);
            self.report_queue(backlog.size);
            if backlog.ticks.is_empty() {
                // Only ticks of a queue that was emptied are missing: begin again at what is there.
                current = self.open().await?;
                if !self.next_tick().await {
                    return Ok(());
                }
                continue;
            }
            let present = self.present(&backlog.ticks);
            if present.is_empty() {
                if !self.until_present(&backlog.ticks[0]).await {
                    return Ok(());
                }
                continue;
            }
            if present[0].time < self.oldest_sent() {
                // By a clock that is ahead every tick is too old.
                self.until_greeted().await?;
            }
            let is_all = backlog.remaining.ticks == 0 || present.len() < backlog.ticks.len();
            let fresh = self.drop_aged(present, is_all, &mut current);
            let left = self.send_ticks(fresh, is_all, &mut current).await?;
            match present[..present.len() - left.len()].last() {
                Some(last) if self.position.time < last.time => self.advance(last.time).await?,
                Some(_) | None => {}
            }
        }
    }

    /// Begins again at the receiver's position. Returns the values there.
    async fn open(&mut self) -> Result<CurrentValues, QueueError> {
        if self.stored_until != TickTime::NEVER {
            // The ticks that were sent can have been merged into an earlier one meanwhile, because the clock was set back.
            self.handle.advance_beyond_newest(&self.receiver.name, self.stored_until).await?;
            self.stored_until = TickTime::NEVER;
        }
        let (position, values) = self.handle.open(&self.receiver.name).await?;
        if position.generation != self.position.generation {
            // In a queue that was emptied the numbers of series are given again.
            self.labels.clear();
            self.catalog.clear();
            self.paused_series.clear();
        }
        self.position = position;
        self.report_queue(self.handle.size_after(position.time).await?);
        Ok(CurrentValues::new(values))
    }

    async fn advance(&mut self, to: TickTime) -> Result<(), QueueError> {
        let position = self.position.at(to);
        let behind = if self.handle.note_newest_answered(&self.receiver.name, position) {
            QueueSize::default()
        } else {
            self.handle.advance(&self.receiver.name, position).await?
        };
        self.position = position;
        self.report_queue(behind);
        Ok(())
    }

    /// Fails if ticks that were read have disappeared from the queue: their samples are of a clock that was ahead.
    fn check_generation(&self) -> Result<(), QueueError> {
        if self.newest.borrow().generation == self.position.generation {
            Ok(())
        } else {
            Err(QueueError::Overtaken(self.receiver.name.clone()))
        }
    }

    /// Waits for the next tick. Returns whether there may be one.
    async fn next_tick(&mut self) -> bool {
        tokio::select! {
            biased;
            // The queue's server is gone with the rest of the bridge.
            changed = self.newest.changed() => changed.is_ok(),
            () = self.finish.cancelled() => false,
        }
    }

    /// Returns those of `ticks` that are not of the future: of a clock that was ahead, and was set back since.
    fn present<'t>(&self, ticks: &'t [Tick]) -> &'t [Tick] {
        &ticks[..ticks.partition_point(|tick| self.is_present(tick.time))]
    }

    fn is_present(&self, time: TickTime) -> bool {
        time.millis() <= self.timing.wall_clock.millis().saturating_add(PRESENT_MILLIS)
    }

    /// Waits until the time of `tick` comes, or another tick takes its place. Returns whether there will be anything to send: at the
    /// end a tick of the future stays queued.
    async fn until_present(&mut self, tick: &Tick) -> bool {
        let left_millis = tick.time.millis().saturating_sub(self.timing.wall_clock.millis());
        let left = Duration::from_millis(left_millis.max(1).unsigned_abs());
        tokio::select! {
            biased;
            changed = self.newest.changed() => changed.is_ok(),
            () = self.finish.cancelled(), if left > CLOCK_INTERVAL => false,
            () = tokio::time::sleep(left.min(CLOCK_INTERVAL)) => true,
        }
    }

    fn add_series(&mut self, new: Vec<Arc<Series>>) {
        for series in &new {
            let labels = self.receiver.series.contains(series).then(|| {
                let own = series.name.labels.iter().map(|(name, value)| (&**name, &**value));
                self.label_encoder.encode(&series.name.metric, own.chain(self.receiver.labels.iter()))
            });
            self.labels.push(labels);
        }
        self.catalog.extend(new);
    }

    /// Reports what is queued behind the position.
    fn report_queue(&self, mut size: QueueSize) {
        // A receiver that has answered for everything is as far behind as its last tick is old.
        size.oldest = size.oldest.or(Some(self.position.time)).filter(|oldest| *oldest != TickTime::NEVER);
        self.listener.queue(size, self.handle.thinned_ticks());
    }

    /// Returns the time before which a tick is too old to be sent.
    fn oldest_sent(&self) -> TickTime {
        let age_max_millis = i64::try_from(self.receiver.age_max.as_millis()).unwrap_or(i64::MAX);
        TickTime::from_millis(self.timing.wall_clock.millis().saturating_sub(age_max_millis))
    }

    /// Leaves out ticks that are too old to be sent, but for the newest of all. Returns the others.
    fn drop_aged<'t>(&self, ticks: &'t [Tick], is_all: bool, current: &mut CurrentValues) -> &'t [Tick] {
        let oldest = self.oldest_sent();
        let aged = ticks.partition_point(|tick| tick.time < oldest);
        let (aged, fresh) = ticks.split_at(aged.min(ticks.len() - usize::from(is_all)));
        let mut samples = 0;
        for tick in aged {
            current.apply(tick);
            samples += current.count(|index| self.labels[index].is_some()) as u64;
        }
        if samples > 0 {
            self.listener.refused(samples, RefusalReason::MaxAge, "--push.max-age");
        }
        fresh
    }

    /// Sends the first of `ticks`, as many as are prepared at a time, and applies them to `current`. The position moves as they are
    /// answered for. Returns the others: all behind the position if the refusals are not believed. `is_all` is whether no tick comes
    /// behind them.
    async fn send_ticks<'t>(
        &mut self,
        ticks: &'t [Tick],
        is_all: bool,
        current: &mut CurrentValues,
    ) -> Result<&'t [Tick], QueueError> {
        let mut window = self.window(ticks, current);
        self.doubt.begin(!is_all || !window.left.is_empty());
        while let Some(Request { body, samples, newest }) = window.next_request(&mut self.limit, &self.labels) {
            let sent = self.send(body.into(), samples, newest).await?;
            self.answer(&mut window, sent, samples);
            if window.is_repetition_due() && self.resend_stored().await.is_some_and(|exchange| self.is_read(&exchange))
            {
                window.repeated();
            }
            if self.doubt.void().is_some() {
                break;
            }
            if self.doubt.is_settled() {
                self.report_refused(&mut window);
                self.advance_over(&window).await?;
            }
        }
        while let Some(check) = self.doubt.check_due_at_end() {
            self.check_sender(check).await?;
        }
        if let Some(void) = self.doubt.end() {
            self.hold_over(void, &window.refusal).await;
            // The position can have moved before the doubt: `current` has the values there.
            let (answered, left) = ticks.split_at(ticks.partition_point(|tick| tick.time <= self.position.time));
            answered.iter().for_each(|tick| current.apply(tick));
            return Ok(left);
        }
        self.end_window(&mut window);
        window.ticks.iter().for_each(|tick| current.apply(tick));
        Ok(window.left)
    }

    /// Prepares the first of `ticks`, which follow the values `current`.
    fn window<'t>(&self, ticks: &'t [Tick], current: &CurrentValues) -> Window<'t> {
        let is_last = self.handle.has_last_tick() && !self.has_later(ticks);
        let now = Instant::now();
        let retried = self.paused_series.due(now, is_last);
        let omitted = self.paused_series.omitted(&retried);
        let selected: Vec<bool> = (self.labels.iter().enumerate())
            .map(|(index, labels)| labels.is_some() && !omitted.contains_key(&SeriesId::at(index)))
            .collect();
        let count = ticks_within(WINDOW_SAMPLES_MAX, current, ticks, &self.catalog, |index| selected[index]);
        let (first, left) = ticks.split_at(count);
        let batch = Batch::new((self.position.time, current), first, &self.catalog, |index| selected[index]);
        let suspicion = Suspicion::new(self.timing.suspect_after);
        let mut window = Window::new(now, (first, left), batch, self.limit.samples_max(), retried, suspicion);
        let has_value = omitted.into_iter().filter(|(id, _)| current.has(*id));
        window.omitted = has_value.map(|(_, reason)| reason).collect();
        let now_millis = self.timing.wall_clock.millis();
        if let Some(expectation) = self.refused_age.expectation(now_millis, self.has_later(first)) {
            window.expect(expectation);
        }
        window
    }

    /// Returns whether a tick behind `ticks` is queued.
    fn has_later(&self, ticks: &[Tick]) -> bool {
        ticks.last().is_some_and(|last| last.time < self.newest.borrow().time)
    }

    /// A request of `window` led to `sent`.
    fn answer(&mut self, window: &mut Window<'_>, sent: Sent, samples: u64) {
        if std::mem::take(&mut self.has_greeting_failed) {
            window.interrupted();
        }
        if std::mem::take(&mut self.was_greeted) {
            window.greeted();
        }
        match sent {
            Sent::Stored => {
                window.stored(&mut self.limit, samples);
                let former = self.stored_sample.take().filter(|sample| self.is_present(sample.time));
                let former_time = former.as_ref().map_or(TickTime::NEVER, |sample| sample.time);
                self.stored_sample = window.stored_sample(former_time, &self.labels).or(former);
            }
            Sent::Divide { reason, answer } => {
                let has_later = self.has_later(window.ticks);
                let is_alone = window.refused(&mut self.limit, samples, reason, has_later);
                window.refusal = answer;
                if is_alone && self.doubt.is_doubted() {
                    self.doubt.refused_alone();
                    window.prefer_longest();
                }
            }
            Sent::Void => {}
            Sent::Again { cause, problem, at } => {
                let has_later = self.has_later(window.ticks);
                window.failed(&mut self.limit, samples, (cause, &problem), has_later, at);
                if window.is_check_due() {
                    self.accepted_at = None;
                }
            }
        }
    }

    /// Each sample of `window` is answered for: reports what is not reported yet, and remembers what the receiver refuses.
    fn end_window(&mut self, window: &mut Window<'_>) {
        self.report_refused(window);
        for reason in &window.omitted {
            self.listener.refused(window.ticks.len() as u64, *reason, "refused before");
        }
        if window.is_all_refused() {
            self.listener.all_refused(&window.refusal);
        }
        window.teach_age(&mut self.refused_age, self.timing.wall_clock.millis());
        window.teach_pauses(&mut self.paused_series, window.begin + self.timing.refused_series_pause);
    }

    /// Waits because the refusals of a batch are not believed.
    async fn hold_over(&mut self, void: Void, refusal: &str) {
        let problem = match void {
            Void::Held => return,
            Void::AcceptedAgain => "a request without samples was refused meanwhile",
            Void::Refused => "requests without samples are refused as well, and nothing shows that it is the samples",
        };
        self.hold(&format!("{refusal}; {problem}")).await;
    }

    /// Reports which samples were refused for good since the last call.
    fn report_refused(&self, window: &mut Window<'_>) {
        let refused = window.take_refused();
        refused.into_iter().for_each(|(reason, samples)| self.listener.refused(samples, reason, &window.refusal));
    }

    /// Moves the position over the ticks of `window` that the receiver has answered for.
    async fn advance_over(&mut self, window: &Window<'_>) -> Result<(), QueueError> {
        match window.answered().filter(|time| *time > self.position.time) {
            Some(answered) => self.advance(answered).await,
            None => Ok(()),
        }
    }

    /// Sends one request until the receiver has answered for its samples, or should get others first. None of them is later than
    /// `newest`.
    async fn send(&mut self, body: Bytes, samples: u64, newest: TickTime) -> Result<Sent, QueueError> {
        loop {
            self.until_greeted().await?;
            if self.doubt.void().is_some() {
                return Ok(Sent::Void);
            }
            if !self.is_present(newest) {
                // The clock was set back, and no tick was taken since.
                return Err(QueueError::Overtaken(self.receiver.name.clone()));
            }
            let exchange = self.exchange(body.clone()).await;
            match exchange.answer().verdict() {
                Verdict::Stored => {
                    self.stored(&exchange, samples, newest);
                    return Ok(Sent::Stored);
                }
                // By the wrong clock a sample can be refused that is right.
                Verdict::Divide(_) if self.is_held_by_clock(&exchange).await => {}
                Verdict::Divide(reason) => {
                    if self.rule(&exchange, reason, samples).await? == Ruling::Divide {
                        return Ok(Sent::Divide { reason, answer: problem(&exchange) });
                    }
                }
                Verdict::Hold => self.hold(&problem(&exchange)).await,
                Verdict::Retry(cause) => {
                    let (problem, at) = (problem(&exchange), Instant::now());
                    self.retry(&problem, cause).await;
                    return Ok(Sent::Again { cause, problem, at });
                }
            }
        }
    }

    /// A request with so many samples was refused for `reason`. Returns what to do about them, after a hold if it is [`Ruling::Hold`].
    async fn rule(&mut self, exchange: &Exchange, reason: RefusalReason, samples: u64) -> Result<Ruling, QueueError> {
        let refusal = exchange.refusal();
        let times_held = self.doubt.times_held();
        while let Some(check) = self.doubt.check_due(reason, refusal.as_ref(), samples == 1) {
            self.check_sender(check).await?;
            if self.doubt.times_held() > times_held {
                // It may have been the sender that was refused.
                return Ok(Ruling::Hold);
            }
        }
        let ruling = self.doubt.refused(reason, refusal);
        if ruling == Ruling::Hold {
            let problem = problem(exchange);
            self.hold(&format!(
                "{problem}; a request without samples is refused with the same message, and no stored sample shows otherwise"
            ))
            .await;
        }
        Ok(ruling)
    }

    /// A request with so many samples, none of them later than `newest`, was stored.
    fn stored(&mut self, exchange: &Exchange, samples: u64, newest: TickTime) {
        self.read_clock(exchange);
        self.accepted_at = Some(WallMoment::now(&self.timing.wall_clock));
        self.doubt.stored();
        self.retries.reset();
        self.holds.reset();
        self.listener.accepted(samples, self.timing.wall_clock.seconds());
        self.stored_until = self.stored_until.max(newest);
    }

    /// Finds out whether the receiver accepts the sender, after it has refused samples.
    async fn check_sender(&mut self, check: Check) -> Result<(), QueueError> {
        match check {
            Check::Greeting => {
                self.accepted_at = None;
                self.until_greeted().await?;
                self.doubt.greeting_checked();
            }
            Check::StoredSample => {
                let mut answer = SampleAnswer::None;
                for _ in 0..SAMPLE_ATTEMPTS {
                    let Some(exchange) = self.resend_stored().await else { break };
                    match exchange.answer().verdict() {
                        Verdict::Stored => answer = SampleAnswer::Stored,
                        Verdict::Divide(reason) => answer = SampleAnswer::Refused(reason, exchange.refusal()),
                        Verdict::Retry(cause) => {
                            self.retry(&problem(&exchange), cause).await;
                            continue;
                        }
                        Verdict::Hold => {}
                    }
                    break;
                }
                self.check_generation()?;
                self.doubt.sample_answered(answer);
            }
        }
        Ok(())
    }

    /// Returns whether the answer is of somebody who has read the samples.
    fn is_read(&self, exchange: &Exchange) -> bool {
        match exchange.answer().verdict() {
            Verdict::Stored => true,
            Verdict::Divide(_) => !self.doubt.is_of_greetings(exchange.refusal().as_ref()),
            Verdict::Hold | Verdict::Retry(_) => false,
        }
    }

    /// Sends a sample that the receiver has stored once more; `None` if none is known.
    async fn resend_stored(&mut self) -> Option<Exchange> {
        // By a clock that was set back it is of the future.
        let sample = self.stored_sample.as_ref().filter(|sample| self.is_present(sample.time))?;
        let exchange = self.exchange(sample.encode().into()).await;
        self.read_clock(&exchange);
        Some(exchange)
    }

    /// Sends requests without samples until samples can be sent.
    ///
    /// # Errors
    /// Ticks that were read have disappeared meanwhile.
    async fn until_greeted(&mut self) -> Result<(), QueueError> {
        loop {
            self.check_generation()?;
            if self.greet().await {
                // It may have taken time.
                return self.check_generation();
            }
        }
    }

    /// Sends a request without samples to a receiver that is not known to accept requests, and after the clock was set: it shows whether
    /// the credentials are right, and the receiver's clock, before anything is stored. Returns whether samples can be sent, after a wait
    /// if they cannot.
    async fn greet(&mut self) -> bool {
        let now = WallMoment::now(&self.timing.wall_clock);
        let is_accepting = self.accepted_at.is_some_and(|accepted| !accepted.was_set_until(now));
        if is_accepting && !self.clock_witness.is_ahead(Instant::now()) {
            return true;
        }
        let exchange = self.exchange(Bytes::from_static(EMPTY_REQUEST)).await;
        let greeting = match exchange.answer().verdict() {
            Verdict::Stored | Verdict::Divide(_) if self.is_held_by_clock(&exchange).await => return false,
            // It may be the want of samples that it refuses.
            Verdict::Divide(_) => exchange.refusal().map_or(Greeting::Accepted, Greeting::Refused),
            Verdict::Stored => Greeting::Accepted,
            Verdict::Hold => {
                self.hold(&problem(&exchange)).await;
                return false;
            }
            Verdict::Retry(cause) => {
                self.has_greeting_failed = true;
                self.retry(&problem(&exchange), cause).await;
                return false;
            }
        };
        self.was_greeted = true;
        if self.doubt.greeted(greeting) {
            self.accepted_at = Some(WallMoment::now(&self.timing.wall_clock));
        }
        true
    }

    async fn exchange(&mut self, body: Bytes) -> Exchange {
        let exchange = self.client.send(body).await;
        self.listener.request(exchange.answer.as_ref().ok().map(|reply| reply.code));
        if exchange.answer.is_err() {
            self.accepted_at = None;
        }
        exchange
    }

    /// Reads the receiver's clock from the `Date` of its answer, if it has one.
    fn read_clock(&self, exchange: &Exchange) {
        let Some(skew) = exchange.skew_of_receiver() else { return };
        let (is_ahead, is_behind) = (skew.min > SKEW_SECONDS_MAX, skew.max < -SKEW_SECONDS_MAX);
        self.listener.clock(skew.seconds(), is_ahead || is_behind, is_ahead);
        let verdict = if is_ahead { ClockVerdict::Ahead } else { ClockVerdict::Right };
        self.clock_witness.record(verdict, Instant::now());
    }

    /// Reads the receiver's clock. Waits and returns `true` if ours is ahead, by this one or by others'.
    async fn is_held_by_clock(&mut self, exchange: &Exchange) -> bool {
        self.read_clock(exchange);
        let is_ahead = self.clock_witness.is_ahead(Instant::now());
        if is_ahead {
            self.listener.stalled(match exchange.skew_of_receiver() {
                Some(_) => "this machine's clock is ahead of the receiver's; nothing is sent until they agree",
                None => "this machine's clock is ahead of another receiver's; nothing is sent until they agree",
            });
            self.accepted_at = None;
            let delay = self.holds.next_delay();
            self.rest(delay).await;
        }
        is_ahead
    }

    async fn hold(&mut self, problem: &str) {
        self.accepted_at = None;
        self.client.disconnect();
        self.doubt.held();
        let delay = self.holds.next_delay();
        self.listener.held(problem, delay.as_secs_f64());
        self.rest(delay).await;
    }

    async fn retry(&mut self, problem: &str, cause: RetryCause) {
        let delay = self.retries.next_delay().max(cause.not_before().unwrap_or_default());
        self.listener.retry(problem, delay.as_secs_f64());
        self.rest(delay).await;
    }

    /// Waits, and reports the queue as it grows. Returns earlier after a sleep of the machine, in which the network may have come back,
    /// after the clock was set, and once at the end.
    async fn rest(&self, delay: Duration) {
        let is_finishing = self.finish.is_cancelled();
        let deadline = tokio::time::Instant::now() + if is_finishing { delay.min(CLOCK_INTERVAL) } else { delay };
        let mut newest = self.newest.clone();
        loop {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            if left.is_zero() {
                return;
            }
            let before = WallMoment::now(&self.timing.wall_clock);
            tokio::select! {
                () = tokio::time::sleep(left.min(CLOCK_INTERVAL)) => {}
                () = self.finish.cancelled(), if !is_finishing => return,
                // A queue that fails is reported when it is used next.
                Ok(()) = newest.changed() => {
                    if let Ok(size) = self.handle.size_after(self.position.time).await {
                        self.report_queue(size);
                    }
                }
            }
            if before.was_set_until(WallMoment::now(&self.timing.wall_clock)) {
                return;
            }
        }
    }
}

impl Exchange {
    /// Returns the refusal of a request that was answered.
    fn refusal(&self) -> Option<Refusal> {
        let Reply { code, body, .. } = self.answer.as_ref().ok()?;
        Some(Refusal::new(*code, body))
    }
}

/// Returns what went wrong, and what to do about it.
fn problem(exchange: &Exchange) -> String {
    let (problem, is_of_url) = match &exchange.answer {
        Err(error) => (error.to_string(), matches!(error, ClientError::Resolve { .. } | ClientError::Connect { .. })),
        Ok(reply) => (reply.problem(), matches!(reply.code, 300..=399 | 404 | 405)),
    };
    if is_of_url { format!("{problem}; if you change the URL, keep the name with --push.name") } else { problem }
}

impl Reply {
    /// Returns what an answer that is no success means, and what to do about it.
    pub(crate) fn problem(&self) -> String {
        let Self { code, text, location, .. } = self;
        let advice = match code {
            200..300 if self.is_page() => {
                "a web page answers, such as the login of a network; nothing receives remote write at this URL"
            }
            401 => "check the credentials of this receiver",
            403 => "these credentials may not write, or the tenant is wrong",
            404 => "check the path of the URL: is the receiver of remote write enabled?",
            405 => "nothing receives remote write at this path; check the URL",
            413 => "the receiver's limit of a request is low",
            429 => "the receiver's rate limit",
            300..=399 => match location {
                Some(location) => {
                    return format!(
                        "status {code}: redirected to {location}, which is not followed; configure the final URL"
                    );
                }
                None => "redirects are not followed; configure the final URL",
            },
            _ => "",
        };
        [format!("status {code}"), advice.to_owned(), text.clone()]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join(": ")
    }
}
