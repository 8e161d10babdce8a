//! Revocations: each strikes what exists, and nothing is issued that a standing rule would strike at once.

use std::collections::HashMap;

use mintage_identity::{IdPrefix, IssuerKeyId, RevocationReason, Serial, SpiffeId, SpkiHash, UnixTime};
use mintage_ledger::{
    Actor, Record,
    wire::{RevocationRule, RevocationSnapshot, Revoke, RevokedSerial, revocation_rule::Target},
};
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

/// A rule that was read.
enum Rule {
    Identity(SpiffeId),
    Prefix(IdPrefix),
    Key(SpkiHash),
    Issuer(IssuerKeyId),
}

fn read(rule: &RevocationRule) -> Result<Rule, String> {
    let text = |error: mintage_identity::NameError| error.to_string();
    match &rule.target {
        Some(Target::Identity(id)) => SpiffeId::parse(id).map(Rule::Identity).map_err(text),
        Some(Target::Prefix(prefix)) => IdPrefix::parse(prefix).map(Rule::Prefix).map_err(text),
        Some(Target::SpkiSha256(key)) => SpkiHash::from_slice(key).map(Rule::Key).map_err(text),
        Some(Target::IssuerKeyId(issuer)) => IssuerKeyId::from_slice(issuer).map(Rule::Issuer).map_err(text),
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

    /// Takes up what a snapshot holds of an identity: a cut, or nothing, as [`Strikes::add`] tells.
    pub(super) fn take_up_identity(&mut self, id: &SpiffeId, (cut, index): (Option<UnixTime>, u64)) {
        self.add(index, Rule::Identity(id.clone()), cut);
    }

    /// The same of a prefix.
    pub(super) fn take_up_prefix(&mut self, prefix: &IdPrefix, (cut, index): (Option<UnixTime>, u64)) {
        self.add(index, Rule::Prefix(prefix.clone()), cut);
    }

    /// The same of a public key.
    pub(super) fn take_up_key(&mut self, key: SpkiHash, index: u64) {
        self.add(index, Rule::Key(key), None);
    }

    /// The same of an issuing key.
    pub(super) fn take_up_issuer(&mut self, issuer: IssuerKeyId, index: u64) {
        self.add(index, Rule::Issuer(issuer), None);
    }

    fn add(&mut self, index: u64, rule: Rule, cut: Option<UnixTime>) {
        match (rule, cut) {
            (Rule::Identity(id), Some(cut)) => {
                let standing = self.identities.entry(id).or_insert((cut, index));
                *standing = (*standing).max((cut, index));
            }
            (Rule::Prefix(prefix), Some(cut)) => self.prefixes.push((prefix, (cut, index))),
            // An identity or prefix without a cut is lifted by enabling its entry again; it blocks deciding, which the
            // control index shows, and says nothing about later certificates.
            (Rule::Identity(_) | Rule::Prefix(_), None) => {}
            (Rule::Key(key), None) => drop(self.keys.entry(key).or_insert(index)),
            (Rule::Issuer(issuer), None) => drop(self.issuers.entry(issuer).or_insert(index)),
            (Rule::Key(_) | Rule::Issuer(_), Some(_)) => {}
        }
    }
}

impl Meaning {
    /// A revoke record: every serial was issued, every rule can be read and is about this trust domain or its keys.
    pub(super) fn revoke(&mut self, index: u64, revoke: &Revoke) -> Result<(), String> {
        let code = u8::try_from(revoke.reason).ok();
        if code.and_then(RevocationReason::from_code).is_none() {
            return Err(format!("{} is no reason of RFC 5280", revoke.reason));
        }
        if revoke.serials.is_empty() && revoke.rules.is_empty() {
            return Err("it revokes nothing".into());
        }
        revoke
            .serials
            .iter()
            .try_for_each(|revoked| self.check_serial(revoked))?;
        for rule in &revoke.rules {
            let cut = rule.cut_s.map(UnixTime::from_seconds);
            let rule = self.check_rule(read(rule)?)?;
            self.strikes.add(index, rule, cut);
        }
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

    fn check_serial(&self, revoked: &RevokedSerial) -> Result<(), String> {
        let serial = Serial::from_be_octets(&revoked.serial).map_err(|error| error.to_string())?;
        let Some(issued) = self.serials.get(&serial) else {
            if self.begins_later {
                // Its record may be among those that were given up.
                return Ok(());
            }
            return Err(format!("it revokes serial {serial}, which was never issued"));
        };
        if issued.issuer.as_bytes() != revoked.issuer_key_id.as_slice() {
            return Err(format!("it revokes serial {serial} of an issuer that did not issue it"));
        }
        match issued.not_after_s == revoked.not_after_s {
            true => Ok(()),
            false => Err(format!(
                "it revokes serial {serial} with an end that is not the certificate's"
            )),
        }
    }

    fn check_rule(&self, rule: Rule) -> Result<Rule, String> {
        let domain = self.domain()?;
        let foreign = |id: &SpiffeId| Err(format!("it revokes {id}, which is not of trust domain {domain}"));
        match &rule {
            Rule::Identity(id) if !id.is_member_of(domain) => foreign(id),
            Rule::Prefix(prefix) if !prefix.stem().is_member_of(domain) => foreign(prefix.stem()),
            Rule::Issuer(issuer) if !self.keys.knows(issuer) => {
                Err(format!("it revokes the issuing key {issuer}, which no record made"))
            }
            _ => Ok(rule),
        }
    }
}
