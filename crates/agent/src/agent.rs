//! Starting and stopping: disk first, then trust, then the tasks. The program and whoever runs an agent in his own process
//! start here.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle as ThreadHandle,
    time::Duration,
};

use mintage_attest::join_token::JoinToken;
use mintage_identity::TrustDomain;
use mintage_revocation::{Added, MapWriter, Replica};
use mintage_verifier::TrustStore;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    AgentError, AgentEvent, Config, Deps,
    bundle_map::BundleMap,
    config::Delivery,
    core::{Core, Input, Reloaded},
    crls::{Crls, Taken},
    federation::Remembered,
    http,
    limits::{EVENTS_MAX, INBOX_MAX},
    link::Link,
    public_dir,
    revoked::{News, Outlets, Revoked},
    shared::Shared,
    status::AgentStatus,
    store::{Membership, Store},
    workload::{self, SocketServer},
};

/// Revocation news that waits for its thread: a burst of deltas; the stream reads no further while it is full.
const NEWS_MAX: usize = 256;
/// Wishes that wait for the connection; a full queue holds the same wish already.
const CONTROL_MAX: usize = 4;

/// The agent as a library.
#[derive(Debug)]
pub struct Agent;

/// A running agent. Dropping it stops the agent without waiting; the data directory's lock goes with the last of its tasks
/// and the handle.
pub struct AgentHandle {
    shared: Arc<Shared>,
    core: mpsc::Sender<Input>,
    stop: CancellationToken,
    added: broadcast::Sender<Arc<Added>>,
    /// Made before the first task, so that the first observer misses nothing.
    first_events: Mutex<Option<broadcast::Receiver<AgentEvent>>>,
    metrics: Option<SocketAddr>,
    outcome: watch::Receiver<Option<Result<(), Arc<AgentError>>>>,
}

impl Agent {
    /// Starts an agent: opens its data directory, takes up what was there, serves socket and metrics, and goes on to join
    /// or connect by itself. Must be called within a tokio runtime.
    ///
    /// `join` is needed once; when the data directory holds an identity it is used only if the CA takes that no more.
    ///
    /// # Errors
    /// What is wrong on this node: the data directory (or another agent in it), the socket's directory, an address in
    /// use, neither identity nor token. Whatever the network does is told by events.
    pub fn start(config: Config, join: Option<JoinToken>, deps: Deps) -> Result<AgentHandle, AgentError> {
        let store = Store::open(config.data_dir())?;
        let membership = store.membership()?;
        let domain = domain_of(membership.as_ref(), join.as_ref())?;
        note_spare_token(membership.is_some() && join.is_some());
        let (events, first_events) = broadcast::channel(EVENTS_MAX);
        let (news, news_queue) = mpsc::channel(NEWS_MAX);
        let (added, _) = broadcast::channel(EVENTS_MAX);
        let (core_inbox, inputs) = mpsc::channel(INBOX_MAX);
        let (control, controls) = mpsc::channel(CONTROL_MAX);
        let replica = Replica::new(&domain);
        let shared = Arc::new(Shared::new(
            deps,
            store,
            domain,
            (replica.handle(), &config),
            (events, news.clone()),
        ));
        load_identity(&shared)?;
        load_lists(&shared);
        let remembered = load_federated(&shared);
        let map = config
            .revocation_map()
            .map(|path| open_map(path, &shared.domain))
            .transpose()?;
        let outlets = Outlets {
            core: core_inbox.clone(),
            link: control.clone(),
            added: added.clone(),
        };
        let revoked = Revoked::restore(shared.clone(), replica, map, outlets);

        let stop = CancellationToken::new();
        // Until everything is up: what was started already ends when something else cannot be.
        let unfinished = stop.clone().drop_guard();
        if let Some(path) = config.bundle_map() {
            BundleMap::at(path)?.keep(shared.clone(), stop.clone());
        }
        let (socket, metrics) = serve_local(&config, &shared, &core_inbox, &stop)?;
        let thread = revoked.spawn(news_queue).map_err(no_thread)?;
        let mut core = Core::new(shared.clone(), core_inbox.clone(), control);
        core.restore(config.deliveries().to_vec(), remembered);
        let known = membership.map(|membership| membership.addresses).unwrap_or_default();
        let addresses = (config.ca_addresses().to_vec(), known);
        let link = Link::new(
            shared.clone(),
            join,
            addresses,
            (core_inbox.clone(), controls),
            stop.clone(),
        );
        let (outcome_sender, outcome) = watch::channel(None);
        unfinished.disarm();
        let parts = Parts { thread, news, socket };
        tokio::spawn(supervise(
            core.run(inputs, stop.clone()),
            link.run(),
            parts,
            stop.clone(),
            outcome_sender,
        ));
        Ok(AgentHandle {
            shared,
            core: core_inbox,
            stop,
            added,
            first_events: Mutex::new(Some(first_events)),
            metrics,
            outcome,
        })
    }
}

