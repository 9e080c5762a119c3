//! Reads that agree.

use std::time::Duration;

use thiserror::Error;
use tokio::task::{JoinError, spawn_blocking};

use super::Sources;

/// How far apart two reads are that must agree.
pub(crate) const SETTLE_TIME: Duration = Duration::from_secs(1);

/// Reads after which a file that is different each time is given up.
const READS_MAX: usize = 10;

/// What one read of a configuration led to, and the files that it read.
#[derive(Debug)]
pub(crate) struct Attempt<T> {
    pub sources: Sources,
    pub outcome: T,
}

/// Why reads of a file led to nothing.
#[derive(Debug, Error)]
pub(crate) enum SettleError {
    /// The file was written all the while.
    #[error("it is still being written")]
    StillChanging,
    /// A read panicked, which is a defect.
    #[error("reading it failed: {0}")]
    Panicked(#[source] JoinError),
}

/// Reads until two reads `apart` agree: then nobody wrote in between. Returns the later one.
///
/// # Errors
/// [`READS_MAX`] reads of which no two in a row agree.
pub(crate) async fn read_settled<T: Send + 'static>(
    read: impl Fn() -> Attempt<T> + Clone + Send + 'static,
    apart: Duration,
) -> Result<Attempt<T>, SettleError> {
    let mut before: Option<Sources> = None;
    for _ in 0..READS_MAX {
        if before.is_some() {
            tokio::time::sleep(apart).await;
        }
        let attempt = spawn_blocking(read.clone()).await.map_err(SettleError::Panicked)?;
        if before.as_ref() == Some(&attempt.sources) {
            return Ok(attempt);
        }
        before = Some(attempt.sources);
    }
    Err(SettleError::StillChanging)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const APART: Duration = Duration::from_millis(1);

    /// Reads a file that holds `contents` in turn, then the last of them. Returns what was settled on and the number of reads.
    async fn settle(contents: &'static [&'static str]) -> (Result<String, SettleError>, usize) {
        let folder = tempfile::tempdir().unwrap();
        let path: PathBuf = folder.path().join("file");
        let reads = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&reads);
        let read = move || {
            let number = counted.fetch_add(1, Ordering::SeqCst);
            if let Some(content) = contents.get(number) {
                fs::write(&path, content).unwrap();
            }
            let mut sources = Sources::default();
            let outcome = sources.read_to_string(&path).unwrap();
            Attempt { sources, outcome }
        };
        let settled = read_settled(read, APART).await.map(|attempt| attempt.outcome);
        (settled, reads.load(Ordering::SeqCst))
    }

    #[tokio::test]
    async fn two_reads_in_a_row_that_agree_are_believed() {
        let (settled, reads) = settle(&["whole"]).await;
        assert_eq!((settled.unwrap().as_str(), reads), ("whole", 2));
    }

    #[tokio::test]
    async fn what_is_still_written_is_read_again() {
        let (settled, reads) = settle(&["", "wh", "whole"]).await;
        assert_eq!((settled.unwrap().as_str(), reads), ("whole", 4));
    }

    #[tokio::test]
    async fn a_file_that_is_written_for_ever_is_given_up() {
        let (settled, reads) = settle(&["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10"]).await;
        assert!(matches!(settled, Err(SettleError::StillChanging)), "{settled:?}");
        assert_eq!(reads, READS_MAX);
    }
}
