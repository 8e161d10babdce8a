//! An agent under test: its directories, its clock, and waiting for what it tells.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use mintage_agent::{Agent, AgentError, AgentEvent, AgentHandle, Config, Delivery, Deps};
use mintage_attest::join_token::JoinToken;
use mintage_identity::{EntryName, Serial, UnixTime};
use mintage_svid::{LeafInfo, X509Svid, key_matches, pem};
use mintage_sys::{dir::Dir, lock::Lock};
use rustls::time_provider::TimeProvider;
use tokio::{sync::broadcast, time::timeout};

/// Longest wait for anything; generous, for a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The system's clock, moved by some seconds.
#[derive(Debug, Default)]
pub struct ShiftedClock(AtomicI64);

impl ShiftedClock {
    pub fn shift(&self, seconds: i64) {
        self.0.store(seconds, Ordering::SeqCst);
    }
}

impl TimeProvider for ShiftedClock {
    fn current_time(&self) -> Option<rustls_pki_types::UnixTime> {
        let now = rustls_pki_types::UnixTime::now().as_secs().cast_signed() + self.0.load(Ordering::SeqCst);
        Some(rustls_pki_types::UnixTime::since_unix_epoch(Duration::from_secs(
            now.cast_unsigned(),
        )))
    }
}

/// Directories for one agent.
pub struct Node {
    pub temp: tempfile::TempDir,
    pub clock: Arc<ShiftedClock>,
}

pub struct Running {
    pub handle: AgentHandle,
    pub events: broadcast::Receiver<AgentEvent>,
    /// Its data directory.
    data: PathBuf,
}

pub fn name(text: &str) -> EntryName {
    EntryName::parse(text).unwrap()
}

impl Node {
    pub fn new() -> Self {
        Self {
            temp: tempfile::tempdir().unwrap(),
            clock: Arc::default(),
        }
    }

    pub fn data(&self) -> PathBuf {
        self.temp.path().join("data")
    }

    pub fn folder(&self, entry: &str) -> PathBuf {
        self.temp.path().join(entry)
    }

    pub fn socket(&self) -> PathBuf {
        self.temp.path().join("run").join("agent.sock")
    }

    pub fn map(&self) -> PathBuf {
        self.temp.path().join("run").join("revocation.map")
    }

    pub fn delivery(&self, entry: &str) -> Delivery {
        Delivery::new(name(entry), self.folder(entry)).unwrap()
    }

    /// Deliveries of these entries, no socket.
    pub fn config(&self, entries: &[&str]) -> Config {
        let deliveries = entries.iter().map(|entry| self.delivery(entry)).collect();
        Config::new(self.data())
            .with_socket(None)
            .with_deliveries(deliveries)
            .unwrap()
    }

    pub fn try_start(&self, config: Config, token: Option<JoinToken>) -> Result<Running, AgentError> {
        let deps = Deps {
            clock: self.clock.clone(),
            ..Deps::system()
        };
        let handle = Agent::start(config, token, deps)?;
        let events = handle.events();
        let data = self.data();
        Ok(Running { handle, events, data })
    }

    pub fn start(&self, config: Config, token: Option<JoinToken>) -> Running {
        self.try_start(config, token).unwrap()
    }

    /// The pair and the bundle as a careful reader sees them: one generation.
    pub fn read(&self, entry: &str) -> Pair {
        read_generation(&self.folder(entry)).unwrap()
    }
}

/// What lies in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    pub key: Vec<u8>,
    pub chain: Vec<Vec<u8>>,
    pub roots: Vec<Vec<u8>>,
}

impl Pair {
    pub fn leaf(&self) -> LeafInfo {
        X509Svid::parse(self.chain.clone()).unwrap().leaf().clone()
    }

    pub fn matches(&self) -> bool {
        key_matches(&self.chain[0], &self.key).unwrap()
    }

    pub fn serial(&self) -> Serial {
        *self.leaf().serial()
    }
}

/// Reads one generation: the pointer is resolved once.
pub fn read_generation(folder: &Path) -> Option<Pair> {
    let generation = std::fs::read_link(folder.join("..data")).ok()?;
    let read = |file: &str| std::fs::read_to_string(folder.join(&generation).join(file)).ok();
    Some(Pair {
        key: pem::decode_private_key(&read("svid_key.pem")?).unwrap().to_vec(),
        chain: pem::decode_certificates(&read("svid.pem")?).unwrap(),
        roots: pem::decode_certificates(&read("svid_bundle.pem")?).unwrap(),
    })
}

impl Running {
    /// The first event that `pick` takes.
    pub async fn event<T>(&mut self, what: &str, mut pick: impl FnMut(AgentEvent) -> Option<T>) -> T {
        let picked = timeout(PATIENCE, async {
            loop {
                match self.events.recv().await {
                    Ok(event) => {
                        if let Some(picked) = pick(event) {
                            return picked;
                        }
                    }
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => panic!("the agent stopped while waiting for {what}"),
                }
            }
        });
        picked.await.unwrap_or_else(|_| panic!("no {what} in time"))
    }

    pub async fn connected(&mut self) {
        self.event("connection", |event| {
            matches!(event, AgentEvent::Connected { .. }).then_some(())
        })
        .await;
    }

    /// The next delivery of an entry.
    pub async fn delivered(&mut self, entry: &str) -> (Serial, UnixTime) {
        let wanted = name(entry);
        self.event(&format!("delivery of {entry}"), |event| match event {
            AgentEvent::Delivered {
                entry,
                serial,
                not_after,
                ..
            } if entry == wanted => Some((serial, not_after)),
            _ => None,
        })
        .await
    }

    /// The message of the next problem of a stage.
    pub async fn problem(&mut self, wanted: &str) -> String {
        self.event(&format!("problem of stage {wanted}"), |event| match event {
            AgentEvent::Problem { stage, message, .. } if stage == wanted => Some(message),
            _ => None,
        })
        .await
    }

    /// How often something has failed at this stage, by the metrics page.
    pub fn failures(&self, stage: &str) -> u64 {
        let address = self.handle.metrics_address().unwrap();
        let metrics = tokio::task::block_in_place(|| page(address, "/metrics"));
        let name = format!("mintage_agent_rotation_failures_total{{stage=\"{stage}\"}} ");
        let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
        value.map_or(0, |value| value.parse().unwrap())
    }

    pub async fn stop(self) {
        assert!(self.handle.shutdown(PATIENCE).await, "did not stop in time");
        drop(self.handle);
        // The lock goes with the last of its tasks.
        let free = || Dir::open(&self.data).map_or(true, |dir| Lock::exclusive(&dir, "lock").is_ok());
        until("the data directory to be free", free).await;
    }
}

/// The answer to one HTTP/1.1 request, made by hand.
pub fn page(address: std::net::SocketAddr, path: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// Waits until `done` says so.
pub async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| panic!("not in time: {what}"));
}
