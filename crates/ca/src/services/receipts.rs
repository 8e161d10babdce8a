//! Proofs of receipts: an agent asks for the inclusion proof of a certificate that was issued to itself, and gets it as
//! soon as a signed checkpoint covers the record. Nothing polls: a wait follows the checkpoints, has an end, and takes one
//! of the few places that an agent has.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mintage_attest::AgentSession;
use mintage_identity::{AgentInstance, SpiffeId};
use mintage_ledger::{Actor, Body, Log, SignedCheckpoint, Stored, TlogProof};
use mintage_proto::v1;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::{
    denials,
    desk::Desk,
    in_place::in_place,
    limits::{RECEIPT_COSIGNED_WAIT, RECEIPT_WAIT, RECEIPT_WAITS_MAX, RECEIPT_WAITS_PER_AGENT_MAX, RECEIPTS_IN_WORK},
    services::{ledger::unreadable, sync},
    status::Refusal,
};

/// The places of those who wait, and the word that ends every wait.
#[derive(Debug)]
pub(crate) struct ReceiptWaits {
    waiting: Waiting,
    work: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Default for ReceiptWaits {
    fn default() -> Self {
        Self {
            waiting: Waiting::default(),
            work: Arc::new(Semaphore::new(RECEIPTS_IN_WORK)),
            stop: CancellationToken::new(),
        }
    }
}

/// How many places each agent has taken.
#[derive(Clone, Debug, Default)]
struct Waiting(Arc<Mutex<HashMap<SpiffeId, usize>>>);

impl Waiting {
    fn taken(&self) -> MutexGuard<'_, HashMap<SpiffeId, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One place; given back on drop, by whoever does the work.
#[derive(Debug)]
struct Place {
    of: Waiting,
    agent: SpiffeId,
}

impl ReceiptWaits {
    /// Ends every wait: the CA stops.
    pub(crate) fn dismiss(&self) {
        self.stop.cancel();
    }

