//! Revocations: each strikes what exists, and nothing is issued that a standing rule would strike at once.

use std::collections::HashMap;

use mintage_identity::{IdPrefix, IssuerKeyId, RevocationReason, Serial, SpiffeId, SpkiHash, UnixTime};
use mintage_ledger::{
    Actor, Record,
    wire::{self, RevocationRule, RevocationSnapshot, Revoke, revocation_rule::Target},
};
use mintage_revocation::{Revocation, RevokedSerial, Rule, RuleTarget};
use mintage_svid::{LeafInfo, jwt_rule_date};

use super::Meaning;

/// The last second of notBefore that a rule kills, and the record it stands in.
type Cut = (UnixTime, u64);

/// The rules that stand.
#[derive(Debug, Default)]
pub(super) struct Strikes {
    identities: HashMap<SpiffeId, Cut>,
    prefixes: Vec<(IdPrefix, Cut)>,
    keys: HashMap<SpkiHash, u64>,
    issuers: HashMap<IssuerKeyId, u64>,
    /// Epoch and sequence of the snapshot that was recorded last.
    published: Option<(u64, u64)>,
}

fn read(rule: &RevocationRule) -> Result<RuleTarget, String> {
    let text = |error: mintage_identity::NameError| error.to_string();
    match &rule.target {
        Some(Target::Identity(id)) => SpiffeId::parse(id).map(RuleTarget::Identity).map_err(text),
        Some(Target::Prefix(prefix)) => IdPrefix::parse(prefix).map(RuleTarget::Prefix).map_err(text),
        Some(Target::SpkiSha256(key)) => SpkiHash::from_slice(key).map(RuleTarget::Key).map_err(text),
        Some(Target::IssuerKeyId(issuer)) => IssuerKeyId::from_slice(issuer).map(RuleTarget::Issuer).map_err(text),
        None => Err("a rule without a target".into()),
    }
}

impl Strikes {
    /// That no standing rule kills this new certificate.
    ///
    /// # Errors
    /// The record of the rule that does.
    pub(super) fn check(&self, leaf: &LeafInfo, issuer: &IssuerKeyId) -> Result<(), String> {
        let dead = |index: u64| {
            Err(format!(
                "its certificate was dead when it was issued: record {index} revokes it"
            ))
        };
        if let Some(index) = self.keys.get(&leaf.spki_sha256()) {
            return dead(*index);
        }
        if let Some(index) = self.issuers.get(issuer) {
            return dead(*index);
        }
        match self.cut_of(leaf.id(), leaf.not_before()) {
            Some(index) => dead(index),
            None => Ok(()),
        }
    }

    /// The same of a token: rules on its identity reach it, counted from when it was issued.
    pub(super) fn check_jwt(&self, id: &SpiffeId, issued: UnixTime) -> Result<(), String> {
        match self.cut_of(id, jwt_rule_date(issued)) {
            Some(index) => Err(format!(
                "its token was dead when it was issued: record {index} revokes it"
            )),
            None => Ok(()),
        }
    }

    /// The record whose cut lies at or after `begins`.
    fn cut_of(&self, id: &SpiffeId, begins: UnixTime) -> Option<u64> {
        let by_prefix = self
            .prefixes
            .iter()
            .filter(|(prefix, _)| prefix.matches(id))
            .map(|(_, cut)| cut);
        let mut cuts = self.identities.get(id).into_iter().chain(by_prefix);
        cuts.find(|(cut, _)| begins <= *cut).map(|(_, index)| *index)
    }

    /// Takes in a rule.
    pub(super) fn add(&mut self, index: u64, target: &RuleTarget, cut: Option<UnixTime>) {
        match (target, cut) {
            (RuleTarget::Identity(id), Some(cut)) => {
                let standing = self.identities.entry(id.clone()).or_insert((cut, index));
                *standing = (*standing).max((cut, index));
            }
            (RuleTarget::Prefix(prefix), Some(cut)) => self.prefixes.push((prefix.clone(), (cut, index))),
            // An identity or prefix without a cut is lifted by enabling its entry again; it blocks deciding, which the
            // control index shows, and says nothing about later certificates.
            (RuleTarget::Identity(_) | RuleTarget::Prefix(_), None) => {}
            // Even one with a cut: who revokes by key does not want the key back.
            (RuleTarget::Key(key), _) => drop(self.keys.entry(*key).or_insert(index)),
            (RuleTarget::Issuer(issuer), None) => drop(self.issuers.entry(*issuer).or_insert(index)),
            (RuleTarget::Issuer(_), Some(_)) => {}
        }
    }
}

