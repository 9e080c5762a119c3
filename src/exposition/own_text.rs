//! What a registry has beside the families of skills, as text.

use std::ops::Range;

use prometheus::Registry;
use prometheus::proto::MetricFamily;

use super::collector::{BesideSkills, gather_beside_skills, gather_others};
use super::format::Format;
use super::others::{encode_others, push_series, push_value, type_name};
use super::own::{FamilyInfo, FamilySink, HistogramValue};

/// Writes what `registry` has beside the families of skills, sorted by name as the registry gathers it.
pub(super) fn encode_beside_skills(registry: &Registry, format: Format, out: &mut Vec<u8>) {
    let BesideSkills { own, others } = gather_beside_skills(registry);
    let mut text = OwnText { has_order: true, ..OwnText::new(format) };
    own.iter().for_each(|source| source.write(&mut text));
    text.add_others(&others);
    if !text.write_by_name(out) {
        // A registry has one family of each name. A collector that collects what it does not describe may add to one of ours.
        encode_others(&gather_others(registry), format, out);
    }
}

/// Families as text.
#[derive(Debug)]
pub(crate) struct OwnText<'f> {
    format: Format,
    text: Vec<u8>,
    /// Whether series are sorted.
    has_order: bool,
    /// Names of families, and where the text of each begins.
    families: Vec<(&'f str, usize)>,
}

impl<'f> OwnText<'f> {
    /// Creates a text without families. Families and series will have the order of their sources.
    pub fn new(format: Format) -> Self {
        Self { format, text: Vec::new(), has_order: false, families: Vec::new() }
    }

    /// Returns the text.
    pub fn into_text(self) -> String {
        String::from_utf8(self.text).expect("names, labels and numbers are text")
    }

    fn add_others(&mut self, families: &'f [MetricFamily]) {
        for family in families {
            self.families.push((family.name(), self.text.len()));
            encode_others(std::slice::from_ref(family), self.format, &mut self.text);
        }
    }

    /// Writes the families by name, and returns whether no two have the same; writes nothing otherwise.
    fn write_by_name(&self, out: &mut Vec<u8>) -> bool {
        let ends = self.families.iter().skip(1).map(|(_, begin)| *begin).chain([self.text.len()]);
        let mut families: Vec<(&str, Range<usize>)> =
            self.families.iter().zip(ends).map(|((name, begin), end)| (*name, *begin..end)).collect();
        families.sort_by_key(|(name, _)| *name);
        let are_distinct = families.is_sorted_by(|(a, _), (b, _)| a < b);
        if are_distinct {
            out.reserve(self.text.len());
            families.into_iter().for_each(|(_, range)| out.extend_from_slice(&self.text[range]));
        }
        are_distinct
    }
}

impl FamilySink for OwnText<'_> {
    fn needs_order(&self) -> bool {
        self.has_order
    }

    fn begin(&mut self, family: &FamilyInfo<'_>) {
        self.families.push((family.name, self.text.len()));
        self.format.push_head(family.name, family.help, type_name(family.kind), &mut self.text);
    }

    fn number(&mut self, family: &FamilyInfo<'_>, labels: &[&str], value: f64) {
        let labels = family.labels.iter().copied().zip(labels.iter().copied());
        push_series(family.name, "", labels, None, &mut self.text);
        push_value(value, &mut self.text);
        self.text.push(b'\n');
    }

    fn histogram(&mut self, family: &FamilyInfo<'_>, labels: &[&str], histogram: &HistogramValue<'_>) {
        histogram.each_sample(|suffix, bound, value| {
            let labels = family.labels.iter().copied().zip(labels.iter().copied());
            push_series(family.name, suffix, labels, bound.map(|bound| ("le", bound)), &mut self.text);
            push_value(value, &mut self.text);
            self.text.push(b'\n');
        });
    }
}

#[cfg(test)]
mod tests {
    use prometheus::core::{Collector, Desc};
    use prometheus::{IntCounter, IntGaugeVec, Opts};

    use super::*;
    use crate::exposition::family::Family;
    use crate::exposition::own::{OwnCollector, OwnMetrics};