/// Says what becomes of a token that an agent with an identity was given.
fn note_spare_token(spare: bool) {
    if spare {
        tracing::info!("this agent has joined before; the token is used only if the CA no longer takes its identity");
    }
}

fn no_thread(error: std::io::Error) -> AgentError {
    AgentError::Bind {
        what: "revocation thread".to_owned(),
        problem: error.to_string(),
    }
}

/// Serves the socket and the metrics address, as far as they are configured.
fn serve_local(
    config: &Config,
    shared: &Arc<Shared>,
    core: &mpsc::Sender<Input>,
    stop: &CancellationToken,
) -> Result<(Option<SocketServer>, Option<SocketAddr>), AgentError> {
    let socket = config
        .socket()
        .map(|path| {
            workload::serve(
                (path.to_owned(), config.sds().clone()),
                shared.clone(),
                core.clone(),
                stop.clone(),
            )
        })
        .transpose()?;
    let metrics = config
        .metrics()
        .map(|address| http::serve(address, shared.clone(), core.clone(), stop.clone()))
        .transpose()?;
    Ok((socket, metrics))
}

/// The parts that are not the core or the link.
struct Parts {
    thread: ThreadHandle<()>,
    news: mpsc::Sender<News>,
    socket: Option<SocketServer>,
}

/// Waits for the first part to end, ends the others in their order, and tells how it went.
async fn supervise(
    core: impl Future<Output = Result<(), AgentError>> + Send + 'static,
    link: impl Future<Output = Result<(), AgentError>> + Send + 'static,
    parts: Parts,
    stop: CancellationToken,
    outcome: watch::Sender<Option<Result<(), Arc<AgentError>>>>,
) {
    let mut core = tokio::spawn(core);
    let mut link = tokio::spawn(link);
    let first = tokio::select! {
        ended = &mut core => ended,
        ended = &mut link => ended,
    };
    stop.cancel();
    let mut result = first.unwrap_or(Err(AgentError::Bug("a task of the agent panicked")));
    for task in [core, link] {
        if !task.is_finished() {
            let other = task
                .await
                .unwrap_or(Err(AgentError::Bug("a task of the agent panicked")));
            result = result.and(other);
        }
    }
    let _ = parts.news.send(News::Stop).await;
    let _ = tokio::task::spawn_blocking(move || parts.thread.join()).await;
    if let Some(socket) = parts.socket {
        let _ = socket.task.await;
    }
    if let Err(error) = &result {
        tracing::error!(%error, "the agent stops");
    }
    let _ = outcome.send(Some(result.map_err(Arc::new)));
}

fn domain_of(membership: Option<&Membership>, join: Option<&JoinToken>) -> Result<TrustDomain, AgentError> {
    match (membership, join) {
        (Some(own), Some(token)) if own.trust_domain != *token.trust_domain() => Err(AgentError::OtherTrustDomain {
            token: token.trust_domain().to_string(),
            own: own.trust_domain.to_string(),
        }),
        (Some(own), _) => Ok(own.trust_domain.clone()),
        (None, Some(token)) => Ok(token.trust_domain().clone()),
        (None, None) => Err(AgentError::NotJoined),
    }
}

fn open_map(path: &Path, domain: &TrustDomain) -> Result<MapWriter, AgentError> {
    let fail = |problem: String| AgentError::Bind {
        what: format!("revocation map {}", path.display()),
        problem,
    };
    public_dir::open(path.parent().unwrap_or(path)).map_err(fail)?;
    MapWriter::create(path, domain).map_err(|error| fail(error.to_string()))
}

