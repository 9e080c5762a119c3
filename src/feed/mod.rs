//! One feed: connect, authenticate, subscribe, receive, keep alive, reconnect, until shutdown.
//!
//! Architecture invariant: the only user of tokio-tungstenite as a client. No JSON is parsed here and no metric is known: a
//! frame is passed to the [`FeedListener`] as text, which returns the two facts that the feed needs as [`FrameSummary`].
//!
//! Each [`DisconnectReason`] has one [`RetryPolicy`], decided by [`retry_policy`]:
//!
//! | reason | meaning | policy |
//! | --- | --- | --- |
//! | close 1000, 1001, 1011, 1012, 1013 | the server ends, restarts, fails or is overloaded | backoff |
//! | close 1002, 1003, 1007, 1009, 1010 | the server rejects something that was sent | backoff |
//! | close 1005; the codes that must not be sent (0 to 999, 1004, 1006, 1014 to 2999, from 5000), which come as 1002 | the server does not say | backoff |
//! | close 1008, 3000, 3003, 4001 | the token or this client is refused | refused |
//! | any other close code of 3000 to 4999 | the server's own | backoff |
//! | lost (`1006`), dead, silent, frozen | the server or its loop does not respond | backoff |
//! | oversized, invalid UTF-8, protocol violation | the server sends something invalid | backoff |
//! | HTTP 5xx; 408, 425, 429 | the server or a proxy is temporarily unable | backoff |
//! | HTTP 429, 503 with `Retry-After` | the server says when to retry | backoff after that time, `refused_backoff_max` at the most |
//! | HTTP 3xx | a redirect, not followed because the token is for the configured server | refused |
//! | HTTP 401, 403, 407 | the token, this client, or a proxy's credentials are refused | refused |
//! | HTTP 2xx, any other 4xx | the URL is not that of a feed | refused |
//! | no WebSocket handshake, TLS, DNS, connect, timeouts | the server is unreachable, or not yet up | backoff |
//! | token, header or certificate unusable | the file is empty or missing | backoff, without connecting |
//! | shutdown | | no further attempt |
//!
//! *Backoff* is [`FeedState::Waiting`] with `backoff_min` to `backoff_max`, *refused* is [`FeedState::Refused`] with
//! `refused_backoff_min` to `refused_backoff_max`. Both grow exponentially, are jittered, and start over only after a
//! connection that was live for `healthy_after`: accepting a connection and closing it is not a recovery.

mod backoff;
mod connect;
mod credentials;
mod disconnect_reason;
mod handshake;
mod listener;
mod session;
mod settings;
mod state;
mod watchdog;

pub(crate) use backoff::Backoff;
pub(crate) use connect::{TlsConfigs, http_date, retry_after_wait, tls_text};
pub use credentials::{
    ClientIdentity, Credential, CredentialError, CredentialProblem, Credentials, HeaderProblem, HttpCredentials,
    Minting, Secret, SecretSource, SharedIoError, TOKEN_LIFETIME, TlsFiles, TokenOrigin, TokenSource,
};
pub(crate) use credentials::{PresentedHeaders, QuerySecrets};
pub(crate) use disconnect_reason::TOKEN_REFUSED_CODES;
pub use disconnect_reason::{DISCONNECT_CODES, DisconnectReason, RetryPolicy, retry_policy};
pub use listener::{CALLS_PER_READY_MAX, FeedListener, FrameSummary, SnapshotSummary};
pub(crate) use settings::bare;
pub use settings::{FeedSettings, Timing};
pub use state::FeedState;

use connect::{Connection, Dialer};
use credentials::PresentedCredentials;
use session::Session;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use watchdog::SnapshotWatch;

/// Keeps `listener` connected to the feed until `shutdown`.
///
/// Shutdown interrupts every wait. An open connection is then closed with a close frame, to which the peer has one second to
/// respond. Dropping the future instead drops the connection, without a call of [`FeedListener::closed`].
pub async fn run(settings: FeedSettings, listener: Arc<dyn FeedListener>, shutdown: CancellationToken) {
    let timing = &settings.timing;
    let mut ordinary = Backoff::new(timing.backoff_min, timing.backoff_max, fastrand::Rng::new());
    let mut refused = Backoff::new(timing.refused_backoff_min, timing.refused_backoff_max, fastrand::Rng::new());
    let mut feed = Feed {
        settings: &settings,
        listener: &*listener,
        shutdown: &shutdown,
        dialer: Dialer::default(),
        watch: SnapshotWatch::new(timing.silence_timeout, settings.skill.is_some()),
    };

    while shutdown.run_until_cancelled(session::ready(&*listener)).await.is_some() {
        let (reason, was_healthy) = feed.attempt().await;
        if was_healthy {
            ordinary.reset();
            refused.reset();
        }
        if shutdown.is_cancelled() {
            break;
        }
        let state = match retry_policy(&reason) {
            RetryPolicy::Backoff => FeedState::Waiting { reason, retry_in: ordinary.next_delay() },
            RetryPolicy::BackoffAfter(asked) => {
                let retry_in = asked.min(timing.refused_backoff_max) + ordinary.next_delay();
                FeedState::Waiting { reason, retry_in }
            }
            RetryPolicy::Refused => FeedState::Refused { reason, retry_in: refused.next_delay() },
        };
        listener.state_changed(&state);
        if let FeedState::Waiting { retry_in, .. } | FeedState::Refused { retry_in, .. } = state {
            shutdown.run_until_cancelled(tokio::time::sleep(retry_in)).await;
        }
    }
    listener.state_changed(&FeedState::Stopped);
}

struct Feed<'a> {
    settings: &'a FeedSettings,
    listener: &'a dyn FeedListener,
    shutdown: &'a CancellationToken,
    dialer: Dialer,
    watch: SnapshotWatch,
}

impl Feed<'_> {
    /// Makes one attempt. Returns why it ended, and whether the connection was healthy.
    async fn attempt(&mut self) -> (DisconnectReason, bool) {
        self.listener.state_changed(&FeedState::Connecting);
        let (connection, presented) = match self.shutdown.run_until_cancelled(self.connect()).await {
            Some(Ok(connected)) => connected,
            Some(Err(reason)) => {
                self.watch.interrupted();
                return (reason, false);
            }
            None => return (DisconnectReason::Shutdown, false),
        };

        self.listener.opened();
        self.listener.state_changed(&FeedState::Opened);
        let mut session = Session::new(connection, self.settings, presented);
        let conversation = session.run(&mut self.watch, self.listener);
        let reason = self.shutdown.run_until_cancelled(conversation).await.unwrap_or(DisconnectReason::Shutdown);
        let was_healthy = session.was_healthy();
        if !matches!(reason, DisconnectReason::Silent { .. } | DisconnectReason::Frozen { .. }) {
            self.watch.interrupted();
        }
        self.listener.closed(&reason);
        session.close(&reason).await;
        (reason, was_healthy)
    }

    async fn connect(&mut self) -> Result<(Connection, PresentedCredentials), DisconnectReason> {
        let presented = self.settings.credentials.read().await?;
        Ok((self.dialer.dial(self.settings, &presented).await?, presented))
    }
}
