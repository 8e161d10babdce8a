//! `serve`: puts the parts together, listens, and stops in order. Agents come over TCP with mTLS, administrators over the
//! Unix socket in the data directory; both reach the same services through the same role table.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use mintage_proto::{
    limits::{ADMIN_REQUEST_BYTES_MAX, AGENT_MESSAGE_BYTES_MAX},
    v1::{
        crls_server::CrlsServer, ledger_server::LedgerServer, node_server::NodeServer, registry_server::RegistryServer,
        revocation_server::RevocationServer, trust_domain_server::TrustDomainServer,
    },
};
use mintage_verifier::{AllowedIds, ClientAuth, IdentitySource, TlsSettings, TrustStore, server_config};
use mintage_verifier_tokio::{Registry, RegistrySettings};
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{service::Routes, transport::Server};
use tracing::{error, info, warn};

use crate::{
    acceptor::Acceptor,
    admin,
    auditors::{self, AuditSettings},
    clock::TlsTime,
    config::Config,
    control::Origin,
    crls, denials,
    desk::Desk,
    error::CaError,
    gate::GateLayer,
    health::{Health, Trouble},
    http,
    init::Deps,
    jwt_keys, key_ends,
    limits::{
        HEADER_LIST_BYTES_MAX, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, PENDING_RESETS_MAX, STREAMS_PER_CONNECTION_MAX,
    },
    metrics::Metrics,
    open::{Engine, open},
    orphans,
    public::{self, Faces, PublicSettings},
    pusher, replica_svid,
    services::{
        crls::CrlService, ledger::LedgerService, node::NodeService, registry::RegistryService,
        revocation::RevocationService, trust::TrustService,
    },
    shards, snapshot_records,
    trust::{PeerTrust, trust_of},
    witnessing,
};

#[cfg(feature = "upload")]
use crate::upload::{Upload, UploadSettings};

/// How long a stop waits for calls under way.
const DRAIN: Duration = Duration::from_secs(10);
/// Interval of the look at the ledger's health; the journal itself refuses at once.
const HEALTH_INTERVAL: Duration = Duration::from_millis(500);
/// Window of one HTTP/2 stream: two of the largest messages an agent sends.
const STREAM_WINDOW: u32 = 2 * AGENT_MESSAGE_BYTES_MAX as u32;
/// Window of one HTTP/2 connection.
const CONNECTION_WINDOW: u32 = 8 * AGENT_MESSAGE_BYTES_MAX as u32;

/// A running CA.
pub struct Ca {
    pub(crate) desk: Arc<Desk>,
    engine: Engine,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    address: SocketAddr,
    admin_socket: PathBuf,
    data_dir: PathBuf,
    /// How long it stays up for readers once its ledger has failed.
    exit_after: Duration,
    metrics_address: Option<SocketAddr>,
    audit_address: Option<SocketAddr>,
    public: Faces,
}

