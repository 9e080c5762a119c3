//! Whether a request is refused for its samples or for who sends it. Pure.
//!
//! A proxy can refuse credentials with the status that receivers refuse samples with. Requests without samples tell the two apart: a
//! receiver answers all of them alike, whether it accepts or refuses them, and a proxy that refuses the credentials refuses them too. Where
//! both are refused with one message, a sample that was stored before shows which it is: a receiver accepts it once more.

use super::answer::RefusalReason;
use crate::feed::Secret;

/// Without anything that is known of a receiver, a batch is given up once so many samples that are far from each other were refused alone.
const TRIED_ALONE_MAX: usize = 16;

/// Samples are held while it is not known whether they are refused or the sender, and divided instead each time after so many attempts.
const DIVIDED_EACH_HOLDS: u32 = 8;

/// The status and the message of a refusal, without words that contain a digit: they can be of a time or of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    code: u16,
    message: Secret,
}

impl Refusal {
    /// Creates the refusal with this status and this body.
    pub(crate) fn new(code: u16, body: &Secret) -> Self {
        let is_of_word = |char: char| char.is_alphanumeric() || matches!(char, '-' | '_');
        let words = body
            .expose()
            .split(|char| !is_of_word(char))
            .filter(|word| !word.contains(|char: char| char.is_ascii_digit()));
        Self { code, message: Secret::new(words.collect::<Vec<_>>().join(" ")) }
    }
}

/// The answer to a request without samples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Greeting {
    Accepted,
    Refused(Refusal),
}

/// What the receiver answers to requests without samples while it accepts the sender.
#[derive(Debug, Clone, PartialEq, Eq)]
enum UsualAnswer {
    /// It has stored no sample yet.
    Unknown,
    Accepted,
    Refused {
        /// The last refusal that samples were stored after.
        refusal: Refusal,
        /// Whether the one before was another: then a refusal shows nothing.
        is_varying: bool,
    },
}

/// What a greeting shows of the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    /// It is accepted: the answer is the usual one.
    Accepted,
    /// It is refused: the answer is not the usual one.
    Refused,
    Nothing,
}

/// What is believed of the refusals of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// All of them.
    Settled,
    /// The sender was accepted before those that are not settled. They are believed once it is accepted afterwards.
    Open,
    /// Requests without samples are refused too.
    Doubted {
        /// Whether the refusals are void once anything is accepted. Else they are believed once samples are stored.
        is_void: bool,
        /// Samples that were refused alone since.
        tried_alone: usize,
    },
    /// The sender was refused. What was refused meanwhile is to be sent again.
    Void(Void),
}

/// Why the refusals of a batch are not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Void {
    /// A hold came after them.
    Held,
    /// The sender was refused and is accepted again.
    AcceptedAgain,
    /// The sender is refused, as far as is known.
    Refused,
}

/// What a receiver answered to a sample that it had stored and was sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SampleAnswer {
    /// Nothing that shows whether it accepts samples; or no such sample is known.
    None,
    Stored,
    Refused(RefusalReason, Option<Refusal>),
}

/// How to find out whether the receiver accepts the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// By a request without samples.
    Greeting,
    /// By a sample that was stored, which is sent once more: a refusal of the request without samples would show nothing.
    StoredSample,
}

/// Whether a check follows a refusal already.
#[derive(Debug, Clone, Copy, Default)]
struct Checked {
    in_batch: bool,
    since_stored: bool,
}

impl Checked {
    /// Returns whether the check is due after another refusal, of a single sample if `is_alone`.
    fn is_due(self, is_alone: bool) -> bool {
        !self.in_batch || (is_alone && !self.since_stored)
    }

    fn done(&mut self) {
        *self = Self { in_batch: true, since_stored: true };
    }
}

/// What to do about refused samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ruling {
    /// Divide them. What is refused alone is dropped once [`Doubt::is_settled`].
    Divide,
    /// Hold: it is the sender that is refused.
    Hold,
}

