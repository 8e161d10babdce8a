//! `/live`, `/ready` and `/metrics` on a loopback address. No state changes through it, and no identity is a label.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{AgentError, core::Input, shared::Shared, status::AgentStatus};

/// A core that does not answer within this time is not alive.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

#[derive(Clone)]
struct Page {
    shared: Arc<Shared>,
    core: mpsc::Sender<Input>,
}

/// Binds the address and serves it until `stop`; the address it got (for port 0).
pub(crate) fn serve(
    address: SocketAddr,
    shared: Arc<Shared>,
    core: mpsc::Sender<Input>,
    stop: CancellationToken,
) -> Result<SocketAddr, AgentError> {
    let fail = |error: std::io::Error| AgentError::Bind {
        what: format!("metrics address {address}"),
        problem: error.to_string(),
    };
    let listener = std::net::TcpListener::bind(address).map_err(fail)?;
    listener.set_nonblocking(true).map_err(fail)?;
    let bound = listener.local_addr().map_err(fail)?;
    let listener = TcpListener::from_std(listener).map_err(fail)?;
    let router = Router::new()
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Page { shared, core });
    tokio::spawn(async move {
        let served = axum::serve(listener, router)
            .with_graceful_shutdown(stop.cancelled_owned())
            .await;
        if let Err(error) = served {
            tracing::warn!(%error, "the metrics address is no longer served");
        }
    });
    Ok(bound)
}

impl Page {
    async fn ask<T>(&self, input: impl FnOnce(oneshot::Sender<T>) -> Input) -> Option<T> {
        let (reply, receive) = oneshot::channel();
        let asked = async {
            self.core.send(input(reply)).await.ok()?;
            receive.await.ok()
        };
        timeout(ANSWER_WAIT, asked).await.ok().flatten()
    }

    async fn status(&self) -> Option<AgentStatus> {
        self.ask(|reply| Input::Status { reply }).await
    }
}

async fn live(State(page): State<Page>) -> impl IntoResponse {
    match page.status().await {
        Some(_) => (StatusCode::OK, "live\n"),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the agent does not answer\n"),
    }
}

async fn ready(State(page): State<Page>) -> impl IntoResponse {
    let Some(status) = page.status().await else {
        let body = json!({"schema_version": 1, "ready": false, "reasons": ["the agent does not answer"]});
        return (StatusCode::SERVICE_UNAVAILABLE, Json(body));
    };
    let reasons = status.not_ready_because();
    let code = match reasons.is_empty() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = json!({
        "schema_version": 1,
        "ready": reasons.is_empty(),
        "reasons": reasons,
        "problems": status.problems(),
        "connected": status.connected,
        "deliveries": status.deliveries.len(),
        "revocation_sequence": status.revocation_sequence,
    });
    (code, Json(body))
}

async fn metrics(State(page): State<Page>) -> impl IntoResponse {
    // Of a core that does not answer what it said last is told; `/live` says that it does not.
    let _ = page.ask(|reply| Input::Measure { reply }).await;
    page.shared.measure();
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], page.shared.metrics.text())
}
