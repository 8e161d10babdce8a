//! From the command to revoke to the refusal: on one host with a real agent, its map and a real rustls peer; to a fleet of
//! streams, with few other certificates and with many that live; and ten thousand revocations in one command.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser;
use mintage_benches::{
    floor,
    host::{self, Host},
    load::{Failure, percentile},
};
use mintage_proto::v1::{
    AgentMessage, CaMessage, Hello, RevokeRequest, RevokeResponse, agent_message::Message as Up,
    ca_message::Message as Down, node_client::NodeClient, revocation_client::RevocationClient, revoke_request::Target,
    revoked::News,
};
use mintage_revocation::{MapOwner, MapReader};
use mintage_svid::LeafInfo;
use mintage_tests::kit::{
    agent::{AgentProcess, config},
    ca::{self, domain},
    client::{Joined, admin, join, key_and_csr, provider, settings},
    stream::{Stream, ask, ask_with},
};
use mintage_verifier::{
    AllowedIds, ClientAuth, IdentitySource, RevocationCheck, Trust, TrustStore, client_config, server_config,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

/// Revocations that are timed on one host; each has a certificate of its own.
const ONE_HOST: usize = 100;
/// Revocations that are timed over the whole fleet.
const FLEET: usize = 20;
/// Revocations of one command.
const MANY: usize = 10_000;
/// Asks in one message: the CA's limit.
const ASKS: usize = 64;
/// Longest wait for one arrival.
const WAIT: Duration = Duration::from_secs(20);
/// The entry whose certificates are revoked.
const ENTRY: &str = "load";
/// The entry of certificates that live meanwhile.
const OTHERS: &str = "others";
/// Certificates that live meanwhile with `--full`.
const LIVE_WHOLE: usize = 300_000;
/// Messages of asks under way at once.
const UNDER_WAY: usize = 4;

#[derive(Parser)]
struct Options {
    /// Streams of agents that are open while revocations are pushed.
    #[arg(long, default_value_t = 1_000)]
    agents: usize,
    /// Other certificates that live while revocations are pushed a second time.
    #[arg(long, default_value_t = 50_000)]
    live: usize,
    /// 300,000 of them.
    #[arg(long)]
    full: bool,
    /// Output format; only json.
    #[arg(short, default_value = "json")]
    output: String,
    #[arg(long = "host", hide = true)]
    host: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    one_host_p50_ms: f64,
    one_host_p99_ms: f64,
    fsync_p50_ms: f64,
    fleet_agents: usize,
    fleet_p50_ms: f64,
    fleet_p99_ms: f64,
    live: usize,
    live_p50_ms: f64,
    live_p99_ms: f64,
    ten_thousand_s: f64,
}

fn main() -> ExitCode {
    let options = Options::parse();
    host::main(options.host.as_deref(), |runtime| {
        runtime
            .block_on(run(
                options.agents,
                if options.full { LIVE_WHOLE } else { options.live },
            ))
            .map_err(|error| error.to_string().into())
    })
}

async fn run(agents: usize, live: usize) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let host = Host::start(&folder.path().join("ca")).map_err(|error| error.to_string())?;
    let socket = host.admin_socket();
    ca::entry(&socket, ENTRY, "/load").await;
    ca::entry(&socket, OTHERS, "/others").await;
    let maker = join(&ca::token(&socket, "maker").await).await?;
    let revocation = RevocationClient::new(admin(&socket).await?);
    let mut one_host = one_host(&host, &maker, folder.path(), revocation.clone()).await?;
    let fleet = Fleet::open(&host, agents).await?;
    let mut all = fleet.one_by_one(&host, &maker, revocation.clone()).await?;
    issue(&host, &maker, OTHERS, live).await?;
    let mut among = fleet.one_by_one(&host, &maker, revocation.clone()).await?;
    let ten_thousand_s = fleet.ten_thousand(&host, &maker, revocation).await?;
    let report = Report {
        one_host_p50_ms: percentile(&mut one_host, 0.5),
        one_host_p99_ms: percentile(&mut one_host, 0.99),
        fsync_p50_ms: floor::fsync_p50_ms(folder.path())?,
        fleet_agents: agents,
        fleet_p50_ms: percentile(&mut all, 0.5),
        fleet_p99_ms: percentile(&mut all, 0.99),
        live,
        live_p50_ms: percentile(&mut among, 0.5),
        live_p99_ms: percentile(&mut among, 0.99),
        ten_thousand_s,
    };
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}

/// A certificate to be revoked, with its key.
struct Made {
    serial: String,
    chain: Vec<Vec<u8>>,
    key: Vec<u8>,
}

