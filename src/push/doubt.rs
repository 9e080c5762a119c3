//! Whether a request is refused for its samples or for who sends it. Pure.
//!
//! A proxy can refuse credentials with the status that receivers refuse samples with. Requests without samples tell the two apart: a
//! receiver answers all of them alike, whether it accepts or refuses them, and a proxy that refuses the credentials refuses them too.

use super::answer::RefusalReason;
use crate::feed::Secret;

/// Without anything that is known of a receiver, a batch is given up once so many samples that are far from each other were refused alone.
const TRIED_ALONE_MAX: usize = 16;

/// Samples that are refused as requests without samples are refused, which is unusual, are held so often before they are divided for
/// the first time; later each time that the number has doubled.
const HOLDS_MIN: u32 = 8;

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
        why: Why,
        /// Samples that were refused alone since.
        tried_alone: usize,
        /// Whether what was refused since includes samples that are not sent again in the batch.
        has_losses: bool,
    },
    /// The sender was refused. What was refused meanwhile is to be sent again.
    Void(Void),
}

/// Why the refusals of a batch are doubted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// The receiver answered requests without samples otherwise before, and accepted the sender.
    Unusual,
    /// Its usual answer to them is not known.
    NotKnown,
    /// The samples are refused with the message of the requests without samples, which says nothing of either.
    SameMessage,
}

/// Why the refusals of a batch are not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Void {
    /// A hold came after them.
    Held,
    /// The sender was refused and is accepted again.
    AcceptedAgain,
    /// Samples were refused as requests without samples are, and others stored since. What is refused again then is believed.
    Unconfirmed,
    /// The sender is refused, as far as is known.
    Refused,
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
/// | refused with the same message, as usual, whatever the reason | | | is doubted, until samples are stored twice |
/// | refused with the same message, which is unusual, whatever the reason | | | holds the samples |
/// | accepted, or refused as usual | | | is believed, once the sender is accepted afterwards too |
/// | refused, which is unusual | | | is doubted, and void if anything is accepted later |
/// | refused, and no usual answer is known | yes | | is believed |
/// | refused, and no usual answer is known | no | yes | is believed: later ticks can be what it accepts |
/// | refused, and no usual answer is known | no | no | is doubted, until samples are stored |
///
/// The usual answer is the one that samples were stored after. One that differs from time to time is not known.
///
/// A usual message says nothing of a refusal that has it: it can be that of a proxy which replaces all messages. If samples are stored after
/// such a refusal, the batch is sent again; what is then refused again, before samples are stored again, is believed. Where nothing is left
/// that could be stored, a sample that was stored is repeated. An unusual one is treated likewise after 8, 16, 32 ... holds: a receiver of
/// which no usual answer is known, since the process started, can have it.
///
/// A request without samples is due after the first refusal of a batch for an unknown reason, after the first one of a single sample
/// since samples were stored, and at the end of a batch with refusals that are neither believed nor doubted. So a batch has three at most
/// if one series is refused; if many are, half as many as it has requests with samples, and two more. A doubted batch drops nothing, and is
/// sent again after a hold.
#[derive(Debug)]
pub(crate) struct Doubt {
    usual: UsualAnswer,
    /// The last answer to a request without samples since samples were stored.
    greeting: Option<Greeting>,
    /// The last refusal of samples that is not settled.
    refusal: Option<Refusal>,
    state: State,
    /// Whether the batch before ended as [`Void::Unconfirmed`], and none was settled since.
    is_repeated: bool,
    /// Holds for the same message since samples were stored.
    holds: u32,
    /// Whether ticks follow the batch.
    is_followed: bool,
    /// Whether samples of the batch were stored.
    has_stored: bool,
    /// Whether a greeting followed a refusal of the batch.
    is_checked: bool,
    /// Whether one did since samples were stored.
    is_checked_since_stored: bool,
}

impl Default for Doubt {
    fn default() -> Self {
        Self {
            usual: UsualAnswer::Unknown,
            greeting: None,
            refusal: None,
            state: State::Settled,
            is_repeated: false,
            holds: 0,
            is_followed: false,
            has_stored: false,
            is_checked: false,
            is_checked_since_stored: false,
        }
    }
}