    fn take(&self, agent: &SpiffeId) -> Result<Place, Refusal> {
        let mut waiting = self.waiting.taken();
        let all: usize = waiting.values().sum();
        let own = waiting.get(agent).copied().unwrap_or(0);
        if own >= RECEIPT_WAITS_PER_AGENT_MAX || all >= RECEIPT_WAITS_MAX {
            let text = format!(
                "too many receipts are waited for: {own} by this agent, of at most {RECEIPT_WAITS_PER_AGENT_MAX}, and \
                 {all} in all, of at most {RECEIPT_WAITS_MAX}; ask again when some are answered"
            );
            return Err(Refusal::new(Code::ResourceExhausted, "receipt-waits", text));
        }
        waiting.insert(agent.clone(), own + 1);
        Ok(Place {
            of: self.waiting.clone(),
            agent: agent.clone(),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = self.of.taken();
        if let Some(own) = waiting.get_mut(&self.agent) {
            *own -= 1;
            if *own == 0 {
                waiting.remove(&self.agent);
            }
        }
    }
}

/// The proof (C2SP tlog-proof) of the certificate that this receipt is of.
///
/// # Errors
/// Refuses what was not issued to this agent, more waits than it has places, and a wait that took too long.
pub(super) async fn prove(
    desk: &Arc<Desk>,
    session: &AgentSession,
    receipt: Option<v1::Receipt>,
) -> Result<Vec<u8>, Refusal> {
    let proven = wait_and_prove(desk, session, receipt).await;
    let code = proven.as_ref().map_or_else(|refusal| refusal.code, |_| "");
    desk.metrics.receipt(code);
    if let Err(refusal) = &proven
        && refusal.grpc == Code::PermissionDenied
    {
        denials::record_call(desk, session, refusal);
    }
    proven
}

async fn wait_and_prove(
    desk: &Arc<Desk>,
    session: &AgentSession,
    receipt: Option<v1::Receipt>,
) -> Result<Vec<u8>, Refusal> {
    let instance = sync::check(desk, session)?;
    let receipt = receipt.ok_or_else(|| Refusal::invalid("receipt: is missing"))?;
    let place = desk.receipt_waits.take(&session.id)?;
    let (log, record) = own_record(desk, session, instance, &receipt)?;
    let checkpoint = tokio::select! {
        covering = covering(desk, &log, record.index()) => covering?,
        () = desk.receipt_waits.stop.cancelled() => return Err(not_signed_yet("the CA stops")),
    };
    let worker = desk.clone();
    // Tiles are read from files.
    let made = in_place(&desk.receipt_waits.work, move || {
        let made = proof(&worker, &log, &record, &checkpoint);
        drop(place);
        made
    });
    made.await
        .unwrap_or_else(|| Err(Refusal::bug("the proof could not be made")))
}

/// The record that the receipt names, when it is of a certificate that was issued to this instance of the agent. Whatever
/// else is asked for gets one and the same answer, so that nobody learns of records that are not his.
fn own_record(
    desk: &Desk,
    session: &AgentSession,
    instance: AgentInstance,
    receipt: &v1::Receipt,
) -> Result<(Arc<Log>, Stored), Refusal> {
    let denied = || {
        let text = "receipt: is of no certificate that was issued to this agent by this ledger";
        Refusal::new(Code::PermissionDenied, "receipt-not-yours", text)
    };
    let logs = desk.shards.files().logs();
    let log = logs.into_iter().find(|log| log.origin().as_str() == receipt.origin);
    let log = log.ok_or_else(denied)?;
    let position = log.position_of(receipt.index);
    // Past the end of its log the next one begins, and before the first that is kept there is none.
    if position >= desk.journal.size() || desk.journal.log_of(position).is_none_or(|holds| holds != log) {
        return Err(denied());
    }
    let read = desk.journal.read_from(position, 1).map_err(unreadable)?;
    let stored = read.into_iter().next().ok_or_else(denied)?;
    let record = stored.decode().map_err(unreadable)?;
    let issued_to_it = match (&record.body, &record.actor) {
        (Body::Issue(_), Actor::Agent { id, instance: of, .. }) => *id == session.id && *of == instance,
        _ => false,
    };
    match issued_to_it && stored.leaf_hash().as_bytes().as_slice() == receipt.leaf_hash {
        true => Ok((log, stored)),
        false => Err(denied()),
    }
}

/// The stored checkpoint once it covers the record; where witnesses are configured, once all have cosigned it, or with
/// those cosignatures that came in time: a witness that is away must not keep receipts back.
async fn covering(desk: &Desk, log: &Log, position: u64) -> Result<SignedCheckpoint, Refusal> {
    let mut signed = desk.signed.clone();
    let covers = tokio::time::timeout(RECEIPT_WAIT, signed.wait_for(|covered| *covered > position)).await;
    if !covers.is_ok_and(|covers| covers.is_ok()) {
        return Err(not_signed_yet("no checkpoint covers it yet"));
    }
    let mut additions = desk.witnesses.additions();
    let end = tokio::time::Instant::now() + RECEIPT_COSIGNED_WAIT;
    let mut best = desk.journal.checkpoint_of(log).map_err(unreadable)?;
    while lines(&best) <= desk.witnesses.peers().len() {
        if !tokio::time::timeout_at(end, additions.changed())
            .await
            .is_ok_and(|changed| changed.is_ok())
        {
            break;
        }
        let next = desk.journal.checkpoint_of(log).map_err(unreadable)?;
        if lines(&next) >= lines(&best) {
            best = next;
        }
    }
    Ok(best)
}

fn lines(signed: &SignedCheckpoint) -> usize {
    signed.note().signatures().len()
}

fn not_signed_yet(why: &str) -> Refusal {
    let text = format!("the record is durable, but {why}; ask again");
    Refusal::unavailable("not-signed-yet", text)
}

fn proof(desk: &Desk, log: &Arc<Log>, record: &Stored, signed: &SignedCheckpoint) -> Result<Vec<u8>, Refusal> {
    let (size, root) = (signed.checkpoint().size, signed.checkpoint().root);
    let index = log
        .leaf_at(record.index())
        .ok_or_else(|| Refusal::bug("a record lies before its log"))?;
    let tree = desk.trees.of_log(log).map_err(unreadable)?;
    let path = tree.inclusion(index, &record.leaf_hash(), size, &root);
    let path = path.map_err(unreadable)?;
    let extra = Some(record.bytes().to_vec());
    let proof = TlogProof::new(extra, index, path, signed.note().clone());
    Ok(proof.to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(number: usize) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://td/mintage/agent/a{number}")).unwrap()
    }

    #[test]
    fn one_agent_cannot_take_the_places_of_all() {
        let waits = ReceiptWaits::default();
        let places: Vec<_> = (0..RECEIPT_WAITS_PER_AGENT_MAX)
            .map(|_| waits.take(&agent(1)).unwrap())
            .collect();
        let refused = waits.take(&agent(1)).unwrap_err();
        assert_eq!((refused.code, refused.retry), ("receipt-waits", true));
        let other = waits.take(&agent(2)).unwrap();
        drop(places);
        assert!(waits.take(&agent(1)).is_ok());
        drop(other);
        assert!(waits.waiting.taken().is_empty(), "who waits no more is forgotten");
    }

    #[test]
    fn all_together_have_a_limit_too() {
        let waits = ReceiptWaits::default();
        let places: Vec<_> = (0..RECEIPT_WAITS_MAX)
            .map(|number| waits.take(&agent(number)).unwrap())
            .collect();
        assert!(waits.take(&agent(RECEIPT_WAITS_MAX)).is_err());
        drop(places);
        assert!(waits.take(&agent(0)).is_ok());
    }
}
