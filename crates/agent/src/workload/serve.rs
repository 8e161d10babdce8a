//! Serving the socket: accepting with limits per user, attesting each process once, telling gRPC from plain HTTP, and the
//! services on top.

use std::{
    io,
    path::PathBuf,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use mintage_proto::{
    envoy_auth::authorization_server::AuthorizationServer,
    sds::secret_discovery_service_server::SecretDiscoveryServiceServer,
    v1::{agent_local_server::AgentLocalServer, revocation_lookup_server::RevocationLookupServer},
    workload::spiffe_workload_api_server::SpiffeWorkloadApiServer,
};
use mintage_sys::peer::peer_credentials;
use std::os::fd::AsFd;
use tokio::{
    io::{AsyncRead, AsyncWrite, BufReader, ReadBuf},
    net::{UnixListener, UnixStream},
    sync::mpsc,
    task::JoinHandle,
    time::{Sleep, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::{Server, server::Connected};

use super::{
    api::{Api, require_header},
    attesting::{Attesting, Looked},
    authority::{Authorities, PREFACE},
    bind::{SocketFile, bind},
    caller::Caller,
    checks::Checks,
    explain::Looker,
    ext_authz::ExtAuthz,
    gate::GateLayer,
    health::Health,
    http1::{self, Asked},
    local::Local,
    lookup::Lookup,
    pieces::InsteadLayer,
    places::{PerUid, Place},
    reflection, sds,
    spoken::{Heard, Spoken, hear},
};
use crate::{
    AgentError,
    config::{self, SocketLimit},
    core::Input,
    descriptors,
    limits::{
        EXT_AUTHZ_REQUEST_BYTES_MAX, FIRST_OCTETS_WAIT, LOCAL_REQUEST_BYTES_MAX, LOOKUP_REQUEST_BYTES_MAX,
        SDS_REQUEST_BYTES_MAX, SEEN_REQUEST_BYTES_MAX, SOCKET_LAST_WAIT,
    },
    shared::{Noted, Shared},
};

/// Connections that were attested and wait for the server to take them.
const READY_MAX: usize = 64;
/// Octets that are read ahead: what a client says first, in one call of the system's; a frame's head is nine.
const READ_AHEAD_BYTES: usize = 512;
/// While no descriptor is left, and after a failed accept, the next try waits, so that the loop does not spin.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// An idle connection is probed this often.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(60);

/// The running socket.
pub(crate) struct SocketServer {
    pub(crate) task: JoinHandle<()>,
    _file: SocketFile,
}

/// Binds `path` and serves it until `stop`; SDS with these settings.
pub(crate) fn serve(
    (path, sds): (PathBuf, config::Sds),
    shared: Arc<Shared>,
    core: mpsc::Sender<Input>,
    stop: CancellationToken,
) -> Result<SocketServer, AgentError> {
    let (listener, file) = bind(&path)?;
    let (ready, incoming) = mpsc::channel(READY_MAX);
    let limits = shared.limits;
    let cut = CancellationToken::new();
    let of_user = limits.count(SocketLimit::ConnectionsPerUser);
    let attesting = Arc::<Attesting>::default();
    let looker = Looker(attesting.clone());
    let checks = Arc::<Checks>::default();
    let acceptor = Acceptor {
        shared: shared.clone(),
        checks: checks.clone(),
        connections: PerUid::new(of_user, limits.count(SocketLimit::Connections)),
        attesting,
        ready,
        stop: stop.clone(),
        cut: cut.clone(),
    };
    tokio::spawn(acceptor.run(listener));
    let of_user = limits.count(SocketLimit::StreamsPerUser);
    let watches = PerUid::new(of_user, limits.count(SocketLimit::Streams));
    let api = SpiffeWorkloadApiServer::new(Api::new(shared.clone(), core.clone(), watches.clone()))
        .max_decoding_message_size(LOCAL_REQUEST_BYTES_MAX);
    let sds = SecretDiscoveryServiceServer::new(sds::Service::new(shared.clone(), core.clone(), watches.clone(), sds))
        .max_decoding_message_size(SDS_REQUEST_BYTES_MAX);
    let local = AgentLocalServer::new(Local::new(shared.clone(), core.clone(), looker))
        .max_decoding_message_size(SEEN_REQUEST_BYTES_MAX);
    let lookup =
        RevocationLookupServer::new(Lookup::new(shared.clone())).max_decoding_message_size(LOOKUP_REQUEST_BYTES_MAX);
    let ext_authz = ExtAuthz {
        shared: shared.clone(),
        checks,
    };
    let ext_authz = AuthorizationServer::new(ext_authz).max_decoding_message_size(EXT_AUTHZ_REQUEST_BYTES_MAX);
    let (reporter, health_service) = tonic_health::server::health_reporter();
    let server = Server::builder()
        .max_concurrent_streams(limits.get(SocketLimit::StreamsPerConnection))
        .concurrency_limit_per_connection(limits.count(SocketLimit::StreamsPerConnection))
        .http2_keepalive_interval(Some(KEEP_ALIVE_EVERY))
        .http2_max_header_list_size(u32::try_from(LOCAL_REQUEST_BYTES_MAX).unwrap_or(u32::MAX))
        .layer(GateLayer {
            metrics: shared.metrics.clone(),
            streams: watches.clone(),
        })
        .layer(InsteadLayer)
        .add_service(tonic::service::interceptor::InterceptedService::new(
            api,
            require_header,
        ))
        .add_service(local)
        .add_service(lookup)
        .add_service(ext_authz)
        .add_service(sds)
        .add_service(health_service)
        .add_service(reflection::service()?);
    let incoming = tokio_stream::StreamExt::map(ReceiverStream::new(incoming), Ok::<_, io::Error>);
    let task = tokio::spawn(async move {
        tokio::spawn(Health::new(reporter, &shared).await.keep(core, stop.clone()));
        let serving = server.serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
        let served = to_its_end(serving, &stop, &cut).await;
        if let Err(error) = served {
            shared.problem("socket", &path.display().to_string(), &error.to_string());
        }
    });
    Ok(SocketServer { task, _file: file })
}

/// Serves until every connection has ended. A client that does not read would keep its own, and what is shared with it, for
/// ever: a while after the stop whoever is left is cut off.
async fn to_its_end<T>(serving: impl Future<Output = T>, stop: &CancellationToken, cut: &CancellationToken) -> T {
    let mut serving = pin!(serving);
    tokio::select! {
        served = serving.as_mut() => return served,
        () = stop.cancelled() => {}
    }
    match timeout(SOCKET_LAST_WAIT, serving.as_mut()).await {
        Ok(served) => served,
        Err(_) => {
            cut.cancel();
            serving.await
        }
    }
}

struct Acceptor {
    shared: Arc<Shared>,
    checks: Arc<Checks>,
    connections: PerUid,
    attesting: Arc<Attesting>,
    ready: mpsc::Sender<LocalStream>,
    stop: CancellationToken,
    /// Closes every connection.
    cut: CancellationToken,
}

impl Acceptor {
    async fn run(self, listener: UnixListener) {
        loop {
            let shortage = descriptors::shortage();
            let none = shortage.is_some();
            self.shared.note_descriptors(shortage);
            let accepted = tokio::select! {
                // Whoever connects waits in the kernel's queue meanwhile.
                () = sleep(ACCEPT_AGAIN_AFTER), if none => continue,
                accepted = listener.accept(), if !none => accepted,
                () = self.stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, _)) => self.admit(stream),
                Err(error) => {
                    // Somebody was faster, or the caller has gone.
                    tracing::debug!(%error, "a caller of the socket could not be taken");
                    sleep(ACCEPT_AGAIN_AFTER).await;
                }
            }
        }
    }

    /// Takes a place for the connection, or drops it; attests in a task of its own, so that one slow look at a large
    /// executable holds nobody else up.
    fn admit(&self, stream: UnixStream) {
        let Ok(credentials) = peer_credentials(stream.as_fd()) else {
            return;
        };
        let Some(place) = self.connections.take(credentials.uid) else {
            self.shared.metrics.workload_request("too_many_connections");
            if self.shared.may_log(Noted::TooManyConnections, credentials.uid) {
                tracing::warn!(
                    uid = credentials.uid,
                    "too many connections to the socket; one was closed"
                );
            }
            return;
        };
        let looked = Looked {
            uid: credentials.uid,
            pid: credentials.pid,
        };
        let (attesting, ready) = (self.attesting.clone(), self.ready.clone());
        let checks = self.checks.clone();
        let (shared, stop, cut) = (self.shared.clone(), self.stop.clone(), self.cut.child_token());
        tokio::spawn(async move {
            let caller = match Caller::attest(&stream, looked, attesting, cut).await {
                Ok(caller) => caller,
                Err(why) => return give_up(&stream, &shared, (looked.uid, &why)),
            };
            // A caller who says nothing holds a place of its user's, and not for long.
            let heard = tokio::select! {
                heard = timeout(FIRST_OCTETS_WAIT, hear(BufReader::with_capacity(READ_AHEAD_BYTES, stream))) => heard,
                () = stop.cancelled() => return,
            };
            let Ok(Ok((spoken, stream))) = heard else {
                return shared.metrics.workload_request("silent");
            };
            let connection = LocalStream {
                stream: match spoken {
                    Spoken::Http2 => Authorities::of(stream, flooded(&shared, looked.uid)),
                    Spoken::Http1 => Authorities::of_another_protocol(stream),
                },
                cut_off: Box::pin(caller.cut_off()),
                caller,
                preface: (spoken == Spoken::Http2).then(|| Box::pin(sleep(FIRST_OCTETS_WAIT))),
                read: 0,
                _place: place,
            };
            match spoken {
                Spoken::Http2 => _ = ready.send(connection).await,
                Spoken::Http1 => {
                    let uid = looked.uid;
                    http1::serve(connection, Asked { shared, checks, uid }, stop).await;
                }
            }
        });
    }
}

/// Ends the connection of a process that could not be looked at. The thread that still looks holds the socket too.
fn give_up(stream: &UnixStream, shared: &Shared, (uid, why): (u32, &str)) {
    shared.metrics.workload_request("attested_late");
    if shared.may_log(Noted::Late, uid) {
        tracing::warn!(uid, why, "a caller could not be attested; its connection is closed");
    }
    if let Err(error) = rustix::net::shutdown(stream, rustix::net::Shutdown::Both) {
        tracing::debug!(%error, "it had ended already");
    }
}

/// What is done once a connection of this user turns out to be a flood.
fn flooded(shared: &Arc<Shared>, uid: u32) -> impl Fn() + Send + Sync + use<> {
    let shared = shared.clone();
    move || {
        shared.metrics.workload_request("flood");
        if shared.may_log(Noted::Flood, uid) {
            tracing::warn!(
                uid,
                "a caller of the socket sends a flood of frames; its connection is closed"
            );
        }
    }
}

/// A connection with its attested process.
struct LocalStream {
    stream: Authorities<Heard<BufReader<UnixStream>>>,
    caller: Arc<Caller>,
    cut_off: Pin<Box<WaitForCancellationFutureOwned>>,
    /// When the preface of HTTP/2 must have come; none once it has.
    preface: Option<Pin<Box<Sleep>>>,
    /// Octets that were read while that is waited for.
    read: usize,
    _place: Place,
}

impl LocalStream {
    /// Whether the connection may go on; the task is woken when it may not.
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.cut_off.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }

    fn poll_preface(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.preface.as_mut().map(|deadline| deadline.as_mut().poll(cx)) {
            Some(Poll::Ready(())) => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }
}

impl Connected for LocalStream {
    type ConnectInfo = Arc<Caller>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.caller.clone()
    }
}

impl AsyncRead for LocalStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_cut(cx)?;
        self.poll_preface(cx)?;
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if self.preface.is_some() {
            self.read += buf.filled().len() - before;
            if self.read >= PREFACE {
                self.preface = None;
            }
        }
        read
    }
}

impl AsyncWrite for LocalStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_cut(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
