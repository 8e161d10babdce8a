//! The gate in front of every handler: looks the caller's role up in the table and refuses what it does not allow, refuses
//! garbled metadata, and gives a message over its limit the code that gRPC has for it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use mintage_attest::AgentSession;
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

/// Binary metadata comes with padding or without it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

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
        if let Some(name) = garbled(request.headers()) {
            self.desk.metrics.refused_call("metadata");
            warn!(?role, path, %name, "call with garbled metadata");
            let text =
                format!("metadata {name}: base64 is taken under names ending in -bin, printable ASCII elsewhere");
            return Err(Status::invalid_argument(text));
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

/// The first header with a value that no gRPC client sends. Nothing here reads such metadata; it is refused so that nothing
/// behind this gate ever has to.
fn garbled(headers: &HeaderMap) -> Option<&HeaderName> {
    headers
        .iter()
        .find(|(name, value)| !is_sound(name, value))
        .map(|(name, _)| name)
}

fn is_sound(name: &HeaderName, value: &HeaderValue) -> bool {
    match name.as_str().ends_with("-bin") {
        // Several values of one name may travel in one line.
        true => value
            .as_bytes()
            .split(|octet| *octet == b',')
            .all(|one| BASE64.decode(one.trim_ascii()).is_ok()),
        false => value.to_str().is_ok(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_metadata_is_base64_and_the_rest_is_printable() {
        let sound = |name: &str, value: &[u8]| {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            is_sound(&name, &HeaderValue::from_bytes(value).unwrap())
        };
        for good in ["", "AA", "AA==", "AAAA, AA ,AAA="] {
            assert!(sound("x-bin", good.as_bytes()), "{good:?}");
        }
        for bad in [b"A".as_slice(), b"!!!!", b"AA=A", b"\xff\xfe", b"AA;AA", b"A A"] {
            assert!(!sound("x-bin", bad), "{bad:?}");
        }
        assert!(sound("x-text", b"any ~ text\t") && !sound("x-text", b"caf\xe9"));
    }
}