impl Doubt {
    /// A batch begins. `is_followed` is whether later ticks are queued that were not read yet.
    pub(crate) fn begin(&mut self, is_followed: bool) {
        self.is_repeated &= !self.is_settled();
        self.state = State::Settled;
        self.refusal = None;
        self.is_followed = is_followed;
        (self.has_stored, self.is_checked, self.is_checked_since_stored) = (false, false, false);
    }

    /// Returns whether all refusals so far are believed.
    pub(crate) fn is_settled(&self) -> bool {
        self.state == State::Settled
    }

    /// Returns whether the refusals so far are believed once a request is accepted.
    pub(crate) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Returns whether requests without samples are refused too.
    pub(crate) fn is_doubted(&self) -> bool {
        matches!(self.state, State::Doubted { .. })
    }

    /// Returns whether only a sample that was stored shows whether the sender is accepted. `is_end` is whether no other is left.
    pub(crate) fn is_repetition_due(&self, is_end: bool) -> bool {
        let is_due = |tried_alone| is_end || tried_alone >= TRIED_ALONE_MAX;
        matches!(self.state, State::Doubted { why: Why::SameMessage, tried_alone, .. } if is_due(tried_alone))
    }

    /// Returns why what is not settled is to be sent again; `None` if the batch can go on.
    pub(crate) fn void(&self) -> Option<Void> {
        match self.state {
            State::Void(void) => Some(void),
            State::Doubted { tried_alone: TRIED_ALONE_MAX.., .. } => Some(Void::Refused),
            State::Settled | State::Open | State::Doubted { .. } => None,
        }
    }

    /// Every sample of the batch is answered for. Returns why what is not settled is to be sent again.
    pub(crate) fn end(&self) -> Option<Void> {
        if self.is_doubted() { Some(Void::Refused) } else { self.void() }
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
        self.has_stored = true;
        self.holds = 0;
        self.is_checked_since_stored = false;
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
        match (sign, self.state) {
            (Sign::Refused, State::Open) => self.doubt(Why::Unusual),
            (Sign::Nothing, State::Open) if is_same => self.doubt(Why::Unusual),
            (Sign::Nothing, State::Open) => self.state = State::Settled,
            (Sign::Accepted, State::Doubted { why: Why::SameMessage, .. }) if is_refused => {}
            (Sign::Accepted, State::Doubted { .. }) => self.state = State::Void(Void::AcceptedAgain),
            (Sign::Accepted, _) => self.accepted(),
            (Sign::Refused | Sign::Nothing, _) => {}
        }
        sign == Sign::Accepted
    }

    /// The sender was refused, and has waited.
    pub(crate) fn held(&mut self) {
        if self.state != State::Settled {
            self.state = State::Void(Void::Held);
        }
    }

    /// Returns whether a request without samples is due before [`Self::refused`]. `is_alone` is whether a single sample was refused.
    pub(crate) fn is_check_due(&self, reason: RefusalReason, is_alone: bool) -> bool {
        let is_first = !self.is_checked || (is_alone && !self.is_checked_since_stored);
        let sign = self.greeting.as_ref().map_or(Sign::Accepted, |greeting| self.sign(greeting));
        !reason.is_known() && is_first && sign == Sign::Accepted
    }

    /// The request that was due was answered.
    pub(crate) fn checked(&mut self) {
        (self.is_checked, self.is_checked_since_stored) = (true, true);
    }

    /// Samples were refused.
    pub(crate) fn refused(&mut self, reason: RefusalReason, refusal: Option<Refusal>) -> Ruling {
        let sign = self.greeting.as_ref().map_or(Sign::Accepted, |greeting| self.sign(greeting));
        let is_usual = sign == Sign::Accepted && self.is_usual(refusal.as_ref());
        if is_usual || self.is_greeting(refusal.as_ref()) {
            if !is_usual && self.is_hold_due() {
                return Ruling::Hold;
            }
            self.refusal = refusal;
            self.doubt(Why::SameMessage);
            return Ruling::Divide;
        }
        if reason.is_known() {
            // Who has read the samples knows whoever sends them.
            if reason.is_of_time() && !matches!(self.state, State::Doubted { why: Why::Unusual, .. }) {
                self.accepted();
            }
            return Ruling::Divide;
        }
        self.refusal = refusal;
        match sign {
            Sign::Accepted if self.is_settled() => self.state = State::Open,
            Sign::Refused => self.doubt(Why::Unusual),
            Sign::Nothing if !self.has_stored && !self.is_followed => self.doubt(Why::NotKnown),
            Sign::Accepted | Sign::Nothing => {}
        }
        Ruling::Divide
    }

