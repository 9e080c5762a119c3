//! What several tests share. Each test file compiles all of it and uses a part.
#![allow(dead_code)]

pub mod http_client;
pub mod scrape;
pub mod served;
