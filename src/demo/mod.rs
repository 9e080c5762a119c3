//! A made-up feed, for a first look without a Session-Buddy server.
//!
//! | part | job |
//! | --- | --- |
//! | `workload` | what happens when: skills, durations, anomalies, by seeded chance |
//! | `model` | the server's database as far as the feed shows it |
//! | `wire` | the server's frames, byte for byte in its style |
//! | `server` | connections, subscriptions, a round a second |
//! | `guide` | what a person is told |
//!
//! Architecture invariant: this is the other side of the wire. Nothing here knows the bridge, and the bridge treats it
//! like any server.

mod guide;
mod model;
mod server;
mod wire;
mod workload;

pub use guide::guide;
pub use server::{DemoFeed, DemoSettings};
