//! A running witness: it listens, serves connections within their limits, and ends in order.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use mintage_ledger::CosignerKey;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, error, info, warn};

use super::{
    WitnessOptions,
    answers::{Face, router},
    metrics::{self, Metrics},
    store::Store,
};
use crate::{
    error::CaError,
    init::Deps,
    keys::find_passphrase,
    limits::{
        ACCEPT_PAUSE_MAX, ACCEPT_PAUSE_MIN, WITNESS_CONNECTION_LIFE, WITNESS_CONNECTIONS_MAX,
        WITNESS_CONNECTIONS_PER_SOURCE_MAX, WITNESS_HEAD_BYTES_MAX, WITNESS_HEAD_TIMEOUT, WITNESS_HEADERS_MAX,
        WITNESS_REQUEST_TIMEOUT,
    },
    places::{Place, Places},
};

/// A running witness.
#[derive(Debug)]
pub struct Witness {
    address: SocketAddr,
    metrics_address: Option<SocketAddr>,
    store: Arc<Store>,
    stop: CancellationToken,
    accepting: JoinHandle<()>,
}

impl Witness {
    /// Opens the witness's directory, listens, and cosigns.
    ///
    /// # Errors
    /// What is wrong with the directory, the policy or the address; nothing is cosigned then.
    pub async fn start(options: WitnessOptions, deps: &Deps) -> Result<Self, CaError> {
        let (dir, policy, passphrase_file) = (options.dir, options.policy, options.passphrase_file);
        let open = move || {
            let passphrase = find_passphrase(passphrase_file.as_deref())?;
            Store::open(&dir, &policy, passphrase.as_ref())
        };
        let store = tokio::task::spawn_blocking(open).await;
        let store = Arc::new(store.map_err(|error| CaError::Poisoned(error.to_string()))??);
        let listen = |address| move |source| CaError::Listen { address, source };
        let listener = TcpListener::bind(options.listen)
            .await
            .map_err(listen(options.listen))?;
        let address = listener.local_addr().map_err(listen(options.listen))?;
        let (stop, metrics) = (CancellationToken::new(), Arc::new(Metrics::new()));
        let metrics_address = match options.metrics {
            Some(wanted) => {
                let started = metrics::start(wanted, metrics.clone(), store.clone(), stop.clone()).await;
                Some(started.map_err(listen(wanted))?)
            }
            None => None,
        };
        let face = Face::new(store.clone(), deps.clock.clone(), metrics);
        let accepting = tokio::spawn(accept(listener, router(face), stop.clone()));
        info!(%address, witness = %store.key(), logs = store.logs(), "serving");
        Ok(Self {
            address,
            metrics_address,
            store,
            stop,
            accepting,
        })
    }

    /// Reads the policy file again. One that is bad changes nothing and is told of, with its line.
    pub async fn reload(&self) {
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || store.reload()).await {
            Ok(Ok(logs)) => info!(logs, "the policy file was read again"),
            Ok(Err(problem)) => error!(%problem, "reload refused; the logs that were followed stay followed"),
            Err(_) => error!("reload ended with a panic; the logs that were followed stay followed"),
        }
    }

    /// Where metrics are served, when they are.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The key that verifies its cosignatures.
    pub fn key(&self) -> &CosignerKey {
        self.store.key()
    }

    /// Takes no new requests and lets those under way finish.
    pub async fn stop(self) {
        self.stop.cancel();
        if self.accepting.await.is_err() {
            error!("the accept loop of the witness ended with a panic");
        }
        info!("stopped");
    }
}

/// Accepts until told to stop, then waits for the connections, each of which has its deadline.
async fn accept(listener: TcpListener, router: Router, stop: CancellationToken) {
    let places = Places::new(WITNESS_CONNECTIONS_MAX, WITNESS_CONNECTIONS_PER_SOURCE_MAX);
    let connections = TaskTracker::new();
    let mut pause = ACCEPT_PAUSE_MIN;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, remote)) => {
                pause = ACCEPT_PAUSE_MIN;
                // Dropping the stream closes it: who has that many open is not answered.
                let Ok(place) = places.take(remote.ip()) else {
                    continue;
                };
                connections.spawn(serve(stream, router.clone(), stop.clone(), place));
            }
            Err(problem) => {
                warn!(%problem, "cannot accept a connection; resting for {pause:?}");
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = stop.cancelled() => break,
                }
                pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// One connection: requests one after another, until its peer, its age or the witness ends it.
async fn serve(stream: TcpStream, router: Router, stop: CancellationToken, _place: Place) {
    // Without it an answer may wait for the acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(WITNESS_HEAD_TIMEOUT)
        .max_buf_size(WITNESS_HEAD_BYTES_MAX)
        .max_headers(WITNESS_HEADERS_MAX);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = tokio::time::sleep(WITNESS_CONNECTION_LIFE) => None,
        () = stop.cancelled() => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            // The request under way is answered; a peer that does not read is left then.
            connection.as_mut().graceful_shutdown();
            let last = WITNESS_REQUEST_TIMEOUT + Duration::from_secs(1);
            tokio::time::timeout(last, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(problem) = ended {
        debug!(%problem, "a connection ended");
    }
}

#[cfg(test)]
mod tests;
