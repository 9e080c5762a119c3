//! A server on loopback that broadcasts what its SQLite database holds, as Session-Buddy's does: every client of a round
//! receives the same snapshot. It can be reached under several addresses.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::{SinkExt, StreamExt};
use rusqlite::params;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::Message;

use crate::support::eventually_async;
use crate::support::exposed::Exposed;
use crate::support::model::{Anomaly, Metrics, SECOND, metrics_update, sql_time};
use crate::support::server_database::ServerDatabase;

/// Between two broadcasts.
pub const ROUND: Duration = Duration::from_millis(50);

/// A database file that servers broadcast and that the test writes.
pub struct SkillsDb {
    path: PathBuf,
    database: Mutex<ServerDatabase>,
    /// Tells its durations from those of every other database.
    number: i64,
    written: AtomicI64,
}

impl SkillsDb {
    pub fn create(path: &Path) -> Arc<Self> {
        static CREATED: AtomicI64 = AtomicI64::new(0);
        Arc::new(Self {
            path: path.to_owned(),
            database: Mutex::new(ServerDatabase::create(path)),
            number: CREATED.fetch_add(1, Ordering::Relaxed),
            written: AtomicI64::new(0),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn database(&self) -> MutexGuard<'_, ServerDatabase> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes so many invocations of a skill, one in eight of them abandoned, with durations that no other database has. Two
    /// databases that are written alike list the same totals, and sums of durations that are nearly the same.
    pub fn invoke(&self, skill_name: &str, times: u32) {
        let mut database = self.database();
        let transaction = database.connection.transaction().expect("a transaction");
        for _ in 0..times {
            let serial = self.written.fetch_add(1, Ordering::Relaxed);
            let completed = serial % 8 != 7;
            let seconds =
                completed.then(|| 0.5 + (serial as f64 * std::f64::consts::E).fract() + self.number as f64 * 1e-6);
            transaction
                .execute(
                    "INSERT INTO skill_invocation (skill_name, invoked_at, session_id, completed, duration_seconds)
                     VALUES (?, ?, 's', ?, ?)",
                    params![skill_name, format!("2026-11-22 10:00:00.{serial:06}"), completed, seconds],
                )
                .expect("a row");
        }
        transaction.commit().expect("a commit");
    }

    /// Writes so many anomalies of a skill, with scores that no other database has, a second apart.
    pub fn detect(&self, anomaly_type: &str, skill_name: &str, times: u32) {
        let database = self.database();
        for _ in 0..times {
            let serial = self.written.fetch_add(1, Ordering::Relaxed);
            let score = 2.0 + (serial as f64 * std::f64::consts::E).fract() + self.number as f64 * 1e-6;
            database
                .connection
                .execute(
                    "INSERT INTO skill_anomalies (skill_name, detected_at, anomaly_type, deviation_score)
                     VALUES (?, ?, ?, ?)",
                    params![skill_name, sql_time(serial * SECOND), anomaly_type, score],
                )
                .expect("a row");
        }
    }

    /// What its rows tell.
    pub fn counts(&self) -> Exposed {
        let mut held = Exposed::default();
        let database = self.database();
        let mut query = database
            .connection
            .prepare("SELECT skill_name, completed, count(*) FROM skill_invocation GROUP BY 1, 2")
            .expect("a query");
        let mut rows = query.query([]).expect("rows");
        while let Some(row) = rows.next().expect("a row") {
            let skill_name: String = row.get(0).expect("a name");
            held.add_invocations(&skill_name, row.get(1).expect("a flag"), row.get(2).expect("a count"));
        }
        let mut query = database
            .connection
            .prepare("SELECT anomaly_type, skill_name, count(*) FROM skill_anomalies GROUP BY 1, 2")
            .expect("a query");
        let mut rows = query.query([]).expect("rows");
        while let Some(row) = rows.next().expect("a row") {
            let (anomaly_type, skill_name): (String, String) = (row.get(0).expect("text"), row.get(1).expect("text"));
            held.add_anomalies(&anomaly_type, &skill_name, row.get(2).expect("a count"));
        }
        held
    }

    /// The skills and the anomalies of a list.
    fn listed(&self) -> (Vec<Metrics>, Vec<Anomaly>) {
        let database = self.database();
        (database.listed(), database.listed_anomalies())
    }
}

/// What the timestamps of a server look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// To the microsecond: no two servers share one.
    Micros(i64),
    /// Whole seconds: servers share them.
    Seconds,
}

#[derive(Debug, Default)]
struct Broadcast {
    all: String,
    by_skill: BTreeMap<String, String>,
}

/// One process that broadcasts. Dropping it ends it and all its connections.
pub struct SessionServer {
    rounds: watch::Receiver<Arc<Broadcast>>,
    broadcaster: JoinHandle<()>,
}

impl SessionServer {
    pub fn start(database: &Arc<SkillsDb>, clock: Clock) -> Self {
        let (sender, rounds) = watch::channel(Arc::default());
        let database = Arc::clone(database);
        let broadcaster = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(ROUND);
            loop {
                ticks.tick().await;
                sender.send_replace(Arc::new(broadcast(&database, clock)));
            }
        });
        Self { rounds, broadcaster }
    }

