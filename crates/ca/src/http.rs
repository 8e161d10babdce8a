//! The loopback HTTP face: `/live`, `/ready` and `/metrics`. It changes nothing and tells no identity.

use std::{io, net::SocketAddr, sync::Arc};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use mintage_verifier::TrustStore;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{desk::Desk, key_ends, witnessing};

/// What the face tells of.
#[derive(Clone)]
pub(crate) struct Face {
    pub(crate) desk: Arc<Desk>,
    /// The trust by which callers are verified.
    pub(crate) callers: Arc<TrustStore>,
}

/// Binds the address and serves until told to stop; the bound address is returned (port 0 picks a free one).
pub(crate) async fn start(address: SocketAddr, face: Face, stop: CancellationToken) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    let router = Router::new()
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(exposition))
        .with_state(face);
    tokio::spawn(async move {
        let served = axum::serve(listener, router)
            .with_graceful_shutdown(stop.cancelled_owned())
            .await;
        if let Err(error) = served {
            tracing::error!(%error, "the metrics face ended");
        }
    });
    Ok(bound)
}

async fn ready(State(Face { desk, .. }): State<Face>) -> impl IntoResponse {
    match desk.health.why_not_ready() {
        None => match desk.witnesses.remark(desk.clock.clock().monotonic()) {
            None => (StatusCode::OK, "ready\n".to_owned()),
            Some(remark) => (StatusCode::OK, format!("ready; {remark}\n")),
        },
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
    }
}

async fn exposition(State(Face { desk, callers }): State<Face>) -> impl IntoResponse {
    desk.measure();
    key_ends::measure(&desk);
    witnessing::measure(&desk);
    desk.metrics.verified(callers.counters());
    let kind = [(
        "content-type",
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
    )];
    (kind, desk.metrics.text())
}
