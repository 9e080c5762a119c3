//! Labels that many skills have in common.

use std::sync::Arc;

use hashbrown::HashSet;

/// Labels, each of which is in memory once: thousands of skills share a few phases and types. None is ever removed, so that the limits
/// of those who share bound it: of a table of series the limit of series, of the anomalies of a source `anomaly_keys_max` times
/// `anomaly_types_per_skill_max`.
#[derive(Debug, Clone, Default)]
pub(crate) struct SharedLabels(HashSet<Arc<str>>);

impl SharedLabels {
    /// Returns `label` as it was returned before, or inserted.
    pub fn share(&mut self, label: &str) -> Arc<str> {
        Arc::clone(self.0.get_or_insert_with(label, |label| label.into()))
    }

    /// Has later calls of [`SharedLabels::share`] return `label`, unless there is an equal one.
    pub fn insert(&mut self, label: &Arc<str>) {
        self.0.get_or_insert_with(label, Arc::clone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_equal_label_is_the_same() {
        let mut labels = SharedLabels::default();
        let restored: Arc<str> = "setup".into();
        labels.insert(&restored);
        labels.insert(&"setup".into());
        assert!(Arc::ptr_eq(&labels.share("setup"), &restored));
        let new = labels.share("execution");
        assert!(Arc::ptr_eq(&labels.share("execution"), &new));
        assert_eq!((&*new, labels.0.len()), ("execution", 2));
    }
}
