//! The live page in each state: what it names, what it draws, and that everybody can read it.

use crate::support::browser::Browser;
use crate::support::peers::node::Node;
use crate::support::scripted_page::ScriptedPage;
use serde_json::{Value, json};

/// When everything here happens, in seconds since the Unix epoch: the end of a whole minute.
const NOW: f64 = 1_760_000_040.0;
const MINUTE: f64 = 60.0;
const TAB: &str = "\u{e004}";
const ARROW_LEFT: &str = "\u{e012}";
const END: &str = "\u{e010}";
const ESCAPE: &str = "\u{e00c}";

/// A feed that is live and active; `changes` replaces keys.
fn feed(name: &str, changes: Value) -> Value {
    let feed = json!({
        "feed": name, "state": "live", "since_seconds": NOW - 600.0, "reason": "", "source": 1, "role": "active",
        "last_message_seconds": NOW - 1.0, "connected_since_seconds": NOW - 600.0, "last_data_seconds": NOW - 1.0,
        "messages": 1, "rejected": 0, "connects": 1, "resets": 0, "rollbacks": 0, "tenth_skill_invocations": 1, "rows_tell": null,
    });
    with(feed, changes)
}

fn with(mut value: Value, changes: Value) -> Value {
    let Value::Object(changes) = changes else { panic!("keys and values") };
    value.as_object_mut().expect("keys and values").extend(changes);
    value
}

fn unreachable() -> Value {
    let reason = "cannot connect to localhost:8765: Connection refused; next attempt in 12 s";
    let nothing = json!({"state": "unreachable", "reason": reason, "role": "inactive", "source": null, "connected_since_seconds": null});
    with(nothing, json!({"last_message_seconds": null, "last_data_seconds": null, "messages": 0}))
}

fn no_data() -> Value {
    let silent =
        json!({"state": "silent", "reason": "connected, no data for 47 s", "role": "inactive", "source": null});
    with(silent, json!({"connected_since_seconds": NOW - 47.0, "last_data_seconds": null}))
}

fn receiver(name: &str, is_up: bool, problem: &str) -> Value {
    json!({
        "receiver": name, "is_up": is_up, "problem": problem, "queue_ticks": u64::from(!is_up), "queue_bytes": 900,
        "queue_oldest_seconds": NOW - 90.0, "last_success_seconds": NOW - 9.0,
    })
}

fn skill(name: &str, changes: Value) -> Value {
    let skill = json!({
        "skill_name": name, "invocations": 100, "completed": 90, "completion_rate": 0.9, "durations": 90, "duration_mean_seconds": 2.0,
        "duration_p95_seconds": 4.0, "anomalies": 0, "last_changed_seconds": NOW - 30.0, "last_listed_seconds": NOW - 1.0,
    });
    with(skill, changes)
}

/// Skills of every kind: plain, of many words, hostile, known from events alone, known from an anomaly alone.
fn skills() -> Vec<Value> {
    let unlisted = json!({"completion_rate": null, "last_listed_seconds": null});
    let only_anomaly = json!({"invocations": 0, "completed": 0, "durations": 0, "duration_mean_seconds": null, "duration_p95_seconds": null, "anomalies": 1});
    vec![
        skill("pytest-run", json!({})),
        skill(&"W".repeat(190), json!({"completion_rate": 0.62})),
        skill("<b>\u{202e}txt\u{7}", json!({})),
        skill("from-events", with(unlisted.clone(), json!({"invocations": 7, "completed": 6}))),
        skill("from-an-anomaly", with(unlisted, only_anomaly)),
    ]
}

fn anomaly(at_seconds: f64, skill_name: &str, anomaly_type: &str, deviation_score: f64) -> Value {
    json!({
        "at_seconds": at_seconds, "skill_name": skill_name, "anomaly_type": anomaly_type, "times": 1, "deviation_score": deviation_score,
        "detected_at": null, "is_history": false,
    })
}

