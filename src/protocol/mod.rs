//! Frame text to [`Message`]: the only module that knows the wire format.
//!
//! | file | job |
//! | --- | --- |
//! | `read` | [`read`]: a frame to its messages, by `scan` or by `json` |
//! | `scan` | plain frames to raw messages, in one pass |
//! | `json` | every other frame to raw messages, by serde |
//! | `raw` | what a frame contains, before it is interpreted |
//! | `interpret` | raw messages to messages, or the reason why not |
//! | `message` | [`Message`] and [`Rejection`] |
//!
//! Architecture invariant: no I/O, no async, no memory of earlier frames. Whether a message is well-formed is decided here,
//! and whether it makes sense after the messages before it is decided by the ledger.

mod interpret;
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
