//! What the tests share.

// Every test binary compiles all of it and uses a part.
#![allow(dead_code)]

pub mod model;
pub mod observer;