    /// A sample was refused alone, and is not to be tried again.
    pub(crate) fn refused_alone(&mut self) {
        if let State::Doubted { tried_alone, .. } = &mut self.state {
            *tried_alone += 1;
        }
    }

    /// Samples are refused that are not sent again in the batch.
    pub(crate) fn lost(&mut self) {
        if let State::Doubted { has_losses, .. } = &mut self.state {
            *has_losses = true;
        }
    }

    fn doubt(&mut self, why: Why) {
        if matches!(self.state, State::Settled | State::Open) {
            self.state = State::Doubted { why, tried_alone: 0, has_losses: self.state == State::Open };
        }
    }

    /// Returns whether samples that are refused with the message of the last request without samples are held.
    fn is_hold_due(&mut self) -> bool {
        if matches!(self.state, State::Doubted { why: Why::SameMessage, .. }) {
            return false;
        }
        self.holds = self.holds.saturating_add(1);
        self.holds < HOLDS_MIN || !self.holds.is_power_of_two()
    }

    /// The sender is accepted now.
    fn accepted(&mut self) {
        self.state = match self.state {
            State::Settled | State::Open | State::Doubted { why: Why::NotKnown, .. } => State::Settled,
            State::Doubted { why: Why::Unusual, .. } => State::Void(Void::AcceptedAgain),
            State::Doubted { why: Why::SameMessage, has_losses, .. } if has_losses && !self.is_repeated => {
                self.is_repeated = true;
                State::Void(Void::Unconfirmed)
            }
            State::Doubted { why: Why::SameMessage, .. } => State::Settled,
            State::Void(void) => State::Void(void),
        };
    }

    /// Returns whether it is the refusal that requests without samples usually get.
    fn is_usual(&self, refusal: Option<&Refusal>) -> bool {
        matches!(&self.usual, UsualAnswer::Refused { refusal: usual, .. } if refusal == Some(usual))
    }

    /// Returns whether the last request without samples was refused like this.
    fn is_greeting(&self, refusal: Option<&Refusal>) -> bool {
        matches!(&self.greeting, Some(Greeting::Refused(greeting)) if refusal == Some(greeting))
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

    /// Samples are refused with this message, and a request without samples, if it is due, is answered like this.
    fn refuse(doubt: &mut Doubt, text: &str, greeting: &Greeting) -> Ruling {
        if doubt.is_check_due(RefusalReason::Other, false) {
            doubt.greeted(greeting.clone());
            doubt.checked();
        }
        doubt.refused(RefusalReason::Other, Some(refusal(text)))
    }

    #[test]
    fn refusals_with_equal_messages_are_equal_whatever_their_identifiers() {
        let former = refusal("request 17 of 4bf92f35-77b3-4da6: no samples");
        assert_eq!(former, refusal("request 18 of ae21c0ff-9a01-0b12: no samples"));
        assert_ne!(former, refusal("request 17 of 4bf92f35-77b3-4da6: no token"));
        assert_ne!(former, Refusal::new(422, &Secret::new("request 17 of 4bf92f35-77b3-4da6: no samples")));
    }

    #[test]
    fn a_request_without_samples_that_is_refused_with_the_same_message_which_is_unusual_holds_the_samples() {
        let answers: [&[Greeting]; 4] =
            [&[], &[Greeting::Accepted], &[refused("no samples")], &[refused("one"), refused("another")]];
        for usual in answers {
            for is_followed in [false, true] {
                let mut doubt = after(usual, is_followed);
                assert_eq!(refuse(&mut doubt, "unknown", &refused("unknown")), Ruling::Hold, "{usual:?}");
                assert!(doubt.is_settled(), "nothing was divided");
                let greeted = doubt.greeting.is_some();
                assert!(greeted || usual.is_empty(), "a check is due where the usual answer is known");
            }
        }
        let mut doubt = Doubt::default();
        doubt.begin(false);
        doubt.greeted(refused("too large"));
        assert_eq!(doubt.refused(RefusalReason::TooLarge, Some(refusal("too large"))), Ruling::Hold);
    }

    /// In a batch whose samples are refused as requests without samples usually are, one of them alone.
    fn refused_as_usual(is_followed: bool, has_stored: bool) -> Doubt {
        let mut doubt = after(&[refused("bad request")], is_followed);
        if has_stored {
            doubt.stored();
        }
        refuse_as_usual(&mut doubt);
        doubt
    }

    fn refuse_as_usual(doubt: &mut Doubt) {
        for is_alone in [false, true] {
            assert_eq!(refuse(doubt, "bad request", &refused("bad request")), Ruling::Divide);
            assert!(doubt.is_doubted() && doubt.void().is_none() && doubt.is_repetition_due(true));
            if is_alone {
                doubt.refused_alone();
                doubt.lost();
            }
        }
    }

    #[test]
    fn a_refusal_with_the_usual_message_is_believed_once_it_is_repeated_between_samples_that_are_stored() {
        for (is_followed, has_stored) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut doubt = refused_as_usual(is_followed, has_stored);
            doubt.stored();
            assert_eq!(doubt.end(), Some(Void::Unconfirmed), "the sender can be accepted again");
            doubt.begin(is_followed);
            refuse_as_usual(&mut doubt);
            doubt.stored();
            assert!(doubt.is_settled());
            // The next batch begins with nothing.
            doubt.begin(is_followed);
            refuse_as_usual(&mut doubt);
            doubt.stored();
            assert_eq!(doubt.end(), Some(Void::Unconfirmed));
        }
    }