impl Ca {
    /// Opens the data directory, listens, and serves.
    ///
    /// # Errors
    /// What is wrong with the directory, the keys, the ledger or the addresses; nothing is served then.
    pub async fn start(mut config: Config, deps: Deps) -> Result<Self, CaError> {
        let listen = config.listen;
        let listener = TcpListener::bind(listen).await.map_err(|source| CaError::Listen {
            address: listen,
            source,
        })?;
        let address = listener.local_addr().map_err(|source| CaError::Listen {
            address: listen,
            source,
        })?;
        if config.advertise.is_empty() {
            config.advertise = vec![address.to_string()];
        }
        for useless in config.advertise.iter().filter(|address| is_nowhere(address)) {
            warn!(address = %useless, "no agent joins by a token that sends it to this address; set advertise to one of this machine");
        }
        let metrics = Arc::new(Metrics::new());
        let health = Health::starting(metrics.clone());
        let (desk, engine) = opened(&config, &deps, metrics, health).await?;
        let desk = Arc::new(desk);
        let mut starting = Starting {
            desk,
            deps,
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
        };
        // Before anything is recorded, by this process or for a caller: a log that was rolled back grows no further.
        witnessing::begin(&starting.desk, &starting.stop, &mut starting.tasks).await?;
        if let Err(problem) = jwt_keys::bring_up(&starting.desk).await {
            // Certificates do not need it, and it is tried again.
            error!(%problem, "there is no key for JWT-SVIDs yet");
        }
        let admin_socket = config.data_dir.join("admin.sock");
        let (routes, health_task) = routes(&starting.desk, starting.stop.clone());
        starting.tasks.spawn(health_task);
        starting.record_snapshots(config.snapshot_records);
        #[cfg(feature = "upload")]
        starting.upload(config.upload)?;
        let callers = starting.agents(listener, routes.clone()).await?;
        starting.administrators(&admin_socket, routes)?;
        // Before anybody can look: a gauge that says 0 until the first round would look like a loss.
        pusher::count_live(&starting.desk);
        let metrics_address = starting.face(config.metrics, callers.peers.store.clone()).await?;
        let public = starting.public(config.public, &callers).await?;
        let audit_address = starting.auditors(config.audit, callers).await?;
        starting.desk.health.over(Trouble::Lifecycle);
        info!(%address, domain = %starting.desk.domain, replica = %starting.desk.replica, "serving");
        let Starting { desk, stop, tasks, .. } = starting;
        Ok(Self {
            desk,
            engine,
            stop,
            tasks,
            address,
            admin_socket,
            data_dir: config.data_dir,
            exit_after: config.exit_after,
            metrics_address,
            audit_address,
            public,
        })
    }

    /// Where agents connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The admin socket.
    pub fn admin_socket(&self) -> &std::path::Path {
        &self.admin_socket
    }

    pub(crate) fn data_dir(&self) -> &std::path::Path {
        &self.data_dir
    }

    /// Where metrics are served, if they are.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// Where auditors are served, if they are.
    pub fn audit_address(&self) -> Option<SocketAddr> {
        self.audit_address
    }

    /// Where public files are served under TLS, if they are.
    pub fn public_https_address(&self) -> Option<SocketAddr> {
        self.public.https
    }

    /// Where public files are served in clear, if they are.
    pub fn public_http_address(&self) -> Option<SocketAddr> {
        self.public.http
    }

    /// Why nothing more can be recorded, once that is so.
    pub(crate) fn poisoned(&self) -> Option<String> {
        self.desk.journal.poisoned()
    }

    /// Keeps readiness told, and ends when the ledger is poisoned: readers are then served for a while longer.
    pub(crate) async fn wait_poisoned(&self) -> String {
        let mut look = tokio::time::interval(HEALTH_INTERVAL);
        let mut was = None;
        loop {
            look.tick().await;
            if let Some(why) = self.poisoned() {
                error!(%why, "the ledger failed: nothing is issued, reads stay up for {:?}", self.exit_after);
                self.desk
                    .health
                    .trouble(Trouble::Ledger, format!("the ledger failed: {why}"));
                tokio::time::sleep(self.exit_after).await;
                return why;
            }
            let trouble = self.trouble();
            if trouble != was {
                match &trouble {
                    // A full disk is freed, a slow one catches up: told, and taken back when it is over.
                    Some(why) => self.desk.health.trouble(Trouble::Ledger, why.clone()),
                    None => self.desk.health.over(Trouble::Ledger),
                };
                was = trouble;
            }
        }
    }

    /// What keeps a follower of the ledger from following, now.
    fn trouble(&self) -> Option<String> {
        let engine = &self.engine;
        let followers = [&engine.search, &engine.integrator, &engine.sealer]
            .into_iter()
            .find_map(|follower| follower.trouble());
        self.desk.state.trouble().or(followers)
    }

