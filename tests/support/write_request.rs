//! What a receiver of remote write reads: decoded without the code that encoded it.

use prost::Message as _;

/// The messages as their specification declares them, decoded by an implementation that is not this module's.
pub mod declared {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct WriteRequest {
        #[prost(message, repeated, tag = "1")]
        pub timeseries: Vec<TimeSeries>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct TimeSeries {
        #[prost(message, repeated, tag = "1")]
        pub labels: Vec<Label>,
        #[prost(message, repeated, tag = "2")]
        pub samples: Vec<Sample>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Label {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(string, tag = "2")]
        pub value: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Sample {
        #[prost(double, tag = "1")]
        pub value: f64,
        #[prost(int64, tag = "2")]
        pub timestamp: i64,
    }
}

/// Decompresses a block as its format description reads, without the crate that compressed it: a length, then literals
/// and copies of what is already there.
pub fn unsnap(block: &[u8]) -> Vec<u8> {
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
pub type Decoded = Vec<(Vec<(String, String)>, Vec<(i64, u64)>)>;

pub fn decoded(body: &[u8]) -> Decoded {
    let request = declared::WriteRequest::decode(&unsnap(body)[..]).unwrap();
    let series = request.timeseries.into_iter().map(|series| {
        let labels = series.labels.into_iter().map(|label| (label.name, label.value)).collect();
        let samples = series.samples.iter().map(|sample| (sample.timestamp, sample.value.to_bits())).collect();
        (labels, samples)
    });
    series.collect()
}
