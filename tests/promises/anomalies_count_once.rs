//! An anomaly that a server lists again every second, or streams again, is counted once (rule 5).

use std::collections::BTreeMap;

use crate::support::model::{Anomaly, Database, LISTED_MAX, SECOND, anomaly_event, iso_time, metrics_update, sql_time};
use crate::support::observer::Observer;
use crate::support::property;
use proptest::prelude::*;
use session_buddy_bridge::internals::ledger::Notice;
use session_buddy_bridge::internals::protocol::RejectionReason;

const HOUR: i64 = 3600 * SECOND;

/// An anomaly before its time is known: few skills, types and scores, so that many agree in all three.
#[derive(Debug, Clone)]
struct Found {
    skill: usize,
    kind: &'static str,
    score: Option<f64>,
    offset_micros: i64,
    /// How often it is streamed, too.
    copies_streamed: usize,
}

impl Found {
    fn row(&self, detected_at: String) -> Anomaly {
        Anomaly {
            skill_name: crate::support::model::skill_name(self.skill),
            anomaly_type: self.kind.to_owned(),
            detected_at,
            deviation_score: self.score,
        }
    }
}

fn found() -> impl Strategy<Value = Found> {
    let kind = prop::sample::select(vec!["drop", "spike", "pattern_shift"]);
    let score = prop::sample::select(vec![None, Some(2.0), Some(2.5), Some(3.125)]);
    (0_usize..3, kind, score, 0..SECOND, 0_usize..3).prop_map(|(skill, kind, score, offset_micros, copies_streamed)| {
        Found { skill, kind, score, offset_micros, copies_streamed }
    })
}

/// What is found in one second, and whether the snapshot after it is heard.
fn seconds(found_max: usize) -> impl Strategy<Value = Vec<(Vec<Found>, bool)>> {
    prop::collection::vec((prop::collection::vec(found(), 0..=found_max), prop::bool::weighted(0.7)), 1..60)
}

/// Anomalies by type and skill.
fn counts<'r>(rows: impl IntoIterator<Item = &'r Anomaly>) -> BTreeMap<(String, String), u64> {
    let mut counts = BTreeMap::new();
    for row in rows {
        *counts.entry((row.anomaly_type.clone(), row.skill_name.clone())).or_default() += 1;
    }
    counts
}

