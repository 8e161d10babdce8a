//! What a witness tells of itself to Prometheus, on a loopback address of its own: how requests ended, and how far each log is
//! cosigned.

use std::{io, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::store::Store;

/// What is asked of a witness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    AddCheckpoint,
    AddLog,
    Checkpoint,
}

impl Call {
    const fn name(self) -> &'static str {
        match self {
            Self::AddCheckpoint => "add-checkpoint",
            Self::AddLog => "add-log",
            Self::Checkpoint => "checkpoint",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    call: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Log {
    origin: String,
}

/// Every metric of a witness.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    requests: Family<Request, Counter>,
    logs: Gauge,
    sizes: Family<Log, Gauge>,
    times: Family<Log, Gauge>,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("mintage_witness");
        let new = Self {
            registry: Registry::default(),
            requests: Family::default(),
            logs: Gauge::default(),
            sizes: Family::default(),
            times: Family::default(),
        };
        registry.register("requests", "Requests by call and status", new.requests.clone());
        registry.register("logs", "Logs that are followed", new.logs.clone());
        registry.register(
            "log_size",
            "Size of a log's last cosigned checkpoint",
            new.sizes.clone(),
        );
        registry.register(
            "log_cosigned_timestamp_seconds",
            "When a log was cosigned last",
            new.times.clone(),
        );
        Self { registry, ..new }
    }

    pub(super) fn answered(&self, call: Call, status: StatusCode) {
        let request = Request {
            call: call.name(),
            status: status.as_u16(),
        };
        self.requests.get_or_create(&request).inc();
    }

    fn text(&self, store: &Store) -> String {
        self.logs.set(store.logs().try_into().unwrap_or(i64::MAX));
        // Logs that are followed no more are told of no more.
        self.sizes.clear();
        self.times.clear();
        for (origin, size, time) in store.heads() {
            // The name comes out of a file that may name logs of any kind, and is written into a line as it is.
            if !origin.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\\')) {
                continue;
            }
            let log = Log { origin };
            self.sizes.get_or_create(&log).set(size.try_into().unwrap_or(i64::MAX));
            self.times.get_or_create(&log).set(time.seconds());
        }
        let mut text = String::new();
        if let Err(error) = encode(&mut text, &self.registry) {
            error!(%error, "metrics could not be written");
        }
        text
    }
}

/// Binds the address and serves until told to stop; the bound address is returned (port 0 picks a free one).
pub(super) async fn start(
    address: SocketAddr,
    metrics: Arc<Metrics>,
    store: Arc<Store>,
    stop: CancellationToken,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    let router = Router::new()
        .route("/metrics", get(exposition))
        .with_state((metrics, store));
    tokio::spawn(async move {
        let served = axum::serve(listener, router)
            .with_graceful_shutdown(stop.cancelled_owned())
            .await;
        if let Err(error) = served {
            error!(%error, "the metrics face ended");
        }
    });
    Ok(bound)
}

async fn exposition(State((metrics, store)): State<(Arc<Metrics>, Arc<Store>)>) -> Response {
    // A log's lock may be held for a flush.
    let text = tokio::task::spawn_blocking(move || metrics.text(&store)).await;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
