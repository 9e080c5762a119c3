//! A scrape, parsed. Stricter than Prometheus: what an exposition of ours would only write by mistake is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::http_client;

/// What identifies a series.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Series {
    pub name: String,
    pub labels: BTreeMap<String, String>,
}

impl Series {
    pub fn new(name: &str, labels: &[(&str, &str)]) -> Self {
        let labels = labels.iter().map(|(label, value)| (label.to_string(), value.to_string())).collect();
        Self { name: name.to_owned(), labels }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    pub kind: String,
    pub help: String,
}

/// The text format 0.0.4 as values.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scrape {
    pub families: BTreeMap<String, Family>,
    pub samples: BTreeMap<Series, f64>,
}

impl Scrape {
    /// Scrapes, and panics with the reason where the answer is no proper exposition.
    pub fn fetch(address: SocketAddr, path: &str) -> Self {
        let response = http_client::get(address, path);
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(response.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        Self::parse(response.text()).unwrap_or_else(|why| panic!("{why}\n{}", response.text()))
    }

    /// Scrapes a bridge that may be dead, or die while it answers.
    ///
    /// # Errors
    /// With the reason, where there is no whole and proper exposition.
    pub fn try_fetch(address: SocketAddr) -> Result<Self, String> {
        let response = http_client::try_get(address, "/metrics").map_err(|error| error.to_string())?;
        match response.status {
            200 => Self::parse(response.text()),
            status => Err(format!("{status}: {}", response.text())),
        }
    }

    /// Refused are, with the line at fault: a line that is no HELP, TYPE or sample in canonical spacing, a family
    /// without HELP and TYPE before its samples, a family in two places, a series twice, a counter that is negative or
    /// no number, and a histogram whose buckets do not add up.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser::default();
        if !text.is_empty() && !text.ends_with('\n') {
            return Err("the last line does not end".to_owned());
        }
        for (index, line) in text.split_terminator('\n').enumerate() {
            parser.line(line).map_err(|why| format!("line {}: {why}: {line:?}", index + 1))?;
        }
        parser.end_family()?;
        Ok(parser.scrape)
    }

    /// The value of one series.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.samples.get(&Series::new(name, labels)).copied()
    }

    /// Every series of one name, by labels.
    pub fn series(&self, name: &str) -> BTreeMap<&BTreeMap<String, String>, f64> {
        self.samples.iter().filter(|(series, _)| series.name == name).map(|(series, v)| (&series.labels, *v)).collect()
    }

    /// The sum of every series of one name.
    pub fn sum(&self, name: &str) -> f64 {
        self.series(name).values().sum()
    }
}

const KINDS: [&str; 5] = ["counter", "gauge", "histogram", "summary", "untyped"];

#[derive(Default)]
struct Parser {
    scrape: Scrape,
    /// The family whose lines are being read.
    name: String,
    help: Option<String>,
    kind: Option<String>,
    begun: BTreeSet<String>,
}

