//! What several test files share. Each compiles it for itself and uses a part of it.
#![allow(dead_code, unused_imports)]

pub mod peers;
