//! Handshakes at a steady pace, with a TLS server or of two Envoys with each other, each on a connection of its own, while
//! certificates change.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use mintage_svid::LeafInfo;
use mintage_verifier::{AllowedIds, RevocationCheck, Trust, TrustStore, client_config};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    sync::Semaphore,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_rustls::TlsConnector;

use super::{agent::WAIT_MAX, ca::domain, client::settings, envoy::Envoy};

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
    /// Of the handshake that was begun last among those that have ended, with its number: ends overtake each other.
    serial: Mutex<(u64, String)>,
}

/// Clients that go on until this value is dropped.
#[derive(Debug)]
pub struct Load {
    tally: Arc<Tally>,
    began: Instant,
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
        let connector = TlsConnector::from(tls);
        Self::of(move || {
            let connector = connector.clone();
            async move { one(port, &connector).await }
        })
    }

    /// Begins with an Envoy that is a client: each call is a handshake with the server behind it, which tells the serial that
    /// it saw of the client, whose SPIFFE ID this is.
    pub fn through(client: &Envoy, id: &str) -> Self {
        let (socket, id) = (client.socket(), Arc::<str>::from(id));
        Self::of(move || {
            let (socket, id) = (socket.clone(), id.clone());
            async move { seen(UnixStream::connect(socket).await?, &id).await }
        })
    }

    fn of<F>(one: impl Fn() -> F + Send + 'static) -> Self
    where
        F: Future<Output = Result<String, Failure>> + Send + 'static,
    {
        let tally = Arc::<Tally>::default();
        let task = tokio::spawn(go_on(one, tally.clone()));
        Self {
            tally,
            began: Instant::now(),
            task,
        }
    }

    /// How many were made in a second, so far.
    pub fn per_second(&self) -> f64 {
        self.counts().0 as f64 / self.began.elapsed().as_secs_f64()
    }

    /// Holds that they come about as fast as is meant: a busy machine may be behind, and less would be no load.
    ///
    /// # Panics
    /// When they came at less than half of the pace.
    pub fn was_steady(&self) {
        let (made, meant) = (self.per_second(), 1.0 / PACE.as_secs_f64());
        assert!(
            made >= meant / 2.0,
            "{made:.0} handshakes a second are no load; {meant:.0} are meant"
        );
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
        locked(&self.tally.serial).1.clone()
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

async fn go_on<F>(one: impl Fn() -> F, tally: Arc<Tally>)
where
    F: Future<Output = Result<String, Failure>> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(UNDER_WAY_MAX));
    let mut pace = interval(PACE);
    // Who was held up makes up for it, as far as there is room.
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0_u64.. {
        pace.tick().await;
        let Ok(permit) = room.clone().acquire_owned().await else {
            return;
        };
        let (call, tally) = (one(), tally.clone());
        tokio::spawn(async move {
            let outcome = match timeout(WAIT, call).await {
                Ok(outcome) => outcome.map_err(|error| error.to_string()),
                Err(_) => Err("no answer in time".to_owned()),
            };
            tally.made.fetch_add(1, Ordering::Relaxed);
            match outcome {
                Ok(serial) => {
                    let mut last = locked(&tally.serial);
                    if number >= last.0 {
                        *last = (number, serial);
                    }
                }
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

/// A call of an Envoy's client; the serial that the server saw of it.
async fn seen(mut stream: UnixStream, id: &str) -> Result<String, Failure> {
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let peer = answer.lines().find_map(|line| line.strip_prefix("x-peer: "));
    let serial = peer.and_then(|peer| peer.strip_prefix(id));
    match serial.filter(|_| answer.starts_with("HTTP/1.1 200")) {
        Some(serial) => Ok(serial.trim().to_owned()),
        None => Err(answer.into()),
    }
}
