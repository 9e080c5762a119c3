//! What a registry has beside the families of skills, as text that is kept from scrape to scrape.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use prometheus::Registry;
use prometheus::proto::MetricFamily;

use super::collector::{BesideSkills, gather_beside_skills, gather_others};
use super::format::Format;
use super::others::{encode_others, push_series, type_name};
use super::own::{FamilyInfo, FamilySink, HistogramValue, OwnMetrics};
use super::sample::Value;
use crate::sync::lock;

/// A registry, and the text of what it has beside the families of skills. From one scrape to the next most of the bridge's own
/// metrics are the same: only values that changed are written again.
#[derive(Debug)]
pub struct RegistryText {
    registry: Registry,
    text: Mutex<OwnText>,
    open_metrics: Mutex<OwnText>,
}

impl RegistryText {
    /// Creates the text of a registry, of which nothing is written yet.
    pub fn new(registry: Registry) -> Self {
        let text = |format| Mutex::new(OwnText { is_ordered: true, ..OwnText::new(format) });
        // Created timestamps are of skills only.
        let open_metrics = text(Format::OpenMetrics { with_created: false });
        Self { registry, text: text(Format::Text), open_metrics }
    }

    /// Returns the registry.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Returns what the registry has beside the families of skills, sorted by name as the registry gathers it.
    pub(super) fn beside_skills(&self, format: Format) -> Vec<u8> {
        let BesideSkills { own, others } = gather_beside_skills(&self.registry);
        let text = match format {
            Format::Text => &self.text,
            Format::OpenMetrics { .. } => &self.open_metrics,
        };
        let mut out = Vec::new();
        let is_written = {
            let mut text = lock(text);
            text.refresh(&own);
            text.write_by_name(&others, &mut out)
        };
        if !is_written {
            // A registry has one family of each name. A collector that collects what it does not describe may add to one of ours.
            out.clear();
            encode_others(&gather_others(&self.registry), format, &mut out);
        }
        out
    }
}

/// Families of own metrics as text.
///
/// Invariant: a family that is kept has the text of its samples, whatever a source does that panics.
#[derive(Debug)]
pub(crate) struct OwnText {
    format: Format,
    /// Whether series are sorted.
    is_ordered: bool,
    /// In the order of their sources.
    families: Vec<OwnFamily>,
    /// Indices of the families, sorted by name; empty once a family was added or removed.
    by_name: Vec<usize>,
    /// How many families were passed since the refresh began. The last of them is the one whose samples are passed.
    passed: usize,
}

/// The text of one family.
#[derive(Debug)]
struct OwnFamily {
    name: &'static str,
    help: &'static str,
    text: Vec<u8>,
    /// Where HELP and TYPE end.
    head_end: usize,
    samples: Vec<OwnSample>,
    /// How many samples were passed since the refresh began.
    passed: usize,
}

/// A sample, and where its value is in the text of the family.
#[derive(Debug)]
struct OwnSample {
    labels: Box<[Box<str>]>,
    suffix: &'static str,
    bound: Option<f64>,
    value_bits: u64,
    value: Range<usize>,
}

/// What a source passes of a sample beside its value.
struct SampleName<'s> {
    family: &'s FamilyInfo<'s>,
    labels: &'s [&'s str],
    suffix: &'static str,
    /// The label `le`.
    bound: Option<f64>,
}

impl OwnText {
    /// Creates a text without families. Families and series will have the order of their sources.
    pub fn new(format: Format) -> Self {
        Self { format, is_ordered: false, families: Vec::new(), by_name: Vec::new(), passed: 0 }
    }

    /// Returns the text, in the order of the sources.
    pub fn into_text(self) -> String {
        let text = self.families.iter().flat_map(|family| &family.text).copied().collect();
        String::from_utf8(text).expect("names, labels and numbers are text")
    }

    /// Replaces the families by those that `sources` have now.
    fn refresh(&mut self, sources: &[Arc<dyn OwnMetrics>]) {
        self.passed = 0;
        sources.iter().for_each(|source| source.write(self));
        self.end_family();
        if self.passed < self.families.len() {
            self.families.truncate(self.passed);
            self.by_name.clear();
        }
    }

