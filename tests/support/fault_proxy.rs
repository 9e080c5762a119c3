//! A TCP proxy that harms what it passes on: between any two bytes, without a word, and in ways that no server would.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

/// What a connection suffers once so many bytes from the server have passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Both sides are closed.
    Cut,
    /// Both sides are reset.
    Reset,
    /// The server's side is closed, the client's stays open and says nothing more.
    HalfOpen,
    /// Nothing passes for a while, in either direction.
    Stall,
    /// What the server sends passes late for a while, packet by packet.
    Delay,
    /// What the server sends passes one byte at a time for a while.
    Trickle,
    /// The next connection is closed as soon as it is made.
    Refuse,
}

const FAULTS: [Fault; 7] =
    [Fault::Cut, Fault::Reset, Fault::HalfOpen, Fault::Stall, Fault::Delay, Fault::Trickle, Fault::Refuse];

/// So many bytes pass between two faults, at most: some snapshots.
const CLEAR_BYTES_MAX: usize = 6_000;

/// So many bytes are trickled or delayed, at most: more than a snapshot.
const HARMED_BYTES_MAX: usize = 2_500;

/// The longest stall. Some are long enough for a connection to be given up, others are not.
const STALL_MAX: Duration = Duration::from_millis(900);

const DELAY_MAX: Duration = Duration::from_millis(150);

/// How many faults of each kind are over.
pub type Suffered = BTreeMap<Fault, usize>;

/// A proxy on loopback. Dropping it ends it and all its connections.
pub struct FaultProxy {
    address: SocketAddr,
    suffered: watch::Receiver<Suffered>,
    acceptor: JoinHandle<()>,
}

impl FaultProxy {
    /// Passes on to `server`, with so many faults in an order that `seed` decides; from then on without any.
    pub async fn start(server: SocketAddr, faults: usize, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (noted, suffered) = watch::channel(Suffered::new());
        let chance = fastrand::Rng::with_seed(seed);
        let acceptor = tokio::spawn(accept(listener, server, Script { left: faults, chance, noted }));
        Self { address, suffered, acceptor }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Faults so far.
    pub fn suffered(&self) -> Suffered {
        self.suffered.borrow().clone()
    }

    /// Returns once there were `faults` faults.
    pub async fn until(&self, faults: usize) {
        let enough = |suffered: &Suffered| suffered.values().sum::<usize>() >= faults;
        self.suffered.clone().wait_for(enough).await.expect("the proxy works");
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

/// What will happen.
struct Script {
    left: usize,
    chance: fastrand::Rng,
    noted: watch::Sender<Suffered>,
}

impl Script {
    /// The next fault, and how many bytes pass before it.
    fn next(&mut self) -> Option<(usize, Fault)> {
        self.left = self.left.checked_sub(1)?;
        let clear_bytes = self.chance.usize(0..CLEAR_BYTES_MAX);
        Some((clear_bytes, FAULTS[self.chance.usize(0..FAULTS.len())]))
    }

    fn note(&self, fault: Fault) {
        self.noted.send_modify(|suffered| *suffered.entry(fault).or_default() += 1);
    }

    fn up_to(&mut self, longest: Duration) -> Duration {
        longest.mul_f64(self.chance.f64())
    }
}

/// One connection after the other suffers; a client that has another one left behind has no use for it.
async fn accept(listener: TcpListener, server: SocketAddr, mut script: Script) {
    let mut abandoned = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.expect("a connection");
        // A server that is away is one more fault.
        let Ok(upstream) = TcpStream::connect(server).await else { continue };
        for stream in [&client, &upstream] {
            stream.set_nodelay(true).unwrap();
        }
        let mut pair = Pair { client, server: upstream };
        let after = suffer(&mut pair, &mut script).await;
        match after {
            After::Over => {}
            After::Refuse => {
                drop(pair);
                drop(listener.accept().await.expect("a connection"));
                script.note(Fault::Refuse);
            }
            After::HalfOpen => {
                let Pair { client, server } = pair;
                drop(server);
                abandoned.spawn(until_it_leaves(client));
                script.note(Fault::HalfOpen);
            }
        }
        while abandoned.try_join_next().is_some() {}
    }
}

/// What becomes of a connection that cannot go on.
enum After {
    Over,
    Refuse,
    HalfOpen,
}

async fn suffer(pair: &mut Pair, script: &mut Script) -> After {
    while let Some((clear_bytes, fault)) = script.next() {
        if !pair.pass(clear_bytes, Harm::None).await {
            // It ended by itself, before its fault.
            script.left += 1;
            return After::Over;
        }
        let harm = match fault {
            Fault::Cut => {
                script.note(fault);
                return After::Over;
            }
            Fault::Reset => {
                for stream in [&pair.client, &pair.server] {
                    stream.set_zero_linger().unwrap();
                }
                script.note(fault);
                return After::Over;
            }
            Fault::Refuse => return After::Refuse,
            Fault::HalfOpen => return After::HalfOpen,
            Fault::Stall => {
                sleep(script.up_to(STALL_MAX)).await;
                script.note(fault);
                continue;
            }
            Fault::Delay => Harm::Delay(script.up_to(DELAY_MAX)),
            Fault::Trickle => Harm::Trickle,
        };
        let goes_on = pair.pass(script.chance.usize(1..HARMED_BYTES_MAX), harm).await;
        script.note(fault);
        if !goes_on {
            return After::Over;
        }
    }
    pair.pass(usize::MAX, Harm::None).await;
    After::Over
}

/// What is sent here goes nowhere.
async fn until_it_leaves(mut client: TcpStream) {
    let mut lost = [0; 1024];
    while matches!(client.read(&mut lost).await, Ok(1..)) {}
}

#[derive(Clone, Copy)]
enum Harm {
    None,
    Delay(Duration),
    Trickle,
}

struct Pair {
    client: TcpStream,
    server: TcpStream,
}

impl Pair {
    /// Passes on what comes from both sides, until so many bytes of the server's have passed. Whether they did: one side
    /// may end before.
    async fn pass(&mut self, bytes: usize, harm: Harm) -> bool {
        let (mut from_client, mut to_client) = self.client.split();
        let (mut from_server, mut to_server) = self.server.split();
        let (mut asked, mut told) = ([0; 1024], [0; 4096]);
        let mut left = bytes;
        while left > 0 {
            let most = left.min(told.len());
            let passed = tokio::select! {
                read = from_client.read(&mut asked) => match read {
                    Ok(read @ 1..) => to_server.write_all(&asked[..read]).await,
                    _ => return false,
                },
                read = from_server.read(&mut told[..most]) => match read {
                    Ok(read @ 1..) => {
                        left -= read;
                        pass_on(&told[..read], &mut to_client, harm).await
                    }
                    _ => return false,
                },
            };
            if passed.is_err() {
                return false;
            }
        }
        true
    }
}

async fn pass_on(bytes: &[u8], to: &mut (impl AsyncWriteExt + Unpin), harm: Harm) -> std::io::Result<()> {
    match harm {
        Harm::None => to.write_all(bytes).await,
        Harm::Delay(delay) => {
            sleep(delay).await;
            to.write_all(bytes).await
        }
        Harm::Trickle => {
            for byte in bytes {
                to.write_all(&[*byte]).await?;
                // So that the reader gets to see it alone.
                tokio::task::yield_now().await;
            }
            Ok(())
        }
    }
}