/// What is known of a receiver's refusals, from one batch to the next.
///
/// A refusal of samples whose reason is known is believed, since a receiver has read them. Of any other reason, the answer to a
/// request without samples decides:
///
/// | the request without samples is | samples of the batch were stored | ticks follow the batch | the refusal |
/// | --- | --- | --- | --- |
/// | refused with the same message, whatever the reason | | | is believed if a sample that was stored before is accepted once more, and the sender afterwards too; else it holds the samples, and is doubted each eighth time |
/// | accepted, or refused as usual | | | is believed, once the sender is accepted afterwards too, unless by a request without samples that is refused with the same message |
/// | refused, which is unusual | | | is doubted, and void if anything is accepted later |
/// | refused, and no usual answer is known | yes | | is believed |
/// | refused, and no usual answer is known | no | yes | is believed: later ticks can be what it accepts |
/// | refused, and no usual answer is known | no | no | is doubted, until samples are stored, or refused for a known reason |
///
/// The usual answer is the one that samples were stored after, or that the request was accepted. One that differs from time to time is
/// not known. The same message is that of the last request without samples, or the usual one: it can be that of a proxy which replaces all
/// messages.
///
/// Samples are not only held. A process that has just started knows no sample that was stored, and a receiver may refuse the one that is
/// known because it is old by now: each eighth time the samples are divided instead of held, and what is refused is doubted.
///
/// A check is due after the first refusal of a batch for an unknown reason, after the first one of a single sample
/// since samples were stored, and at the end of a batch with refusals that are neither believed nor doubted. So a batch has three at most
/// if one series is refused; if many are, half as many as it has requests with samples, and two more. Where both ways are needed, it has
/// as many of each. A hold makes them due again.
#[derive(Debug)]
pub(crate) struct Doubt {
    usual: UsualAnswer,
    /// The last answer to a request without samples since samples were stored.
    greeting: Option<Greeting>,
    /// The last refusal of samples that is not settled.
    refusal: Option<Refusal>,
    state: State,
    /// Whether a refusal that is not settled had the message of the requests without samples: one of these settles nothing.
    is_ambiguous: bool,
    /// Whether a sample that was stored was accepted when it was sent again last.
    is_sample_accepted: bool,
    /// Holds and void batches for want of a stored sample that is accepted again, since one was, or samples were stored.
    holds: u32,
    /// All holds.
    times_held: u64,
    /// Whether ticks follow the batch.
    is_followed: bool,
    /// Whether samples of the batch were stored.
    has_stored: bool,
    greeting_check: Checked,
    sample_check: Checked,
}

impl Default for Doubt {
    fn default() -> Self {
        Self {
            usual: UsualAnswer::Unknown,
            greeting: None,
            refusal: None,
            state: State::Settled,
            is_ambiguous: false,
            is_sample_accepted: false,
            holds: 0,
            times_held: 0,
            is_followed: false,
            has_stored: false,
            greeting_check: Checked::default(),
            sample_check: Checked::default(),
        }
    }
}

impl Doubt {
    /// A batch begins. `is_followed` is whether later ticks are queued that were not read yet.
    pub(crate) fn begin(&mut self, is_followed: bool) {
        self.state = State::Settled;
        self.refusal = None;
        (self.is_ambiguous, self.is_followed, self.has_stored) = (false, is_followed, false);
        (self.greeting_check, self.sample_check) = Default::default();
    }

    /// Returns whether all refusals so far are believed.
    pub(crate) fn is_settled(&self) -> bool {
        self.state == State::Settled
    }

    /// Returns whether requests without samples are refused too.
    pub(crate) fn is_doubted(&self) -> bool {
        matches!(self.state, State::Doubted { .. })
    }

    /// Returns why what is not settled is to be sent again; `None` if the batch can go on.
    pub(crate) fn void(&self) -> Option<Void> {
        match self.state {
            State::Void(void) => Some(void),
            State::Doubted { tried_alone: TRIED_ALONE_MAX.., .. } => Some(Void::Refused),
            State::Settled | State::Open | State::Doubted { .. } => None,
        }
    }

