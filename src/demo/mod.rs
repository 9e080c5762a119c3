//! A simulated server, to try the bridge without Session-Buddy.
//!
//! | file | job |
//! | --- | --- |
//! | `workload` | random invocations and anomalies, from a seed |
//! | `model` | the server's database, as far as the feed exposes it |
//! | `wire` | the server's frames, byte for byte |
//! | `server` | connections, subscriptions, a snapshot a second |
//!
//! Architecture invariant: nothing here knows the bridge, and the bridge treats it like any server.

mod model;
mod server;
mod wire;
mod workload;

pub use server::{DemoFeed, DemoSettings};
