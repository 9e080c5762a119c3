//! The live page shows what happens, to anybody and on any screen, and runs nothing but its own.

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fantoccini::Locator;
use session_buddy_bridge::PrometheusExporter;
use session_buddy_bridge::demo::{DemoFeed, DemoSettings};
use session_buddy_bridge::feed::Timing;
use session_buddy_bridge::settings::{FeedTarget, Settings};
use support::browser::Browser;
use support::model::{Anomaly, Database, Invocation, sql_time};
use support::running_bridge::RunningBridge;
use support::scripted_feed::{Gate, Reserved, ScriptedFeed, Step};
use tokio_util::sync::CancellationToken;
use url::Url;

/// The key, as WebDriver writes it.
const ENTER: &str = "\u{e007}";

const NAMES: &str = "#skill-table tbody th";
const MARKUP: &str = "<script>window.ran = 1</script><img src=x onerror=window.ran=1>";

fn bridge(url: &Url) -> RunningBridge {
    let timing =
        Timing { backoff_min: Duration::from_millis(1), backoff_max: Duration::from_millis(20), ..Timing::default() };
    let feeds = vec![FeedTarget::new(url.as_str()).unwrap()];
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
async fn skills_are_shown_sorted_and_filtered_and_change_by_themselves() {
    let Some(browser) = Browser::find_or_skip().await else { return };
    let database = Arc::new(Mutex::new(invoked(&[("pytest-run", 8, 2), ("lint", 3, 3), (MARKUP, 4, 0)])));
    let server = serve(&database);
    let bridge = bridge(&server.url());
    browser.open(bridge.address(), 1280, "light").await;

    browser.until_texts(NAMES, is_names(&["pytest-run", "lint", MARKUP])).await;
    let row = browser.texts("#skill-table tbody tr:first-child td").await;
    assert_eq!(row[..2], ["10", "80 %"]);
    browser.until_text("#tiles", "20").await;
    browser.until_text("#feeds", "Live").await;
    assert!(browser.run("return window.ran ?? null").await.is_null(), "what a feed calls its skills is shown, not run");

    // By mouse, and by keyboard.
    browser.click("thead th:nth-child(1) button").await;
    browser.until_texts(NAMES, is_names(&[MARKUP, "lint", "pytest-run"])).await;
    let sorted = browser.page.find(Locator::Css("thead th:nth-child(1)")).await.unwrap();
    assert_eq!(sorted.attr("aria-sort").await.unwrap().as_deref(), Some("ascending"));
    browser.type_into("thead th:nth-child(3) button", ENTER).await;
    browser.until_texts(NAMES, is_names(&[MARKUP, "pytest-run", "lint"])).await;
    browser.type_into("thead th:nth-child(3) button", " ").await;
    browser.until_texts(NAMES, is_names(&["lint", "pytest-run", MARKUP])).await;

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
    browser.type_into("#filter", "nothing").await;
    browser.until_text("#skill-table tbody", "No skill's name contains").await;
    assert_eq!(browser.console().await, Vec::<String>::new());

    bridge.stop().await;
    browser.until_text("#pulse", "No answer from the bridge").await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_no_data_it_says_what_it_waits_for_and_fills_when_the_server_comes() {
    let Some(browser) = Browser::find_or_skip().await else { return };
    let reserved = Reserved::new();
    let bridge = bridge(&reserved.url());
    browser.open(bridge.address(), 1280, "light").await;
    browser.until_text("#waiting-title", "Waiting for the first skills").await;
    browser.until_text("#waiting-why", reserved.url().as_str()).await;
    browser.until_text("#feeds", "Unreachable").await;

    let greeting = r#"{"type":"connected"}"#.to_owned();
    let snapshot = invoked(&[("pytest-run", 1, 0)]).snapshot(0);
    let junk = "{\"token\": <b>".to_owned();
    let steps = vec![Step::Send(greeting), Step::Send(junk), Step::Send(snapshot)];
    let server = reserved.start(vec![steps]);
    browser.until_texts(NAMES, is_names(&["pytest-run"])).await;
    browser.until_texts("#waiting", <[String]>::is_empty).await;
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
    browser.until_text("#plots", "Invocations a minute").await;
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
async fn it_fits_every_screen_in_light_and_dark_and_everything_has_a_name() {
    let Some(browser) = Browser::find_or_skip().await else { return };
    let (bridge, ends) = demo().await;
    for width in [390, 820, 1280] {
        for scheme in ["light", "dark"] {
            browser.open(bridge.address(), width, scheme).await;
            browser.until_text(NAMES, "pytest-run").await;
            let widest = browser.run("return document.documentElement.scrollWidth").await;
            assert_eq!(widest, width, "nothing but the table scrolls sideways");
            let back = browser.run("return getComputedStyle(document.body).backgroundColor").await;
            let is_dark = back.as_str().unwrap() == "rgb(18, 22, 28)";
            assert_eq!(is_dark, scheme == "dark", "{back}");
            if let Some(directory) = std::env::var_os("SESSION_BUDDY_BRIDGE_PICTURES") {
                let file = std::path::Path::new(&directory).join(format!("page-{width}-{scheme}.png"));
                std::fs::write(file, browser.picture(width, 2400).await).unwrap();
            }
        }
    }
    let tree = browser.devtools("Accessibility.getFullAXTree", serde_json::json!({})).await;
    let nodes: Vec<(&str, &str)> = tree["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|node| !node["ignored"].as_bool().unwrap_or_default())
        .map(|node| {
            (node["role"]["value"].as_str().unwrap_or_default(), node["name"]["value"].as_str().unwrap_or_default())
        })
        .collect();
    for role in ["button", "link", "searchbox", "image", "columnheader", "rowheader", "region"] {
        let names: Vec<&str> = nodes.iter().filter(|(found, _)| *found == role).map(|(_, name)| *name).collect();
        assert!(!names.is_empty() && names.iter().all(|name| !name.trim().is_empty()), "{role}: {names:?}");
    }
    for role in ["banner", "main", "contentinfo", "navigation", "status"] {
        assert!(nodes.iter().any(|(found, _)| *found == role), "no {role}");
    }
    ends.cancel();
    bridge.stop().await;
    browser.close().await;
}
