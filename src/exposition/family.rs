//! Metric families with explicit labels.
//!
//! The `prometheus` crate's own vectors identify a series by a hash of its label values without a separator between them, so
//! that two series can become one. Here a family is built for each scrape, from values that are stored elsewhere.

use std::collections::HashMap;

use prometheus::core::Desc;
use prometheus::proto::{Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::format::Format;

/// The constants of a family.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Family<const LABELS: usize> {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) kind: MetricType,
    /// In the order in which they are written.
    pub(crate) labels: [&'static str; LABELS],
}

impl<const LABELS: usize> Family<LABELS> {
    pub(crate) const fn counter(name: &'static str, help: &'static str, labels: [&'static str; LABELS]) -> Self {
        Self { name, help, kind: MetricType::COUNTER, labels }
    }

    pub(crate) const fn gauge(name: &'static str, help: &'static str, labels: [&'static str; LABELS]) -> Self {
        Self { name, help, kind: MetricType::GAUGE, labels }
    }

    pub(crate) const fn histogram(name: &'static str, help: &'static str, labels: [&'static str; LABELS]) -> Self {
        Self { name, help, kind: MetricType::HISTOGRAM, labels }
    }

    /// Returns HELP and TYPE.
    pub(super) fn head(&self, format: Format) -> String {
        let kind = match self.kind {
            MetricType::COUNTER => "counter",
            MetricType::HISTOGRAM => "histogram",
            _ => "gauge",
        };
        let mut head = String::new();
        format.push_head(self.name, self.help, kind, &mut head);
        head
    }

    pub(crate) fn desc(&self) -> Desc {
        let labels = self.labels.iter().map(ToString::to_string).collect();
        Desc::new(self.name.to_owned(), self.help.to_owned(), labels, HashMap::new())
            .expect("every family is a constant with a valid name, help and labels")
    }

    /// Returns the names of a histogram's samples. A registry does not know them: unless they are claimed, another metric may
    /// use one, and a scrape would contain a series twice.
    pub(crate) fn sample_descs(&self) -> impl Iterator<Item = Desc> {
        ["_bucket", "_sum", "_count"].into_iter().map(|suffix| {
            Desc::new(format!("{}{suffix}", self.name), self.help.to_owned(), Vec::new(), HashMap::new())
                .expect("a suffix leaves a valid name valid")
        })
    }

    /// Returns the counter or gauge with these series. A `Registry` drops it if there are none.
    pub(crate) fn with<'a>(&self, series: impl IntoIterator<Item = ([&'a str; LABELS], f64)>) -> MetricFamily {
        self.of(series.into_iter().map(|(values, value)| {
            let mut metric = self.metric(values);
            if self.kind == MetricType::COUNTER {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            } else {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
            metric
        }))
    }

    /// Returns the histogram with these series.
    pub(crate) fn with_histograms<'a>(
        &self,
        series: impl IntoIterator<Item = ([&'a str; LABELS], Histogram)>,
    ) -> MetricFamily {
        self.of(series.into_iter().map(|(values, histogram)| {
            let mut metric = self.metric(values);
            metric.set_histogram(histogram);
            metric
        }))
    }

    fn of(&self, metrics: impl Iterator<Item = Metric>) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(self.kind);
        family.set_metric(metrics.collect());
        family
    }

    fn metric(&self, values: [&str; LABELS]) -> Metric {
        let pair = |(name, value): (&&str, &str)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value(value.to_owned());
            pair
        };
        Metric::from_label(self.labels.iter().zip(values).map(pair).collect())
    }
}

impl Family<0> {
    /// Returns the family with its only series.
    pub(crate) fn value(&self, value: f64) -> MetricFamily {
        self.with([([], value)])
    }
}