    /// Writes the families by name with `others`, which are sorted, and returns whether no two have the same name.
    fn write_by_name(&mut self, others: &[MetricFamily], out: &mut Vec<u8>) -> bool {
        if self.by_name.is_empty() {
            self.by_name.extend(0..self.families.len());
            self.by_name.sort_by_key(|index| self.families[*index].name);
        }
        out.reserve(self.families.iter().map(|family| family.text.len()).sum());
        let mut others = others.iter().peekable();
        for family in self.by_name.iter().map(|index| &self.families[*index]) {
            while let Some(other) = others.next_if(|other| other.name() < family.name) {
                encode_others(std::slice::from_ref(other), self.format, out);
            }
            if others.peek().is_some_and(|other| other.name() == family.name) {
                return false;
            }
            out.extend_from_slice(&family.text);
        }
        others.for_each(|other| encode_others(std::slice::from_ref(other), self.format, out));
        true
    }

    fn current(&mut self) -> Option<&mut OwnFamily> {
        self.families[..self.passed].last_mut()
    }

    /// Removes samples that the current family does not have any more.
    fn end_family(&mut self) {
        if let Some(family) = self.current() {
            family.truncate(family.passed);
        }
    }

    fn pass(&mut self, sample: &SampleName<'_>, value: f64) {
        self.current().expect("a family begins before its series").pass(sample, value);
    }
}

impl OwnFamily {
    fn new(info: &FamilyInfo<'_>, format: Format) -> Self {
        let &FamilyInfo { name, help, kind, .. } = info;
        let mut text = Vec::new();
        format.push_head(name, help, type_name(kind), &mut text);
        Self { name, help, head_end: text.len(), text, samples: Vec::new(), passed: 0 }
    }

    /// Writes the next sample, unless it is what it was.
    fn pass(&mut self, name: &SampleName<'_>, value: f64) {
        let index = self.passed;
        self.passed += 1;
        match self.samples.get(index) {
            Some(known) if known.is_of(name) => {
                if known.value_bits != value.to_bits() {
                    self.set_value(index, value);
                }
            }
            // A series was added or removed before those that follow: they are written again.
            _ => {
                self.truncate(index);
                self.push(name, value);
            }
        }
    }

    fn push(&mut self, name: &SampleName<'_>, value: f64) {
        let SampleName { family, labels, suffix, bound } = *name;
        let pairs = family.labels.iter().copied().zip(labels.iter().copied());
        push_series(family.name, suffix, pairs, bound.map(|bound| ("le", bound)), &mut self.text);
        let begin = self.text.len();
        Value::Number(value).with_text(|text| self.text.extend_from_slice(text));
        let (labels, value_bits) = (labels.iter().map(|label| (*label).into()).collect(), value.to_bits());
        self.samples.push(OwnSample { labels, suffix, bound, value_bits, value: begin..self.text.len() });
        self.text.push(b'\n');
    }

    /// Replaces the value of a sample where it is in the text.
    fn set_value(&mut self, index: usize, value: f64) {
        let Self { text, samples, .. } = self;
        let (sample, later) = samples[index..].split_first_mut().expect("a sample is there");
        sample.value_bits = value.to_bits();
        let Range { start, end } = sample.value;
        Value::Number(value).with_text(|new| {
            if new.len() == end - start {
                return text[start..end].copy_from_slice(new);
            }
            text.splice(start..end, new.iter().copied());
            let new_end = start + new.len();
            sample.value.end = new_end;
            for value in later.iter_mut().map(|sample| &mut sample.value) {
                *value = value.start - end + new_end..value.end - end + new_end;
            }
        });
    }

    /// Removes all samples but the first `len`.
    fn truncate(&mut self, len: usize) {
        if len < self.samples.len() {
            self.samples.truncate(len);
            // The line ends behind the value.
            let end = self.samples.last().map_or(self.head_end, |last| last.value.end + 1);
            self.text.truncate(end);
        }
    }
}

impl OwnSample {
    /// Returns whether it is the sample `name` of its family.
    fn is_of(&self, name: &SampleName<'_>) -> bool {
        let SampleName { family: _, labels, suffix, bound } = *name;
        self.bound == bound
            && self.suffix == suffix
            && self.labels.iter().map(|label| &**label).eq(labels.iter().copied())
    }
}

impl FamilySink for OwnText {
    fn needs_order(&self) -> bool {
        self.is_ordered
    }

