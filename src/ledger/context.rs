//! What of the ledger a source may touch while a message is applied.

use crate::protocol::Rejection;

use super::limits::Limits;
use super::notice::Notice;
use super::now::Now;
use super::pending::Counting;
use super::series::RuleCounters;
use super::series_table::SeriesTable;
use super::trace_step::TraceStep;

/// The series and everything else that applying a message needs. Lives as long as the message is applied.
pub(super) struct ApplyContext<'l> {
    pub series_table: &'l mut SeriesTable,
    pub rules: &'l mut RuleCounters,
    pub limits: &'l Limits,
    pub notices: &'l mut Vec<Notice>,
    /// Where to explain, if somebody asked for it.
    pub trace_steps: Option<&'l mut Vec<TraceStep>>,
    pub now: Now,
}

impl ApplyContext<'_> {
    pub fn counting(&mut self) -> Counting<'_> {
        Counting {
            series_table: self.series_table,
            rules: self.rules,
            limits: self.limits,
            now_micros: self.now.wall_micros,
        }
    }

    /// Explains a step.
    pub fn trace(&mut self, step: impl FnOnce() -> TraceStep) {
        if let Some(trace_steps) = &mut self.trace_steps {
            trace_steps.push(step());
        }
    }

    /// Reports what is not applied.
    pub fn reject(&mut self, rejection: Rejection) {
        self.notices.push(Notice::Rejected(rejection));
    }
}
