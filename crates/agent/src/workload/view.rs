//! What a socket caller may see, as one immutable value that is published whole, shared by all callers who prove the same,
//! and encoded once for all of them.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use mintage_identity::{EntryName, SpiffeId};
use mintage_proto::workload::{JwtBundlesResponse, X509BundlesResponse, X509svid, X509svidResponse};

use super::pieces::Pieces;
use crate::{bundle::Bundle, crls::Crls, held::Held};

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

/// Everything that callers who prove the same may have now.
pub(crate) struct Given {
    /// In the order of the entries' names; the first is the default identity. Empty for [`Want::Bundles`].
    pub(crate) svids: Vec<WorkloadSvid>,
    pub(crate) bundle: Arc<Bundle>,
    pub(crate) crls: Arc<Crls>,
    x509_svids: OnceLock<Pieces>,
    x509_bundles: OnceLock<Pieces>,
    jwt_bundles: OnceLock<Pieces>,
}

impl PartialEq for Given {
    fn eq(&self, other: &Self) -> bool {
        self.svids == other.svids && Arc::ptr_eq(&self.bundle, &other.bundle) && Arc::ptr_eq(&self.crls, &other.crls)
    }
}

impl Given {
    pub(crate) fn new(svids: Vec<WorkloadSvid>, bundle: Arc<Bundle>, crls: Arc<Crls>) -> Arc<Self> {
        Arc::new(Self {
            svids,
            bundle,
            crls,
            x509_svids: OnceLock::new(),
            x509_bundles: OnceLock::new(),
            jwt_bundles: OnceLock::new(),
        })
    }

    /// `X509SVIDResponse` (SPIFFE Workload API, section 5.2.1). The lists are those of all callers.
    pub(super) fn x509_svids(&self) -> Pieces {
        let make = || {
            let roots = self.bundle.roots().concat();
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
                federated_bundles: HashMap::new(),
            };
            Pieces::of(&own).and(self.crls.in_x509_svids().into())
        };
        self.x509_svids.get_or_init(make).clone()
    }

    /// `X509BundlesResponse` (section 5.2.2).
    pub(super) fn x509_bundles(&self) -> Pieces {
        let make = || {
            let own = X509BundlesResponse {
                crl: Vec::new(),
                bundles: HashMap::from([(self.own_domain(), self.bundle.roots().concat())]),
            };
            Pieces::of(&own).and(self.crls.in_x509_bundles().into())
        };
        self.x509_bundles.get_or_init(make).clone()
    }

    /// `JWTBundlesResponse` (section 6.2.2): JWT keys alone, as JWK Sets.
    pub(super) fn jwt_bundles(&self) -> Pieces {
        let make = || {
            let keys = self.bundle.document().to_jwt_jwks_json().into_bytes();
            Pieces::of(&JwtBundlesResponse {
                bundles: HashMap::from([(self.own_domain(), keys)]),
            })
        };
        self.jwt_bundles.get_or_init(make).clone()
    }

    fn own_domain(&self) -> String {
        self.bundle.trust_domain().id().to_string()
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
        let wire = v1::TrustBundle {
            trust_domain: "dev.test".to_owned(),
            sequence: 1,
            roots: vec![root.clone()],
            ..v1::TrustBundle::default()
        };
        let (bundle, crls) = (Arc::new(Bundle::from_wire(&wire).unwrap()), Arc::<Crls>::default());
        let (one, other) = (
            Given::new(Vec::new(), bundle.clone(), crls.clone()),
            Given::new(Vec::new(), bundle, crls),
        );
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
        assert_eq!(told.bundles.get("spiffe://dev.test"), Some(&root));
        let told = X509svidResponse::decode(&one.x509_svids().joined()[..]).unwrap();
        assert_eq!(told, X509svidResponse::default());
        let told = JwtBundlesResponse::decode(&one.jwt_bundles().joined()[..]).unwrap();
        assert!(String::from_utf8_lossy(&told.bundles["spiffe://dev.test"]).contains("\"keys\""));
    }
}
