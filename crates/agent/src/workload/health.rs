//! grpc.health.v1 for the socket: the whole, and each service by what it needs. Nothing serves before the agent said that it
//! does, nor from the moment on at which it stops.

use std::sync::Arc;

use mintage_proto::{
    envoy_auth::authorization_server, sds::secret_discovery_service_server, v1::agent_local_server,
    v1::revocation_lookup_server, workload::spiffe_workload_api_server,
};
use tokio::{
    sync::{
        broadcast::{Receiver, error::RecvError},
        mpsc, oneshot,
    },
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{AgentEvent, core::Input, limits::TICK_MAX, shared::Shared, status::Serving};

/// A service by its name, and whether it serves.
type Row = (&'static str, fn(&Serving) -> bool);

/// Every service of the socket; the first is the whole.
const SERVICES: [Row; 6] = [
    ("", |serving| serving.ready),
    (spiffe_workload_api_server::SERVICE_NAME, |serving| serving.identities),
    (secret_discovery_service_server::SERVICE_NAME, |serving| {
        serving.identities
    }),
    (revocation_lookup_server::SERVICE_NAME, |serving| serving.lookups),
    (authorization_server::SERVICE_NAME, |serving| serving.lookups),
    // It tells how the agent is, whatever that is.
    (agent_local_server::SERVICE_NAME, |_| true),
];

/// Tells what the service answers.
pub(super) struct Health {
    reporter: HealthReporter,
    events: Receiver<AgentEvent>,
    /// What was said last of each service: who watches hears of changes alone.
    said: [Option<bool>; SERVICES.len()],
}

impl Health {
    /// Nothing serves yet.
    pub(super) async fn new(reporter: HealthReporter, shared: &Arc<Shared>) -> Self {
        let mut health = Self {
            reporter,
            events: shared.events(),
            said: [None; SERVICES.len()],
        };
        health.tell(|_| false).await;
        health
    }

    /// Looks at each event, and as often as clocks are compared, until the agent stops.
    pub(super) async fn keep(mut self, core: mpsc::Sender<Input>, stop: CancellationToken) {
        loop {
            let (reply, serving) = oneshot::channel();
            if core.send(Input::Serving { reply }).await.is_err() {
                break;
            }
            let Ok(serving) = serving.await else { break };
            self.tell(|serves| serves(&serving)).await;
            let next = tokio::select! {
                next = timeout(TICK_MAX, self.events.recv()) => next,
                () = stop.cancelled() => break,
            };
            if let Ok(Err(RecvError::Closed)) = next {
                break;
            }
            // One look answers all that has happened meanwhile.
            while self.events.try_recv().is_ok() {}
        }
        self.tell(|_| false).await;
        for (name, _) in SERVICES {
            // Who watches is told, and let go.
            self.reporter.clear_service_status(name).await;
        }
    }

    async fn tell(&mut self, serves: impl Fn(fn(&Serving) -> bool) -> bool) {
        for ((name, row), said) in SERVICES.into_iter().zip(&mut self.said) {
            let now = serves(row);
            if said.replace(now) == Some(now) {
                continue;
            }
            let status = match now {
                true => ServingStatus::Serving,
                false => ServingStatus::NotServing,
            };
            self.reporter.set_service_status(name, status).await;
        }
    }
}
