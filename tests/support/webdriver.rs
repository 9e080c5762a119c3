//! The commands of WebDriver (W3C, level 2) that the tests of the live page need, over the tests' HTTP client. A client
//! library compiles thirty crates for them.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::http_client::Connection;

/// The key under which a reference to an element travels: W3C WebDriver, section 12.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Longer than any command of these tests takes.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(30);

/// A session with a driver: one window of one browser. It ends with [`Self::quit`].
pub struct Session {
    driver: SocketAddr,
    path: String,
}

/// An element of the page that is loaded.
pub struct Element<'s> {
    session: &'s Session,
    id: String,
}

impl Session {
    /// Starts a browser with `capabilities` at the driver that listens on `driver`.
    pub async fn start(driver: SocketAddr, capabilities: Value) -> Self {
        let body = json!({"capabilities": {"alwaysMatch": capabilities}});
        let started = command(driver, "POST", "/session".to_owned(), Some(body)).await;
        let id = started["sessionId"].as_str().expect("a session has an id");
        let session = Self { driver, path: format!("/session/{id}") };
        session.post("timeouts", json!({"script": SCRIPT_TIMEOUT.as_millis() as u64})).await;
        session
    }

    pub async fn goto(&self, url: &str) {
        self.post("url", json!({"url": url})).await;
    }

    pub async fn current_url(&self) -> url::Url {
        self.get("url").await.as_str().and_then(|url| url.parse().ok()).expect("a URL")
    }

    pub async fn refresh(&self) {
        self.post("refresh", json!({})).await;
    }

    pub async fn title(&self) -> String {
        self.get("title").await.as_str().expect("a title").to_owned()
    }

    /// Runs the body of a function and returns what it returns.
    pub async fn execute(&self, script: &str, arguments: &[Value]) -> Value {
        self.post("execute/sync", json!({"script": script, "args": arguments})).await
    }

    /// Runs the body of a function whose last argument takes the result.
    pub async fn execute_async(&self, script: &str) -> Value {
        self.post("execute/async", json!({"script": script, "args": []})).await
    }

    /// The first element that `css` selects; fails if there is none.
    pub async fn find(&self, css: &str) -> Element<'_> {
        let found = self.post("element", json!({"using": "css selector", "value": css})).await;
        Element::new(self, &found)
    }

    /// The element that has the focus.
    pub async fn active_element(&self) -> Element<'_> {
        let found = self.get("element/active").await;
        Element::new(self, &found)
    }

    /// Moves the mouse to the middle of `element`.
    pub async fn move_mouse_to(&self, element: &Element<'_>) {
        let motion = json!({"type": "pointerMove", "duration": 0, "x": 0, "y": 0, "origin": element.reference()});
        let mouse =
            json!({"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": [motion]});
        self.post("actions", json!({"actions": [mouse]})).await;
    }

    /// Sends a command with a body, also one that only this driver knows.
    pub async fn post(&self, name: &str, body: Value) -> Value {
        command(self.driver, "POST", format!("{}/{name}", self.path), Some(body)).await
    }

    /// Ends the session and its browser.
    pub async fn quit(self) {
        command(self.driver, "DELETE", self.path, None).await;
    }

    async fn get(&self, name: &str) -> Value {
        command(self.driver, "GET", format!("{}/{name}", self.path), None).await
    }
}

impl<'s> Element<'s> {
    fn new(session: &'s Session, found: &Value) -> Self {
        Self { session, id: found[ELEMENT].as_str().expect("a reference to an element").to_owned() }
    }

    /// How scripts and actions are given the element.
    pub fn reference(&self) -> Value {
        json!({ELEMENT: self.id})
    }

    pub async fn click(&self) {
        self.session.post(&format!("element/{}/click", self.id), json!({})).await;
    }

    pub async fn send_keys(&self, keys: &str) {
        self.session.post(&format!("element/{}/value", self.id), json!({"text": keys})).await;
    }

    pub async fn attribute(&self, name: &str) -> Option<String> {
        let value = self.session.get(&format!("element/{}/attribute/{name}", self.id)).await;
        value.as_str().map(ToOwned::to_owned)
    }
}

/// One command and its value. A command that fails is a failed test, with the driver's error.
async fn command(driver: SocketAddr, method: &'static str, path: String, body: Option<Value>) -> Value {
    let exchange = move || {
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let mut connection = Connection::open(driver);
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        connection.send(&[head.as_bytes(), body.as_bytes()].concat());
        let response = connection.response_to(method);
        let mut answer: Value = serde_json::from_slice(&response.body).expect("JSON of the driver");
        let value = answer["value"].take();
        assert_eq!(response.status, 200, "{method} {path}: {value}");
        value
    };
    tokio::task::spawn_blocking(exchange).await.expect("the driver answers")
}
