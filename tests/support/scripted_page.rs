//! The live page with answers that a test writes, for states that a bridge takes long to reach.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use serde_json::Value;
use session_buddy_bridge::internals::http::{self, Content, HttpSettings, QueryError, Readiness};
use tokio_util::sync::CancellationToken;

/// Answers of the API by resource. Points of `history` are filtered by `after`, as a bridge filters them.
#[derive(Debug, Default)]
struct Answers(Mutex<BTreeMap<&'static str, Value>>);

impl Answers {
    fn answer(&self, resource: &str, query: &str) -> Option<Value> {
        let mut answer = self.0.lock().unwrap().get(resource)?.clone();
        let after = query.strip_prefix("after=").and_then(|after| after.parse::<f64>().ok());
        if let (Some(after), Some(points)) = (after, answer["points"].as_array_mut()) {
            points.retain(|point| point["at_seconds"].as_f64() > Some(after));
        }
        Some(answer)
    }
}

impl Content for Answers {
    fn metrics(&self, _accepts: http::Accepts) -> http::Metrics {
        Bytes::new().into()
    }

    fn metrics_at_once(&self, _accepts: http::Accepts) -> Option<http::Metrics> {
        None
    }

    fn api(&self, resource: &str, query: &str) -> Option<Result<Vec<u8>, QueryError>> {
        self.answer(resource, query).map(|answer| Ok(answer.to_string().into_bytes()))
    }

    fn readiness(&self) -> Readiness {
        Readiness { is_ready: true, text: "Ready.\n".to_owned() }
    }

    fn reload(&self) -> BoxFuture<'static, Result<(), Arc<str>>> {
        Box::pin(async { Ok(()) })
    }

    fn answered(&self, _path: &str, _status: u16) {}
    fn scraped(&self, _duration: Duration) {}
    fn connection_refused(&self, _connections_max: usize) {}
    fn refused(&self, _refusal: http::Refusal, _peer: Option<SocketAddr>) {}
    fn web_config_reloaded(&self, _summary: http::WebConfigSummary) {}
    fn web_config_failed(&self, _error: &http::WebConfigError) {}
    fn accept_failed(&self, _error: &io::Error) {}
}

/// Serves until it is dropped.
pub struct ScriptedPage {
    pub address: SocketAddr,
    answers: Arc<Answers>,
    shutdown: CancellationToken,
}

impl ScriptedPage {
    pub fn start() -> Self {
        let listener = http::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let (answers, shutdown) = (Arc::<Answers>::default(), CancellationToken::new());
        tokio::spawn(http::serve(listener, answers.clone(), HttpSettings::default(), shutdown.clone()));
        Self { address, answers, shutdown }
    }

    /// From now on `resource` is answered by `answer`.
    pub fn set(&self, resource: &'static str, answer: Value) {
        self.answers.0.lock().unwrap().insert(resource, answer);
    }
}

impl Drop for ScriptedPage {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}
