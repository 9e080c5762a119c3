//! What a receiver's answer means for the samples that it answers. Pure.

use std::fmt;
use std::time::Duration;

use crate::feed::Secret;

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The receiver answered.
    Status {
        /// The status code of HTTP.
        code: u16,
        /// How long it asks not to be asked again.
        retry_after: Option<Duration>,
        /// The beginning of the body, as the receiver wrote it: it may quote secrets.
        body: Secret,
        /// Whether the body is a page for people.
        is_page: bool,
    },
    /// No answer: the name was not resolved, no connection, TLS failed, the connection was lost, a timeout, or what came is
    /// not HTTP. The receiver may have stored everything.
    None,
}

/// What to do with the samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// They are stored.
    Stored,
    /// Send the same samples again: the same bytes, unless they are suspected.
    Retry(RetryCause),
    /// The receiver refuses at least one of them, or all; or stored them and refuses the repetition. Whether it stored any of
    /// them is unknown.
    Divide(RefusalReason),
    /// The receiver does not take requests from us: nothing is known about the samples.
    Hold,
}

/// Why the same samples are sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RetryCause {
    /// The receiver is not there, is overloaded, or is restarting.
    Unavailable {
        /// Not earlier than after this time.
        not_before: Option<Duration>,
    },
    /// The receiver failed, and it may do so because of these bytes.
    Failed {
        /// Not earlier than after this time.
        not_before: Option<Duration>,
    },
}

impl RetryCause {
    /// Returns how long the receiver asks not to be asked again.
    pub(crate) fn not_before(self) -> Option<Duration> {
        let (Self::Unavailable { not_before } | Self::Failed { not_before }) = self;
        not_before
    }
}

/// Why a sample is not at a receiver and will not be: the label `reason` of `push_refused_samples_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefusalReason {
    /// The receiver has a later sample of the series, and no window for earlier ones.
    OutOfOrder,
    /// It is too far from the receiver's present.
    OutOfBounds,
    /// It is older than the receiver's window for earlier samples.
    TooOld,
    /// The receiver has another value at this time.
    Duplicate,
    /// One sample is too large a request, which only a long label can be.
    TooLarge,
    /// Requests with it alone failed, after ten minutes of failures, while others were stored.
    ServerError,
    /// It was older than `--push.max-age` when it could have been sent.
    MaxAge,
    /// A reason that the answer does not name in words that are known.
    Other,
}

impl RefusalReason {
    /// Every reason.
    pub const ALL: [Self; 8] = [
        Self::OutOfOrder,
        Self::OutOfBounds,
        Self::TooOld,
        Self::Duplicate,
        Self::TooLarge,
        Self::ServerError,
        Self::MaxAge,
        Self::Other,
    ];

    /// Returns the value of the label.
    pub fn code(self) -> &'static str {
        match self {
            Self::OutOfOrder => "out_of_order",
            Self::OutOfBounds => "out_of_bounds",
            Self::TooOld => "too_old",
            Self::Duplicate => "duplicate",
            Self::TooLarge => "too_large",
            Self::ServerError => "server_error",
            Self::MaxAge => "max_age",
            Self::Other => "other",
        }
    }

    /// Returns whether a later sample of the same series can be accepted where this one is not, so that a bound in time
    /// separates the two.
    pub(crate) fn is_of_time(self) -> bool {
        !matches!(self, Self::TooLarge | Self::ServerError)
    }

    /// Returns whether the answer names the reason in words of receivers, so that one has read the samples, or their number.
    pub(crate) fn is_known(self) -> bool {
        self != Self::Other
    }

    /// Returns whether the sample is too far from the receiver's present, or from its newest one, whatever its series.
    pub(crate) fn is_of_age(self) -> bool {
        matches!(self, Self::OutOfBounds | Self::TooOld)
    }

    /// Reads the reason out of an answer. The first words are those of Prometheus, which Thanos passes on; the others are
    /// Mimir's and Cortex's.
    fn read(code: u16, body: &Secret) -> Self {
        if code == 413 {
            return Self::TooLarge;
        }
        let text = body.expose().to_ascii_lowercase();
        let contains = |words: &[&str]| words.iter().any(|word| text.contains(word));
        if contains(&["too old", "too-old", "too far behind"]) {
            Self::TooOld
        } else if contains(&["out of order", "out-of-order"]) {
            Self::OutOfOrder
        } else if contains(&["out of bounds", "out-of-bounds", "too far in the future", "too-far-in-future"]) {
            Self::OutOfBounds
        } else if contains(&["duplicate sample", "duplicate-timestamp", "duplicate timestamp"]) {
            Self::Duplicate
        } else {
            Self::Other
        }
    }
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// Longest `Retry-After` that is obeyed: a receiver that names a later time is asked again after this.
pub(crate) const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);