/// Takes up identity and bundle from the disk; half of them is nothing, and a join fills it again.
fn load_identity(shared: &Shared) -> Result<(), AgentError> {
    let broken = |file: &str, problem: String| AgentError::State {
        file: file.to_owned(),
        problem,
    };
    if let Some(bundle) = shared.store.bundle()? {
        shared
            .install_bundle(bundle)
            .map_err(|problem| broken("bundle.json", problem))?;
    }
    if shared.bundle.load().is_some()
        && shared.store.membership()?.is_some()
        && let Some(pair) = shared.store.agent()?
    {
        shared
            .install_own(pair)
            .map_err(|problem| broken("agent.pem", problem))?;
    }
    Ok(())
}

/// Takes up the saved bundles of other trust domains; what deliveries federated with.
fn load_federated(shared: &Shared) -> Remembered {
    let Some((federation, remembered)) = shared.store.federated(&shared.domain) else {
        return Remembered::default();
    };
    match shared.install_federation(federation) {
        Ok(()) => remembered,
        Err(problem) => {
            tracing::warn!(problem, "the saved bundles of other trust domains are not used");
            Remembered::default()
        }
    }
}

/// Takes up the saved lists of revoked certificates, as far as they verify and hold; the others come again.
fn load_lists(shared: &Shared) {
    let Some(bundle) = shared.bundle.load_full() else {
        return;
    };
    let mut lists = Crls::default();
    for der in shared.store.crls() {
        match lists.with(&der, &bundle, shared.wall()) {
            Ok(Taken::New(_, more)) => lists = more,
            Ok(Taken::Known) => {}
            Err(problem) => tracing::info!(problem, "a saved list of revoked certificates is not used any more"),
        }
    }
    let held: Vec<_> = lists.iter().map(|(key, _)| *key).collect();
    shared.store.forget_other_crls(&held);
    shared.crls.store(Arc::new(lists));
    shared.note_lists();
}

impl AgentHandle {
    /// News from now on; the first caller gets all since the start.
    pub fn events(&self) -> broadcast::Receiver<AgentEvent> {
        let first = self.first_events.lock().unwrap_or_else(PoisonError::into_inner).take();
        first.unwrap_or_else(|| self.shared.events())
    }

    /// What each revocation added, for a registry of live connections in this process. A receiver that falls behind is told
    /// `Lagged`: what it missed may concern any connection, so it looks at all of them, as for
    /// [`Added::everything`], and goes on.
    pub fn revocations(&self) -> broadcast::Receiver<Arc<Added>> {
        self.added.subscribe()
    }

    /// The trust snapshot for verifiers in this process: the bundle in force, and revocation required under the default
    /// freshness policy. It follows every change by itself.
    pub fn trust_store(&self) -> Arc<TrustStore> {
        self.shared.local_trust.clone()
    }

    /// Where `/live`, `/ready` and `/metrics` are served.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// How the agent is; `None` when it has stopped.
    pub async fn status(&self) -> Option<AgentStatus> {
        let (reply, receive) = oneshot::channel();
        self.core.send(Input::Status { reply }).await.ok()?;
        receive.await.ok()
    }

    /// Delivers into these folders from now on; `None` when the agent has stopped.
    pub async fn reload(&self, deliveries: Vec<Delivery>) -> Option<Reloaded> {
        let (reply, receive) = oneshot::channel();
        self.core.send(Input::Reload { deliveries, reply }).await.ok()?;
        receive.await.ok()
    }

    /// Completes when the agent has stopped, by itself or because it was told to.
    ///
    /// # Errors
    /// Why it stopped by itself.
    pub async fn stopped(&self) -> Result<(), Arc<AgentError>> {
        let mut outcome = self.outcome.clone();
        match outcome.wait_for(Option::is_some).await {
            Ok(result) => result.clone().unwrap_or(Ok(())),
            Err(_) => Err(Arc::new(AgentError::Bug("the agent's supervisor ended"))),
        }
    }

    /// Stops: no new work, writes that were begun come to their end. True when all of it ended within `deadline`.
    pub async fn shutdown(&self, deadline: Duration) -> bool {
        self.stop.cancel();
        tokio::time::timeout(deadline, self.stopped()).await.is_ok()
    }
}

impl Drop for AgentHandle {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl std::fmt::Debug for AgentHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentHandle").finish_non_exhaustive()
    }
}
