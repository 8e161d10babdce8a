//! Lists of revoked certificates for software that speaks only X.509 (RFC 5280): one full list for each key of the chain.
//!
//! The issuing key's list is a view of the ledger like the signed filter: it follows the state, rules are spelt out into
//! the live serials that they strike, and whatever has expired is left out. The root's list is made with the root, whose key
//! is then away.

mod entries;
mod keep;
mod number;
mod renew;
mod root;
mod settings;

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use mintage_identity::{IssuerKeyId, UnixTime};
use mintage_svid::Crl;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

pub(crate) use keep::{keep, take_root};
pub(crate) use number::LastNumber;
pub(crate) use renew::next_root_list;
pub use renew::{RenewOptions, Renewed, renew_root_crl};
pub(crate) use root::RootList;
pub(crate) use settings::CrlSettings;

use crate::limits::{CRL_STREAMS_OF_AGENTS_MAX, CRL_STREAMS_OF_OTHERS_MAX};

/// What to do about the end of the root's list.
pub(crate) const ROOT_CRL_REMEDY: &str = "renew it with the key of the root: mintage-ca renew-root-crl, then SIGHUP";

/// One signed list.
#[derive(Debug)]
pub(crate) struct SignedList {
    pub(crate) issuer: IssuerKeyId,
    pub(crate) list: Crl,
    /// The list once more, shared by all who are sent it.
    pub(crate) octets: Bytes,
}

impl SignedList {
    fn new(issuer: IssuerKeyId, list: Crl) -> Self {
        let octets = Bytes::copy_from_slice(list.der());
        Self { issuer, list, octets }
    }
}

/// Every current list; shared by all streams, replaced whole.
pub(crate) type Lists = Arc<[Arc<SignedList>]>;

/// The current lists, and the places of those who follow them.
#[derive(Debug)]
pub(crate) struct Crls {
    settings: CrlSettings,
    /// Replaced when it was renewed; none where there is none.
    root: ArcSwapOption<SignedList>,
    number: LastNumber,
    /// None before the issuing key's first list is signed.
    current: watch::Sender<Option<Lists>>,
    pub(crate) agents: Arc<Semaphore>,
    pub(crate) others: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Crls {
    pub(crate) fn new(settings: CrlSettings, root: Option<RootList>, number: LastNumber) -> Self {
        Self {
            settings,
            root: ArcSwapOption::new(root.map(|root| Arc::new(root.0))),
            number,
            current: watch::Sender::new(None),
            agents: Arc::new(Semaphore::new(CRL_STREAMS_OF_AGENTS_MAX)),
            others: Arc::new(Semaphore::new(CRL_STREAMS_OF_OTHERS_MAX)),
            stop: CancellationToken::new(),
        }
    }

    /// The lists from now on.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Lists>> {
        self.current.subscribe()
    }

    /// The lists now; none before the issuing key's first is signed.
    pub(crate) fn current(&self) -> Option<Lists> {
        self.current.borrow().clone()
    }

    /// When the root's list ends, which nothing here renews; none where there is none.
    pub(crate) fn root_end(&self) -> Option<UnixTime> {
        Some(self.root.load().as_ref()?.list.next_update())
    }

    /// Ends every stream: the CA stops.
    pub(crate) fn dismiss(&self) {
        self.stop.cancel();
    }

    /// Completes when every stream is to end.
    pub(crate) async fn dismissed(&self) {
        self.stop.cancelled().await;
    }

    /// Puts a list of the issuing key in the place of the former one.
    fn publish(&self, list: SignedList) {
        let list = Arc::new(list);
        self.current
            .send_modify(|current| *current = Some(self.root.load_full().into_iter().chain([list]).collect()));
    }
    /// Puts a list of the root in the place of the former one.
    fn publish_root(&self, list: SignedList) {
        let list = Arc::new(list);
        self.current.send_modify(|current| {
            self.root.store(Some(list.clone()));
            // Without the issuing key's there is no set yet; that one takes this one along.
            if let Some(lists) = current {
                let others = lists.iter().filter(|one| one.issuer != list.issuer);
                *lists = [&list].into_iter().chain(others).cloned().collect();
            }
        });
    }
}
