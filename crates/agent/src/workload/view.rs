//! What a socket caller may see, as one immutable value that is published whole, shared by all callers who prove the same,
//! and encoded once for all of them.

use std::sync::{Arc, OnceLock};

use mintage_identity::{EntryName, SpiffeId};
use mintage_proto::workload::{JwtBundlesResponse, X509BundlesResponse, X509svid, X509svidResponse};
use mintage_svid::TrustBundle;

use super::pieces::Pieces;
use crate::{
    bundle::Bundle,
    crls::Crls,
    federation::{Foreign, same},
    held::Held,
};

/// What a call needs: identities are minted on demand, bundles need none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Want {
    /// X.509-SVIDs and the bundle.
    Svids,
    /// The bundle alone.
    Bundles,
}

/// One identity of a caller.
#[derive(Clone)]
pub(crate) struct WorkloadSvid {
    pub(crate) held: Arc<Held>,
    /// Unique within a view when it is not empty.
    pub(crate) hint: String,
}

impl PartialEq for WorkloadSvid {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.held, &other.held) && self.hint == other.hint
    }
}

/// By what callers who prove the same verify others.
pub(crate) struct Trusted {
    pub(crate) bundle: Arc<Bundle>,
    /// Of other trust domains, those that one of their entries federates with, ordered by name.
    pub(crate) federated: Vec<Arc<Foreign>>,
    pub(crate) crls: Arc<Crls>,
}

impl PartialEq for Trusted {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.bundle, &other.bundle)
            && Arc::ptr_eq(&self.crls, &other.crls)
            && same(&self.federated, &other.federated)
    }
}

impl Trusted {
    /// The roots of each other trust domain that has some, by its SPIFFE ID.
    fn federated_roots(&self) -> impl Iterator<Item = (String, Vec<u8>)> {
        let with_roots = self.federated.iter().filter(|foreign| !foreign.roots().is_empty());
        with_roots.map(|foreign| (foreign.domain().id().to_string(), foreign.roots().concat()))
    }
}

/// Everything that callers who prove the same may have now.
pub(crate) struct Given {
    /// In the order of the entries' names; the first is the default identity. Empty for [`Want::Bundles`].
    pub(crate) svids: Vec<WorkloadSvid>,
    pub(crate) trust: Trusted,
    /// Identities that the CA refuses for good, or for which there is no room, and that are not the first.
    pub(crate) left_out: usize,
    x509_svids: OnceLock<Pieces>,
    x509_bundles: OnceLock<Pieces>,
    jwt_bundles: OnceLock<Pieces>,
}

impl PartialEq for Given {
    fn eq(&self, other: &Self) -> bool {
        self.svids == other.svids && self.trust == other.trust && self.left_out == other.left_out
    }
}

impl Given {
    pub(crate) fn new(svids: Vec<WorkloadSvid>, trust: Trusted) -> Self {
        Self {
            svids,
            trust,
            left_out: 0,
            x509_svids: OnceLock::new(),
            x509_bundles: OnceLock::new(),
            jwt_bundles: OnceLock::new(),
        }
    }

    /// The same, of which so many were left out.
    pub(crate) fn without(self, left_out: usize) -> Self {
        Self { left_out, ..self }
    }

    /// `X509SVIDResponse` (SPIFFE Workload API, section 5.2.1). The lists are those of all callers.
    pub(super) fn x509_svids(&self) -> Pieces {
        let make = || {
            let roots = self.trust.bundle.roots().concat();
            let svid = |svid: &WorkloadSvid| X509svid {
                spiffe_id: svid.held.id().to_string(),
                x509_svid: svid.held.chain().concat(),
                x509_svid_key: svid.held.key().to_vec(),
                bundle: roots.clone(),
                hint: svid.hint.clone(),
            };
            let own = X509svidResponse {
                svids: self.svids.iter().map(svid).collect(),
                crl: Vec::new(),
                federated_bundles: self.trust.federated_roots().collect(),
            };
            Pieces::of(&own).and(self.trust.crls.in_x509_svids().into())
        };
        self.x509_svids.get_or_init(make).clone()
    }

    /// `X509BundlesResponse` (section 5.2.2).
    pub(super) fn x509_bundles(&self) -> Pieces {
        let make = || {
            let own = (self.own_domain(), self.trust.bundle.roots().concat());
            let all = X509BundlesResponse {
                crl: Vec::new(),
                bundles: std::iter::once(own).chain(self.trust.federated_roots()).collect(),
            };
            Pieces::of(&all).and(self.trust.crls.in_x509_bundles().into())
        };
        self.x509_bundles.get_or_init(make).clone()
    }

