//! What can be told of a record without a view: whether the state wants it, which objects it touches, and the entry in it.
//! It is told ahead of the thread that applies.

use std::sync::Arc;

use mintage_identity::{AgentName, EntryName, IssuerKeyId, Reserved, SpiffeId, TrustDomain};
use mintage_ledger::{Body, Kind, Record, Stored, wire};
use mintage_policy::Entry;
use prost::Message;

use crate::apply::token_id;
use crate::convert::entry_from_put;
use crate::error::StateError;
use crate::key::Key;

/// The two fields of an issue record that tell whether the state wants it; everything else is skipped unread.
#[derive(Clone, PartialEq, Message)]
struct IssueHead {
    #[prost(message, optional, tag = "16")]
    issue: Option<IssueProfile>,
}

#[derive(Clone, PartialEq, Message)]
struct IssueProfile {
    #[prost(enumeration = "wire::Profile", tag = "10")]
    profile: i32,
}

/// A record that was read ahead, without what the state does not want.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) index: u64,
    pub(crate) wanted: Option<Wanted>,
}

/// What can be told of a record without a view.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) record: Record,
    /// The objects that it may change.
    pub(crate) touched: Vec<Key>,
    /// The entry that it puts; none when it is another record, or cannot be read.
    pub(crate) entry: Option<Arc<Entry>>,
}

impl Wanted {
    fn read(mut record: Record, domain: &TrustDomain) -> Self {
        let (touched, entry) = (touched(&record.body), entry_of(&record.body, domain));
        if let (Some(_), Body::EntryPut(put)) = (&entry, &mut record.body) {
            // What the entry holds is let go here and not by the thread that applies.
            *put = wire::EntryPut {
                replaces_revision: put.replaces_revision,
                ..wire::EntryPut::default()
            };
        }
        Self { record, touched, entry }
    }
}

impl Decoded {
    /// # Errors
    /// Fails when a record that the state wants cannot be decoded.
    pub(crate) fn read(stored: &Stored, domain: &TrustDomain) -> Result<Self, StateError> {
        let record = concerns(stored).then(|| stored.decode()).transpose()?;
        Ok(Self {
            index: stored.index(),
            wanted: record.map(|record| Wanted::read(record, domain)),
        })
    }
}

/// The entry that a record puts; none when it is another record, or cannot be read.
pub(crate) fn entry_of(body: &Body, domain: &TrustDomain) -> Option<Arc<Entry>> {
    match body {
        Body::EntryPut(put) => entry_from_put(put, domain).ok().map(Arc::new),
        _ => None,
    }
}

/// True for what the state wants: control records, and the certificates of agents.
pub(crate) fn concerns(stored: &Stored) -> bool {
    match stored.kind() {
        Some(Kind::Issue) => is_agent_issue(stored.bytes()),
        Some(kind) => kind.is_control(),
        None => true,
    }
}

fn is_agent_issue(bytes: &[u8]) -> bool {
    let head = IssueHead::decode(bytes).ok().and_then(|head| head.issue);
    // What cannot be read is decoded whole, which says why.
    head.is_none_or(|issue| issue.profile() == wire::Profile::Agent)
}

/// The objects a record may change, apart from what it folds into the revoked set.
pub(crate) fn touched(body: &Body) -> Vec<Key> {
    let entry = |name: &str| EntryName::parse(name).ok().map(Key::Entry);
    let agent = |name: &str| AgentName::parse(name).ok().map(Key::Agent);
    let federated = |name: &str| TrustDomain::parse(name).ok().map(Key::Federated);
    let token = |hash: &[u8]| token_id(hash).ok().map(Key::Token);
    let keys = match body {
        Body::EntryPut(put) => [entry(&put.name), None],
        Body::EntryDelete(delete) => [entry(&delete.name), None],
        Body::TokenCreate(create) => [token(&create.token_hash), None],
        Body::TokenDelete(delete) => [token(&delete.token_hash), None],
        Body::TokenConsume(consume) => [
            token(&consume.token_hash),
            consume.attest.as_ref().and_then(|attest| agent(&attest.name)),
        ],
        Body::AgentAttest(attest) => [agent(&attest.name), None],
        Body::AgentBan(ban) => [agent(&ban.name), None],
        Body::AgentEvict(evict) => [agent(&evict.name), None],
        Body::Issue(issue) => match SpiffeId::parse(&issue.spiffe_id).ok().and_then(|id| id.reserved()) {
            Some(Reserved::Agent(name)) => [Some(Key::Agent(name)), None],
            _ => [None, None],
        },
        Body::CaEvent(event) => [
            IssuerKeyId::from_slice(&event.key_id)
                .ok()
                .map(|id| Key::Ca(event.role, id)),
            None,
        ],
        Body::BundleChange(_) => [Some(Key::Bundle), None],
        Body::BundleFederatedSet(set) => [federated(&set.trust_domain), None],
        Body::BundleFederatedRemove(gone) => [federated(&gone.trust_domain), None],
        _ => [None, None],
    };
    keys.into_iter().flatten().collect()
}
