//! Asking the CA and taking its answers: one ask per identity under way, batched, the same ask again after a lost answer,
//! a new key for every certificate.

use mintage_identity::{RequestId, SpiffeId};
use mintage_proto::v1::{self, agent_message};

use super::{
    Core, boot,
    slot::{Pending, Purpose, SlotKey, Unplaced, is_final},
};
use crate::{
    held::{Held, Unverified},
    key::NewKey,
    limits::{ASK_REUSE, ASKS_PER_MESSAGE_MAX, MESSAGE_UP_BYTES_MAX},
    rotation::Event,
};

/// Bytes of one ask beside its CSR: request id, the longest entry name, framing.
const ASK_OVERHEAD_BYTES: usize = 192;

impl Core {
    /// Asks for everything whose rotation said so in this turn.
    pub(super) fn ask_for_due(&mut self) {
        let mut asks = Vec::new();
        for key in std::mem::take(&mut self.due) {
            if let Some(ask) = self.ask(&key) {
                asks.push(ask);
            }
        }
        while !asks.is_empty() {
            let take = fitting(&asks);
            let batch: Vec<v1::Ask> = asks.drain(..take).collect();
            // When there is no room the answer never comes, and the same ask goes out again a little later.
            if !self.send(agent_message::Message::Mint(v1::Mint {
                asks: batch,
                jwt_asks: Vec::new(),
            })) {
                tracing::debug!("no room on the stream for asks; they are sent again");
            }
        }
    }

    fn ask(&mut self, key: &SlotKey) -> Option<v1::Ask> {
        if matches!(key, SlotKey::Workload(_)) && !self.is_watched(key) {
            // Nobody looks any more: it is forgotten rather than renewed.
            self.drop_slot(key);
            return None;
        }
        let now = boot(self.shared.deps.now());
        let slot = self.slots.get_mut(key)?;
        if slot.unplaced.is_some() {
            // There is a fresh certificate already; what failed is putting it in place.
            if !slot.placing {
                self.place(key);
            }
            return None;
        }
        if slot
            .pending
            .as_ref()
            .is_none_or(|pending| now.saturating_sub(pending.since) > ASK_REUSE)
        {
            match NewKey::generate().map(|new| (new, self.shared.deps.request_id())) {
                Ok((new, Some(id))) => {
                    let old = slot.pending.replace(Pending {
                        id,
                        csr: new.csr,
                        key: new.pkcs8,
                        since: now,
                    });
                    old.map(|old| self.by_request.remove(&old.id));
                    self.by_request.insert(id, key.clone());
                }
                Ok((_, None)) => return self.no_key(key, "the system gives no random numbers".to_owned()),
                Err(problem) => return self.no_key(key, problem),
            }
        }
        let slot = self.slots.get(key)?;
        let pending = slot.pending.as_ref()?;
        let entry = slot.entry().map(ToString::to_string).unwrap_or_default();
        tracing::debug!(subject = slot.subject(), request_id = %pending.id, "asking for a certificate");
        Some(v1::Ask {
            request_id: pending.id.as_bytes().to_vec(),
            entry,
            csr: pending.csr.clone(),
        })
    }

    fn no_key(&mut self, key: &SlotKey, problem: String) -> Option<v1::Ask> {
        self.trouble(key, "mint", problem);
        self.feed(key, Event::Failed { soon: true });
        None
    }

    /// Takes the CA's answers.
    pub(super) fn minted(&mut self, minted: v1::Minted) {
        self.jwts_minted(minted.jwts);
        for result in minted.results {
            let known = RequestId::from_slice(&result.request_id)
                .ok()
                .and_then(|id| self.by_request.remove(&id).map(|key| (id, key)));
            let Some((id, key)) = known else {
                // An answer to an ask that was given up, or the second of two.
                tracing::debug!("an answer to no ask of ours was passed over");
                continue;
            };
            let Some(pending) = self.slots.get_mut(&key).and_then(|slot| slot.pending.take()) else {
                continue;
            };
            if let Some(refusal) = &result.refusal {
                self.shared.metrics.renewal("refused");
                let message = refused(refusal);
                tracing::warn!(request_id = %id, code = refusal.code, "refused");
                if let Some(slot) = self.slots.get_mut(&key) {
                    slot.refused = is_final(refusal);
                }
                self.trouble(&key, "mint", message);
                self.feed(&key, Event::Failed { soon: refusal.retry });
                continue;
            }
            let mut chain = Vec::with_capacity(1 + minted.issuers.len());
            chain.push(result.leaf);
            chain.extend(minted.issuers.iter().cloned());
            self.answered(&key, pending, chain, result.receipt);
        }
    }

    fn answered(&mut self, key: &SlotKey, pending: Pending, chain: Vec<Vec<u8>>, receipt: Option<v1::Receipt>) {
        let Some(expected) = self.expected_id(key) else {
            return;
        };
        let pair = Unverified {
            key: pending.key,
            chain,
        };
        let trust = self.shared.ca_trust.load_full();
        let verified = Held::verify(pair, &expected, &trust, &self.shared.deps.provider, self.shared.wall());
        match verified {
            Ok(held) => {
                self.shared.metrics.renewal("ok");
                tracing::info!(
                    spiffe_id = %held.id(), serial = %held.serial(), request_id = %pending.id, "certificate received"
                );
                let receipt = self.receipt_of(key, receipt);
                if let Some(slot) = self.slots.get_mut(key) {
                    slot.unplaced = Some(Unplaced {
                        held,
                        receipt,
                        asked: pending.since,
                    });
                }
                self.place(key);
            }
            Err(problem) => {
                self.shared.metrics.renewal("unverified");
                self.trouble(key, "verify", problem);
                self.feed(key, Event::Failed { soon: true });
            }
        }
    }

    /// The identity a slot's certificate must have: as the entry says now, whatever it said when it was asked.
    fn expected_id(&self, key: &SlotKey) -> Option<SpiffeId> {
        let slot = self.slots.get(key)?;
        match &slot.purpose {
            Purpose::Own => self.own_id.clone(),
            _ => Some(self.entries.get(slot.entry()?)?.spiffe_id.clone()),
        }
    }
}

/// What the CA refused, and whether it may take the same ask later on.
fn refused(refusal: &v1::Refusal) -> String {
    let outlook = match refusal.retry {
        true => "asked again by itself",
        false => "asked again, but not taken before the entry or the CA's policy is changed",
    };
    format!("the CA refused: {} ({}); {outlook}", refusal.message, refusal.code)
}

/// How many of `asks` fit into one message.
fn fitting(asks: &[v1::Ask]) -> usize {
    let mut bytes = 0;
    let fit = asks
        .iter()
        .take(ASKS_PER_MESSAGE_MAX)
        .take_while(|ask| {
            bytes += ask.csr.len() + ASK_OVERHEAD_BYTES;
            bytes <= MESSAGE_UP_BYTES_MAX
        })
        .count();
    fit.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_at_most_64_asks_and_64_kib() {
        let ask = |len| v1::Ask {
            csr: vec![0; len],
            ..v1::Ask::default()
        };
        assert_eq!(fitting(&vec![ask(300); 200]), 64);
        assert_eq!(fitting(&vec![ask(8_000); 64]), 8);
        assert_eq!(fitting(&[ask(1)]), 1);
    }
}
