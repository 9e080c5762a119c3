//! What of the ledger a source may touch while a message is applied.

use crate::protocol::Rejection;

use super::book::Book;
use super::finding::Finding;
use super::limits::Limits;
use super::moment::Moment;
use super::notice::Notice;
use super::pending::Counting;
use super::series::RuleCounters;

/// The series and everything else that applying a message needs. Lives as long as the message is applied.
pub(super) struct ApplyContext<'l> {
    pub book: &'l mut Book,
    pub rules: &'l mut RuleCounters,
    pub limits: &'l Limits,
    pub notices: &'l mut Vec<Notice>,
    /// Where to explain, if somebody asked for it.
    pub findings: Option<&'l mut Vec<Finding>>,
    pub now: Moment,
}

impl ApplyContext<'_> {
    pub fn counting(&mut self) -> Counting<'_> {
        Counting { book: self.book, rules: self.rules, limits: self.limits, now_micros: self.now.wall_micros }
    }

    /// Explains a step.
    pub fn find(&mut self, finding: impl FnOnce() -> Finding) {
        if let Some(findings) = &mut self.findings {
            findings.push(finding());
        }
    }

    /// Reports what is not applied.
    pub fn reject(&mut self, rejection: Rejection) {
        self.notices.push(Notice::Rejected(rejection));
    }
}
