//! Reloading of files while the program runs: change detection, reads that agree, and what a reload must not take away.
//!
//! | file | job |
//! | --- | --- |
//! | `sources` | the files of a configuration as they were read, and whether they have changed since |
//! | `settled` | reads until two reads agree: a file that is being written is not a configuration |
//! | `requests` | requests of reloads, and who waits for them |
//! | `protection` | accepts or refuses a candidate by what it would take away; pure |
//! | `yaml` | text to a typed file |
//!
//! Architecture invariant: what a file means is decided by whoever reads it.

mod protection;
mod requests;
mod settled;
mod sources;
mod yaml;

pub use protection::{Protection, ProtectionRemoved};
pub(crate) use protection::{Protections, check};
pub(crate) use requests::{ReloadOutcome, ReloadRequests};
pub(crate) use settled::{Attempt, SETTLE_TIME, SettleError, read_settled};
pub(crate) use sources::Sources;
pub(crate) use yaml::{YamlError, parse};
