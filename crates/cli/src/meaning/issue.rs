//! One certificate against everything that stood when it was recorded.

use std::time::Duration;

use mintage_identity::{AgentInstance, IssuerKeyId, Reserved, Selector, SpiffeId, Ttl, UnixTime};
use mintage_ledger::{Actor, Record, wire};
use mintage_mint::limits::{BACKDATE, ISSUER_MARGIN};
use mintage_svid::{LeafInfo, verify_issued};

use super::{Issued, Meaning, Source, keys::SigningKey};

/// Furthest a certificate may begin after its record: a revocation's cut may lie a minute ahead, and one second above it.
pub(super) const AHEAD_MAX: Duration = Duration::from_secs(61);

impl Meaning {
    /// An issue record: the certificate, its issuer, its dates, who asked, by which entry.
    pub(super) fn issue(
        &mut self,
        index: u64,
        record: &Record,
        issue: &wire::Issue,
        leaf: &LeafInfo,
    ) -> Result<(), String> {
        self.check_names(leaf, issue)?;
        if record.control_seen < self.control_head {
            let (seen, last) = (record.control_seen, self.control_head - 1);
            return Err(format!(
                "it was decided at {seen}, before record {last}, which restricts"
            ));
        }
        let issuer = self.check_issuer(leaf, issue)?;
        check_dates(leaf, record.time, issue.ttl_seconds)?;
        self.check_ttl(Ttl::from_seconds(i64::from(issue.ttl_seconds)).map_err(|error| error.to_string())?)?;
        match issue.profile() {
            wire::Profile::Workload => self.check_workload(record, issue, leaf)?,
            wire::Profile::Agent => self.agents_own(record, issue, leaf)?,
            wire::Profile::Replica => check_replica(record, issue, leaf.id())?,
            wire::Profile::Unspecified => return Err("it does not say what the certificate is for".into()),
        }
        self.strikes.check(leaf, &issuer)?;
        let issued = Issued {
            issuer,
            not_after_s: leaf.not_after().seconds(),
            by: Source::Record(index),
        };
        self.serials.insert(*leaf.serial(), issued);
        self.certificates += 1;
        Ok(())
    }

    fn check_names(&self, leaf: &LeafInfo, issue: &wire::Issue) -> Result<(), String> {
        if leaf.id().as_str() != issue.spiffe_id {
            return Err(format!(
                "its certificate is of {}, the record of {}",
                leaf.id(),
                issue.spiffe_id
            ));
        }
        let domain = self.domain()?;
        if !leaf.id().is_member_of(domain) {
            return Err(format!("{} is not of trust domain {domain}", leaf.id()));
        }
        let serial = leaf.serial();
        if let Some(first) = self.serials.get(serial) {
            return Err(match first.by {
                Source::Ca => format!("serial {serial} is that of a CA certificate"),
                Source::Record(index) => format!("serial {serial} was issued before, by record {index}"),
                Source::RevokedBy(index) => format!("serial {serial} was issued before: record {index} revokes it"),
            });
        }
        match serial.is_native() {
            true => Ok(()),
            false => Err(format!("serial {serial} is not of the form this CA makes")),
        }
    }

    fn check_issuer(&self, leaf: &LeafInfo, issue: &wire::Issue) -> Result<IssuerKeyId, String> {
        let id = IssuerKeyId::from_slice(&issue.issuer_key_id).map_err(|error| error.to_string())?;
        let issuer: &SigningKey = self.keys.issuer(&id)?;
        let info = &issuer.info;
        if leaf.issuer_raw() != info.subject_raw() || leaf.authority_key_id() != info.subject_key_id() {
            return Err("its certificate names another issuer than the record".into());
        }
        if leaf.not_after() > info.not_after().minus(ISSUER_MARGIN) {
            return Err("its certificate outlives its issuer".into());
        }
        if self.rules.signatures {
            verify_issued(&issue.certificate_der, info.spki_der())
                .map_err(|error| format!("its certificate is not signed by its issuer: {error}"))?;
        }
        Ok(id)
    }

    /// That the policy allows this lifetime of a certificate or token.
    pub(super) fn check_ttl(&self, ttl: Ttl) -> Result<(), String> {
        match self.rules.max_ttl {
            Some(max) if ttl > max => Err(format!("its lifetime {ttl} is over the policy's {max}")),
            _ => Ok(()),
        }
    }