    /// Ends every stream, lets calls under way finish, closes the ledger with a checkpoint.
    pub async fn stop(mut self) {
        self.desk.health.trouble(Trouble::Lifecycle, "stopping");
        // Before the agents go: whoever waits for them must not take their leaving for the end of the wait.
        self.desk.publisher.dismiss();
        self.desk.fleet.dismiss();
        self.desk.record_streams.dismiss();
        self.desk.crls.dismiss();
        self.desk.receipt_waits.dismiss();
        self.stop.cancel();
        let drained = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            error!("calls were still under way after {DRAIN:?}; they are cut off");
        }
        self.tasks.shutdown().await;
        self.close().await;
    }

    /// The last record and the last checkpoint.
    async fn close(self) {
        let Self { desk, engine, .. } = self;
        if desk.journal.poisoned().is_none() {
            let close = mintage_ledger::wire::LogClose {
                reason: "clean stop".to_owned(),
            };
            let mut bodies = desk.denials.unrecorded();
            bodies.extend(desk.seen.unrecorded());
            bodies.push(mintage_ledger::Body::LogClose(close));
            let closed = crate::control::command(&desk, &Origin::replica(&desk), |_| Ok((bodies.clone(), ()))).await;
            if let Err(problem) = closed {
                error!(%problem, "the ledger was not closed cleanly; the next start recovers it");
            }
        }
        let Engine {
            committer,
            search,
            integrator,
            sealer,
            ..
        } = engine;
        let stopped = tokio::task::spawn_blocking(move || {
            committer.stop();
            search.stop();
            integrator.stop();
            sealer.stop();
        });
        if stopped.await.is_err() {
            error!("a thread of the ledger ended with a panic");
        }
        witnessing::end(&desk).await;
        if tokio::task::spawn_blocking(move || drop(desk)).await.is_err() {
            error!("the state ended with a panic");
        }
        info!("stopped");
    }
}

/// Opening reads files and may rebuild the state: off the event loop.
async fn opened(
    config: &Config,
    deps: &Deps,
    metrics: Arc<Metrics>,
    health: Health,
) -> Result<(Desk, Engine), CaError> {
    let (config, deps) = (config.clone(), deps.clone());
    let opened = tokio::task::spawn_blocking(move || open(&config, &deps, metrics, health)).await;
    opened.map_err(|error| CaError::Poisoned(error.to_string()))?
}

/// Every service behind the role table, and the task that keeps the health service told.
fn routes(desk: &Arc<Desk>, stop: CancellationToken) -> (Routes, impl Future<Output = ()> + Send + 'static) {
    let (reporter, health) = tonic_health::server::health_reporter();
    let node = NodeServer::new(NodeService::new(desk.clone())).max_decoding_message_size(AGENT_MESSAGE_BYTES_MAX);
    let registry =
        RegistryServer::new(RegistryService(desk.clone())).max_decoding_message_size(ADMIN_REQUEST_BYTES_MAX);
    let revocation =
        RevocationServer::new(RevocationService(desk.clone())).max_decoding_message_size(AGENT_MESSAGE_BYTES_MAX);
    let ledger = LedgerServer::new(LedgerService(desk.clone())).max_decoding_message_size(AGENT_MESSAGE_BYTES_MAX);
    let trust = TrustDomainServer::new(TrustService(desk.clone())).max_decoding_message_size(AGENT_MESSAGE_BYTES_MAX);
    let crls = CrlsServer::new(CrlService(desk.clone())).max_decoding_message_size(AGENT_MESSAGE_BYTES_MAX);
    let routes = Routes::new(node)
        .add_service(registry)
        .add_service(revocation)
        .add_service(ledger)
        .add_service(trust)
        .add_service(crls)
        .add_service(health);
    let mut ready = desk.health.watch();
    let told = async move {
        loop {
            let serving = match ready.borrow_and_update().is_empty() {
                true => tonic_health::ServingStatus::Serving,
                false => tonic_health::ServingStatus::NotServing,
            };
            reporter.set_service_status("", serving).await;
            tokio::select! {
                changed = ready.changed() => if changed.is_err() { return },
                // The last word before the end was NotServing.
                () = stop.cancelled() => return,
            }
        }
    };
    (routes, told)
}