    /// Every sample of the batch is answered for, and nothing is due. Returns why what is not settled is to be sent again.
    pub(crate) fn end(&self) -> Option<Void> {
        match self.state {
            State::Settled => None,
            State::Open | State::Doubted { .. } => Some(Void::Refused),
            State::Void(void) => Some(void),
        }
    }

    /// Samples were stored.
    pub(crate) fn stored(&mut self) {
        self.usual = match (self.greeting.take(), &self.usual) {
            (None, _) => self.usual.clone(),
            (Some(Greeting::Accepted), _) => UsualAnswer::Accepted,
            (Some(Greeting::Refused(refusal)), UsualAnswer::Refused { refusal: former, .. }) => {
                UsualAnswer::Refused { is_varying: refusal != *former, refusal }
            }
            (Some(Greeting::Refused(refusal)), UsualAnswer::Unknown | UsualAnswer::Accepted) => {
                UsualAnswer::Refused { refusal, is_varying: false }
            }
        };
        (self.has_stored, self.holds) = (true, 0);
        (self.greeting_check.since_stored, self.sample_check.since_stored) = (false, false);
        self.accepted();
    }

    /// A request without samples was answered. Returns whether the sender is known to be accepted.
    pub(crate) fn greeted(&mut self, greeting: Greeting) -> bool {
        let sign = self.sign(&greeting);
        let is_same = matches!(&greeting, Greeting::Refused(refusal) if self.refusal.as_ref() == Some(refusal));
        let is_refused = greeting != Greeting::Accepted;
        if !is_refused {
            self.usual = UsualAnswer::Accepted;
        }
        self.greeting = Some(greeting);
        match (self.state, sign) {
            // With a message that only others of the batch had it shows that the sender is refused.
            (State::Open, Sign::Refused) if !(is_same && self.is_ambiguous) => self.doubt(true),
            (State::Open, _) if is_refused && (is_same || self.is_ambiguous) => self.is_ambiguous = true,
            (State::Doubted { tried_alone, is_void }, _) if is_refused && (is_same || self.is_ambiguous) => {
                self.is_ambiguous = true;
                self.state = State::Doubted { tried_alone, is_void: is_void || is_same };
            }
            (State::Open, Sign::Nothing) => self.settle(),
            (State::Doubted { .. }, Sign::Accepted) => self.state = State::Void(Void::AcceptedAgain),
            (_, Sign::Accepted) => self.accepted(),
            (_, Sign::Refused | Sign::Nothing) => {}
        }
        sign == Sign::Accepted
    }

    /// A sample that was stored was sent again.
    pub(crate) fn sample_answered(&mut self, answer: SampleAnswer) {
        let is_accepted = match answer {
            SampleAnswer::None => false,
            SampleAnswer::Stored => true,
            // Who has read the sample knows whoever sends it.
            SampleAnswer::Refused(reason, refusal) => reason.is_known() && !self.is_of_greetings(refusal.as_ref()),
        };
        self.sample_check.done();
        self.is_sample_accepted = is_accepted;
        if is_accepted {
            self.holds = 0;
            self.accepted();
        } else if self.state == State::Open {
            if self.counts_as_hold() {
                self.state = State::Void(Void::Refused);
            } else {
                self.doubt(true);
            }
        }
    }

    /// The sender was refused, and has waited.
    pub(crate) fn held(&mut self) {
        if self.state != State::Settled {
            self.state = State::Void(Void::Held);
        }
        (self.greeting_check, self.sample_check) = Default::default();
        self.times_held += 1;
    }

    /// Returns how often the sender has waited because it was refused.
    pub(crate) fn times_held(&self) -> u64 {
        self.times_held
    }

    /// Returns what is due before [`Self::refused`] with these arguments. `is_alone` is whether a single sample was refused.
    pub(crate) fn check_due(&self, reason: RefusalReason, refusal: Option<&Refusal>, is_alone: bool) -> Option<Check> {
        if self.is_of_greetings(refusal) {
            return self.sample_check.is_due(is_alone).then_some(Check::StoredSample);
        }
        let is_due = !reason.is_known() && self.greeting_check.is_due(is_alone) && self.last_sign() == Sign::Accepted;
        is_due.then_some(Check::Greeting)
    }

