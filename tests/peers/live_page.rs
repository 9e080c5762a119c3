//! The live page shows what happens, to anybody and on any screen, and runs nothing but its own.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::browser::{Browser, REBOUND_HOST};
use crate::support::model::{Anomaly, Database, Invocation, SECOND, sql_time};
use crate::support::peers::node::Node;
use crate::support::running_bridge::RunningBridge;
use crate::support::scripted_feed::{Clock, Gate, Reserved, ScriptedFeed, Step};
use crate::support::{eventually_async, holds};
use serde_json::Value;
use session_buddy_bridge::PrometheusExporter;
use session_buddy_bridge::internals::demo::{DemoFeed, DemoSettings};
use session_buddy_bridge::internals::feed::Timing;
use session_buddy_bridge::settings::{FeedTarget, Settings};
use tokio_util::sync::CancellationToken;
use url::Url;

/// Keys, as WebDriver writes them.
const ENTER: &str = "\u{e007}";
const TAB: &str = "\u{e004}";

const NAMES: &str = "#skill-table tbody th";
/// What a feed may call a skill, and how it is shown: not run, and not turned around.
const MARKUP: &str = "<script>window.ran = 1</script><img src=x onerror=window.ran=1>\u{202e}";
const MARKUP_SHOWN: &str = "<script>window.ran = 1</script><img src=x onerror=window.ran=1>\\u{202e}";

/// How many anomalies each chart marks.
const MARKS: &str =
    "return [...document.querySelectorAll('.plot')].map((plot) => plot.querySelectorAll('.mark').length)";

fn bridge(url: &Url) -> RunningBridge {
    let timing =
        Timing { backoff_min: Duration::from_millis(1), backoff_max: Duration::from_millis(20), ..Timing::default() };
    bridge_of(std::slice::from_ref(url), timing)
}

fn bridge_of(urls: &[Url], timing: Timing) -> RunningBridge {
    let feeds = urls.iter().map(|url| FeedTarget::new(url.as_str()).unwrap()).collect();
    RunningBridge::start(Settings { timing, ..Settings::new(feeds) })
}

fn invoked(skills: &[(&str, usize, usize)]) -> Database {
    let mut database = Database::default();
    for (skill_name, completed, abandoned) in skills {
        for number in 0..completed + abandoned {
            let is_completed = number < *completed;
            database.invocations.push(Invocation {
                skill_name: (*skill_name).to_owned(),
                workflow_phase: None,
                completed: is_completed,
                duration_seconds: is_completed.then_some(1.5),
            });
        }
    }
    database
}

/// A server that repeats what the database holds at the moment.
fn serve(database: &Arc<Mutex<Database>>) -> ScriptedFeed {
    let (database, began) = (Arc::clone(database), std::time::Instant::now());
    let rounds = Step::rounds(&Gate::default(), Duration::from_millis(50), move || {
        database.lock().unwrap().snapshot(began.elapsed().as_micros() as i64)
    });
    ScriptedFeed::start(vec![vec![rounds]])
}

