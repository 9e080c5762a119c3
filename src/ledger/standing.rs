//! How feeds stand to their sources, for people: `/-/ready`, the live page and its API, a metric and `state show` say it from
//! here.

use std::fmt;
use std::sync::Arc;

use super::ledger::LedgerState;
use super::slots::SourceId;

/// How a feed stands to its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedStanding {
    /// The feed's identity.
    pub identity: Arc<str>,
    /// The source that it is bound to, or was bound to last.
    pub source: Option<SourceId>,
    /// What it does for this source.
    pub role: FeedRole,
}

/// What a feed does for its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedRole {
    /// It moves the counters.
    Active,
    /// Another feed moves the counters, or did last.
    Standby {
        /// The identity of that feed.
        active: Option<Arc<str>>,
    },
    /// It delivers snapshots that are compared with those of others, until it is known whose they are.
    Pending,
    /// It delivers nothing.
    Inactive,
}

impl FeedRole {
    /// The value of `role` in the API, in lower case.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Standby { .. } => "standby",
            Self::Pending => "pending",
            Self::Inactive => "inactive",
        }
    }
}

impl fmt::Display for FeedStanding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = self.source.map_or_else(|| "no source yet".to_owned(), |source| format!("source {}", source.0));
        match &self.role {
            FeedRole::Active => write!(f, "active for {source}"),
            FeedRole::Standby { active: None } => write!(f, "on standby for {source}"),
            FeedRole::Standby { active: Some(active) } => write!(f, "on standby for {source}: {active} is active"),
            FeedRole::Pending => f.write_str("pending: its source is not known yet"),
            FeedRole::Inactive => f.write_str(&source),
        }
    }
}

impl LedgerState {
    /// How each feed stood to its source when this was persisted, in the order of slots: the feed that moved the counters last
    /// is active.
    pub fn standings(&self) -> Vec<FeedStanding> {
        let feeds = &self.memory.feeds;
        let standing = feeds.iter().map(|feed| {
            let known = self.memory.sources.iter().find(|known| Some(known.id) == feed.source);
            let role = match known.and_then(|known| known.counted_by) {
                Some(active) if active == feed.slot => FeedRole::Active,
                Some(active) => {
                    let active = feeds.iter().find(|other| other.slot == active);
                    FeedRole::Standby { active: active.map(|active| Arc::clone(&active.counters.identity)) }
                }
                None => FeedRole::Inactive,
            };
            FeedStanding { identity: Arc::clone(&feed.counters.identity), source: feed.source, role }
        });
        standing.collect()
    }
}