/// A point each 5 s, the last `minutes`: `change` replaces keys, by minutes before the end.
fn points(minutes: u32, change: impl Fn(f64) -> Value) -> Vec<Value> {
    let steps = (0..=minutes * 12).rev().map(|step| f64::from(step) / 12.0);
    let point = |ago: f64| {
        let point = json!({
            "at_seconds": NOW - ago * MINUTE, "coverage": "complete", "caught_up_since_seconds": null, "invocations_per_minute": 12.0,
            "completion_rate": 0.9, "duration_mean_seconds": 2.0, "duration_p95_seconds": 90.0, "anomalies": 0, "active_sessions": 1,
        });
        with(point, change(ago))
    };
    steps.map(point).collect()
}

fn nothing(_: f64) -> Value {
    json!({})
}

/// From 20 to 10 minutes ago no feed delivered, and 90 invocations were caught up.
fn outage(ago: f64) -> Value {
    let (begins, ends) = (20.0, 10.0);
    if ago < begins && ago > ends {
        json!({"coverage": "none", "invocations_per_minute": null, "completion_rate": null, "duration_mean_seconds": null, "duration_p95_seconds": null})
    } else if ago == ends {
        json!({"caught_up_since_seconds": NOW - begins * MINUTE, "invocations_per_minute": 9.0})
    } else {
        json!({})
    }
}

/// What the API answers.
struct State {
    status: Value,
    skills: Vec<Value>,
    points: Vec<Value>,
}

impl State {
    /// These feeds and no skill yet.
    fn empty(feeds: Vec<Value>) -> Self {
        let totals = json!({"skills": 0, "invocations": 0, "completed": 0, "durations": 0, "duration_sum_seconds": 0.0, "anomalies": 0});
        let status = json!({
            "version": "0.1.0", "now_seconds": NOW, "started_seconds": NOW - 3600.0, "state": "disk", "active_sessions": 1, "totals": totals,
            "feeds": feeds, "receivers": [], "anomalies": [], "rejections": [],
        });
        Self { status, skills: Vec::new(), points: Vec::new() }
    }

    /// These feeds, and skills of every kind.
    fn filled(feeds: Vec<Value>) -> Self {
        let mut state = Self { skills: skills(), points: points(60, nothing), ..Self::empty(feeds) };
        state.status["totals"]["skills"] = state.skills.len().into();
        state
    }

    fn with(mut self, changes: Value) -> Self {
        self.status = with(self.status, changes);
        self
    }

    fn script(self, page: &ScriptedPage) {
        let total = self.skills.len();
        page.set("status", self.status);
        page.set(
            "skills",
            json!({"skills_total": total, "skills_matched": total, "offset": 0, "limit": 50, "skills": self.skills}),
        );
        page.set("history", json!({"window_seconds": 60, "points": self.points}));
    }
}

/// Every state of the page by name.
fn states() -> Vec<(&'static str, State)> {
    let local = "ws://localhost:8765/";
    let standby = json!({"role": "standby", "reason": "on standby for source 1: build is active"});
    let rejection = json!({"at_seconds": NOW - 9.0, "feed": "desk", "reason": "malformed_json", "detail": "expected value", "times": 3});
    let worst = State {
        points: points(60, outage),
        ..State::filled(vec![feed("build", json!({})), feed("spare", standby), feed("desk", unreachable())])
    };
    let worst = worst.with(json!({
        "state": "failing", "receivers": [receiver("prometheus", true, ""), receiver("mimir", false, "HTTP 503")],
        "anomalies": [anomaly(NOW - 30.0 * MINUTE, "pytest-run", "performance_drop", 4.5)], "rejections": [rejection],
    }));
    vec![
        ("unreachable", State::empty(vec![feed(local, unreachable())])),
        ("no-data", State::empty(vec![feed(local, no_data())])),
        ("empty", State::empty(vec![feed(local, json!({}))])),
        ("live", State::filled(vec![feed(local, json!({}))])),
        ("worst", worst),
    ]
}

