//! What the HTTP server did: its requests and the duration of scrapes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus::core::Desc;

use super::Telemetry;
use crate::exposition::family::Family;
use crate::exposition::own::{FamilySink, HistogramValue, OwnMetrics};
use crate::http::Refusal;
use crate::sync::lock;

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

impl ScrapeDurations {
    fn value(&self) -> HistogramValue<'_> {
        let Self { buckets, count, sum_seconds } = self;
        HistogramValue { bounds: &SCRAPE_BUCKETS_SECONDS, counts: buckets, count: *count, sum: *sum_seconds }
    }
}

/// The metrics of the HTTP server, all `session_buddy_bridge_http_*`.
pub(super) struct HttpMetrics(pub Arc<Telemetry>);

impl OwnMetrics for HttpMetrics {
    fn descs(&self) -> Vec<Desc> {
        let own = [
            HTTP_CONNECTIONS_REFUSED.desc(),
            HTTP_REFUSALS.desc(),
            HTTP_ACCEPT_FAILURES.desc(),
            HTTP_REQUESTS.desc(),
            HTTP_SCRAPE_DURATION.desc(),
        ];
        own.into_iter().chain(HTTP_SCRAPE_DURATION.sample_descs()).collect()
    }

    fn write(&self, sink: &mut dyn FamilySink) {
        let process = lock(&self.0.process);
        HTTP_CONNECTIONS_REFUSED.write_value(process.refused as f64, sink);
        let refusals = Refusal::ALL.iter().zip(process.refusals);
        HTTP_REFUSALS.write(refusals.map(|(refusal, refusals)| ([refusal.label()], refusals.count as f64)), sink);
        HTTP_ACCEPT_FAILURES.write_value(process.accept_failures as f64, sink);
        let HttpCounts { requests, scrapes } = &process.http;
        let requests = requests.iter().flat_map(|(path, codes)| {
            codes.iter().map(move |(code, count)| (code.to_string(), path.as_str(), *count as f64))
        });
        let requests: Vec<_> = requests.collect();
        HTTP_REQUESTS.write(requests.iter().map(|(code, path, count)| ([code.as_str(), *path], *count)), sink);
        HTTP_SCRAPE_DURATION.write_histograms([([], scrapes.value())], sink);
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
        let mut samples = Vec::new();
        counts.scrapes.value().each_sample(|suffix, bound, value| samples.push((suffix, bound, value)));
        let bucket = |bound, count| ("_bucket", Some(bound), count);
        let buckets =
            [bucket(0.001, 1.0), bucket(0.01, 3.0), bucket(0.1, 4.0), bucket(1.0, 5.0), bucket(f64::INFINITY, 6.0)];
        assert_eq!(samples[..5], buckets);
        assert!(samples[5].0 == "_sum" && (samples[5].2 - 2.113).abs() < 1e-9);
        assert_eq!(samples[6..], [("_count", None, 6.0)]);
    }
}
