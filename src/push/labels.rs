//! The labels that are configured for a receiver.

use std::collections::BTreeMap;

use thiserror::Error;

/// Labels of the bridge's own series. A configured label of such a name would replace one of theirs.
///
/// A test holds this list against every metric.
const OWN: &[&str] = &[
    "anomaly_type",
    "code",
    "completed",
    "error_type",
    "feed",
    "le",
    "path",
    "quantile",
    "reason",
    "receiver",
    "revision",
    "rustc",
    "skill_name",
    "source",
    "state",
    "target",
    "type",
    "version",
    "workflow_phase",
];

/// Names with two underscores at their start are Prometheus' own, except for the label by which receivers deduplicate pairs.
const REPLICA: &str = "__replica__";

/// Why a text is not a label of a receiver.
///
/// ```
/// use session_buddy_bridge::settings::{LabelError, PushLabels};
///
/// let refused = PushLabels::of_host("laptop").with(["skill_name=x"]);
/// assert_eq!(refused, Err(("skill_name=x".to_owned(), LabelError::Own)));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LabelError {
    /// There is no `=`.
    #[error("has no \"=\": write NAME=VALUE")]
    NoValue,
    /// The name has a character that names of labels do not have.
    #[error("does not start with the name of a label: letters, digits and _, not a digit first")]
    Name,
    /// The value is empty, which for Prometheus is no label.
    #[error("has an empty value, and Prometheus drops such labels: write a value")]
    Empty,
    /// The name is reserved.
    #[error("is reserved: of the names with two underscores at the start only __replica__ is allowed")]
    Reserved,
    /// The bridge's own series have a label of this name.
    #[error("is a label of the bridge's own series: choose another name")]
    Own,
    /// The name is given twice.
    #[error("is given twice")]
    Twice,
}

/// Labels that are added to every series of a receiver.
///
/// ```
/// use session_buddy_bridge::settings::PushLabels;
///
/// let labels = PushLabels::of_host("laptop").with(["cluster=lab"]).unwrap();
/// let pairs: Vec<_> = labels.iter().collect();
/// assert_eq!(pairs, [("cluster", "lab"), ("instance", "laptop"), ("job", "session-buddy")]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushLabels(BTreeMap<String, String>);

impl PushLabels {
    /// Returns the labels by default: `job` and `instance`, the host name.
    pub fn of_host(host: &str) -> Self {
        Self([("job", "session-buddy"), ("instance", host)].map(|(name, value)| (name.into(), value.into())).into())
    }

    /// Adds labels to those of the default, or replaces them.
    ///
    /// # Errors
    /// The first text that is no label, and why.
    pub fn with<'t>(mut self, texts: impl IntoIterator<Item = &'t str>) -> Result<Self, (String, LabelError)> {
        let mut given = BTreeMap::new();
        for text in texts {
            let (name, value) = read(text).map_err(|error| (text.to_owned(), error))?;
            if given.insert(name.to_owned(), value.to_owned()).is_some() {
                return Err((text.to_owned(), LabelError::Twice));
            }
        }
        self.0.extend(given);
        Ok(self)
    }

    /// Returns the labels, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Returns the labels as one text, by which two senders under one label set are noticed.
    pub fn canonical(&self) -> String {
        self.iter().map(|(name, value)| format!("{name}={value:?}")).collect::<Vec<_>>().join(",")
    }
}

fn read(text: &str) -> Result<(&str, &str), LabelError> {
    let (name, value) = text.split_once('=').ok_or(LabelError::NoValue)?;
    let (name, value) = (name.trim(), value.trim());
    let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    let is_name = name.bytes().enumerate().all(|(at, byte)| is_letter(byte) || (at > 0 && byte.is_ascii_digit()));
    match name {
        _ if name.is_empty() || !is_name => Err(LabelError::Name),
        REPLICA if !value.is_empty() => Ok((name, value)),
        _ if name.starts_with("__") => Err(LabelError::Reserved),
        _ if OWN.contains(&name) => Err(LabelError::Own),
        _ if value.is_empty() => Err(LabelError::Empty),
        _ => Ok((name, value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(texts: &[&str]) -> Result<Vec<(String, String)>, LabelError> {
        let labels = PushLabels::of_host("laptop").with(texts.iter().copied()).map_err(|(_, error)| error)?;
        Ok(labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn job_and_instance_are_there_unless_they_are_replaced() {
        assert_eq!(labels(&[]).unwrap(), pairs(&[("instance", "laptop"), ("job", "session-buddy")]));
        assert_eq!(
            labels(&["instance=a=b", "__replica__=1", "cluster= c "]).unwrap(),
            pairs(&[("__replica__", "1"), ("cluster", "c"), ("instance", "a=b"), ("job", "session-buddy")])
        );
    }

    #[test]
    fn what_cannot_be_a_label_is_refused_with_the_reason() {
        for (texts, error) in [
            (&["cluster"][..], LabelError::NoValue),
            (&["=x"], LabelError::Name),
            (&["1a=x"], LabelError::Name),
            (&["a-b=x"], LabelError::Name),
            (&["é=x"], LabelError::Name),
            (&["a="], LabelError::Empty),
            (&["__replica__="], LabelError::Reserved),
            (&["__name__=x"], LabelError::Reserved),
            (&["skill_name=x"], LabelError::Own),
            (&["receiver=x"], LabelError::Own),
            (&["a=1", "a=2"], LabelError::Twice),
        ] {
            assert_eq!(labels(texts), Err(error), "{texts:?}");
        }
    }

    #[test]
    fn the_canonical_text_tells_label_sets_apart() {
        let canonical = |text: &str| PushLabels::of_host("h").with([text]).map(|labels| labels.canonical()).unwrap();
        assert_eq!(canonical("a=1"), r#"a="1",instance="h",job="session-buddy""#);
        assert_ne!(canonical(r#"a=1",b="2"#), r#"a="1",b="2",instance="h",job="session-buddy""#);
    }

    /// Another test holds the reference against what a bridge exposes.
    #[test]
    fn every_label_of_the_reference_is_reserved() {
        let mut documented = std::collections::BTreeSet::from(["le", "quantile"]);
        let mut column = None;
        for line in include_str!("../../docs/reference/metrics.md").lines() {
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            match cells.iter().position(|cell| *cell == "labels") {
                Some(found) if line.starts_with("| name ") => column = Some(found),
                _ if !line.starts_with('|') => column = None,
                _ => {
                    let labels = column.and_then(|column| cells.get(column)).into_iter();
                    documented.extend(labels.flat_map(|cell| cell.split('`').skip(1).step_by(2)));
                }
            }
        }
        assert_eq!(documented.into_iter().collect::<Vec<_>>(), OWN);
    }
}
