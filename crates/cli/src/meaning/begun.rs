//! A shard that begins: where the records before it are here, its snapshot must say what they say; where they were given up,
//! what stood then is taken from the snapshot, whose hash the shard's first record holds.

use mintage_identity::TrustDomain;
use mintage_ledger::{ShardBegin, wire::CaRole};
use mintage_revocation::RuleTarget;
use mintage_state::View;

use super::Meaning;

impl Meaning {
    /// Takes up or compares the snapshot of a shard.
    pub(super) fn begun(&mut self, begin: &ShardBegin<'_>) -> Result<(), String> {
        let Some(bytes) = begin.snapshot else { return Ok(()) };
        let domain = TrustDomain::parse(begin.log.origin().trust_domain_str()).map_err(|error| error.to_string())?;
        let view = View::from_snapshot(&domain, bytes).map_err(|error| error.to_string())?;
        if view.applied() != begin.log.first() {
            return Err(format!(
                "the snapshot is of {} records, the shard begins with record {}",
                view.applied(),
                begin.log.first()
            ));
        }
        match self.domain.is_some() {
            true => self.agrees(&view),
            false => self.take_up(domain, &view),
        }
    }

    fn agrees(&self, view: &View) -> Result<(), String> {
        if view.control_head() != self.control_head {
            return Err(format!(
                "the snapshot has control index {}, the records before it lead to {}",
                view.control_head(),
                self.control_head
            ));
        }
        self.standing.agrees(view)?;
        self.federated.agrees(view)?;
        let differs = view
            .ca_keys()
            .filter(|key| !key.certificate_der.is_empty() || key.role == CaRole::Jwt)
            .find(|key| !self.keys.agrees(key));
        match differs {
            Some(key) => Err(format!("the snapshot has another stage of the key {}", key.key_id)),
            None => Ok(()),
        }
    }

    fn take_up(&mut self, domain: TrustDomain, view: &View) -> Result<(), String> {
        self.standing.take_up(view);
        self.federated.take_up(view);
        for key in view.ca_keys().filter(|key| !key.certificate_der.is_empty()) {
            self.keys.take_up(key)?;
        }
        let tokens = view.ca_keys().filter(|key| key.role == CaRole::Jwt);
        tokens.for_each(|key| self.keys.jwt_event(&key.key_id, key.stage));
        let logs = view.ca_keys().filter(|key| key.role == CaRole::Log);
        self.log_keys.extend(logs.map(|key| key.public_key.clone()));
        for rule in view.revoked().rules() {
            let stands = (rule.cut, view.applied());
            match &rule.target {
                RuleTarget::Identity(id) => self.strikes.take_up_identity(id, stands),
                RuleTarget::Prefix(prefix) => self.strikes.take_up_prefix(prefix, stands),
                RuleTarget::Key(key) => self.strikes.take_up_key(*key, view.applied()),
                RuleTarget::Issuer(issuer) => self.strikes.take_up_issuer(*issuer, view.applied()),
            }
        }
        self.control_head = view.control_head();
        self.domain = Some(domain);
        self.begins_later = true;
        Ok(())
    }
}
