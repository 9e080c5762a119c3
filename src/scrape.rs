//! Content negotiation of a scrape: connects `exposition` and `http`, which do not know each other.

use prometheus::Registry;

use crate::exposition::{Encoding, Format, ViewProvider, render};
use crate::http::{Accepts, Metrics};

/// Returns the body of a scrape for a client that `accepts` so much. See [`Format::OpenMetrics`] for `with_created`.
pub(crate) fn body(provider: &dyn ViewProvider, registry: &Registry, accepts: Accepts, with_created: bool) -> Metrics {
    let format = if accepts.openmetrics { Format::OpenMetrics { with_created } } else { Format::Text };
    let encoding = if accepts.gzip { Encoding::Gzip } else { Encoding::Identity };
    let chunks = render(provider, registry, format, encoding);
    Metrics { chunks, media_type: format.media_type(), is_gzip: accepts.gzip }
}