impl Answer {
    /// Returns what to do.
    pub(crate) fn verdict(&self) -> Verdict {
        let Self::Status { code, retry_after, body, is_page } = self else {
            return Verdict::Retry(RetryCause::Unavailable { not_before: None });
        };
        let not_before = retry_after.map(|wait| wait.min(RETRY_AFTER_MAX));
        match code {
            // No receiver answers with a page: the login of a network does, and stores nothing.
            200..300 if *is_page => Verdict::Hold,
            200..300 => Verdict::Stored,
            500 => Verdict::Retry(RetryCause::Failed { not_before }),
            408 | 425 | 429 | 501..600 => Verdict::Retry(RetryCause::Unavailable { not_before }),
            400 | 409 | 413 | 415 | 422 => Verdict::Divide(RefusalReason::read(*code, body)),
            // Redirects are not followed: they would send the credentials to whoever is named there. What no rule names stays
            // queued too.
            _ => Verdict::Hold,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, text: &str) -> Answer {
        Answer::Status { code, retry_after: None, body: Secret::new(text), is_page: false }
    }

    #[test]
    fn each_status_of_http_has_one_meaning_and_only_divisions_can_drop_a_sample() {
        for code in 0..=u16::MAX {
            let verdict = status(code, "").verdict();
            let expected = match code {
                200..=299 => Verdict::Stored,
                500 => Verdict::Retry(RetryCause::Failed { not_before: None }),
                408 | 425 | 429 | 501..=599 => Verdict::Retry(RetryCause::Unavailable { not_before: None }),
                413 => Verdict::Divide(RefusalReason::TooLarge),
                400 | 409 | 415 | 422 => Verdict::Divide(RefusalReason::Other),
                _ => Verdict::Hold,
            };
            assert_eq!(verdict, expected, "{code}");
        }
        assert_eq!(Answer::None.verdict(), Verdict::Retry(RetryCause::Unavailable { not_before: None }));
    }

    #[test]
    fn a_web_page_never_stores_samples() {
        for code in 200..300 {
            let page = Answer::Status { code, retry_after: None, body: Secret::new("<html>"), is_page: true };
            assert_eq!(page.verdict(), Verdict::Hold, "{code}");
        }
    }

    #[test]
    fn a_receiver_is_obeyed_for_up_to_an_hour() {
        for (asked, obeyed) in [(0, 0), (7, 7), (3_600, 3_600), (3_601, 3_600), (u64::MAX, 3_600)] {
            let not_before = Some(Duration::from_secs(obeyed));
            for (code, cause) in [
                (429, RetryCause::Unavailable { not_before }),
                (503, RetryCause::Unavailable { not_before }),
                (500, RetryCause::Failed { not_before }),
            ] {
                let retry_after = Some(Duration::from_secs(asked));
                let answer = Answer::Status { code, retry_after, body: Secret::new(""), is_page: false };
                assert_eq!(answer.verdict(), Verdict::Retry(cause));
                assert_eq!(cause.not_before(), not_before);
            }
        }
    }

    /// The texts are those of Prometheus 2.42 and 2.53, and of Mimir's catalogue of errors.
    #[test]
    fn the_reason_is_read_out_of_what_receivers_write() {
        for (text, reason) in [
            ("out of order sample\n", RefusalReason::OutOfOrder),
            ("out of bounds\n", RefusalReason::OutOfBounds),
            ("too old sample\n", RefusalReason::TooOld),
            ("duplicate sample for timestamp\n", RefusalReason::Duplicate),
            ("failed pushing to ingester: ... (err-mimir-sample-out-of-order)", RefusalReason::OutOfOrder),
            ("the sample has been rejected because its timestamp is too old (err-mimir-sample-timestamp-too-old)", {
                RefusalReason::TooOld
            }),
            ("... (err-mimir-sample-duplicate-timestamp)", RefusalReason::Duplicate),
            ("received a sample whose timestamp is too far in the future (err-mimir-too-far-in-future)", {
                RefusalReason::OutOfBounds
            }),
            ("Out of order samples are not allowed", RefusalReason::OutOfOrder),
            ("snappy: corrupt input", RefusalReason::Other),
            ("", RefusalReason::Other),
        ] {
            assert_eq!(status(400, text).verdict(), Verdict::Divide(reason), "{text}");
            assert_eq!(status(413, text).verdict(), Verdict::Divide(RefusalReason::TooLarge), "{text}");
        }
    }

    #[test]
    fn codes_of_reasons_differ() {
        let codes: std::collections::BTreeSet<_> = RefusalReason::ALL.iter().map(|reason| reason.code()).collect();
        assert_eq!(codes.len(), RefusalReason::ALL.len());
    }
}
