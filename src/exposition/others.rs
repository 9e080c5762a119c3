//! Everything else that a registry gathers, as text.

use prometheus::proto::{Metric, MetricFamily, MetricType};

use super::format::Format;
use super::sample::{Value, push_escaped};

/// A sample of a family that a registry gathered.
#[derive(Debug, Clone, Copy)]
pub struct OtherSample<'f> {
    /// Of the family, the labels and the timestamp.
    pub metric: &'f Metric,
    /// What the name of the sample has behind that of the family.
    pub suffix: &'static str,
    /// The label `le` or `quantile`, and its value.
    pub bound: Option<(&'static str, f64)>,
    /// Its value.
    pub value: f64,
    /// Whether it only increases.
    pub is_counter: bool,
}

/// Writes families that `Registry::gather` returned. The crate's own encoder knows one format only, and writes the bound 1.0
/// as `1`, which OpenMetrics forbids: one series would have two names.
pub(super) fn encode_others(families: &[MetricFamily], format: Format, out: &mut Vec<u8>) {
    for family in families {
        format.push_head(family.name(), family.help(), type_name(family.get_field_type()), out);
        each_other_sample(family, |sample| {
            let labels = sample.metric.get_label().iter().map(|label| (label.name(), label.value()));
            push_series(family.name(), sample.suffix, labels, sample.bound, out);
            push_value(sample.value, out);
            if sample.metric.timestamp_ms() != 0 {
                format.push_timestamp(sample.metric.timestamp_ms(), out);
            }
            out.push(b'\n');
        });
    }
}

/// Calls `each` with every sample of a family, in the order of a scrape.
pub fn each_other_sample<'f>(family: &'f MetricFamily, mut each: impl FnMut(OtherSample<'f>)) {
    for metric in family.get_metric() {
        let mut sample = |suffix, bound, value, is_counter| {
            each(OtherSample { metric, suffix, bound, value, is_counter });
        };
        match family.get_field_type() {
            MetricType::COUNTER => sample("", None, metric.get_counter().get_value(), true),
            MetricType::GAUGE => sample("", None, metric.get_gauge().get_value(), false),
            MetricType::HISTOGRAM => {
                let histogram = metric.get_histogram();
                let count = histogram.get_sample_count() as f64;
                for bucket in histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound() < f64::INFINITY) {
                    sample("_bucket", Some(("le", bucket.upper_bound())), bucket.cumulative_count() as f64, true);
                }
                sample("_bucket", Some(("le", f64::INFINITY)), count, true);
                sample("_sum", None, histogram.get_sample_sum(), true);
                sample("_count", None, count, true);
            }
            MetricType::SUMMARY => {
                let summary = metric.get_summary();
                for quantile in summary.get_quantile() {
                    sample("", Some(("quantile", quantile.quantile())), quantile.value(), false);
                }
                sample("_sum", None, summary.sample_sum(), true);
                sample("_count", None, summary.sample_count() as f64, true);
            }
            // The crate has no such metrics.
            MetricType::UNTYPED => {}
        }
    }
}

pub(super) fn type_name(kind: MetricType) -> &'static str {
    match kind {
        MetricType::COUNTER => "counter",
        MetricType::GAUGE => "gauge",
        MetricType::HISTOGRAM => "histogram",
        MetricType::SUMMARY => "summary",
        MetricType::UNTYPED => "untyped",
    }
}

/// Writes the name and the labels of a sample, and the space before its value.
pub(super) fn push_series<'l>(
    name: &str,
    suffix: &str,
    labels: impl Iterator<Item = (&'l str, &'l str)>,
    bound: Option<(&str, f64)>,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(suffix.as_bytes());
    let mut separator = b'{';
    let mut push_label = |name: &str, text: &str| {
        out.push(separator);
        separator = b',';
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"=\"");
        push_escaped(text, |chunk| out.extend_from_slice(chunk.as_bytes()));
        out.push(b'"');
    };
    labels.for_each(|(name, text)| push_label(name, text));
    if let Some((name, bound)) = bound {
        push_label(name, &bound_text(bound));
    }
    out.extend_from_slice(if separator == b',' { b"} " } else { b" " });
}

pub(super) fn push_value(value: f64, out: &mut Vec<u8>) {
    Value::Number(value).with_text(|text| out.extend_from_slice(text));
}

/// Returns the value of a label `le` or `quantile` as OpenMetrics requires it: integers have a decimal point too.
pub fn bound_text(bound: f64) -> String {
    if bound == f64::INFINITY { "+Inf".to_owned() } else { format!("{bound:?}") }
}

#[cfg(test)]
mod tests {
    use prometheus::{CounterVec, Histogram, HistogramOpts, IntCounter, Opts, Registry};

    use super::*;

    fn written(format: Format) -> String {
        let registry = Registry::new();
        let served = CounterVec::new(Opts::new("served_total", "A \"quoted\" help,\nwith \\"), &["what"]).unwrap();
        served.with_label_values(&["a\"b\\c\nd"]).inc_by(2.5);
        let odd = IntCounter::new("odd", "A counter without the suffix").unwrap();
        let took = Histogram::with_opts(HistogramOpts::new("took_seconds", "Took").buckets(vec![0.5, 1.0])).unwrap();
        took.observe(0.75);
        registry.register(Box::new(served)).unwrap();
        registry.register(Box::new(odd)).unwrap();
        registry.register(Box::new(took)).unwrap();
        let mut out = Vec::new();
        encode_others(&registry.gather(), format, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn both_formats_have_the_same_series_under_their_own_heads() {
        let samples =
            |text: &str| text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>();
        let (text, open) = (written(Format::Text), written(Format::OpenMetrics { with_created: false }));
        assert_eq!(samples(&text), samples(&open));
        assert_eq!(
            samples(&text),
            [
                "odd 0",
                r#"served_total{what="a\"b\\c\nd"} 2.5"#,
                r#"took_seconds_bucket{le="0.5"} 0"#,
                r#"took_seconds_bucket{le="1.0"} 1"#,
                r#"took_seconds_bucket{le="+Inf"} 1"#,
                "took_seconds_sum 0.75",
                "took_seconds_count 1",
            ]
        );
        let heads =
            |text: &str| text.lines().filter(|line| line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(
            heads(&text)[..4],
            [
                "# HELP odd A counter without the suffix",
                "# TYPE odd counter",
                r#"# HELP served_total A "quoted" help,\nwith \\"#,
                "# TYPE served_total counter",
            ]
        );
        assert_eq!(
            heads(&open)[..4],
            [
                "# HELP odd A counter without the suffix",
                "# TYPE odd unknown",
                r#"# HELP served A \"quoted\" help,\nwith \\"#,
                "# TYPE served counter",
            ]
        );
    }
}
