//! Metric families with explicit labels.
//!
//! The `prometheus` crate's own vectors identify a series by a hash of its label values without a separator between them, so
//! that two series can become one. Here a family is written for each scrape, from values that are stored elsewhere.

use std::collections::HashMap;

use prometheus::core::Desc;
use prometheus::proto::MetricType;

use super::format::Format;
use super::others::type_name;
use super::own::{FamilyInfo, FamilySink, HistogramValue};

/// A family of the bridge's own metrics seldom has more series, and a list of so many does not grow.
const USUAL_SERIES: usize = 16;

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
        let mut head = Vec::new();
        format.push_head(self.name, self.help, type_name(self.kind), &mut head);
        String::from_utf8(head).expect("names and help are text")
    }

    fn info(&self) -> FamilyInfo<'_> {
        FamilyInfo { name: self.name, help: self.help, kind: self.kind, labels: &self.labels }
    }

    /// Passes the counter or gauge with these series to `sink`; nothing if there are none.
    pub(crate) fn write<'a>(
        &self,
        series: impl IntoIterator<Item = ([&'a str; LABELS], f64)>,
        sink: &mut dyn FamilySink,
    ) {
        self.write_sorted(series, sink, |info, values, value, sink| sink.number(info, values, *value));
    }

    /// Passes the histogram with these series to `sink` in the same way.
    pub(crate) fn write_histograms<'a>(
        &self,
        series: impl IntoIterator<Item = ([&'a str; LABELS], HistogramValue<'a>)>,
        sink: &mut dyn FamilySink,
    ) {
        self.write_sorted(series, sink, |info, values, histogram, sink| sink.histogram(info, values, histogram));
    }

    fn write_sorted<'a, V>(
        &self,
        series: impl IntoIterator<Item = ([&'a str; LABELS], V)>,
        sink: &mut dyn FamilySink,
        pass: impl Fn(&FamilyInfo<'_>, &[&str], &V, &mut dyn FamilySink),
    ) {
        let mut list = Vec::with_capacity(USUAL_SERIES);
        list.extend(series);
        if sink.needs_order() && !list.is_sorted_by(|(a, _), (b, _)| a <= b) {
            list.sort_by_key(|(values, _)| *values);
        }
        if !list.is_empty() {
            let info = self.info();
            sink.begin(&info);
            list.iter().for_each(|(values, value)| pass(&info, values, value, sink));
        }
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
}

impl Family<0> {
    /// Passes the counter or gauge with its only series to `sink`.
    pub(crate) fn write_value(&self, value: f64, sink: &mut dyn FamilySink) {
        let info = self.info();
        sink.begin(&info);
        sink.number(&info, &[], value);
    }
}
