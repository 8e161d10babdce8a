//! A shard that begins: where the records before it are here, its snapshot must say what they say; where they were given up,
//! what stood then is taken from the snapshot, whose hash the shard's first record holds.

use std::collections::BTreeMap;

use mintage_identity::TrustDomain;
use mintage_ledger::{ShardBegin, wire::CaRole};
use mintage_revocation::{Revocation, RuleTarget};
use mintage_state::View;

use super::{Issued, Meaning, Source};

impl Meaning {
    /// Takes up or compares the snapshot of a shard.
    pub(super) fn begun(&mut self, begin: &ShardBegin<'_>) -> Result<(), String> {
        let Some(bytes) = begin.snapshot else { return Ok(()) };
        let domain = TrustDomain::parse(begin.log.origin().trust_domain_str()).map_err(|error| error.to_string())?;
        let read = View::from_snapshot_with_revocations(&domain, bytes);
        let (view, revocations) = read.map_err(|error| error.to_string())?;
        if view.applied() != begin.log.first() {
            return Err(format!(
                "the snapshot is of {} records, the shard begins with record {}",
                view.applied(),
                begin.log.first()
            ));
        }
        match self.domain.is_some() {
            true => self.agrees(&view, &revocations),
            false => self.take_up(domain, &view, revocations),
        }
    }

    fn agrees(&self, view: &View, revocations: &BTreeMap<u64, Revocation>) -> Result<(), String> {
        if view.control_head() != self.control_head {
            return Err(format!(
                "the snapshot has control index {}, the records before it lead to {}",
                view.control_head(),
                self.control_head
            ));
        }
        self.standing.agrees(view)?;
        self.federated.agrees(view)?;
        self.recorded.agrees(view, self.clock.last())?;
        self.revoked.agrees(view, revocations, self.clock)
    }

    fn take_up(
        &mut self,
        domain: TrustDomain,
        view: &View,
        revocations: BTreeMap<u64, Revocation>,
    ) -> Result<(), String> {
        self.standing.take_up(view);
        self.federated.take_up(view);
        self.recorded.take_up(view);
        self.take_up_keys(view)?;
        self.take_up_serials(view, &revocations);
        self.take_up_rules(view);
        self.revoked.take_up(view, revocations);
        self.control_head = view.control_head();
        self.domain = Some(domain);
        self.begins_later = true;
        Ok(())
    }

    fn take_up_keys(&mut self, view: &View) -> Result<(), String> {
        let mut certified = Vec::new();
        for key in view.ca_keys().filter(|key| !key.certificate_der.is_empty()) {
            self.keys.take_up(key)?;
            certified.push(key);
        }
        // All of them are there now: a certificate may come before that of the root that signed it.
        for key in certified {
            let (issuer, info) = self.keys.issuer_of(key)?;
            let (serial, not_after) = (*info.serial(), info.not_after());
            self.remember_ca(serial, issuer, not_after);
        }
        let tokens = view.ca_keys().filter(|key| key.role == CaRole::Jwt);
        tokens.for_each(|key| self.keys.jwt_event(&key.key_id, key.stage));
        let logs = view.ca_keys().filter(|key| key.role == CaRole::Log);
        self.log_keys.extend(logs.map(|key| key.public_key.clone()));
        Ok(())
    }

    /// Of the serials that were issued the snapshot holds those of agents and those that were revoked.
    fn take_up_serials(&mut self, view: &View, revocations: &BTreeMap<u64, Revocation>) {
        for agent in view.agents() {
            for certificate in agent.current.iter().chain(&agent.earlier) {
                let issued = Issued {
                    issuer: certificate.issuer,
                    not_after_s: certificate.not_after.seconds(),
                    by: Source::Record(certificate.index),
                };
                self.serials.insert(certificate.serial, issued);
            }
        }
        for (index, revocation) in revocations {
            for revoked in &revocation.serials {
                let issued = Issued {
                    issuer: revoked.issuer,
                    not_after_s: revoked.not_after.seconds(),
                    by: Source::RevokedBy(*index),
                };
                self.serials.entry(revoked.serial).or_insert(issued);
            }
        }
    }

    fn take_up_rules(&mut self, view: &View) {
        for rule in view.revoked().rules() {
            self.strikes.add(view.applied(), &rule.target, rule.cut);
        }
        // Also those whose rules a full set has forgotten.
        for key in view.blocked_keys() {
            self.strikes.add(view.applied(), &RuleTarget::Key(*key), None);
        }
    }
}
