//! Envoy's SDS, version 3, on the agent's socket: what the Workload API gives to the same process, as Envoy's secrets.
//!
//! A stream asks for names: those of `[sds]` in the configuration, SPIFFE IDs of the caller's identities, and the SPIFFE ID
//! of the trust domain for its roots. The version of a secret is a digest of its content, so that nothing is sent twice;
//! what a client refused is not sent to it again before it has changed.

mod ask;
mod delta;
mod offer;
mod session;
mod state;
mod whole;
mod wire;

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use mintage_proto::sds::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    secret_discovery_service_server::SecretDiscoveryService,
};
use tokio::sync::mpsc;
use tokio_stream::Empty;
use tonic::{Request, Response, Status, Streaming};

use self::{delta::Delta, offer::Contexts, session::Session, whole::Whole, wire::Protocol};
use super::{api::caller_of, caller::Caller, pieces, places::PerUid};
use crate::{config, core::Input, shared::Shared};

/// Characters of a client's own words that a log line repeats.
const LOGGED_CHARS_MAX: usize = 300;

/// What all streams share.
pub(super) struct Sds {
    shared: Arc<Shared>,
    core: mpsc::Sender<Input>,
    watches: PerUid,
    settings: config::Sds,
    contexts: Contexts,
    /// Seconds in which each kind of thing was last logged.
    logged: [AtomicI64; 3],
}

/// The service.
pub(super) struct Service(Arc<Sds>);

impl Service {
    pub(super) fn new(shared: Arc<Shared>, core: mpsc::Sender<Input>, watches: PerUid, settings: config::Sds) -> Self {
        Self(Arc::new(Sds {
            shared,
            core,
            watches,
            settings,
            contexts: Contexts::default(),
            logged: [const { AtomicI64::new(0) }; 3],
        }))
    }

    async fn stream<P: Protocol>(
        &self,
        caller: Arc<Caller>,
        requests: Streaming<P::Request>,
    ) -> Result<Response<Nothing<P::Response>>, Status> {
        let session = Session::<P>::open(self.0.clone(), caller).await?;
        let (sender, messages) = mpsc::channel(1);
        tokio::spawn(session.run(requests, sender));
        Ok(pieces::response(messages))
    }
}

/// What the generated service is given to encode; see [`pieces`].
type Nothing<T> = Empty<Result<T, Status>>;

impl Sds {
    /// A client could not use what it was sent: counted each time, logged at most once a second.
    fn note_refused(&self, uid: u32, why: &str) {
        self.shared.metrics.sds("nack");
        if self.once_a_second(0) {
            let why: String = why.chars().take(LOGGED_CHARS_MAX).collect();
            tracing::warn!(uid, why = ?why, "an SDS client refused a response");
        }
    }

    /// A client asks for what it does not have: counted each time, logged at most once a second.
    fn note_unknown(&self, uid: u32, name: &str) {
        self.shared.metrics.sds("unknown_name");
        if self.once_a_second(1) {
            let name: String = name.chars().take(LOGGED_CHARS_MAX).collect();
            tracing::info!(uid, name = ?name, "an SDS client asks for a secret that it may not have");
        }
    }

    /// A client keeps what it has, because what follows cannot be given: counted each time, logged at most once a second.
    fn note_held_back(&self, uid: u32, why: &str) {
        self.shared.metrics.sds("held_back");
        if self.once_a_second(2) {
            tracing::warn!(uid, why, "an SDS client is left with what it has");
        }
    }

    fn once_a_second(&self, what: usize) -> bool {
        let second = self.shared.wall().seconds();
        self.logged[what].swap(second, Ordering::Relaxed) != second
    }
}

#[tonic::async_trait]
impl SecretDiscoveryService for Service {
    type StreamSecretsStream = Nothing<DiscoveryResponse>;
    type DeltaSecretsStream = Nothing<DeltaDiscoveryResponse>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let caller = caller_of(&request)?;
        self.stream::<Whole>(caller, request.into_inner()).await
    }

    async fn delta_secrets(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        let caller = caller_of(&request)?;
        self.stream::<Delta>(caller, request.into_inner()).await
    }

    async fn fetch_secrets(&self, request: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
        let caller = caller_of(&request)?;
        let session = Session::<Whole>::open(self.0.clone(), caller).await?;
        // One call has no past: it is answered in full.
        let request = DiscoveryRequest {
            version_info: String::new(),
            response_nonce: String::new(),
            error_detail: None,
            ..request.into_inner()
        };
        let response = session.fetch(&request).await?;
        self.0.shared.metrics.workload_request("ok");
        Ok(Response::new(response))
    }
}
