//! Write requests of remote write 1.0: the protocol buffers, and the block of snappy around them.
//!
//! Four messages of numbers, strings and each other need no code generator. Source of the field numbers: the specification of
//! remote write 1.0 and `prompb/types.proto` of Prometheus.

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

/// The labels of one series as each of its requests contains them: encoded once, because they do not change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EncodedLabels(Box<[u8]>);

impl EncodedLabels {
    /// Encodes a metric name with its own labels and those that are added to every series, sorted by name as receivers require
    /// it. A label without a value is no label. No name may occur twice.
    pub(crate) fn new<'a>(name: &'a str, labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut sorted: Vec<_> = labels.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        sorted.push((NAME_LABEL, name));
        sorted.sort_unstable();
        debug_assert!(sorted.windows(2).all(|pair| pair[0].0 != pair[1].0), "a label occurs twice: {sorted:?}");
        let mut out = Vec::new();
        for (name, value) in sorted {
            let fields = [(key::LABEL_NAME, name), (key::LABEL_VALUE, value)];
            out.push(key::SERIES_LABEL);
            push_varint(fields.iter().map(|(_, text)| field_len(text.len())).sum::<usize>() as u64, &mut out);
            for (key, text) in fields {
                out.push(key);
                push_varint(text.len() as u64, &mut out);
                out.extend_from_slice(text.as_bytes());
            }
        }
        Self(out.into_boxed_slice())
    }
}

/// Encodes requests, one after the other, into buffers that are reused.
pub(crate) struct RequestEncoder {
    message: Vec<u8>,
    samples: Vec<u8>,
    snappy: Encoder,
}

impl RequestEncoder {
    pub(crate) fn new() -> Self {
        Self { message: Vec::new(), samples: Vec::new(), snappy: Encoder::new() }
    }

    /// Adds a series with its samples, each a time in milliseconds since the Unix epoch and a value, in the order of time. A
    /// series without samples is left out.
    pub(crate) fn push(&mut self, labels: &EncodedLabels, samples: impl IntoIterator<Item = (i64, f64)>) {
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
        push_varint((labels.0.len() + self.samples.len()) as u64, &mut self.message);
        self.message.extend_from_slice(&labels.0);
        self.message.extend_from_slice(&self.samples);
    }

    /// Returns the body of the request, compressed, and starts the next one.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        let mut body = vec![0; max_compress_len(self.message.len())];
        // Fails on messages of 4 GiB and on buffers that are too short: a request has at most some megabytes, and the buffer is
        // as long as the compressor demands.
        let len = self.snappy.compress(&self.message, &mut body).expect("a request is far shorter than 4 GiB");
        self.message.clear();
        body.truncate(len);
        body.shrink_to_fit();
        body
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
    use proptest::collection::{btree_map, vec};
    use proptest::num;
    use proptest::prelude::{ProptestConfig, Strategy, prop_assert_eq, proptest};
    use prost::Message as _;

    use super::*;
    use crate::push::series::STALE;

    /// The messages as their specification declares them, decoded by an implementation that is not this module's.
    mod declared {
        #[derive(Clone, PartialEq, prost::Message)]
        pub(super) struct WriteRequest {
            #[prost(message, repeated, tag = "1")]
            pub(super) timeseries: Vec<TimeSeries>,
        }

        #[derive(Clone, PartialEq, prost::Message)]
        pub(super) struct TimeSeries {
            #[prost(message, repeated, tag = "1")]
            pub(super) labels: Vec<Label>,
            #[prost(message, repeated, tag = "2")]
            pub(super) samples: Vec<Sample>,
        }

        #[derive(Clone, PartialEq, prost::Message)]
        pub(super) struct Label {
            #[prost(string, tag = "1")]
            pub(super) name: String,
            #[prost(string, tag = "2")]
            pub(super) value: String,
        }

        #[derive(Clone, PartialEq, prost::Message)]
        pub(super) struct Sample {
            #[prost(double, tag = "1")]
            pub(super) value: f64,
            #[prost(int64, tag = "2")]
            pub(super) timestamp: i64,
        }
    }

