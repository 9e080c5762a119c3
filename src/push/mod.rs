//! Remote write: the queue of what receivers have not answered for yet, and its sending.
//!
//! At each tick of a grid the values that changed since the tick before are queued, in the state file where there is one. A
//! receiver has a position in the queue: the time of the last tick that it has answered for. What every receiver has behind it
//! is folded into the base, the values of all series at the oldest position.
//!
//! | file | job |
//! | --- | --- |
//! | `series` | the terms: series, samples, ticks, receivers |
//! | `gatherer` | the bridge's own metrics as samples |
//! | `sampler` | what changed since the last tick |
//! | `queue`, `samples` | the tables of the queue, and how the samples of a tick are encoded in them |
//! | `handle` | the queue behind a channel: requests of tasks, answered by the thread that owns the database |
//! | `relay` | what that thread and the senders leave for each other |
//! | `ticker`, `alarm` | when ticks are due, and waiting for them |
//! | `identity` | whose queue it is |
//! | `labels` | the labels that are configured for a receiver |
//! | `batch`, `encoder` | ticks to the body of a request |
//! | `answer` | what a receiver's answer means |
//! | `bisect` | which samples the next request contains, when some are refused |
//! | `window` | the ticks that are prepared at a time, and what answers mean for them |
//! | `doubt` | whether a refusal is of the samples or of the sender |
//! | `suspicion` | whether samples are the reason of status 500 |
//! | `pause`, `age` | which series and which ages a receiver refuses |
//! | `limit` | how many samples a request may have |
//! | `receiver` | a receiver, as it is configured |
//! | `clock` | this machine's clock, and whether nothing is sent because it is ahead |
//! | `client` | requests over one connection |
//! | `direct` | requests without a queue, for a command that ends |
//! | `probe` | what can be found out about a receiver without a sample |
//! | `sender`, `listener` | sends the queue to one receiver, and reports what happens |
//! | `zeros` | tests: batches sent by processes that are killed |
//!
//! Architecture invariant: counters are cumulative, so that only the newest tick has to arrive. Whatever happens to the queue,
//! the values of the newest tick stay.

mod age;
mod alarm;
mod answer;
mod batch;
mod bisect;
mod client;
mod clock;
mod direct;
mod doubt;
mod encoder;
mod gatherer;
mod handle;
mod identity;
mod labels;
mod limit;
mod listener;
mod pause;
mod probe;
mod queue;
mod receiver;
mod relay;
mod sampler;
mod samples;
mod sender;
mod series;
mod suspicion;
mod ticker;
mod window;
#[cfg(test)]
mod zeros;

pub use answer::RefusalReason;
pub use clock::{ClockGuard, WallClock};
pub use direct::DirectSender;
pub use encoder::{EncodedLabels, RequestEncoder};
pub use gatherer::OwnGatherer;
pub use handle::{InMemoryError, QueueError, QueueHandle, QueueServer, QueueSettings, TickOutcome};
pub use identity::{HostHash, Identified, Identity, LabelSets};
pub use labels::{LabelError, PushLabels};
pub use listener::ReceiverListener;
pub use probe::{Probe, Verification, probe};
pub use queue::{NoSuccessor, QueueSize, QueueSummary, RemovedReceiver, summary};
pub use receiver::{PushReceiver, PushSettings, PushedSeries, default_name};
pub use sender::{SendTiming, Sender};
pub use series::{
    Backlog, Generation, Origin, OwnSample, Position, ReceiverName, STALE, Series, SeriesId, SeriesKind, SeriesName,
    Tick, TickKind, TickTime, is_stale,
};
pub use ticker::{Grid, Schedule, Ticker, Wait};
