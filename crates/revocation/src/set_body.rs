//! What of the set goes into a snapshot or a delta: a function of the records and of the horizon alone.

use std::collections::{BTreeMap, BTreeSet};

use mintage_identity::{IssuerKeyId, UnixTime};

use crate::{
    Exception, RevocationError, RevokedSet, Rule, RuleTarget,
    body::{Body, BodyIssuer, BodySegment},
    bucket::Bucket,
};

impl RevokedSet {
    /// All that is not dead at `horizon`.
    pub(crate) fn snapshot_body(&self, exceptions: &[Exception], horizon: UnixTime) -> Body {
        let issuers: Vec<BodyIssuer> = self.issuers.values().filter(|i| i.until >= horizon).cloned().collect();
        let mut segments = Vec::with_capacity(self.segments.len());
        for ((issuer, bucket), held) in &self.segments {
            let place = issuers.binary_search_by(|known| known.id.cmp(issuer));
            if let (Ok(issuer), false) = (place, bucket.is_dead(horizon)) {
                let mut fingerprints: Vec<u64> = held.keys().map(|(fingerprint, _)| *fingerprint).collect();
                fingerprints.dedup();
                segments.push(BodySegment {
                    issuer,
                    bucket: *bucket,
                    fingerprints,
                });
            }
        }
        let lives = |rule: &&Rule| !self.is_over(rule, horizon);
        let rules = self.rules.values().filter(lives).cloned().collect();
        Body {
            exceptions: known_only(exceptions, &issuers),
            issuers,
            segments,
            rules,
        }
    }

    /// What the records after `from` up to `to` added, as far as it is not dead at `horizon`.
    pub(crate) fn delta_body(
        &self,
        from: u64,
        to: u64,
        exceptions: &[Exception],
        horizon: UnixTime,
    ) -> Result<Body, RevocationError> {
        if from >= to || self.log.hash_at(from).is_none() || self.log.hash_at(to).is_none() {
            return Err(RevocationError::NoDelta { from, to });
        }
        let mut issuers: BTreeMap<IssuerKeyId, BodyIssuer> = BTreeMap::new();
        let mut serials: BTreeMap<(IssuerKeyId, Bucket), BTreeSet<u64>> = BTreeMap::new();
        let mut rules: BTreeMap<RuleTarget, Rule> = BTreeMap::new();
        for step in self.log.between(from, to) {
            issuers.extend(
                step.issuers
                    .iter()
                    .map(|change| (change.after.id, change.after.clone())),
            );
            rules.extend(step.rules.iter().map(|rule| (rule.target.clone(), rule.clone())));
            for (issuer, bucket, fingerprint) in &step.serials {
                serials.entry((*issuer, *bucket)).or_default().insert(*fingerprint);
            }
        }
        serials.retain(|(_, bucket), _| !bucket.is_dead(horizon));
        let named = serials
            .keys()
            .map(|(issuer, _)| issuer)
            .chain(exceptions.iter().map(|e| &e.issuer));
        for id in named {
            if !issuers.contains_key(id) {
                issuers.extend(self.issuer_at(id, to).map(|issuer| (*id, issuer)));
            }
        }
        issuers.retain(|_, issuer| issuer.until >= horizon);
        let issuers: Vec<BodyIssuer> = issuers.into_values().collect();
        let mut segments = Vec::with_capacity(serials.len());
        for ((issuer, bucket), held) in serials {
            if let Ok(issuer) = issuers.binary_search_by(|known| known.id.cmp(&issuer)) {
                segments.push(BodySegment {
                    issuer,
                    bucket,
                    fingerprints: held.into_iter().collect(),
                });
            }
        }
        let exceptions = known_only(exceptions, &issuers);
        Ok(Body {
            issuers,
            segments,
            rules: rules.into_values().collect(),
            exceptions,
        })
    }

    fn issuer_at(&self, id: &IssuerKeyId, sequence: u64) -> Option<BodyIssuer> {
        self.log
            .issuer_before(id, sequence)
            .unwrap_or_else(|| self.issuers.get(id).cloned())
    }
}

fn known_only(exceptions: &[Exception], issuers: &[BodyIssuer]) -> Vec<Exception> {
    let known = |e: &&Exception| issuers.binary_search_by(|issuer| issuer.id.cmp(&e.issuer)).is_ok();
    let sorted: BTreeSet<&Exception> = exceptions.iter().filter(known).collect();
    sorted.into_iter().cloned().collect()
}