    fn begin(&mut self, info: &FamilyInfo<'_>) {
        self.end_family();
        let mut following = self.families[self.passed..].iter();
        match following.position(|known| known.name == info.name && known.help == info.help) {
            Some(0) => {}
            Some(gone) => {
                self.families.drain(self.passed..self.passed + gone);
                self.by_name.clear();
            }
            None => {
                self.families.insert(self.passed, OwnFamily::new(info, self.format));
                self.by_name.clear();
            }
        }
        self.families[self.passed].passed = 0;
        self.passed += 1;
    }

    fn number(&mut self, family: &FamilyInfo<'_>, labels: &[&str], value: f64) {
        self.pass(&SampleName { family, labels, suffix: "", bound: None }, value);
    }

    fn histogram(&mut self, family: &FamilyInfo<'_>, labels: &[&str], histogram: &HistogramValue<'_>) {
        histogram.each_sample(|suffix, bound, value| self.pass(&SampleName { family, labels, suffix, bound }, value));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use prometheus::core::{Collector, Desc};
    use prometheus::{IntCounter, IntGaugeVec, Opts};
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;
    use proptest::{option, sample::select};

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

    fn registry() -> RegistryText {
        let registry = Registry::new();
        registry.register(Box::new(OwnCollector::new(First))).unwrap();
        registry.register(Box::new(OwnCollector::new(Second))).unwrap();
        RegistryText::new(registry)
    }

    /// The text, which must be that of what the registry gathers.
    fn written(registry: &RegistryText, format: Format) -> String {
        let (written, mut gathered) = (registry.beside_skills(format), Vec::new());
        encode_others(&registry.registry().gather(), format, &mut gathered);
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
        registry.registry().register(Box::new(labelled)).unwrap();
        registry.registry().register(Box::new(IntCounter::new("z_total", "Last").unwrap())).unwrap();
        assert!(FORMATS.map(|format| written(&registry, format)).iter().all(|text| text.contains("c_of_a_program{")));
    }

    /// What a source has at a moment.
    #[derive(Debug, Clone, Default)]
    struct Contents {
        age: Option<f64>,
        served: BTreeMap<[String; 2], f64>,
        took: BTreeMap<String, ([u64; 3], f64)>,
    }

    /// A source whose families, series and values change.
    struct Changing {
        age: Family<0>,
        served: Family<2>,
        took: Family<1>,
        contents: Arc<Mutex<Contents>>,
    }

    impl OwnMetrics for Changing {
        fn descs(&self) -> Vec<Desc> {
            [self.age.desc(), self.served.desc(), self.took.desc()]
                .into_iter()
                .chain(self.took.sample_descs())
                .collect()
        }

        fn write(&self, sink: &mut dyn FamilySink) {
            let Contents { age, served, took } = &*lock(&self.contents);
            // In no order.
            let served = served.iter().rev().map(|([code, path], value)| ([code.as_str(), path.as_str()], *value));
            self.served.write(served, sink);
            age.iter().for_each(|age| self.age.write_value(*age, sink));
            let took = took.iter().map(|(path, (counts, sum))| {
                let count = counts.iter().sum::<u64>() + 1;
                ([path.as_str()], HistogramValue { bounds: &[0.001, 1.0, 2.5], counts, count, sum: *sum })
            });
            self.took.write_histograms(took, sink);
        }
    }

    /// Two such sources whose names alternate.
    fn changing() -> (RegistryText, [Arc<Mutex<Contents>>; 2]) {
        let (registry, contents) = (Registry::new(), <[Arc<Mutex<Contents>>; 2]>::default());
        let sources = [
            (AGE, SERVED, TOOK),
            (
                Family::gauge("b_age_seconds", "Age", []),
                Family::counter("a_served_total", "Served", ["code", "path"]),
                Family::histogram("d_took_seconds", "Took", ["path"]),
            ),
        ];
        for ((age, served, took), contents) in sources.into_iter().zip(&contents) {
            let source = Changing { age, served, took, contents: Arc::clone(contents) };
            registry.register(Box::new(OwnCollector::new(source))).unwrap();
        }
        (RegistryText::new(registry), contents)
    }

    /// Values of different lengths, and labels of which one is the beginning of another or contains what is escaped.
    fn contents() -> impl Strategy<Value = Contents> {
        let value = || select(vec![0.0, -0.0, 1.0, 9.0, 10.0, 0.125, 99.5, 3e17, f64::NAN, f64::INFINITY]);
        let label =
            || select(vec!["", "a", "ab", "b", "\"", "\\", "\\\\", "\n", "a\",path=\"b"]).prop_map(str::to_owned);
        let served = btree_map([label(), label()], value(), 0..5);
        let took = btree_map(label(), ([0..12_u64, 0..12_u64, 0..12_u64], value()), 0..4);
        (option::of(value()), served, took).prop_map(|(age, served, took)| Contents { age, served, took })
    }

    proptest! {
        #[test]
        fn kept_text_is_that_of_what_a_registry_gathers_whatever_came_and_went(
            moments in vec((contents(), contents(), any::<bool>()), 1..8),
        ) {
            let (registry, [first, second]) = changing();
            for (of_first, of_second, is_open_too) in moments {
                (*lock(&first), *lock(&second)) = (of_first, of_second);
                written(&registry, Format::Text);
                if is_open_too {
                    written(&registry, FORMATS[1]);
                }
            }
        }
    }

    #[test]
    fn scrapes_at_the_same_time_have_the_text_of_one_moment_each() {
        let (registry, [contents, _]) = changing();
        let at = |moment: u64| Contents {
            age: Some(moment as f64),
            served: (0..moment % 4).map(|code| ([code.to_string(), moment.to_string()], moment as f64)).collect(),
            took: (0..moment % 3).map(|path| (path.to_string(), ([moment, 0, moment], moment as f64))).collect(),
        };
        *lock(&contents) = at(0);
        thread::scope(|scope| {
            let scrapes = [0, 1, 0, 1].map(|format| {
                let registry = &registry;
                scope.spawn(move || {
                    let texts = (0..200).map(|_| String::from_utf8(registry.beside_skills(FORMATS[format])).unwrap());
                    texts.collect::<BTreeSet<_>>()
                })
            });
            for moment in (1..).take_while(|_| scrapes.iter().any(|scrape| !scrape.is_finished())) {
                *lock(&contents) = at(moment);
            }
            for (scrape, format) in scrapes.into_iter().zip([0, 1, 0, 1]) {
                for text in scrape.join().unwrap() {
                    let age = text.lines().find_map(|line| line.strip_prefix("a_age_seconds ")).unwrap();
                    let (fresh, [of_moment, _]) = changing();
                    *lock(&of_moment) = at(age.parse().unwrap());
                    assert_eq!(text, written(&fresh, FORMATS[format]));
                }
            }
        });
    }

    #[test]
    fn a_source_that_panics_leaves_text_that_the_next_scrape_corrects() {
        struct Panics(AtomicBool);

        impl OwnMetrics for Panics {
            fn descs(&self) -> Vec<Desc> {
                vec![AGE.desc(), UP.desc()]
            }

            fn write(&self, sink: &mut dyn FamilySink) {
                let panics = self.0.fetch_xor(true, Ordering::Relaxed);
                UP.write([(["a"], 1.0), (["b"], if panics { 1.0 } else { 22.0 })], sink);
                assert!(!panics, "as a test wants");
                AGE.write_value(1.0, sink);
            }
        }

        let registry = Registry::new();
        registry.register(Box::new(OwnCollector::new(Panics(AtomicBool::new(false))))).unwrap();
        let registry = RegistryText::new(registry);
        let before = registry.beside_skills(Format::Text);
        assert!(catch_unwind(AssertUnwindSafe(|| registry.beside_skills(Format::Text))).is_err());
        assert_eq!(registry.beside_skills(Format::Text), before);
    }

    #[test]
    fn a_collector_that_adds_to_an_own_family_leaves_one_family_of_the_name() {
        let registry = registry();
        // Whichever is collected first names the help: both have the same.
        registry.registry().register(Box::new(Adds(AGE_OF_OTHERS.desc()))).unwrap();
        for format in FORMATS {
            assert_eq!(written(&registry, format).matches("# TYPE d_up ").count(), 1);
        }
    }

    const AGE_OF_OTHERS: Family<0> = Family::gauge("age_of_others", "Described, and not collected.", []);
}
