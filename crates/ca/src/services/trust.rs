//! The trust bundle, for anybody who verifies.

use std::sync::Arc;

use mintage_proto::v1::{BundleRequest, BundleResponse, trust_domain_server::TrustDomain};
use mintage_state::View;
use mintage_svid::{JwtKey, TrustBundle};
use tonic::{Request, Response, Status};

use crate::{desk::Desk, pusher::wire_bundle, status::Refusal};

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
}
