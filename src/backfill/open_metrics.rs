//! Samples as OpenMetrics, for `promtool tsdb create-blocks-from openmetrics`.

use std::io::Write;

use super::{BackfillError, Sink};
use crate::exposition::{OPEN_METRICS_END, RowFamily, SamplesAtTimes};

/// Bytes that are written at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// Writes samples as text.
#[derive(Debug)]
pub struct OpenMetrics<W> {
    out: W,
    text: Vec<u8>,
    labels: Vec<(String, String)>,
    /// Of the current part of a skill.
    lines: Vec<Vec<u8>>,
}

impl<W: Write> OpenMetrics<W> {
    /// Writes to `out`, with `labels` added to those of each series.
    pub fn new(out: W, labels: Vec<(String, String)>) -> Self {
        Self { out, text: Vec::with_capacity(2 * CHUNK_BYTES), labels, lines: Vec::new() }
    }

    /// Writes the mark of a complete text.
    ///
    /// # Errors
    /// The output takes nothing more.
    pub fn finish(mut self) -> Result<W, BackfillError> {
        self.text.extend_from_slice(OPEN_METRICS_END.as_bytes());
        self.write_at_least(0)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn write_at_least(&mut self, bytes: usize) -> Result<(), BackfillError> {
        if self.text.len() >= bytes {
            self.out.write_all(&self.text)?;
            self.text.clear();
        }
        Ok(())
    }
}

impl<W: Write> Sink for OpenMetrics<W> {
    fn begin_family(&mut self, family: RowFamily) -> Result<(), BackfillError> {
        self.text.extend_from_slice(family.head().as_bytes());
        Ok(())
    }

    fn begin_metric(&mut self, samples: &SamplesAtTimes) -> Result<u64, BackfillError> {
        let labels: Vec<_> = self.labels.iter().map(|(name, value)| (&**name, &**value)).collect();
        self.lines = samples.lines(&labels);
        Ok(self.lines.len() as u64)
    }

    fn take(&mut self, samples: &SamplesAtTimes, millis: i64) -> Result<(), BackfillError> {
        samples.write(&self.lines, millis, &mut self.text);
        self.write_at_least(CHUNK_BYTES)
    }
}
