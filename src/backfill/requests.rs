//! Samples as requests of remote write.

use super::{BackfillError, Sink};
use crate::exposition::{RowFamily, SamplesAtTimes};
use crate::push::{EncodedLabels, RequestEncoder};

/// Samples of one request, as of the queue.
const SAMPLES_MAX: usize = 10_000;

/// Encodes samples, and passes the body of each request on.
pub struct Requests<F> {
    send: F,
    labels: Vec<(String, String)>,
    encoder: RequestEncoder,
    /// The series of the current part of a skill, with the samples that are not encoded yet.
    series: Vec<(EncodedLabels, Vec<(i64, f64)>)>,
    /// Samples in the request and beside it.
    pending: usize,
}

impl<F: FnMut(Vec<u8>) -> Result<(), BackfillError>> Requests<F> {
    /// Passes the requests to `send`, with `labels` added to those of each series.
    pub fn new(labels: Vec<(String, String)>, send: F) -> Self {
        Self { send, labels, encoder: RequestEncoder::new(), series: Vec::new(), pending: 0 }
    }

    /// Passes the last request on.
    ///
    /// # Errors
    /// Nobody takes it.
    pub fn finish(mut self) -> Result<(), BackfillError> {
        self.encode();
        if self.pending > 0 { (self.send)(self.encoder.finish()) } else { Ok(()) }
    }

    fn encode(&mut self) {
        for (labels, samples) in &mut self.series {
            self.encoder.push(labels, samples.drain(..));
        }
    }
}

impl<F: FnMut(Vec<u8>) -> Result<(), BackfillError>> Sink for Requests<F> {
    fn begin_family(&mut self, _: RowFamily) -> Result<(), BackfillError> {
        Ok(())
    }

    fn begin_metric(&mut self, samples: &SamplesAtTimes) -> Result<u64, BackfillError> {
        self.encode();
        let added: Vec<(&str, &str)> = self.labels.iter().map(|(name, value)| (&**name, &**value)).collect();
        let names = samples.names();
        let series = names.iter().map(|(name, own)| {
            let own = own.iter().map(|(name, value)| (*name, &**value));
            (EncodedLabels::new(name, own.chain(added.iter().copied())), Vec::new())
        });
        self.series = series.collect();
        Ok(self.series.len() as u64)
    }

    fn take(&mut self, samples: &SamplesAtTimes, millis: i64) -> Result<(), BackfillError> {
        let mut series = self.series.iter_mut();
        samples.values(|value| series.next().expect("a series for each sample").1.push((millis, value)));
        self.pending += self.series.len();
        if self.pending >= SAMPLES_MAX {
            self.encode();
            self.pending = 0;
            (self.send)(self.encoder.finish())?;
        }
        Ok(())
    }
}