async fn made(host: &Host, maker: &Joined, count: usize) -> Result<Vec<Made>, Failure> {
    let mut stream = Stream::open(maker, &host.address).await?;
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        let (key, csr) = key_and_csr();
        let result = stream.ask_one(ask_with(ENTRY, csr)).await?;
        let chain: Vec<Vec<u8>> = std::iter::once(result.leaf)
            .chain(maker.chain.iter().skip(1).cloned())
            .collect();
        let serial = LeafInfo::parse(&chain[0])?.serial().to_string();
        all.push(Made { serial, chain, key });
    }
    Ok(all)
}

/// Has so many certificates issued, or a few more.
async fn issue(host: &Host, maker: &Joined, entry: &str, count: usize) -> Result<(), Failure> {
    let mut stream = Stream::open(maker, &host.address).await?;
    let messages = count.div_ceil(ASKS);
    for at in 0..messages + UNDER_WAY {
        if at < messages {
            stream.ask((0..ASKS).map(|_| ask(entry)).collect()).await?;
        }
        let answered = at >= UNDER_WAY && at - UNDER_WAY < messages;
        if answered && stream.minted().await?.iter().any(|result| result.refusal.is_some()) {
            return Err("the CA refuses a certificate".into());
        }
    }
    Ok(())
}

fn by_serial(serial: &str) -> RevokeRequest {
    RevokeRequest {
        target: Some(Target::Serial(serial.to_owned())),
        reason: "superseded".to_owned(),
        ..RevokeRequest::default()
    }
}

/// From sending the command to the first handshake that a peer refuses, in milliseconds. The peer asks the map that a
/// real agent on this host writes.
async fn one_host(
    host: &Host,
    maker: &Joined,
    dir: &Path,
    mut revocation: RevocationClient<Channel>,
) -> Result<Vec<f64>, Failure> {
    let token = ca::token(&host.admin_socket(), "node").await;
    let place = dir.join("node");
    std::fs::create_dir(&place)?;
    let mut agent = AgentProcess::start(&place, &config(&place, &[ENTRY]), Some(&token));
    let map = place.join("node.map");
    agent.wait_for("the map", || map.exists().then_some(()));
    let reader = MapReader::open(&map, &domain(), MapOwner::RootOrSelf)?;
    let mut certificates = made(host, maker, ONE_HOST + 1).await?;
    let server = certificates.pop().ok_or("no certificate")?;
    let peer = Peer::new(maker, &server, reader)?;
    let mut times = Vec::with_capacity(ONE_HOST);
    for client in &certificates {
        let tls = peer.client(client)?;
        if !peer.accepts(&tls).await {
            return Err("the peer refuses a certificate before it was revoked".into());
        }
        let started = Instant::now();
        let revoked = revocation.revoke(by_serial(&client.serial));
        let refused = async {
            while peer.accepts(&tls).await {}
            started.elapsed()
        };
        let (revoked, took) = tokio::join!(revoked, tokio::time::timeout(WAIT, refused));
        revoked?;
        times.push(took?.as_secs_f64() * 1e3);
    }
    match agent.stop() {
        Some(0) => Ok(times),
        _ => Err("the agent did not stop in order".into()),
    }
}

/// A server that verifies its clients with the node's map, in this process.
struct Peer {
    acceptor: TlsAcceptor,
    roots: Vec<Vec<u8>>,
}

fn identity(of: &Made) -> Result<Arc<IdentitySource>, Failure> {
    let chain = of.chain.iter().cloned().map(CertificateDer::from).collect();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(of.key.clone()));
    Ok(IdentitySource::new(chain, key, &provider())?)
}

impl Peer {
    fn new(maker: &Joined, server: &Made, map: MapReader) -> Result<Self, Failure> {
        let trust = Trust::builder(domain())
            .domain(domain(), maker.roots.clone(), RevocationCheck::required(Arc::new(map)))?
            .build();
        let clients = ClientAuth::Mandatory(AllowedIds::OwnTrustDomain);
        let config = server_config(TrustStore::new(trust), identity(server)?, clients, &settings())?;
        Ok(Self {
            acceptor: TlsAcceptor::from(config),
            roots: maker.roots.clone(),
        })
    }

    fn client(&self, of: &Made) -> Result<TlsConnector, Failure> {
        let trust = Trust::builder(domain())
            .domain(domain(), self.roots.clone(), RevocationCheck::None)?
            .build();
        let allowed = AllowedIds::OwnTrustDomain;
        let config = client_config(TrustStore::new(trust), Some(identity(of)?), allowed, &settings())?;
        Ok(TlsConnector::from(config))
    }

