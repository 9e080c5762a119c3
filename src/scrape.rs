//! Content negotiation of a scrape: connects `exposition` and `http`, which do not know each other.

use crate::exposition::{Encoding, Format, RegistryText, ViewProvider, render, render_if_small};
use crate::http::{Accepts, Metrics};

/// Returns the body of a scrape for a client that `accepts` so much. See [`Format::OpenMetrics`] for `with_created`.
pub(crate) fn body(
    provider: &dyn ViewProvider,
    registry: &RegistryText,
    accepts: Accepts,
    with_created: bool,
) -> Metrics {
    let (format, encoding) = negotiated(accepts, with_created);
    let chunks = render(provider, registry, format, encoding);
    Metrics { chunks, media_type: format.media_type(), is_gzip: accepts.gzip }
}

/// Returns the same if it is small by the time at which it is written: see [`View::is_scrape_small`].
pub(crate) fn body_if_small(
    provider: &dyn ViewProvider,
    registry: &RegistryText,
    accepts: Accepts,
    with_created: bool,
) -> Option<Metrics> {
    let (format, encoding) = negotiated(accepts, with_created);
    let chunks = render_if_small(provider, registry, format, encoding)?;
    Some(Metrics { chunks, media_type: format.media_type(), is_gzip: accepts.gzip })
}

fn negotiated(accepts: Accepts, with_created: bool) -> (Format, Encoding) {
    let format = if accepts.openmetrics { Format::OpenMetrics { with_created } } else { Format::Text };
    (format, if accepts.gzip { Encoding::Gzip } else { Encoding::Identity })
}