    /// A new address of this server, on a port of its own.
    pub async fn address(&self) -> ServerAddress {
        self.slow_address(Duration::ZERO).await
    }

    /// A new address whose handshakes take so long.
    pub async fn slow_address(&self, handshake: Duration) -> ServerAddress {
        ServerAddress::listen(SocketAddr::from(([127, 0, 0, 1], 0)), self.rounds.clone(), handshake).await
    }
}

impl Drop for SessionServer {
    fn drop(&mut self) {
        self.broadcaster.abort();
    }
}

/// Where clients reach a server. Dropping it ends the connections that were made there.
pub struct ServerAddress {
    address: SocketAddr,
    rounds: watch::Receiver<Arc<Broadcast>>,
    acceptor: JoinHandle<()>,
}

impl ServerAddress {
    async fn listen(address: SocketAddr, rounds: watch::Receiver<Arc<Broadcast>>, handshake: Duration) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let of_clients = rounds.clone();
        let acceptor = tokio::spawn(async move {
            let mut clients = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let rounds = of_clients.clone();
                clients.spawn(async move {
                    tokio::time::sleep(handshake).await;
                    // A client that leaves is nothing to look at.
                    let _ = serve(stream, rounds).await;
                });
                while clients.try_join_next().is_some() {}
            }
        });
        Self { address, rounds, acceptor }
    }

    pub fn url(&self) -> String {
        format!("ws://{}/", self.address)
    }

    /// The same address by another spelling.
    pub fn url_by_name(&self) -> String {
        format!("ws://localhost:{}/", self.address.port())
    }

    /// The same address with a path, which the server ignores.
    pub fn url_with_path(&self) -> String {
        format!("ws://{}/metrics", self.address)
    }

    /// Ends its connections and refuses new ones, until it is given back.
    pub async fn die(self) -> DeadAddress {
        self.acceptor.abort();
        let (address, rounds) = (self.address, self.rounds.clone());
        drop(self);
        // The port is free as soon as the task has been dropped.
        eventually_async("the port to be free", async || match std::net::TcpStream::connect(address) {
            Err(_) => Ok(()),
            Ok(_) => Err("somebody listens there".to_owned()),
        })
        .await;
        DeadAddress { address, rounds }
    }
}

impl Drop for ServerAddress {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

/// An address at which nobody listens.
pub struct DeadAddress {
    address: SocketAddr,
    rounds: watch::Receiver<Arc<Broadcast>>,
}

impl DeadAddress {
    pub fn url(&self) -> String {
        format!("ws://{}/", self.address)
    }

    pub async fn revive(self) -> ServerAddress {
        ServerAddress::listen(self.address, self.rounds, Duration::ZERO).await
    }
}

fn broadcast(database: &SkillsDb, clock: Clock) -> Broadcast {
    static BEGAN: Mutex<Option<Instant>> = Mutex::new(None);
    let began = *BEGAN.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
    let round = (began.elapsed().as_millis() / ROUND.as_millis()) as i64;
    let at_micros = round * SECOND
        + match clock {
            Clock::Micros(micros) => micros + round % 100,
            Clock::Seconds => 0,
        };
    let (listed, anomalies) = database.listed();
    let by_skill = listed
        .iter()
        .map(|skill| (skill.skill_name.clone(), metrics_update(at_micros, std::slice::from_ref(skill), &[])));
    Broadcast { all: metrics_update(at_micros, &listed, &anomalies), by_skill: by_skill.collect() }
}

async fn serve(
    stream: TcpStream,
    mut rounds: watch::Receiver<Arc<Broadcast>>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let mut socket = accept_async(stream).await?;
    socket.send(Message::text(r#"{"type": "connected", "message": "welcome", "authenticated": false}"#)).await?;
    let mut skill: Option<String> = None;
    rounds.mark_unchanged();
    loop {
        tokio::select! {
            changed = rounds.changed() => {
                changed?;
                let round = Arc::clone(&rounds.borrow_and_update());
                let text = match &skill {
                    None => Some(round.all.clone()),
                    Some(skill) => round.by_skill.get(skill).cloned(),
                };
                if let Some(text) = text {
                    socket.send(Message::text(text)).await?;
                }
            }
            message = socket.next() => {
                let Message::Text(text) = message.ok_or("the client left")?? else { continue };
                let message: Value = serde_json::from_str(&text)?;
                match message["type"].as_str() {
                    Some("subscribe") => {
                        skill = message["skill"].as_str().map(str::to_owned);
                        let answer = serde_json::json!({"type": "subscription_confirmed", "skill": skill});
                        socket.send(Message::text(answer.to_string())).await?;
                    }
                    Some("unsubscribe") => skill = None,
                    Some("ping") => socket.send(Message::text(r#"{"type": "pong"}"#)).await?,
                    _ => {}
                }
            }
        }
    }
}
