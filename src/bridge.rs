//! Wires the rooms together; the only file that knows them all.

use std::io;
use std::net::{SocketAddr, TcpListener};

use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::demo::{DemoFeed, guide};
use crate::settings::{DemoTask, FeedTarget, FeedUrlError, RecordTask, ReplayTask, Settings};

/// Why the bridge ended otherwise than asked.
#[derive(Debug, Error)]
pub enum BridgeError {
    /// An address that cannot be listened on.
    #[error("cannot listen on {address}: {error}; --web.listen-address chooses another")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        error: io::Error,
    },
    /// The made-up feed found no port.
    #[error("the demo's feed cannot listen on 127.0.0.1: {0}")]
    DemoFeed(#[source] io::Error),
    /// The made-up feed has a URL that is none.
    #[error("the demo's feed {0}")]
    DemoUrl(#[from] FeedUrlError),
    /// Not there yet.
    #[error("{0} is not wired to the other rooms yet")]
    NotWired(&'static str),
}

/// Runs the bridge until `shutdown`, serving at `settings.listen`.
pub async fn run(settings: Settings, shutdown: CancellationToken) -> Result<(), BridgeError> {
    let listeners = settings.listen.iter().map(|address| bind(*address)).collect::<Result<_, _>>()?;
    run_on(listeners, settings, shutdown).await
}

/// Runs the bridge until `shutdown`, serving on `listeners` whatever `settings.listen` says.
pub async fn run_on(
    _listeners: Vec<TcpListener>,
    _settings: Settings,
    _shutdown: CancellationToken,
) -> Result<(), BridgeError> {
    Err(BridgeError::NotWired("run"))
}

/// Runs a made-up feed and the bridge beside it until `shutdown`. `announce` is given the words for the user once both
/// can be reached.
pub async fn demo(task: DemoTask, announce: impl FnOnce(&str), shutdown: CancellationToken) -> Result<(), BridgeError> {
    let feed = DemoFeed::bind(task.feed).await.map_err(BridgeError::DemoFeed)?;
    let feed_url = feed.url();
    let settings = Settings { feeds: vec![FeedTarget::new(&feed_url)?], ..task.bridge };

    let mut listeners = settings.listen.iter().map(|address| bind(*address)).collect::<Result<Vec<_>, _>>();
    let mut taken = None;
    if let (true, Err(BridgeError::Listen { address, error })) = (task.any_port, &listeners)
        && error.kind() == io::ErrorKind::AddrInUse
    {
        taken = Some(*address);
        listeners = bind(SocketAddr::new(address.ip(), 0)).map(|listener| vec![listener]);
    }
    let listeners = listeners?;
    if let Some(address) = listeners.first().and_then(|listener| listener.local_addr().ok()) {
        announce(&guide(&feed_url, address, &settings.telemetry_path, taken));
    }

    // The feed ends with the bridge, even where the bridge ends by itself.
    let feed_shutdown = shutdown.child_token();
    let feed_ends_too = feed_shutdown.clone().drop_guard();
    let bridge = async {
        let _feed_ends_too = feed_ends_too;
        run_on(listeners, settings, shutdown).await
    };
    tokio::join!(bridge, feed.serve(feed_shutdown)).0
}

/// Writes what a feed sends to a file, for as long as the task says or until `shutdown`.
pub async fn record(_task: RecordTask, _shutdown: CancellationToken) -> Result<(), BridgeError> {
    Err(BridgeError::NotWired("record"))
}

/// Prints what a recording leads to on standard output.
pub fn replay(_task: ReplayTask) -> Result<(), BridgeError> {
    Err(BridgeError::NotWired("replay"))
}

fn bind(address: SocketAddr) -> Result<TcpListener, BridgeError> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|error| BridgeError::Listen { address, error })
}
