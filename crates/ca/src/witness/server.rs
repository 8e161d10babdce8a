//! The witness's HTTP face: `POST /add-checkpoint`, and `GET /<SHA-256 of the origin>/checkpoint` for monitors.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use mintage_ledger::{CosignerKey, SIZE_CONTENT_TYPE, Verdict, limits::ADD_CHECKPOINT_BYTES_MAX};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, error, info, warn};

use super::{
    WitnessOptions,
    store::{Answer, Store},
};
use crate::{
    clock::Clock,
    error::CaError,
    init::Deps,
    limits::{
        ACCEPT_PAUSE_MAX, ACCEPT_PAUSE_MIN, WITNESS_CONNECTION_LIFE, WITNESS_CONNECTIONS_MAX,
        WITNESS_CONNECTIONS_PER_SOURCE_MAX, WITNESS_HEAD_BYTES_MAX, WITNESS_HEAD_TIMEOUT, WITNESS_HEADERS_MAX,
        WITNESS_IN_WORK_MAX, WITNESS_REQUEST_TIMEOUT,
    },
    places::{Place, Places},
};

/// A running witness.
#[derive(Debug)]
pub struct Witness {
    address: SocketAddr,
    store: Arc<Store>,
    stop: CancellationToken,
    accepting: JoinHandle<()>,
}

/// What every request works with.
#[derive(Clone)]
struct Face {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    in_work: Arc<Semaphore>,
}

impl Witness {
    /// Opens the witness's directory, listens, and cosigns.
    ///
    /// # Errors
    /// What is wrong with the directory, the policy or the address; nothing is cosigned then.
    pub async fn start(options: WitnessOptions, deps: &Deps) -> Result<Self, CaError> {
        let (dir, policy) = (options.dir, options.policy);
        let store = tokio::task::spawn_blocking(move || Store::open(&dir, &policy)).await;
        let store = Arc::new(store.map_err(|error| CaError::Poisoned(error.to_string()))??);
        let listen = |source| CaError::Listen {
            address: options.listen,
            source,
        };
        let listener = TcpListener::bind(options.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let face = Face {
            store: store.clone(),
            clock: deps.clock.clone(),
            in_work: Arc::new(Semaphore::new(WITNESS_IN_WORK_MAX)),
        };
        let router = Router::new()
            .route("/add-checkpoint", post(add_checkpoint))
            .route("/{origin}/checkpoint", get(checkpoint))
            .with_state(face);
        let stop = CancellationToken::new();
        let accepting = tokio::spawn(accept(listener, router, stop.clone()));
        info!(%address, witness = %store.key(), logs = store.logs(), "serving");
        Ok(Self {
            address,
            store,
            stop,
            accepting,
        })
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
                let Some(place) = places.take(remote.ip()) else {
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

async fn add_checkpoint(State(face): State<Face>, body: Body) -> Response {
    match tokio::time::timeout(WITNESS_REQUEST_TIMEOUT, add(face, body)).await {
        Ok(response) => response,
        Err(_) => text(StatusCode::REQUEST_TIMEOUT, "the request took too long\n"),
    }
}

async fn add(face: Face, body: Body) -> Response {
    let Ok(body) = to_bytes(body, ADD_CHECKPOINT_BYTES_MAX).await else {
        let told = format!("a request has at most {ADD_CHECKPOINT_BYTES_MAX} bytes\n");
        return text(StatusCode::PAYLOAD_TOO_LARGE, told);
    };
    let Ok(place) = face.in_work.clone().try_acquire_owned() else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "too many requests are in work\n");
    };
    // On a thread of its own, which goes on when the caller leaves: what is begun under a log's lock is finished there.
    let answer = tokio::task::spawn_blocking(move || {
        let answer = face.store.add(&body, face.clock.now());
        drop(place);
        answer
    });
    match answer.await {
        Ok(Answer::Cosigned(line)) => text(StatusCode::OK, line),
        Ok(Answer::Refused(verdict)) => refusal(&verdict),
        Ok(Answer::Unavailable(why)) => text(StatusCode::SERVICE_UNAVAILABLE, why + "\n"),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the witness failed\n"),
    }
}

fn refusal(verdict: &Verdict) -> Response {
    let status = StatusCode::from_u16(verdict.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    match verdict {
        Verdict::OtherSize(size) => {
            (status, [(header::CONTENT_TYPE, SIZE_CONTENT_TYPE)], format!("{size}\n")).into_response()
        }
        Verdict::Malformed(why) | Verdict::NotSigned(why) | Verdict::Inconsistent(why) => {
            text(status, format!("{why}\n"))
        }
        Verdict::UnknownLog => text(status, "the witness does not know this log\n"),
        Verdict::Cosign(_) => status.into_response(),
    }
}

async fn checkpoint(State(face): State<Face>, Path(origin): Path<String>) -> Response {
    // The log's lock may be held for a flush.
    let found = tokio::task::spawn_blocking(move || face.store.checkpoint(&origin)).await;
    match found {
        Ok(Some(note)) => text(StatusCode::OK, note),
        Ok(None) => text(StatusCode::NOT_FOUND, "no checkpoint of this log was cosigned\n"),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the witness failed\n"),
    }
}

fn text(status: StatusCode, body: impl Into<String>) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    (status, kind, body.into()).into_response()
}

#[cfg(test)]
mod tests;