    /// The agent that asked, in the life it has now.
    pub(super) fn asking_agent<'a>(&self, record: &'a Record) -> Result<&'a SpiffeId, String> {
        let (id, instance) = agent_of(record)?;
        let Some(Reserved::Agent(name)) = id.reserved() else {
            return Err(format!("it was asked for by {id}, which is no agent"));
        };
        self.standing.acting(&name, instance)?;
        match &record.attestation {
            Some(_) => Ok(id),
            None => Err(format!("nothing was proven of agent {name}")),
        }
    }

    fn check_workload(&self, record: &Record, issue: &wire::Issue, leaf: &LeafInfo) -> Result<(), String> {
        let agent = self.asking_agent(record)?;
        if leaf.id().reserved().is_some() {
            return Err(format!("{} is kept for agents and replicas", leaf.id()));
        }
        let standing = self.standing.entry(&issue.entry)?;
        let (entry, name) = (&standing.entry, &issue.entry);
        if standing.revision != issue.entry_revision {
            let (given, stands) = (issue.entry_revision, standing.revision);
            return Err(format!(
                "it was issued by revision {given} of entry {name}, where revision {stands} stood"
            ));
        }
        let wrong = |what: &str| Err(format!("its {what} is not what entry {name} says"));
        if entry.is_disabled() {
            return Err(format!("entry {name} was disabled"));
        }
        if !entry.is_for_agent(agent) {
            return Err(format!("entry {name} is not for {agent}"));
        }
        if entry.spiffe_id() != leaf.id() {
            return wrong("identity");
        }
        let selectors = entry.selectors().iter().map(Selector::as_str);
        if !selectors.eq(issue.selectors.iter().map(String::as_str)) {
            return wrong("list of selectors");
        }
        if entry.dns_names() != leaf.dns_names() {
            return wrong("list of DNS names");
        }
        if entry.common_name() != leaf.common_name() {
            return wrong("common name");
        }
        if issue.ttl_seconds > entry.ttl().seconds() {
            return Err(format!(
                "its lifetime of {} s is over the {} of entry {name}",
                issue.ttl_seconds,
                entry.ttl()
            ));
        }
        Ok(())
    }

    fn agents_own(&mut self, record: &Record, issue: &wire::Issue, leaf: &LeafInfo) -> Result<(), String> {
        let agent = self.asking_agent(record)?;
        if agent.as_str() != issue.spiffe_id || !issue.entry.is_empty() {
            return Err(format!(
                "{agent} obtained an agent's certificate for {}",
                issue.spiffe_id
            ));
        }
        if let (Some(Reserved::Agent(name)), Actor::Agent { serial, .. }) = (agent.reserved(), &record.actor) {
            self.standing.obtained(&name, *leaf.serial(), *serial);
        }
        Ok(())
    }
}

fn agent_of(record: &Record) -> Result<(&SpiffeId, AgentInstance), String> {
    match &record.actor {
        Actor::Agent { id, instance, .. } => Ok((id, *instance)),
        _ => Err("it was issued to nobody who was attested".into()),
    }
}

fn check_replica(record: &Record, issue: &wire::Issue, id: &SpiffeId) -> Result<(), String> {
    let by_itself = matches!(&record.actor, Actor::Replica { id: actor } if actor == id);
    match by_itself && issue.entry.is_empty() && matches!(id.reserved(), Some(Reserved::Ca(_))) {
        true => Ok(()),
        false => Err(format!("{id} is no replica that made a certificate for itself")),
    }
}

/// Backdated by 30 s at most, not begun in the future, and no longer than was granted.
fn check_dates(leaf: &LeafInfo, recorded: UnixTime, ttl_seconds: u32) -> Result<(), String> {
    let now = recorded.floor_to_second();
    if leaf.not_before() < now.minus(BACKDATE) {
        return Err("its certificate is backdated by more than 30 s".into());
    }
    if leaf.not_before() > now.plus(AHEAD_MAX) {
        return Err("its certificate begins in the future".into());
    }
    let usable_from = leaf.not_before().max(now);
    let lives = leaf.not_after().since(usable_from);
    match lives <= Duration::from_secs(u64::from(ttl_seconds)) {
        true => Ok(()),
        false => Err(format!(
            "its certificate lives for {} s, {ttl_seconds} s were granted",
            lives.as_secs()
        )),
    }
}
