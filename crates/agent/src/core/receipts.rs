//! Proofs of receipts for deliveries that want them: asked for beside everything else, written as a generation of their
//! own once they fit, and given up for good reasons. A delivery never waits for one.

use std::{sync::Arc, time::Duration};

use mintage_proto::v1::{self, node_client::NodeClient};
use mintage_svid::cert_sha256;
use tokio::time::timeout;
use tonic::{Code, transport::Channel};

use super::{Core, Input, boot, slot::SlotKey};
use crate::{
    held::Held,
    limits::{RECEIPT_CALL_WAIT, RECEIPTS_AT_ONCE_MAX},
    receipt::{Chase, Proof, Receipt},
    store::KeptReceipt,
};

/// Whom to ask for proofs, and how many are asked for.
#[derive(Default)]
pub(super) struct Proving {
    /// The connection in use; none while there is none, or when the CA there knows no proofs.
    source: Option<NodeClient<Channel>>,
    under_way: usize,
}

/// Why a try brought no proof.
pub(crate) enum Missed {
    /// The CA is older than this RPC.
    Unsupported,
    /// The same call will get the same answer.
    Refused(String),
    /// A later one may bring it.
    Again(String),
}

impl Proving {
    /// A stream is open; proofs come over the same connection.
    pub(super) fn up(&mut self, source: NodeClient<Channel>) {
        self.source = Some(source);
    }

    /// It ended.
    pub(super) fn down(&mut self) {
        self.source = None;
    }
}

impl Core {
    /// The receipt that came with a certificate; one that cannot be read costs the proof and nothing else.
    pub(super) fn receipt_of(&self, key: &SlotKey, wire: Option<v1::Receipt>) -> Option<Receipt> {
        match Receipt::from_wire(wire?) {
            Ok(receipt) => Some(receipt),
            Err(problem) => {
                let subject = self.slots.get(key).map(|slot| slot.subject()).unwrap_or_default();
                self.shared.problem("receipt", &subject, &problem);
                None
            }
        }
    }

    /// Takes up what was kept of a restored pair: its proof, or the receipt to ask for it.
    pub(super) fn restore_receipt(&mut self, key: &SlotKey, kept: Option<KeptReceipt>) {
        let Some(kept) = kept else { return };
        let Some(slot) = self.slots.get_mut(key) else { return };
        let Some(leaf) = slot.held.as_ref().map(|held| held.chain()[0].as_slice()) else {
            return;
        };
        if kept.certificate != cert_sha256(leaf) {
            return;
        }
        let proof = kept
            .proof
            .as_deref()
            .map(|text| Proof::check(text.as_bytes(), &kept.receipt, leaf));
        slot.proof = proof.and_then(Result::ok);
        slot.receipt = Some(kept.receipt);
        if slot.proof.is_none() {
            self.begin_chase(key);
        }
    }

    /// A certificate is in place: its proof is asked for where one is wanted and may be had.
    pub(super) fn begin_chase(&mut self, key: &SlotKey) {
        let (now, jitter) = (boot(self.shared.deps.now()), self.shared.deps.jitter());
        let Some(slot) = self.slots.get_mut(key) else { return };
        let wanted = slot.delivery().is_some_and(|delivery| delivery.receipt());
        slot.chase = match wanted && slot.receipt.is_some() && slot.held.is_some() {
            true => Chase::begin(now, jitter),
            false => Chase::Over,
        };
    }

    /// When the next proof is due to be asked for.
    pub(super) fn chase_wake_at(&self) -> Option<Duration> {
        if self.proving.source.is_none() || self.proving.under_way >= RECEIPTS_AT_ONCE_MAX {
            return None;
        }
        self.slots.chase_wake_at()
    }

    /// Asks for what is due, as far as there is room.
    pub(super) fn ask_for_proofs(&mut self) {
        let now = boot(self.shared.deps.now());
        if self.proving.source.is_none() {
            return;
        }
        let room = RECEIPTS_AT_ONCE_MAX.saturating_sub(self.proving.under_way);
        let due = self.slots.chasing(now);
        for key in due.into_iter().take(room) {
            self.ask_for_proof(&key, now);
        }
    }

