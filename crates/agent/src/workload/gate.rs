//! The gate in front of every handler of the socket: looks the caller's role up in the table, refuses what it does not
//! allow and metadata that no gRPC client sends, and counts the streams of services that do not count them.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body_util::BodyExt;
use mintage_proto::check_metadata;
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use super::{
    caller::Caller,
    places::{PerUid, Place},
};
use crate::{
    metrics::Metrics,
    roles::{allowed, is_open_ended, role_of},
};

/// Puts a [`Gate`] in front of a service.
#[derive(Clone)]
pub(super) struct GateLayer {
    pub(super) metrics: Arc<Metrics>,
    /// Open streams by user.
    pub(super) streams: PerUid,
}

/// Refuses calls that the role table does not allow.
#[derive(Clone)]
pub(super) struct Gate<S> {
    inner: S,
    metrics: Arc<Metrics>,
    streams: PerUid,
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;
    fn layer(&self, inner: S) -> Gate<S> {
        Gate {
            inner,
            metrics: self.metrics.clone(),
            streams: self.streams.clone(),
        }
    }
}

impl<S> Gate<S> {
    /// Whether the call may come in, and what it holds while it is answered.
    fn judge(&self, request: &Request<Body>) -> Result<Option<Place>, Status> {
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
        if !roles.contains(&role_of(caller.uid(), own)) {
            self.metrics.workload_request("role");
            return Err(Status::permission_denied(format!(
                "uid {} may not call {path}; use root or uid {own}",
                caller.uid()
            )));
        }
        if let Err(garbled) = check_metadata(request.headers()) {
            self.metrics.workload_request("metadata");
            return Err(Status::invalid_argument(garbled.to_string()));
        }
        if !is_open_ended(path) {
            return Ok(None);
        }
        self.streams.take(caller.uid()).map(Some).ok_or_else(|| {
            self.metrics.workload_request("too_many_watches");
            Status::resource_exhausted("this user has too many open streams already; close some")
        })
    }
}

/// The answer, which holds the place of its stream to its end.
fn holding(answer: Response<Body>, place: Option<Place>) -> Response<Body> {
    let Some(place) = place else { return answer };
    answer.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _held = &place;
            frame
        }))
    })
}

/// What gRPC calls a message over the limit: the decoder has another word for it, which no handler of ours uses. A refusal
/// without a message has its code in the head of the answer.
fn spoken(answer: Response<Body>, metrics: &Metrics) -> Response<Body> {
    match Status::from_header_map(answer.headers()) {
        Some(status) if status.code() == Code::OutOfRange => {
            metrics.workload_request("message_size");
            refuse(&Status::resource_exhausted(status.message()), metrics)
        }
        Some(status) if status.code() != Code::Ok => {
            metrics.refused(status.code());
            answer
        }
        _ => answer,
    }
}

fn refuse(status: &Status, metrics: &Metrics) -> Response<Body> {
    metrics.refused(status.code());
    status.clone().into_http()
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
            Ok(place) => {
                let (answer, metrics) = (self.inner.call(request), self.metrics.clone());
                Box::pin(async move { answer.await.map(|answer| holding(spoken(answer, &metrics), place)) })
            }
            Err(status) => Box::pin(std::future::ready(Ok(refuse(&status, &self.metrics)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_holds_its_place_until_it_has_ended() {
        let places = PerUid::new(1, 1);
        let place = places.take(7);
        let answer = holding(Response::new(Body::new("x".to_owned())), place);
        assert!(places.take(7).is_none());
        let body = answer.into_body();
        assert!(places.take(7).is_none());
        drop(body);
        assert!(places.take(7).is_some());
    }
}
