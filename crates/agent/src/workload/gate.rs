//! The gate in front of every handler of the socket: looks the caller's role up in the table and refuses what it does not
//! allow.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use super::caller::Caller;
use crate::{
    metrics::Metrics,
    roles::{allowed, role_of},
};

/// Puts a [`Gate`] in front of a service.
#[derive(Clone)]
pub(super) struct GateLayer(pub(super) Arc<Metrics>);

/// Refuses calls that the role table does not allow.
#[derive(Clone)]
pub(super) struct Gate<S> {
    inner: S,
    metrics: Arc<Metrics>,
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;
    fn layer(&self, inner: S) -> Gate<S> {
        Gate {
            inner,
            metrics: self.0.clone(),
        }
    }
}

impl<S> Gate<S> {
    fn judge(&self, request: &Request<Body>) -> Result<(), Status> {
        let path = request.uri().path();
        let Some(caller) = request.extensions().get::<Arc<Caller>>() else {
            // The acceptor attaches a caller to every connection.
            return Err(Status::internal("the connection carries no caller"));
        };
        let Some(roles) = allowed(path) else {
            self.metrics.workload_request("unknown_rpc");
            return Err(Status::unimplemented("this socket has no such method"));
        };
        let own = mintage_sys::process::effective_uid();
        if roles.contains(&role_of(caller.uid(), own)) {
            return Ok(());
        }
        self.metrics.workload_request("role");
        Err(Status::permission_denied(format!(
            "uid {} may not call {path}; use root or uid {own}",
            caller.uid()
        )))
    }
}

/// What gRPC calls a message over the limit: the decoder has another word for it, which no handler of ours uses. A refusal
/// without a message has its code in the head of the answer.
fn spoken(answer: Response<Body>, metrics: &Metrics) -> Response<Body> {
    match Status::from_header_map(answer.headers()) {
        Some(status) if status.code() == Code::OutOfRange => {
            metrics.workload_request("message_size");
            Status::resource_exhausted(status.message()).into_http()
        }
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
                let (answer, metrics) = (self.inner.call(request), self.metrics.clone());
                Box::pin(async move { answer.await.map(|answer| spoken(answer, &metrics)) })
            }
            Err(status) => Box::pin(std::future::ready(Ok(status.into_http()))),
        }
    }
}
