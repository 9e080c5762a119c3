//! What the HTTP server did: its requests and the duration of scrapes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Histogram, MetricFamily};

use super::Telemetry;
use crate::exposition::family::Family;
use crate::http::Refusal;

const HTTP_CONNECTIONS_REFUSED: Family<0> = Family::counter(
    "session_buddy_bridge_http_connections_refused_total",
    "Number of HTTP connections closed because too many were open.",
    [],
);
const HTTP_REFUSALS: Family<1> = Family::counter(
    "session_buddy_bridge_http_refusals_total",
    "Number of HTTP connections and requests that access control refused, by reason.",
    ["reason"],
);
const HTTP_ACCEPT_FAILURES: Family<0> = Family::counter(
    "session_buddy_bridge_http_accept_failures_total",
    "Number of HTTP connections that could not be accepted, for example because file descriptors ran out.",
    [],
);
const HTTP_REQUESTS: Family<2> = Family::counter(
    "session_buddy_bridge_http_requests_total",
    "Number of HTTP requests that were answered, by path and status code.",
    ["code", "path"],
);
const HTTP_SCRAPE_DURATION: Family<0> = Family::histogram(
    "session_buddy_bridge_http_scrape_duration_seconds",
    "Time from a request of the metrics to its response, without sending it.",
    [],
);

/// Upper bounds of the buckets, in seconds. Few: each is a series of every scrape.
const SCRAPE_BUCKETS_SECONDS: [f64; 4] = [0.001, 0.01, 0.1, 1.0];

/// Requests by path and status code, and the duration of scrapes.
#[derive(Debug, Clone, Default)]
pub(super) struct HttpCounts {
    requests: BTreeMap<String, BTreeMap<u16, u64>>,
    scrapes: ScrapeDurations,
}

#[derive(Debug, Clone, Copy, Default)]
struct ScrapeDurations {
    /// Not cumulative; longer ones are in none.
    buckets: [u64; SCRAPE_BUCKETS_SECONDS.len()],
    count: u64,
    sum_seconds: f64,
}

impl HttpCounts {
    /// Exposes successful requests of `path` before there are any.
    pub fn expect(&mut self, path: &str) {
        self.requests.entry(path.to_owned()).or_default().entry(200).or_default();
    }

    pub fn record_request(&mut self, path: &str, code: u16) {
        // The path is cloned once, not with each request.
        match self.requests.get_mut(path) {
            Some(codes) => *codes.entry(code).or_default() += 1,
            None => drop(self.requests.insert(path.to_owned(), BTreeMap::from([(code, 1)]))),
        }
    }

    pub fn record_scrape(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        if let Some(bucket) = SCRAPE_BUCKETS_SECONDS.iter().position(|bound| seconds <= *bound) {
            self.scrapes.buckets[bucket] += 1;
        }
        self.scrapes.count += 1;
        self.scrapes.sum_seconds += seconds;
    }
}

impl From<ScrapeDurations> for Histogram {
    /// Finite bounds only: an encoder derives `+Inf` from the count.
    fn from(durations: ScrapeDurations) -> Self {
        let mut cumulative = 0;
        let buckets = SCRAPE_BUCKETS_SECONDS.iter().zip(durations.buckets).map(|(bound, count)| {
            cumulative += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(cumulative);
            bucket
        });
        let mut histogram = Self::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(durations.count);
        histogram.set_sample_sum(durations.sum_seconds);
        histogram
    }
}

/// The metrics of the HTTP server, all `session_buddy_bridge_http_*`, for a `prometheus::Registry`.
pub struct HttpCollector {
    telemetry: Arc<Telemetry>,
    descs: Vec<Desc>,
}

impl HttpCollector {
    pub(super) fn new(telemetry: Arc<Telemetry>) -> Self {
        let own = [
            HTTP_CONNECTIONS_REFUSED.desc(),
            HTTP_REFUSALS.desc(),
            HTTP_ACCEPT_FAILURES.desc(),
            HTTP_REQUESTS.desc(),
            HTTP_SCRAPE_DURATION.desc(),
        ];
        Self { telemetry, descs: own.into_iter().chain(HTTP_SCRAPE_DURATION.sample_descs()).collect() }
    }
}

impl Collector for HttpCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (refused, accept_failures) = self.telemetry.http_failures();
        let HttpCounts { requests, scrapes } = self.telemetry.http_counts();
        let requests = requests.iter().flat_map(|(path, codes)| {
            codes.iter().map(move |(code, count)| (code.to_string(), path.as_str(), *count as f64))
        });
        let requests: Vec<_> = requests.collect();
        vec![
            HTTP_CONNECTIONS_REFUSED.value(refused as f64),
            HTTP_REFUSALS.with(
                Refusal::ALL
                    .iter()
                    .zip(self.telemetry.http_refusals())
                    .map(|(refusal, count)| ([refusal.label()], count as f64)),
            ),
            HTTP_ACCEPT_FAILURES.value(accept_failures as f64),
            HTTP_REQUESTS.with(requests.iter().map(|(code, path, count)| ([code.as_str(), *path], *count))),
            HTTP_SCRAPE_DURATION.with_histograms([([], scrapes.into())]),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scrapes_are_in_the_bucket_of_their_duration() {
        let mut counts = HttpCounts::default();
        for millis in [1, 2, 10, 99, 1000, 1001] {
            counts.record_scrape(Duration::from_millis(millis));
        }
        let histogram = Histogram::from(counts.scrapes);
        let cumulative: Vec<_> = histogram.get_bucket().iter().map(Bucket::cumulative_count).collect();
        assert_eq!((cumulative, histogram.get_sample_count()), (vec![1, 3, 4, 5], 6));
        assert!((histogram.get_sample_sum() - 2.113).abs() < 1e-9);
    }
}
