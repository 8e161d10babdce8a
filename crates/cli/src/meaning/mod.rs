//! What the records of a ledger mean, checked by reading them in order and believing nothing else: was each certificate
//! allowed by what stood at its place, and does each revocation strike something that exists?
//!
//! This is written apart from the state that the CA itself derives from the ledger, so that one mistake does not excuse
//! the other. Of two records that exclude each other the first one counts, as everywhere.

mod begun;
mod beside;
mod federated;
mod issue;
mod issue_jwt;
mod keys;
mod read;
mod recorded;
mod revoked;
mod standing;
mod strike;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};

use mintage_identity::{IssuerKeyId, Serial, TrustDomain, Ttl};
use mintage_ledger::{Actor, Body, Origin, Record, RecordCheck, ShardBegin, Stored, Vkey};
use mintage_svid::LeafInfo;

pub(crate) use self::beside::{Handing, judged};
use self::{
    federated::Federated,
    keys::Keys,
    read::{Found, Read},
    recorded::Recorded,
    revoked::{Clock, Revoked},
    standing::Standing,
    strike::Strikes,
};

/// What is asked beyond the rules that always hold.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rules {
    /// Also verify the signature of every leaf certificate.
    pub(crate) signatures: bool,
    /// The longest lifetime the policy allows.
    pub(crate) max_ttl: Option<Ttl>,
}

/// A certificate that was issued.
#[derive(Clone, Copy, Debug)]
struct Issued {
    issuer: IssuerKeyId,
    not_after_s: i64,
    by: Source,
}

/// Whence a certificate is known.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// The record that issued it.
    Record(u64),
    /// It is one of the CA's own.
    Ca,
    /// The record that issued it was given up; this one revoked it.
    RevokedBy(u64),
}

/// Follows a ledger from its first record and stops at the first that offends.
#[derive(Debug, Default)]
pub(crate) struct Meaning {
    rules: Rules,
    origin: String,
    domain: Option<TrustDomain>,
    /// 1 + index of the last restricting record; 0 for none.
    control_head: u64,
    standing: Standing,
    federated: Federated,
    keys: Keys,
    recorded: Recorded,
    strikes: Strikes,
    revoked: Revoked,
    clock: Clock,
    serials: HashMap<Serial, Issued>,
    counts: BTreeMap<&'static str, u64>,
    certificates: u64,
    /// Public keys that were recorded as those of logs.
    log_keys: HashSet<Vec<u8>>,
    /// True when the records before the first that is here were given up: certificates of then are not known.
    begins_later: bool,
    offence: Option<(u64, String)>,
}

