//! Requests that are sent now, without a queue: for a command that ends.

use std::time::Duration;

use bytes::Bytes;

use super::answer::Verdict;
use super::client::Client;
use super::clock::WallClock;
use super::receiver::PushReceiver;

/// How often a request is sent to a receiver that does not answer, or asks to wait.
const ATTEMPTS_MAX: u32 = 8;

/// The wait before the second attempt; it doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// Longest wait that a receiver may ask for.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Sends requests to one receiver, one after the other. Ends with the first that is not stored.
pub struct DirectSender(Client);

impl DirectSender {
    /// Creates a sender without a connection.
    pub fn new(receiver: PushReceiver) -> Self {
        Self(Client::new(receiver, WallClock::default()))
    }

    /// Sends the body of a request until the receiver has stored it.
    ///
    /// # Errors
    /// What is wrong, and what to do: the receiver refuses the request, or does not answer.
    pub async fn send(&mut self, body: Bytes) -> Result<(), String> {
        let mut wait = FIRST_WAIT;
        for attempt in 1.. {
            let exchange = self.0.send(body.clone()).await;
            let problem = match &exchange.answer {
                Ok(reply) => reply.problem(),
                Err(error) => error.to_string(),
            };
            match exchange.answer().verdict() {
                Verdict::Stored => return Ok(()),
                Verdict::Retry(cause) if attempt < ATTEMPTS_MAX => {
                    let next = cause.not_before().unwrap_or(wait).clamp(wait, WAIT_MAX.max(wait));
                    let retry_seconds = next.as_secs_f64();
                    tracing::warn!(%problem, attempt, of = ATTEMPTS_MAX, retry_seconds, "push failed; retrying");
                    tokio::time::sleep(next).await;
                    wait *= 2;
                }
                Verdict::Divide(_) => {
                    return Err(format!(
                        "{problem}: it has to accept samples of the past, such as VictoriaMetrics within its retention, or \
                         Prometheus with a wide out_of_order_time_window; for others write a file with --output, and create \
                         blocks of it with promtool"
                    ));
                }
                Verdict::Retry(_) | Verdict::Hold => return Err(problem),
            }
        }
        unreachable!("the last attempt returns")
    }
}
