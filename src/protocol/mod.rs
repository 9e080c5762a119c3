//! Frame text to [`Message`]: the only place that knows the wire.
//!
//! Architecture invariant: no I/O, no async, no memory of earlier frames. Whether a message makes sense *now* is the
//! ledger's business; whether it is well formed is decided here.

mod json;
mod message;
mod raw;
mod read;
mod scan;
#[cfg(test)]
mod tests;

pub use message::{
    AnomalyEntry, ConnectionMessage, Event, EventKind, Message, MessageType, Number, Rejection, RejectionReason,
    SkillEntry, Snapshot,
};
pub use read::{Limits, read};
