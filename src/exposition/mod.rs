//! The ledger's series as text, in the formats that Prometheus reads, and as a `prometheus` collector.
//!
//! Architecture invariant: what is shown is [`View`], a copy of the ledger's series that [`View::apply`] keeps up to date;
//! nothing here counts. The view holds each series' text too, in blocks that are written, and compressed, anew only where
//! something changed. The text and the collector read the same view, and a property test holds them equal once parsed.

mod collector;
mod families;
pub(crate) mod family;
mod family_kind;
mod family_text;
mod format;
mod gzip;
mod increase;
mod others;
mod text;
mod view;

pub use collector::{FamiliesCollector, ViewProvider, gather_others};
pub use family_kind::samples;
pub use format::Format;
pub use increase::Increase;
pub use others::encode_others;
pub use text::{Encoding, encode_families, render};
pub use view::{SkillView, View};
