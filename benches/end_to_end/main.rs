//! The bridge beside a ceiling or a peer, measured in turns within one run: the table of `docs/dev/performance.md`.
//!
//! ```console
//! $ cargo bench -p benches --bench end_to_end                # every row, below 20 minutes
//! $ cargo bench -p benches --bench end_to_end -- events      # the rows whose name says so
//! $ cargo bench -p benches --bench end_to_end -- --write     # and write table and plots to docs/dev/
//! $ BENCH_BRIDGE=PATH cargo bench -p benches --bench end_to_end -- written     # another build of the bridge
//! ```
//!
//! What is measured runs on the second core of the machine, its sender and its scraper on the first. A ratio is that of
//! the medians of rounds taken in turns, A B A B, so that whatever else the machine does falls on both.

mod children;
mod feed;
mod frames;
#[path = "../../tests/support/model.rs"]
#[allow(dead_code, reason = "the benches need the texts of the server alone")]
mod model;
mod plot;
mod program;
mod python;
mod report;
mod rows;
mod sample;
mod scraper;

use std::env;
use std::process::ExitCode;

use report::Report;

/// A failure ends the run: a table with a hole would look like a table.
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let mut arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if arguments.first().is_some_and(|argument| argument == children::CHILD) {
        children::run(&arguments[1..]);
        return ExitCode::SUCCESS;
    }
    let writes = arguments.iter().any(|argument| argument == "--write");
    arguments.retain(|argument| argument != "--write");
    match measure(arguments.first().map(String::as_str), writes) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the run ended early: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(filter: Option<&str>, writes: bool) -> Outcome<()> {
    program::pin_this_process();
    let mut report = Report::new(filter);
    rows::measure(&mut report)?;
    println!("\n{}", report.table());
    if writes {
        report.write()?;
    }
    Ok(())
}
