//! The trust bundle, for anybody who verifies; those of other trust domains, for administrators.

use std::sync::Arc;

use mintage_proto::v1::{
    BundleRequest, BundleResponse, ListFederatedRequest, ListFederatedResponse, RemoveFederatedRequest,
    RemoveFederatedResponse, SetFederatedRequest, SetFederatedResponse, trust_domain_server::TrustDomain,
};
use mintage_state::View;
use mintage_svid::{JwtKey, TrustBundle};
use tonic::{Request, Response, Status};

use crate::{control::Origin, desk::Desk, federation, pusher::wire_bundle, status::Refusal};

pub(crate) struct TrustService(pub(crate) Arc<Desk>);

/// The bundle document of the state.
pub(crate) fn bundle_document(desk: &Desk, view: &View) -> Result<TrustBundle, Refusal> {
    let bundle = view
        .bundle()
        .ok_or_else(|| Refusal::bug("the ledger holds no bundle"))?;
    let jwt_keys = bundle.jwt_keys.iter().map(|(kid, spki)| JwtKey::new(kid, spki.clone()));
    let made = jwt_keys.collect::<Result<Vec<_>, _>>().and_then(|jwt_keys| {
        TrustBundle::new(
            desk.domain.clone(),
            bundle.roots_der.clone(),
            jwt_keys,
            bundle.sequence,
            Some(300),
        )
    });
    made.map_err(|_| Refusal::bug("the recorded bundle is no bundle"))
}

#[tonic::async_trait]
impl TrustDomain for TrustService {
    async fn bundle(&self, _: Request<BundleRequest>) -> Result<Response<BundleResponse>, Status> {
        let view = self.0.state.view();
        let jwks = bundle_document(&self.0, &view)?.to_jwks_json();
        Ok(Response::new(BundleResponse {
            bundle: Some(wire_bundle(&self.0, &view)),
            jwks,
        }))
    }

    async fn set_federated(
        &self,
        request: Request<SetFederatedRequest>,
    ) -> Result<Response<SetFederatedResponse>, Status> {
        let origin = Origin::of(&request)?;
        Ok(Response::new(
            federation::set(&self.0, &origin, request.into_inner()).await?,
        ))
    }

    async fn list_federated(
        &self,
        _: Request<ListFederatedRequest>,
    ) -> Result<Response<ListFederatedResponse>, Status> {
        Ok(Response::new(federation::list(&self.0.state.view())))
    }

    async fn remove_federated(
        &self,
        request: Request<RemoveFederatedRequest>,
    ) -> Result<Response<RemoveFederatedResponse>, Status> {
        let origin = Origin::of(&request)?;
        Ok(Response::new(
            federation::remove(&self.0, &origin, request.into_inner()).await?,
        ))
    }
}
