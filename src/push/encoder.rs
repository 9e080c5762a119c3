//! Write requests of remote write 1.0: the protocol buffers, and the block of snappy around them.
//!
//! Four messages of numbers, strings and each other need no code generator. Source of the field numbers: the specification of
//! remote write 1.0 and `prompb/types.proto` of Prometheus.

use std::collections::HashSet;
use std::sync::Arc;

use snap::raw::{Encoder, max_compress_len};

const NAME_LABEL: &str = "__name__";

/// Field numbers with their wire types, as they are written.
mod key {
    const VARINT: u8 = 0;
    const FIXED_64: u8 = 1;
    const LENGTH_DELIMITED: u8 = 2;

    pub(super) const REQUEST_SERIES: u8 = 1 << 3 | LENGTH_DELIMITED;
    pub(super) const SERIES_LABEL: u8 = 1 << 3 | LENGTH_DELIMITED;
    pub(super) const SERIES_SAMPLE: u8 = 2 << 3 | LENGTH_DELIMITED;
    pub(super) const LABEL_NAME: u8 = 1 << 3 | LENGTH_DELIMITED;
    pub(super) const LABEL_VALUE: u8 = 2 << 3 | LENGTH_DELIMITED;
    pub(super) const SAMPLE_VALUE: u8 = 1 << 3 | FIXED_64;
    pub(super) const SAMPLE_TIMESTAMP: u8 = 2 << 3 | VARINT;
}

/// The label that distinguishes the series of skills.
const SKILL_LABEL: &str = "skill_name";

/// The labels of one series as each of its requests contains them: encoded once, because they do not change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedLabels {
    /// Those before [`SKILL_LABEL`], which as many series share as there are skills.
    head: Arc<[u8]>,
    /// The others, which the series of a skill share.
    tail: Arc<[u8]>,
}

impl EncodedLabels {
    /// Encodes the labels of a series as [`LabelEncoder::encode`] does, and shares nothing.
    pub fn new<'a>(name: &'a str, labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        LabelEncoder::default().encode(name, labels)
    }
}

/// Encodes labels with one copy of what series share: a tick of many series copies megabytes of labels to its requests, and reads few.
#[derive(Debug, Default)]
pub(super) struct LabelEncoder(HashSet<Arc<[u8]>>);

impl LabelEncoder {
    /// Encodes a metric name with its own labels, followed by those that are added to every series. They are sorted by name, as
    /// receivers require it. A label without a value is no label; of two with one name the first is kept.
    pub(super) fn encode<'a>(
        &mut self,
        name: &'a str,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> EncodedLabels {
        let mut sorted = vec![(NAME_LABEL, name)];
        sorted.extend(labels.into_iter().filter(|(_, value)| !value.is_empty()));
        // Stable: the first of a name stays the first.
        sorted.sort_by_key(|(name, _)| *name);
        sorted.dedup_by_key(|(name, _)| *name);
        let (head, tail) = sorted.split_at(sorted.partition_point(|(name, _)| *name < SKILL_LABEL));
        EncodedLabels { head: self.shared(&encode(head)), tail: self.shared(&encode(tail)) }
    }

    fn shared(&mut self, bytes: &[u8]) -> Arc<[u8]> {
        if let Some(known) = self.0.get(bytes) {
            return Arc::clone(known);
        }
        let bytes: Arc<[u8]> = bytes.into();
        self.0.insert(Arc::clone(&bytes));
        bytes
    }
}

fn encode(labels: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in labels {
        let fields = [(key::LABEL_NAME, name), (key::LABEL_VALUE, value)];
        out.push(key::SERIES_LABEL);
        push_varint(fields.iter().map(|(_, text)| field_len(text.len())).sum::<usize>() as u64, &mut out);
        for (key, text) in fields {
            out.push(key);
            push_varint(text.len() as u64, &mut out);
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

/// The body of a request without samples: a block of snappy that contains no bytes.
pub(super) const EMPTY_REQUEST: &[u8] = &[0];

/// Encodes requests, one after the other, into buffers that are reused: some megabytes for requests of 10,000 samples, until it
/// is dropped.
pub struct RequestEncoder {
    message: Vec<u8>,
    samples: Vec<u8>,
    compressed: Vec<u8>,
    snappy: Encoder,
}

impl RequestEncoder {
    /// Creates an encoder of an empty request.
    #[allow(clippy::new_without_default, reason = "an encoder has buffers, and no default value")]
    pub fn new() -> Self {
        Self { message: Vec::new(), samples: Vec::new(), compressed: Vec::new(), snappy: Encoder::new() }
    }

    /// Adds a series with its samples, each a time in milliseconds since the Unix epoch and a value, in the order of time. A
    /// series without samples is left out.
    pub fn push(&mut self, labels: &EncodedLabels, samples: impl IntoIterator<Item = (i64, f64)>) {
        self.samples.clear();
        for (millis, value) in samples {
            // As in every proto3 message, a field that has its default is left out.
            let value = Some(value.to_bits()).filter(|bits| *bits != 0);
            let timestamp = Some(millis.cast_unsigned()).filter(|millis| *millis != 0);
            let len = value.map_or(0, |_| 9) + timestamp.map_or(0, |millis| 1 + varint_len(millis));
            self.samples.push(key::SERIES_SAMPLE);
            push_varint(len as u64, &mut self.samples);
            if let Some(bits) = value {
                self.samples.push(key::SAMPLE_VALUE);
                self.samples.extend_from_slice(&bits.to_le_bytes());
            }
            if let Some(millis) = timestamp {
                self.samples.push(key::SAMPLE_TIMESTAMP);
                push_varint(millis, &mut self.samples);
            }
        }
        if self.samples.is_empty() {
            return;
        }
        self.message.push(key::REQUEST_SERIES);
        let EncodedLabels { head, tail } = labels;
        push_varint((head.len() + tail.len() + self.samples.len()) as u64, &mut self.message);
        self.message.extend_from_slice(head);
        self.message.extend_from_slice(tail);
        self.message.extend_from_slice(&self.samples);
    }

    /// Returns the body of the request, compressed, and starts the next one.
    pub fn finish(&mut self) -> Vec<u8> {
        let len_max = max_compress_len(self.message.len());
        if self.compressed.len() < len_max {
            self.compressed.resize(len_max, 0);
        }
        // Fails on messages of 4 GiB and on buffers that are too short: a request has at most some megabytes, and the buffer is
        // as long as the compressor demands.
        let compressed = self.snappy.compress(&self.message, &mut self.compressed);
        let len = compressed.expect("a request is far shorter than 4 GiB");
        self.message.clear();
        self.compressed[..len].to_vec()
    }
}

/// Returns the length of a string or message of `len` bytes, with its key and its length.
fn field_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

fn push_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_a_skill_share_its_labels_and_those_of_a_metric_theirs() {
        let mut encoder = LabelEncoder::default();
        let mut encoded = |skill: &str, le: &str| {
            let own = [("skill_name", skill), ("workflow_phase", "execution"), ("le", le)];
            encoder.encode("skill_duration_seconds_bucket", own.into_iter().chain([("instance", "a"), ("job", "b")]))
        };
        let [one, longer, other] = [encoded("x", "1.0"), encoded("x", "2.0"), encoded("y", "1.0")];
        assert!(Arc::ptr_eq(&one.tail, &longer.tail) && Arc::ptr_eq(&one.head, &other.head));
        assert!(one.head != longer.head && one.tail != other.tail);
    }
}
