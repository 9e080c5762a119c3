//! A receiver, as it is configured.

use std::fmt;
use std::time::Duration;

use url::Url;

use super::labels::PushLabels;
use super::series::{Origin, ReceiverName, Series};
use crate::feed::HttpCredentials;

/// Which series are pushed.
///
/// ```
/// use session_buddy_bridge::settings::PushedSeries;
///
/// assert_eq!(PushedSeries::default(), PushedSeries::All);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PushedSeries {
    /// The five families.
    Five,
    /// The bridge's own metrics too.
    #[default]
    All,
}

impl PushedSeries {
    /// Returns whether `series` is pushed.
    pub(super) fn contains(self, series: &Series) -> bool {
        self == Self::All || series.origin == Origin::Families
    }
}

/// A receiver of remote write, already validated.
///
/// ```
/// use std::time::Duration;
///
/// use session_buddy_bridge::settings::{HttpCredentials, PushLabels, PushReceiver, PushedSeries, ReceiverName};
///
/// let receiver = PushReceiver {
///     name: ReceiverName::new("lab"),
///     url: "http://receiver.example:9090/api/v1/write".parse().unwrap(),
///     credentials: HttpCredentials::default(),
///     labels: PushLabels::of_host("laptop"),
///     series: PushedSeries::Five,
///     age_max: Duration::from_secs(86_400),
///     timeout: Duration::from_secs(10),
/// };
/// assert!(format!("{receiver:?}").contains("receiver.example:9090/api/v1/write"));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct PushReceiver {
    /// Its name in metrics and log lines, and the key of its position in the queue.
    pub name: ReceiverName,
    /// `http` or `https`, without user info.
    pub url: Url,
    /// How it is authenticated, and how the bridge is.
    pub credentials: HttpCredentials,
    /// Labels of each series.
    pub labels: PushLabels,
    /// Which series it gets.
    pub series: PushedSeries,
    /// Ticks that are older are not sent any more, except for the newest. 7 d.
    pub age_max: Duration,
    /// Timeout of a request, with its connection. 30 s.
    pub timeout: Duration,
}

impl PushReceiver {
    /// Returns whether a file of headers has one of this name. A file that cannot be read has none.
    pub(crate) fn sends_header(&self, name: &str) -> bool {
        self.credentials.has_header(name)
    }
}

impl fmt::Debug for PushReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, url, credentials, labels, series, age_max, timeout } = self;
        f.debug_struct("PushReceiver")
            .field("name", name)
            .field("url", &default_name(url))
            .field("credentials", credentials)
            .field("labels", labels)
            .field("series", series)
            .field("age_max", age_max)
            .field("timeout", timeout)
            .finish()
    }
}

/// Returns the name of a receiver that has none: host, port and path. User info and query, which may be secret, are left out.
pub fn default_name(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or_default();
    format!("{host}:{port}{}", url.path())
}

/// Receivers, and what holds for all of them.
///
/// ```
/// use std::time::Duration;
///
/// use session_buddy_bridge::settings::PushSettings;
///
/// let settings = PushSettings::default();
/// assert!(settings.receivers.is_empty());
/// assert_eq!(settings.interval, Duration::from_secs(60));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushSettings {
    /// At most four, with different names.
    pub receivers: Vec<PushReceiver>,
    /// Time between two ticks. 60 s.
    pub interval: Duration,
    /// The queue is thinned beyond this size, in bytes. 256 MiB.
    pub queue_bytes_max: u64,
}

impl Default for PushSettings {
    fn default() -> Self {
        Self { receivers: Vec::new(), interval: Duration::from_secs(60), queue_bytes_max: 256 * 1024 * 1024 }
    }
}
