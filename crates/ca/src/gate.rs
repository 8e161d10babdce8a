//! The gate in front of every handler: looks the caller's role up in the table and refuses what it does not allow, refuses
//! garbled metadata, and gives a message over its limit the code that gRPC has for it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use mintage_attest::AgentSession;
use mintage_proto::check_metadata;
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};
use tracing::warn;

use crate::{
    denials,
    desk::Desk,
    metrics::Metrics,
    peer::Peer,
    roles::{allowed, role_of},
    status::{Refusal, over_limit},
};

/// Puts a [`Gate`] in front of a service.
#[derive(Clone)]
pub(crate) struct GateLayer {
    pub(crate) desk: Arc<Desk>,
}

/// Refuses calls that the role table does not allow.
#[derive(Clone)]
pub(crate) struct Gate<S> {
    inner: S,
    desk: Arc<Desk>,
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;
    fn layer(&self, inner: S) -> Gate<S> {
        Gate {
            inner,
            desk: self.desk.clone(),
        }
    }
}

impl<S> Gate<S> {
    fn judge(&self, request: &Request<Body>) -> Result<(), Status> {
        let path = request.uri().path();
        let Some(peer) = request.extensions().get::<Peer>() else {
            // The acceptors attach a peer to every connection.
            return Err(Status::internal("the connection carries no peer"));
        };
        let role = role_of(peer);
        let Some(roles) = allowed(path) else {
            self.desk.metrics.refused_call("unknown_rpc");
            warn!(?role, path = %path.escape_debug(), "call to an RPC that this server does not have");
            return Err(Status::unimplemented("this server has no such method"));
        };
        if !roles.contains(&role) {
            self.desk.metrics.refused_call("role");
            warn!(?role, path, "call refused by the role table");
            let text = format!("role {role:?} may not call {path}");
            let refusal = Refusal::new(Code::PermissionDenied, "role", text);
            if let Some(session) = agent_session(peer) {
                denials::record_call(&self.desk, &session, &refusal);
            }
            return Err(refusal.into());
        }
        if let Err(garbled) = check_metadata(request.headers()) {
            self.desk.metrics.refused_call("metadata");
            warn!(?role, path, name = %garbled.name(), "call with garbled metadata");
            return Err(Status::invalid_argument(garbled.to_string()));
        }
        Ok(())
    }
}

/// The session of a caller that has proven to be an agent, banned or not: one that calls what no agent calls is no agent
/// of ours at work, and the ledger is where that is looked for.
fn agent_session(peer: &Peer) -> Option<AgentSession> {
    match peer {
        Peer::Tls(tls) => tls.agent_session(),
        Peer::Admin(_) => None,
    }
}

/// A refusal without a message has its code in the head of the answer.
fn spoken(answer: Response<Body>, metrics: &Metrics) -> Response<Body> {
    match Status::from_header_map(answer.headers()) {
        Some(status) if status.code() == Code::OutOfRange => over_limit(status, metrics).into_http(),
        _ => answer,
    }
}

impl<S> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.judge(&request) {
            Ok(()) => {
                let (answer, metrics) = (self.inner.call(request), self.desk.metrics.clone());
                Box::pin(async move { answer.await.map(|answer| spoken(answer, &metrics)) })
            }
            Err(status) => Box::pin(std::future::ready(Ok(status.into_http()))),
        }
    }
}