fn is_names(expected: &[&str]) -> impl Fn(&[String]) -> bool {
    move |names| names == expected
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_that_resolves_its_name_to_this_machine_reads_nothing() {
    let Some(browser) = Browser::find_or_skip().await else { return };
    let bridge = bridge(&Reserved::new().url());
    let fetched = |host: String, path: &'static str| {
        let browser = &browser;
        let script = "return fetch(arguments[0], {referrerPolicy: 'no-referrer', headers: {'Accept-Language': ''}})\
                      .then(response => [response.status, response.headers.get('content-type')])";
        async move {
            browser.page.goto(&format!("http://{host}/-/healthy")).await;
            browser.page.execute(script, &[path.into()]).await
        }
    };
    let port = bridge.address().port();
    // The same as far as the browser can tell: the page and what it fetches are of one origin.
    for path in ["/metrics", "/", "/api/v1/status", "/-/ready", "/-/healthy"] {
        let refused = fetched(format!("{REBOUND_HOST}:{port}"), path).await;
        assert_eq!(refused, serde_json::json!([421, "text/plain; charset=utf-8"]), "{path}");
    }
    assert_eq!(fetched(format!("127.0.0.1:{port}"), "/metrics").await[0], 200);
    assert_eq!(fetched(format!("localhost:{port}"), "/").await[0], 200);
    browser.page.quit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skills_are_shown_sorted_and_filtered_and_change_by_themselves() {
    let Some(browser) = Browser::find_or_skip().await else { return };
    let database = Arc::new(Mutex::new(invoked(&[("pytest-run", 8, 2), ("lint", 3, 3), (MARKUP, 4, 0)])));
    let server = serve(&database);
    let bridge = bridge(&server.url());
    browser.open(bridge.address(), 1280, "light").await;

    browser.until_texts(NAMES, is_names(&["pytest-run", "lint", MARKUP_SHOWN])).await;
    let row = browser.texts("#skill-table tbody tr:first-child td").await;
    assert_eq!(row[..2], ["10", "80 %"]);
    browser.until_text("#tiles", "20").await;
    browser.until_text("#feeds", "Live").await;
    assert!(browser.run("return window.ran ?? null").await.is_null(), "what a feed calls its skills is shown, not run");

    // By mouse, and by keyboard.
    browser.click("thead th:nth-child(1) button").await;
    browser.until_texts(NAMES, is_names(&[MARKUP_SHOWN, "lint", "pytest-run"])).await;
    let sorted = browser.page.find("#skill-table thead th:nth-child(1)").await;
    assert_eq!(sorted.attribute("aria-sort").await.as_deref(), Some("ascending"));
    browser.type_into("thead th:nth-child(3) button", ENTER).await;
    browser.until_texts(NAMES, is_names(&[MARKUP_SHOWN, "pytest-run", "lint"])).await;
    browser.type_into("thead th:nth-child(3) button", " ").await;
    browser.until_texts(NAMES, is_names(&["lint", "pytest-run", MARKUP_SHOWN])).await;

    browser.type_into("#filter", "PYTEST").await;
    browser.until_texts(NAMES, is_names(&["pytest-run"])).await;
    browser.until_text("#skill-count", "1 that match, 3 in all").await;
    {
        let mut database = database.lock().unwrap();
        database.invocations.extend(invoked(&[("pytest-run", 5, 0)]).invocations);
        database.anomalies.push(Anomaly {
            skill_name: "lint".to_owned(),
            anomaly_type: "spike".to_owned(),
            detected_at: sql_time(0),
            deviation_score: Some(2.5),
        });
    }
    browser.until_text("#skill-table tbody td", "15").await;
    browser.until_text("#anomalies", "2.5 σ").await;
    browser.type_into("#filter", "-nothing").await;
    browser.until_text("#skill-table tbody", "No skill's name contains").await;
    assert_eq!(browser.console().await, Vec::<String>::new());

    bridge.stop().await;
    browser.until_text("#pulse", "No answer from the bridge").await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_is_kept_in_the_address_and_the_keyboard_reaches_everything() {
    let Some(browser) = Browser::find_or_skip().await else { return };
    let database = Arc::new(Mutex::new(invoked(&[("lint", 3, 3), ("lint-all", 5, 0), ("pytest-run", 8, 2)])));
    let server = serve(&database);
    let bridge = bridge(&server.url());
    browser.open(bridge.address(), 1280, "light").await;
    browser.until_text(NAMES, "pytest-run").await;

    browser.press(TAB).await;
    assert_eq!(focused(&browser).await, "Skip to the skills");
    browser.press(ENTER).await;
    browser.press(TAB).await;
    assert_eq!(focused(&browser).await, "filter");
    browser.press("lint").await;
    for column in ["Skill", "Invocations", "Completed"] {
        browser.press(TAB).await;
        if column == "Skill" {
            // The table scrolls where it is too wide, and so it is a stop too.
            browser.press(TAB).await;
        }
        assert_eq!(focused(&browser).await, column);
    }
    browser.press(ENTER).await;
    browser.until_texts(NAMES, is_names(&["lint-all", "lint"])).await;

    let kept = browser.page.current_url().await;
    assert_eq!(kept.query(), Some("sort=completion_rate&order=desc&filter=lint"));
    browser.page.refresh().await;
    browser.until_texts(NAMES, is_names(&["lint-all", "lint"])).await;
    assert_eq!(browser.run("return document.getElementById('filter').value").await, "lint");
    bridge.stop().await;
    browser.close().await;
}

/// What has the focus: its text or its name.
async fn focused(browser: &Browser) -> String {
    let script = "const it = document.activeElement; return (it.innerText || it.id).trim()";
    browser.run(script).await.as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_hour_is_plotted_with_anomalies_as_marks_and_told_as_a_table() {
    let Some(browser) = Browser::find_or_skip().await else { return };
    let database = Arc::new(Mutex::new(invoked(&[("pytest-run", 8, 2)])));
    let server = serve(&database);
    let bridge = bridge(&server.url());
    browser.open(bridge.address(), 1280, "light").await;
    browser.until_text("#history-since", "Recorded since").await;
    assert_eq!(browser.run(MARKS).await, serde_json::json!([0, 0, 0]), "nothing has been found yet");
    {
        let mut database = database.lock().unwrap();
        database.invocations.extend(invoked(&[("pytest-run", 3, 1)]).invocations);
        database.anomalies.push(Anomaly {
            skill_name: "pytest-run".to_owned(),
            anomaly_type: "spike".to_owned(),
            detected_at: sql_time(0),
            deviation_score: Some(2.5),
        });
    }
    let plots = "return [...document.querySelectorAll('#plots [role=img]')].map(plot => plot.ariaLabel).join('\\n')";
    let told = eventually_async("the plots to tell", async || {
        let told = browser.run(plots).await.as_str().unwrap().to_owned();
        if told.contains("; 1 anomaly.") { Ok(told) } else { Err(told) }
    })
    .await;
    assert!(told.contains("Completed, last hour: from 75 % to 75 %"), "{told}");
    assert!(told.contains("Duration, last hour: from "), "{told}");
    browser.until_run(MARKS, |marks| *marks == serde_json::json!([1, 0, 0])).await;
    browser.point_at("#plots .mark").await;
    browser.until_text(".tooltip", "pytest-run: spike, 2.5 σ").await;

    browser.click("#minutes summary").await;
    browser.until_text("#minutes tbody", "75 %").await;
    let anomalies = browser.texts("#minutes tbody td:last-child").await;
    assert_eq!(anomalies.iter().map(|text| text.parse::<u32>().unwrap()).sum::<u32>(), 1);
    assert_eq!(browser.console().await, Vec::<String>::new());
    bridge.stop().await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_stands_still_while_it_is_paused() {
    let Some(browser) = Browser::find_or_skip().await else { return };
    let database = Arc::new(Mutex::new(invoked(&[("pytest-run", 8, 2)])));
    let server = serve(&database);
    let bridge = bridge(&server.url());
    browser.open(bridge.address(), 1280, "light").await;
    browser.until_text("#skill-table tbody td", "10").await;
    browser.until_text("#history-since", "Recorded since").await;
    browser.click("#pause").await;
    browser.until_text("#pulse", "Paused at ").await;
    // What was asked before is answered by now, and two more points of the history are longer than the page ever waits.
    let points = || async {
        let history: Value = serde_json::from_str(bridge.get("/api/v1/history").await.text()).unwrap();
        history["points"].as_array().unwrap().len()
    };
    let before = points().await;
    browser.run("performance.clearResourceTimings()").await;
    database.lock().unwrap().invocations.extend(invoked(&[("pytest-run", 1, 0)]).invocations);
    eventually_async("two more points", async || {
        let now = points().await;
        holds(now >= before + 2, now)
    })
    .await;
    let asked = browser.run("return performance.getEntriesByType('resource').map(entry => entry.name)").await;
    assert_eq!(asked, serde_json::json!([]));
    assert_eq!(browser.texts("#skill-table tbody td:nth-child(2)").await, ["10"]);
    browser.click("#pause").await;
    browser.until_text("#skill-table tbody td", "11").await;
    browser.until_texts("#pulse", |texts| texts == ["1 of 1 feed live"]).await;
    bridge.stop().await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_feed_says_how_it_stands_and_why() {
    let Some(browser) = Browser::find_or_skip().await else { return };
    let database = Arc::new(Mutex::new(invoked(&[("pytest-run", 8, 2)])));
    let live = serve(&database);
    let refusing = ScriptedFeed::start(vec![vec![Step::Close(4001, "Authentication failed".to_owned())]]);
    let snapshot = || invoked(&[("lint", 1, 0)]).snapshot(7_000_000);
    let silent = ScriptedFeed::start(vec![vec![Step::Send(snapshot())]]);
    let frozen = ScriptedFeed::start(vec![vec![Step::Repeat(
        invoked(&[("docs-build", 1, 0)]).snapshot(9_000_000),
        Duration::from_millis(20),
    )]]);
    let nobody = Reserved::new();
    let urls = [live.url(), refusing.url(), silent.url(), frozen.url(), nobody.url()];
    // Each fails once, and stays as it is.
    let timing = Timing {
        silence_timeout: Duration::from_millis(500),
        backoff_min: Duration::from_secs(3600),
        backoff_max: Duration::from_secs(3600),
        ..Timing::default()
    };
    let bridge = bridge_of(&urls, timing);
    browser.open(bridge.address(), 1280, "light").await;
    let states = ["Live", "Refused", "Silent", "Frozen", "Unreachable"];
    browser.until_texts("#feeds .state", |texts| texts == states).await;
    let shown = browser.texts("#feeds li").await;
    for (text, url) in shown.iter().zip(&urls) {
        assert!(text.starts_with(&format!("{url} · ")) && text.contains(" for "), "{text}");
    }
    let reasons = browser.texts("#feeds .why").await;
    for (reason, part) in
        reasons.iter().zip(["4001", "no snapshot for 500ms", "repeated the same snapshot", "cannot connect"])
    {
        assert!(reason.contains(part), "{reason} says nothing of {part}");
    }
    assert_eq!(browser.page.title().await, "4 of 5 feeds not live – Session-Buddy bridge");
    browser.until_text("#tiles", "1 of 5 feeds live").await;
    let links = browser.run("return [...document.querySelectorAll('footer a')].map(link => link.pathname)").await;
    let links: Vec<String> = serde_json::from_value(links).unwrap();
    assert!(links.contains(&"/metrics".to_owned()), "{links:?}");
    for link in links {
        assert_eq!(bridge.get(&link).await.status, 200, "{link}");
    }
    bridge.stop().await;
    browser.close().await;
}

/// Two addresses of one server, and another server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_feed_names_its_source_and_whether_it_is_active() {
    let Some(browser) = Browser::find_or_skip().await else { return };
    let server = |skill: &'static str, fraction_micros: i64| {
        let database = invoked(&[(skill, 8, 2)]);
        // Equal timestamps with a fraction of a second show that two feeds are of one server.
        let round = move |round: u64| database.snapshot(round as i64 * SECOND + fraction_micros);
        let clock = Clock::new(Duration::from_millis(50));
        ScriptedFeed::start(vec![vec![Step::Clocked(Gate::default(), clock, Box::new(round))]])
    };
    let (one, other) = (server("pytest-run", 130_001), server("lint", 700_002));
    let mut again = one.url();
    again.set_host(Some("localhost")).unwrap();
    let urls = [one.url(), again, other.url()];
    let bridge = bridge_of(&urls, Timing::default());
    browser.open(bridge.address(), 1280, "light").await;
    // Which feed is the first to deliver is not promised: which is active, and how the sources are numbered.
    let is_shown = |texts: &[String]| {
        let of =
            |url: &Url| texts.iter().find(|text| text.starts_with(&format!("{url} · "))).map_or("", String::as_str);
        let is_standing = |[active, standby]: [&Url; 2], [own, others]: [u32; 2]| {
            of(active).contains(&format!("source {own}, active"))
                && of(standby).contains(&format!("on standby for source {own}: {active} is active"))
                && !of(standby).contains(&format!("source {own}, "))
                && of(&urls[2]).contains(&format!("source {others}, active"))
        };
        let orders = [[&urls[0], &urls[1]], [&urls[1], &urls[0]]];
        orders.into_iter().any(|order| is_standing(order, [1, 2]) || is_standing(order, [2, 1]))
    };
    browser.until_texts("#feeds li", is_shown).await;
    bridge.stop().await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_server_is_named_and_the_page_fills_when_it_starts() {
    let Some(browser) = Browser::find_or_skip().await else { return };
    let reserved = Reserved::new();
    let bridge = bridge(&reserved.url());
    browser.open(bridge.address(), 1280, "light").await;
    browser.until_text("#empty-title", "Cannot reach Session-Buddy").await;
    browser.until_text("#empty-why", reserved.url().as_str()).await;
    browser.until_text("#feeds", "Unreachable").await;
    if let Some(node) = Node::find_or_skip() {
        assert_eq!(browser.accessibility_faults(&node).await, Vec::<String>::new());
    }

    let greeting = r#"{"type":"connected"}"#.to_owned();
    let snapshot = invoked(&[("pytest-run", 1, 0)]).snapshot(0);
    let junk = "{\"token\": <b>".to_owned();
    let steps = vec![Step::Send(greeting), Step::Send(junk), Step::Send(snapshot)];
    let server = reserved.start(vec![steps]);
    browser.until_texts(NAMES, is_names(&["pytest-run"])).await;
    browser.until_texts("#empty-state", <[String]>::is_empty).await;
    browser.until_text("#rejections", "malformed").await;
    drop(server);
    bridge.stop().await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_skills_are_a_page_at_a_time() {
    let Some(browser) = Browser::find_or_skip().await else { return };
    let exporter = PrometheusExporter::at("127.0.0.1:0".parse().unwrap());
    exporter.start().unwrap();
    for number in 0..10_000 {
        exporter.record_invocation(&format!("skill-{number:05}"), None, true, Some(0.25)).unwrap();
    }
    browser.open(exporter.local_addr().unwrap(), 1280, "light").await;
    browser.until_text("#skill-count", "1–50 of 10,000 skills").await;
    browser.click("#next").await;
    browser.until_text("#skill-count", "51–100 of 10,000 skills").await;
    browser.type_into("#filter", "9999").await;
    browser.until_texts(NAMES, is_names(&["skill-09999"])).await;
    assert_eq!(browser.texts("#feeds-section").await, Vec::<String>::new(), "this program has no feeds");
    assert_eq!(browser.console().await, Vec::<String>::new());
    exporter.stop();
    browser.close().await;
}

/// A bridge beside the demo's server, for a look at everything at once.
async fn demo() -> (RunningBridge, CancellationToken) {
    let feed = DemoFeed::bind(DemoSettings::default()).await.unwrap();
    let bridge = bridge(&feed.url().parse().unwrap());
    let ends = CancellationToken::new();
    tokio::spawn(feed.serve(ends.clone()));
    (bridge, ends)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_comes_from_elsewhere_and_nothing_inline_runs() {
    let Some(browser) = Browser::find_or_skip().await else { return };
    let (bridge, ends) = demo().await;
    browser.open(bridge.address(), 1280, "light").await;
    browser.until_text(NAMES, "pytest-run").await;
    browser.until_text("#plots", "Invocations per minute").await;
    assert_eq!(browser.console().await, Vec::<String>::new(), "the page keeps its own policy");

    let own = format!("http://{}/", bridge.address());
    let asked = browser.run("return performance.getEntriesByType('resource').map(entry => entry.name)").await;
    let asked: Vec<String> = serde_json::from_value(asked).unwrap();
    assert!(asked.len() >= 6 && asked.iter().all(|url| url.starts_with(&own)), "{asked:?}");

    let smuggled = "try { document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran=1\">') } catch {} \
                    const made = document.createElement('script'); \
                    try { made.textContent = 'window.ran=1' } catch {} document.body.append(made); \
                    return window.ran ?? null";
    assert!(browser.run(smuggled).await.is_null());
    let refused = browser.console().await;
    assert!(
        refused.iter().any(|line| line.contains("Content Security Policy") || line.contains("TrustedHTML")),
        "{refused:?}"
    );
    ends.cancel();
    bridge.stop().await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_fits_every_screen_in_light_and_dark_and_shuts_nobody_out() {
    let (Some(browser), Some(node)) = (Browser::find_or_skip().await, Node::find_or_skip()) else { return };
    let (bridge, ends) = demo().await;
    for width in [390, 768, 1280] {
        for scheme in ["light", "dark"] {
            browser.open(bridge.address(), width, scheme).await;
            browser.until_text(NAMES, "pytest-run").await;
            let widest = browser.run("return document.documentElement.scrollWidth").await;
            assert_eq!(widest, width, "nothing but the table scrolls sideways");
            let back = browser.run("return getComputedStyle(document.body).backgroundColor").await;
            let is_dark = back.as_str().unwrap() == "rgb(18, 22, 28)";
            assert_eq!(is_dark, scheme == "dark", "{back}");
            browser.click("#minutes summary").await;
            browser.until_text("#minutes tbody", "%").await;
            assert_eq!(browser.accessibility_faults(&node).await, Vec::<String>::new(), "{width} {scheme}");
            if let Some(directory) = std::env::var_os("SESSION_BUDDY_BRIDGE_PICTURES") {
                let file = std::path::Path::new(&directory).join(format!("page-{width}-{scheme}.png"));
                std::fs::write(file, browser.picture(width, 2400).await).unwrap();
            }
        }
    }
    ends.cancel();
    bridge.stop().await;
    browser.close().await;
}
