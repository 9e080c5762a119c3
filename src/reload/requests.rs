//! Requests of reloads, and their outcomes.

use std::sync::Arc;

use tokio::sync::watch;

/// How a reload went; for people if it failed.
pub(crate) type ReloadOutcome = Result<(), Arc<str>>;

/// Requests of reloads, numbered from 1, so that whoever requests one can wait for its outcome. A reload answers every request that was made
/// before it began.
#[derive(Debug)]
pub(crate) struct ReloadRequests {
    /// Number of requests.
    requested: watch::Sender<u64>,
    /// Number of the last request that is answered, and the outcome.
    answered: watch::Sender<(u64, ReloadOutcome)>,
}

impl ReloadRequests {
    pub fn new() -> Self {
        Self { requested: watch::Sender::new(0), answered: watch::Sender::new((0, Ok(()))) }
    }

    /// Requests a reload. Returns the number of the request.
    pub fn request(&self) -> u64 {
        let mut number = 0;
        self.requested.send_modify(|requested| {
            *requested += 1;
            number = *requested;
        });
        number
    }

    /// Requests a reload and waits for its outcome.
    pub async fn reload(&self) -> ReloadOutcome {
        let number = self.request();
        let mut answered = self.answered.subscribe();
        match answered.wait_for(|(last, _)| *last >= number).await {
            Ok(answer) => answer.1.clone(),
            Err(_) => unreachable!("the sender is a field of this"),
        }
    }

    /// Waits for a request that is not answered. Returns the number of the last one, which the reload that begins now answers.
    pub async fn pending(&self) -> u64 {
        let answered = self.answered.borrow().0;
        match self.requested.subscribe().wait_for(|requested| *requested > answered).await {
            Ok(requested) => *requested,
            Err(_) => unreachable!("the sender is a field of this"),
        }
    }

    /// Answers every request up to `number`.
    pub fn answer(&self, number: u64, outcome: ReloadOutcome) {
        let _before = self.answered.send_replace((number, outcome));
    }

    /// Answers every request of the past and the future, because nothing is reloaded any more.
    pub fn end(&self) {
        self.answer(u64::MAX, Err("the bridge shuts down".into()));
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn requests_before_a_reload_are_one_and_later_ones_wait_for_the_next() {
        let requests = ReloadRequests::new();
        assert_eq!(requests.pending().now_or_never(), None);
        let (mut one, mut two) = (Box::pin(requests.reload()), Box::pin(requests.reload()));
        assert_eq!((one.as_mut().now_or_never(), two.as_mut().now_or_never()), (None, None));
        let number = requests.pending().await;
        let mut late = Box::pin(requests.reload());
        assert_eq!(late.as_mut().now_or_never(), None);
        requests.answer(number, Err("broken".into()));
        assert_eq!((one.await, two.await), (Err("broken".into()), Err("broken".into())));
        assert_eq!(late.as_mut().now_or_never(), None, "it may have been made after the file was read");
        requests.answer(requests.pending().await, Ok(()));
        assert_eq!(late.await, Ok(()));
        assert_eq!(requests.pending().now_or_never(), None);
    }

    #[tokio::test]
    async fn nobody_waits_for_a_reload_after_the_end() {
        let requests = ReloadRequests::new();
        let waiting = requests.reload();
        requests.end();
        assert!(waiting.await.is_err() && requests.reload().await.is_err());
    }
}
