//! What the tests share.
#![allow(dead_code, reason = "each test file uses its own part of this")]

pub mod alone;
pub mod browser;
pub mod certificates;
pub mod clogged;
pub mod expected_families;
pub mod fault_proxy;
pub mod fuzz_bodies;
pub mod http_client;
pub mod model;
pub mod observer;
pub mod peers;
pub mod program;
pub mod recording_listener;
pub mod rows;
pub mod running_bridge;
pub mod scrape;
pub mod scripted_feed;
pub mod served;
pub mod server_database;
pub mod shown;
pub mod watcher;
pub mod webdriver;

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

/// Whether the long form of the tests is asked for, which takes minutes.
pub fn is_long() -> bool {
    std::env::var("SESSION_BUDDY_BRIDGE_LONG").is_ok_and(|value| value == "1")
}