impl Meaning {
    /// A check that begins at the first record of a ledger.
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            ..Self::default()
        }
    }

    /// The first record that offends, and how.
    pub(crate) fn offence(&self) -> Option<(u64, &str)> {
        self.offence.as_ref().map(|(index, problem)| (*index, problem.as_str()))
    }

    /// The log that was read last.
    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    /// Certificates that were issued.
    pub(crate) fn certificates(&self) -> u64 {
        self.certificates
    }

    /// Records of each kind.
    pub(crate) fn into_counts(self) -> BTreeMap<&'static str, u64> {
        self.counts
    }

    /// Judges a record that was read.
    fn take(&mut self, key: &Vkey, read: Read) -> Result<(), String> {
        let index = read.index;
        let judged = read.found.and_then(|found| self.look(key, index, found));
        judged.inspect_err(|problem| self.offence = Some((index, problem.clone())))
    }

    fn look(&mut self, key: &Vkey, index: u64, Found { record, leaf }: Found) -> Result<(), String> {
        if key.name() != self.origin {
            self.first_record(key, index, &record)?;
        } else if let Body::LogOpen(_) = record.body {
            return Err("a log.open stands inside of a log".into());
        }
        *self.counts.entry(record.kind().name()).or_default() += 1;
        self.check(index, &record, leaf)?;
        self.clock.pass(record.time);
        if record.is_restricting() {
            self.control_head = index + 1;
        }
        Ok(())
    }

    /// The first record of a shard says which log it begins, under which key.
    fn first_record(&mut self, key: &Vkey, index: u64, record: &Record) -> Result<(), String> {
        let Body::LogOpen(open) = &record.body else {
            return Err(format!("the log begins with {}, not with log.open", record.kind()));
        };
        if index != open.first_position || open.origin != key.name() || open.vkey != key.to_string() {
            return Err("log.open names another log or another key than the one it is signed by".into());
        }
        let origin = Origin::parse(&open.origin).map_err(|error| error.to_string())?;
        let domain = TrustDomain::parse(origin.trust_domain_str()).map_err(|error| error.to_string())?;
        match &self.domain {
            None if !open.previous_checkpoint.is_empty() => {
                return Err("the shards before this one are not here; what stood at their end cannot be known".into());
            }
            Some(_) if !self.log_keys.contains(key.public_key().as_slice()) => {
                return Err("the log's key was not recorded before the log began".into());
            }
            Some(known) if *known != domain => {
                return Err(format!(
                    "the log is of trust domain {domain}, the one before of {known}"
                ));
            }
            _ => {}
        }
        key.name().clone_into(&mut self.origin);
        self.domain = Some(domain);
        Ok(())
    }

    fn domain(&self) -> Result<&TrustDomain, String> {
        self.domain.as_ref().ok_or_else(|| "no log.open came before".to_owned())
    }

    fn check(&mut self, index: u64, record: &Record, leaf: Option<Result<LeafInfo, String>>) -> Result<(), String> {
        match &record.body {
            Body::Issue(issue) => self.issue(index, record, issue, &leaf.ok_or("its certificate was not read")??),
            Body::IssueJwt(issue) => self.issue_jwt(record, issue),
            Body::Revoke(revoke) => {
                by_an_authority(record)?;
                self.revoke(index, record.time, revoke)
            }
            Body::RevocationSnapshot(snapshot) => self.published(index, record, snapshot),
            Body::CaEvent(event) => {
                by_an_authority(record)?;
                self.ca_event(index, event)
            }
            Body::BundleChange(change) => {
                by_an_authority(record)?;
                self.keys.bundle(change)?;
                self.recorded.bundle(index, record.time, change);
                Ok(())
            }
            Body::BundleFederatedSet(set) => {
                by_an_authority(record)?;
                let domain = self.domain()?.clone();
                self.federated.set(index, set, &domain)
            }
            Body::BundleFederatedRemove(gone) => {
                by_an_authority(record)?;
                self.federated.remove(gone);
                Ok(())
            }
            Body::EntryPut(put) => {
                by_an_authority(record)?;
                let domain = self.domain()?.clone();
                if let Some(id) = self.standing.put_entry(index, put, &domain)? {
                    self.revoked.lift(id, record.time);
                }
                Ok(())
            }
            Body::EntryDelete(delete) => {
                by_an_authority(record)?;
                self.standing.delete_entry(index, delete);
                Ok(())
            }
            Body::TokenCreate(token) => {
                by_an_authority(record)?;
                self.standing.create_token(token)
            }
            Body::TokenDelete(token) => {
                by_an_authority(record)?;
                self.standing.delete_token(token);
                Ok(())
            }
            Body::TokenConsume(token) => {
                let domain = self.domain()?.clone();
                self.standing.consume_token(index, token, &domain)
            }
            Body::AgentAttest(attest) => {
                let domain = self.domain()?.clone();
                self.standing.attest_agent(index, attest, &domain)
            }
            Body::AgentBan(end) => {
                by_an_authority(record)?;
                self.standing.ban_agent(index, &end.name, end.instance)
            }
            Body::AgentEvict(end) => {
                by_an_authority(record)?;
                self.standing.evict_agent(index, &end.name, end.instance)
            }
            _ => Ok(()),
        }
    }
}

/// What changes rights or revokes, and what becomes of keys, is done by an administrator or by the CA itself, never by an agent or
/// the holder of a token.
fn by_an_authority(record: &Record) -> Result<(), String> {
    match &record.actor {
        Actor::Admin { .. } | Actor::Replica { .. } => Ok(()),
        Actor::Agent { id, .. } => Err(format!("{} by the agent {id}, who may not", record.kind())),
        _ => Err(format!("{} by nobody who may", record.kind())),
    }
}

impl RecordCheck for Meaning {
    fn begin(&mut self, begin: &ShardBegin<'_>) -> Result<(), String> {
        self.begun(begin).inspect_err(|problem| {
            self.offence = Some((begin.log.first(), problem.clone()));
        })
    }

    fn record(&mut self, key: &Vkey, stored: &Stored) -> Result<(), String> {
        self.take(key, Read::of(stored))
    }
}
