//! A control change, on the same road as an issuance: command -> check against the state -> record -> ledger -> state ->
//! reply. When the ledger says Moved, the command is checked again on the newer state.

use std::sync::Arc;

use mintage_identity::RequestId;
use mintage_ledger::{
    Actor, Attestation, Body, CommitError, CommitTicket, EncodedRecord, Kind, Record, limits::GROUP_RECORDS_MAX,
};
use mintage_state::View;

use crate::{
    desk::Desk,
    limits::DECIDE_ROUNDS_MAX,
    peer::{AdminPeer, Peer},
    status::Refusal,
};

/// Bytes of records in one submission: a group takes 1 MB, frames included.
const GROUP_BYTES: usize = 900 * 1024;

/// Who gives the command and under which name.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) actor: Actor,
    pub(crate) attestation: Option<Attestation>,
    pub(crate) request_id: Option<RequestId>,
}

impl Origin {
    /// An administrator, by the credentials of the socket.
    pub(crate) fn admin(peer: AdminPeer) -> Self {
        let actor = Actor::Admin {
            uid: peer.uid,
            pid: peer.pid,
            name: String::new(),
            address: "admin socket".to_owned(),
        };
        Self {
            actor,
            attestation: None,
            request_id: None,
        }
    }

    /// The CA itself.
    pub(crate) fn replica(desk: &Desk) -> Self {
        Self {
            actor: Actor::Replica { id: desk.own_id() },
            attestation: None,
            request_id: None,
        }
    }

    /// The caller of a request; the gate has let only administrators through.
    pub(crate) fn of<T>(request: &tonic::Request<T>) -> Result<Self, Refusal> {
        match request.extensions().get::<Peer>() {
            Some(Peer::Admin(peer)) => Ok(Self::admin(*peer)),
            _ => Err(Refusal::bug("an admin call without admin credentials passed the gate")),
        }
    }
}

/// Checks with `check` and records what it makes, in one go: either every record stands, in order, or the first failure
/// is told. What takes something away waits for its turn. Returns what `check` made beside the records, and the index of the last record (`None` without records).
pub(crate) async fn command<T>(
    desk: &Arc<Desk>,
    origin: &Origin,
    check: impl Fn(&View) -> Result<(Vec<Body>, T), Refusal>,
) -> Result<(T, Option<u64>), Refusal> {
    let mut turn = None;
    for _ in 0..DECIDE_ROUNDS_MAX {
        let view = desk.state.view();
        let seen = view.control_head();
        let (bodies, made) = check(&view)?;
        drop(view);
        if bodies.is_empty() {
            return Ok((made, None));
        }
        if turn.is_none() && bodies.iter().any(takes_away) {
            turn = Some(
                desk.turns
                    .take()
                    .await
                    .inspect_err(|refusal| desk.metrics.refused_call(refusal.code))?,
            );
            // What was decided before its turn counts only when nothing came in front.
            if desk.state.view().control_head() != seen {
                continue;
            }
        }
        let records = encode(desk, origin, bodies, seen)?;
        match append(desk, records, seen).await? {
            Appended::At(index) => {
                desk.wait_applied(Some(index)).await?;
                match desk.state.view().ignored(index) {
                    Some(why) => return Err(Refusal::unavailable(why.code(), "another change came first; ask again")),
                    None => return Ok((made, Some(index))),
                }
            }
            Appended::Moved(head) => {
                desk.state
                    .wait_applied(head.saturating_sub(1))
                    .await
                    .map_err(|error| Refusal::unavailable("state", error.to_string()))?;
            }
        }
    }
    Err(Refusal::unavailable(
        "moved",
        "the state kept changing under this command; ask again",
    ))
}

/// True for what moves the state under decisions that were made before.
fn takes_away(body: &Body) -> bool {
    Kind::of(body).restricts() || matches!(body, Body::EntryPut(put) if put.replaces_revision != 0)
}

/// Records something that restricts nobody and that no reply waits for.
pub(crate) fn note(desk: &Desk, origin: &Origin, body: Body) {
    drop(submit_note(desk, origin, body));
}

/// The same for who asks whether it was recorded; `None` where it could not even be made.
pub(crate) fn submit_note(desk: &Desk, origin: &Origin, body: Body) -> Option<CommitTicket> {
    match encode(desk, origin, vec![body], 0) {
        Ok(records) => {
            let records = records.into_iter().map(|record| (record, u64::MAX)).collect();
            Some(desk.commits.submit(records))
        }
        Err(error) => {
            tracing::warn!(%error, "a note could not be recorded");
            None
        }
    }
}

/// One record of this origin that restricts nobody.
pub(crate) fn encode_one(desk: &Desk, origin: &Origin, body: Body) -> Result<EncodedRecord, Refusal> {
    let mut records = encode(desk, origin, vec![body], 0)?;
    records.pop().ok_or_else(|| Refusal::bug("a record was lost"))
}

fn encode(desk: &Desk, origin: &Origin, bodies: Vec<Body>, control_seen: u64) -> Result<Vec<EncodedRecord>, Refusal> {
    let time = desk.clock.now()?;
    let make = |body| {
        let record = Record {
            time,
            salt: desk.random()?,
            actor: origin.actor.clone(),
            attestation: origin.attestation.clone(),
            request_id: origin.request_id,
            replica: desk.replica.as_str().to_owned(),
            control_seen,
            body,
        };
        record.encode().map_err(|error| Refusal::invalid(error.to_string()))
    };
    bodies.into_iter().map(make).collect()
}

enum Appended {
    At(u64),
    Moved(u64),
}

/// Appends the records in order: as one submission, which stands whole or not at all, or as several when they are more
/// than a group takes. Each further one was decided on the same state, so it counts as having seen the one before it.
async fn append(desk: &Desk, records: Vec<EncodedRecord>, seen: u64) -> Result<Appended, Refusal> {
    let mut seen = seen;
    let mut last = None;
    for group in groups(records) {
        let group = group.into_iter().map(|record| (record, seen)).collect();
        for outcome in desk.commits.submit(group).outcomes().await {
            match outcome {
                Ok(receipt) => last = Some(receipt.position()),
                // Nothing of this command stands yet: it can be checked again as a whole.
                Err(CommitError::Moved { control_head }) if last.is_none() => return Ok(Appended::Moved(control_head)),
                Err(CommitError::Moved { .. }) => {
                    let text = "another change came between the parts of this command; what stands, stands: ask again";
                    return Err(Refusal::unavailable("moved", text));
                }
                Err(error) => return Err(error.into()),
            }
        }
        seen = last.map_or(seen, |index| index + 1);
    }
    last.map(Appended::At)
        .ok_or_else(|| Refusal::bug("a command without records was appended"))
}

/// The records in order, in as few groups as the ledger takes.
fn groups(records: Vec<EncodedRecord>) -> Vec<Vec<EncodedRecord>> {
    let mut groups: Vec<Vec<EncodedRecord>> = Vec::new();
    let mut bytes = 0;
    for record in records {
        let len = record.encoded_len();
        match groups.last_mut() {
            Some(group) if group.len() < GROUP_RECORDS_MAX && bytes + len <= GROUP_BYTES => {
                bytes += len;
                group.push(record);
            }
            _ => {
                bytes = len;
                groups.push(vec![record]);
            }
        }
    }
    groups
}
