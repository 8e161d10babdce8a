//! What each folded record changed, kept for a bounded while: deltas are made from it.

use std::sync::Arc;

use imbl::OrdMap;
use mintage_identity::IssuerKeyId;

use crate::{
    Rule,
    body::BodyIssuer,
    bucket::Bucket,
    header::SetHash,
    limits::{LOG_RECORDS_MAX, LOG_SERIALS_MAX},
};

/// What one record changed.
#[derive(Debug)]
pub(crate) struct Step {
    /// The set's hash after it.
    pub(crate) hash: SetHash,
    pub(crate) serials: Vec<(IssuerKeyId, Bucket, u64)>,
    /// Rules as they stand after it.
    pub(crate) rules: Vec<Rule>,
    pub(crate) issuers: Vec<IssuerChange>,
}

/// An issuer before and after a record.
#[derive(Debug, Clone)]
pub(crate) struct IssuerChange {
    pub(crate) before: Option<BodyIssuer>,
    pub(crate) after: BodyIssuer,
}

/// Steps by sequence, oldest dropped first. The oldest serves as a base only: its hash is known.
#[derive(Clone)]
pub(crate) struct SetLog {
    steps: OrdMap<u64, Arc<Step>>,
    serials: usize,
}

impl SetLog {
    /// A log that starts after `sequence`, where the set's hash is `hash`.
    pub(crate) fn starting_at(sequence: u64, hash: SetHash) -> Self {
        let base = Step {
            hash,
            serials: Vec::new(),
            rules: Vec::new(),
            issuers: Vec::new(),
        };
        Self {
            steps: OrdMap::unit(sequence, Arc::new(base)),
            serials: 0,
        }
    }

    pub(crate) fn push(&mut self, sequence: u64, step: Step) {
        self.serials += step.serials.len();
        self.steps.insert(sequence, Arc::new(step));
        while self.steps.len() > 1 && (self.steps.len() > LOG_RECORDS_MAX || self.serials > LOG_SERIALS_MAX) {
            let (oldest, later) = self.steps.without_min();
            self.serials -= oldest.map_or(0, |step| step.serials.len());
            self.steps = later;
        }
    }

    pub(crate) fn hash_at(&self, sequence: u64) -> Option<SetHash> {
        self.steps.get(&sequence).map(|step| step.hash)
    }

    /// The steps after `from`, up to and including `to`.
    pub(crate) fn between(&self, from: u64, to: u64) -> impl Iterator<Item = &Step> {
        let after = from.saturating_add(1);
        self.steps.range(after..=to.max(after)).map(|(_, step)| &**step)
    }

    /// How `issuer` stood at `to`, when a later step changed it.
    pub(crate) fn issuer_before(&self, issuer: &IssuerKeyId, to: u64) -> Option<Option<BodyIssuer>> {
        let later = self.steps.range(to.saturating_add(1)..);
        let mut changes = later.flat_map(|(_, step)| &step.issuers);
        changes
            .find(|change| change.after.id == *issuer)
            .map(|change| change.before.clone())
    }
}
