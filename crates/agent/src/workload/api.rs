//! The SPIFFE Workload API: the X.509 profile (SPIFFE Workload API, section 5), and the door to the JWT profile. The service
//! is never extended: what is ours lives in a service of its own.

use std::sync::Arc;

use mintage_proto::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
    spiffe_workload_api_server::SpiffeWorkloadApi,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::Empty;
use tonic::{Request, Response, Status};

use super::{
    caller::Caller,
    jwt::Jwt,
    pieces::{self, Framed, Pieces},
    places::{PerUid, Place},
    view::{Given, Want, WorkloadView},
};
use crate::{core::Input, shared::Shared};

/// What a call makes of what its caller may have.
type Answer = fn(&Given) -> Pieces;
/// What the generated service is given to encode; see [`pieces`].
type Nothing<T> = Empty<Result<T, Status>>;

/// The metadata every call of the SPIFFE service carries (SPIFFE Workload Endpoint, section 3): a request that a fooled
/// HTTP client was made to send does not have it.
const HEADER: &str = "workload.spiffe.io";

/// The service.
pub(super) struct Api {
    shared: Arc<Shared>,
    core: mpsc::Sender<Input>,
    watches: PerUid,
    jwt: Jwt,
}

/// Refuses calls without exactly one `workload.spiffe.io: true`.
pub(super) fn require_header(request: Request<()>) -> Result<Request<()>, Status> {
    let mut values = request.metadata().get_all(HEADER).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value.as_encoded_bytes() == b"true" => Ok(request),
        _ => Err(Status::invalid_argument(
            "the call must carry the metadata workload.spiffe.io: true, once",
        )),
    }
}

/// Too much is asked. The standard has one code for a service that starts and for one that sheds load (SPIFFE Workload
/// Endpoint, section 6), and clients know no other to try again at.
pub(super) fn shed(why: impl Into<String>) -> Status {
    Status::unavailable(why)
}

/// The process behind a request.
pub(super) fn caller_of<T>(request: &Request<T>) -> Result<Arc<Caller>, Status> {
    let caller = request.extensions().get::<Arc<Caller>>();
    caller
        .cloned()
        .ok_or_else(|| Status::permission_denied("the calling process is not known"))
}

impl Api {
    pub(super) fn new(shared: Arc<Shared>, core: mpsc::Sender<Input>, watches: PerUid) -> Self {
        Self {
            jwt: Jwt::new(shared.clone(), core.clone()),
            shared,
            core,
            watches,
        }
    }

    /// A stream that sends `answer` of the caller's view now and at each change of it.
    async fn watch<T>(&self, caller: Arc<Caller>, want: Want, answer: Answer) -> Result<Response<Nothing<T>>, Status> {
        // The process is looked at before the first answer, so not here as well; what it asks for is noted meanwhile.
        if let Err(status) = caller.peer() {
            self.shared.metrics.workload_request("not_attested");
            return Err(status);
        }
        let Some(place) = self.watches.take(caller.uid()) else {
            self.shared.metrics.workload_request("too_many_watches");
            return Err(shed("this user watches too often already; close some streams"));
        };
        let (reply, receive) = oneshot::channel();
        let proven = caller.proven();
        let stopping = || Status::unavailable("the agent is stopping");
        self.core
            .send(Input::Watch { proven, want, reply })
            .await
            .map_err(|_| stopping())?;
        let view = receive.await.map_err(|_| stopping())?.map_err(shed)?;
        let mut watch = Watch {
            caller,
            view,
            shared: self.shared.clone(),
            _place: place,
        };
        // A refusal is the call's own status, not a stream that ends with one.
        let first = watch.next(answer).await?;
        let (sender, messages) = mpsc::channel(1);
        let _ = sender.try_send(Ok(first));
        self.shared.metrics.workload_request("ok");
        self.shared.metrics.watches.inc();
        tokio::spawn(watch.run(sender, answer));
        Ok(pieces::response(messages))
    }
}

/// One open stream.
struct Watch {
    caller: Arc<Caller>,
    view: watch::Receiver<WorkloadView>,
    shared: Arc<Shared>,
    _place: Place,
}

impl Watch {
    async fn run(mut self, sender: mpsc::Sender<Result<Framed, Status>>, answer: Answer) {
        loop {
            let changed = tokio::select! {
                changed = self.view.changed() => changed,
                () = sender.closed() => break,
                () = self.caller.ended() => break,
            };
            let next = match changed {
                Ok(()) => self.next(answer).await,
                Err(_) => Err(Status::unavailable("the agent is stopping")),
            };
            let last = next.is_err();
            if !self.caller.send(&sender, next, &self.shared).await || last {
                break;
            }
        }
        self.shared.metrics.watches.dec();
    }

    /// The answer to the view as it is, once it is one; the process is looked at again just before.
    async fn next(&mut self, answer: Answer) -> Result<Framed, Status> {
        loop {
            let view = self.view.borrow_and_update().clone();
            match view {
                WorkloadView::Pending => {
                    let changed = tokio::select! {
                        changed = self.view.changed() => changed,
                        () = self.caller.ended() => return Err(Status::permission_denied("the calling process has ended")),
                    };
                    changed.map_err(|_| Status::unavailable("the agent is stopping"))?;
                }
                WorkloadView::Denied(why) => {
                    self.caller.still_same().await?;
                    self.shared.metrics.workload_request("denied");
                    self.shared.log_denied(self.caller.uid(), &why);
                    return Err(Status::permission_denied(&*why));
                }
                WorkloadView::Unavailable(why) => {
                    self.caller.still_same().await?;
                    self.shared.metrics.workload_request("unavailable");
                    return Err(Status::unavailable(&*why));
                }
                WorkloadView::Ready(given) => {
                    self.caller.still_same().await?;
                    if given.left_out > 0 {
                        self.shared.metrics.workload_request("incomplete");
                    }
                    return Ok(answer(&given).framed());
                }
            }
        }
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Api {
    type FetchX509SVIDStream = Nothing<X509svidResponse>;
    type FetchX509BundlesStream = Nothing<X509BundlesResponse>;
    type FetchJWTBundlesStream = Nothing<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let caller = caller_of(&request)?;
        self.watch(caller, Want::Svids, Given::x509_svids).await
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        let caller = caller_of(&request)?;
        self.watch(caller, Want::Bundles, Given::x509_bundles).await
    }

    async fn fetch_jwtsvid(&self, request: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        let caller = caller_of(&request)?;
        Ok(Response::new(self.jwt.fetch(caller, request.into_inner()).await?))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        let caller = caller_of(&request)?;
        self.watch(caller, Want::Bundles, Given::jwt_bundles).await
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        let caller = caller_of(&request)?;
        caller.begins().await?;
        Ok(Response::new(self.jwt.validate(&caller, request.get_ref()).await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(values: &[&str]) -> Result<(), tonic::Code> {
        let mut request = Request::new(());
        for value in values {
            request.metadata_mut().append(HEADER, value.parse().unwrap());
        }
        require_header(request).map(|_| ()).map_err(|status| status.code())
    }

    #[test]
    fn w2_the_header_must_be_there_once_and_exactly_true() {
        assert_eq!(verdict(&["true"]), Ok(()));
        for bad in [
            &[][..],
            &["True"],
            &["TRUE"],
            &["1"],
            &["true "],
            &["true", "true"],
            &["true", "false"],
        ] {
            assert_eq!(verdict(bad), Err(tonic::Code::InvalidArgument), "{bad:?}");
        }
    }
}
