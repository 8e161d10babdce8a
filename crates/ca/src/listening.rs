//! What every HTTP/1.1 listener for the outside does: accepts within its places, and sees to it that no connection outlives
//! its time or waits for a reader for ever.

use std::{convert::Infallible, io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use crate::{
    descriptors,
    limits::{
        ACCEPT_PAUSE_MAX, ACCEPT_PAUSE_MIN, HTTP_HEAD_BYTES_MAX, HTTP_HEAD_TIMEOUT, HTTP_HEADERS_MAX, HTTP_STALL_MAX,
    },
    metrics::Metrics,
    places::{Place, Places},
    stall::Moving,
};

/// Accepts until told to stop, then waits for the connections, each of which has its deadline.
pub(crate) async fn accept<F>(
    socket: TcpListener,
    places: Places,
    metrics: &Metrics,
    stop: &CancellationToken,
    serve: impl Fn(TcpStream, SocketAddr, Place) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let connections = TaskTracker::new();
    let mut pause = ACCEPT_PAUSE_MIN;
    loop {
        let accepted = match descriptors::are_left() {
            true => tokio::select! {
                accepted = socket.accept() => accepted.map_err(|problem| problem.to_string()),
                () = stop.cancelled() => break,
            },
            false => Err("no file descriptors are left for new connections".to_owned()),
        };
        match accepted {
            Ok((stream, remote)) => {
                pause = ACCEPT_PAUSE_MIN;
                let Ok(place) = places.take(remote.ip()) else {
                    metrics.refused_connection("connections");
                    continue;
                };
                // Without it an answer may wait for the acknowledgement of the one before.
                let _ = stream.set_nodelay(true);
                connections.spawn(serve(stream, remote, place));
            }
            Err(problem) => {
                warn!(problem, "cannot accept a connection; resting for {pause:?}");
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = stop.cancelled() => break,
                }
                pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
            }
        }
    }
    drop(socket);
    connections.close();
    connections.wait().await;
}

/// How long a connection may live, and how long the request under way may take after that.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) life: Duration,
    pub(crate) last: Duration,
}

/// Serves requests one after another, until the peer, the connection's age or the CA ends them.
///
/// # Errors
/// How the connection broke.
pub(crate) async fn serve<S, A, F>(
    stream: S,
    times: Times,
    stop: &CancellationToken,
    answer: A,
) -> Result<(), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
    A: Fn(Request<Incoming>) -> F,
    F: Future<Output = Result<Response<Full<Bytes>>, Infallible>>,
{
    let service = hyper::service::service_fn(answer);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HTTP_HEAD_TIMEOUT)
        .max_buf_size(HTTP_HEAD_BYTES_MAX)
        .max_headers(HTTP_HEADERS_MAX)
        // An answer is sent from where it lies, not out of a second copy.
        .writev(true);
    let connection = http.serve_connection(TokioIo::new(Moving::new(stream, HTTP_STALL_MAX)), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = tokio::time::sleep(times.life) => None,
        () = stop.cancelled() => None,
    };
    match ended {
        Some(ended) => ended,
        None => {
            // The request under way is answered; a peer that does not read is left then.
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(times.last, connection).await.unwrap_or(Ok(()))
        }
    }
}

/// Binds an address, and tells which port it became.
pub(crate) async fn bind(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = TcpListener::bind(address).await?;
    let bound = socket.local_addr()?;
    Ok((socket, bound))
}
