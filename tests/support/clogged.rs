//! A server that cannot even be connected to.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use url::Url;

/// A listener whose queue is full, so that connecting to it hangs.
pub struct Clogged {
    address: SocketAddr,
    _listener: TcpListener,
    _queue: Vec<TcpStream>,
}

impl Clogged {
    pub async fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queue = Vec::new();
        // The kernel lets in a few more than asked for; a connect that does not return finds the queue full.
        while let Ok(stream) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
            queue.push(stream.unwrap());
            assert!(queue.len() < 100, "the queue never fills");
        }
        Self { address, _listener: listener, _queue: queue }
    }

    pub fn url(&self) -> Url {
        Url::parse(&format!("ws://{}/", self.address)).unwrap()
    }
}
