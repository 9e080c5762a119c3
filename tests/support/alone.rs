//! Tests that share nothing with others: each has a process to itself.

use std::any::type_name;
use std::env;
use std::process::Command;

/// Set in the process that belongs to one test, to the name of the test.
const ALONE: &str = "TEST_ALONE_IN_PROCESS";

/// Runs `test`, the whole body of the test function that calls this, in a process of its own: the test binary starts itself
/// again for this one test. For tests that change or measure what belongs to the process, such as its limits, its panic hook
/// or its memory. It makes no difference how the tests are run, on threads of one process or not.
///
/// # Panics
/// If the test fails there, or if `test` is not in a test function, which then cannot be found by its name.
pub fn alone<F: FnOnce()>(test: F) {
    let path = type_name::<F>();
    let name = path.split("::{{closure}}").next().and_then(|function| function.split_once("::")).map(|(_, name)| name);
    let name = name.unwrap_or_else(|| panic!("{path} is not a closure in a test function"));
    if env::var_os(ALONE).is_some_and(|alone| alone == name) {
        return test();
    }
    let binary = env::current_exe().expect("a test binary has a path");
    let output = Command::new(binary)
        .args([name, "--exact", "--nocapture"])
        .env(ALONE, name)
        .output()
        .expect("the test binary starts again");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    print!("{stdout}");
    eprint!("{stderr}");
    assert!(
        output.status.success() && stdout.contains(" 1 passed;"),
        "{name}, alone in its process: {}",
        output.status
    );
}
