//! The parser that other tests trust refuses what it should.

use crate::support::scrape::{Scrape, Series};

const GOOD: &str = r#"# HELP a_total Things \\ counted\nhere
# TYPE a_total counter
a_total{x="1",y="\"\\\n}"} 3
a_total{y="",x="1"} 1.5e3
# HELP b
# TYPE b gauge
b -0.5
# HELP c Seconds
# TYPE c histogram
c_bucket{le="1.0"} 1
c_bucket{le="10.0"} 3
c_bucket{le="+Inf"} 3
c_sum 7.5
c_count 3
# HELP d Nothing yet
# TYPE d untyped
"#;

fn good() -> String {
    GOOD.replace("# HELP b\n", "# HELP b \n")
}

#[test]
fn a_proper_exposition_is_read_whole() {
    let scrape = Scrape::parse(&good()).unwrap();
    assert_eq!(scrape.families["a_total"].help, "Things \\ counted\nhere");
    assert_eq!(scrape.families["b"].help, "");
    assert_eq!(scrape.families["d"].kind, "untyped");
    assert_eq!(scrape.value("a_total", &[("y", "\"\\\n}"), ("x", "1")]), Some(3.0));
    assert_eq!(scrape.value("a_total", &[("x", "1"), ("y", "")]), Some(1500.0));
    assert_eq!(scrape.value("b", &[]), Some(-0.5));
    assert_eq!(scrape.value("b", &[("x", "1")]), None);
    assert_eq!(scrape.sum("a_total"), 1503.0);
    assert_eq!(scrape.series("c_bucket").len(), 3);
    assert_eq!(scrape.samples.len(), 8);
    assert!(scrape.samples.contains_key(&Series::new("c_bucket", &[("le", "+Inf")])));
    assert_eq!(Scrape::parse("").unwrap(), Scrape::default());
}

#[test]
fn each_fault_is_refused() {
    for (from, to, why) in [
        ("untyped\n", "untyped", "the last line does not end"),
        ("# TYPE b gauge\n", "# TYPE b gauge\n\n", "no sample"),
        ("# TYPE b gauge\n", "# TYPE b gauge\n# note\n", "no metric name"),
        ("# TYPE b gauge\n", "", "a sample without TYPE before it"),
        ("# TYPE d untyped\n", "", "d has no TYPE"),
        ("# HELP b \n", "", "TYPE without HELP before it"),
        ("# HELP b \n", "# HELP b\n", "HELP without a text"),
        ("# HELP b \n", "# HELP b \n# HELP b \n", "HELP is to come once"),
        ("# TYPE b gauge\n", "# TYPE b gauge\n# TYPE b gauge\n", "TYPE is there twice"),
        ("# TYPE b gauge", "# TYPE b number", "unknown type"),
        ("b -0.5\n", "b -0.5\na_total 1\n", "a sample of another family"),
        ("b -0.5\n", "b_count -0.5\n", "a sample of another family"),
        ("# HELP d Nothing", "# HELP a_total Nothing", "a family in two places"),
        ("b -0.5\n", "b -0.5\nb 1\n", "a series twice"),
        ("{y=\"\",x=\"1\"} 1.5e3", "{y=\"\\\"\\\\\\n}\",x=\"1\"} 1", "a series twice"),
        ("x=\"1\",y=\"\\", "x=\"1\",x=\"\\", "the label x twice"),
        ("{y=\"\",x", "{y=\"\";x", "no comma between labels"),
        ("{y=\"\",x=\"1\"}", "{y=\"\",x=\"1\",}", "a label without a value"),
        ("{y=\"\",x=\"1\"}", "{}", "a label without a value"),
        ("{y=\"\",", "{1y=\"\",", "no label name"),
        ("{y=\"\",", "{y:=\"\",", "no label name"),
        ("x=\"1\",y=\"\\\"", "x=\"1\",y=\"\\t", "an unknown escape"),
        ("\\\\ counted", "\\\" counted", "an unknown escape"),
        ("y=\"\",x=\"1\"} 1.5e3", "y=\"\",x=\"1} 1.5e3", "a value without an end"),
        ("b -0.5", "b  -0.5", "no number"),
        ("b -0.5", "b -0.5 1700000000", "no number"),
        ("b -0.5", "b inf", "no number"),
        ("b -0.5", "b 1_0", "no number"),
        ("b -0.5", "b ", "no number"),
        ("b -0.5", "0b -0.5", "no metric name"),
        ("\"} 3", "\"} -3", "negative or no number"),
        ("\"} 3", "\"} NaN", "negative or no number"),
        ("c_count 3", "c_count 4", "the bucket +Inf is not the count"),
        ("c_bucket{le=\"+Inf\"} 3\n", "", "the bucket +Inf is not the count"),
        ("{le=\"1.0\"} 1", "{le=\"1.0\"} 4", "lower than the one below"),
        ("c_sum 7.5\n", "", "not of the same series"),
        ("c_bucket{le=\"1.0\"}", "c_bucket", "a bucket without le"),
    ] {
        let text = good();
        assert_eq!(text.matches(from).count().min(1), 1, "{from:?} is not in the text");
        let error = Scrape::parse(&text.replacen(from, to, 1)).expect_err(&format!("{from:?} -> {to:?} was accepted"));
        assert!(error.contains(why), "{from:?} -> {to:?} was refused because: {error}");
    }
}