impl Parser {
    fn line(&mut self, line: &str) -> Result<(), String> {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').ok_or("HELP without a text")?;
            self.enter(name)?;
            let help = unescaped(help, "\\n")?;
            if self.kind.is_some() || self.help.replace(help).is_some() {
                return Err("HELP is to come once, before TYPE".to_owned());
            }
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or("TYPE without a type")?;
            self.enter(name)?;
            if !KINDS.contains(&kind) {
                return Err("unknown type".to_owned());
            }
            let help = self.help.clone().ok_or("TYPE without HELP before it")?;
            if self.kind.replace(kind.to_owned()).is_some() {
                return Err("TYPE is there twice".to_owned());
            }
            self.scrape.families.insert(name.to_owned(), Family { kind: kind.to_owned(), help });
        } else {
            let (series, value) = sample(line)?;
            let kind = self.kind.as_deref().ok_or("a sample without TYPE before it")?;
            let suffix = series.name.strip_prefix(&self.name).ok_or("a sample of another family")?;
            let suffixes: &[&str] = match kind {
                "histogram" => &["_bucket", "_sum", "_count"],
                "summary" => &["", "_sum", "_count"],
                _ => &[""],
            };
            if !suffixes.contains(&suffix) {
                return Err("a sample of another family".to_owned());
            }
            let counts = kind == "counter" || suffix == "_bucket" || suffix == "_count";
            if counts && !(value >= 0.0 && value.is_finite()) {
                return Err("a count that is negative or no number".to_owned());
            }
            if self.scrape.samples.insert(series, value).is_some() {
                return Err("a series twice".to_owned());
            }
        }
        Ok(())
    }

    fn enter(&mut self, name: &str) -> Result<(), String> {
        if name == self.name {
            return Ok(());
        }
        metric_name(name)?;
        self.end_family()?;
        if !self.begun.insert(name.to_owned()) {
            return Err("a family in two places".to_owned());
        }
        name.clone_into(&mut self.name);
        (self.help, self.kind) = (None, None);
        Ok(())
    }

    fn end_family(&self) -> Result<(), String> {
        match self.kind.as_deref() {
            None if !self.name.is_empty() => Err(format!("{} has no TYPE", self.name)),
            Some("histogram") => self.check_histogram().map_err(|why| format!("{}: {why}", self.name)),
            _ => Ok(()),
        }
    }

    fn check_histogram(&self) -> Result<(), String> {
        let mut buckets: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
        for (labels, value) in self.scrape.series(&format!("{}_bucket", self.name)) {
            let mut labels = labels.clone();
            let bound = number(&labels.remove("le").ok_or("a bucket without le")?)?;
            buckets.entry(labels).or_default().push((bound, value));
        }
        let sums = self.scrape.series(&format!("{}_sum", self.name));
        let counts = self.scrape.series(&format!("{}_count", self.name));
        if !(buckets.keys().eq(sums.keys().copied()) && buckets.keys().eq(counts.keys().copied())) {
            return Err("buckets, sum and count are not of the same series".to_owned());
        }
        for (labels, mut buckets) in buckets {
            buckets.sort_by(|(one, _), (other, _)| one.total_cmp(other));
            if buckets.last() != Some(&(f64::INFINITY, counts[&labels])) {
                return Err(format!("the bucket +Inf is not the count of {labels:?}"));
            }
            if !buckets.is_sorted_by(|(_, one), (_, next)| one <= next) {
                return Err(format!("a bucket of {labels:?} is lower than the one below"));
            }
        }
        Ok(())
    }
}

fn sample(line: &str) -> Result<(Series, f64), String> {
    let name_end = line.find(['{', ' ']).ok_or("no sample")?;
    let (name, mut rest) = line.split_at(name_end);
    metric_name(name)?;
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"").ok_or("a label without a value")?;
            label_name(label)?;
            let (value, after) = quoted(after)?;
            if labels.insert(label.to_owned(), value).is_some() {
                return Err(format!("the label {label} twice"));
            }
            if let Some(after) = after.strip_prefix('}') {
                rest = after;
                break;
            }
            rest = after.strip_prefix(',').ok_or("no comma between labels")?;
        }
    }
    let value = rest.strip_prefix(' ').ok_or("no space before the value")?;
    Ok((Series { name: name.to_owned(), labels }, number(value)?))
}

/// The value up to the closing quote, and what follows that.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let mut escaped = false;
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Ok((unescaped(&text[..at], "\\n\"")?, &text[at + 1..])),
            _ => {}
        }
    }
    Err("a value without an end".to_owned())
}

/// `text` with `\n` and the like resolved; `escapes` are the characters that may follow a backslash.
fn unescaped(text: &str, escapes: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            out.push(character);
            continue;
        }
        match characters.next().filter(|escape| escapes.contains(*escape)) {
            Some('n') => out.push('\n'),
            Some(escape) => out.push(escape),
            None => return Err("an unknown escape".to_owned()),
        }
    }
    Ok(out)
}

fn number(text: &str) -> Result<f64, String> {
    match text {
        "+Inf" => Ok(f64::INFINITY),
        "-Inf" => Ok(f64::NEG_INFINITY),
        "NaN" => Ok(f64::NAN),
        _ if text.chars().all(|c| c.is_ascii_digit() || "+-.eE".contains(c)) => {
            text.parse().map_err(|_| format!("no number: {text:?}"))
        }
        _ => Err(format!("no number: {text:?}")),
    }
}

fn metric_name(name: &str) -> Result<(), String> {
    match name.strip_prefix(|c: char| c.is_ascii_alphabetic() || c == '_' || c == ':') {
        Some(rest) if rest.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':') => Ok(()),
        _ => Err(format!("no metric name: {name:?}")),
    }
}

fn label_name(name: &str) -> Result<(), String> {
    match metric_name(name) {
        Ok(()) if !name.contains(':') => Ok(()),
        _ => Err(format!("no label name: {name:?}")),
    }
}
