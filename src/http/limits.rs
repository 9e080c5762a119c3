//! Limits of a listener.

use std::time::Duration;

/// Limits of one listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpLimits {
    /// Open connections. Further ones are answered with 503 and closed.
    pub connections_max: usize,
    /// Request line and headers of one request; more are answered with 431. Values below 8192 count as 8192.
    pub header_bytes_max: usize,
    /// Timeout from the start of waiting for a request to the end of its headers. Idle connections are closed after it.
    pub header_read_timeout: Duration,
    /// Timeout from the moment at which a client first stops reading a response to the end of that response.
    pub write_timeout: Duration,
    /// Scrapes in progress at one time, until their bodies are sent: these need the memory.
    pub scrapes_max: usize,
    /// How long a scrape beyond [`Self::scrapes_max`] waits before it is answered with 503.
    pub scrape_wait: Duration,
    /// How long requests in progress may take once shutdown begins.
    pub shutdown_grace: Duration,
}

impl Default for HttpLimits {
    /// 512 connections, 16 KiB of headers within 20 s, 30 s to read a response, 16 scrapes at once with a wait of 5 s, and 2 s
    /// of grace. Prometheus commonly scrapes every 15 s, so that its connection stays open between two scrapes, and gives up
    /// after 10 s by default, long before a response is aborted here.
    fn default() -> Self {
        Self {
            connections_max: 512,
            header_bytes_max: 16 * 1024,
            header_read_timeout: Duration::from_secs(20),
            write_timeout: Duration::from_secs(30),
            scrapes_max: 16,
            scrape_wait: Duration::from_secs(5),
            shutdown_grace: Duration::from_secs(2),
        }
    }
}