    /// `JWTBundlesResponse` (section 6.2.2): JWT keys alone, as JWK Sets.
    pub(super) fn jwt_bundles(&self) -> Pieces {
        let make = || {
            let keys = |document: &TrustBundle| document.to_jwt_jwks_json().into_bytes();
            let own = (self.own_domain(), keys(self.trust.bundle.document()));
            let documents = self.trust.federated.iter().map(|foreign| foreign.document());
            let with_keys = documents.filter(|document| !document.jwt_keys().is_empty());
            let federated = with_keys.map(|document| (document.trust_domain().id().to_string(), keys(document)));
            Pieces::of(&JwtBundlesResponse {
                bundles: std::iter::once(own).chain(federated).collect(),
            })
        };
        self.jwt_bundles.get_or_init(make).clone()
    }

    fn own_domain(&self) -> String {
        self.trust.bundle.trust_domain().id().to_string()
    }
}

/// The whole answer for one set of selectors.
#[derive(Clone)]
pub(crate) enum WorkloadView {
    /// Certificates are being fetched: the first answer comes in a moment.
    Pending,
    /// The caller has no identity, and why.
    Denied(Arc<str>),
    /// It has, but there is nothing to give yet, and why.
    Unavailable(Arc<str>),
    /// Everything the caller may have now.
    Ready(Arc<Given>),
}

impl PartialEq for WorkloadView {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Pending, Self::Pending) => true,
            (Self::Denied(a), Self::Denied(b)) | (Self::Unavailable(a), Self::Unavailable(b)) => a == b,
            (Self::Ready(a), Self::Ready(b)) => a == b,
            _ => false,
        }
    }
}

/// For a caller who asks what it is to this agent.
pub(crate) struct WhoAmI {
    /// Name, identity, and why not when it does not match.
    pub(crate) entries: Vec<(EntryName, SpiffeId, Option<String>)>,
}

#[cfg(test)]
mod tests {
    use mintage_proto::v1;
    use prost::Message as _;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};

    use super::*;
    use crate::federation::tests::{federation, wire};

    #[test]
    fn callers_share_one_encoding_and_all_share_the_lists() {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params
            .self_signed(&KeyPair::generate().unwrap())
            .unwrap()
            .der()
            .to_vec();
        let own_wire = v1::TrustBundle {
            trust_domain: "dev.test".to_owned(),
            sequence: 1,
            roots: vec![root.clone()],
            ..v1::TrustBundle::default()
        };
        let (bundle, crls) = (Arc::new(Bundle::from_wire(&own_wire).unwrap()), Arc::<Crls>::default());
        let foreign = federation(&[wire("other.test", std::slice::from_ref(&root), false)]);
        let given = |federated: Vec<Arc<Foreign>>| {
            let (bundle, crls) = (bundle.clone(), crls.clone());
            Given::new(
                Vec::new(),
                Trusted {
                    bundle,
                    federated,
                    crls,
                },
            )
        };
        let (one, other) = (given(Vec::new()), given(Vec::new()));
        let federating = given(foreign.iter().cloned().collect());
        assert!(one != federating && federating == given(foreign.iter().cloned().collect()));
        assert!(one == other);
        for of in [Given::x509_svids, Given::x509_bundles, Given::jwt_bundles] {
            assert_eq!(of(&one).places(), of(&one).places(), "streams of one view");
        }
        let own = |given: &Given| given.x509_bundles().places()[0];
        assert_ne!(own(&one), own(&other), "of views that differ");
        for of in [Given::x509_svids, Given::x509_bundles] {
            assert_eq!(of(&one).places()[1], of(&other).places()[1], "lists of all views");
        }
        let told = X509BundlesResponse::decode(&one.x509_bundles().joined()[..]).unwrap();
        assert_eq!(told.bundles, [("spiffe://dev.test".to_owned(), root.clone())].into());
        let told = X509BundlesResponse::decode(&federating.x509_bundles().joined()[..]).unwrap();
        let two = ["spiffe://dev.test", "spiffe://other.test"].map(|id| (id.to_owned(), root.clone()));
        assert_eq!(told.bundles, two.into());
        let told = X509svidResponse::decode(&federating.x509_svids().joined()[..]).unwrap();
        assert_eq!(told.federated_bundles.get("spiffe://other.test"), Some(&root));
        let told = JwtBundlesResponse::decode(&federating.jwt_bundles().joined()[..]).unwrap();
        assert_eq!(told.bundles.len(), 1, "the other trust domain has no JWT keys");
        let told = X509svidResponse::decode(&one.x509_svids().joined()[..]).unwrap();
        assert_eq!(told, X509svidResponse::default());
        let told = JwtBundlesResponse::decode(&one.jwt_bundles().joined()[..]).unwrap();
        assert!(String::from_utf8_lossy(&told.bundles["spiffe://dev.test"]).contains("\"keys\""));
    }
}
