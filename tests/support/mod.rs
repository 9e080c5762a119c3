//! What the tests share.
#![allow(dead_code, reason = "each test file uses its own part of this")]

pub mod certificates;
pub mod clogged;
pub mod expected_families;
pub mod http_client;
pub mod model;
pub mod observer;
pub mod peers;
pub mod program;
pub mod recording_listener;
pub mod running_bridge;
pub mod scrape;
pub mod scripted_feed;
pub mod served;

use std::time::Duration;

/// Far longer than anything here takes: it turns a test that hangs into one that fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Awaits `future`, or fails with `what` was missing.
pub async fn patiently<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} in vain for {what}"),
    }
}
