//! Metric families with their labels spelled out.
//!
//! The `prometheus` crate's own vectors find a series by a hash of its label values without a separator between them,
//! so that two series can be one. Here a family is built anew for each scrape, from numbers that live elsewhere.

use std::collections::HashMap;

use prometheus::core::Desc;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

/// What is constant about a family.
pub(crate) struct Family<const LABELS: usize> {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    labels: [&'static str; LABELS],
}

impl<const LABELS: usize> Family<LABELS> {
    pub(crate) const fn counter(name: &'static str, help: &'static str, labels: [&'static str; LABELS]) -> Self {
        Self { name, help, kind: MetricType::COUNTER, labels }
    }

    pub(crate) const fn gauge(name: &'static str, help: &'static str, labels: [&'static str; LABELS]) -> Self {
        Self { name, help, kind: MetricType::GAUGE, labels }
    }

    pub(crate) fn desc(&self) -> Desc {
        let labels = self.labels.iter().map(ToString::to_string).collect();
        Desc::new(self.name.to_owned(), self.help.to_owned(), labels, HashMap::new())
            .expect("every family is a constant with a valid name, help and labels")
    }

    /// The family with these series. Without any, a `Registry` leaves it out.
    pub(crate) fn with<'a>(&self, series: impl IntoIterator<Item = ([&'a str; LABELS], f64)>) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(self.kind);
        family.set_metric(series.into_iter().map(|(values, value)| self.series(values, value)).collect());
        family
    }

    fn series(&self, values: [&str; LABELS], value: f64) -> Metric {
        let pair = |(name, value): (&&str, &str)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value(value.to_owned());
            pair
        };
        let mut metric = Metric::from_label(self.labels.iter().zip(values).map(pair).collect());
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
    }
}

impl Family<0> {
    /// The family with its only series.
    pub(crate) fn value(&self, value: f64) -> MetricFamily {
        self.with([([], value)])
    }
}