    /// Decompresses a block as its format description reads, without the crate that compressed it: a length, then literals
    /// and copies of what is already there.
    fn unsnap(block: &[u8]) -> Vec<u8> {
        let mut rest = block.iter().copied();
        let mut len = 0_usize;
        for shift in (0..).step_by(7) {
            let byte = rest.next().unwrap();
            len |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        let mut out: Vec<u8> = Vec::new();
        let number = |rest: &mut dyn Iterator<Item = u8>, bytes: usize| {
            (0..bytes).fold(0, |number, at| number | usize::from(rest.next().unwrap()) << (8 * at))
        };
        while let Some(tag) = rest.next() {
            let high = usize::from(tag >> 2);
            let (copied, offset) = match tag & 3 {
                0 => {
                    let literal = if high < 60 { high } else { number(&mut rest, high - 59) } + 1;
                    out.extend(rest.by_ref().take(literal));
                    continue;
                }
                1 => (4 + (high & 7), (high >> 3) << 8 | number(&mut rest, 1)),
                2 => (high + 1, number(&mut rest, 2)),
                _ => (high + 1, number(&mut rest, 4)),
            };
            for _ in 0..copied {
                out.push(out[out.len() - offset]);
            }
        }
        assert_eq!(out.len(), len);
        out
    }

    /// A request as it was meant: the labels of each series, and times with the bits of values.
    type Meant = Vec<(Vec<(String, String)>, Vec<(i64, u64)>)>;

    fn decoded(body: &[u8]) -> Meant {
        let request = declared::WriteRequest::decode(&unsnap(body)[..]).unwrap();
        let series = request.timeseries.into_iter().map(|series| {
            let labels = series.labels.into_iter().map(|label| (label.name, label.value)).collect();
            let samples = series.samples.iter().map(|sample| (sample.timestamp, sample.value.to_bits())).collect();
            (labels, samples)
        });
        series.collect()
    }

    fn encoded(meant: &Meant) -> Vec<u8> {
        let mut encoder = RequestEncoder::new();
        for (labels, samples) in meant {
            let name = &labels.iter().find(|(name, _)| name == NAME_LABEL).unwrap().1;
            let others = labels.iter().filter(|(name, _)| name != NAME_LABEL);
            let labels = EncodedLabels::new(name, others.map(|(name, value)| (&**name, &**value)));
            encoder.push(&labels, samples.iter().map(|(millis, bits)| (*millis, f64::from_bits(*bits))));
        }
        encoder.finish()
    }

    fn any_request() -> impl Strategy<Value = Meant> {
        let labels = btree_map("[A-Za-z_][a-z_]{0,8}", "\\PC{1,200}", 0..6);
        let samples = vec((num::i64::ANY, num::f64::ANY.prop_map(f64::to_bits)), 1..20);
        vec((labels, "[a-z_:]{1,30}", samples), 0..20).prop_map(|series| {
            let sorted = series.into_iter().map(|(mut labels, name, samples)| {
                labels.insert(NAME_LABEL.to_owned(), name);
                (labels.into_iter().collect(), samples)
            });
            sorted.collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_request_is_decoded_by_others_as_it_was_meant(meant in any_request()) {
            prop_assert_eq!(decoded(&encoded(&meant)), meant);
        }
    }

    #[test]
    fn defaults_extremes_and_the_stale_marker_arrive_bit_by_bit() {
        let labels = vec![(NAME_LABEL.to_owned(), "skill_invocations_total".to_owned())];
        let values = [0.0, -0.0, STALE, f64::NAN, f64::INFINITY, f64::MIN_POSITIVE, 9_007_199_254_740_993.0];
        let times = [0, 1, -1, i64::MIN, i64::MAX, 1_795_341_600_123, 127];
        let samples = times.into_iter().zip(values.map(f64::to_bits)).collect();
        let meant = vec![(labels, samples)];
        assert_eq!(decoded(&encoded(&meant)), meant);
    }

    #[test]
    fn an_empty_request_is_one_that_every_receiver_decodes() {
        let mut encoder = RequestEncoder::new();
        assert_eq!(encoder.finish(), [0], "snappy's block of no bytes");
        let labels = EncodedLabels::new("up", []);
        encoder.push(&labels, []);
        assert_eq!(encoder.finish(), [0], "a series without samples is none");
        encoder.push(&labels, [(1, 1.0)]);
        let one = encoder.finish();
        encoder.push(&labels, [(1, 1.0)]);
        assert_eq!(encoder.finish(), one, "nothing is left over of the request before");
    }

    #[test]
    fn labels_are_sorted_by_name_and_empty_ones_left_out() {
        let labels = EncodedLabels::new("m", [("skill_name", "s"), ("job", "j"), ("Upper", "u"), ("phase", "")]);
        let mut encoder = RequestEncoder::new();
        encoder.push(&labels, [(1, 1.0)]);
        let names = decoded(&encoder.finish())[0].0.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(names, ["Upper", "__name__", "job", "skill_name"]);
    }

    #[test]
    fn samples_grouped_by_series_compress_to_a_few_bytes_each() {
        let mut encoder = RequestEncoder::new();
        for series in 0..100 {
            let skill = format!("skill-{series}");
            let labels = EncodedLabels::new("skill_invocations_total", [("skill_name", &*skill), ("job", "x")]);
            encoder
                .push(&labels, (0..100).map(|tick| (1_795_341_600_000 + tick * 60_000, 1_000.0 + f64::from(series))));
        }
        let body = encoder.finish();
        assert_eq!(unsnap(&body), {
            let mut decoder = snap::raw::Decoder::new();
            decoder.decompress_vec(&body).unwrap()
        });
        assert!(body.len() < 10_000 * 8, "{} bytes for 10,000 samples", body.len());
    }
}
