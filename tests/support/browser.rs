//! A real headless browser, Debian's Chromium, driven over WebDriver by what a person does and sees.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::peers::found_or_skip;
use super::peers::node::Node;
use super::program::Program;
use super::webdriver::Session;
use super::{eventually_async, patiently};

/// So many because free ports are handed out in order: where one is in use, the next often is too.
const STARTS_MAX: u32 = 50;

/// The host of a web site that resolves to 127.0.0.1 in this browser.
pub const REBOUND_HOST: &str = "rebound.example";

pub struct Browser {
    pub page: Session,
    _driver: Program,
}

/// Starts it with a port of its own. It takes a free one for IPv6 and then wants the same for IPv4, where connections of
/// other tests may have it: then it ends, and is started again.
fn start_chromedriver(chromedriver: &Path) -> (Program, u16) {
    for _ in 0..STARTS_MAX {
        let mut driver = Program::spawn("chromedriver", Command::new(chromedriver).arg("--port=0"));
        let port = driver.until_line("its port", |line| match line.split_once("started successfully on port ") {
            Some((_, port)) => port.trim_end_matches('.').parse().ok().map(Some),
            None => line.contains("port not available").then_some(None),
        });
        if let Some(port) = port {
            return (driver, port);
        }
    }
    panic!("chromedriver found no free port in {STARTS_MAX} starts");
}

impl Browser {
    pub async fn find_or_skip() -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let find = |program: &str| -> Result<PathBuf, String> {
            let missing = || format!("no {program} on PATH: run .ci/install-peers");
            std::env::split_paths(&path)
                .map(|place| place.join(program))
                .find(|file| file.is_file())
                .ok_or_else(missing)
        };
        let chromium = found_or_skip(find("chromium"))?;
        let (driver, port) = start_chromedriver(&found_or_skip(find("chromedriver"))?);
        let capabilities = json!({
            "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {
                "binary": chromium,
                // Containers have neither user namespaces for the sandbox nor room in /dev/shm.
                "args": [&format!("--host-resolver-rules=MAP {REBOUND_HOST} 127.0.0.1"), "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"],
            },
        });
        let page = Session::start(SocketAddr::from(([127, 0, 0, 1], port)), capabilities).await;
        Some(Self { page, _driver: driver })
    }

    /// Opens the live page at `address` as somebody whose window is so wide, in light or dark mode.
    pub async fn open(&self, address: SocketAddr, width: u32, scheme: &str) {
        let feature = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.devtools("Emulation.setEmulatedMedia", json!({"features": feature})).await;
        let metrics = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
        self.page.goto(&format!("http://{address}/")).await;
    }

    pub async fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.page.post("goog/cdp/execute", json!({"cmd": command, "params": parameters})).await
    }

    /// What the console says since the last call, above all of what the page's policy refused.
    pub async fn console(&self) -> Vec<String> {
        let log = self.page.post("se/log", json!({"type": "browser"})).await;
        log.as_array()
            .expect("entries")
            .iter()
            .map(|entry| entry["message"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// The text of each element that is shown.
    pub async fn texts(&self, css: &str) -> Vec<String> {
        let script = "return [...document.querySelectorAll(arguments[0])].filter(e => e.checkVisibility()).map(e => e.innerText)";
        let texts = self.page.execute(script, &[css.into()]).await;
        serde_json::from_value(texts).expect("texts")
    }

    /// Waits until the texts of the elements are as wanted.
    pub async fn until_texts(&self, css: &str, is_so: impl Fn(&[String]) -> bool) -> Vec<String> {
        let look = async || {
            let texts = self.texts(css).await;
            if is_so(&texts) { Ok(texts) } else { Err(format!("{texts:?}")) }
        };
        eventually_async(css, look).await
    }

    pub async fn until_text(&self, css: &str, part: &str) {
        self.until_texts(css, |texts| texts.iter().any(|text| text.contains(part))).await;
    }

    /// Waits until a script returns what is wanted.
    pub async fn until_run(&self, script: &str, is_so: impl Fn(&Value) -> bool) {
        let look = async || {
            let value = self.run(script).await;
            if is_so(&value) { Ok(()) } else { Err(value.to_string()) }
        };
        eventually_async(script, look).await;
    }

    /// Waits until the live page has drawn the last hour.
    pub async fn until_drawn(&self) {
        let labels =
            "return [...document.querySelectorAll('#plots [role=img]')].every((chart) => chart.ariaLabel !== null)";
        self.until_run(labels, |is_drawn| *is_drawn == true).await;
        // uPlot draws in a microtask, and the browser with its next frame.
        let frame = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done(true)))";
        self.page.execute_async(frame).await;
    }

    pub async fn click(&self, css: &str) {
        patiently(css, async { self.page.find(css).await.click().await }).await;
    }

    /// Presses a key, wherever the focus is.
    pub async fn press(&self, key: &str) {
        self.page.active_element().await.send_keys(key).await;
    }

    /// Points with the mouse at the middle of what is shown.
    pub async fn point_at(&self, css: &str) {
        let element = self.page.find(css).await;
        self.page.execute("arguments[0].scrollIntoView({block: 'center'})", &[element.reference()]).await;
        self.page.move_mouse_to(&element).await;
    }

    pub async fn type_into(&self, css: &str, keys: &str) {
        self.page.find(css).await.send_keys(keys).await;
    }

    pub async fn run(&self, script: &str) -> Value {
        self.page.execute(script, &[]).await
    }

    /// What axe-core minds of the page as it is: each rule of WCAG 2.2 (A and AA) and of good practice that it breaks, and
    /// where.
    pub async fn accessibility_faults(&self, node: &Node) -> Vec<String> {
        self.run(&node.file("axe-core/axe.min.js")).await;
        let script = "const done = arguments[0]; axe.run(document, {resultTypes: ['violations']}).then(found => done( \
                      found.violations.flatMap(rule => rule.nodes.map(node => `${rule.id}: ${node.failureSummary} ${node.html}`))))";
        let faults = self.page.execute_async(script).await;
        serde_json::from_value(faults).expect("texts")
    }

    /// The whole page as a picture.
    pub async fn picture(&self, width: u32, height_max: u32) -> Vec<u8> {
        let height = self.run("return document.documentElement.scrollHeight").await.as_u64().unwrap();
        let clip = json!({"x": 0, "y": 0, "width": width, "height": height.min(height_max.into()), "scale": 1});
        let parameters = json!({"captureBeyondViewport": true, "clip": clip});
        let picture = self.devtools("Page.captureScreenshot", parameters).await;
        data_encoding::BASE64.decode(picture["data"].as_str().expect("a picture").as_bytes()).expect("Base64")
    }

    pub async fn close(self) {
        self.page.quit().await;
    }
}