    #[test]
    fn a_refusal_with_the_usual_message_that_loses_nothing_is_believed_once_samples_are_stored() {
        let mut doubt = after(&[refused("bad request")], false);
        refuse(&mut doubt, "bad request", &refused("bad request"));
        doubt.stored();
        assert!(doubt.is_settled());
    }

    #[test]
    fn refusals_with_the_usual_message_drop_nothing_while_nothing_is_stored() {
        for (is_followed, has_stored) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut doubt = refused_as_usual(is_followed, has_stored);
            doubt.greeted(refused("bad request"));
            assert_eq!(doubt.end(), Some(Void::Refused), "the request without samples says nothing");
            assert!(!doubt.is_repetition_due(false));
            (1..TRIED_ALONE_MAX).for_each(|_| doubt.refused_alone());
            assert!(doubt.is_repetition_due(false));
            assert_eq!(doubt.void(), Some(Void::Refused));
            doubt.held();
            assert_eq!(doubt.void(), Some(Void::Held));
        }
    }

    #[test]
    fn samples_that_are_held_for_an_unusual_message_are_divided_ever_less_often_and_believed_as_if_it_were_usual() {
        for usual in [&[][..], &[Greeting::Accepted]] {
            let mut doubt = after(usual, false);
            let mut divided = Vec::new();
            for time in 1..=64 {
                doubt.begin(false);
                doubt.greeted(refused("bad request"));
                match refuse(&mut doubt, "bad request", &refused("bad request")) {
                    Ruling::Hold => assert!(doubt.is_settled()),
                    Ruling::Divide => {
                        divided.push(time);
                        refuse_as_usual(&mut doubt);
                        assert_eq!(doubt.end(), Some(Void::Refused));
                    }
                }
                doubt.held();
            }
            assert_eq!(divided, [8, 16, 32, 64]);
            doubt.greeted(refused("bad request"));
            doubt.stored();
            doubt.begin(false);
            refuse_as_usual(&mut doubt);
            doubt.stored();
            assert_eq!(doubt.end(), Some(Void::Unconfirmed));
        }
    }

    #[test]
    fn a_known_reason_is_believed_without_a_request() {
        for reason in RefusalReason::ALL.into_iter().filter(|reason| reason.is_known()) {
            let mut doubt = after(&[Greeting::Accepted], false);
            assert!(!doubt.is_check_due(reason, true));
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
                    assert!(doubt.is_open() && doubt.end().is_none(), "{usual:?}");
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
                    assert_eq!(doubt.end(), Some(Void::Refused), "{text}");
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
            let is_due = doubt.is_check_due(RefusalReason::Other, is_alone);
            if is_due {
                doubt.checked();
            }
            is_due
        };
        assert!(is_due(false) && !is_due(false) && !is_due(true));
        doubt.stored();
        let mut is_due = |is_alone| {
            let is_due = doubt.is_check_due(RefusalReason::Other, is_alone);
            if is_due {
                doubt.checked();
            }
            is_due
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
