//! What a socket caller may see, as one immutable value that is published whole and shared by all callers who prove the
//! same.

use std::sync::Arc;

use mintage_identity::{EntryName, SpiffeId};

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
    Ready {
        /// In the order of the entries' names; the first is the default identity. Empty for [`Want::Bundles`].
        svids: Arc<Vec<WorkloadSvid>>,
        bundle: Arc<Bundle>,
        crls: Arc<Crls>,
    },
}

impl PartialEq for WorkloadView {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Pending, Self::Pending) => true,
            (Self::Denied(a), Self::Denied(b)) | (Self::Unavailable(a), Self::Unavailable(b)) => a == b,
            (
                Self::Ready { svids, bundle, crls },
                Self::Ready {
                    svids: others,
                    bundle: other,
                    crls: lists,
                },
            ) => svids == others && Arc::ptr_eq(bundle, other) && Arc::ptr_eq(crls, lists),
            _ => false,
        }
    }
}

/// For a caller who asks what it is to this agent.
pub(crate) struct WhoAmI {
    /// Name, identity, and why not when it does not match.
    pub(crate) entries: Vec<(EntryName, SpiffeId, Option<String>)>,
}
