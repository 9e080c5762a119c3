//! The samples of a scrape, to be summed and compared.

use std::collections::BTreeMap;

/// Every series of a scrape with its value.
pub struct Samples(Vec<Sample>);

struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Samples {
    /// # Panics
    /// On a line that is neither a comment nor a sample. Label values with escapes are beyond it.
    pub fn parse(exposition: &str) -> Self {
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let labels = labels.strip_suffix('}')?.split_terminator("\",").map(|pair| {
                let (label, value) = pair.split_once("=\"").unwrap_or_else(|| panic!("no label in {line}"));
                (label.to_owned(), value.trim_end_matches('"').to_owned())
            });
            Some(Sample { name: name.to_owned(), labels: labels.collect(), value: value.parse().ok()? })
        };
        let lines = exposition.lines().filter(|line| !line.starts_with('#'));
        Self(lines.map(|line| sample(line).unwrap_or_else(|| panic!("not a sample: {line}"))).collect())
    }

    fn selected<'a>(&'a self, name: &'a str, labels: &'a [(&str, &str)]) -> impl Iterator<Item = &'a Sample> {
        let has_all = |sample: &Sample| {
            labels.iter().all(|(label, value)| sample.labels.get(*label).is_some_and(|own| own == value))
        };
        self.0.iter().filter(move |sample| sample.name == name && has_all(sample))
    }

    /// The sum over all series of the name that carry these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.selected(name, labels).map(|sample| sample.value).sum()
    }

    /// The sums by the values of the labels `by`, in their order.
    pub fn sum_by<const N: usize>(&self, name: &str, by: [&str; N]) -> BTreeMap<[String; N], f64> {
        let mut sums = BTreeMap::new();
        for sample in self.selected(name, &[]) {
            let group = by.map(|label| sample.labels.get(label).cloned().unwrap_or_default());
            *sums.entry(group).or_default() += sample.value;
        }
        sums
    }
}