    fn ask_for_proof(&mut self, key: &SlotKey, now: Duration) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        let (Some(asking), Some(held), Some(receipt), Some(mut source)) = (
            slot.chase.asked(now),
            slot.held.clone(),
            slot.receipt.clone(),
            self.proving.source.clone(),
        ) else {
            return;
        };
        slot.chase = asking;
        self.proving.under_way += 1;
        let (inbox, key) = (self.inbox.clone(), key.clone());
        tokio::spawn(async move {
            let request = v1::ProveReceiptRequest {
                receipt: Some(receipt.to_wire()),
            };
            let result = match timeout(RECEIPT_CALL_WAIT, source.prove_receipt(request)).await {
                Ok(Ok(answer)) => Proof::check(&answer.into_inner().tlog_proof, &receipt, &held.chain()[0])
                    .map_err(|problem| Missed::Again(format!("the CA's proof is not taken: {problem}"))),
                Ok(Err(status)) => Err(missed(&status)),
                Err(_) => Err(Missed::Again(format!("no answer within {RECEIPT_CALL_WAIT:?}"))),
            };
            let _ = inbox.send(Input::Proved { key, held, result }).await;
        });
    }

    /// A try ended.
    pub(super) fn proved(&mut self, key: &SlotKey, held: &Arc<Held>, result: Result<Proof, Missed>) {
        self.proving.under_way = self.proving.under_way.saturating_sub(1);
        let (now, jitter) = (boot(self.shared.deps.now()), self.shared.deps.jitter());
        if let Err(Missed::Unsupported) = &result
            && self.proving.source.take().is_some()
        {
            let problem = "it is of a version that proves no receipts; deliveries go on without the proof";
            self.shared.problem("receipt", "CA", problem);
        }
        let Some(slot) = self.slots.get_mut(key) else { return };
        // A newer certificate, on its way or in place, has a proof of its own.
        let is_current = slot.held.as_ref().is_some_and(|current| Arc::ptr_eq(current, held));
        if !is_current || slot.unplaced.is_some() || slot.chase == Chase::Over {
            return;
        }
        match result {
            Ok(proof) => {
                tracing::info!(subject = slot.subject(), serial = %held.serial(), "receipt proven");
                slot.proof = Some(proof);
                slot.chase = Chase::Over;
                slot.rewrite = true;
                self.place(key);
            }
            // Another CA may know it: the first try of the next connection.
            Err(Missed::Unsupported) => slot.chase = Chase::begin(now, jitter),
            Err(Missed::Refused(problem)) => self.give_up(key, &problem),
            Err(Missed::Again(problem)) => {
                slot.chase = slot.chase.failed(now, jitter);
                match slot.chase {
                    Chase::Over => self.give_up(key, &problem),
                    _ => tracing::debug!(subject = slot.subject(), problem, "no proof of the receipt yet"),
                }
            }
        }
    }

    fn give_up(&mut self, key: &SlotKey, problem: &str) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.chase = Chase::Over;
        let problem = format!("no proof of the receipt is written for this certificate: {problem}");
        self.shared.problem("receipt", &slot.subject(), &problem);
    }
}

/// What a gRPC status means for the proof of a receipt.
fn missed(status: &tonic::Status) -> Missed {
    let why = format!("{}: {}", status.code().description(), status.message());
    match status.code() {
        Code::Unimplemented => Missed::Unsupported,
        Code::PermissionDenied | Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition => {
            Missed::Refused(why)
        }
        _ => Missed::Again(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_refused_is_not_asked_again_and_an_old_ca_is_no_refusal() {
        let of = |code| missed(&tonic::Status::new(code, "why"));
        assert!(matches!(of(Code::Unimplemented), Missed::Unsupported));
        assert!(matches!(of(Code::PermissionDenied), Missed::Refused(why) if why.contains("why")));
        for code in [
            Code::Unavailable,
            Code::ResourceExhausted,
            Code::Unknown,
            Code::Cancelled,
        ] {
            assert!(matches!(of(code), Missed::Again(_)), "{code:?}");
        }
    }
}
