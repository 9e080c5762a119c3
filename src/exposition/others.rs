//! Everything else that a registry gathers, as text.

use prometheus::proto::{Metric, MetricFamily, MetricType};

use super::format::Format;
use super::sample::{Value, push_escaped};

/// Writes families that `Registry::gather` returned. The crate's own encoder knows one format only, and writes the bound 1.0
/// as `1`, which OpenMetrics forbids: one series would have two names.
pub fn encode_others(families: &[MetricFamily], format: Format, out: &mut String) {
    for family in families {
        let kind = family.get_field_type();
        format.push_head(family.name(), family.help(), type_name(kind), out);
        for metric in family.get_metric() {
            let mut samples = Samples { name: family.name(), metric, format, out };
            match kind {
                MetricType::COUNTER => samples.push("", None, metric.get_counter().get_value()),
                MetricType::GAUGE => samples.push("", None, metric.get_gauge().get_value()),
                MetricType::HISTOGRAM => samples.push_histogram(),
                MetricType::SUMMARY => samples.push_summary(),
                // The crate has no such metrics.
                MetricType::UNTYPED => {}
            }
        }
    }
}

fn type_name(kind: MetricType) -> &'static str {
    match kind {
        MetricType::COUNTER => "counter",
        MetricType::GAUGE => "gauge",
        MetricType::HISTOGRAM => "histogram",
        MetricType::SUMMARY => "summary",
        MetricType::UNTYPED => "untyped",
    }
}

struct Samples<'f> {
    name: &'f str,
    metric: &'f Metric,
    format: Format,
    out: &'f mut String,
}

impl Samples<'_> {
    fn push_histogram(&mut self) {
        let histogram = self.metric.get_histogram();
        let count = histogram.get_sample_count() as f64;
        for bucket in histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound() < f64::INFINITY) {
            self.push("_bucket", Some(("le", bucket.upper_bound())), bucket.cumulative_count() as f64);
        }
        self.push("_bucket", Some(("le", f64::INFINITY)), count);
        self.push("_sum", None, histogram.get_sample_sum());
        self.push("_count", None, count);
    }

    fn push_summary(&mut self) {
        let summary = self.metric.get_summary();
        for quantile in summary.get_quantile() {
            self.push("", Some(("quantile", quantile.quantile())), quantile.value());
        }
        self.push("_sum", None, summary.sample_sum());
        self.push("_count", None, summary.sample_count() as f64);
    }

    fn push(&mut self, suffix: &str, bound: Option<(&str, f64)>, value: f64) {
        self.out.push_str(self.name);
        self.out.push_str(suffix);
        let mut separator = '{';
        let mut push_label = |name: &str, text: &str| {
            self.out.push(separator);
            separator = ',';
            self.out.push_str(name);
            self.out.push_str("=\"");
            push_escaped(text, |chunk| self.out.push_str(chunk));
            self.out.push('"');
        };
        for label in self.metric.get_label() {
            push_label(label.name(), label.value());
        }
        if let Some((name, bound)) = bound {
            push_label(name, &bound_text(bound));
        }
        if separator == ',' {
            self.out.push('}');
        }
        self.out.push(' ');
        Value::Number(value).with_text(|text| self.out.push_str(std::str::from_utf8(text).expect("digits are text")));
        if self.metric.timestamp_ms() != 0 {
            self.format.push_timestamp(self.metric.timestamp_ms(), self.out);
        }
        self.out.push('\n');
    }
}

/// As OpenMetrics requires it: integers have a decimal point too.
fn bound_text(bound: f64) -> String {
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
        let mut out = String::new();
        encode_others(&registry.gather(), format, &mut out);
        out
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
