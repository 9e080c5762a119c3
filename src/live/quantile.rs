//! A quantile of a histogram.

use crate::ledger::{DURATION_BUCKETS_SECONDS, Histogram};

/// Returns the quantile `share`, in seconds, as estimated by Prometheus's `histogram_quantile`: observations are spread evenly
/// within a bucket, from 0 in the first; beyond the last bound it is that bound. `None` without observations.
pub(super) fn quantile(share: f64, durations: &Histogram) -> Option<f64> {
    let rank = share * durations.count() as f64;
    let (mut below, mut lower) = (0.0, 0.0);
    if durations.count() == 0 {
        return None;
    }
    for (bound, inside) in DURATION_BUCKETS_SECONDS.into_iter().zip(durations.buckets) {
        let inside = inside as f64;
        if inside > 0.0 && below + inside >= rank {
            return Some(lower + (bound - lower) * (rank - below) / inside);
        }
        below += inside;
        lower = bound;
    }
    Some(lower)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(buckets: [u64; 10]) -> Histogram {
        Histogram { buckets, sum: 0.0 }
    }

    #[test]
    fn it_is_what_prometheus_says() {
        assert_eq!(quantile(0.95, &Histogram::default()), None);
        // 20 observations of more than 2 s and up to 5 s: 19 of 20 lie 95 % of the way.
        assert_eq!(quantile(0.95, &histogram([0, 0, 0, 0, 20, 0, 0, 0, 0, 0])), Some(4.85));
        assert_eq!(quantile(0.5, &histogram([10, 0, 0, 0, 0, 0, 0, 0, 0, 0])), Some(0.05));
        assert_eq!(quantile(0.5, &histogram([2, 0, 2, 0, 0, 0, 0, 0, 0, 0])), Some(0.1));
        assert_eq!(quantile(0.95, &histogram([1, 0, 0, 0, 0, 0, 0, 0, 0, 9])), Some(300.0));
    }
}
