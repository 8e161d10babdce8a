//! Two trust domains beside each other, and what an operator of one says of the other.

use std::path::Path;

use mintage_identity::TrustDomain;
use mintage_proto::v1::{
    BundleRequest, Entry, ListFederatedRequest, ListFederatedResponse, RemoveFederatedRequest, SetFederatedRequest,
    SetFederatedResponse, trust_domain_client::TrustDomainClient,
};
use tonic::{Response, Status, transport::Channel};

use super::client::admin;

/// The other trust domain of tests.
pub fn other_domain() -> TrustDomain {
    TrustDomain::parse("other.test").expect("a trust domain")
}

/// An entry for every agent and for whoever has this process's user id.
pub fn own_entry(trust_domain: &TrustDomain, name: &str) -> Entry {
    Entry {
        name: name.to_owned(),
        spiffe_id: format!("spiffe://{trust_domain}/{name}"),
        agents: vec![format!("spiffe://{trust_domain}/mintage/agent/*")],
        selectors: vec![format!("unix:uid:{}", rustix::process::geteuid().as_raw())],
        ..Entry::default()
    }
}

/// The same, which federates with another trust domain.
pub fn federating_entry(trust_domain: &TrustDomain, name: &str, with: &TrustDomain) -> Entry {
    Entry {
        federates_with: vec![with.to_string()],
        ..own_entry(trust_domain, name)
    }
}

async fn client(socket: &Path) -> TrustDomainClient<Channel> {
    TrustDomainClient::new(admin(socket).await.expect("the admin socket answers"))
}

/// The bundle document of the CA behind this admin socket.
pub async fn document(socket: &Path) -> String {
    let bundle = client(socket).await.bundle(BundleRequest {}).await;
    bundle.expect("a bundle").into_inner().jwks
}

/// Hands in a bundle.
///
/// # Errors
/// The CA's refusal.
pub async fn federate(socket: &Path, request: SetFederatedRequest) -> Result<SetFederatedResponse, Status> {
    let taken = client(socket).await.set_federated(request).await;
    taken.map(Response::into_inner)
}

/// Hands in the document of another CA, about whose certificates nothing is asked.
pub async fn federate_with(socket: &Path, trust_domain: &TrustDomain, document: &str) {
    let request = SetFederatedRequest {
        trust_domain: trust_domain.to_string(),
        document: document.to_owned(),
        revocation_unchecked: true,
        dry_run: false,
    };
    let taken = federate(socket, request).await.expect("the bundle is taken");
    assert!(taken.changed && taken.index > 0, "{taken:?}");
}

/// Takes it away.
pub async fn unfederate(socket: &Path, trust_domain: &TrustDomain) {
    let request = RemoveFederatedRequest {
        trust_domain: trust_domain.to_string(),
        dry_run: false,
    };
    let removed = client(socket).await.remove_federated(request).await;
    removed.expect("it is removed");
}

/// What stands.
pub async fn federated(socket: &Path) -> ListFederatedResponse {
    let list = client(socket).await.list_federated(ListFederatedRequest {}).await;
    list.expect("a list").into_inner()
}
