//! Port 9090 of the loopback interface, which the bridge listens on by default.

use std::net::TcpListener;
use std::sync::OnceLock;

/// Sees to it that somebody listens on 127.0.0.1:9090 for as long as this process runs: this process, or whoever did before
/// it. Tests of other processes that call this must not run at the same time: their end would free the port
/// (`.config/nextest.toml`).
pub fn occupy() {
    static LISTENER: OnceLock<Option<TcpListener>> = OnceLock::new();
    LISTENER.get_or_init(|| TcpListener::bind("127.0.0.1:9090").ok());
}
