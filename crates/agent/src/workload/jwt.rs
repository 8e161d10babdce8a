//! The JWT profile of the SPIFFE Workload API (sections 6 and 7): tokens, bundles of JWT keys, and validation.

use std::sync::Arc;

use mintage_identity::{Audiences, SpiffeId};
use mintage_proto::workload::{
    Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest, ValidateJwtsvidResponse,
};
use mintage_svid::JwtSvid;
use prost_types::{ListValue, Struct, Value, value::Kind};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use super::{
    api::shed,
    caller::Caller,
    places::{PerUid, Place},
    view::{Want, WorkloadView},
};
use crate::{
    core::{Input, JwtCall, NoJwt},
    federation::Foreign,
    jwt::believe,
    limits::{JWT_CALLS_MAX, JWT_CALLS_PER_UID_MAX, JWT_LEEWAY_SECONDS},
    shared::Shared,
};

/// The part of the service that deals in tokens.
pub(super) struct Jwt {
    shared: Arc<Shared>,
    core: mpsc::Sender<Input>,
    /// Calls under way: each may cost a signature check, or a record at the CA.
    calls: PerUid,
}

impl Jwt {
    pub(super) fn new(shared: Arc<Shared>, core: mpsc::Sender<Input>) -> Self {
        Self {
            shared,
            core,
            calls: PerUid::new(JWT_CALLS_PER_UID_MAX, JWT_CALLS_MAX),
        }
    }

    fn place(&self, caller: &Caller) -> Result<Place, Status> {
        let busy = || {
            self.shared.metrics.workload_request("too_many_calls");
            shed("this user asks for too many JWT-SVIDs at once; try again")
        };
        self.calls.take(caller.uid()).ok_or_else(busy)
    }

    /// Tokens for the audiences of the request: of the identity it names, or of each that the caller may have.
    pub(super) async fn fetch(&self, caller: Arc<Caller>, request: JwtsvidRequest) -> Result<JwtsvidResponse, Status> {
        let audiences =
            Audiences::parse(&request.audience).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let id = match request.spiffe_id.as_str() {
            "" => None,
            text => Some(SpiffeId::parse(text).map_err(|error| Status::invalid_argument(error.to_string()))?),
        };
        if let Err(status) = caller.begins().await {
            self.shared.metrics.workload_request("not_attested");
            return Err(status);
        }
        let _place = self.place(&caller)?;
        let (reply, receive) = oneshot::channel();
        let call = JwtCall {
            proven: caller.proven(),
            id,
            audiences,
            reply,
        };
        let stopping = || Status::unavailable("the agent is stopping");
        self.core.send(Input::Jwt(call)).await.map_err(|_| stopping())?;
        let answer = tokio::select! {
            answer = receive => answer.map_err(|_| stopping())?,
            () = caller.ended() => return Err(Status::permission_denied("the calling process has ended")),
        };
        let svids = answer.map_err(|no| self.refusal(&caller, no))?;
        caller.still_same().await?;
        self.shared.metrics.workload_request("ok");
        let svids = svids.into_iter().map(|svid| Jwtsvid {
            spiffe_id: svid.held.id().to_string(),
            svid: svid.held.token().to_owned(),
            hint: svid.hint,
        });
        Ok(JwtsvidResponse { svids: svids.collect() })
    }

    fn refusal(&self, caller: &Caller, no: NoJwt) -> Status {
        match no {
            NoJwt::Denied(why) => {
                self.shared.metrics.workload_request("denied");
                self.shared.log_denied(caller.uid(), &why);
                Status::permission_denied(why)
            }
            NoJwt::Invalid(why) => {
                self.shared.metrics.workload_request("invalid");
                Status::invalid_argument(why)
            }
            NoJwt::Unavailable(why) => {
                self.shared.metrics.workload_request("unavailable");
                Status::unavailable(why)
            }
            NoJwt::Exhausted(why) => {
                self.shared.metrics.workload_request("too_many_calls");
                shed(why)
            }
        }
    }

    /// Validates a token for the caller, who need not have an identity for one of the own trust domain: what is asked of is
    /// public. Those of others are believed for callers one of whose entries federates with them.
    pub(super) async fn validate(
        &self,
        caller: &Caller,
        request: &ValidateJwtsvidRequest,
    ) -> Result<ValidateJwtsvidResponse, Status> {
        let refused = |why: String| {
            self.shared.metrics.workload_request("jwt_refused");
            Status::invalid_argument(format!("the JWT-SVID is not valid: {why}"))
        };
        if request.audience.is_empty() {
            return Err(Status::invalid_argument(
                "audience: is missing; name the audience that the token must be for",
            ));
        }
        let _place = self.place(caller)?;
        let svid = JwtSvid::parse(&request.svid).map_err(|error| refused(error.to_string()))?;
        let Some(bundle) = self.shared.bundle.load_full() else {
            return Err(Status::unavailable("there is no trust bundle yet"));
        };
        let now = self.shared.wall();
        svid.validate(&request.audience, now, JWT_LEEWAY_SECONDS)
            .map_err(|error| refused(error.to_string()))?;
        let foreign = match svid.id().is_member_of(&self.shared.domain) {
            true => None,
            false => self.federated(caller, &svid).await?,
        };
        let document = foreign.as_ref().map_or(bundle.document(), |foreign| foreign.document());
        believe(&svid, document, &self.shared.view.load(), now).map_err(refused)?;
        self.shared.metrics.workload_request("ok");
        Ok(ValidateJwtsvidResponse {
            spiffe_id: svid.id().to_string(),
            claims: Some(structure(svid.claims())),
        })
    }
}

impl Jwt {
    /// The bundle of the token's trust domain, where one of the caller's entries federates with it.
    async fn federated(&self, caller: &Caller, svid: &JwtSvid) -> Result<Option<Arc<Foreign>>, Status> {
        let (reply, receive) = oneshot::channel();
        let (proven, want) = (caller.proven(), Want::Bundles);
        let stopping = |_| Status::unavailable("the agent is stopping");
        let watch = Input::Watch { proven, want, reply };
        self.core.send(watch).await.map_err(|_| stopping(()))?;
        let view = receive.await.map_err(|_| stopping(()))?;
        let mut view = view.map_err(shed)?;
        let settled = view.wait_for(|view| !matches!(view, WorkloadView::Pending)).await;
        let settled = settled.map_err(|_| stopping(()))?.clone();
        match settled {
            WorkloadView::Ready(given) => {
                let domain = svid.id().trust_domain();
                let mut federated = given.trust.federated.iter();
                Ok(federated.find(|foreign| *foreign.domain() == domain).cloned())
            }
            WorkloadView::Unavailable(why) => Err(Status::unavailable(&*why)),
            // Who has no identity federates with nobody: the token is refused as one of another trust domain.
            WorkloadView::Denied(_) | WorkloadView::Pending => Ok(None),
        }
    }
}

/// Claims as the wire has them: its numbers are doubles, so integers above 2^53 lose their last digits.
fn structure(claims: &serde_json::Map<String, serde_json::Value>) -> Struct {
    Struct {
        fields: claims
            .iter()
            .map(|(name, claim)| (name.clone(), value(claim)))
            .collect(),
    }
}

fn value(claim: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    let kind = match claim {
        Json::Null => Kind::NullValue(0),
        Json::Bool(is) => Kind::BoolValue(*is),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => Kind::StringValue(text.clone()),
        Json::Array(list) => Kind::ListValue(ListValue {
            values: list.iter().map(value).collect(),
        }),
        Json::Object(map) => Kind::StructValue(structure(map)),
    };
    Value { kind: Some(kind) }
}
