#![no_main]

#[path = "../../tests/support/fuzz_bodies.rs"]
mod fuzz_bodies;
#[allow(dead_code, reason = "tests ask it for more")]
#[path = "../../tests/support/shown.rs"]
mod shown;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz_bodies::state_file(bytes));