proptest! {
    #![proptest_config(property())]

    #[test]
    fn exactly_once_while_the_list_has_room(seconds in seconds(4)) {
        let mut observer = Observer::connected();
        let mut database = Database::default();
        let mut unheard = 0;
        for (second, (found, heard)) in (1..).zip(seconds) {
            // Ten in one interval can hide an eleventh: stay below.
            unheard += found.len();
            let surplus = unheard.saturating_sub(LISTED_MAX - 1);
            unheard -= surplus;
            for found in &found[surplus.min(found.len())..] {
                let row = found.row(sql_time(second * SECOND));
                let id = format!("id-{}", database.anomalies.len());
                for _ in 0..found.copies_streamed {
                    observer.hear(0, &anomaly_event(Some(&id), second * SECOND, &row), second * SECOND);
                }
                database.anomalies.push(row);
            }
            // A time of whole seconds is older than the snapshot only if that second was over.
            let at_micros = (second + 1) * SECOND;
            if heard {
                observer.hear(0, &database.snapshot(at_micros), at_micros);
                unheard = 0;
                prop_assert_eq!(observer.shown.anomalies(), counts(&database.anomalies));
            }
            if second % 7 == 0 {
                observer.reopen(0, at_micros);
            }
        }
        prop_assert_eq!(observer.shown.rules.anomaly_window_overflows, 0);
    }

    #[test]
    fn never_more_than_happened_and_never_fewer_unnoticed(seconds in seconds(14), snapshot_micros in 0..SECOND) {
        let mut observer = Observer::connected();
        observer.hear(0, &Database::default().snapshot(SECOND), SECOND);
        let mut database = Database::default();
        for (second, (mut found, heard)) in (2..).zip(seconds) {
            found.sort_by_key(|found| found.offset_micros);
            // The snapshot falls anywhere within the second: what comes after it in the same second is listed later.
            let (before, after): (Vec<_>, Vec<_>) =
                found.into_iter().partition(|found| found.offset_micros <= snapshot_micros);
            database.anomalies.extend(before.iter().map(|found| found.row(sql_time(second * SECOND))));
            let at_micros = second * SECOND + snapshot_micros;
            if heard {
                observer.hear(0, &database.snapshot(at_micros), at_micros);
                let happened = counts(&database.anomalies);
                let shown = observer.shown.anomalies();
                for (key, count) in &shown {
                    prop_assert!(*count <= happened.get(key).copied().unwrap_or(0), "{key:?} counted {count}");
                }
                if shown != happened {
                    prop_assert!(observer.shown.rules.anomaly_window_overflows > 0, "{shown:?} of {happened:?}");
                }
            }
            database.anomalies.extend(after.iter().map(|found| found.row(sql_time(second * SECOND))));
        }
    }

    /// As the server's query compares text, a time with a `T` stays listed to the end of the next day's first hour.
    #[test]
    fn a_time_with_a_t_outlives_its_hour_and_counts_once(
        found in prop::collection::vec((found(), any::<bool>(), 0_i64..40), 1..LISTED_MAX),
        minutes in prop::collection::btree_set(0_i64..50 * 60, 1..60),
    ) {
        let mut observer = Observer::connected();
        let mut database = Database::default();
        let mut found: Vec<_> = found;
        found.sort_by_key(|(_, _, minute)| *minute);
        for (found, with_t, minute) in &found {
            let at_micros = minute * 60 * SECOND;
            let detected_at = if *with_t { iso_time(at_micros) } else { sql_time(at_micros) };
            database.anomalies.push(found.row(detected_at));
        }
        // All of them are listed at once before the hour of the first is over.
        for minute in std::iter::once(40).chain(minutes.into_iter().filter(|minute| *minute > 40)) {
            observer.hear(0, &database.snapshot(minute * 60 * SECOND), minute * 60 * SECOND);
            prop_assert_eq!(observer.shown.anomalies(), counts(&database.anomalies));
        }
    }

    #[test]
    fn shown_is_the_larger_of_streamed_and_listed(
        rows in prop::collection::vec((found(), any::<bool>(), any::<bool>()), 1..LISTED_MAX),
    ) {
        let mut observer = Observer::connected();
        let all: Vec<_> = rows.iter().map(|(found, _, _)| found.row(sql_time(0))).collect();
        let picked = |pick: fn(&(Found, bool, bool)) -> bool| {
            all.iter().zip(&rows).filter(move |(_, row)| pick(row)).map(|(anomaly, _)| anomaly.clone()).collect::<Vec<_>>()
        };
        let (streamed, listed) = (picked(|row| row.1), picked(|row| row.2));
        for (index, row) in streamed.iter().enumerate() {
            observer.hear(0, &anomaly_event(Some(&format!("id-{index}")), 0, row), SECOND);
        }
        observer.hear(0, &metrics_update(2 * SECOND, &[], &listed), 2 * SECOND);
        let mut larger = counts(&listed);
        for (key, streamed) in counts(&streamed) {
            let larger = larger.entry(key).or_default();
            *larger = (*larger).max(streamed);
        }
        prop_assert_eq!(observer.shown.anomalies(), larger);
    }
}

fn anomaly(detected_at: &str) -> Anomaly {
    Anomaly {
        skill_name: "a".to_owned(),
        anomaly_type: "drop".to_owned(),
        detected_at: detected_at.to_owned(),
        deviation_score: Some(2.5),
    }
}

/// How many are shown of the one kind that [`anomaly`] makes.
fn drops(observer: &Observer) -> u64 {
    observer.shown.anomalies().values().sum()
}

/// A feed that has heard `rows` listed once a second.
fn told(rows: &[Vec<Anomaly>]) -> Observer {
    let mut observer = Observer::connected();
    for (second, rows) in (1..).zip(rows) {
        observer.hear(0, &metrics_update(second * SECOND, &[], rows), second * SECOND);
    }
    observer
}

#[test]
fn as_many_as_were_ever_listed_at_the_same_time() {
    let one = anomaly("2026-11-22 10:00:00");
    let two = vec![one.clone(); 2];
    assert_eq!(drops(&told(&[vec![one.clone()], two.clone(), vec![one.clone()], two])), 2);
}

#[test]
fn scores_compare_as_numbers_and_null_equals_missing() {
    let listed = |score: &str| {
        let row = Anomaly { deviation_score: Some(2.0), ..anomaly("2026-11-22 10:00:00") };
        metrics_update(SECOND, &[], &[row]).replace(", \"deviation_score\": 2.0", score)
    };
    for (first, second, expected) in [
        (", \"deviation_score\": 2.0", ", \"deviation_score\": 2", 1),
        (", \"deviation_score\": 2.0", ", \"deviation_score\": 20e-1", 1),
        (", \"deviation_score\": 0", ", \"deviation_score\": -0.0", 1),
        (", \"deviation_score\": null", "", 1),
        (", \"deviation_score\": null", ", \"deviation_score\": 0", 2),
        (", \"deviation_score\": 2.0", ", \"deviation_score\": 2.0000000000000004", 2),
    ] {
        let mut observer = Observer::connected();
        observer.hear(0, &listed(first), SECOND);
        observer.hear(0, &listed(second), 2 * SECOND);
        assert_eq!(drops(&observer), expected, "{first:?} then {second:?}");
    }
}