/// Opens the page in this state, and waits until its charts are drawn.
async fn open(browser: &Browser, page: &ScriptedPage, state: State, width: u32, scheme: &str) {
    state.script(page);
    browser.open(page.address, width, scheme).await;
    browser.until_texts("#about", |texts| texts.iter().any(|text| text.starts_with("Version"))).await;
    browser.until_drawn().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lamp_is_the_worst_of_feeds_receivers_state_and_refresh() {
    let Some(browser) = Browser::find_or_skip().await else { return };
    let page = ScriptedPage::start();
    let live = || feed("a", json!({}));
    let connecting = json!({"state": "connecting", "connected_since_seconds": null});
    let standby = json!({"role": "standby", "reason": "on standby for source 1: a is active"});
    for (feeds, changes, kind, text) in [
        (vec![live()], json!({}), "good", "1 of 1 feed live"),
        (vec![live(), feed("b", standby)], json!({}), "good", "2 of 2 feeds live"),
        (vec![live(), feed("b", connecting)], json!({}), "warn", "1 of 2 feeds not live"),
        (vec![feed("a", json!({"last_data_seconds": null}))], json!({}), "warn", "1 of 1 feed without data yet"),
        (vec![live(), feed("b", unreachable())], json!({}), "bad", "1 of 2 feeds not live"),
        (vec![feed("a", no_data())], json!({}), "bad", "1 of 1 feed not live"),
        (vec![live()], json!({"state": "failing"}), "bad", "counts cannot be written to disk"),
        (vec![live()], json!({"receivers": [receiver("r", true, "")]}), "good", "1 of 1 feed live"),
        (vec![live()], json!({"receivers": [receiver("r", false, "HTTP 503")]}), "bad", "1 of 1 receiver down"),
        (vec![], json!({}), "good", "Recording"),
    ] {
        open(&browser, &page, State::filled(feeds).with(changes), 1280, "light").await;
        browser.until_texts("#pulse", |texts| texts == [text]).await;
        assert_eq!(browser.run("return document.getElementById('pulse').className").await, kind, "{text}");
        let title = if kind == "good" { String::new() } else { format!("{text} – ") };
        assert_eq!(browser.page.title().await, format!("{title}Session-Buddy bridge"));
    }
    drop(page);
    browser.until_text("#pulse", "No answer from the bridge").await;
    assert_eq!(browser.run("return document.getElementById('pulse').className").await, "bad");
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_empty_state_names_its_cause_and_what_helps() {
    let Some(browser) = Browser::find_or_skip().await else { return };
    let page = ScriptedPage::start();
    let greeted = json!({"last_data_seconds": null, "connected_since_seconds": NOW - 4.0});
    let refused = json!({"state": "refused", "reason": "refused: close code 4001", "connected_since_seconds": null, "last_data_seconds": null});
    for (changes, title, why, help) in [
        (
            unreachable(),
            "Cannot reach Session-Buddy",
            "ws://a/: cannot connect to localhost:8765: Connection refused; next attempt in 12 s.",
            "start",
        ),
        (refused, "Session-Buddy refuses the connection", "ws://a/: refused: close code 4001.", "check"),
        (greeted, "Connected, no data yet", "ws://a/: connected, no data for 4 s.", "data"),
        (no_data(), "Connected, no data yet", "ws://a/: connected, no data for 47 s.", "data"),
        (json!({}), "Connected, no skill yet", "ws://a/ is live and lists no skill: its database is empty.", "none"),
    ] {
        open(&browser, &page, State::empty(vec![feed("ws://a/", changes)]), 1280, "light").await;
        browser.until_texts("#empty-title", |texts| texts == [title]).await;
        browser.until_text("#empty-why", why).await;
        let is_shown = async |css| !browser.texts(css).await.is_empty();
        assert_eq!(is_shown("#how-to-start").await, help == "start", "{title}");
        assert_eq!(is_shown("#why-no-data").await, help == "data", "{title}");
        assert_eq!(is_shown("#how-to-check").await, help != "none", "{title}");
        assert!(!is_shown("#plots-section").await && !is_shown("#skills").await);
    }
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_a_shaded_gap_and_what_was_caught_up_is_its_average() {
    let Some(browser) = Browser::find_or_skip().await else { return };
    let page = ScriptedPage::start();
    let state = || State::filled(vec![feed("a", json!({}))]);
    open(&browser, &page, State { points: points(60, outage), ..state() }, 1280, "light").await;
    // Shares of the width of the first chart.
    let places = "const over = document.querySelector('#plots .u-over').getBoundingClientRect(); \
                  const place = (node) => { const box = node.getBoundingClientRect(); return [box.left, box.right].map((x) => (x - over.left) / over.width) }; \
                  const chart = document.querySelector('.plot'); \
                  return ['.band.none', '.average'].map((css) => [...chart.querySelectorAll(css)].map(place))";
    let places: Vec<Vec<[f64; 2]>> = serde_json::from_value(browser.run(places).await).unwrap();
    for (found, expected) in places.iter().zip(["a band", "an average"]) {
        let [[begin, end]] = found[..] else { panic!("{expected}: {found:?}") };
        assert!((begin - 40.0 / 60.0).abs() < 0.01 && (end - 50.0 / 60.0).abs() < 0.01, "{expected}: {begin} to {end}");
    }
    let labels = "return [...document.querySelectorAll('#plots [role=img]')].map((chart) => chart.ariaLabel)";
    let labels: Vec<String> = serde_json::from_value(browser.run(labels).await).unwrap();
    assert_eq!(
        labels[0],
        "Invocations per minute, last hour: from 9 per minute to 12 per minute; 1 outage; 0 anomalies."
    );
    browser.until_text("#outage-key", "Shaded: no feed delivered data").await;

    browser.click("#minutes summary").await;
    browser.until_text("#minutes tbody", "no feed delivered data").await;
    let rows = browser.texts("#minutes tbody tr").await;
    let gaps = rows.iter().filter(|row| row.contains("no feed")).collect::<Vec<_>>();
    assert!(gaps.len() >= 9 && gaps.iter().all(|row| row.matches('–').count() == 4), "{gaps:?}");
    assert!(rows.iter().any(|row| row.contains("includes data caught up since")), "{rows:?}");

    // Where only some feeds are away, the lines go on.
    let partial = |ago: f64| if ago < 20.0 && ago > 10.0 { json!({"coverage": "partial"}) } else { json!({}) };
    open(&browser, &page, State { points: points(60, partial), ..state() }, 1280, "light").await;
    browser.until_text("#partial-key", "not every feed delivered data").await;
    assert_eq!(browser.run("return document.querySelectorAll('.plot:first-child .band.partial').length").await, 1);
    assert_eq!(browser.run("return document.querySelectorAll('.band.none, .average').length").await, 0);
    assert_eq!(browser.console().await, Vec::<String>::new());
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn feeds_that_are_missed_are_shaded_from_their_last_data_although_it_is_noticed_late() {
    let Some(browser) = Browser::find_or_skip().await else { return };
    let page = ScriptedPage::start();
    let without_one = || json!({"coverage": "partial", "invocations_per_minute": 6.0});
    for (kind, without) in [("none", outage(15.0)), ("partial", without_one())] {
        let mut known = points(10, nothing);
        known.pop();
        let state = State { points: known, ..State::filled(vec![feed("a", json!({}))]) };
        open(&browser, &page, state, 1280, "light").await;
        assert_eq!(browser.run("return document.querySelectorAll('.band').length").await, 0);
        let changed = points(10, |ago| if ago < 2.0 { without.clone() } else { json!({}) });
        page.set("history", json!({"window_seconds": 60, "points": changed}));
        let share = format!(
            "const band = document.querySelector('.plot .band.{kind}'); \
             return band === null ? 0 : Math.round(100 * band.clientWidth / document.querySelector('#plots .u-over').clientWidth)"
        );
        browser.until_run(&share, |share| *share == 20).await;
    }
    browser.close().await;
}

/// The boxes of the charts and of what follows them.
const BOXES: &str = "return [...document.querySelectorAll('.plot, #skills')].map((node) => { \
                     const box = node.getBoundingClientRect(); return [box.left, box.top + scrollY, box.width, box.height] })";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tooltip_names_what_is_under_the_pointer_and_nothing_moves() {
    let Some(browser) = Browser::find_or_skip().await else { return };
    let page = ScriptedPage::start();
    let middle = NOW - 30.0 * MINUTE;
    let anomalies = json!([
        anomaly(middle, "pytest\u{202e}-run", "performance_drop", 4.5),
        anomaly(NOW - 50.0 * MINUTE, "lint", "spike", 2.0)
    ]);
    for width in [1280, 390] {
        open(
            &browser,
            &page,
            State::filled(vec![feed("a", json!({}))]).with(json!({"anomalies": anomalies})),
            width,
            "light",
        )
        .await;
        let marks =
            "return [...document.querySelectorAll('.plot')].map((plot) => plot.querySelectorAll('.mark').length)";
        browser.until_run(marks, |marks| *marks == json!([2, 0, 0])).await;
        let before = browser.run(BOXES).await;
        browser.point_at(".plot:first-child .u-over").await;
        let shown = browser.until_texts(".tooltip", |texts| texts.len() == 1).await;
        let lines: Vec<&str> = shown[0].lines().collect();
        assert!(lines[0].matches(':').count() == 2, "a time: {lines:?}");
        assert_eq!(lines[1..], ["12 per minute", "pytest\\u{202e}-run: performance drop, 4.5 σ"]);
        assert_eq!(browser.run(BOXES).await, before, "nothing moves at {width}");
        let is_inside = "const box = document.querySelector('.tooltip').getBoundingClientRect(); return box.left >= 0 && box.right <= innerWidth";
        assert_eq!(browser.run(is_inside).await, true);
        browser.point_at(".plot:last-child .u-over").await;
        browser
            .until_texts(".tooltip", |texts| texts.len() == 1 && texts[0].ends_with("p95 1 min 30 s\nmean 2 s"))
            .await;
        browser.point_at("h1").await;
        browser.until_texts(".tooltip", <[String]>::is_empty).await;
    }

    // The same by keyboard.
    browser.run("document.querySelector('.plot:first-child .holder').focus()").await;
    browser.press(ARROW_LEFT).await;
    browser.until_texts(".tooltip", |texts| texts.len() == 1 && texts[0].contains("12 per minute")).await;
    for _ in 0..29 {
        browser.press(ARROW_LEFT).await;
    }
    browser.until_text(".tooltip", "performance drop, 4.5 σ").await;
    browser.press(END).await;
    browser.until_texts(".tooltip", |texts| texts.len() == 1 && !texts[0].contains("4.5 σ")).await;
    browser.press(ESCAPE).await;
    browser.until_texts(".tooltip", <[String]>::is_empty).await;
    browser.press(TAB).await;
    assert_eq!(
        browser.run("return document.activeElement.closest('.plot') === document.querySelectorAll('.plot')[1]").await,
        true
    );
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_window_has_three_time_labels_and_each_axis_one_unit() {
    let Some(browser) = Browser::find_or_skip().await else { return };
    let page = ScriptedPage::start();
    let spy = "const fill = CanvasRenderingContext2D.prototype.fillText; window.drawn = new Map(); \
               CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) { \
                 const texts = window.drawn.get(this.canvas) ?? new Set(); window.drawn.set(this.canvas, texts); texts.add(text); \
                 return fill.call(this, text, ...rest) }; \
               const clear = CanvasRenderingContext2D.prototype.clearRect; \
               CanvasRenderingContext2D.prototype.clearRect = function (...rest) { window.drawn.delete(this.canvas); return clear.apply(this, rest) }";
    browser.devtools("Page.addScriptToEvaluateOnNewDocument", json!({"source": spy})).await;
    browser.devtools("Emulation.setTimezoneOverride", json!({"timezoneId": "America/Phoenix"})).await;
    let drawn =
        "return [...document.querySelectorAll('#plots canvas')].map((canvas) => [...window.drawn.get(canvas) ?? []])";
    for (minutes, p95, unit) in
        [(0, 0.4, "ms"), (4, 1.5, "s"), (6, 90.0, "s"), (9, 300.0, "min"), (20, 40_000.0, "h"), (60, 100.0, "s")]
    {
        let long = move |_: f64| json!({"duration_p95_seconds": p95, "duration_mean_seconds": p95 / 50.0, "invocations_per_minute": 1_500.0});
        for width in [390, 1280] {
            let state = State { points: points(minutes, long), ..State::filled(vec![feed("a", json!({}))]) };
            open(&browser, &page, state, width, "light").await;
            let charts: Vec<Vec<String>> = serde_json::from_value(browser.run(drawn).await).unwrap();
            for labels in &charts {
                let times = labels.iter().filter(|label| label.contains(':')).count();
                assert!(times >= 3, "{minutes} min at {width}: {labels:?}");
            }
            let durations: Vec<&String> = charts[2].iter().filter(|label| !label.contains(':')).collect();
            assert!(
                durations.len() >= 3 && durations.iter().all(|label| label.ends_with(&format!(" {unit}"))),
                "{p95} s: {durations:?}"
            );
            assert!(
                charts[0].contains(&"1,500".to_owned()) || charts[0].contains(&"1,000".to_owned()),
                "{:?}",
                charts[0]
            );
        }
    }
    browser.until_text("#zone", "Times: America/Phoenix (UTC-07:00).").await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_table_shows_the_sorted_column_names_what_is_cut_and_writes_any_name() {
    let Some(browser) = Browser::find_or_skip().await else { return };
    let page = ScriptedPage::start();
    for width in [390, 768] {
        for column in 2..=8 {
            open(&browser, &page, State::filled(vec![feed("a", json!({}))]), width, "light").await;
            browser.until_texts("#skill-table tbody th", |names| names.len() == 5).await;
            // As the keyboard does, which scrolls nothing by itself.
            browser
                .run(&format!("document.querySelector('#skill-table thead th:nth-child({column}) button').click()"))
                .await;
            let sorted = format!("return document.querySelector('#skill-table thead th:nth-child({column})').ariaSort");
            browser.until_run(&sorted, |sorted| !sorted.is_null()).await;
            let is_shown = "const frame = document.querySelector('#skills .scroll'), all = []; \
                            for (const at of [0, 60, 1000]) { frame.scrollLeft = at; \
                              const { left, right } = frame.getBoundingClientRect(), names = frame.querySelector('th').offsetWidth; \
                              all.push([...frame.querySelectorAll('.sorted')].every((cell) => { const box = cell.getBoundingClientRect(); \
                                return box.left >= left + names - 1 && box.right <= right + 1 })) } \
                            frame.scrollLeft = 0; return all";
            assert_eq!(browser.run(is_shown).await, json!([true, true, true]), "column {column} at {width}");
        }
        let is_named =
            |cut: &[String]| cut.len() == 1 && cut[0].starts_with("Scroll the table for ") && cut[0].ends_with('→');
        browser.until_texts("#cut", is_named).await;
        assert_eq!(browser.run("return document.querySelector('#skills .scroll').className").await, "scroll cut-right");
        let lines = "return Math.max(...[...document.querySelectorAll('#skill-table tbody th .clamped')].map((name) => \
                     name.clientHeight / parseFloat(getComputedStyle(name).lineHeight)))";
        assert!(browser.run(lines).await.as_f64().unwrap() < 2.2, "a name takes two lines at the most");
    }
    open(&browser, &page, State::filled(vec![feed("a", json!({}))]), 1280, "light").await;
    let rows = browser.until_texts("#skill-table tbody tr", |rows| rows.len() == 5).await;
    assert!(rows[2].starts_with("<b>\\u{202e}txt\\u{7}"), "{}", rows[2]);
    // Known from events: everything but a rate, of which the share takes the place.
    let cells = |row: &str| row.split('\t').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    assert_eq!(cells(&rows[3]), ["from-events", "7", "85.7 %", "2 s", "4 s", "0", "30 s ago", "never"]);
    assert_eq!(cells(&rows[4]), ["from-an-anomaly", "–", "–", "–", "–", "1", "30 s ago", "never"]);
    assert_eq!(browser.texts("#cut").await.concat(), "", "nothing is cut");
    browser.until_text(".pager", "Red and underlined: fewer than 70 % completed.").await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keyboard_stops_at_a_cut_name_which_is_then_shown_and_read_out_whole() {
    let Some(browser) = Browser::find_or_skip().await else { return };
    let page = ScriptedPage::start();
    let long = "W".repeat(190);
    let lines = "return [...document.querySelectorAll('.clamped')].map((name) => \
                 Math.round(name.clientHeight / parseFloat(getComputedStyle(name).lineHeight)))";
    for width in [390, 1280] {
        let anomalies = json!([anomaly(NOW - 9.0, &long, "spike", 2.0), anomaly(NOW - 9.0, "lint", "spike", 2.0)]);
        let state = State::filled(vec![feed("a", json!({}))]).with(json!({"anomalies": anomalies}));
        open(&browser, &page, state, width, "light").await;
        // A name in the table, and one in a list.
        let stops = "return [...document.querySelectorAll('.clamped')].filter((name) => name.tabIndex === 0).map((name) => name.textContent)";
        browser
            .until_run(stops, |stops| stops[0] == long && stops.as_array().is_some_and(|stops| stops.len() <= 2))
            .await;
        browser.run("document.querySelector('#skill-table thead th:last-child button').focus()").await;
        browser.press(TAB).await;
        let focused =
            "const it = document.activeElement; return [it.textContent, it.scrollHeight <= it.clientHeight + 1]";
        assert_eq!(browser.run(focused).await, json!([long, true]), "at {width}");
        let tree = browser.devtools("Accessibility.getFullAXTree", json!({})).await;
        let is_focused = |node: &&Value| {
            let properties = node["properties"].as_array().into_iter().flatten();
            node["name"]["value"] == long
                && properties.into_iter().any(|one| one["name"] == "focused" && one["value"]["value"] == true)
        };
        assert!(tree["nodes"].as_array().unwrap().iter().any(|node| is_focused(&node)), "the whole name is read out");
        browser.press(TAB).await;
        let lines: Vec<u64> = serde_json::from_value(browser.run(lines).await).unwrap();
        assert!(lines[..5].iter().all(|lines| *lines <= 2), "{lines:?}");
        let is_table = "return document.activeElement.closest('#skill-table') === null";
        assert_eq!(browser.run(is_table).await, true, "names that are not cut are no stops");
    }
    browser.close().await;
}

/// Of everything that a colour distinguishes elsewhere: how it looks.
const SHAPES: &str = "const style = (css) => getComputedStyle(document.querySelector(css)); \
                      const dot = (kind) => { const { backgroundColor, borderTopStyle, transform } = style(`.${kind} .dot`); \
                        return [backgroundColor, borderTopStyle, transform].join() }; \
                      const band = (kind) => { const { backgroundImage, borderTopStyle } = style(`.band.${kind}`); \
                        return backgroundImage === 'none' ? 'none' : borderTopStyle }; \
                      const mark = style('.mark'); \
                      return { dots: new Set(['good', 'warn', 'bad'].map(dot)).size, bands: ['none', 'partial'].map(band), \
                        mark: [mark.borderTopColor === getComputedStyle(document.body).color, mark.borderLeftColor], \
                        keys: ['second', 'accent'].map((name) => style(`.key.${name}`).borderTopStyle), \
                        low: style('td.low').textDecorationLine }";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_told_apart_where_the_system_forces_its_colours() {
    let (Some(browser), Some(node)) = (Browser::find_or_skip().await, Node::find_or_skip()) else { return };
    let page = ScriptedPage::start();
    let spy = "window.strokes = new Set(); const stroke = CanvasRenderingContext2D.prototype.stroke; \
               CanvasRenderingContext2D.prototype.stroke = function (...rest) { \
                 window.strokes.add(`${this.strokeStyle} ${this.getLineDash()}`); return stroke.apply(this, rest) }";
    browser.devtools("Page.addScriptToEvaluateOnNewDocument", json!({"source": spy})).await;
    let both = |ago: f64| if ago < 5.0 && ago > 2.0 { json!({"coverage": "partial"}) } else { outage(ago) };
    let connecting = json!({"state": "connecting", "connected_since_seconds": null});
    let feeds = vec![feed("a", json!({})), feed("b", connecting), feed("c", unreachable())];
    let state = State { points: points(60, both), ..State::filled(feeds) };
    let anomalies = json!([anomaly(NOW - 30.0 * MINUTE, "lint", "spike", 2.0)]);
    open(&browser, &page, state.with(json!({"anomalies": anomalies})), 1280, "light").await;
    browser.until_run("return document.querySelectorAll('.mark').length", |marks| *marks == 1).await;
    browser.run("window.strokes.clear()").await;
    for scheme in ["light", "dark"] {
        let features =
            json!([{"name": "forced-colors", "value": "active"}, {"name": "prefers-color-scheme", "value": scheme}]);
        browser.devtools("Emulation.setEmulatedMedia", json!({"features": features})).await;
        browser.until_run("return matchMedia('(forced-colors: active)').matches", |is_forced| *is_forced == true).await;
        let expected = json!({
            "dots": 3, "bands": ["solid", "dashed"], "mark": [true, "rgba(0, 0, 0, 0)"], "keys": ["dotted", "solid"], "low": "underline",
        });
        assert_eq!(browser.run(SHAPES).await, expected, "{scheme}");
        // Lines are drawn in the colour of text, and p95 is dotted.
        let lines = "const [, ...parts] = getComputedStyle(document.body).color.match(/(\\d+), (\\d+), (\\d+)/); \
                     const text = `#${parts.map((part) => Number(part).toString(16).padStart(2, '0')).join('')}`; \
                     return [' ', ' 2,3'].map((dash) => window.strokes.has(`${text}${dash}`))";
        browser.until_run(lines, |lines| *lines == json!([true, true])).await;
        assert_eq!(browser.accessibility_faults(&node).await, Vec::<String>::new(), "{scheme}");
    }
    if let Some(directory) = std::env::var_os("SESSION_BUDDY_BRIDGE_PICTURES").map(std::path::PathBuf::from) {
        std::fs::write(directory.join("forced-colors.png"), browser.picture(1280, 2600).await).unwrap();
    }
    assert_eq!(browser.console().await, Vec::<String>::new());
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plurals_agree_and_standby_feeds_and_receivers_are_named() {
    let Some(browser) = Browser::find_or_skip().await else { return };
    let page = ScriptedPage::start();
    let (_, worst) = states().pop().expect("the worst state");
    open(&browser, &page, worst, 1280, "light").await;
    let feeds = browser.until_texts("#feeds li", |feeds| feeds.len() == 3).await;
    assert!(
        feeds[0].starts_with("build · Live for 10 min")
            && feeds[0].contains("1 message, the last just now · source 1, active"),
        "{}",
        feeds[0]
    );
    assert!(feeds[0].ends_with("skills with up to 1 invocation may be unlisted"), "{}", feeds[0]);
    assert!(feeds[1].contains("spare · Standby for 10 min") && feeds[1].contains("build is active"), "{}", feeds[1]);
    assert!(feeds[2].contains("Unreachable") && feeds[2].contains("next attempt in 12 s"), "{}", feeds[2]);
    assert_eq!(
        browser.run("return [...document.querySelectorAll('#feeds li')].map((feed) => feed.className)").await,
        json!(["good", "good", "bad"])
    );
    let receivers = browser.texts("#receivers li").await;
    assert!(receivers[0].starts_with("prometheus · Up") && receivers[0].contains("nothing queued"), "{receivers:?}");
    assert!(
        receivers[1].contains("mimir · Down") && receivers[1].contains("1 tick queued, the oldest 1 min ago"),
        "{receivers:?}"
    );
    browser.until_text("#tiles", "2 of 3 feeds live").await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_state_fits_every_screen_and_shuts_nobody_out() {
    let (Some(browser), Some(node)) = (Browser::find_or_skip().await, Node::find_or_skip()) else { return };
    let page = ScriptedPage::start();
    let pictures = std::env::var_os("SESSION_BUDDY_BRIDGE_PICTURES").map(std::path::PathBuf::from);
    for (number, width) in [390, 768, 1280].into_iter().enumerate() {
        for (index, (name, state)) in states().into_iter().enumerate() {
            // Colours do not depend on the width: without pictures each state is seen in both schemes, at one width each.
            let schemes = if pictures.is_some() {
                &["light", "dark"][..]
            } else {
                &["light", "dark"][(number + index) % 2..][..1]
            };
            for scheme in schemes {
                let State { status, skills, points } = &state;
                let again = State { status: status.clone(), skills: skills.clone(), points: points.clone() };
                open(&browser, &page, again, width, scheme).await;
                assert_eq!(
                    browser.run("return document.documentElement.scrollWidth").await,
                    width,
                    "{name} scrolls sideways"
                );
                assert_eq!(browser.accessibility_faults(&node).await, Vec::<String>::new(), "{name} {width} {scheme}");
                if let Some(directory) = &pictures {
                    let file = directory.join(format!("{name}-{width}-{scheme}.png"));
                    std::fs::write(file, browser.picture(width, 2600).await).unwrap();
                }
            }
        }
    }
    assert_eq!(browser.console().await, Vec::<String>::new());
    browser.close().await;
}
