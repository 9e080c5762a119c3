//! Whether the configuration file has changed since it was read.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;

use crate::reload::Sources;
use crate::settings::{ConfigFile, ReloadableSettings};

/// How often the file is checked.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The configuration file as it was read last.
#[derive(Debug)]
pub(super) struct ConfigWatch {
    file: Option<ConfigFile>,
    /// `None` if it was being written.
    read: Option<Arc<Sources>>,
    has_failed: bool,
}

impl ConfigWatch {
    pub fn new(file: Option<ConfigFile>) -> Self {
        let read = file.as_ref().map(|file| Arc::new(file.opened()));
        Self { file, read, has_failed: false }
    }

    /// Waits until the file differs from what was read last or, if that could not be used, until it could be: a file that it names may
    /// have come. For ever without a file.
    pub async fn changed(&self, accepted: &ReloadableSettings) {
        let Some(file) = &self.file else { return pending().await };
        loop {
            tokio::time::sleep(WATCH_INTERVAL).await;
            let Some(read) = self.read.clone() else { return };
            let repaired = self.has_failed.then(|| (file.clone(), accepted.clone()));
            let has_changed = spawn_blocking(move || {
                read.have_changed() || repaired.is_some_and(|(file, accepted)| file.is_acceptable(&accepted))
            });
            // A panic is reported by the reload.
            if has_changed.await.unwrap_or(true) {
                return;
            }
        }
    }

    /// The file was read: as `sources`, or `None` if it was being written. Returns whether that is news: it has other content than before,
    /// or is usable and was not.
    pub fn note(&mut self, sources: Option<Sources>, has_failed: bool) -> bool {
        let has_same_content = match (&self.read, &sources) {
            (Some(before), Some(now)) => before.has_same_content(now),
            _ => false,
        };
        let is_news = !has_same_content || self.has_failed != has_failed;
        self.read = sources.map(Arc::new);
        self.has_failed = has_failed;
        is_news
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn only_other_content_and_another_outcome_are_news() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bridge.yml");
        let read = |content: &str| {
            fs::write(&path, content).unwrap();
            Some(ConfigFile::new(&path).opened())
        };
        let before = read("limits: {skills: 1}");
        let mut watch = ConfigWatch { file: None, read: before.map(Arc::new), has_failed: false };
        assert!(!watch.note(read("limits: {skills: 1}"), false), "written again with the same content");
        assert!(watch.note(read("limits: {skills: 2}"), false));
        assert!(watch.note(read("limits: {skills: 2}"), true), "a file that it names is gone");
        assert!(!watch.note(read("limits: {skills: 2}"), true));
        assert!(watch.note(read("limits: {skills: 2}"), false), "it is back");
        assert!(watch.note(None, true) && watch.note(None, true), "it is written all the while");
    }
}