#[test]
fn events_without_an_id_are_told_by_time_and_score() {
    let mut observer = Observer::connected();
    let bare = |row: &Anomaly| anomaly_event(None, 0, row);
    let row = anomaly("2026-11-22 10:00:00");
    observer.hear(0, &bare(&row), 6 * SECOND);
    observer.hear(0, &bare(&row), 7 * SECOND);
    assert_eq!(drops(&observer), 1);
    observer.hear(0, &bare(&anomaly("2026-11-22 10:00:01")), 8 * SECOND);
    observer.hear(0, &bare(&Anomaly { deviation_score: Some(3.0), ..row }), 9 * SECOND);
    assert_eq!(drops(&observer), 3);
    for second in 10..12 {
        let arrival = r#"{"type": "anomaly", "data": {"skill_name": "a", "anomaly_type": "drop"}}"#;
        observer.hear(0, arrival, second * SECOND);
    }
    assert_eq!(drops(&observer), 5, "without a time each arrival is one");
}

#[test]
fn an_anomaly_is_remembered_for_48_hours_after_it_was_last_listed() {
    let row = anomaly("2026-11-22T10:00:00+00:00");
    let hear = |observer: &mut Observer, hour: i64, rows: &[Anomaly]| {
        observer.hear(0, &metrics_update(hour * HOUR, &[], rows), hour * HOUR);
    };
    let mut observer = Observer::connected();
    for hour in [0, 47, 94] {
        hear(&mut observer, hour, std::slice::from_ref(&row));
    }
    assert_eq!(drops(&observer), 1, "each listing renews it");

    let mut away = Observer::connected();
    hear(&mut away, 0, std::slice::from_ref(&row));
    away.tick(59 * HOUR);
    hear(&mut away, 60, std::slice::from_ref(&row));
    assert_eq!(drops(&away), 1, "nothing is forgotten before a snapshot is applied");

    let mut gone = Observer::connected();
    hear(&mut gone, 0, std::slice::from_ref(&row));
    hear(&mut gone, 49, &[]);
    hear(&mut gone, 50, std::slice::from_ref(&row));
    assert_eq!(drops(&gone), 2, "forgotten: whoever lists it again says that it is another");
}

#[test]
fn a_list_that_may_have_hidden_some_is_told() {
    let full = |detected_at: &str| vec![anomaly(detected_at); LISTED_MAX];
    let overflows = |observer: &Observer| observer.shown.rules.anomaly_window_overflows;
    let quiet = told(&[vec![], full("2026-11-22 10:00:02")[1..].to_vec()]);
    assert_eq!(overflows(&quiet), 0, "nine of ten");

    let burst = told(&[vec![], full("2026-11-22 10:00:02")]);
    assert_eq!(overflows(&burst), 1);
    assert!(burst.notices.contains(&Notice::AnomalyWindowOverflowed));

    let mut old = full("2026-11-22 10:00:04");
    old[0] = anomaly("2026-11-22 10:00:00");
    assert_eq!(
        overflows(&told(&[vec![], vec![], vec![], old])),
        0,
        "what is older than the last snapshot was listed then"
    );

    let ts = full("2026-11-22T10:00:00+00:00");
    assert!(overflows(&told(&[ts.clone(), ts.clone(), ts])) > 0, "times with a T hide all others");

    let mut slept = told(&[vec![]]);
    slept.hear(0, &metrics_update(2 * HOUR, &[], &[]), 2 * HOUR);
    assert_eq!(overflows(&slept), 1, "an hour passed: what was listed in it is gone");
}

#[test]
fn a_bad_anomaly_is_rejected_alone() {
    let mut observer = Observer::connected();
    let good = anomaly("2026-11-22 10:00:00");
    let rows = [Anomaly { deviation_score: Some(f64::INFINITY), ..good.clone() }, good];
    observer.hear(0, &metrics_update(SECOND, &[], &rows), SECOND);
    assert_eq!(drops(&observer), 1);
    assert_eq!(observer.rejections(RejectionReason::InvalidNumber), 1);
}

#[test]
fn anomalies_of_two_servers_add_up() {
    let mut observer = Observer::of(&[("a", None), ("b", None)]);
    observer.open(0, 0);
    observer.open(1, 0);
    let row = anomaly("2026-11-22 10:00:00");
    for second in 1..=3 {
        for (feed, at_micros) in [(0, second * SECOND), (1, second * SECOND + SECOND / 2)] {
            observer.hear(feed, &metrics_update(at_micros, &[], std::slice::from_ref(&row)), at_micros);
        }
    }
    observer.tick(10 * SECOND);
    assert_eq!(drops(&observer), 2);
}
