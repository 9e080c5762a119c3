use std::time::Duration;

/// What a client can take, and for how long. Each listener has its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpLimits {
    /// Open connections. One more is sent a 503 and closed without being read.
    pub connections_max: usize,
    /// Request line and headers of one request; more are answered with 431. Values below 8192 count as 8192.
    pub header_bytes_max: usize,
    /// From the start of waiting for a request to the end of its headers. It covers an idle connection too: one that
    /// is not used for this long is closed.
    pub header_read_timeout: Duration,
    /// From the moment at which the client first stops taking in a response to the end of that response.
    pub write_timeout: Duration,
    /// Scrapes in the making or on their way out at one time: their bodies are what memory is spent on.
    pub scrapes_max: usize,
    /// How long a scrape beyond [`Self::scrapes_max`] waits for a place before it is answered with 503.
    pub scrape_wait: Duration,
    /// How long requests that are being answered may take to end once shutdown begins.
    pub shutdown_grace: Duration,
}

impl Default for HttpLimits {
    /// 512 connections, 16 KiB of headers within 20 s, 30 s to take in a response, 16 scrapes at once with a wait of
    /// 5 s, and 2 s of grace. Prometheus scrapes every 15 s by many people's configuration, so that its connection
    /// lives on between two scrapes, and gives up after 10 s by default, long before a response is cut off here.
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
