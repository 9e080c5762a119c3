//! Write requests are what other implementations decode, and contain what was meant.

use proptest::collection::{btree_map, vec};
use proptest::num;
use proptest::prelude::{ProptestConfig, Strategy, prop_assert_eq, proptest};
use session_buddy_bridge::internals::push::{EncodedLabels, RequestEncoder, STALE};

use crate::support::write_request::{Decoded, decoded, unsnap};

const NAME_LABEL: &str = "__name__";

fn encoded(meant: &Decoded) -> Vec<u8> {
    let mut encoder = RequestEncoder::new();
    for (labels, samples) in meant {
        let name = &labels.iter().find(|(name, _)| name == NAME_LABEL).unwrap().1;
        let others = labels.iter().filter(|(name, _)| name != NAME_LABEL);
        let labels = EncodedLabels::new(name, others.map(|(name, value)| (&**name, &**value)));
        encoder.push(&labels, samples.iter().map(|(millis, bits)| (*millis, f64::from_bits(*bits))));
    }
    encoder.finish()
}

fn any_request() -> impl Strategy<Value = Decoded> {
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
    let labels = EncodedLabels::new(
        "m",
        [("skill_name", "s"), ("job", "j"), ("Upper", "u"), ("phase", ""), ("job", "of the bridge")],
    );
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
        encoder.push(&labels, (0..100).map(|tick| (1_795_341_600_000 + tick * 60_000, 1_000.0 + f64::from(series))));
    }
    let body = encoder.finish();
    assert_eq!(unsnap(&body), {
        let mut decoder = snap::raw::Decoder::new();
        decoder.decompress_vec(&body).unwrap()
    });
    assert!(body.len() < 10_000 * 8, "{} bytes for 10,000 samples", body.len());
}
