//! A lost reply asked for again: the same agent, request id and key get the recorded certificate, not a second one.

use mintage_identity::{AgentName, RequestId, UnixTime};
use mintage_ledger::{Body, Hash};
use mintage_mint::ProvenKey;
use mintage_proto::v1;
use mintage_svid::LeafInfo;
use tonic::Code;

use crate::{desk::Desk, status::Refusal};

/// A certificate with its place in the ledger, as it goes to the caller.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// DER.
    pub(crate) leaf: Vec<u8>,
    pub(crate) origin: String,
    pub(crate) index: u64,
    pub(crate) leaf_hash: Hash,
}

impl Answer {
    /// Where the record stands.
    pub(crate) fn receipt(&self) -> v1::Receipt {
        v1::Receipt {
            origin: self.origin.clone(),
            index: self.index,
            leaf_hash: self.leaf_hash.as_bytes().to_vec(),
        }
    }
}

/// The recorded answer to this request id of this agent, if there is one and its certificate lives.
pub(crate) fn recorded_answer(
    desk: &Desk,
    agent: &AgentName,
    request_id: &RequestId,
    key: &ProvenKey,
    now: UnixTime,
) -> Result<Option<Answer>, Refusal> {
    let unreadable = |_| Refusal::unavailable("ledger-read", "the recorded answer cannot be read");
    let Some(issued) = desk.index.answered(agent, request_id, now).map_err(unreadable)? else {
        return Ok(None);
    };
    let Body::Issue(body) = issued.stored.decode().map_err(unreadable)?.body else {
        return Ok(None);
    };
    let leaf = LeafInfo::parse(&body.certificate_der).map_err(|_| Refusal::bug("a recorded certificate is no SVID"))?;
    if leaf.spki_sha256() != key.spki_sha256() {
        let text = "this request id was used for another key; draw a new request id for each request";
        return Err(Refusal::new(Code::AlreadyExists, "request-id-reused", text));
    }
    // A certificate of a former issuer is answered by issuing anew: its chain is not ours to give any more.
    if body.issuer_key_id != desk.issuer.key_id().as_bytes() {
        return Ok(None);
    }
    let position = issued.stored.index();
    let Some((log, index)) = desk
        .journal
        .log_of(position)
        .and_then(|log| Some((log.clone(), log.leaf_at(position)?)))
    else {
        return Ok(None);
    };
    Ok(Some(Answer {
        leaf: body.certificate_der,
        origin: log.origin().as_str().to_owned(),
        index,
        leaf_hash: issued.stored.leaf_hash(),
    }))
}