    /// Each sample of the batch is answered for. Returns what is due before [`Self::end`].
    pub(crate) fn check_due_at_end(&self) -> Option<Check> {
        let check = if self.is_ambiguous { Check::StoredSample } else { Check::Greeting };
        (self.state == State::Open).then_some(check)
    }

    /// [`Check::Greeting`] was answered.
    pub(crate) fn greeting_checked(&mut self) {
        self.greeting_check.done();
    }

    /// Samples were refused.
    pub(crate) fn refused(&mut self, reason: RefusalReason, refusal: Option<Refusal>) -> Ruling {
        if self.is_of_greetings(refusal.as_ref()) {
            return self.refused_as_greetings(refusal);
        }
        if reason.is_known() {
            // Who has read the samples knows whoever sends them.
            if reason.is_of_time() && !matches!(self.state, State::Doubted { is_void: true, .. }) {
                self.accepted();
            }
            return Ruling::Divide;
        }
        self.refusal = refusal;
        match self.last_sign() {
            Sign::Accepted if self.is_settled() => self.state = State::Open,
            Sign::Refused => self.doubt(true),
            Sign::Nothing if !self.has_stored && !self.is_followed => self.doubt(false),
            Sign::Accepted | Sign::Nothing => {}
        }
        Ruling::Divide
    }

    fn refused_as_greetings(&mut self, refusal: Option<Refusal>) -> Ruling {
        match self.state {
            State::Settled if self.is_sample_accepted => self.state = State::Open,
            State::Settled => match self.counts_as_hold() {
                true => return Ruling::Hold,
                false => self.doubt(true),
            },
            State::Doubted { tried_alone, is_void: false } if !self.is_sample_accepted => {
                self.state = State::Doubted { tried_alone, is_void: true };
            }
            State::Open | State::Doubted { .. } | State::Void(_) => {}
        }
        (self.refusal, self.is_ambiguous) = (refusal, true);
        Ruling::Divide
    }

    /// Counts another attempt after which it is not known whether the samples are refused or the sender. Returns whether to hold them.
    fn counts_as_hold(&mut self) -> bool {
        self.holds = self.holds.wrapping_add(1);
        !self.holds.is_multiple_of(DIVIDED_EACH_HOLDS)
    }

    /// A sample was refused alone, and is not to be tried again.
    pub(crate) fn refused_alone(&mut self) {
        if let State::Doubted { tried_alone, .. } = &mut self.state {
            *tried_alone += 1;
        }
    }

    /// What is refused from now on is not believed. `is_void` is whether it is to be sent again as soon as anything is accepted.
    fn doubt(&mut self, is_void: bool) {
        if matches!(self.state, State::Settled | State::Open) {
            self.state = State::Doubted { is_void, tried_alone: 0 };
        }
    }

    /// The sender is accepted now.
    fn accepted(&mut self) {
        match self.state {
            State::Settled | State::Open | State::Doubted { is_void: false, .. } => self.settle(),
            State::Doubted { is_void: true, .. } => self.state = State::Void(Void::AcceptedAgain),
            State::Void(_) => {}
        }
    }

    fn settle(&mut self) {
        (self.state, self.is_ambiguous) = (State::Settled, false);
    }

    /// Returns whether requests without samples are refused like this: the last one, or those that samples were stored after.
    pub(crate) fn is_of_greetings(&self, refusal: Option<&Refusal>) -> bool {
        let Some(refusal) = refusal else { return false };
        let is_usual = matches!(&self.usual, UsualAnswer::Refused { refusal: usual, .. } if usual == refusal);
        is_usual || matches!(&self.greeting, Some(Greeting::Refused(greeting)) if greeting == refusal)
    }

    /// Returns what the last request without samples shows; while samples are stored none is needed.
    fn last_sign(&self) -> Sign {
        self.greeting.as_ref().map_or(Sign::Accepted, |greeting| self.sign(greeting))
    }