/// The limits of one HTTP/2 server.
fn server(
    desk: &Arc<Desk>,
) -> tonic::transport::server::Server<tower::layer::util::Stack<GateLayer, tower::layer::util::Identity>> {
    Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        // The HTTP/2 library refuses a list that is as large as this number, so it is the first that is too large.
        .http2_max_header_list_size(HEADER_LIST_BYTES_MAX + 1)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(AGENT_MESSAGE_BYTES_MAX as u32)
        .layer(GateLayer { desk: desk.clone() })
}

/// What every TLS listener shares: the certificate it shows, and how callers are verified and let go.
struct Callers {
    own: Arc<IdentitySource>,
    peers: Arc<PeerTrust>,
    registry: Registry,
    time: Arc<TlsTime>,
}

/// A CA on its way up.
struct Starting {
    desk: Arc<Desk>,
    deps: Deps,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Starting {
    /// The TCP side: own certificate, verifier of callers, pusher, acceptor. Returns what other listeners share.
    async fn agents(&mut self, listener: TcpListener, routes: Routes) -> Result<Callers, CaError> {
        let desk = self.desk.clone();
        let provider = self.deps.provider.clone();
        let tls = |problem: String| CaError::Tls(problem);
        let view = desk.state.view();
        let roots = view.bundle().map(|bundle| bundle.roots_der.clone()).unwrap_or_default();
        let trust = trust_of(&desk.domain, &roots, &desk.state).map_err(|error| tls(error.to_string()))?;
        let store = TrustStore::new(trust);
        let time: Arc<TlsTime> = Arc::new(TlsTime(self.deps.clock.clone()));
        let settings = TlsSettings::new(provider.clone(), time.clone()).with_alpn([b"h2".as_slice()]);
        let source = IdentitySource::empty();
        let first = replica_svid::renew(&desk, &source, &provider)
            .await
            .map_err(|error| tls(error.to_string()))?;
        let allowed = AllowedIds::OwnTrustDomain;
        let config = server_config(
            store.clone(),
            source.clone(),
            ClientAuth::Optional(allowed.clone()),
            &settings,
        );
        let config = config.map_err(|error| tls(error.to_string()))?;
        let registry = Registry::start(store.clone(), time.clone(), RegistrySettings::default());
        let peers = PeerTrust {
            store,
            allowed,
            provider: provider.clone(),
            clock: self.deps.clock.clone(),
        };
        let peers = Arc::new(peers);
        self.tasks.spawn(replica_svid::keep(
            desk.clone(),
            source.clone(),
            provider,
            first,
            self.stop.clone(),
        ));
        self.tasks.spawn(key_ends::watch(desk.clone(), self.stop.clone()));
        self.tasks.spawn(jwt_keys::keep(desk.clone(), self.stop.clone()));
        self.tasks.spawn(crls::keep(desk.clone(), self.stop.clone()));
        self.tasks.spawn(shards::keep(desk.clone(), self.stop.clone()));
        self.tasks.spawn(orphans::watch(desk.clone(), self.stop.clone()));
        self.tasks.spawn(denials::keep(desk.clone(), self.stop.clone()));
        self.tasks.spawn(pusher::run(
            desk.clone(),
            peers.clone(),
            registry.clone(),
            self.stop.clone(),
        ));
        let callers = Callers {
            own: source,
            peers: peers.clone(),
            registry: registry.clone(),
            time,
        };
        let acceptor = Acceptor {
            listener,
            tls: TlsAcceptor::from(config),
            trust: peers,
            registry,
            metrics: desk.metrics.clone(),
            health: desk.health.clone(),
            stop: self.stop.clone(),
        };
        self.serve("agents", acceptor.start(), routes);
        Ok(callers)
    }

    fn record_snapshots(&mut self, every: Duration) {
        let keep = snapshot_records::keep(self.desk.clone(), every, self.stop.clone());
        self.tasks.spawn(keep);
    }

    /// The copy in an object store, if one is configured.
    #[cfg(feature = "upload")]
    fn upload(&mut self, settings: Option<UploadSettings>) -> Result<(), CaError> {
        if let Some(settings) = settings {
            let upload = Upload::new(settings, &self.deps)?;
            self.tasks.spawn(upload.run(self.desk.clone(), self.stop.clone()));
        }
        Ok(())
    }

    /// The HTTPS side for auditors, if it is configured.
    async fn auditors(
        &mut self,
        settings: Option<AuditSettings>,
        callers: Callers,
    ) -> Result<Option<SocketAddr>, CaError> {
        let Some(settings) = settings else { return Ok(None) };
        let tls = TlsSettings::new(self.deps.provider.clone(), callers.time).with_alpn([b"http/1.1".as_slice()]);
        let clients = ClientAuth::Mandatory(callers.peers.allowed.clone());
        let config = server_config(callers.peers.store.clone(), callers.own, clients, &tls);
        let listener = auditors::Listener {
            settings,
            desk: self.desk.clone(),
            tls: config.map_err(|error| CaError::Tls(error.to_string()))?,
            peers: callers.peers,
            registry: callers.registry,
        };
        let (address, served) = auditors::start(listener, self.stop.clone()).await?;
        self.tasks.spawn(served);
        Ok(Some(address))
    }

    /// The public files, if an address is configured.
    async fn public(&mut self, settings: PublicSettings, callers: &Callers) -> Result<Faces, CaError> {
        let time = callers.time.clone();
        let tls = TlsSettings::new(self.deps.provider.clone(), time).with_alpn([b"http/1.1".as_slice()]);
        let clients = ClientAuth::Optional(callers.peers.allowed.clone());
        let config = server_config(callers.peers.store.clone(), callers.own.clone(), clients, &tls);
        let listener = public::Listener {
            settings,
            desk: self.desk.clone(),
            tls: config.map_err(|error| CaError::Tls(error.to_string()))?,
            registry: callers.registry.clone(),
        };
        let (faces, served) = public::start(listener, self.stop.clone()).await?;
        for one in served {
            self.tasks.spawn(one);
        }
        Ok(faces)
    }

    fn administrators(&mut self, path: &std::path::Path, routes: Routes) -> Result<(), CaError> {
        let listener = admin::bind(path).map_err(|source| CaError::Socket {
            path: path.to_path_buf(),
            source,
        })?;
        let accepted = admin::start(
            listener,
            path.to_path_buf(),
            self.desk.metrics.clone(),
            self.stop.clone(),
        );
        self.serve("administrators", accepted, routes);
        Ok(())
    }

    async fn face(&self, address: Option<SocketAddr>, callers: Arc<TrustStore>) -> Result<Option<SocketAddr>, CaError> {
        let Some(address) = address else { return Ok(None) };
        let face = http::Face {
            desk: self.desk.clone(),
            callers,
        };
        let started = http::start(address, face, self.stop.clone()).await;
        started.map(Some).map_err(|source| CaError::Listen { address, source })
    }

    fn serve<C>(&mut self, name: &'static str, accepted: mpsc::Receiver<std::io::Result<C>>, routes: Routes)
    where
        C: tonic::transport::server::Connected + tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
        C::ConnectInfo: Clone + Send + Sync + 'static,
    {
        let stop = self.stop.clone().cancelled_owned();
        let desk = self.desk.clone();
        self.tasks.spawn(async move {
            let incoming = ReceiverStream::new(accepted);
            let served = server(&desk)
                .add_routes(routes)
                .serve_with_incoming_shutdown(incoming, stop)
                .await;
            if let Err(problem) = served {
                error!(%problem, name, "a server ended");
            }
        });
    }
}

/// Whether an address is one to listen on and none to connect to.
fn is_nowhere(address: &str) -> bool {
    address
        .parse::<SocketAddr>()
        .is_ok_and(|address| address.ip().is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_no_agent_reaches_are_known() {
        assert!(["0.0.0.0:8443", "[::]:8443"].into_iter().all(is_nowhere));
        assert!(
            !["127.0.0.1:8443", "ca.example.org:8443", "[::1]:1"]
                .into_iter()
                .any(is_nowhere)
        );
    }
}