impl Meaning {
    /// A revoke record: every serial was issued, every rule can be read and is about this trust domain or its keys.
    pub(super) fn revoke(&mut self, index: u64, time: UnixTime, revoke: &Revoke) -> Result<(), String> {
        let code = u8::try_from(revoke.reason).ok();
        let Some(reason) = code.and_then(RevocationReason::from_code) else {
            return Err(format!("{} is no reason of RFC 5280", revoke.reason));
        };
        if revoke.serials.is_empty() && revoke.rules.is_empty() {
            return Err("it revokes nothing".into());
        }
        let serials = revoke.serials.iter().map(|revoked| self.check_serial(revoked));
        let serials = serials.collect::<Result<Vec<_>, _>>()?;
        let mut rules = Vec::with_capacity(revoke.rules.len());
        for rule in &revoke.rules {
            let cut = rule.cut_s.map(UnixTime::from_seconds);
            let target = self.check_target(read(rule)?)?;
            self.strikes.add(index, &target, cut);
            rules.push(Rule { target, cut });
        }
        let revocation = Revocation {
            at: time,
            serials,
            rules,
            reason,
        };
        self.revoked.add(index, revocation);
        Ok(())
    }

    /// A snapshot's record: the CA's own word, of what stands before it, and never of less than was told before.
    pub(super) fn published(
        &mut self,
        index: u64,
        record: &Record,
        snapshot: &RevocationSnapshot,
    ) -> Result<(), String> {
        if !matches!(record.actor, Actor::Replica { .. }) {
            return Err("a snapshot is published by the CA itself, and by nobody else".into());
        }
        let place = (snapshot.epoch, snapshot.sequence);
        if snapshot.sequence >= index {
            return Err(format!(
                "it tells of sequence {}, which lies after it",
                snapshot.sequence
            ));
        }
        if let Some(before) = self.strikes.published.filter(|before| place < *before) {
            let (epoch, sequence) = before;
            return Err(format!(
                "it goes back to epoch {} sequence {}, though epoch {epoch} sequence {sequence} was published before",
                place.0, place.1
            ));
        }
        self.strikes.published = Some(place);
        Ok(())
    }

    fn check_serial(&self, revoked: &wire::RevokedSerial) -> Result<RevokedSerial, String> {
        let serial = Serial::from_be_octets(&revoked.serial).map_err(|error| error.to_string())?;
        let read = RevokedSerial {
            issuer: IssuerKeyId::from_slice(&revoked.issuer_key_id).map_err(|error| error.to_string())?,
            serial,
            not_after: UnixTime::from_seconds(revoked.not_after_s),
        };
        let Some(issued) = self.serials.get(&serial) else {
            if self.begins_later {
                // Its record may be among those that were given up.
                return Ok(read);
            }
            return Err(format!("it revokes serial {serial}, which was never issued"));
        };
        if issued.issuer != read.issuer {
            return Err(format!("it revokes serial {serial} of an issuer that did not issue it"));
        }
        match issued.not_after_s == revoked.not_after_s {
            true => Ok(read),
            false => Err(format!(
                "it revokes serial {serial} with an end that is not the certificate's"
            )),
        }
    }

    fn check_target(&self, target: RuleTarget) -> Result<RuleTarget, String> {
        let domain = self.domain()?;
        let foreign = |id: &SpiffeId| Err(format!("it revokes {id}, which is not of trust domain {domain}"));
        match &target {
            RuleTarget::Identity(id) if !id.is_member_of(domain) => foreign(id),
            RuleTarget::Prefix(prefix) if !prefix.stem().is_member_of(domain) => foreign(prefix.stem()),
            RuleTarget::Issuer(issuer) if !self.keys.knows(issuer) => {
                Err(format!("it revokes the issuing key {issuer}, which no record made"))
            }
            _ => Ok(target),
        }
    }
}