    fn sign(&self, greeting: &Greeting) -> Sign {
        match (greeting, &self.usual) {
            (Greeting::Accepted, _) => Sign::Accepted,
            (Greeting::Refused(refusal), UsualAnswer::Refused { refusal: former, .. }) if refusal == former => {
                Sign::Accepted
            }
            (Greeting::Refused(_), UsualAnswer::Accepted | UsualAnswer::Refused { is_varying: false, .. }) => {
                Sign::Refused
            }
            (Greeting::Refused(_), UsualAnswer::Unknown | UsualAnswer::Refused { is_varying: true, .. }) => {
                Sign::Nothing
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> Refusal {
        Refusal::new(400, &Secret::new(text))
    }

    fn refused(text: &str) -> Greeting {
        Greeting::Refused(refusal(text))
    }

    /// In a batch of a receiver that answered requests without samples like this, each time before it stored samples.
    fn after(answers: &[Greeting], is_followed: bool) -> Doubt {
        let mut doubt = Doubt::default();
        for greeting in answers {
            doubt.begin(false);
            doubt.greeted(greeting.clone());
            doubt.stored();
        }
        doubt.begin(is_followed);
        doubt
    }

    /// Samples are refused with this message, and what is due is answered like this.
    fn refuse_once(
        doubt: &mut Doubt,
        text: &str,
        greeting: &Greeting,
        sample: &SampleAnswer,
        is_alone: bool,
    ) -> Ruling {
        let refusal = refusal(text);
        while let Some(check) = doubt.check_due(RefusalReason::Other, Some(&refusal), is_alone) {
            match check {
                Check::Greeting => {
                    doubt.greeted(greeting.clone());
                    doubt.greeting_checked();
                }
                Check::StoredSample => doubt.sample_answered(sample.clone()),
            }
        }
        doubt.refused(RefusalReason::Other, Some(refusal))
    }

    /// Likewise, of several samples, to a receiver that refuses samples which it stored before.
    fn refuse(doubt: &mut Doubt, text: &str, greeting: &Greeting) -> Ruling {
        refuse_once(doubt, text, greeting, &SampleAnswer::Refused(RefusalReason::Other, Some(refusal(text))), false)
    }

    #[test]
    fn refusals_with_equal_messages_are_equal_whatever_their_identifiers() {
        let former = refusal("request 17 of 4bf92f35-77b3-4da6: no samples");
        assert_eq!(former, refusal("request 18 of ae21c0ff-9a01-0b12: no samples"));
        assert_ne!(former, refusal("request 17 of 4bf92f35-77b3-4da6: no token"));
        assert_ne!(former, Refusal::new(422, &Secret::new("request 17 of 4bf92f35-77b3-4da6: no samples")));
    }

    const ANSWERS: [fn() -> SampleAnswer; 4] = [
        || SampleAnswer::None,
        || SampleAnswer::Refused(RefusalReason::Other, Some(refusal("bad request"))),
        || SampleAnswer::Refused(RefusalReason::TooLarge, Some(refusal("bad request"))),
        || SampleAnswer::Refused(RefusalReason::Other, Some(refusal("no duplicates"))),
    ];

    /// What a receiver answered to requests without samples before it, or a proxy, refuses them and samples with "bad request".
    fn usual_answers() -> [Vec<Greeting>; 5] {
        let accepted = Greeting::Accepted;
        [
            vec![],
            vec![accepted],
            vec![refused("no samples")],
            vec![refused("one"), refused("another")],
            vec![refused("bad request")],
        ]
    }

    #[test]
    fn samples_that_are_refused_as_requests_without_samples_are_held_unless_a_stored_sample_is_accepted_again() {
        for usual in usual_answers() {
            for (answer, is_alone) in ANSWERS.iter().flat_map(|answer| [(answer(), false), (answer(), true)]) {
                let mut doubt = after(&usual, false);
                doubt.greeted(refused("bad request"));
                let ruling = refuse_once(&mut doubt, "bad request", &refused("bad request"), &answer, is_alone);
                assert_eq!(ruling, Ruling::Hold, "{usual:?} {answer:?}");
                assert!(doubt.is_settled(), "nothing was divided");
            }
        }
        let mut doubt = after(&[Greeting::Accepted], false);
        doubt.greeted(refused("too large"));
        let same = refusal("too large");
        assert_eq!(doubt.check_due(RefusalReason::TooLarge, Some(&same), false), Some(Check::StoredSample));
        assert_eq!(doubt.refused(RefusalReason::TooLarge, Some(same)), Ruling::Hold);
    }

    #[test]
    fn samples_that_are_refused_as_requests_without_samples_are_believed_between_stored_samples_that_are_accepted_again()
     {
        let accepted =
            [SampleAnswer::Stored, SampleAnswer::Refused(RefusalReason::Duplicate, Some(refusal("a duplicate")))];
        for usual in usual_answers() {
            for sample in &accepted {
                let opened = || {
                    let mut doubt = after(&usual, false);
                    doubt.greeted(refused("bad request"));
                    for is_alone in [false, true] {
                        let ruling = refuse_once(&mut doubt, "bad request", &refused("bad request"), sample, is_alone);
                        assert_eq!(ruling, Ruling::Divide, "{usual:?} {sample:?}");
                    }
                    doubt.greeted(refused("bad request"));
                    assert_eq!(doubt.check_due_at_end(), Some(Check::StoredSample), "a greeting shows nothing");
                    doubt
                };
                let mut doubt = opened();
                doubt.sample_answered(sample.clone());
                assert!(doubt.is_settled() && doubt.end().is_none());
                let mut doubt = opened();
                doubt.stored();
                assert!(doubt.is_settled() && doubt.check_due_at_end().is_none());
                for answer in ANSWERS {
                    let mut doubt = opened();
                    doubt.sample_answered(answer());
                    assert_eq!(doubt.end(), Some(Void::Refused), "{answer:?}");
                }
                let mut doubt = opened();
                doubt.held();
                assert_eq!(doubt.end(), Some(Void::Held));
            }
        }
    }

    #[test]
    fn no_request_without_samples_settles_what_has_its_message() {
        for usual in usual_answers() {
            let mut doubt = after(&usual, false);
            doubt.greeted(refused("bad request"));
            let opened = refuse_once(&mut doubt, "bad request", &Greeting::Accepted, &SampleAnswer::Stored, true);
            assert_eq!((opened, doubt.is_settled()), (Ruling::Divide, false));
            // Of another message afterwards.
            doubt.refused(RefusalReason::Other, Some(refusal("bad label")));
            for text in ["bad request", "no samples", "one", "another", "a third"] {
                doubt.greeted(refused(text));
                assert!(!doubt.is_settled(), "{usual:?} {text}");
            }
        }
    }

    #[test]
    fn without_a_stored_sample_nothing_that_has_the_message_of_requests_without_samples_is_believed_later() {
        let mut doubt = after(&[], false);
        doubt.greeted(refused("bad request"));
        refuse_once(&mut doubt, "starting", &refused("bad request"), &SampleAnswer::None, false);
        assert!(doubt.is_doubted(), "no usual answer is known");
        let ruling = refuse_once(&mut doubt, "bad request", &refused("bad request"), &SampleAnswer::None, true);
        assert_eq!(ruling, Ruling::Divide);
        doubt.stored();
        assert_eq!(doubt.end(), Some(Void::AcceptedAgain));
    }

    #[test]
    fn a_stored_sample_is_asked_again_after_each_hold_and_those_behind_others_are_divided_in_the_end() {
        let same = refusal("bad request");
        let mut doubt = after(&[refused("bad request")], false);
        for _ in 0..3 {
            assert_eq!(doubt.check_due(RefusalReason::Other, Some(&same), false), Some(Check::StoredSample));
            doubt.sample_answered(SampleAnswer::None);
            assert_eq!(doubt.refused(RefusalReason::Other, Some(same.clone())), Ruling::Hold);
            doubt.held();
        }
        // Where another refusal comes first, the batch is void and no request is held.
        let is_divided = (0..8).any(|_| {
            doubt.begin(false);
            refuse_once(&mut doubt, "bad label", &refused("bad request"), &SampleAnswer::None, false);
            refuse_once(&mut doubt, "bad request", &refused("bad request"), &SampleAnswer::None, true);
            doubt.is_doubted()
        });
        assert!(is_divided);
    }

    #[test]
    fn each_eighth_time_samples_are_divided_instead_of_held_and_nothing_is_believed() {
        for usual in usual_answers() {
            for answer in ANSWERS {
                let mut doubt = after(&usual, false);
                let mut attempt = || {
                    doubt.begin(false);
                    doubt.greeted(refused("bad request"));
                    let ruling = refuse_once(&mut doubt, "bad request", &refused("bad request"), &answer(), false);
                    let is_held = ruling == Ruling::Hold;
                    if !is_held {
                        let ruling = refuse_once(&mut doubt, "bad request", &refused("bad request"), &answer(), true);
                        assert_eq!(ruling, Ruling::Divide);
                        doubt.greeted(refused("bad request"));
                        assert_eq!(doubt.end(), Some(Void::Refused), "{usual:?}");
                        doubt.stored();
                        assert_eq!(doubt.end(), Some(Void::AcceptedAgain), "now a stored sample decides");
                    }
                    is_held
                };
                (0..7).for_each(|_| assert!(attempt()));
                assert!(!attempt());
            }
        }
    }

    #[test]
    fn a_known_reason_is_believed_without_a_request() {
        for reason in RefusalReason::ALL.into_iter().filter(|reason| reason.is_known()) {
            let mut doubt = after(&[Greeting::Accepted], false);
            assert_eq!(doubt.check_due(reason, Some(&refusal("x")), true), None);
            assert_eq!(doubt.refused(reason, Some(refusal("x"))), Ruling::Divide);
            assert!(doubt.is_settled(), "{reason}");
        }
    }

    #[test]
    fn a_refusal_is_believed_once_the_sender_is_accepted_afterwards_too() {
        let usual = [Greeting::Accepted, refused("no samples")];
        for usual in usual {
            for is_followed in [false, true] {
                let open = || {
                    let mut doubt = after(std::slice::from_ref(&usual), is_followed);
                    assert_eq!(refuse(&mut doubt, "bad label", &usual), Ruling::Divide);
                    assert_eq!(doubt.check_due_at_end(), Some(Check::Greeting), "{usual:?}");
                    assert_eq!((doubt.void(), doubt.end()), (None, Some(Void::Refused)), "it is not settled yet");
                    doubt
                };
                let mut doubt = open();
                doubt.stored();
                assert!(doubt.is_settled(), "samples are stored");
                let mut doubt = open();
                assert!(
                    doubt.greeted(usual.clone()) && doubt.is_settled(),
                    "a request without samples is answered as usual"
                );
                let mut doubt = open();
                doubt.refused(RefusalReason::OutOfOrder, Some(refusal("out of order")));
                assert!(doubt.is_settled(), "the receiver has read samples");
                let mut doubt = open();
                doubt.held();
                assert_eq!(doubt.void(), Some(Void::Held));
                for text in ["unknown", "bad label"] {
                    let mut doubt = open();
                    doubt.greeted(refused(text));
                    assert_eq!((doubt.check_due_at_end(), doubt.end()), (None, Some(Void::Refused)), "{text}");
                }
            }
        }
    }

    #[test]
    fn an_unusual_refusal_is_doubted_and_void_if_anything_is_accepted_later() {
        for usual in [Greeting::Accepted, refused("no samples")] {
            for (is_followed, has_stored) in [(false, false), (false, true), (true, false), (true, true)] {
                let doubted = || {
                    let mut doubt = after(std::slice::from_ref(&usual), is_followed);
                    if has_stored {
                        doubt.stored();
                    }
                    assert_eq!(refuse(&mut doubt, "one", &refused("another")), Ruling::Divide);
                    assert!(doubt.is_doubted() && doubt.void().is_none(), "{usual:?} {is_followed} {has_stored}");
                    assert_eq!(doubt.end(), Some(Void::Refused));
                    doubt
                };
                let mut doubt = doubted();
                doubt.stored();
                assert_eq!(doubt.void(), Some(Void::AcceptedAgain));
                let mut doubt = doubted();
                doubt.greeted(usual.clone());
                assert_eq!(doubt.void(), Some(Void::AcceptedAgain));
                let mut doubt = doubted();
                doubt.held();
                assert_eq!(doubt.void(), Some(Void::Held));
            }
        }
    }

    #[test]
    fn without_a_usual_answer_a_refusal_is_doubted_until_samples_are_stored_unless_later_ticks_can_be_accepted() {
        let unknown: [&[Greeting]; 2] = [&[], &[refused("one"), refused("another")]];
        for usual in unknown {
            for (is_followed, has_stored) in [(false, false), (false, true), (true, false), (true, true)] {
                // Before an answer is known, nothing was stored yet.
                if has_stored && usual.is_empty() {
                    continue;
                }
                let mut doubt = after(usual, is_followed);
                if has_stored {
                    doubt.stored();
                }
                doubt.greeted(refused("a third"));
                assert_eq!(refuse(&mut doubt, "bad label", &refused("a fourth")), Ruling::Divide);
                assert_eq!(doubt.is_doubted(), !is_followed && !has_stored, "{usual:?} {is_followed} {has_stored}");
                assert_eq!(doubt.is_settled(), is_followed || has_stored);
                doubt.stored();
                assert!(doubt.is_settled(), "it accepts the sender");
            }
        }
    }

    #[test]
    fn a_doubted_batch_is_given_up_after_sixteen_samples() {
        let mut doubt = after(&[Greeting::Accepted], false);
        (0..TRIED_ALONE_MAX).for_each(|_| doubt.refused_alone());
        refuse(&mut doubt, "one", &refused("another"));
        for _ in 0..TRIED_ALONE_MAX {
            assert_eq!(doubt.void(), None, "those before the doubt do not count");
            doubt.refused_alone();
        }
        assert_eq!(doubt.void(), Some(Void::Refused));
    }

    #[test]
    fn a_check_is_due_after_the_first_refusal_of_a_batch_and_after_the_first_of_one_sample_since_samples_were_stored() {
        let mut doubt = after(&[Greeting::Accepted], false);
        let mut is_due = |is_alone| {
            let due = doubt.check_due(RefusalReason::Other, Some(&refusal("bad label")), is_alone);
            if due.is_some() {
                doubt.greeting_checked();
            }
            due == Some(Check::Greeting)
        };
        assert!(is_due(false) && !is_due(false) && !is_due(true));
        doubt.stored();
        let mut is_due = |is_alone| {
            let due = doubt.check_due(RefusalReason::Other, Some(&refusal("bad label")), is_alone);
            if due.is_some() {
                doubt.greeting_checked();
            }
            due == Some(Check::Greeting)
        };
        assert!(!is_due(false) && is_due(true) && !is_due(true));
    }

    #[test]
    fn the_usual_answer_is_learned_from_what_is_stored_and_one_that_varies_shows_nothing() {
        let mut doubt = after(&[Greeting::Accepted, refused("no samples")], false);
        assert!(doubt.greeted(refused("no samples")), "as usual");
        let mut doubt = after(&[refused("one"), refused("another")], false);
        assert!(!doubt.greeted(refused("another one")));
        assert!(doubt.greeted(refused("another")));
        doubt.stored();
        assert!(doubt.greeted(refused("another")));
        doubt.begin(false);
        refuse(&mut doubt, "bad label", &refused("unknown"));
        assert!(doubt.is_doubted(), "it was the same message twice, so that another one is unusual");
        let mut doubt = after(&[refused("one"), refused("another"), Greeting::Accepted], false);
        doubt.greeted(refused("one"));
        refuse(&mut doubt, "bad label", &refused("one"));
        assert!(doubt.is_doubted());
    }
}
