//! Handshakes with a TLS server at a steady pace, each on a connection of its own, while the server's certificate changes.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use mintage_svid::LeafInfo;
use mintage_verifier::{AllowedIds, RevocationCheck, Trust, TrustStore, client_config};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_rustls::TlsConnector;

use super::{agent::WAIT_MAX, ca::domain, client::settings};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Between two handshakes: 200 a second.
const PACE: Duration = Duration::from_millis(5);
/// Handshakes under way at once; a server that is this far behind fails the next ones.
const UNDER_WAY_MAX: usize = 512;
/// Longest wait for another certificate: what is refused in passing is asked for again within a tenth of its lifetime, a minute.
const OTHER_MAX: Duration = Duration::from_secs(90);
/// A handshake and an answer take no longer.
const WAIT: Duration = Duration::from_secs(10);

/// What the handshakes came to.
#[derive(Debug, Default)]
struct Tally {
    made: AtomicU64,
    failed: AtomicU64,
    first_failure: Mutex<Option<String>>,
    serial: Mutex<String>,
}

/// Clients that go on until this value is dropped.
#[derive(Debug)]
pub struct Load {
    tally: Arc<Tally>,
    task: JoinHandle<()>,
}

impl Load {
    /// Begins with the server on this port, which must show a certificate below `roots`.
    ///
    /// # Panics
    /// When the roots are none.
    pub fn begin(port: u16, roots: Vec<Vec<u8>>) -> Self {
        let trust = Trust::builder(domain())
            .domain(domain(), roots, RevocationCheck::None)
            .expect("the roots are roots")
            .build();
        let settings = settings().with_alpn([b"http/1.1".as_slice()]);
        let tls = client_config(TrustStore::new(trust), None, AllowedIds::OwnTrustDomain, &settings)
            .expect("a TLS configuration");
        let tally = Arc::<Tally>::default();
        let task = tokio::spawn(go_on(port, tls, tally.clone()));
        Self { tally, task }
    }

    /// Waits until another certificate is shown than the one with this serial; its own.
    ///
    /// # Panics
    /// When none comes.
    pub async fn other_than(&self, serial: &str) -> String {
        let began = Instant::now();
        loop {
            let now = self.serial();
            if now != serial {
                return now;
            }
            assert!(
                began.elapsed() < OTHER_MAX,
                "no other certificate than {serial} is shown"
            );
            tokio::time::sleep(PACE).await;
        }
    }

    /// Waits until so many more were made, failed ones too.
    ///
    /// # Panics
    /// When they are not made.
    pub async fn goes_on(&self, more: u64) {
        let (began, until) = (Instant::now(), self.counts().0 + more);
        while self.counts().0 < until {
            assert!(began.elapsed() < WAIT_MAX, "the load has stopped");
            tokio::time::sleep(PACE).await;
        }
    }

    /// How many were made, and how many of them failed.
    pub fn counts(&self) -> (u64, u64) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (of(&self.tally.made), of(&self.tally.failed))
    }

    /// What the first that failed came to.
    pub fn first_failure(&self) -> Option<String> {
        locked(&self.tally.first_failure).clone()
    }

    /// The serial of the certificate that was shown last.
    pub fn serial(&self) -> String {
        locked(&self.tally.serial).clone()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn go_on(port: u16, tls: Arc<ClientConfig>, tally: Arc<Tally>) {
    let connector = TlsConnector::from(tls);
    let room = Arc::new(Semaphore::new(UNDER_WAY_MAX));
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pace.tick().await;
        let Ok(permit) = room.clone().acquire_owned().await else {
            return;
        };
        let (connector, tally) = (connector.clone(), tally.clone());
        tokio::spawn(async move {
            let outcome = match timeout(WAIT, one(port, &connector)).await {
                Ok(outcome) => outcome.map_err(|error| error.to_string()),
                Err(_) => Err("no answer in time".to_owned()),
            };
            tally.made.fetch_add(1, Ordering::Relaxed);
            match outcome {
                Ok(serial) => *locked(&tally.serial) = serial,
                Err(error) => {
                    tally.failed.fetch_add(1, Ordering::Relaxed);
                    locked(&tally.first_failure).get_or_insert(error);
                }
            }
            drop(permit);
        });
    }
}

/// A handshake and an answer; the serial of what was shown.
async fn one(port: u16, connector: &TlsConnector) -> Result<String, Failure> {
    let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from("mintage.invalid")?;
    let mut stream = connector.connect(name, tcp).await?;
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let serial = LeafInfo::parse(shown.ok_or("no certificate")?)?.serial().to_string();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    // Whoever has answered may end without saying so.
    let read = stream.read_to_end(&mut answer).await;
    match answer.starts_with(b"HTTP/1.1 200") {
        true => Ok(serial),
        false => Err(read.err().map_or_else(|| "no 200".into(), Failure::from)),
    }
}