    const FORMATS: [Format; 2] = [Format::Text, Format::OpenMetrics { with_created: false }];

    const SERVED: Family<2> = Family::counter("b_served_total", "A \"help\",\nwith \\", ["code", "path"]);
    const UP: Family<1> = Family::gauge("d_up", "1 if it is up.", ["name"]);
    const NONE: Family<1> = Family::gauge("c_none", "Without series.", ["name"]);
    const TOOK: Family<1> = Family::histogram("e_took_seconds", "Took", ["path"]);
    const AGE: Family<0> = Family::gauge("a_age_seconds", "Age", []);

    /// Two sources whose names alternate, with series in no order.
    struct First;

    struct Second;

    impl OwnMetrics for First {
        fn descs(&self) -> Vec<Desc> {
            vec![SERVED.desc(), TOOK.desc()]
        }

        fn write(&self, sink: &mut dyn FamilySink) {
            let took = |sum| HistogramValue { bounds: &[0.001, 1.0, 2.5], counts: &[1, 0, 2], count: 4, sum };
            TOOK.write_histograms([(["/b"], took(7.25)), (["/a\"\\\n"], took(0.0))], sink);
            let served = [(["500", "/"], 1.0), (["200", "/b"], 2.0), (["200", "/"], 3e17), (["200", "/!"], 0.5)];
            SERVED.write(served, sink);
        }
    }

    impl OwnMetrics for Second {
        fn descs(&self) -> Vec<Desc> {
            vec![UP.desc(), NONE.desc(), AGE.desc()]
        }

        fn write(&self, sink: &mut dyn FamilySink) {
            UP.write([(["é"], f64::NAN), (["a"], f64::INFINITY)], sink);
            NONE.write([], sink);
            AGE.write_value(1_795_341_600.123_456, sink);
        }
    }

    /// Collects what it does not describe.
    struct Adds(Desc);

    impl Collector for Adds {
        fn desc(&self) -> Vec<&Desc> {
            vec![&self.0]
        }

        fn collect(&self) -> Vec<MetricFamily> {
            let mut families = crate::exposition::own::Families::default();
            UP.write([(["b"], 1.0)], &mut families);
            families.0
        }
    }

    fn registry() -> Registry {
        let registry = Registry::new();
        registry.register(Box::new(OwnCollector::new(First))).unwrap();
        registry.register(Box::new(OwnCollector::new(Second))).unwrap();
        registry
    }

    /// The text, which must be that of what the registry gathers.
    fn written(registry: &Registry, format: Format) -> String {
        let (mut written, mut gathered) = (Vec::new(), Vec::new());
        encode_beside_skills(registry, format, &mut written);
        encode_others(&registry.gather(), format, &mut gathered);
        let [written, gathered] = [written, gathered].map(|text| String::from_utf8(text).unwrap());
        assert_eq!(written, gathered);
        written
    }

    #[test]
    fn own_metrics_are_the_text_of_what_a_registry_gathers() {
        let registry = registry();
        for format in FORMATS {
            let text = written(&registry, format);
            assert_eq!(text.lines().filter(|line| !line.starts_with('#')).count(), 1 + 4 + 2 + 2 * 6, "{text}");
        }
        let labelled = IntGaugeVec::new(Opts::new("c_of_a_program", "Another"), &["x"]).unwrap();
        labelled.with_label_values(&["\n"]).set(-1);
        registry.register(Box::new(labelled)).unwrap();
        registry.register(Box::new(IntCounter::new("z_total", "Last").unwrap())).unwrap();
        assert!(FORMATS.map(|format| written(&registry, format)).iter().all(|text| text.contains("c_of_a_program{")));
    }

    #[test]
    fn a_collector_that_adds_to_an_own_family_leaves_one_family_of_the_name() {
        let registry = registry();
        // Whichever is collected first names the help: both have the same.
        registry.register(Box::new(Adds(AGE_OF_OTHERS.desc()))).unwrap();
        for format in FORMATS {
            assert_eq!(written(&registry, format).matches("# TYPE d_up ").count(), 1);
        }
    }

    const AGE_OF_OTHERS: Family<0> = Family::gauge("age_of_others", "Described, and not collected.", []);
}
