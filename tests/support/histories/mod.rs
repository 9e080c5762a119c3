//! Random long histories of servers, databases, feeds and one bridge, whose truth knows each invocation; and how a product
//! that counts is judged by them.
//!
//! Truth: each (invocation, skill name) that some snapshot's totals stood for while a feed received it is counted once.
//! Invocations of a copied database are those of the original up to the copying. What two feeds of one database list, or
//! two databases with a common past, is one invocation.
//!
//! A seed gives the same history here and in the Python model of `tests/model`, so that the model's verdicts bind.

#![allow(unused_imports, reason = "each test binary uses its own part of this")]

mod database;
mod history;
mod judge;
mod ledger;
mod mirror;
mod operations;
mod oracle;
mod python_random;
pub mod session_server;
pub mod stage;
mod verdict;
mod world;

pub use database::{Style, Totals};
pub use history::{Class, History, Product, play};
pub use judge::{
    Tally, assert_as_good_as_the_model, fresh_verdicts, in_parallel, kept_verdicts, model_folder, verdict_with,
};
pub use ledger::{LedgerProduct, Persistence};
pub use oracle::{CountedByModel, counted_by_the_model};
pub use verdict::{Counted, Errors, ModelVerdict, Verdict, describe, digest, model_verdicts};
pub use world::{Databases, Entry, Event, FeedKey, Frame, Listing, Pace, Split, Streamed, Truth, World, Written};
