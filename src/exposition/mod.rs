//! The ledger's series as text, in the formats that Prometheus scrapes, and as a `prometheus` collector.
//!
//! | file | job |
//! | --- | --- |
//! | `view` | [`View`]: a copy of the ledger's series, sorted by name |
//! | `skill_view` | one skill of it |
//! | `increase` | by how much its series increased, for the live page |
//! | `families`, `family` | names, labels and HELP of the families |
//! | `family_kind` | which samples a family has for a skill |
//! | `sample`, `format` | how a sample, HELP and TYPE are written, in both formats |
//! | `skill_sample` | the samples of a skill as data |
//! | `at_times` | the families that rows determine, with samples of the past |
//! | `text_cache`, `family_text`, `gzip` | the text, kept from scrape to scrape and compressed in chunks |
//! | `text` | the body of a scrape |
//! | `own` | the bridge's own metrics beside those of skills: sources, and what is made of them |
//! | `own_text` | what a registry has beside the families of skills, as text that is kept from scrape to scrape |
//! | `others` | the families of other collectors of a registry, as text |
//! | `collector` | the families for a `prometheus::Registry` |
//!
//! Architecture invariant: nothing here counts. The text and the collector read the same view, and a property test holds them
//! equal once parsed.

mod at_times;
mod collector;
mod families;
pub(crate) mod family;
mod family_kind;
mod family_text;
mod format;
mod gzip;
mod increase;
mod others;
pub(crate) mod own;
mod own_text;
mod sample;
mod skill_sample;
mod skill_view;
mod text;
mod text_cache;
mod view;
mod zero_first;

pub use at_times::{OPEN_METRICS_END, RowFamily, SamplesAtTimes};
pub(crate) use collector::{BesideSkills, gather_beside_skills};
pub use collector::{FamiliesCollector, ViewProvider};
pub use family_kind::samples;
pub use format::Format;
pub use increase::Increase;
pub use others::{bound_text, each_other_sample};
pub use own::OwnCollector;
pub(crate) use own_text::OwnText;
pub use own_text::RegistryText;
pub use skill_sample::{SkillSample, SkillShape, each_skill_sample};
pub use skill_view::SkillView;
pub use text::{Encoding, encode_families, render, render_if_small};
pub use view::View;

/// Name of the family without labels.
pub const ACTIVE_SESSIONS_NAME: &str = families::ACTIVE_SESSIONS.name;