    /// One handshake; whether the server went through with it.
    async fn accepts(&self, client: &TlsConnector) -> bool {
        let (near, far) = tokio::io::duplex(16 * 1024);
        let Ok(name) = ServerName::try_from("peer.invalid") else {
            return false;
        };
        let (accepted, _) = tokio::join!(self.acceptor.accept(near), client.connect(name, far));
        accepted.is_ok()
    }
}

/// Many open streams. Each tells the sequence it was last sent, and when.
struct Fleet {
    streams: Vec<watch::Receiver<(u64, Instant)>>,
}

impl Fleet {
    async fn open(host: &Host, agents: usize) -> Result<Self, Failure> {
        let socket = host.admin_socket();
        let mut streams = Vec::with_capacity(agents);
        for number in 0..agents {
            let joined = join(&ca::token(&socket, &format!("fleet-{number}")).await).await?;
            let (channel, _) = joined.channel(&host.address).await?;
            let (up, messages) = mpsc::channel(1);
            let hello = Hello {
                agent_version: "fleet".to_owned(),
                ..Hello::default()
            };
            up.try_send(AgentMessage {
                message: Some(Up::Hello(hello)),
            })?;
            let down = NodeClient::new(channel).sync(ReceiverStream::new(messages)).await?;
            let (tell, told) = watch::channel((0, Instant::now()));
            tokio::spawn(listen(down.into_inner(), up, tell));
            streams.push(told);
        }
        Ok(Self { streams })
    }

    /// When each stream was sent `sequence`.
    async fn arrivals(&self, sequence: u64) -> Result<Vec<Instant>, Failure> {
        let mut arrivals = Vec::with_capacity(self.streams.len());
        for stream in &self.streams {
            let mut stream = stream.clone();
            let reached = tokio::time::timeout(WAIT, stream.wait_for(|(seen, _)| *seen >= sequence)).await;
            arrivals.push(reached.map_err(|_| "an agent was not told")??.1);
        }
        Ok(arrivals)
    }

    /// From sending a command to each stream, in milliseconds.
    async fn one_by_one(
        &self,
        host: &Host,
        maker: &Joined,
        mut revocation: RevocationClient<Channel>,
    ) -> Result<Vec<f64>, Failure> {
        let mut times = Vec::with_capacity(FLEET * self.streams.len());
        for certificate in made(host, maker, FLEET).await? {
            let started = Instant::now();
            let reply: RevokeResponse = revocation.revoke(by_serial(&certificate.serial)).await?.into_inner();
            let arrivals = self.arrivals(reply.sequence).await?;
            times.extend(
                arrivals
                    .iter()
                    .map(|at| at.saturating_duration_since(started).as_secs_f64() * 1e3),
            );
        }
        Ok(times)
    }

    /// From sending one command that strikes ten thousand certificates to the last stream, in seconds.
    async fn ten_thousand(
        &self,
        host: &Host,
        maker: &Joined,
        mut revocation: RevocationClient<Channel>,
    ) -> Result<f64, Failure> {
        issue(host, maker, ENTRY, MANY).await?;
        let request = RevokeRequest {
            target: Some(Target::Entry(ENTRY.to_owned())),
            reason: "superseded".to_owned(),
            ..RevokeRequest::default()
        };
        let started = Instant::now();
        let reply = revocation.revoke(request).await?.into_inner();
        if reply.certificates < MANY as u64 {
            return Err(format!("the command struck {} certificates, not {MANY}", reply.certificates).into());
        }
        let last = self
            .arrivals(reply.sequence)
            .await?
            .into_iter()
            .max()
            .unwrap_or(started);
        Ok((last - started).as_secs_f64())
    }
}

/// The sequence in the header of a delta (FORMAT.md, section 2).
fn sequence_of(delta: &[u8]) -> Option<u64> {
    let octets = delta.get(64..72)?;
    octets.try_into().ok().map(u64::from_le_bytes)
}

/// Reads one stream to its end. What it is sent is not verified here: the agent's part is measured on one host.
async fn listen(mut down: Streaming<CaMessage>, up: mpsc::Sender<AgentMessage>, tell: watch::Sender<(u64, Instant)>) {
    while let Ok(Some(message)) = down.message().await {
        let Some(Down::Revoked(revoked)) = message.message else {
            continue;
        };
        let sequence = match revoked.news {
            Some(News::Delta(octets)) => sequence_of(&octets),
            Some(News::SnapshotRef(sequence)) => Some(sequence),
            _ => None,
        };
        if let Some(sequence) = sequence {
            tell.send_replace((sequence, Instant::now()));
        }
    }
    drop(up);
}
