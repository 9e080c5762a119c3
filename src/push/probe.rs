//! What can be found out about a receiver without a sample.

use super::answer::Verdict;
use super::client::{Client, Skew};
use super::clock::WallClock;
use super::encoder::RequestEncoder;
use super::receiver::PushReceiver;

/// Not a block of snappy: its length has no end.
const MALFORMED: &[u8] = &[0xff; 16];

/// What a refusal of a request without samples leaves open.
const EMPTY_REFUSED: &str = "a receiver that refuses requests without samples can still accept samples, which only \
                             session_buddy_bridge_push_up of a bridge that pushes to it shows";

/// What a receiver answers to a request without samples, and to an invalid one.
#[derive(Debug)]
pub struct Probe {
    /// The status of its answer to a request without samples, or why there is no answer.
    pub answer: Result<u16, String>,
    /// Why it takes no samples; `None` if it seems to.
    pub problem: Option<String>,
    /// Our clock minus the receiver's, in seconds: at least and at most. `None` if it does not tell the time.
    pub skew_seconds: Option<(f64, f64)>,
    /// Whether it reads what it is sent.
    pub verification: Verification,
}

/// Whether a receiver that answers with success reads write requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verification {
    /// It accepts a write request and refuses a malformed one.
    Verified {
        /// The status of the refusal.
        refused_with: u16,
    },
    /// It accepts whatever it is sent.
    AcceptsEverything,
    /// It answers with a page for people.
    WebPage,
    /// It did not accept a write request, or did not answer a second time.
    Unknown,
}

/// Sends both requests. No sample is sent.
pub async fn probe(receiver: PushReceiver) -> Probe {
    let mut client = Client::new(receiver, WallClock::default());
    let exchange = client.send(RequestEncoder::new().finish().into()).await;
    let skew_seconds = exchange.skew.map(|Skew { min, max }| (min, max));
    let is_refused = matches!(exchange.answer().verdict(), Verdict::Divide(_));
    let reply = match exchange.answer {
        Ok(reply) => reply,
        Err(error) => {
            let problem = error.to_string();
            let answer = Err(problem.clone());
            return Probe { answer, problem: Some(problem), skew_seconds, verification: Verification::Unknown };
        }
    };
    let is_accepted = (200..300).contains(&reply.code);
    let problem = (!is_accepted).then(|| match is_refused {
        true => format!("{}; {EMPTY_REFUSED}", reply.problem()),
        false => reply.problem(),
    });
    let verification = match () {
        () if !is_accepted => Verification::Unknown,
        () if reply.is_page() => Verification::WebPage,
        () => match client.send(MALFORMED.into()).await.answer {
            Ok(reply) if (200..300).contains(&reply.code) => Verification::AcceptsEverything,
            Ok(reply) => Verification::Verified { refused_with: reply.code },
            Err(_) => Verification::Unknown,
        },
    };
    Probe { answer: Ok(reply.code), problem, skew_seconds, verification }
}
