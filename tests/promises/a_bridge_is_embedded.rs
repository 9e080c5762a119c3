//! What a program that embeds a bridge relies on.

use std::future::pending;
use std::net::SocketAddr;

use session_buddy_bridge::settings::StateLocation;
use session_buddy_bridge::{Bridge, BridgeError, PersistError, Settings, StoreError};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use crate::support::http_client::get;
use crate::support::{eventually, patiently};

fn settings(state: StateLocation) -> Settings {
    Settings { listen: vec![SocketAddr::from(([127, 0, 0, 1], 0)); 2], state, ..Settings::new(Vec::new()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_listens_once_it_is_bound_and_runs_until_a_future_completes() {
    let bridge = Bridge::bind(settings(StateLocation::InMemory)).unwrap();
    let [one, other] = bridge.local_addrs() else { panic!("two addresses were given: {:?}", bridge.local_addrs()) };
    let (one, other) = (*one, *other);
    assert!(one.port() != 0 && other.port() != 0 && one != other, "{one} {other}");
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(bridge.run(async { stopped.await.unwrap() }));
    for address in [one, other] {
        let answer = spawn_blocking(move || get(address, "/-/ready")).await.unwrap();
        assert_eq!((answer.status, answer.text()), (200, "Ready: no feeds are configured.\n"));
    }
    stop.send(()).unwrap();
    patiently("the bridge to end", running).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_dropped_releases_its_addresses_and_its_state() {
    let folder = tempfile::tempdir().unwrap();
    let state = StateLocation::Path(folder.path().join("state.db"));
    let bridge = Bridge::bind(settings(state.clone())).unwrap();
    let listen = bridge.local_addrs().to_vec();
    let address = listen[0];
    let running = tokio::spawn(bridge.run(pending()));
    let answer = spawn_blocking(move || get(address, "/-/healthy")).await.unwrap();
    assert_eq!(answer.status, 200);

    running.abort();
    assert!(patiently("the end of the task", running).await.unwrap_err().is_cancelled());
    let again = Settings { listen, ..settings(state) };
    let bind = move || {
        eventually("the state to be released", || match Bridge::bind(again.clone()) {
            Ok(bridge) => Ok(bridge.local_addrs().to_vec()),
            Err(
                error @ (BridgeError::Listen(_) | BridgeError::State(PersistError::Store(StoreError::InUse { .. }))),
            ) => Err(error.to_string()),
            Err(error) => panic!("{error}"),
        })
    };
    assert_eq!(spawn_blocking(bind).await.unwrap()[0], address);
}
